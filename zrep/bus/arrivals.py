"""What the bus hands to the engine: messages, and what the sockets tell of sites and strangers."""

from typing import NamedTuple, TypeAlias

from zrep.codec import Request
from zrep.ids import SiteId
from zrep.messages import Hello, Message


class Connected(NamedTuple):
    """HELLO was exchanged both ways and each hears the other's broadcasts."""

    site: SiteId
    hello: Hello


class Disconnected(NamedTuple):
    """A connected site's sockets are gone, or it is silent. A hint, never a proof."""

    site: SiteId
    reason: str


class ConnectFailed(NamedTuple):
    """Nobody answers at an endpoint, or who answers is not of our group. Told once until it changes."""

    endpoint: str
    reason: str
    refused: bool = False
    """Trying again will not help: it belongs to another group."""


class DuplicateSite(NamedTuple):
    """Two living processes speak with one site id (R1)."""

    site: SiteId


class ClientRequest(NamedTuple):
    """A foreign program asks; answer with `Bus.reply(route, …)`."""

    route: bytes
    request: Request


Arrival: TypeAlias = Message | Connected | Disconnected | ConnectFailed | DuplicateSite | ClientRequest
