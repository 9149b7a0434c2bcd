"""The wire: one site's ZeroMQ sockets, its connections and their life.

`bus` is the one object the engine uses; `arrivals` is what it hands over. Below it: `acquaintance` (who is
connected), `peer` (one other site), `broadcast` (XPUB and SUB), `readers` (the poll), `listen` (binds),
`sockets` (options), `resolver` (names), `wake` (the wake-up), `forks` (what a child lets go of).
"""

from zrep.bus.arrivals import Arrival, ClientRequest, Connected, ConnectFailed, Disconnected, DuplicateSite
from zrep.bus.bus import Bus

__all__ = ["Arrival", "Bus", "ClientRequest", "ConnectFailed", "Connected", "Disconnected", "DuplicateSite"]
