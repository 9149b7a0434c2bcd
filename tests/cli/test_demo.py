"""`zrep demo`: its verdict in JSON, its story for people, and nothing left behind however it ends."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, zrep


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's files go here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def nodes_below(directory: Path) -> list[str]:
    """Return the command lines of processes that name a path below a directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in line:
                found.append(line.replace(b"\0", b" ").decode())
    return found


def test_the_verdict_is_one_object(temporary: Path) -> None:
    result = zrep("demo", "--json")
    assert result.returncode == 0, result.stderr
    verdict = json.loads(result.stdout)
    assert len(verdict.pop("failover_ms")) == 2
    assert verdict == {"sites": 3, "acknowledged": 560, "lost": 0, "rejoined": True, "identical": True}
    assert not list(temporary.iterdir())
    assert not nodes_below(temporary)


def test_ctrl_c_leaves_nothing(temporary: Path) -> None:
    with subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "kill -9" in line:
                break
        process.send_signal(signal.SIGINT)
        _, complained = process.communicate(timeout=20)
    assert process.returncode == 130
    assert complained == ""
    assert not list(temporary.iterdir())
    assert not nodes_below(temporary)
