"""Endpoints are checked before ZeroMQ sees them, and a wrong one is told in one sentence."""

import pytest

from zrep.endpoints import Endpoint, is_loopback, parse, resolve, unmapped
from zrep.errors import OptionError


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("tcp://127.0.0.1:7001", Endpoint("tcp", "127.0.0.1", 7001)),
        ("tcp://[::1]:7001", Endpoint("tcp", "::1", 7001)),
        ("tcp://[fe80::1%eth0]:7001", Endpoint("tcp", "fe80::1%eth0", 7001)),
        ("tcp://db_1.example-site.org:65535", Endpoint("tcp", "db_1.example-site.org", 65535)),
        ("ipc:///run/zrep.sock", Endpoint("ipc", "/run/zrep.sock")),
        ("ipc://relative", Endpoint("ipc", "relative")),
        ("ipc://@abstract", Endpoint("ipc", "@abstract")),
        ("inproc://a", Endpoint("inproc", "a")),
    ],
)
def test_an_endpoint_is_parsed_and_written_back(uri: str, endpoint: Endpoint) -> None:
    assert parse(uri) == endpoint
    assert str(endpoint) == uri


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "no known scheme"),
        ("127.0.0.1:7001", "no known scheme: use tcp://host:port, ipc://path or inproc://name"),
        ("udp://h:1", "no known scheme"),
        ("tcp://", "no port"),
        ("tcp://host", "no port: write tcp://host:port"),
        ("tcp://:7001", "no port"),
        ("tcp://host:", "port '' of endpoint 'tcp://host:' is out of range"),
        ("tcp://host:99999", "port '99999' of endpoint 'tcp://host:99999' is out of range: use 1 to 65535"),
        ("tcp://host:0", "out of range: use 1 to 65535"),
        ("tcp://host:+1", "out of range"),
        ("tcp://host:٣", "out of range"),
        ("tcp://::1:7001", "in brackets"),
        ("tcp://[nonsense]:7001", "no IPv6 address"),
        ("tcp://300.1.1.1:7001", "neither a host name nor an address"),
        ("tcp://a b:7001", "neither a host name nor an address"),
        ("tcp://a;tcp:7001", "neither a host name nor an address"),
        ("tcp://*:7001", "can be bound, not connected to"),
        ("ipc://", "no path"),
        ("inproc://", "no name"),
        ("ipc://" + "x" * 108, "longer than 107 bytes"),
        ("ipc://" + "ä" * 54, "longer than 107 bytes"),
    ],
)
def test_a_wrong_endpoint_is_told_in_a_sentence(uri: str, told: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse(uri)
    assert told in str(raised.value)


def test_a_bind_may_take_any_port_and_every_interface() -> None:
    assert parse("tcp://*:0", bind=True) == Endpoint("tcp", "*", 0)
    assert parse("tcp://127.0.0.1:0", bind=True).port == 0
    with pytest.raises(OptionError, match="use 0 to 65535"):
        parse("tcp://*:65536", bind=True)


@pytest.mark.parametrize(
    ("uri", "loopback"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://[::ffff:127.0.0.1]:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://example.org:1", False),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("ipc://x", True),
        ("inproc://x", True),
    ],
)
def test_loopback(uri: str, loopback: bool) -> None:
    assert is_loopback(uri) is loopback


def test_what_an_ipv6_socket_reports_is_unmapped() -> None:
    assert str(unmapped(parse("tcp://[::ffff:127.0.0.1]:7001"))) == "tcp://127.0.0.1:7001"
    assert str(unmapped(parse("tcp://[::1]:7001"))) == "tcp://[::1]:7001"
    assert str(unmapped(parse("ipc://x"))) == "ipc://x"


@pytest.mark.parametrize(
    ("uri", "is_any"),
    [("tcp://*:1", True), ("tcp://0.0.0.0:1", True), ("tcp://[::]:1", True), ("tcp://h:1", False), ("ipc://*", False)],
)
def test_every_interface(uri: str, is_any: bool) -> None:
    assert parse(uri, bind=True).is_any is is_any


def test_names_resolve_to_numbers_ipv6_first() -> None:
    found = resolve(parse("tcp://localhost:7001"))
    assert {str(endpoint) for endpoint in found} <= {"tcp://[::1]:7001", "tcp://127.0.0.1:7001"}
    assert found == sorted(found, key=lambda endpoint: ":" not in endpoint.address)
    assert resolve(parse("tcp://127.0.0.1:7001")) == [parse("tcp://127.0.0.1:7001")]
    assert resolve(parse("tcp://*:0", bind=True)) == [parse("tcp://*:0", bind=True)]
    assert resolve(parse("ipc://x")) == [parse("ipc://x")]
