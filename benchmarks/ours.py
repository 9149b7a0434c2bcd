"""zrep itself, by the workloads of `zrep bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli import bench_recovery
from cli.bench_group import BenchGroup
from cli.bench_loads import Workload, catalogue
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
            yield name, load(group, listed[name], seconds, tick)
        if durability == "sync":
            yield "failover", bench_recovery.failover(group, KILLS, tick)
            yield "catch-up", bench_recovery.catch_up(group, max(int(seconds * 500), 1), tick)


def grown(directory: Path, seconds: float, value_bytes: int, tick: Tick) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run 16 threads on seven sites, and with large values on three."""
    threads = next(workload for workload in catalogue(THREADS, value_bytes) if workload.name == "threads-16")
    with BenchGroup(7, directory / "zrep-seven", {}) as group:
        yield SEVEN_SITES, load(group, threads, seconds, tick)
    with BenchGroup(SITES, directory / "zrep-large", {}) as group:
        yield LARGE_VALUES, load(group, threads._replace(value_bytes=LARGE), seconds, tick)


def load(group: BenchGroup, workload: Workload, seconds: float, tick: Tick) -> dict[str, Any]:
    """Run one workload at the master."""
    result: dict[str, Any] = group.master().order("load", tick, workload=list(workload), seconds=seconds)
    return result | {"value_bytes": workload.value_bytes}
