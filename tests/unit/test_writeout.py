"""Writing a file out in portions: all of it, with rests, and no error is lost."""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zrep.storage import writeout

SIZE = 10 * writeout.PORTION_BYTES + 1


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, os.urandom(SIZE), 0)
    yield fd
    os.close(fd)


class System:
    """Stands for sync_file_range: notes what is asked, takes `seconds` for it, and answers with `error`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, error: int = 0, seconds: float = 0.0, known: bool = True
    ) -> None:
        self.asked: list[tuple[int, int]] = []
        self.now = 0.0
        self._error, self._seconds, self._known = error, seconds, known
        monkeypatch.setattr(writeout, "_sync_file_range", self._call)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _call(self, fd: int, start: int, nbytes: int, flags: int) -> int:
        if not flags:
            return 0 if self._known else -1
        self.asked.append((start, nbytes))
        self.now += self._seconds
        ctypes.set_errno(self._error)
        return -1 if self._error else 0


def rest(seconds: float) -> bool:
    pytest.fail(f"nothing was written, and yet a rest of {seconds} s")


def test_every_byte_is_in_one_portion_and_each_is_followed_by_as_long_a_rest(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, rests = System(monkeypatch, seconds=0.05), list[float]()

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        return False

    writeout.write_out(fd, rest)
    assert system.asked == [(start, writeout.PORTION_BYTES) for start in range(0, SIZE, writeout.PORTION_BYTES)]
    assert rests == [pytest.approx(0.05)] * 11


def test_who_is_in_a_hurry_leaves_the_others_to_the_flush(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, seconds=0.05)
    writeout.write_out(fd, lambda seconds: len(system.asked) == 3)
    assert len(system.asked) == 3


def test_what_takes_too_long_is_left_to_the_flush(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, seconds=writeout.MOST_S / 2)
    writeout.write_out(fd, lambda seconds: False)
    assert len(system.asked) == 2


def test_a_large_file_has_so_many_portions_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(8 * writeout.PORTIONS * writeout.PORTION_BYTES)
        writeout.write_out(file.fileno(), rest)
    assert len(system.asked) == writeout.PORTIONS
    assert sum(nbytes for _, nbytes in system.asked) == 8 * writeout.PORTIONS * writeout.PORTION_BYTES


@pytest.mark.parametrize("error", [errno.EIO, errno.EPERM, errno.EINVAL])
def test_an_error_is_raised_whatever_it_is(fd: int, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    System(monkeypatch, error)
    with pytest.raises(OSError, match=os.strerror(error)):
        writeout.write_out(fd, rest)


@pytest.mark.parametrize("missing", ["call", "file system"])
def test_a_system_that_cannot_is_left_alone(fd: int, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    system = System(monkeypatch, known=False)
    if missing == "call":
        monkeypatch.setattr(writeout, "_sync_file_range", None)
    writeout.write_out(fd, rest)
    assert system.asked == []


@pytest.mark.skipif(writeout._sync_file_range is None, reason="this system has no sync_file_range")
def test_the_real_one_takes_these_arguments(fd: int) -> None:
    writeout.write_out(fd, lambda seconds: False)
    assert writeout._sync_file_range(-1, 0, 1, 7) == -1
    assert ctypes.get_errno() == errno.EBADF
