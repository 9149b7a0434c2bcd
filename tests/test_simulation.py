"""The protocol under seeded chaos: no promise broken, nothing interesting left untried, same seed same run.

Thousands of seeds in two processes; a failure prints the line that repeats it (`tests.sim`).
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.sim.script import Script
from tests.sim.swarm import Failed, run_seed
from zrep.ids import SiteId

SEEDS = int(os.environ.get("ZREP_SIM_SEEDS", "1200"))
FIRST = int(os.environ.get("ZREP_SIM_FIRST", "0"))
PROCESSES = 2
BATCH = 50

SOMETIMES = (
    *(
        "acknowledged",
        "authoritative reads",
        "contested elections",
        "reigns",
        "two masters alive at once",
        "wins voided by R6",
    ),
    *("HIGHER answered", "MASTER_IS", "REREQUEST", "LOG_REQ", "pulls", "SYNC", "tail cuts"),
    *("ELECTION_FAILED", "QUORUM_LOST", "DUPMASTER", "MASTER_FAILURE", "STARTUPDONE"),
    *("SITE_ADDED", "SITE_REMOVED", "JOIN", "JOIN_REPLY"),
)
"""What a run that tries hard enough has seen; zero means that the faults no longer reach it."""


def batch(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run some seeds; return what was seen, and the report of every failure."""
    counts: Counter[str] = Counter()
    failures = []
    for seed in range(first, first + count):
        try:
            counts += run_seed(seed).counts
        except Failed as failure:
            failures.append(str(failure))
    return counts, failures


def all_batches() -> Iterator[tuple[Counter[str], list[str]]]:
    firsts = range(FIRST, FIRST + SEEDS, BATCH)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        yield from pool.map(batch, firsts, [min(BATCH, FIRST + SEEDS - first) for first in firsts])


def test_seeds_break_no_promise() -> None:
    """Every invariant holds after every event of every seed, and every group recovers."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for seen, failed in all_batches():
        counts += seen
        failures += failed
    assert not failures, f"{len(failures)} of {SEEDS} seeds failed; the first:\n{failures[0]}"
    assert [name for name in SOMETIMES if not counts[name]] == []


def test_same_seed_same_run() -> None:
    """A run depends on its seed alone: not on the order in which a process happens to hash its strings."""
    script = "from tests.sim.swarm import run_seed; print([run_seed(s).digest for s in (3, 7, 20)])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_who_has_campaigned_alone_for_long_is_still_heard() -> None:
    """A month of it, a second each: its proposals are far above what the others have promised (R11)."""
    script = Script()
    for line in ("group a b c", "elect a", "run 1000ms", "crash b", "crash c", "run 1000ms"):
        script.run(line)
    lonely = script.stage.hosts[SiteId("a")]
    lonely.process.elections._spoken += 30 * 24 * 3600
    for line in ("restart b", "run 10000ms"):
        script.run(line)
    assert [host.site for host in script.stage.hosts.values() if host.reigns]


def test_a_violation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failing seed prints is enough to repeat it: its number, the reason, the tail of the trace."""
    monkeypatch.setattr("zrep.replica.acks.majority", lambda nsites: nsites // 2)
    with pytest.raises(Failed) as failure:
        list(map(run_seed, range(20)))
    lines = str(failure.value).splitlines()
    assert "Violation" in lines[0]
    assert "python -m tests.sim" in lines[1]
    assert len(lines) > 20
