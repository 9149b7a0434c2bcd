"""Run `zrep` as a user does: another process, its output and exit code."""

import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "zrep_cli")


def zrep(
    *arguments: str | Path, typed: str = "", cwd: Path | None = None, timeout_s: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end, with `typed` as its input."""
    return subprocess.run(
        [*COMMAND, *arguments], input=typed, cwd=cwd, capture_output=True, text=True, timeout=timeout_s
    )
