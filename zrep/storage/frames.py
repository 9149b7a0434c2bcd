"""How a record stands in a log file, and how to tell a write cut short from damage.

    frame = head  record.raw  foot
    head  = magic flags length floor crc      the CRC is seeded with the offset: a frame is valid in one place only
    foot  = a constant; its last byte is not zero, so that the end of a write can be seen

`floor` is the LSN that was known durable when the frame was written. What does not read as a frame is
either *torn*, a write that never finished and that nobody was told of, or *damage*, something that was
durable once. The two can be told apart:

1. Writes go to zeros only. What a crash takes from a write reads as zeros: all of it from some byte on,
   or single sectors that the disk had not come to yet.
2. So a torn frame lacks its end, or a sector of it is blank. A frame that has its end and no blank
   sector, and yet is wrong, has changed since it was written.
3. A later frame whose floor covers the bad place proves that it was durable, whatever it looks like.

Pure functions over bytes; `segment` reads and writes the file, `log` decides what follows from damage.
"""

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from zrep.ids import Lsn
from zrep.records import Record

_MAGIC = b"\xf5zf"
_HEAD = Struct("<3sBIQ")
_CRC = Struct("<I")
_FOOT = b"\0end"

HEAD_SIZE = _HEAD.size + _CRC.size
FOOT_SIZE = len(_FOOT)
OVERHEAD = HEAD_SIZE + FOOT_SIZE

_SECTOR = 512
_BLANK = bytes(_SECTOR)
_HAS_BLANKS = 1
"""Flag: the record itself holds a run of zeros that could pass for a blank sector."""


class Head(NamedTuple):
    """What a frame says about itself."""

    flags: int
    length: int
    floor: Lsn


def encode(records: Sequence[Record], offset: int, floor: Lsn) -> bytes:
    """Return the frames of `records` for a file position."""
    parts: list[bytes] = []
    for record in records:
        raw = record.raw
        flags = _HAS_BLANKS if len(raw) >= _SECTOR and _BLANK in raw else 0
        head = _HEAD.pack(_MAGIC, flags, len(raw), floor)
        parts += (head, _CRC.pack(zlib.crc32(head, offset)), raw, _FOOT)
        offset += len(raw) + OVERHEAD
    return b"".join(parts)


def parse_head(data: bytes, offset: int) -> Head | None:
    """Return the head that `data`, read at `offset` of the file, begins with; None when it is none."""
    if not data.startswith(_MAGIC) or len(data) < HEAD_SIZE:
        return None
    if zlib.crc32(data[: _HEAD.size], offset) != _CRC.unpack_from(data, _HEAD.size)[0]:
        return None
    _, flags, length, floor = _HEAD.unpack_from(data)
    return Head(flags, length, floor)


def is_torn(rest: bytes, offset: int) -> bool:
    """Tell whether `rest`, what stands at `offset` where a frame was expected, never finished (1, 2).

    `rest` comes without the zeros at the end of the file.
    """
    head = parse_head(rest[:HEAD_SIZE], offset)
    size = OVERHEAD + (head.length if head is not None else 0)
    if len(rest) < size or rest.startswith(bytes(HEAD_SIZE)):
        return True
    if head is not None and head.flags & _HAS_BLANKS:
        return False
    start = 0
    while start < size:
        stop = start + _SECTOR - (offset + start) % _SECTOR
        sector = rest[start:stop]
        if sector == _BLANK[: len(sector)]:
            return True
        start = stop
    return False


def floor_within(rest: bytes, offset: int) -> Lsn:
    """Return the highest floor that a frame in `rest` carries (3); 0 when none does."""
    floor = 0
    at = rest.find(_MAGIC)
    while at >= 0:
        head = parse_head(rest[at : at + HEAD_SIZE], offset + at)
        if head is not None:
            floor = max(floor, head.floor)
        at = rest.find(_MAGIC, at + 1)
    return floor
