"""Strangers, garbage and slow readers: counted, bounded, and of no effect on the others."""

import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.bus.net import A, B, C, Net, message
from zrep import codec
from zrep.bus import ClientRequest, Connected, ConnectFailed, Disconnected
from zrep.bus.acquaintance import STRANGERS
from zrep.bus.broadcast import LISTENERS, listener_topic
from zrep.bus.sockets import Socket
from zrep.endpoints import parse
from zrep.ids import GroupId, SiteId
from zrep.messages import Hello, Log, Message, Status
from zrep.records import Kind, Tip, make_record


class Outside:
    """Somebody else's program: its own context and sockets."""

    def __init__(self) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._sockets: list[Socket] = []

    def connect(self, kind: int, uri: str) -> Socket:
        made = self._context.socket(kind)
        self._sockets.append(made)
        made.connect(uri)
        return made

    def close(self) -> None:
        for opened in self._sockets:
            opened.close(0)
        self._context.term()


@pytest.fixture
def outside() -> Iterator[Outside]:
    outside = Outside()
    yield outside
    outside.close()


def test_garbage_at_the_router_is_counted_and_hurts_nobody(tcp: Net, outside: Outside) -> None:
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    stranger = outside.connect(zmq.DEALER, a.endpoints[0])
    rng = random.Random(3)
    for _ in range(500):
        stranger.send_multipart([rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 5))])
    tcp.until(lambda: a.counters["malformed"] == 500)
    assert b.send(message(b, B, A))
    tcp.until(lambda: tcp.got(A, Message))
    assert tcp.got(A, Disconnected) == []


def test_garbage_at_the_publisher_hurts_nobody(tcp: Net, outside: Outside) -> None:
    """What an XPUB receives may be any bytes, and any number of listeners that do not exist."""
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    stranger = outside.connect(zmq.XSUB, a.publish[0])
    rng = random.Random(4)
    for number in range(3 * LISTENERS):
        topic = rng.randbytes(30) if number % 3 else listener_topic(SiteId(f"x{number}"), 1)
        stranger.send(b"\1" + topic)
        if number % 500 == 0:
            tcp.turn()
    stranger.send(b"\0" + listener_topic(SiteId("nobody"), 1))
    stranger.send(b"\1S\xff\xfe")
    tcp.settle()
    assert tcp.buses[B].connected() == {A}
    assert a.connected() == {B}
    assert len(a._publisher._listening) <= LISTENERS


def test_raw_bytes_at_every_port_hurt_nobody(tcp: Net) -> None:
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    rng = random.Random(5)
    for uri in (a.endpoints[0], a.publish[0]):
        for size in (0, 1, 64, 5000):
            with socket.create_connection(("127.0.0.1", parse(uri).port)) as stranger:
                stranger.sendall(rng.randbytes(size))
    tcp.settle()
    assert a.connected() == {B}


def test_silent_connections_are_let_go(tcp: Net) -> None:
    """50 connections that say nothing held 50 descriptors for 30 s by ZeroMQ's default (F21)."""
    a = tcp.bus(A)
    before = open_descriptors()
    silent = [socket.create_connection(("127.0.0.1", parse(a.endpoints[0]).port)) for _ in range(50)]
    try:
        tcp.until(lambda: open_descriptors() >= before + 50 + 40)
        tcp.until(lambda: open_descriptors() <= before + 50 + 1, timeout_s=6)
    finally:
        for stranger in silent:
            stranger.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_for_somebody_else_is_not_processed(tcp: Net, outside: Outside) -> None:
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    dealer = outside.connect(zmq.DEALER, a.endpoints[0])
    dealer.send_multipart(codec.encode(message(a, B, C)))
    tcp.until(lambda: a.counters["misaddressed"] == 1)
    assert tcp.got(A, Message) == []


def test_a_message_from_a_site_we_do_not_know_is_not_processed(tcp: Net, outside: Outside) -> None:
    a = tcp.bus(A)
    dealer = outside.connect(zmq.DEALER, a.endpoints[0])
    dealer.send_multipart(codec.encode(message(a, C, A)))
    tcp.until(lambda: a.counters["stranger"] == 1)
    assert tcp.got(A, Message) == []


def test_our_own_broadcast_is_dropped_when_it_comes_back(tcp: Net, outside: Outside) -> None:
    a = tcp.bus(A)
    dealer = outside.connect(zmq.DEALER, a.endpoints[0])
    dealer.send_multipart(codec.encode(message(a, A, None)))
    tcp.until(lambda: a.counters["own"] == 1)
    assert tcp.seen[A] == []


def test_a_site_of_another_group_is_refused_once_and_both_are_named(tcp: Net) -> None:
    a = tcp.bus(A)
    other = tcp.bus(B, group=GroupId("group-2"))
    other.seed(a.endpoints[0])
    tcp.until(lambda: tcp.got(A, ConnectFailed) and tcp.got(B, ConnectFailed))
    for site in (A, B):
        (failed,) = tcp.got(site, ConnectFailed)
        assert "group-1" in failed.reason
        assert "group-2" in failed.reason
    assert tcp.got(B, ConnectFailed)[0].endpoint == a.endpoints[0]
    tcp.until(lambda: a.counters["foreign"] > 3)
    assert len(tcp.got(A, ConnectFailed)) == 1
    assert a.connected() == other.connected() == frozenset()


def test_hello_from_many_strangers_makes_us_dial_only_a_few(tcp: Net, outside: Outside) -> None:
    a = tcp.bus(A)
    dealer = outside.connect(zmq.DEALER, a.endpoints[0])
    for number in range(100):
        endpoints = ("nonsense", "udp://x:1", f"tcp://127.0.0.1:{20_000 + number}", *["tcp://127.0.0.1:1"] * 20)
        hello = Hello(endpoints, endpoints, True)
        dealer.send_multipart(codec.encode(message(a, SiteId(f"stranger-{number}"), A, hello)))
    tcp.until(lambda: a.counters["hellos"] == 100)
    assert a.counters["refused"] == 100 - STRANGERS
    assert a.connected() == frozenset()


def test_a_flood_from_one_stranger_does_not_stop_the_others(tcp: Net, outside: Outside) -> None:
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    dealer = outside.connect(zmq.DEALER, a.endpoints[0])
    sent = 0
    while len(tcp.got(A, Message)) < 100:
        for _ in range(200):
            dealer.send(b"garbage")
        b.send(message(b, B, A))
        sent += 1
        tcp.turn()
        assert sent < 2000
    assert a.counters["malformed"] > 1000


def test_a_subscriber_that_stands_still_neither_blocks_nor_grows_the_publisher(tcp: Net) -> None:
    """At its high-water mark it loses broadcasts, in order and without an error; the next gap tells it (F18)."""
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    record = make_record(Tip(), 1, 0, Kind.COMMIT, bytes(250_000))
    live = message(a, A, None, Log(0, 0), [record])
    began = time.monotonic()
    for number in range(1000):
        assert a.send(live._replace(gen=number))
    assert time.monotonic() - began < 5
    last = message(a, A, None)

    def caught_up() -> bool:
        a.send(last)
        return last in tcp.got(B, Message)

    tcp.until(caught_up)
    gens = [got.gen for got in tcp.got(B, Message) if got.records]
    assert gens == sorted(set(gens))
    assert 0 < len(gens) < 1000
    assert b.connected() == {A}


def test_a_peer_that_does_not_read_loses_messages_and_holds_nobody_up(tcp: Net) -> None:
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    bulky = message(a, A, B, Log(0, 0), [make_record(Tip(), 1, 0, Kind.COMMIT, bytes(1_000_000))])
    began = time.monotonic()
    sent = [a.send(bulky) for _ in range(300)]
    assert not all(sent), "a bulk DEALER holds a bounded number of messages"
    assert a.send(message(a, A, B)), "control is not behind bulk"
    assert time.monotonic() - began < 5
    assert a.counters["not_sent"] == sent.count(False)


def test_foreign_requests_are_handed_over_and_answered(tcp: Net, outside: Outside, tmp_path: Path) -> None:
    a = tcp.bus(A, local=f"ipc://{tmp_path}/site.sock")
    for uri in (a.endpoints[0], f"ipc://{tmp_path}/site.sock"):
        tcp.seen[A].clear()
        dealer = outside.connect(zmq.DEALER, uri)
        dealer.send_multipart(codec.encode_request(codec.Request(7, "get", (None, b"k"))))
        tcp.until(lambda: tcp.got(A, ClientRequest))
        (arrival,) = tcp.got(A, ClientRequest)
        assert arrival.request == codec.Request(7, "get", (None, b"k"))
        a.reply(arrival.route, codec.Reply(7, 0, "", b"v"))
        assert dealer.poll(5000)
        assert codec.decode_reply(dealer.recv_multipart()) == codec.Reply(7, 0, "", b"v")
        dealer.send_multipart([codec.FOREIGN, b"\x93\x01\xa3eat\x90"])
        tcp.until(lambda dealer=dealer: dealer.poll(0))  # type: ignore[misc]
        refused = codec.decode_reply(dealer.recv_multipart())
        assert isinstance(refused, codec.Reply)
        assert refused.code == Status.REFUSED
        assert "unknown verb eat" in refused.text
    a.reply(b"nobody", codec.Reply(7, 0))
    assert a.counters["replies_lost"] == 1


def test_a_wake_up_from_another_thread_ends_the_wait(tcp: Net) -> None:
    a = tcp.bus(A)
    a.poll(0)
    for _ in range(3):
        a.wake()
        a.wake()
        began = time.monotonic()
        a.poll(5000)
        assert time.monotonic() - began < 1
        a.poll(0)
    began = time.monotonic()
    a.poll(20)
    assert time.monotonic() - began >= 0.015
    assert Connected not in map(type, tcp.seen[A])
