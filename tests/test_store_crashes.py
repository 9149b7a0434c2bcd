"""A crash of the operating system at any moment: the store is its checkpoint, exactly, and the log does the rest.

No commit flushes the store, so of everything that it wrote since a flush any part may be on the disk, or in
any sector of it. 200 scripted runs are recorded call by call; what `wreckage` checks of each, it checks at
every moment (F31, F32). `make store-crashes` builds, at every moment of all of them, every subset of up to ten
unflushed writes, and 256 of more.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shim import pages
from tests.shim.unsynced import BUGS, OPTIONS, log
from zrep.storage.store import Store

RECORDER = Path(__file__).parent / "shim" / "recorder.c"
RUNS, MOMENTS, IMAGES = 200, 4, 2
EVERY = 1_000_000
THOROUGH = int(os.environ.get("ZREP_STORE_CRASHES", "0"))


class Recorded:
    """The process that runs and examines."""

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shim.unsynced"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )

    def run(self, seed: int, *, bug: str = "none", moments: int, images: int, argue: bool = True) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seed} {bug} {moments} {images} {int(argue)}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("STORE CRASHES NOT TESTED: this needs Linux and a C compiler named cc, gcc or clang")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, RECORDER, "-ldl"], check=True)
    process = Recorded(library)
    yield process
    process.close()


def total(answers: Iterator[dict[str, Any]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed, answer in enumerate(answers):
        assert "error" not in answer, f"seed {seed}: {answer['error']}"
        counts.update(answer)
    return counts


def test_after_a_crash_at_any_moment_the_store_is_its_checkpoint(recorded: Recorded) -> None:
    counts = total(recorded.run(seed, moments=MOMENTS, images=IMAGES) for seed in range(RUNS))
    assert counts["checkpoints"] > 5 * RUNS
    assert counts["moments"] > 100 * RUNS
    assert counts["images"] > counts["went back"] > 4 * RUNS


@pytest.mark.skipif(not THOROUGH, reason="takes minutes: make store-crashes")
def test_every_subset_opens(recorded: Recorded) -> None:
    counts = total(recorded.run(seed, moments=EVERY, images=256) for seed in range(THOROUGH))
    print(dict(counts))
    assert counts["images"] > 100 * counts["moments"]


@pytest.mark.parametrize("argue", [True, False], ids=["argued", "opened"])
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(recorded: Recorded, bug: str, argue: bool) -> None:
    """By the argument about all subsets, or else by images alone."""
    images = 1 if argue and bug != "one-meta-slot-restored" else 8
    answers = (recorded.run(seed, bug=bug, moments=30, images=images, argue=argue) for seed in range(12))
    assert any("error" in answer for answer in answers)


def test_what_is_read_of_a_data_file_accounts_for_every_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", OPTIONS)
    for record in log(7):
        store.apply([record])
        file = pages.split((tmp_path / "data" / "data.mdb").read_bytes())
        meta = pages.newest_meta(file)
        used, free = pages.reachable(file, meta), pages.listed_free(file, meta)
        assert sorted([0, 1, *used, *free]) == list(range(pages.last_page(meta) + 1))
        with store.env.begin() as txn:
            assert txn.id() == pages.txnid(meta)
    store.close()
