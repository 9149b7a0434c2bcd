"""Strangers at every port: what they send is dropped, and the group goes on."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import zmq

from tests.processes.harness import Cluster, Writer, assert_nothing_lost
from tests.processes.proxy import Network

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
"""What a ZMTP 3 connection begins with: the rest may be anything."""


def garbage(rng: random.Random) -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: zrep\r\n\r\n"
    yield b""
    for _ in range(10):
        yield rng.randbytes(rng.randrange(1, 5000))
        yield GREETING[: rng.randrange(1, len(GREETING))]
        yield GREETING + rng.randbytes(rng.randrange(1, 5000))


def test_raw_bytes_at_every_port_hurt_nobody(proxied: Cluster, network: Network) -> None:
    rng = random.Random(49)
    with Writer(proxied) as writer:
        gen = proxied.master()
        for address in network.site_by_address:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            for sent in garbage(rng):
                with socket.create_connection((host, int(port)), timeout=5) as stranger:
                    stranger.sendall(sent)
        writer.await_more(50)
        assert proxied.master() is gen
    assert_nothing_lost(proxied, writer)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.SUB, zmq.PUSH], ids=["DEALER", "SUB", "PUSH"])
def test_well_formed_zeromq_with_nonsense_inside_hurts_nobody(cluster: Cluster, kind: int) -> None:
    rng = random.Random(50)
    with Writer(cluster) as writer, zmq.Context() as context, ExitStack() as stack:
        master = cluster.master()
        for address in cluster.addresses:
            stranger = stack.enter_context(context.socket(kind))
            stranger.linger = 0
            stranger.sndtimeo = 2000
            if kind == zmq.SUB:
                stranger.subscribe(b"")
            stranger.connect(address)
            for _ in range(200 if kind == zmq.DEALER else 0):
                head = rng.choice([b"", b"ZREP", b"ZREP1", rng.randbytes(9)])
                stranger.send_multipart([head, *(rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(4)))])
        writer.await_more(50)
        assert cluster.master() is master
    assert_nothing_lost(cluster, writer)


def test_silent_connections_do_not_keep_others_out(cluster: Cluster) -> None:
    with ExitStack() as stack:
        for address in cluster.addresses:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            for _ in range(50):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        with Writer(cluster) as writer:
            writer.await_more(50)
    assert_nothing_lost(cluster, writer)
