"""Names are looked up beside the engine: one that is not answered holds nobody up."""

import socket
import threading
import time
from typing import Any

import pytest

from tests.bus.net import A, B, C, Net, message
from zrep.messages import Message


def test_a_name_server_that_does_not_answer_stops_nobody(tcp: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    lookup = socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if host == "site-b.test":
            answered.wait(30)
            host = "127.0.0.1"
        return lookup(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    a, b, c = tcp.bus(A), tcp.bus(B), tcp.bus(C)
    a.seed(b.endpoints[0].replace("127.0.0.1", "site-b.test"))
    a.seed(c.endpoints[0])
    try:
        tcp.until(lambda: a.connected() == {C})
        began = time.monotonic()
        for _ in range(20):
            tcp.turn()
            assert c.send(message(c, C, A))
        tcp.until(lambda: len(tcp.got(A, Message)) == 20)
        assert time.monotonic() - began < 2
    finally:
        answered.set()
    tcp.until(lambda: a.connected() == {B, C})


def test_a_name_that_nobody_knows_is_asked_again(tcp: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = socket.getaddrinfo
    asked = []

    def unknown_at_first(host: Any, *args: Any, **options: Any) -> Any:
        if host == "site-b.test":
            asked.append(host)
            if len(asked) < 3:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = "127.0.0.1"
        return lookup(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", unknown_at_first)
    a, b = tcp.bus(A), tcp.bus(B)
    a.seed(b.endpoints[0].replace("127.0.0.1", "site-b.test"))
    tcp.until(lambda: a.connected() == {B})
    assert len(asked) >= 3
