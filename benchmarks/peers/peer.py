"""What a peer is: three servers that take writes at a durability, and how its writers are measured.

A peer that is not installed says so in a line. Every writer has a connection of its own, to the leader.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from cli.bench_loads import keys
from cli.bench_process import Tick
from cli.bench_samples import closed_loop, summary

from ..works import Works
from .servers import program_version

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
    def versions(self) -> dict[str, str]:
        """Return of what is measured which version, once nothing is missing."""

    @abstractmethod
    def measure(self, directory: Path, durability: str, seconds: float, value_bytes: int) -> Works:
        """Start it, offer its works one by one, and end it."""


class Served(Peer):
    """A peer that is a server: its writers are connections."""

    program: ClassVar[str]
    """What `--version` is asked of."""

    def versions(self) -> dict[str, str]:
        return {self.name: program_version(self.program)}

    @abstractmethod
    def servers(self, directory: Path, durability: str) -> AbstractContextManager[str]:
        """Run three servers; give the address of the leader."""

    @abstractmethod
    def writer(self, address: str, stack: ExitStack) -> Writer:
        """Connect; what must be closed goes on the stack."""

    def measure(self, directory: Path, durability: str, seconds: float, value_bytes: int) -> Works:
        with self.servers(directory, durability) as address:
            for work in self.works:
                yield work, partial(self._load, address, work, seconds, value_bytes)

    def _load(self, address: str, work: str, seconds: float, value_bytes: int, tick: Tick) -> dict[str, Any]:
        writers, puts = WORKS[work]
        with ExitStack() as stack:
            connected = [self.writer(address, stack) for _ in range(writers)]
            return load(connected, puts, seconds, value_bytes)


def load(writers: Sequence[Writer], puts: int, seconds: float, value_bytes: int) -> dict[str, Any]:
    """Let each writer write transactions of so many puts, one after the other."""
    value = random.Random(0).randbytes(value_bytes)

    def operation(write: Writer, stream: Iterator[bytes]) -> Callable[[], None]:
        return lambda: write([(next(stream), value) for _ in range(puts)])

    operations = [operation(write, keys("sequential", number)) for number, write in enumerate(writers)]
    return summary(closed_loop(operations, seconds), puts)
