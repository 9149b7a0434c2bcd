"""Works: what is measured of one product, one thing after the other, and what came of it.

A work that fails is left out with what it said; the rest goes on: a run takes many minutes.
"""

from collections.abc import Callable, Iterable
from typing import Any

from cli.bench import Progress
from cli.bench_process import Tick

Summary = dict[str, Any]
Measurement = Callable[[Tick], Summary]
Works = Iterable[tuple[str, Measurement]]
"""Names, and how each is measured; what a work needs runs until the next one is asked for."""


class Results:
    """What was measured so far, and what could not be."""

    def __init__(self) -> None:
        self.measured: dict[tuple[str, str, str], Summary] = {}
        """(who, durability, work) → summary."""
        self.left_out: list[str] = []
        """A sentence each."""

    def take(self, who: str, durability: str, works: Works) -> None:
        """Measure all these works."""
        name = f"{who}, {durability}"
        rest = name
        try:
            for work, measure in works:
                rest = f"{name}, what follows {work}"
                try:
                    with Progress(f"{name}, {work}") as progress:
                        self.measured[who, durability, work] = measure(progress.tick)
                except Exception as error:
                    self.leave_out(f"{name}, {work}", _told(error))
        except Exception as error:
            self.leave_out(rest, _told(error))

    def leave_out(self, what: str, why: str) -> None:
        """Note why something is not measured."""
        self.left_out.append(f"{what}, is left out: {why}")


def _told(error: Exception) -> str:
    return f"it failed with {type(error).__name__}: {error}"
