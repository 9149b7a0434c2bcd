"""Where a site listens and what it advertises: decided and bound once, at start.

Bind and advertised address differ behind NAT and in containers; a port 0 becomes the one that was given.
"""

from collections.abc import Sequence
from typing import NamedTuple

from zrep.bus.sockets import Socket, Sockets
from zrep.endpoints import Endpoint, parse, resolve
from zrep.errors import OptionError


class Listening(NamedTuple):
    """The bound sockets, and the URIs that peers are told."""

    router: Socket
    publisher: Socket
    endpoints: tuple[str, ...]
    publish: tuple[str, ...]


def listen(
    sockets: Sockets,
    bind: Sequence[str],
    *,
    local: str | None,
    publish: str | None,
    advertise: Sequence[str] | None,
    insecure: bool,
) -> Listening:
    """Bind the ROUTER to `bind`, the XPUB to `publish` or beside each of `bind`.

    `local` is one more address of the ROUTER, for programs of this host, that no peer is told.
    Raises OptionError for an endpoint that is none, is taken, or is open to strangers; the caller closes `sockets`.
    """
    wanted = [parse(uri, bind=True) for uri in bind]
    if not wanted:
        raise OptionError("a site must bind at least one endpoint: give bind=")
    beside = [parse(publish, bind=True)] if publish is not None else [_beside(endpoint) for endpoint in wanted]
    for endpoint in (*wanted, *beside):
        if not insecure and not resolve(endpoint)[0].is_local:
            raise OptionError(
                f"refusing to bind {endpoint}: whoever reaches it could write, for there are no keys yet; "
                "bind to a loopback address, or if you trust the network allow it by the option insecure: "
                "options=Options(insecure=True), --set insecure=true"
            )
    router, publisher = sockets.router(), sockets.publisher()
    bound = [sockets.bind(router, endpoint) for endpoint in wanted]
    if local is not None:
        sockets.bind(router, parse(local, bind=True))
    published = [sockets.bind(publisher, endpoint) for endpoint in beside]
    told = [parse(uri) for uri in advertise] if advertise else bound
    hosts = [endpoint.address for endpoint in told if endpoint.scheme == "tcp"]
    if advertise and hosts:
        published = [item._replace(address=hosts[0]) if item.scheme == "tcp" else item for item in published]
    for endpoint in (*told, *published):
        if endpoint.is_any:
            raise OptionError(f"no peer can connect to {endpoint}: say with advertise= how this host is reached")
    return Listening(router, publisher, tuple(map(str, told)), tuple(map(str, published)))


def _beside(endpoint: Endpoint) -> Endpoint:
    """Return where the XPUB binds when nothing is said: the same place, another port or name."""
    if endpoint.scheme == "tcp":
        return endpoint._replace(port=0)
    return parse(f"{endpoint}.pub", bind=True)
