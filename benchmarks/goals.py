"""The goals: which work is compared with what, and what is wanted. A goal that is missed is told, never asserted.

ratio     ours / theirs, of throughput; at least `wanted`
bound     a figure of ours alone; at most `wanted`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Measured = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(who, durability, work) → summary."""

LMDB, ZREP = "lmdb", "zrep"
SEVEN_SITES, LARGE_VALUES = "7-sites", "64-KiB"


class Ratio(NamedTuple):
    """Ours to theirs."""

    goal: str
    work: str
    who: str
    wanted: float
    durability: str = "sync"
    their_work: str = ""
    """If it is not named as ours."""


class Bound(NamedTuple):
    """A figure of ours: the path to it in the summary of a work, or the quotient of two such paths."""

    goal: str
    work: str
    what: str
    path: tuple[str, ...]
    wanted: float
    scale: float = 1.0
    over: tuple[str, ...] = ()


class Line(NamedTuple):
    """How one goal stands."""

    goal: str
    work: str
    durability: str
    ours: float
    beside: str
    theirs: float | None
    figure: float
    wanted: str
    met: bool


RATIOS = (
    *(Ratio("P1", "sequential", who, 1.0) for who in ("etcd", "berkeley", "redis")),
    *(Ratio("P2", work, "redis", 1.1) for work in ("threads-16", "threads-64")),
    *(Ratio("P2", work, "etcd", 3.0) for work in ("threads-16", "threads-64")),
    Ratio("P2", "threads-16", "berkeley", 3.0),
    Ratio("P2", "threads-64", "berkeley", 5.0),
    Ratio("P3", "batched", "redis", 2.0),
    Ratio("P3", "batched", "etcd", 4.0),
    Ratio("P3", "batched", "berkeley", 6.0),
    Ratio("P4", "pipelined", LMDB, 0.3),
    Ratio("P4", "pipelined-random", LMDB, 0.6),
    Ratio("P4", "pipelined", "etcd", 20.0, their_work="threads-64"),
    Ratio("P5", "sequential", "nats", 2.0, "process"),
    Ratio("P5", "sequential", "berkeley", 0.8, "process"),
    Ratio("P5", "sequential", "redis", 1.0, "process"),
    Ratio("P5", "threads-64", "nats", 1.5, "process"),
    Ratio("P5", "threads-64", "redis", 1.5, "process"),
    Ratio("P5", "threads-64", "pysyncobj", 1.5, "process"),
    Ratio("P5", "pipelined", "nats", 10.0, "process", "many"),
    Ratio("P6", "reads", LMDB, 0.98),
    Ratio("P6", "reads-fresh", LMDB, 0.8),
    Ratio("P8", "catch-up", LMDB, 0.75, their_work="pipelined-random"),
)
BOUNDS = (
    Bound("P7", "failover", "p50, ms", ("latency_ns", "p50"), 20, 1e-6),
    Bound("P7", "failover", "p99, ms", ("latency_ns", "p99"), 100, 1e-6),
    Bound("P9", "idle", "% of a core", ("cpu_percent",), 1),
    Bound("P9", "idle", "MB", ("rss_mb",), 60),
    Bound("P11", "threads-16", "p99 / p50", ("latency_ns", "p99"), 3, 1.0, ("latency_ns", "p50")),
)


def lines(measured: Measured) -> Iterator[Line]:
    """Return how the goals stand of which both sides were measured, in their order."""
    found = [*_ratios(measured, RATIOS), *_bounds(measured, BOUNDS), *_grown(measured)]
    yield from sorted(found, key=lambda line: (int(line.goal[1:]), line.durability))


def _ratios(measured: Measured, ratios: Sequence[Ratio]) -> Iterator[Line]:
    for goal, work, who, wanted, durability, their_work in ratios:
        ours = measured.get((ZREP, durability, work))
        theirs = measured.get((who, durability, their_work or work))
        if ours and theirs:
            a, b = ours["per_second"], theirs["per_second"]
            beside = f"{who} {their_work}".strip()
            yield Line(goal, work, durability, a, beside, b, a / b, f"≥ {wanted:g}", a >= wanted * b)


def _bounds(measured: Measured, bounds: Sequence[Bound]) -> Iterator[Line]:
    for goal, work, what, path, wanted, scale, over in bounds:
        ours = measured.get((ZREP, "sync", work))
        if ours:
            value = _at(ours, path) * scale / (_at(ours, over) if over else 1)
            yield Line(goal, work, "sync", value, what, None, value, f"≤ {wanted:g}", value <= wanted)


def _grown(measured: Measured) -> Iterator[Line]:
    """P10: 16 threads on seven sites, and with values of 64 KiB, beside three sites and 100 bytes."""
    small, sites, values = (measured.get((ZREP, "sync", work)) for work in ("threads-16", SEVEN_SITES, LARGE_VALUES))
    if small and sites:
        ratio = _at(sites, ("latency_ns", "p50")) / _at(small, ("latency_ns", "p50"))
        yield Line("P10", SEVEN_SITES, "sync", ratio, "p50 of 3 sites", None, ratio, "≤ 1.5", ratio <= 1.5)
    if small and values:
        ratio = small["per_second"] * small["value_bytes"] / (values["per_second"] * values["value_bytes"])
        yield Line("P10", LARGE_VALUES, "sync", ratio, "bytes/s of 100 B", None, ratio, "≤ 2", ratio <= 2)


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = summary
    for name in path:
        value = value[name]
    return float(value)
