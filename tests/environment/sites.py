"""Three sites in one process, whose cables can be pulled; the first alone can be master, unless told otherwise."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq

import zrep
from tests.environment.conftest import MAP_BYTES
from zrep.messages import Message
from zrep.options import Options

DEADLINE_S = 10.0
QUICK = Options(
    heartbeat_ms=20, election_timeout_ms=400, quorum_timeout_ms=400, durability="process", map_bytes=MAP_BYTES
)
_T = TypeVar("_T")


def eventually(condition: Callable[[], _T], what: str) -> _T:
    """Return what `condition` says as soon as that is true; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.002)
    return found


class Cable:
    """What connects a site to the others: pulled, nothing goes through and nobody is told."""

    def __init__(self, site: zrep.Site) -> None:
        self.deaf = self.mute = False
        transport: Any = site.env.engine.transport
        send, receive = transport.send, transport.receive

        def receive_unless_deaf(now: int, limit: int) -> list[Any]:
            return [found for found in receive(now, limit) if not (self.deaf and isinstance(found, Message))]

        transport.send = lambda message: True if self.mute else send(message)
        transport.receive = receive_unless_deaf

    def pull(self) -> None:
        self.deaf = self.mute = True

    def plug_in(self) -> None:
        self.deaf = self.mute = False


class Sites:
    """A group of three, a, b and c, talking inproc. Their homes are directories of `root`, or given."""

    def __init__(
        self, root: Path, options: Options = QUICK, homes: Sequence[Path] = (), priorities: Sequence[int] = (100, 0, 0)
    ) -> None:
        self.homes = tuple(homes) or tuple(root / name for name in "abc")
        self.all: list[zrep.Site] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        addresses = [f"inproc://{name}" for name in "abc"]
        for home, address, priority in zip(self.homes, addresses, priorities, strict=True):
            known = (home / "site.meta").exists()
            self.all.append(
                zrep.Site(
                    home,
                    bind=address,
                    create=not known and not self.all,
                    join=() if known or not self.all else addresses[:1],
                    priority=priority,
                    options=options,
                    context=self._context,
                )
            )
        self.cables: list[Cable] = []

    def __enter__(self) -> "Sites":
        try:
            for site in self.all:
                site.start()
                self.cables.append(Cable(site))
            eventually(lambda: len(self.all[0].sites()) == 3 and self.master is self.all[0], "the first is master")
            eventually(lambda: all(info.role == "voter" for info in self.all[0].sites()), "all three vote")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for site in self.all:
            site.stop()
        self._context.term()

    @property
    def master(self) -> zrep.Site | None:
        """The site that leads the newest reign and can make writes permanent."""
        able = [site for site in self.all if site.role == "master" and site.env.engine.replica.authoritative]
        return max(able, key=lambda site: site.env.engine.replica.gen, default=None)

    def digests(self) -> list[Any]:
        """Wait until all three have applied the same, and return the digest of each."""
        engines = [site.env.engine for site in self.all]
        eventually(lambda: len({engine.store.applied.tip.lsn for engine in engines}) == 1, "all have applied the same")
        return [engine.call(engine.store.digest) for engine in engines]
