"""A power cut in a test: of a log nothing is left but what was flushed."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from zrep.storage import checkpoint
from zrep.storage import home as home_module


class Power:
    """What was flushed of every file since this was made, and what a cut leaves of a home."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._flushed: dict[int, bytes] = {}
        """By inode: a log's file gets its name after its first flush."""
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, flush: Callable[[int], None]) -> Callable[[int], None]:
        def flush_and_note(fd: int) -> None:
            flush(fd)
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
                info = os.fstat(fd)
                self._flushed[info.st_ino] = os.pread(fd, info.st_size, 0)

        return flush_and_note

    def cut(self, home: Path, left: Path) -> None:
        """Make of `left` what a power cut now would leave of `home`.

        The store is as the page cache has it, which is one of the ways: a start goes back to its checkpoint.
        """
        shutil.copytree(home, left, ignore=shutil.ignore_patterns("*.sock"))
        for segment in home.glob("state-*/log/*.log"):
            (left / segment.relative_to(home)).write_bytes(self._flushed[segment.stat().st_ino])

    def reboot(self) -> None:
        """What starts from now on, starts after a restart of the operating system."""
        for module in (home_module, checkpoint):
            self._monkeypatch.setattr(module, "boot_id", lambda: "f" * 32)
