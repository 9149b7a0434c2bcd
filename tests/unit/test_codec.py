"""What is encoded comes back, of every type; what is wrong is refused with a reason."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import values
from zrep import codec
from zrep.codec import Malformed, Reply, Request
from zrep.commit import Batch
from zrep.errors import ProtocolError
from zrep.ids import GroupId, SiteId
from zrep.messages import Ack, Forward, Log, MasterReq, Message, Type
from zrep.ports import Applied, Meta
from zrep.records import Config, Kind, Op, Tip, Txn, make_record

A, B, GROUP = SiteId("a" * 32), SiteId("b" * 32), GroupId("c" * 32)
ACK = Message(Type.ACK, GROUP, A, 1, B, 2, 3, 0, Ack(4, 5, 6))


@pytest.mark.parametrize("kind", list(Type))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_message_comes_back(kind: Type, data: st.DataObject) -> None:
    message = data.draw(values.messages(kind))
    found = codec.decode(codec.encode(message))
    assert found == message
    assert isinstance(found, Message)
    assert type(found.type) is Type
    assert type(found.fields) is type(message.fields)


@given(values.messages(Type.LOG))
@settings(max_examples=50, deadline=None)
def test_a_message_comes_back_from_views(message: Message) -> None:
    assert codec.decode([memoryview(frame) for frame in codec.encode(message)]) == message


@given(values.struct(Config))
@settings(max_examples=50, deadline=None)
def test_a_configuration_comes_back(config: Config) -> None:
    assert codec.decode_config(codec.encode_config(config)) == config


@given(values.struct(Meta))
@settings(max_examples=50, deadline=None)
def test_meta_comes_back(meta: Meta) -> None:
    assert codec.decode_meta(codec.encode_meta(meta)) == meta


@given(values.struct(Applied))
@settings(max_examples=50, deadline=None)
def test_applied_comes_back(applied: Applied) -> None:
    found = codec.decode_applied(codec.encode_applied(applied))
    assert (found.tip, found.history.reigns, found.config) == (
        applied.tip,
        applied.history.reigns,
        applied.config,
    )


@given(values.SITES)
def test_a_reign_comes_back(site: SiteId) -> None:
    assert codec.decode_reign(codec.encode_reign(site)) == site


DBS = st.none() | st.binary(max_size=8)
BINARY = st.binary(max_size=30)
OPS = (
    st.tuples(st.sampled_from([int(Op.PUT), int(Op.DELETE_DUP)]), DBS, BINARY, BINARY)
    | st.tuples(st.just(int(Op.DELETE)), DBS, BINARY)
    | st.tuples(st.just(int(Op.CREATE_DB)), BINARY, st.integers(0, 2**31))
    | st.tuples(st.sampled_from([int(Op.CLEAR), int(Op.DELETE_DB)]), DBS)
)
TXNS = st.builds(Txn, st.lists(OPS, max_size=5).map(tuple), st.sampled_from(["", "s-1"]), st.integers(0, 2**62))


@given(st.lists(TXNS, max_size=4))
def test_transactions_come_back(txns: list[Txn]) -> None:
    assert codec.decode_txns(codec.encode_txns(txns)) == txns


@given(st.lists(st.tuples(st.integers(1, 4), DBS, BINARY, st.none() | BINARY), max_size=6))
def test_a_batch_comes_back(ops: list[tuple[int, bytes | None, bytes, bytes | None]]) -> None:
    batch = Batch()
    for op, db, key, value in ops:
        match op:
            case Batch.PUT:
                batch.put(key, value or b"", db)
            case Batch.DELETE:
                batch.delete(key, db)
            case Batch.DELETE_RANGE:
                batch.delete_range(key, value, db)
            case _:
                batch.expect(key, value, db)
    found = codec.decode_batch(codec.encode_batch(batch))
    assert found.ops == batch.ops
    assert found.nbytes == batch.nbytes


@pytest.mark.parametrize(
    "request_",
    [
        Request(1, "get", (None, b"k")),
        Request(2, "put", (b"db", b"k", b"v")),
        Request(3, "delete", (None, b"k")),
        Request(4, "write", ("session-1", 1, 5000, b"batch")),
        Request(5, "scan", (None, b"p", None, 100)),
        Request(6, "scan", (None, b"p", b"after", 100)),
        Request(6, "scan", (None, b"p", (b"after", b"value"), 100)),
        Request(7, "status", ()),
    ],
)
def test_a_foreign_request_comes_back(request_: Request) -> None:
    assert codec.decode_request(codec.encode_request(request_)) == request_


def test_a_foreign_reply_comes_back() -> None:
    reply = Reply(7, 2, "ask there", {"master": "a", "endpoints": ("tcp://h:1",)})
    assert codec.decode_reply(codec.encode_reply(reply)) == reply


@pytest.mark.parametrize(
    "args",
    [
        [1, "get", [None]],
        [1, "get", [None, "text"]],
        [1, "nonsense", []],
        [-1, "status", []],
        [1, "write", ["a/b", 1, 5000, b""]],
        [1, "write", ["s" * 65, 1, 5000, b""]],
        [1, ["status"], []],
        [1, "status"],
        "status",
    ],
)
def test_a_wrong_foreign_request_is_refused(args: Any) -> None:
    assert isinstance(codec.decode_request([codec.FOREIGN, msgpack.packb(args)]), Malformed)


def refused(frames: list[bytes]) -> str:
    found = codec.decode(frames)
    assert isinstance(found, Malformed)
    return found.reason


def altered(index: int, value: Any) -> list[bytes]:
    """Return an ACK with one item of its control array replaced."""
    items = list(msgpack.unpackb(codec.encode(ACK)[0]))
    items[index] = value
    return [msgpack.packb(items)]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, "ZREQ"),
        (2, 99),
        (2, "8"),
        (3, "a/b"),
        (4, ""),
        (4, "x" * 33),
        (4, "ä"),
        (5, -1),
        (5, 2**63),
        (5, 1.5),
        (5, True),
        (6, ""),
        (7, None),
        (8, [1]),
        (9, {}),
        (10, "4"),
        (12, -1),
        (12, msgpack.ExtType(1, b"")),
    ],
)
def test_a_wrong_item_is_refused(index: int, value: Any) -> None:
    assert refused(altered(index, value))


def test_a_foreign_version_is_named() -> None:
    assert codec.decode(altered(1, 2)) == Malformed("protocol version 2", 2)


def test_fields_of_a_later_version_are_ignored_and_absent_ones_defaulted() -> None:
    items = list(msgpack.unpackb(codec.encode(ACK)[0]))
    assert codec.decode([msgpack.packb([*items, "new"])]) == ACK
    assert refused([msgpack.packb(items[:-1])])
    forward = Message(Type.FORWARD, GROUP, A, 1, B, 2, 3, 0, Forward("s", 1, 5))
    items = list(msgpack.unpackb(codec.encode(forward)[0]))
    assert codec.decode([msgpack.packb(items[:-1])]) == forward


def test_frames_are_counted_and_bounded() -> None:
    (control,) = codec.encode(ACK)
    assert refused([])
    assert refused([control, b"", b""])
    assert refused([control, b"rec"]) == "ACK with a rec frame"
    assert refused([control + b"x"])
    assert refused([bytes(codec.CONTROL_LIMIT + 1)])


def test_a_message_that_nobody_would_take_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="too large to send"):
        codec.encode(Message(Type.NEWCLIENT, GROUP, A, 1, None, 0, 0, 0, (bytes(codec.CONTROL_LIMIT),)))


def test_records_of_a_log_are_whole_undamaged_and_contiguous() -> None:
    first = make_record(Tip(), 1, 0, Kind.COMMIT, b"one")
    second = make_record(Tip(1, 1, first.chain), 1, 0, Kind.COMMIT, b"two")
    log = Message(Type.LOG, GROUP, A, 1, None, 1, 0, 0, Log(0, 0), (first, second))
    control, rec = codec.encode(log)
    assert codec.decode([control, rec]) == log
    assert "cut short" in refused([control, rec[:-1]])
    assert "cut short" in refused([control, rec + b"\0"])
    assert "checksum" in refused([control, rec[:-1] + b"!"])
    assert "contiguous" in refused(codec.encode(log._replace(lsn=1)))
    assert "contiguous" in refused(codec.encode(log._replace(records=(first, first))))


def test_a_record_is_refused_for_any_flipped_bit_but_its_chain() -> None:
    record = make_record(Tip(3, 8, 77), 4, 1_700_000_000_000, Kind.COMMIT, b"payload")
    assert codec.decode_record(record.raw) == record
    chain = range(33, 37)
    for at in range(len(record.raw)):
        if at in chain:
            continue
        for bit in range(8):
            raw = bytearray(record.raw)
            raw[at] ^= 1 << bit
            with pytest.raises(ProtocolError):
                codec.decode_record(bytes(raw))


@pytest.mark.parametrize(
    "decode",
    [
        codec.decode_config,
        codec.decode_meta,
        codec.decode_applied,
        codec.decode_txns,
        codec.decode_reign,
        codec.decode_batch,
    ],
)
@pytest.mark.parametrize(
    "payload", [b"", b"\x01", b"\xc1", b"\x92\x01\xc0", b"\x92\x01\x91\xc0", b"\x92\x01\x93\x91\x05\xa0\x00"]
)
def test_bytes_that_are_something_else_are_refused(decode: Any, payload: bytes) -> None:
    if decode is codec.decode_batch and payload == b"\x01":
        assert len(decode(payload)) == 0
        return
    with pytest.raises(ProtocolError):
        decode(payload)


def test_a_newer_format_is_named() -> None:
    newer = msgpack.packb((codec.FORMAT + 1, ("whatever",)))
    with pytest.raises(ProtocolError, match=r"site\.meta is of format 2, this zrep reads 1"):
        codec.decode_meta(newer)


def test_operations_are_strict() -> None:
    for op in [
        (Op.PUT, None, b"k"),
        (Op.DELETE, None),
        (Op.DELETE_DUP, None, b"k"),
        (9, None),
        (Op.CREATE_DB, None, 0),
        ("1", None),
    ]:
        with pytest.raises(ProtocolError):
            codec.decode_txns(codec.encode_txns([Txn((op,))]))


def test_master_req_is_small() -> None:
    """A message without fields is little more than its ids: half the cost of a small one is per frame."""
    (control,) = codec.encode(Message(Type.MASTER_REQ, GROUP, A, 2**62, B, 2**40, 2**40, 0, MasterReq()))
    assert len(control) < 160
