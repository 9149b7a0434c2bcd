"""`python -m benchmarks`: run everything in one go and print how each goal stands.

The peers run between the two halves of ours, not at another time of the day: absolute numbers move with the
machine, ratios of one run do not.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli import bench_report, output
from cli.bench import Progress
from zrep.options import Options

from . import goals, ours
from .limits import LIMITS
from .peers.berkeley import Berkeley
from .peers.etcd import Etcd
from .peers.nats import Nats
from .peers.peer import Peer
from .peers.pysyncobj import PySyncObj
from .peers.redis import Redis

PEERS: tuple[Peer, ...] = (Etcd(), Redis(), Berkeley(), Nats(), PySyncObj())
DURABILITIES = ("sync", "process")

Results = dict[tuple[str, str, str], dict[str, Any]]
"""(who, durability, work) → summary."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    asked = _parse(arguments)
    measured: Results = {}
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="zrep-benchmarks-", dir=asked.directory) as home:
        for who, durability, work, summary in _everything(asked, Path(home), left_out):
            measured[who, durability, work] = summary
    lines = list(goals.lines(measured))
    if asked.json:
        output.show_json(_report(asked, measured, lines, left_out))
        return
    columns = ("WHO", "DURABILITY", "WORK", "PER SECOND", "P50", "P99")
    output.show_table(columns, [_row(*names, summary) for names, summary in measured.items()])
    print()
    shown = ("GOAL", "WORK", "DURABILITY", "ZREP", "BESIDE", "THEIRS", "FIGURE", "WANTED")
    missed = [number for number, line in enumerate(lines) if not line.met]
    output.show_table(shown, map(_goal_row, lines), missed)
    for sentence in left_out:
        print(sentence)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--seconds", type=float, default=3.0, help="for each work of each (default 3)")
    parser.add_argument("--value-bytes", type=int, default=100, help="size of a value (default 100)")
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="PEER", help=", ".join(names))
    parser.add_argument("--durability", choices=DURABILITIES, action="append", help="only this one")
    parser.add_argument("--growth", action="store_true", help="seven sites and large values, too")
    parser.add_argument("--directory", type=Path, help="whose disk to measure; else that of TMPDIR")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _everything(
    asked: argparse.Namespace, home: Path, left_out: list[str]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Measure one after the other; yield (who, durability, work, summary)."""
    seconds, value_bytes = asked.seconds, asked.value_bytes
    durabilities = asked.durability or DURABILITIES
    for who, durability, work, limit in LIMITS:
        with Progress(f"{who}, {work}"):
            yield who, durability, work, limit(home, seconds, value_bytes)
    for durability in durabilities:
        with Progress(f"zrep, {durability}") as progress:
            measured = ours.measure(home, durability, seconds, value_bytes, progress.tick)
            yield from _named("zrep", durability, measured)
        yield from _peers(asked, home, durability, left_out)
    if asked.growth:
        with Progress("zrep, grown") as progress:
            yield from _named("zrep", "sync", ours.grown(home, seconds, value_bytes, progress.tick))


def _peers(
    asked: argparse.Namespace, home: Path, durability: str, left_out: list[str]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Measure the peers that are installed; one that fails is left out with what it said."""
    for peer in PEERS:
        if peer.name not in asked.peers or durability not in peer.durabilities:
            continue
        missing = peer.missing()
        try:
            if missing is None:
                with Progress(f"{peer.name}, {durability}"):
                    measured = peer.measure(home, durability, asked.seconds, asked.value_bytes)
                    yield from _named(peer.name, durability, measured)
        except Exception as error:
            missing = f"it failed with {type(error).__name__}: {error}"
        if missing is not None:
            left_out.append(f"{peer.name}, {durability}, is left out: {missing}")


def _named(
    who: str, durability: str, measured: Iterable[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for work, summary in measured:
        yield who, durability, work, summary


def _row(who: str, durability: str, work: str, summary: dict[str, Any]) -> tuple[str, ...]:
    latency = summary.get("latency_ns", {})
    rate = bench_report.quantity(summary["per_second"]) if "per_second" in summary else "-"
    times = (bench_report.duration(latency[name]) if name in latency else "-" for name in ("p50", "p99"))
    return who, durability, work, rate, *times


def _goal_row(line: goals.Line) -> tuple[str, ...]:
    theirs = "-" if line.theirs is None else bench_report.quantity(line.theirs)
    verdict = line.wanted if line.met else f"{line.wanted} MISSED"
    figures = (bench_report.quantity(line.ours), line.beside, theirs, f"{line.figure:.2f}")
    return line.goal, line.work, line.durability, *figures, verdict


def _report(
    asked: argparse.Namespace, measured: Results, lines: Sequence[goals.Line], left_out: Sequence[str]
) -> dict[str, Any]:
    options = asdict(Options()) | {"ack_policy": Options().ack_policy.value}
    report = bench_report.conditions(ours.SITES, asked.seconds, asked.value_bytes, options)
    report["results"] = [
        {"name": f"{who} {durability} {work}", "about": "", **summary}
        for (who, durability, work), summary in measured.items()
    ]
    return report | {"goals": [line._asdict() for line in lines], "left_out": list(left_out)}


if __name__ == "__main__":
    main()
