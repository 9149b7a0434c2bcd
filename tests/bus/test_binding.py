"""Where a site listens: what it advertises, and binds that fail with a sentence."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import zmq

from tests.bus.net import A, B, Net
from zrep.bus.acquaintance import Acquaintance
from zrep.bus.sockets import Socket
from zrep.endpoints import parse
from zrep.errors import OptionError


def test_port_0_becomes_the_one_that_was_given(tcp: Net) -> None:
    bus = tcp.bus(A, bind="tcp://127.0.0.1:0")
    for uri in (*bus.endpoints, *bus.publish):
        assert parse(uri).address == "127.0.0.1"
        assert parse(uri).port > 0
    assert bus.endpoints != bus.publish


def test_the_publisher_binds_where_it_is_told(tcp: Net, tmp_path: Path) -> None:
    bus = tcp.bus(A, publish=f"ipc://{tmp_path}/news")
    assert bus.publish == (f"ipc://{tmp_path}/news",)


def test_a_local_address_is_served_but_not_advertised(tcp: Net, tmp_path: Path) -> None:
    bus = tcp.bus(A, local=f"ipc://{tmp_path}/site.sock")
    assert (tmp_path / "site.sock").exists()
    assert all("ipc" not in uri for uri in (*bus.endpoints, *bus.publish))


def test_bind_and_advertised_address_may_differ(tcp: Net) -> None:
    bus = tcp.bus(A, advertise=["tcp://db.example.org:7001"])
    assert bus.endpoints == ("tcp://db.example.org:7001",)
    assert bus.publish[0].startswith("tcp://db.example.org:")


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0"])
def test_beyond_loopback_only_if_asked_for_by_name(tcp: Net, bind: str) -> None:
    with pytest.raises(OptionError, match="if you trust the network allow it by the option insecure"):
        tcp.bus(A, bind=bind)
    with pytest.raises(OptionError, match=r"no peer can connect to .*advertise="):
        tcp.bus(A, bind=bind, insecure=True)
    bus = tcp.bus(A, bind=bind, insecure=True, advertise=["tcp://127.0.0.1:7001"])
    assert bus.endpoints == ("tcp://127.0.0.1:7001",)


def test_a_port_in_use_is_named(tcp: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(OptionError, match=f"cannot bind {uri}: it is in use: stop what listens there"):
            tcp.bus(A, bind=uri)
    tcp.bus(A, bind=uri)


def test_a_failed_start_leaves_nothing_bound(net: Net) -> None:
    where = net.bus(A).endpoints[0]
    free = net.endpoint()
    with pytest.raises(OptionError):
        net.bus(B, bind=free, publish=where)
    net.bus(B, bind=free)


def test_an_ipc_path_is_not_stolen(tmp_path: Path, tcp: Net) -> None:
    uri = f"ipc://{tmp_path}/site"
    tcp.bus(A, bind=uri)
    with pytest.raises(OptionError, match="it is in use"):
        tcp.bus(B, bind=uri)
    tcp.close(A)
    tcp.bus(B, bind=uri)


def test_an_ipc_path_that_a_dead_process_left_is_taken(tmp_path: Path, tcp: Net) -> None:
    path = tmp_path / "site"
    with zmq.Context() as context:
        left: Socket = context.socket(zmq.ROUTER)
        left.bind(f"ipc://{path}")
        os.link(path, tmp_path / "kept")
        left.close(0)
    os.rename(tmp_path / "kept", path)
    tcp.bus(A, bind=f"ipc://{path}")


def test_a_directory_that_is_missing_is_told(tmp_path: Path, tcp: Net) -> None:
    with pytest.raises(OptionError, match="its directory does not exist: create it first"):
        tcp.bus(A, bind=f"ipc://{tmp_path}/missing/site")


def test_an_address_of_another_host_is_told(tcp: Net) -> None:
    with pytest.raises(OptionError, match="this host has no such address"):
        tcp.bus(A, bind="tcp://192.0.2.1:0", insecure=True)


def test_every_socket_is_shown_before_it_binds_or_connects(tcp: Net) -> None:
    shown: list[tuple[str, bytes]] = []

    def hook(socket: Socket, purpose: str) -> None:
        last = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(last, bytes)
        shown.append((purpose, last.rstrip(b"\0")))

    tcp.bus(A, socket_hook=hook)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    assert {purpose for purpose, _ in shown} == {"router", "publisher", "subscriber", "control", "bulk"}
    assert {last for _, last in shown} == {b""}


@pytest.mark.parametrize("where", [(fcntl, "flock"), (Acquaintance, "__init__")], ids=["as it locks", "as it ends"])
def test_who_is_interrupted_as_it_binds_holds_nothing(
    tcp: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    """Ctrl-C when a path was locked just now, or when every socket is open."""
    bind = f"ipc://{tmp_path}/sock"
    real = getattr(*where)

    def interrupted(*arguments: object, **options: object) -> NoReturn:
        real(*arguments, **options)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(*where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        tcp.bus(A, bind=bind)
    tcp.bus(A, bind=bind)
