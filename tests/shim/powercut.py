"""A disk that may lose power: records what is written and what is flushed, and builds what may be left.

While it records, the files are the real ones. Beside them it keeps, for every file, the bytes that a flush
covers and what was done since, and for every directory the same for its names. `image` writes a directory
tree as a power cut could leave it: what was flushed, any of the sectors written since (a size, a cut, or
a rename that was not flushed may or may not have happened, names in their order).
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECTOR = 512
Change = Callable[[bytearray, random.Random], None]


class File:
    """A file's flushed bytes, and the changes since."""

    def __init__(self) -> None:
        self.flushed = bytearray()
        self.since: list[Change] = []

    def flush(self) -> None:
        rng = Always()
        for change in self.since:
            change(self.flushed, rng)
        self.since = []

    def image(self, rng: random.Random) -> bytes:
        data = bytearray(self.flushed)
        for change in self.since:
            change(data, rng)
        return bytes(data)


class Directory:
    """A directory's flushed names, and the changes since."""

    def __init__(self) -> None:
        self.flushed: dict[str, File | Directory] = {}
        self.since: list[dict[str, File | Directory | None]] = []

    @property
    def names(self) -> dict[str, "File | Directory"]:
        return self.after(len(self.since))

    def after(self, count: int) -> dict[str, "File | Directory"]:
        names = dict(self.flushed)
        for change in self.since[:count]:
            for name, entry in change.items():
                if entry is None:
                    names.pop(name, None)
                else:
                    names[name] = entry
        return names

    def flush(self) -> None:
        self.flushed = self.names
        self.since = []


class Always(random.Random):
    """Chance that lets everything happen."""

    def random(self) -> float:
        return 0.0


def write(data: bytes, offset: int) -> Change:
    """A write reaches the disk sector by sector, or not."""

    def change(file: bytearray, rng: random.Random) -> None:
        at = offset
        while at < offset + len(data):
            stop = min(at - at % SECTOR + SECTOR, offset + len(data))
            if rng.random() < 0.5:
                if len(file) < stop:
                    file.extend(bytes(stop - len(file)))
                file[at:stop] = data[at - offset : stop - offset]
            at = stop

    return change


def resize(size: int, *, shrink: bool) -> Change:
    def change(file: bytearray, rng: random.Random) -> None:
        if rng.random() < 0.5:
            if len(file) < size:
                file.extend(bytes(size - len(file)))
            elif shrink:
                del file[size:]

    return change


class PowerCuts:
    """Records everything below `root`; `on_change` is told after every call."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, on_change: Callable[[], None]) -> None:
        self.root = root
        self.top = Directory()
        self._on_change = on_change
        self._files: dict[int, File | Directory] = {}
        """What each descriptor stands for."""
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            patch.setattr(os, name, getattr(self, f"_{name}"))

    def image(self, target: Path, rng: random.Random) -> None:
        """Write a tree as a power cut at this moment could leave it."""
        self._write_tree(self.top, target, rng)

    def _write_tree(self, directory: Directory, target: Path, rng: random.Random) -> None:
        self._real["mkdir"](target)
        for name, entry in directory.after(rng.randint(0, len(directory.since))).items():
            if isinstance(entry, Directory):
                self._write_tree(entry, target / name, rng)
                continue
            fd = self._real["open"](target / name, os.O_CREAT | os.O_WRONLY, 0o600)
            self._real["pwrite"](fd, entry.image(rng), 0)
            self._real["close"](fd)

    def _find(self, path: str | os.PathLike[str]) -> tuple[Directory, str] | None:
        """Return the directory and the name of a path below the root; None for others."""
        path = Path(path)
        if not path.is_relative_to(self.root):
            return None
        directory = self.top
        *parents, name = path.relative_to(self.root).parts or ("",)
        for parent in parents:
            found = directory.names[parent]
            assert isinstance(found, Directory)
            directory = found
        return directory, name

    def _rename_entry(self, place: tuple[Directory, str], entry: File | Directory | None) -> None:
        place[0].since.append({place[1]: entry})

    # The calls, each as the real one.

    def _open(self, path: Any, flags: int, mode: int = 0o777, *args: Any, **options: Any) -> int:
        fd: int = self._real["open"](path, flags, mode, *args, **options)
        place = self._find(path) if isinstance(path, str | os.PathLike) else None
        if place is not None:
            directory, name = place
            entry = directory.names.get(name) if name else directory
            if entry is None:
                entry = File()
                directory.since.append({name: entry})
            if flags & os.O_TRUNC and isinstance(entry, File):
                entry.since.append(resize(0, shrink=True))
            self._files[fd] = entry
        return fd

    def _close(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._real["close"](fd)

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        done: int = self._real["pwrite"](fd, data, offset)
        self._changed(fd, write(bytes(data[:done]), offset))
        return done

    def _ftruncate(self, fd: int, size: int) -> None:
        self._real["ftruncate"](fd, size)
        self._changed(fd, resize(size, shrink=True))

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        self._real["posix_fallocate"](fd, offset, size)
        self._changed(fd, resize(offset + size, shrink=False))

    def _changed(self, fd: int, change: Change) -> None:
        file = self._files.get(fd)
        if isinstance(file, File):
            file.since.append(change)
            self._on_change()

    def _fsync(self, fd: int) -> None:
        if fd in self._files:
            self._files[fd].flush()
            self._on_change()

    _fdatasync = _fsync

    def _rename(self, source: Any, target: Any) -> None:
        self._real["rename"](source, target)
        old, new = self._find(source), self._find(target)
        assert old is not None
        assert new is not None
        assert old[0] is new[0]
        old[0].since.append({old[1]: None, new[1]: old[0].names[old[1]]})
        self._on_change()

    def _unlink(self, path: Any, **options: Any) -> None:
        self._real["unlink"](path, **options)
        place = self._find(path)
        if place is not None:
            place[0].since.append({place[1]: None})
            self._on_change()

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        self._real["mkdir"](path, mode, **options)
        place = self._find(path)
        if place is not None and place[1]:
            place[0].since.append({place[1]: Directory()})
            self._on_change()


CALLS = ("open", "close", "pwrite", "ftruncate", "posix_fallocate", "fsync", "fdatasync", "rename", "unlink", "mkdir")
