"""Some buses in one process, turned by hand until something is true."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import zmq

from zrep.bus import Arrival, Bus
from zrep.bus.sockets import Socket
from zrep.ids import GroupId, SiteId
from zrep.messages import TYPE_OF, MasterReq, Message
from zrep.records import Member, Record

GROUP = GroupId("group-1")
A, B, C = SiteId("a" * 32), SiteId("b" * 32), SiteId("c" * 32)
TIMEOUT_S = 10.0
_T = TypeVar("_T")


class Net:
    """Buses by site, and all that arrived at each."""

    def __init__(self, scheme: str, directory: str) -> None:
        self.scheme = scheme
        self.context: zmq.Context[Socket] | None = zmq.Context() if scheme == "inproc" else None
        self.buses: dict[SiteId, Bus] = {}
        self.seen: dict[SiteId, list[Arrival]] = {}
        self.directory = directory
        self._numbers = iter(range(1, 1000))
        self.rng = random.Random(1)

    def endpoint(self) -> str:
        """Return an address to bind to."""
        number = next(self._numbers)
        return {
            "tcp": "tcp://127.0.0.1:0",
            "ipc": f"ipc://{self.directory}/{number}",
            "inproc": f"inproc://{number}",
        }[self.scheme]

    def bus(
        self, site: SiteId, *, run: int = 1, bind: str | None = None, group: GroupId = GROUP, **options: Any
    ) -> Bus:
        """Start a run of a site; `run` 2 is after its restart."""
        bus = Bus(
            bind=[bind or self.endpoint()],
            site=site,
            incarnation=run << 32 | 7,
            group=group,
            rng=self.rng,
            context=self.context,
            **options,
        )
        self.buses[site] = bus
        self.seen[site] = []
        return bus

    def members(self, *sites: SiteId) -> None:
        """Tell each bus that these are the members."""
        listed = [Member(site, endpoints=self.buses[site].endpoints) for site in sites or self.buses]
        for bus in self.buses.values():
            bus.members(listed)

    def turn(self, timeout_ms: int = 1) -> None:
        for site, bus in self.buses.items():
            bus.poll(timeout_ms)
            now = time.monotonic_ns()
            while arrivals := bus.receive(now, 64):
                self.seen[site] += arrivals
            bus.tick(now)

    def until(self, condition: Callable[[], _T], timeout_s: float = TIMEOUT_S) -> _T:
        """Turn the buses until the condition is true, and return what it was; fail at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s; arrived: {self.seen}"
            self.turn()
        return found

    def until_connected(self, *sites: SiteId) -> None:
        """Turn until all these, or all there are, are connected with one another."""
        wanted = set(sites or self.buses)
        self.until(lambda: all(self.buses[site].connected() >= wanted - {site} for site in wanted))

    def settle(self) -> None:
        """Turn until nothing has arrived for a while that is long on one machine."""
        quiet = time.monotonic() + 0.1
        counted = self.counted()
        while time.monotonic() < quiet:
            self.turn()
            if self.counted() != counted:
                counted, quiet = self.counted(), time.monotonic() + 0.1

    def counted(self) -> int:
        return sum(sum(bus.counters.values()) + len(self.seen[site]) for site, bus in self.buses.items())

    def got(self, site: SiteId, kind: type[_T]) -> list[_T]:
        """Return what of one kind has arrived at a site."""
        return [arrival for arrival in self.seen[site] if isinstance(arrival, kind)]

    def close(self, *sites: SiteId) -> None:
        for site in sites or tuple(self.buses):
            self.buses.pop(site).close()
        if not sites and self.context is not None:
            self.context.term()


def message(
    bus: Bus,
    sender: SiteId,
    to: SiteId | None,
    fields: Any = None,
    records: Sequence[Record] = (),
    run: int = 1,
    **changes: Any,
) -> Message:
    """Build a message of a site's run."""
    fields = MasterReq() if fields is None else fields
    made = Message(TYPE_OF[type(fields)], bus.group, sender, run << 32 | 7, to, 1, 0, 0, fields, tuple(records))
    return made._replace(**changes)


def nets(scheme: str, directory: str) -> Iterator[Net]:
    net = Net(scheme, directory)
    try:
        yield net
    finally:
        net.close()
