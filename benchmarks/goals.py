"""The goals: which work is compared with what, and what is wanted. A goal that is missed is told, never asserted.

ratio     ours / theirs, of throughput; at least `wanted`
bound     a figure of ours alone; at most `wanted`
growth    how many times worse ours is when something has grown; at most `FALLS` and `SLOWER`
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Measured = Mapping[tuple[str, str, str], Mapping[str, Any]]
"""(who, durability, work) → summary."""

LMDB, ZREP = "lmdb", "zrep"
THREE_SITES, SEVEN_SITES, LARGE_VALUES, FEW_KEYS, MANY_KEYS = "3-sites", "7-sites", "64-KiB", "few-keys", "many-keys"
LONG = "threads-16-long"


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
    or_else: str = ""
    """The work that it is taken from if its own was not measured."""


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


_WRITERS = (("threads", 16), ("put", 16), ("threads", 64), ("put", 64))
"""`begin`, `put`, `commit`, and `env.put`: who has one call for a put is compared with both."""
RATIOS = (
    *(Ratio("P1", "sequential", who, 1.0) for who in ("etcd", "berkeley", "redis")),
    *(Ratio("P2", f"{kind}-{count}", "redis", 1.1, their_work=f"threads-{count}") for kind, count in _WRITERS),
    *(Ratio("P2", f"{kind}-{count}", "etcd", 3.0, their_work=f"threads-{count}") for kind, count in _WRITERS),
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
    *(
        Ratio("P5", work, who, 1.5, "process", "threads-64")
        for who in ("nats", "redis", "pysyncobj")
        for work in ("threads-64", "put-64")
    ),
    Ratio("P5", "pipelined", "nats", 10.0, "process", "many"),
    Ratio("P6", "reads", ZREP, 0.98, their_work="reads-lmdb"),
    Ratio("P6", "reads-fresh", ZREP, 0.8, their_work="reads-fresh-lmdb"),
    Ratio("P8", "catch-up", LMDB, 0.75, their_work="pipelined-random"),
)
BOUNDS = (
    Bound("P7", "failover", "p50, ms", ("latency_ns", "p50"), 20, 1e-6),
    Bound("P7", "failover", "p99, ms", ("latency_ns", "p99"), 100, 1e-6),
    Bound("P9", "idle", "% of a core", ("cpu_percent",), 1),
    Bound("P9", "idle", "MB", ("rss_mb",), 60),
    Bound("P11", LONG, "p99 / p50", ("latency_ns", "p99"), 3, 1.0, ("latency_ns", "p50"), "threads-16"),
)
GROWTHS = ((THREE_SITES, SEVEN_SITES), (THREE_SITES, LARGE_VALUES), (FEW_KEYS, MANY_KEYS))
"""The work before, and the one after something has grown (P10)."""
FALLS, SLOWER = 2.0, 1.5
"""How many times fewer bytes a second, and how many times the median latency."""


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
            beside = f"{who} {their_work}" if their_work not in ("", work) else who
            yield Line(goal, work, durability, a, beside, b, a / b, f"≥ {wanted:g}", a >= wanted * b)


def _bounds(measured: Measured, bounds: Sequence[Bound]) -> Iterator[Line]:
    for goal, own, what, path, wanted, scale, over, or_else in bounds:
        work = own if (ZREP, "sync", own) in measured else or_else
        ours = measured.get((ZREP, "sync", work))
        if ours:
            value = _at(ours, path) * scale / (_at(ours, over) if over else 1)
            yield Line(goal, work, "sync", value, what, None, value, f"≤ {wanted:g}", value <= wanted)


def _grown(measured: Measured) -> Iterator[Line]:
    for small, large in GROWTHS:
        before, after = measured.get((ZREP, "sync", small)), measured.get((ZREP, "sync", large))
        if before and after:
            a, b = (each["per_second"] * each["value_bytes"] for each in (after, before))
            beside, wanted = f"{small}, bytes/s", f"≤ {FALLS:g}"
            yield Line("P10", large, "sync", a, beside, b, b / a, wanted, b <= FALLS * a)
            a, b = (_at(each, ("latency_ns", "p50")) * 1e-6 for each in (after, before))
            beside, wanted = f"{small}, p50, ms", f"≤ {SLOWER:g}"
            yield Line("P10", large, "sync", a, beside, b, a / b, wanted, a <= SLOWER * b)


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = summary
    for name in path:
        value = value[name]
    return float(value)
