"""Hostile frames: whatever arrives, the decoders answer and keep their memory (F49, F51).

Seeded, so a failure repeats: the input is in the assertion.
"""

import io
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import Phase, given, settings

from tests.unit import values
from zrep import codec
from zrep.codec import Malformed, Reply, Request
from zrep.commit import Batch
from zrep.errors import ProtocolError
from zrep.ids import SiteId
from zrep.messages import Message, Type
from zrep.records import Config, Txn

PER_TYPE = 1000


def corpus() -> dict[Type, list[list[bytes]]]:
    """Return some valid messages of every type, the same ones on every run."""
    return {kind: examples(kind) for kind in Type}


def examples(kind: Type) -> list[list[bytes]]:
    found: list[list[bytes]] = []

    @settings(max_examples=8, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(values.messages(kind))
    def collect(message: Message) -> None:
        found.append(codec.encode(message))

    collect()
    return found


def mutations(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    """Damage one valid message in one of the ways that wires, peers and enemies have."""
    frames = list(frames)
    at = rng.randrange(len(frames))
    raw = bytearray(frames[at])
    match rng.randrange(8):
        case 0:
            for _ in range(rng.choice((1, 1, 2, 8))):
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        case 1:
            del raw[rng.randrange(len(raw)) :]
        case 2:
            raw[rng.randrange(len(raw)) :] = rng.randbytes(rng.randrange(40))
        case 3:
            position = rng.randrange(len(raw))
            raw[position:position] = rng.choice(POISON)
        case 4:
            return [msgpack.packb(swapped(rng, frames[0])), *frames[1:]]
        case 5:
            frames.append(rng.randbytes(rng.randrange(100)))
        case 6:
            return [rng.choice(POISON) for _ in range(rng.randrange(4))]
        case _:
            position = rng.randrange(len(raw))
            raw[position : position + 1] = rng.choice(POISON)
    frames[at] = bytes(raw)
    return frames


def swapped(rng: random.Random, control: bytes) -> list[Any]:
    """Replace one item of a control array by something of a wrong type or a wild value."""
    items = next(iter(msgpack.Unpacker(io.BytesIO(control))))
    if not isinstance(items, list):
        return [items]
    wild: list[Any] = [None, True, -1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), "", "x" * 5000, b"\0" * 5000]
    wild += [[], {}, [[[[]]]], [None] * 2000, {1: 2}, "\ud7ff", msgpack.ExtType(5, b""), msgpack.Timestamp(1)]
    items[rng.randrange(len(items))] = rng.choice(wild)
    return items


POISON = [
    b"",
    b"\x91" * 5000,
    b"\xdd\xff\xff\xff\xff" * 200,
    b"\xdc\x04\x00" * 4000,
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc7\x00\x01",
    b"\xc1",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xa2\xff\xfe",
    b"\xdc\xff\xff" + b"\xc0" * 60000,
]


def inputs() -> Iterator[list[bytes]]:
    rng = random.Random(20240229)
    for valid in corpus().values():
        for _ in range(PER_TYPE):
            yield mutations(rng, rng.choice(valid))


def test_decode_survives_every_mutation_of_every_type() -> None:
    """24 types, 1000 mutations each: a Message or a Malformed, nothing else."""
    counts = {Message: 0, Malformed: 0}
    for frames in inputs():
        found = codec.decode(frames)
        assert type(found) in counts, frames
        counts[type(found)] += 1
    assert sum(counts.values()) >= 20_000
    assert counts[Malformed] > 10_000
    assert counts[Message] > 100, "some mutations leave a message valid, or the mutations are too coarse"


def test_what_still_decodes_is_well_formed() -> None:
    """A mutation that passes must be a message that we could have sent: it encodes and decodes to itself."""
    for frames in inputs():
        found = codec.decode(frames)
        if isinstance(found, Message):
            assert codec.decode(codec.encode(found)) == found, frames


def test_decoding_garbage_keeps_memory_bounded() -> None:
    """The worst control frames that 64 KiB can hold decode within a fixed amount."""
    worst = [
        b"\xdc\x04\x00" * 21000,
        b"\xdd\x00\x00\x04\x00" * 13000,
        b"\x91" * 65000,
        (b"\xdc\x04\x00" + b"\x91\xc0" * 1024) * 30,
        b"\xdc\x04\x00" + (b"\x9f" + b"\x90" * 15) * 1024,
        b"\xdf\x00\xff\xff\xff" * 13000,
        b"\xdb\x7f\xff\xff\xff" * 13000,
    ]
    tracemalloc.start()
    try:
        for control in worst:
            assert isinstance(codec.decode([control]), Malformed)
            assert isinstance(codec.decode_request([codec.FOREIGN, control]), Malformed)
            with pytest.raises(ProtocolError):
                codec.decode_batch(control)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * 1024 * 1024


@pytest.mark.parametrize(
    ("valid", "decode"),
    [
        (codec.encode_txns([Txn(((1, b"db", b"k", b"v"), (2, None, b"k"), (5, b"x", 4)), "s", 3)]), codec.decode_txns),
        (codec.encode_config(Config(removed=(SiteId("gone"),))), codec.decode_config),
        (codec.encode_batch(Batch().put(b"k", b"v").expect(b"k", None)), codec.decode_batch),
    ],
)
def test_payloads_raise_only_protocol_error(valid: bytes, decode: Callable[[bytes], Any]) -> None:
    rng = random.Random(7)
    for _ in range(3000):
        raw = b"".join(mutations(rng, [valid])) if rng.random() < 0.8 else rng.randbytes(rng.randrange(60))
        try:
            decode(raw)
        except ProtocolError:
            continue


def test_foreign_frames_never_raise() -> None:
    rng = random.Random(8)
    request = codec.encode_request(Request(1, "write", ("session", 1, 5000, b"batch")))
    reply = codec.encode_reply(Reply(1, 0, "", {"gen": 1}))
    for _ in range(4000):
        assert isinstance(codec.decode_request(mutations_foreign(rng, request)), (Request, Malformed))
        assert isinstance(codec.decode_reply(mutations_foreign(rng, reply)), (Reply, Malformed))


def mutations_foreign(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    raw = bytearray(frames[1])
    raw[rng.randrange(len(raw))] = rng.randrange(256)
    if rng.random() < 0.3:
        raw += rng.choice(POISON)
    return [frames[0], bytes(raw)]
