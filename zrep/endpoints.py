"""Where sites are reached: URIs parsed and checked by ourselves, before ZeroMQ sees them.

ZeroMQ binds `tcp://host:99999` without an error and fails silently later, so nothing unchecked is
handed to it. What is here opens no socket; only `resolve` asks the system, for the addresses of a name.

    tcp://host:port   tcp://[::1]:port   tcp://*:port (bind)   ipc://path   ipc://@name   inproc://name
"""

import ipaddress
import os
import re
import socket
from typing import NamedTuple

from zrep.errors import OptionError

SCHEMES = ("tcp", "ipc", "inproc")
IPC_LIMIT = 107
"""Longest ipc path in bytes (the system's sun_path)."""
ANY = "*"
"""Host of a tcp bind on every interface."""

_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_PORT = re.compile(r"[0-9]{1,5}\Z")


class Endpoint(NamedTuple):
    """A checked address. `str` gives the URI; an IPv6 host is kept without its brackets."""

    scheme: str
    address: str
    """tcp: the host; ipc: the path; inproc: the name."""
    port: int = 0
    """tcp only; 0 binds to a free one."""

    def __str__(self) -> str:
        if self.scheme != "tcp":
            return f"{self.scheme}://{self.address}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"tcp://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it."""
        if self.scheme != "tcp" or self.address == "localhost":
            return True
        number = _number(self.address)
        return number is not None and number.is_loopback

    @property
    def is_name(self) -> bool:
        """Whether the system must be asked for its addresses."""
        return self.scheme == "tcp" and self.address != ANY and _number(self.address) is None

    @property
    def is_any(self) -> bool:
        """Whether it stands for every interface, and so is no address that a peer could use."""
        number = _number(self.address) if self.scheme == "tcp" else None
        return self.scheme == "tcp" and (self.address == ANY or (number is not None and number.is_unspecified))


def parse(uri: str, *, bind: bool = False) -> Endpoint:
    """Return the endpoint that a URI names. Raises OptionError, saying what is wrong with it.

    `bind` allows what only a bind can use: port 0 and every interface.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        raise OptionError(f"endpoint {uri!r} has no known scheme: use tcp://host:port, ipc://path or inproc://name")
    if scheme == "tcp":
        return _parse_tcp(uri, rest, bind)
    if not rest or "\0" in rest:
        raise OptionError(f"endpoint {uri!r} has no {'path' if scheme == 'ipc' else 'name'}: add one after {scheme}://")
    if scheme == "ipc" and len(os.fsencode(rest)) > IPC_LIMIT:
        raise OptionError(f"the path of {uri!r} is longer than {IPC_LIMIT} bytes: use a shorter one")
    try:
        rest.encode()
    except UnicodeEncodeError:
        raise OptionError(f"endpoint {uri!r} is not UTF-8: use another one") from None
    return Endpoint(scheme, rest)


def is_loopback(uri: str) -> bool:
    """Tell whether only this host can reach the endpoint. Raises OptionError for what is no endpoint."""
    return parse(uri, bind=True).is_local


def resolve(endpoint: Endpoint) -> list[Endpoint]:
    """Return the addresses to try, IPv6 first; a name that is unknown now is returned as it is.

    Blocks for as long as the system takes to look up a name, and not at all for a number.
    """
    if not endpoint.is_name:
        return [endpoint]
    try:
        found = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return [endpoint]
    found.sort(key=lambda entry: entry[0] != socket.AF_INET6)
    return [endpoint._replace(address=str(address)) for *_, (address, *_) in found] or [endpoint]


def unmapped(endpoint: Endpoint) -> Endpoint:
    """Write an IPv4 address that an IPv6 socket reports, `::ffff:127.0.0.1`, as what it is."""
    number = _number(endpoint.address) if endpoint.scheme == "tcp" else None
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        return endpoint._replace(address=str(number.ipv4_mapped))
    return endpoint


def _parse_tcp(uri: str, rest: str, bind: bool) -> Endpoint:
    host, separator, port = rest.rpartition(":")
    if not separator or not host:
        raise OptionError(f"endpoint {uri!r} has no port: write tcp://host:port")
    if not _PORT.match(port) or int(port) > 65535 or (int(port) == 0 and not bind):
        raise OptionError(f"port {port!r} of endpoint {uri!r} is out of range: use {0 if bind else 1} to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(_number(host), ipaddress.IPv6Address):
            raise OptionError(f"{host!r} in endpoint {uri!r} is no IPv6 address: write it like tcp://[::1]:7001")
    elif ":" in host:
        raise OptionError(
            f"endpoint {uri!r} has more than one colon: put an IPv6 address in brackets, tcp://[::1]:7001"
        )
    elif host == ANY and not bind:
        raise OptionError(f"endpoint {uri!r} names no host: {ANY} can be bound, not connected to")
    elif host != ANY and _number(host) is None and (not _HOST.fullmatch(host) or re.fullmatch(r"[0-9.]+", host)):
        raise OptionError(f"{host!r} in endpoint {uri!r} is neither a host name nor an address: correct it")
    return Endpoint("tcp", host, int(port))


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
