"""kill -9, a torn write, EIO or ENOSPC at every single call that a site makes to its disk.

A run of some 70 commits, 12 elections, cuts and trims is stopped at one call after the other, and opened
again. What it had been told is durable must be there; of the step that it was in, all, nothing or a
prefix (F1, F2, F24, F28, F29, F31).
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path

import pytest

from tests.shim import MEMORY
from tests.shim.script import Step, contents, script
from tests.shim.victim import Site
from zrep.errors import StorageError
from zrep.records import Kind, Record, Tip, make_record

SHIM = Path(__file__).parent / "shim" / "faultshim.c"


CLOSING = 8
"""At most so many calls come after the last step: when the last checkpoint fails, the log still has all."""


class Mode(IntEnum):
    """What the call meets; the numbers are the shim's."""

    KILL_BEFORE = 1
    KILL_AFTER = 2
    TEAR = 3
    FAIL_IO = 4
    FAIL_FULL = 5


class Victim:
    """The process that runs the script."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shim.victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def run(self, home: Path, call: int, mode: Mode, bug: str) -> list[str]:
        """Run the script in an empty home; return what the run said before its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{home} {call} {mode.value} {bug}\n")
        self._process.stdin.flush()
        notes: list[str] = json.loads(self._process.stdout.readline())
        return notes

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("CRASH POINTS NOT TESTED: this needs Linux and a C compiler named cc, gcc or clang")
    library = tmp_path_factory.mktemp("shim") / "faultshim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    process = Victim(library)
    yield process
    process.close()


@pytest.fixture
def homes() -> Iterator[Iterator[Path]]:
    """Return paths for homes, each removed when the next is taken."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:

        def paths() -> Iterator[Path]:
            for number in itertools.count():
                path = Path(directory, str(number))
                yield path
                shutil.rmtree(path, ignore_errors=True)

        yield paths()


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name.lower())
def test_every_call(victim: Victim, homes: Iterator[Path], mode: Mode) -> None:
    ends = sweep(victim, homes, mode)
    if mode is Mode.FAIL_FULL:
        assert ends["ran on"] > ends.total() * 2 // 5, "space is back after one refusal: only a flush refused is final"
    else:
        late = 1 if mode <= Mode.TEAR else CLOSING
        assert ends["killed" if mode <= Mode.TEAR else "stopped"] >= ends.total() - late, "a failure is final"


@pytest.mark.parametrize(
    ("bug", "mode"),
    [
        ("ack-before-flush", Mode.KILL_BEFORE),
        ("meta-in-place", Mode.TEAR),
        ("failed-flush-ignored", Mode.FAIL_IO),
    ],
)
def test_a_planted_bug_is_caught(victim: Victim, homes: Iterator[Path], bug: str, mode: Mode) -> None:
    with pytest.raises((AssertionError, StorageError)):
        assert sweep(victim, homes, mode, bug)["ran on"] <= 1


def sweep(victim: Victim, homes: Iterator[Path], mode: Mode, bug: str = "none") -> Counter[str]:
    """Stop a run at every call, check what each left, and count how they ended."""
    whole = victim.run(next(homes), 0, mode, bug)
    assert whole[:-1] == ["durable"] * len(script())
    calls = int(whole[-1].removeprefix("calls "))
    ends: Counter[str] = Counter()
    for call in range(1, calls + 1):
        home = next(homes)
        notes = victim.run(home, call, mode, bug)
        try:
            ends[end_of(notes)] += 1
            check(home, notes.count("durable"), went_back=mode >= Mode.FAIL_IO)
        except Exception as error:
            error.add_note(f"{mode.name} at call {call} of {calls}; the run said {notes}")
            raise
    return ends


def end_of(notes: list[str]) -> str:
    """Name how a run ended. An error that zrep does not translate is none of the ways."""
    if not notes or notes[-1] in ("durable", "full"):
        return "killed"
    if notes[-1] == "stopped":
        return "stopped"
    assert notes[-1].startswith("calls ")
    return "ran on"


def check(home: Path, said: int, *, went_back: bool) -> None:
    """Open what a run left; `said` steps were told to be durable. A flush that failed may send the store back."""
    steps = script()
    before = steps[max(said - 1, 0)]
    after = steps[min(said, len(steps) - 1)]
    site = Site(home)
    try:
        assert (site.meta.promise, site.meta.vote) in {(step.promise, step.vote) for step in (before, after)}
        check_log(site, before, after)
        check_store(site, steps[: said + 1] if went_back else (before, after))
        record = next_record(site.log.tip)
        site.log.append(record)
        site.log.flush()
    finally:
        site.close()
    site = Site(home)
    try:
        assert site.log.read(record.lsn, record.lsn, 0) == [record]
    finally:
        site.close()


def check_log(site: Site, before: Step, after: Step) -> None:
    """The log is a prefix of either, and lacks nothing that is in both."""
    log = site.log
    records = log.read(log.first, log.tip.lsn, 1 << 30)
    assert len(records) == log.tip.lsn - log.first + 1
    assert any(
        list(records) == list(step.log[log.first - 1 : log.tip.lsn]) and log.tip.lsn <= len(step.log)
        for step in (before, after)
    )
    pairs = zip(before.log, after.log, strict=False)
    assert log.tip.lsn >= sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    assert log.first <= site.store.applied.tip.lsn + 1
    assert log.chain(log.first - 1) == (before.log[log.first - 2].chain if log.first > 1 else 0)


def check_store(site: Site, steps: Sequence[Step]) -> None:
    """The store is one of the prefixes that these steps applied, whole."""
    lsn = site.store.applied.tip.lsn
    assert lsn in {step.applied for step in steps}
    prefix = steps[-1].log[:lsn]
    if prefix:
        assert site.store.applied.tip == Tip(prefix[-1].gen, lsn, prefix[-1].chain)
    with site.store.begin() as txn:
        found = {bytes(key): bytes(value) for key, value in txn.cursor()}
    assert found == contents(prefix)


def next_record(tip: Tip) -> Record:
    return make_record(tip, tip.gen + 1, 0, Kind.COMMIT, b"the site goes on")
