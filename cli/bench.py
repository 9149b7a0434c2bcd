"""`zrep bench`: a group of real site processes, measured; `zrep bench compare`: two results side by side.

Decides which workloads run, in which order, and what is shown. The load generator is
inside the master's process, as in a program that embeds a site; "remote" comes from this process.
"""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import bench_plot, bench_recovery, bench_report, output
from .bench_group import BenchGroup
from .bench_loads import Workload, catalogue, run_remote
from .bench_process import Tick
from .bench_samples import summary

RECOVERY = {
    "idle": "the most expensive site of a group that does nothing",
    "failover": "kill -9 of the master to the next acknowledged write",
    "catch-up": "random puts that a site has missed, from its start",
}
BATCHES_MISSED_A_SECOND = 500

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def bench(
    context: typer.Context,
    sites: Annotated[int, typer.Option("--sites", metavar="N", min=1, max=9, help="How many sites.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.01, help="Time for each workload.")] = 3.0,
    workload: Annotated[
        list[str] | None, typer.Option("--workload", metavar="NAME", help="Only this one; repeat. Else all.")
    ] = None,
    durability: Annotated[
        str, typer.Option("--durability", metavar="sync|process", help="What a commit means.")
    ] = "sync",
    threads: Annotated[str, typer.Option("--threads", metavar="N,N…", help="Of the threads workloads.")] = "16,64",
    value_bytes: Annotated[int, typer.Option("--value-bytes", metavar="N", min=1, help="Size of a value.")] = 100,
    kills: Annotated[int, typer.Option("--kills", metavar="N", min=1, help="How often the master is killed.")] = 5,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One option; repeat.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Keep each site's process on one core (Linux).")] = False,
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="Whose disk to measure; else that of TMPDIR.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the result.")] = None,
    json: output.Json = False,
) -> int | None:
    """Measure a local group. Throughput and latency of real site processes, fail-over and catch-up.

    Workloads: sequential, threads-N, put-N, batched, pipelined, pipelined-random, pipelined-batches, mixed,
    reads, reads-lmdb, reads-fresh, reads-fresh-lmdb, remote, remote-16, idle, failover, catch-up.
    """
    if context.invoked_subcommand is not None:
        return None
    options = _options(durability, set_ or [])
    chosen = _chosen(catalogue(_counts(threads), value_bytes), workload or [], sites)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = bench_report.conditions(sites, seconds, value_bytes, options, pinned=pin)
    with tempfile.TemporaryDirectory(prefix="zrep-bench-", dir=directory) as home:
        report["results"] = _measure(chosen, BenchGroup(sites, Path(home), options, pin=pin), seconds, kills)
    if json:
        output.show_json(report)
    else:
        _show(report)
    if plot is not None:
        plot.write_text(bench_plot.svg(report), encoding="utf-8")
    return 0


@app.command("compare")
def compare(
    one: Annotated[Path, typer.Argument(metavar="A.json", help="A result, by `zrep bench --json`.")],
    other: Annotated[Path, typer.Argument(metavar="B.json", help="Another.")],
    json: output.Json = False,
) -> None:
    """Show two results side by side. The ratios are of B to A."""
    comparison = bench_report.compare(bench_report.load(one), bench_report.load(other))
    if json:
        output.show_json(comparison)
        return
    if comparison["differing"]:
        print(f"taken under different conditions: {', '.join(comparison['differing'])}")
    output.show_table(bench_report.COMPARED, bench_report.compared_rows(comparison))


def _options(durability: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return all options of the sites, as JSON has them."""
    from zrep.options import Options

    base = Options.from_mapping({"durability": durability}, "--durability", Options.from_environ())
    options = Options.from_settings(settings, "--set", base)
    return asdict(options) | {"ack_policy": options.ack_policy.value}


def _counts(text: str) -> list[int]:
    from zrep.errors import OptionError

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not all(1 <= count <= 1024 for count in counts):
        raise OptionError(f"--threads {text} is not a list of numbers from 1 to 1024: give for example 1,4,16,64")
    return sorted(set(counts))


def _chosen(workloads: list[Workload], names: Sequence[str], sites: int) -> list[Workload]:
    """Return the workloads of these names, or all that so many sites can run. "threads" names all of its kind.

    The idle group is measured while it is fresh, and sites die last.
    """
    from zrep.errors import OptionError

    idle, *deadly = (Workload(name, name, about) for name, about in RECOVERY.items())
    workloads = [idle, *workloads, *(deadly if sites >= 3 else [])]
    known = {workload.name for workload in workloads} | {"threads"}
    for name in names:
        if name not in known:
            raise OptionError(f"no workload of {sites} sites is named {name!r}; they are {', '.join(sorted(known))}")
    return [each for each in workloads if not names or each.name in names or each.name.rpartition("-")[0] in names]


def _measure(workloads: Sequence[Workload], group: BenchGroup, seconds: float, kills: int) -> list[dict[str, Any]]:
    """Run one workload after the other on one group."""
    results = []
    with group:
        for number, workload in enumerate(workloads, 1):
            with Progress(f"{number}/{len(workloads)} {workload.name}") as progress:
                measured = _run(group, workload, seconds, kills, progress.tick)
            about = {"name": workload.name, "about": workload.about, "threads": workload.threads}
            about["kind"] = f"{workload.kind}-{workload.puts}"
            results.append(about | measured)
    return results


def _run(group: BenchGroup, workload: Workload, seconds: float, kills: int, tick: Tick) -> dict[str, Any]:
    recovery: dict[str, Callable[[], dict[str, Any]]] = {
        "idle": lambda: bench_recovery.idle(group, seconds, tick),
        "failover": lambda: bench_recovery.failover(group, kills, tick),
        "catch-up": lambda: bench_recovery.catch_up(group, max(int(seconds * BATCHES_MISSED_A_SECOND), 1), tick),
        "remote": lambda: _remote(group, workload, seconds),
    }
    if workload.kind in recovery:
        return recovery[workload.kind]()
    return group.load(workload, seconds, tick)


def _remote(group: BenchGroup, workload: Workload, seconds: float) -> dict[str, Any]:
    import zrep

    with ExitStack() as stack:
        clients = [stack.enter_context(zrep.connect(*group.addresses)) for _ in range(workload.threads)]
        return summary(run_remote(clients, workload, seconds))


class Progress:
    """A line on a terminal's stderr that says what is being measured, and for how long; elsewhere nothing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = time.monotonic()
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        self.tick()
        return self

    def __exit__(self, *exception: object) -> None:
        self._print("")

    def tick(self) -> None:
        self._print(f"{self._what} {time.monotonic() - self._begun:.1f} s")

    def _print(self, line: str) -> None:
        if self._shown:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _show(report: dict[str, Any]) -> None:
    print(*bench_report.head(report), "", sep="\n")
    output.show_table(*_fitting(bench_report.COLUMNS, list(bench_report.rows(report))))
    for result in report["results"]:
        if "pause_ms" in result:
            print(f"failover: {', '.join(f'{pause:.1f}' for pause in result['pause_ms'])} ms")
        if "cpu_percent" in result:
            print(f"idle: {result['cpu_percent']:g} % of one core, {result['rss_mb']:g} MB")


def _fitting(columns: Sequence[str], rows: list[tuple[str, ...]]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Return a table without its last column if a terminal is too narrow for it: wrapped lines cannot be read."""
    widths = [max(map(len, column)) + output.MARGIN for column in zip(columns, *rows, strict=True)]
    if sys.stdout.isatty() and sum(widths) > shutil.get_terminal_size().columns:
        return columns[:-1], [row[:-1] for row in rows]
    return columns, rows
