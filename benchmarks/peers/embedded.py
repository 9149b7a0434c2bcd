"""Peers that are libraries: three processes that obey, the load inside that of the leader, as with zrep."""

import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cli.bench_process import Tick, Worker, obey

from ..works import Works
from .peer import SERVERS, WORKS, Pairs, Peer, load
from .servers import await_ready, ports

STUCK_S, STUCK = 20.0, 5.0
"""A load that takes so long, and so many times its time, does not end: Berkeley DB once waited for its own lock."""


class Member(Protocol):
    """One of the three, inside its process."""

    def start(self, home: str, number: int, ports: Sequence[int], durability: str) -> None: ...

    def formed(self) -> bool: ...

    def write(self, pairs: Pairs) -> None: ...

    def stop(self) -> None: ...


class Embedded(Peer):
    """A peer that is a library of Python's."""

    library: ClassVar[str]
    module: ClassVar[str]
    """Ours, whose `python -m` is a member."""

    def missing(self) -> str | None:
        if importlib.util.find_spec(self.library) is None:
            return f"{self.library} cannot be imported (pip install {self.library})"
        return None

    def versions(self) -> dict[str, str]:
        return {self.library: metadata.version(self.library)}

    @abstractmethod
    def environment(self, directory: Path) -> Mapping[str, str] | None:
        """Return the environment variables of the members; None: ours."""

    def measure(self, directory: Path, durability: str, seconds: float, value_bytes: int) -> Works:
        listed = ports(SERVERS)
        command = (sys.executable, "-m", self.module)
        with ExitStack() as stack:
            members = []
            for number in range(SERVERS):
                home = directory / f"{self.name}-{durability}-{number}"
                home.mkdir()
                member = Worker(f"{self.name} {number}", command, self.environment(directory))
                stack.callback(member.kill)
                member.order("start", home=str(home), number=number, ports=listed, durability=durability)
                members.append(member)
            await_ready(lambda: all(member.order("formed") for member in members), self.name)
            for work in self.works:
                yield work, partial(self._load, members, work, seconds, value_bytes)

    def _load(
        self, members: Sequence[Worker], work: str, seconds: float, value_bytes: int, tick: Tick
    ) -> dict[str, Any]:
        """Run a work in the process of the leader, which may be another one than at the last work."""
        leaders: list[Worker] = []

        def leads() -> bool:
            leaders[:] = [member for member in members if member.order("leads")]
            return bool(leaders)

        await_ready(leads, f"{self.name}'s leader")
        writers, puts = WORKS[work]
        result: dict[str, Any] = leaders[0].order(
            "load",
            tick,
            limit_s=STUCK_S + STUCK * seconds,
            writers=writers,
            puts=puts,
            seconds=seconds,
            value_bytes=value_bytes,
        )
        return result


def serve(member: Member, leads: Callable[[], bool]) -> None:
    """Be a member until the input ends."""

    def run(writers: int, puts: int, seconds: float, value_bytes: int) -> dict[str, Any]:
        return load([member.write] * writers, puts, seconds, value_bytes)

    try:
        obey({"start": member.start, "formed": member.formed, "leads": leads, "load": run})
    finally:
        member.stop()
