"""Which pages of an LMDB 0.9 data file a snapshot can reach: read from the bytes, without LMDB."""

from collections.abc import Iterator
from struct import Struct, unpack_from

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


def txnid(meta: bytes | bytearray) -> int:
    number: int = unpack_from("=Q", meta, _TXNID)[0]
    return number


def newest_meta(data: bytes | bytearray) -> bytes:
    return bytes(max(data[:PAGE], data[PAGE : 2 * PAGE], key=txnid))


def reachable(data: bytes | bytearray, meta: bytes) -> set[int]:
    """Return the numbers of all pages that the snapshot of this meta page can reach, the meta pages not."""
    found: set[int] = set()
    for root in _ROOTS:
        found.update(_below(data, unpack_from("=Q", meta, root)[0]))
    return found


def listed_free(data: bytes | bytearray, meta: bytes) -> list[int]:
    """Return the numbers of the pages in the snapshot's list of free ones."""
    pages: list[int] = []
    for page in _below(data, unpack_from("=Q", meta, _ROOTS[0])[0]):
        if _HEADER.unpack_from(data, page * PAGE)[2] & _LEAF:
            for at, _, size, flags in _nodes(data, page):
                start = unpack_from("=Q", data, at)[0] * PAGE + 16 if flags & _BIG else at
                pages += unpack_from(f"={size // 8}Q", data, start)[1 : 1 + unpack_from("=Q", data, start)[0]]
    return pages


def last_page(meta: bytes) -> int:
    number: int = unpack_from("=Q", meta, _LAST_PAGE)[0]
    return number


def _below(data: bytes | bytearray, root: int) -> Iterator[int]:
    if root == _NONE:
        return
    yield root
    flags = _HEADER.unpack_from(data, root * PAGE)[2]
    if flags & _FIXED or not flags & (_BRANCH | _LEAF):
        return
    for at, child, _, kind in _nodes(data, root):
        if flags & _BRANCH:
            yield from _below(data, child)
        elif kind & _BIG:
            (first,) = unpack_from("=Q", data, at)
            yield from range(first, first + unpack_from("=I", data, first * PAGE + 12)[0])
        elif kind & _DATABASE:
            yield from _below(data, unpack_from("=Q", data, at + _ROOT_IN_RECORD)[0])


def _nodes(data: bytes | bytearray, page: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield for each node of a page: where its data is, its child if it is a branch, its size and flags if not."""
    start = page * PAGE
    lower = _HEADER.unpack_from(data, start)[3]
    for place in unpack_from(f"={(lower - 16) // 2}H", data, start + 16):
        low, high, flags, key = _NODE.unpack_from(data, start + place)
        yield start + place + 8 + key, low | high << 16 | flags << 32, low | high << 16, flags
