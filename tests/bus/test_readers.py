"""A descriptor tells an arrival once: what another operation on the socket took note of is read all the same."""

import time
from collections.abc import Iterator

import pytest
import zmq

from tests.bus.net import A, Net, message
from zrep import codec
from zrep.bus import ClientRequest
from zrep.bus.broadcast import listener_topic
from zrep.bus.readers import Readers
from zrep.bus.sockets import Socket, is_readable, receive
from zrep.bus.wake import Wake
from zrep.ids import SiteId

DEADLINE_S = 10.0


class Pair:
    """Two connected sockets; `ours` is read by `readers`, which keeps what it read in `got`."""

    def __init__(self) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.ours, self.theirs = self.context.socket(zmq.PAIR), self.context.socket(zmq.PAIR)
        self.ours.bind("inproc://pair")
        self.theirs.connect("inproc://pair")
        self.wake = Wake()
        self.readers = Readers(self.wake)
        self.readers.add(self.ours, self.read)
        self.got: list[bytes] = []

    def read(self, limit: int) -> bool:
        frames = list(receive(self.ours, limit))
        self.got += [frame for frame, *_ in frames]
        return len(frames) < limit

    def turn(self, timeout_ms: int, limit: int = 10) -> list[bytes]:
        """Wait and read; return what came by that."""
        self.got.clear()
        self.readers.wait(timeout_ms)
        self.readers.read(limit)
        return self.got

    def close(self) -> None:
        self.readers.remove(self.ours)
        self.wake.close()
        self.context.destroy(0)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def noticed(socket: Socket) -> None:
    """Do something with a socket that takes note of an arrival."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_readable(socket):
        assert time.monotonic() < deadline


def test_a_message_ends_the_wait_once(pair: Pair) -> None:
    assert pair.turn(0) == []
    pair.theirs.send(b"1")
    pair.theirs.send(b"2")
    assert pair.turn(10_000) == [b"1", b"2"]
    assert not pair.readers.ready
    assert pair.turn(0) == []


def test_what_is_left_unread_is_read_without_waiting(pair: Pair) -> None:
    for number in b"123":
        pair.theirs.send(bytes((number,)))
    assert [list(pair.turn(10_000, limit=2)) for _ in range(2)] == [[b"1", b"2"], [b"3"]]
    assert not pair.readers.ready


def test_what_arrived_before_the_socket_is_read_here(pair: Pair) -> None:
    pair.readers.remove(pair.ours)
    pair.theirs.send(b"1")
    noticed(pair.ours)
    pair.readers.add(pair.ours, pair.read)
    assert pair.turn(0) == [b"1"]


def test_an_arrival_that_something_else_noticed_is_found_when_in_doubt(pair: Pair) -> None:
    pair.turn(0)
    pair.theirs.send(b"1")
    noticed(pair.ours)
    assert pair.turn(0) == [], "ZeroMQ tells once: else the doubt would not be needed"
    pair.readers.doubt(pair.ours)
    assert pair.turn(0) == [b"1"]


def test_a_socket_that_is_not_read_here_any_more_is_not_asked(pair: Pair) -> None:
    pair.readers.doubt(pair.ours)
    pair.readers.remove(pair.ours)
    assert pair.turn(0) == []
    pair.readers.add(pair.ours, pair.read)


def test_a_request_that_a_reply_noticed_is_read(tcp: Net) -> None:
    bus, context = tcp.bus(A), zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(bus.endpoints[0])

    def ask(number: int) -> None:
        stranger.send_multipart(codec.encode_request(codec.Request(number, "status", ())))

    try:
        ask(1)
        (first,) = tcp.until(lambda: tcp.got(A, ClientRequest))
        ask(2)
        noticed(bus._router)
        bus.reply(first.route, codec.Reply(1, 0))
        bus.poll(0)
        assert [arrival.request.id for arrival in bus.receive(0, 8)] == [2]  # type: ignore[union-attr]
    finally:
        context.destroy(0)


def test_a_listener_that_a_broadcast_noticed_is_seen(tcp: Net) -> None:
    bus, context = tcp.bus(A), zmq.Context()
    tcp.settle()
    listener = context.socket(zmq.SUB)
    try:
        listener.connect(bus.publish[0])
        listener.subscribe(listener_topic(SiteId("somebody"), 1))
        noticed(bus._publisher.socket)
        bus.send(message(bus, A, None))
        bus.poll(0)
        bus.receive(0, 8)
        assert bus._publisher.hears_us(SiteId("somebody"), 1)
    finally:
        context.destroy(0)
