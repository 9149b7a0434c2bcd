"""`python -m benchmarks`: run everything in one go and print how each goal stands.

The peers run between the two halves of ours, not at another time of the day: absolute numbers move with the
machine, ratios of one run do not.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cli import bench_report, output
from cli.bench_process import Tick
from zrep.options import Options

from . import goals, ours
from .limits import LIMITS, Limit
from .peers.berkeley import Berkeley
from .peers.etcd import Etcd
from .peers.nats import Nats
from .peers.peer import Peer
from .peers.pysyncobj import PySyncObj
from .peers.redis import Redis
from .works import Results, Summary

PEERS: tuple[Peer, ...] = (Etcd(), Redis(), Berkeley(), Nats(), PySyncObj())
DURABILITIES = ("sync", "process")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    asked = _parse(arguments)
    results = Results()
    report = _conditions(asked)
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="zrep-benchmarks-", dir=asked.directory) as home:
            _measure(asked, Path(home), results, report["versions"])
    lines = list(goals.lines(results.measured))
    if asked.json:
        output.show_json(report | _found(results, lines))
    else:
        _show(report, results, lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--seconds", type=float, default=3.0, help="for each work of each (default 3)")
    parser.add_argument("--rounds", type=_count, default=1, help="how often all of it, for medians (default 1)")
    parser.add_argument("--value-bytes", type=int, default=100, help="size of a value (default 100)")
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="PEER", help=", ".join(names))
    parser.add_argument("--durability", choices=DURABILITIES, action="append", help="only this one")
    parser.add_argument("--kills", type=_count, default=30, help="how often the master is killed (default 30)")
    parser.add_argument("--growth", action="store_true", help="seven sites, large values and many keys, too")
    parser.add_argument("--keys", type=_count, default=10_000_000, help="how many are many (default 10000000)")
    parser.add_argument("--long", type=float, metavar="SECONDS", help="16 threads on their own for so long, too")
    parser.add_argument("--alone", action="store_true", help="nothing but what --growth and --long ask for")
    parser.add_argument("--directory", type=Path, help="whose disk to measure; else that of TMPDIR")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    if asked.alone and not (asked.growth or asked.long):
        parser.error("--alone needs --growth or --long: else there is nothing to measure")
    return asked


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _conditions(asked: argparse.Namespace) -> dict[str, Any]:
    """Return under what conditions all of it is measured; the versions of the peers are not known yet."""
    options = asdict(Options()) | {"ack_policy": Options().ack_policy.value}
    report = bench_report.conditions(ours.SITES, asked.seconds, asked.value_bytes, options)
    durabilities = " and ".join(asked.durability or DURABILITIES)
    more = {name: getattr(asked, name) for name in ("rounds", "kills", "growth", "keys", "long", "alone", "peers")}
    return report | {"durability": durabilities, **more}


def _measure(asked: argparse.Namespace, home: Path, results: Results, versions: dict[str, str]) -> None:
    """Measure once all that is asked for."""
    if not asked.alone:
        _compared(asked, home, results, versions)
    if asked.growth:
        results.take(goals.ZREP, "sync", ours.grown(home, asked.seconds, asked.value_bytes, asked.keys))
    if asked.long:
        results.take(goals.ZREP, "sync", ours.long(home, asked.long, asked.value_bytes))


def _compared(asked: argparse.Namespace, home: Path, results: Results, versions: dict[str, str]) -> None:
    """Measure the limits, ours and the peers one after the other; add the peers' versions."""
    for who, durability, work, limit in LIMITS:
        results.take(who, durability, [(work, partial(_limit, limit, home, asked.seconds, asked.value_bytes))])
    for durability in asked.durability or DURABILITIES:
        results.take(
            goals.ZREP, durability, ours.measure(home, durability, asked.seconds, asked.value_bytes, asked.kills)
        )
        if durability == "sync":
            results.take(goals.ZREP, durability, ours.reads(home, asked.seconds, asked.value_bytes))
            results.take("pinned", durability, ours.pinned(home, asked.seconds, asked.value_bytes))
        for peer in PEERS:
            if peer.name not in asked.peers or durability not in peer.durabilities:
                continue
            missing = peer.missing()
            if missing is None:
                versions |= peer.versions()
                results.take(peer.name, durability, peer.measure(home, durability, asked.seconds, asked.value_bytes))
            else:
                results.leave_out(f"{peer.name}, {durability}", missing)


def _limit(limit: Limit, home: Path, seconds: float, value_bytes: int, tick: Tick) -> Summary:
    return limit(home, seconds, value_bytes)


def _found(results: Results, lines: Sequence[goals.Line]) -> dict[str, Any]:
    """Return what JSON holds beside the conditions."""
    names = ("who", "durability", "work")
    return {
        "results": [
            {"name": " ".join(key), "about": "", **dict(zip(names, key, strict=True)), **summary}
            for key, summary in results.measured.items()
        ],
        "goals": [line._asdict() for line in lines],
        "left_out": results.left_out,
    }


def _show(report: dict[str, Any], results: Results, lines: Sequence[goals.Line]) -> None:
    print(*bench_report.head(report), "", sep="\n")
    several = report["rounds"] > 1
    columns = ("WHO", "DURABILITY", "WORK", "PER SECOND", "P50", "P99", *(("ROUNDS FROM", "TO") if several else ()))
    output.show_table(columns, [_row(*names, summary, several) for names, summary in results.measured.items()])
    print()
    shown = ("GOAL", "WORK", "DURABLE", "ZREP", "BESIDE", "THEIRS", "FIGURE", "WANTED")
    missed = [number for number, line in enumerate(lines) if not line.met]
    output.show_table(shown, map(_goal_row, lines), missed)
    print(f"\n{len(missed)} of {len(lines)} are missed", *results.left_out, sep="\n")


def _row(who: str, durability: str, work: str, summary: Summary, several: bool) -> tuple[str, ...]:
    latency = summary.get("latency_ns", {})
    rate, *spread = (
        bench_report.quantity(summary[name]) if name in summary else "-" for name in ("per_second", "lowest", "highest")
    )
    times = (bench_report.duration(latency[name]) if name in latency else "-" for name in ("p50", "p99"))
    return who, durability, work, rate, *times, *(spread if several else ())


def _goal_row(line: goals.Line) -> tuple[str, ...]:
    theirs = "-" if line.theirs is None else bench_report.quantity(line.theirs)
    verdict = line.wanted if line.met else f"{line.wanted} MISSED"
    figures = (bench_report.quantity(line.ours), line.beside, theirs, f"{line.figure:.2f}")
    return line.goal, line.work, line.durability, *figures, verdict


if __name__ == "__main__":
    main()
