"""Bytes <-> messages, records, what records carry, and the foreign protocol. Alone in knowing msgpack.

What comes from a socket or a disk is hostile until it has passed here. `decode`, `decode_request` and
`decode_reply` never raise for what a peer sent; the others raise ProtocolError. A decoder uses at most
a small multiple of the bytes it is given, and a control frame is at most 64 KiB.

    message   [control] or [control, rec]      control = one array, see `messages`
    LOG       rec = (length ‖ record)*         FORWARD and its reply: rec = opaque bytes
    foreign   ["ZREP1", request or reply]      request = [id, verb, args], reply = [id, code, text, result]
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgpack

from zrep.commit import Batch
from zrep.errors import ProtocolError
from zrep.ids import Lsn, SiteId
from zrep.messages import FIELDS, Message, Type
from zrep.ports import Applied, Meta
from zrep.records import CONTENT, HEADER, Config, Kind, Op, Record, Txn, content_crc
from zrep.schema import INT_LIMIT, ITEMS_LIMIT, Wrong, group_id, integer, integers, optional, plain, session_id, site_id
from zrep.schema import struct as schema

MAGIC = "ZREP"
VERSION = 1
FOREIGN = b"ZREP1"
FORMAT = 1
"""First item of everything that is encoded for the disk."""

CONTROL_LIMIT = 64 * 1024
MESSAGE_LIMIT = 64 * 1024 * 1024
SCAN_BYTES = 1024 * 1024
"""A scan's reply holds about this much; the asker pages on."""

Frame: TypeAlias = bytes | memoryview
_T = TypeVar("_T")


class Malformed(NamedTuple):
    """Why some frames are not a message. `version` is set when only that is the matter."""

    reason: str
    version: int | None = None


class Request(NamedTuple):
    """What a foreign program asks: a verb of VERBS and its arguments."""

    id: int
    verb: str
    args: tuple[Any, ...] = ()


class Reply(NamedTuple):
    """The answer to the request of that id. `code` is a `messages.Status`; `text` says why it is not OK."""

    id: int
    code: int
    text: str = ""
    result: Any = None


def encode(message: Message) -> list[bytes]:
    """Return a message's frames. Raises ProtocolError for one that no receiver would take."""
    head = message[:8]
    control = _pack((MAGIC, VERSION, *head, *message.fields))
    if message.records:
        rec = b"".join([part for record in message.records for part in (_LENGTH.pack(len(record.raw)), record.raw)])
    else:
        rec = message.data
    if len(control) > CONTROL_LIMIT or len(rec) > MESSAGE_LIMIT:
        raise ProtocolError(f"{message.type.name} of {len(control)} + {len(rec)} bytes is too large to send: split it")
    return [control, rec] if rec else [control]


def decode(frames: Sequence[Frame]) -> Message | Malformed:
    """Return the message that the frames are, checked to the last field, or why they are none."""
    if not 1 <= len(frames) <= 2 or len(frames[0]) > CONTROL_LIMIT:
        return Malformed("not one small control frame and at most one rec frame")
    try:
        control = _unpack_control(frames[0])
        if type(control) is not tuple or len(control) < _HEAD or control[0] != MAGIC:
            return Malformed("not a zrep message")
        _, version, code, group, sender, incarnation, to, gen, lsn, flags, *values = control
        if version != VERSION or type(version) is not int:
            return Malformed(f"protocol version {version!r:.20}", integer(version))
        kind = _TYPES.get(code) if type(code) is int else None
        if kind is None:
            return Malformed(f"unknown message type {code!r:.20}")
        integers((incarnation, gen, lsn, flags))
        fields = _FIELDS[kind].build(values)
        records: tuple[Record, ...] = ()
        data = b""
        if len(frames) == 2:
            if kind is Type.LOG:
                records = _records(frames[1], lsn)
            elif kind in _WITH_DATA:
                data = bytes(frames[1])
            else:
                return Malformed(f"{kind.name} with a rec frame")
        return Message(
            kind,
            group_id(group),
            site_id(sender),
            incarnation,
            None if to is None else site_id(to),
            gen,
            lsn,
            flags,
            fields,
            records,
            data,
        )
    except _UNDECODABLE as error:
        return Malformed(f"{type(error).__name__}: {error}"[:200])


def _records(rec: Frame, prev: Lsn) -> tuple[Record, ...]:
    """Cut a LOG's rec frame into records: whole, undamaged, and contiguous after `prev`."""
    size = len(rec)
    if size > MESSAGE_LIMIT:
        raise Wrong("rec frame too large")
    records = []
    at = 0
    while at < size:
        if size - at < _LENGTH.size:
            raise Wrong("a record is cut short")
        (length,) = _LENGTH.unpack_from(rec, at)
        at += _LENGTH.size + length
        if at > size:
            raise Wrong("a record is cut short")
        prev += 1
        record = decode_record(bytes(rec[at - length : at]))
        if record.lsn != prev:
            raise Wrong("records are not contiguous")
        records.append(record)
    return tuple(records)


def decode_record(raw: bytes) -> Record:
    """Return the record that these bytes are. Raises ProtocolError for damaged or foreign ones."""
    if len(raw) < HEADER.size:
        raise ProtocolError(f"a record of {len(raw)} bytes is shorter than its header")
    lsn, gen, prev_gen, time_ms, code, chain, crc = HEADER.unpack_from(raw)
    kind = _KINDS.get(code)
    if kind is None:
        raise ProtocolError(f"record {lsn} is of unknown kind {code}: a newer zrep wrote it")
    if not 0 < lsn < INT_LIMIT or gen >= INT_LIMIT or prev_gen > gen or time_ms >= INT_LIMIT:
        raise ProtocolError(f"record header out of range: lsn {lsn}, gen {gen} after {prev_gen}")
    if content_crc(raw[: CONTENT.size], raw[HEADER.size :]) != crc:
        raise ProtocolError(f"record {lsn} of gen {gen} is damaged: its checksum does not match")
    return Record(lsn, gen, prev_gen, time_ms, kind, chain, raw)


def encode_txns(txns: Sequence[Txn]) -> bytes:
    """Return a COMMIT record's payload."""
    return _pack((FORMAT, txns))


def decode_txns(payload: bytes) -> list[Txn]:
    """Return the transactions of a COMMIT record."""
    values = _unpack(payload, "COMMIT record")
    try:
        txns = [Txn(ops, session, seq) for ops, session, seq in values]
        for ops, session, seq in txns:
            if type(session) is not str or type(seq) is not int or type(ops) is not tuple:
                raise Wrong("not a transaction")
            for code, db, *operands in ops:
                if type(code) is not int or not _OPERANDS[code](operands) or type(db) not in _DB_TYPES[code]:
                    raise Wrong("operation with another's operands")
    except (ValueError, TypeError, LookupError) as error:
        raise ProtocolError(f"the transactions of a COMMIT record cannot be read: {error}") from None
    return txns


def encode_config(config: Config) -> bytes:
    """Return a CONFIG record's payload."""
    return _pack((FORMAT, config))


def decode_config(payload: bytes) -> Config:
    return _checked(payload, "CONFIG record", _CONFIG)


def encode_reign(site: SiteId) -> bytes:
    """Return a REIGN record's payload: whose reign it is; the record says the rest."""
    return _pack((FORMAT, site))


def decode_reign(payload: bytes) -> SiteId:
    return _checked(payload, "REIGN record", site_id)


def encode_meta(meta: Meta) -> bytes:
    return _pack((FORMAT, meta))


def decode_meta(payload: bytes) -> Meta:
    """Return a home's meta. A newer version is refused by a sentence that names both."""
    return _checked(payload, "site.meta", _META)


def encode_applied(applied: Applied) -> bytes:
    return _pack((FORMAT, (applied.tip, applied.history.reigns, applied.config)))


def decode_applied(payload: bytes) -> Applied:
    return _checked(payload, "store's bookkeeping", _APPLIED)


def encode_batch(batch: Batch) -> bytes:
    """Return a batch as a stream of msgpack values, FORMAT first.

    A stream, because an array's header may claim any length, which msgpack reserves before it reads on:
    nested, a few bytes from a stranger would take gigabytes.
    """
    packer = msgpack.Packer(autoreset=False)
    packer.pack(FORMAT)
    for op in batch:
        packer.pack(op)
    return bytes(packer.bytes())


def decode_batch(payload: bytes) -> Batch:
    """Return the batch. Its bytes come from any client: raises ProtocolError for all that is not one."""
    batch = Batch()
    try:
        unpacker = msgpack.Unpacker(
            use_list=False, max_buffer_size=MESSAGE_LIMIT, max_array_len=4, max_map_len=0, max_ext_len=0
        )
        unpacker.feed(payload)
        if unpacker.unpack() != FORMAT:
            raise Wrong("not of format 1")
        for op in unpacker:
            if op[0] not in _BATCH_SHAPES[tuple(map(type, op))]:
                raise Wrong("operation with another's operands")
            batch.add(*op)
        if unpacker.tell() != len(payload):
            raise Wrong("cut short")
    except (*_UNDECODABLE, LookupError) as error:
        raise ProtocolError(f"the batch cannot be read: {type(error).__name__} {error}"[:200]) from None
    return batch


def encode_request(request: Request) -> list[bytes]:
    return [FOREIGN, _pack(request)]


def decode_request(frames: Sequence[Frame]) -> Request | Malformed:
    """Return the request that the frames are, its arguments checked against VERBS."""
    try:
        number, verb, args = _unpack_foreign(frames, max_array_len=8, max_map_len=0)
        checks = VERBS.get(plain(str, verb))
        if checks is None:
            return Malformed(f"unknown verb {verb:.20}: the verbs are {', '.join(VERBS)}")
        if type(args) is not tuple or len(args) != len(checks):
            return Malformed(f"{verb} takes {len(checks)} arguments")
        values = tuple([check(value) for check, value in zip(checks, args, strict=True)])
        return Request(integer(number), verb, values)
    except _UNDECODABLE as error:
        return Malformed(f"{type(error).__name__}: {error}"[:200])


def encode_reply(reply: Reply) -> list[bytes]:
    return [FOREIGN, _pack(reply)]


def decode_reply(frames: Sequence[Frame]) -> Reply | Malformed:
    """Return the reply that the frames are; `result` is plain values, unchecked."""
    try:
        number, code, text, result = _unpack_foreign(frames)
        return Reply(integer(number), integer(code), plain(str, text), result)
    except _UNDECODABLE as error:
        return Malformed(f"{type(error).__name__}: {error}"[:200])


def _unpack_foreign(frames: Sequence[Frame], **limits: int) -> Any:
    if len(frames) != 2 or frames[0] != FOREIGN or len(frames[1]) > MESSAGE_LIMIT:
        raise Wrong("not [ZREP1, one msgpack array]")
    return msgpack.unpackb(frames[1], use_list=False, max_ext_len=0, **limits)


def _checked(payload: bytes, what: str, check: Callable[[Any], _T]) -> _T:
    try:
        return check(_unpack(payload, what))
    except Wrong as error:
        raise ProtocolError(f"the {what} cannot be read: {error}") from None


def _unpack(payload: bytes, what: str) -> Any:
    """Undo `_pack((FORMAT, value))`. Raises ProtocolError, for a newer format too."""
    try:
        values = msgpack.unpackb(payload, use_list=False, max_map_len=0, max_ext_len=0)
    except _UNDECODABLE as error:
        raise ProtocolError(f"the {what} cannot be read: {type(error).__name__} {error}"[:200]) from None
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise ProtocolError(f"the {what} cannot be read: it is not zrep's")
    if values[0] != FORMAT:
        raise ProtocolError(
            f"the {what} is of format {values[0]}, this zrep reads {FORMAT}: use the zrep that wrote it"
        )
    if len(values) != 2:
        raise ProtocolError(f"the {what} cannot be read: it has {len(values)} items")
    return values[1]


def _pack(value: Any) -> bytes:
    global _packer
    packed: bytes = _packer.pack(value)
    if len(packed) > CONTROL_LIMIT:
        _packer = msgpack.Packer()  # it keeps room for the largest that it ever packed
    return packed


_packer = msgpack.Packer()
"""Made once: a new one reserves a quarter of a megabyte. Safe on any thread: packing never lets go of Python's lock."""
_unpack_control = partial(
    msgpack.unpackb,
    use_list=False,
    max_array_len=ITEMS_LIMIT,
    max_map_len=0,
    max_ext_len=0,
    max_str_len=CONTROL_LIMIT,
    max_bin_len=CONTROL_LIMIT,
)
_UNDECODABLE = (ValueError, TypeError, RecursionError, msgpack.UnpackException, ProtocolError)
"""All that msgpack and the checks raise for bad bytes; ValueError is also UnicodeDecodeError and Wrong."""

_HEAD = 10
_LENGTH = struct.Struct("<I")
_TYPES = {int(kind): kind for kind in Type}
_KINDS = {int(kind): kind for kind in Kind}
_FIELDS = {kind: schema(fields) for kind, fields in FIELDS.items()}
_WITH_DATA = frozenset({Type.FORWARD, Type.FORWARD_REPLY})
_CONFIG: Callable[[Any], Config] = schema(Config).exact
_META: Callable[[Any], Meta] = schema(Meta).exact
_APPLIED: Callable[[Any], Applied] = schema(Applied).exact

_NOTHING = type(None)


def _keys(operands: list[Any]) -> bool:
    return set(map(type, operands)) == {bytes}


def _pairs(operands: list[Any]) -> bool:
    return _keys(operands) and not len(operands) % 2


_OPERANDS: dict[int, Callable[[list[Any]], bool]] = {
    Op.PUT: _pairs,
    Op.DELETE: _keys,
    Op.DELETE_DUP: _pairs,
    Op.CLEAR: lambda operands: not operands,
    Op.CREATE_DB: lambda operands: [*map(type, operands)] == [int],
    Op.DELETE_DB: lambda operands: not operands,
}
_DB_TYPES = {int(op): (bytes,) if op is Op.CREATE_DB else (bytes, _NOTHING) for op in Op}
"""The database may be None, the main one."""
_BATCH_SHAPES: dict[tuple[type, ...], frozenset[int]] = {
    (int, db, bytes, value): ops
    for db in (bytes, _NOTHING)
    for value, ops in (
        (bytes, frozenset({Batch.PUT, Batch.DELETE_RANGE, Batch.EXPECT, Batch.CREATE})),
        (_NOTHING, frozenset({Batch.DELETE, Batch.DELETE_RANGE, Batch.EXPECT})),
    )
}

_BYTES = partial(plain, bytes)
_DB = partial(optional, _BYTES)


def _place(value: Any) -> bytes | tuple[bytes, bytes] | None:
    """Where a scan goes on: after a key, or after a pair."""
    if type(value) is tuple and [*map(type, value)] == [bytes, bytes]:
        return value
    return None if value is None else plain(bytes, value)


VERBS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "get": (_DB, _BYTES),
    "put": (_DB, _BYTES, _BYTES),
    "delete": (_DB, _BYTES),
    "write": (session_id, integer, integer, _BYTES),
    "scan": (_DB, _BYTES, _place, integer),
    "status": (),
}
"""Arguments by verb: get(db, key), put(db, key, value), delete(db, key), write(session, seq, deadline_ms,
batch), scan(db, prefix, after, limit), status(). `db` None is the main database; `after` None the start, else
the last pair that is known, or the last key, with all its values."""
