"""Which pages of an LMDB 0.9 data file a snapshot can reach: read from the bytes, without LMDB.

A file is a list of its pages. One that was never whole raises `Broken`, and never loops.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from struct import Struct, error, unpack_from

PAGE = 4096
_ROOTS = (80, 128)
"""Where a meta page has the roots of the list of free pages and of the main database."""
_LAST_PAGE, _TXNID = 136, 144
_NONE = (1 << 64) - 1
_BRANCH, _LEAF, _FIXED = 0x01, 0x02, 0x20
_BIG, _DATABASE = 0x01, 0x02
_HEADER = Struct("=QHHHH")
_NODE = Struct("=HHHH")
_ROOT_IN_RECORD = 40


class Broken(Exception):
    """A page is not what the page that leads to it says."""


def split(data: bytes) -> list[bytes]:
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def txnid(meta: bytes) -> int:
    number: int = unpack_from("=Q", meta, _TXNID)[0]
    return number


def newest_meta(file: Sequence[bytes]) -> bytes:
    return max(file[:2], key=txnid)


def reachable(file: Sequence[bytes], meta: bytes) -> list[int]:
    """Return the numbers of all pages that the snapshot of this meta page can reach, the meta pages not."""
    return _below(file, *(unpack_from("=Q", meta, at)[0] for at in _ROOTS))


def listed_free(file: Sequence[bytes], meta: bytes) -> list[int]:
    """Return the numbers of the pages in the snapshot's list of free ones."""
    numbers: list[int] = []
    for page in [file[number] for number in _below(file, *unpack_from("=Q", meta, _ROOTS[0]))]:
        if _HEADER.unpack_from(page)[2] & _LEAF:
            for at, _, flags in _nodes(page):
                value = b"".join(file[unpack_from("=Q", page, at)[0] :])[16:] if flags & _BIG else page[at:]
                numbers += unpack_from(f"={unpack_from('=Q', value)[0]}Q", value, 8)
    return numbers


def last_page(meta: bytes) -> int:
    number: int = unpack_from("=Q", meta, _LAST_PAGE)[0]
    return number


def _below(file: Sequence[bytes], *roots: int) -> list[int]:
    found: list[int] = []
    todo = list(roots)
    try:
        while todo:
            if (number := todo.pop()) == _NONE:
                continue
            found.append(number)
            trees, values = _links(file[number])
            todo += trees
            for first in values:
                found += range(first, min(first + unpack_from("=I", file[first], 12)[0], len(file) + 1))
            if len(found) > len(file):
                raise Broken("some page leads back to itself")
        file[max(found, default=0)]
    except (IndexError, error) as problem:
        raise Broken(str(problem)) from problem
    return found


@cache
def _links(page: bytes) -> tuple[list[int], list[int]]:
    """Return which pages a page of a tree leads to, and where values begin that have pages of their own."""
    trees: list[int] = []
    values: list[int] = []
    flags = _HEADER.unpack_from(page)[2]
    if flags & (_BRANCH | _LEAF) and not flags & _FIXED:
        for at, child, kind in _nodes(page):
            if flags & _BRANCH:
                trees.append(child)
            elif kind & _BIG:
                values += unpack_from("=Q", page, at)
            elif kind & _DATABASE:
                trees += unpack_from("=Q", page, at + _ROOT_IN_RECORD)
    return trees, values


def _nodes(page: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield for each node of a page: where its data is, its child if it is a branch, its flags if not."""
    lower = _HEADER.unpack_from(page)[3]
    for place in unpack_from(f"={(lower - 16) // 2}H", page, 16):
        low, high, flags, key = _NODE.unpack_from(page, place)
        yield place + 8 + key, low | high << 16 | flags << 32, flags
