"""zrep itself, by the workloads of `zrep bench`."""

import os
from functools import partial
from pathlib import Path

from cli import bench_recovery
from cli.bench import Progress
from cli.bench_group import BenchGroup
from cli.bench_loads import Workload, catalogue
from cli.bench_process import Tick

from .goals import FEW_KEYS, LARGE_VALUES, LONG, MANY_KEYS, SEVEN_SITES, THREE_SITES
from .works import Measurement, Summary, Works

THREADS = (16, 64)
SYNC = (
    "sequential",
    *(f"{kind}-{count}" for kind in ("threads", "put") for count in THREADS),
    "batched",
    "pipelined",
    "pipelined-random",
    "pipelined-batches",
)
READS = ("reads", "reads-lmdb", "reads-fresh", "reads-fresh-lmdb")
SLICES = 9
"""In so many short turns each of these is measured: they differ by less than one minute of a machine from the next."""
PINNED = ("sequential", "threads-16", "threads-64", "put-64", "batched")
PROCESS = ("sequential", "threads-16", "threads-64", "put-64", "batched", "pipelined", "pipelined-batches")
SITES = 3
LARGE = 65_536
GROWTH = 10
"""The larger of two fills has so many times the keys of the smaller."""
FILL_PUTS, FILL_BATCHES, FILL_OUTSTANDING = 1000, 100, 20
"""Puts a batch, batches from one line of progress to the next, batches in memory at once."""
APPLIED_S = 600.0
"""How long the slowest site may be behind a fill."""


def measure(directory: Path, durability: str, seconds: float, value_bytes: int, kills: int) -> Works:
    """Run what is compared with others, on three sites."""
    with BenchGroup(SITES, directory / f"zrep-{durability}", {"durability": durability}) as group:
        if durability == "sync":
            yield "idle", partial(bench_recovery.idle, group, seconds)
        for workload in _workloads(SYNC if durability == "sync" else PROCESS, value_bytes):
            yield workload.name, _load(group, workload, seconds)
        if durability == "sync":
            yield "failover", partial(bench_recovery.failover, group, kills)
            yield "catch-up", partial(bench_recovery.catch_up, group, max(int(seconds * 500), 1))


def reads(directory: Path, seconds: float, value_bytes: int) -> Works:
    """Read what one site holds and nothing else, and by turns the same in an environment of lmdb's own."""
    with BenchGroup(1, directory / "zrep-reads", {}) as group:
        for workload in SLICES * _workloads(READS, value_bytes):
            yield workload.name, _load(group, workload, seconds / SLICES)


def pinned(directory: Path, seconds: float, value_bytes: int) -> Works:
    """Run what has most to do with threads on three sites that stay on one core each."""
    with BenchGroup(SITES, directory / "zrep-pinned", {}, pin=True) as group:
        for workload in _workloads(PINNED, value_bytes):
            yield workload.name, _load(group, workload, seconds)


def long(directory: Path, seconds: float, value_bytes: int) -> Works:
    """Run 16 threads on three sites, and nothing else before or after."""
    (threads,) = _workloads(("threads-16",), value_bytes)
    with BenchGroup(SITES, directory / "zrep-long", {}) as group:
        yield LONG, _load(group, threads, seconds)


def grown(directory: Path, seconds: float, value_bytes: int, keys: int) -> Works:
    """Run 16 threads on three sites and on seven, with large values, and at random among few keys and many."""
    (threads,) = _workloads(("threads-16",), value_bytes)
    with BenchGroup(SITES, directory / "zrep-three", {}) as group:
        yield THREE_SITES, _load(group, threads, seconds)
        yield LARGE_VALUES, _load(group, threads._replace(value_bytes=LARGE), seconds)
    with BenchGroup(7, directory / "zrep-seven", {}) as group:
        yield SEVEN_SITES, _load(group, threads, seconds)
    few, many = -(-keys // GROWTH), keys
    with BenchGroup(SITES, directory / "zrep-keys", {}) as group:
        yield FEW_KEYS, _among(group, threads, 0, few, seconds)
        yield MANY_KEYS, _among(group, threads, few, many, seconds)


def _workloads(names: tuple[str, ...], value_bytes: int) -> list[Workload]:
    listed = {workload.name: workload for workload in catalogue(THREADS, value_bytes)}
    return [listed[name] for name in names]


def _load(group: BenchGroup, workload: Workload, seconds: float) -> Measurement:
    return lambda tick: group.load(workload, seconds, tick) | {"value_bytes": workload.value_bytes}


def _among(group: BenchGroup, threads: Workload, filled: int, keys: int, seconds: float) -> Measurement:
    """Return the measurement of random keys among so many, of which `filled` are there."""

    def measurement(tick: Tick) -> Summary:
        _fill(group, threads.value_bytes, filled, keys)
        return _load(group, threads._replace(order="random", among=keys), seconds)(tick) | {"keys": keys}

    return measurement


def _fill(group: BenchGroup, value_bytes: int, filled: int, keys: int) -> None:
    """Write ascending keys until there are so many, and wait until every site has applied and written them."""
    master = group.master()
    while filled < keys:
        puts = min(FILL_PUTS, keys - filled)
        batches = min(FILL_BATCHES, (keys - filled) // puts)
        batch = Workload("fill", "submit", "", puts=puts, outstanding=FILL_OUTSTANDING, value_bytes=value_bytes)
        with Progress(f"zrep, {filled:,} of {keys:,} keys") as progress:
            master.order("fill", progress.tick, workload=list(batch), batches=batches, first=filled)
        filled += puts * batches
    end = master.order("status")["end"]
    with Progress("zrep, all sites apply") as progress:
        for site in group.sites:
            site.order("applied", progress.tick, lsn=end, timeout_s=APPLIED_S)
    # Else the disk is still busy with the fill while what comes after it is measured.
    os.sync()
