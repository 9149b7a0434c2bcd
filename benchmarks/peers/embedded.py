"""Peers that are libraries: three processes that obey, the load inside that of the leader, as with zrep."""

import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cli.bench_process import Worker, obey

from .peer import SERVERS, WORKS, Pairs, Peer, load
from .servers import await_ready, ports


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

    @abstractmethod
    def environment(self, directory: Path) -> Mapping[str, str] | None:
        """Return the environment variables of the members; None: ours."""

    def measure(
        self, directory: Path, durability: str, seconds: float, value_bytes: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
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
            leader = next(member for member in members if member.order("leads"))
            for work in self.works:
                writers, puts = WORKS[work]
                yield (
                    work,
                    leader.order("load", writers=writers, puts=puts, seconds=seconds, value_bytes=value_bytes),
                )


def serve(member: Member, leads: Callable[[], bool]) -> None:
    """Be a member until the input ends."""

    def run(writers: int, puts: int, seconds: float, value_bytes: int) -> dict[str, Any]:
        return load([member.write] * writers, puts, seconds, value_bytes)

    try:
        obey({"start": member.start, "formed": member.formed, "leads": leads, "load": run})
    finally:
        member.stop()
