"""Runs py-lmdb's tests on zrep, and says which failures nobody has explained."""

import importlib
import subprocess
import sys
import tarfile
import traceback
import unittest
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.lmdb_suite import standin

HERE = Path(__file__).parent
DIFFERENCES = HERE / "differences.txt"
DOCUMENT = HERE.parents[1] / "docs" / "lmdb-differences.md"


def downloaded(scratch: Path) -> Path:
    """Fetch the source distribution of the py-lmdb that is installed; return where its tests are."""
    wanted = f"lmdb=={version('lmdb')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "lmdb", "-d", str(scratch)]
    subprocess.run([*command, wanted], check=True)
    [archive] = scratch.glob("lmdb-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
    [tests] = scratch.glob("lmdb-*/tests")
    return tests


def listed() -> tuple[dict[str, str], dict[str, str]]:
    """Return the reasons by test, and by pattern for what is not run at all."""
    reasons: dict[str, str] = {}
    excluded: dict[str, str] = {}
    for line in DIFFERENCES.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, reason = line.split(": ", 1)
            (excluded if "*" in name else reasons)[name] = reason
    return reasons, excluded


def undocumented(reasons: dict[str, str]) -> list[str]:
    """Return the reasons that are no line of the document."""
    document = DOCUMENT.read_text(encoding="utf-8")
    firsts = {line.split(" | ")[0].removeprefix("| ") for line in document.splitlines() if line.startswith("| ")}
    return sorted(set(reasons.values()) - firsts)


class Outcome(unittest.TestResult):
    """What failed, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[str, str] = {}

    def addError(self, test: unittest.TestCase, error: Any) -> None:
        self.failed[test.id()] = "".join(traceback.format_exception(*error))

    def addFailure(self, test: unittest.TestCase, error: Any) -> None:
        self.addError(test, error)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, error: Any) -> None:
        if error is not None:
            self.addError(test, error)


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Take a suite apart."""
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from cases(part)
        else:
            yield part


def run(tests: Path, *, three: bool, only: str = "") -> int:
    """Run what is not excluded; print what is not explained. Returns 1 if there is any."""
    reasons, excluded = listed()
    standin.install(three)
    sys.path.insert(0, str(tests))
    outcome = Outcome()
    ran = set()
    with standin.tidy():
        for path in sorted(tests.glob("*_test.py")):
            if f"{path.stem}.*" in excluded:
                continue
            for case in cases(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(path.stem))):
                name = case.id()
                if only in name and not any(fnmatch(name, pattern) for pattern in excluded):
                    ran.add(name)
                    case(outcome)
    wrong = {name: text for name, text in outcome.failed.items() if name not in reasons}
    gone = sorted(name for name in reasons if name not in outcome.failed and (name in ran or not only))
    lines = undocumented({**reasons, **excluded})
    for name, text in wrong.items():
        print(f"NOT EXPLAINED {name}\n{text}")
    for name in gone:
        print(f"LISTED, BUT DOES NOT FAIL {name}")
    for line in lines:
        print(f"NOT IN {DOCUMENT.name}: {line}")
    skipped, failed = len(outcome.skipped), len(outcome.failed)
    print(f"{len(ran)} tests, {skipped} skipped, {failed} failed: {failed - len(wrong)} explained, {len(wrong)} not")
    return 1 if wrong or gone or lines else 0
