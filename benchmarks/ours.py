"""zrep itself, by the workloads of `zrep bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli import bench_recovery
from cli.bench_group import BenchGroup
from cli.bench_loads import catalogue
from cli.bench_process import Tick

from .goals import LARGE_VALUES, SEVEN_SITES

THREADS = (16, 64)
SYNC = (
    "sequential",
    *(f"{kind}-{count}" for kind in ("threads", "put") for count in THREADS),
    "batched",
    "pipelined",
    "pipelined-random",
    "reads",
    "reads-fresh",
)
PROCESS = ("sequential", "threads-16", "threads-64", "put-64", "batched", "pipelined")
SITES = 3
KILLS = 5
LARGE = 65_536


def measure(
    directory: Path, durability: str, seconds: float, value_bytes: int, tick: Tick
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run what is compared with others, on three sites; yield (work, summary)."""
    listed = {workload.name: workload for workload in catalogue(THREADS, value_bytes)}
    with BenchGroup(SITES, directory / f"zrep-{durability}", {"durability": durability}) as group:
        if durability == "sync":
            yield "idle", bench_recovery.idle(group, seconds, tick)
        for name in SYNC if durability == "sync" else PROCESS:
            yield name, group.load(listed[name], seconds, tick) | {"value_bytes": value_bytes}
        if durability == "sync":
            yield "failover", bench_recovery.failover(group, KILLS, tick)
            yield "catch-up", bench_recovery.catch_up(group, max(int(seconds * 500), 1), tick)


def grown(directory: Path, seconds: float, value_bytes: int, tick: Tick) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run 16 threads on seven sites, and with large values on three."""
    threads = next(workload for workload in catalogue(THREADS, value_bytes) if workload.name == "threads-16")
    with BenchGroup(7, directory / "zrep-seven", {}) as group:
        yield SEVEN_SITES, group.load(threads, seconds, tick) | {"value_bytes": value_bytes}
    with BenchGroup(SITES, directory / "zrep-large", {}) as group:
        large = threads._replace(value_bytes=LARGE)
        yield LARGE_VALUES, group.load(large, seconds, tick) | {"value_bytes": LARGE}
