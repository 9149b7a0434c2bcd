"""What the machine wants done, in the order of its obligations.

The driver, which is the engine or the simulated world, performs one `Effects` in this order:

1. save `meta`, durably;
2. send `early`: messages whose content is not a claim of durability (live LOG, HEARTBEAT);
3. flush the log if it is dirty, then take the machine's effects again: what is durable now adds some;
4. send `sends`: everything else. What it says is now durable: *persist before you speak*;
5. deliver `events`, act on `work`.

A handler cannot get this wrong: it only says what to send, and `State.send` files it by its type.
"""

from zrep.events import Event
from zrep.messages import Message, Type
from zrep.ports import Meta

EARLY = frozenset({Type.LOG, Type.HEARTBEAT})
"""A live record may travel while the master's own flush runs: nobody counts it for the master before."""


class Effects:
    """One turn's obligations; empty ones are cheap."""

    __slots__ = ("any", "early", "events", "meta", "sends", "work")

    def __init__(self) -> None:
        self.any = False
        """Whether there is something to do; set by who adds it."""
        self.meta: Meta | None = None
        self.early: list[Message] = []
        self.sends: list[Message] = []
        self.events: list[Event] = []
        self.work: list[Message] = []
        """Admitted messages that ask something of the engine: FORWARD, READ_REQ, and their replies."""


NOTHING = Effects()
"""Nothing to do. Everybody's, so nobody adds to it."""
