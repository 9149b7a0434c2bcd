"""What a peer is: three servers that take writes at a durability, and how its writers are measured.

A peer that is not installed says so in a line. Every writer has a connection of its own, to the leader.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, ClassVar

from cli.bench_loads import keys
from cli.bench_samples import closed_loop, summary

SERVERS = 3
Pairs = Sequence[tuple[bytes, bytes]]
Writer = Callable[[Pairs], None]
"""Write pairs together, as one transaction, and return when they are acknowledged."""

WORKS: dict[str, tuple[int, int]] = {
    "sequential": (1, 1),
    "threads-16": (16, 1),
    "threads-64": (64, 1),
    "batched": (1, 100),
    "many": (16, 100),
}
"""Writers and puts a transaction of each work; "many" is the most that peers without a pipeline take."""


class Peer(ABC):
    """One product to be measured beside zrep."""

    name: ClassVar[str]
    durabilities: ClassVar[Sequence[str]]
    """What of "sync" (flushed before the acknowledgement) and "process" it can do."""
    works: ClassVar[Sequence[str]] = tuple(WORKS)

    @abstractmethod
    def missing(self) -> str | None:
        """Return what must be installed before it can be measured; None: nothing."""

    @abstractmethod
    def measure(
        self, directory: Path, durability: str, seconds: float, value_bytes: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Start it, run its works one by one, and end it; yield (work, summary)."""


class Served(Peer):
    """A peer that is a server: its writers are connections."""

    @abstractmethod
    def servers(self, directory: Path, durability: str) -> AbstractContextManager[str]:
        """Run three servers; give the address of the leader."""

    @abstractmethod
    def writer(self, address: str, stack: ExitStack) -> Writer:
        """Connect; what must be closed goes on the stack."""

    def measure(
        self, directory: Path, durability: str, seconds: float, value_bytes: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.servers(directory, durability) as address:
            for work in self.works:
                writers, puts = WORKS[work]
                with ExitStack() as stack:
                    connected = [self.writer(address, stack) for _ in range(writers)]
                    yield work, load(connected, puts, seconds, value_bytes)


def load(writers: Sequence[Writer], puts: int, seconds: float, value_bytes: int) -> dict[str, Any]:
    """Let each writer write transactions of so many puts, one after the other."""
    value = random.Random(0).randbytes(value_bytes)

    def operation(write: Writer, stream: Iterator[bytes]) -> Callable[[], None]:
        return lambda: write([(next(stream), value) for _ in range(puts)])

    operations = [operation(write, keys("sequential", number)) for number, write in enumerate(writers)]
    return summary(closed_loop(operations, seconds), puts)
