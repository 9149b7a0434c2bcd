"""Works: what is measured of one product, one thing after the other, and what came of it.

A work that fails is left out with what it said; the rest goes on: a run takes many minutes. What is measured
in several rounds is what the middle one of them says: a machine has minutes in which it does half as much.
"""

from collections.abc import Callable, Iterable, Sequence
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
        self._rounds: dict[tuple[str, str, str], list[Summary]] = {}
        self.left_out: list[str] = []
        """A sentence each."""

    @property
    def measured(self) -> dict[tuple[str, str, str], Summary]:
        """(who, durability, work) → summary: of several rounds that with the median throughput, and their range."""
        return {name: _middle(summaries) for name, summaries in self._rounds.items()}

    def take(self, who: str, durability: str, works: Works) -> None:
        """Measure all these works."""
        name = f"{who}, {durability}"
        rest = name
        try:
            for work, measure in works:
                rest = f"{name}, what follows {work}"
                try:
                    with Progress(f"{name}, {work}") as progress:
                        summary = measure(progress.tick)
                    self._rounds.setdefault((who, durability, work), []).append(summary)
                except Exception as error:
                    self.leave_out(f"{name}, {work}", _told(error))
        except Exception as error:
            self.leave_out(rest, _told(error))

    def leave_out(self, what: str, why: str) -> None:
        """Note why something is not measured."""
        sentence = f"{what}, is left out: {why}"
        if sentence not in self.left_out:
            self.left_out.append(sentence)


def _middle(summaries: Sequence[Summary]) -> Summary:
    if len(summaries) == 1:
        return summaries[0]
    ordered = sorted(summaries, key=lambda summary: summary.get("per_second", 0.0))
    rates = [summary["per_second"] for summary in ordered if "per_second" in summary]
    spread = {"lowest": rates[0], "highest": rates[-1]} if rates else {}
    return ordered[(len(ordered) - 1) // 2] | {"rounds": len(ordered)} | spread


def _told(error: Exception) -> str:
    return f"it failed with {type(error).__name__}: {error}"
