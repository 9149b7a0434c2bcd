"""The process that runs the script under the shim, and dies where it is told to.

`python -m tests.shim.victim` imports everything once and then serves orders from its standard input: one
line `directory k mode bug` forks one run, with one of `BUGS` planted, or "none". The answer is one line of
JSON, the list of what the run said: a word for each step that it was told is durable, for each full disk,
for its stop, or how many calls it made.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.shim.script import OPTIONS, SEGMENT, Step, script
from zrep.errors import DiskFullError, StorageError
from zrep.storage import sealed
from zrep.storage.home import Home
from zrep.storage.log import SegmentedLog
from zrep.storage.segment import Segment
from zrep.storage.store import Store


class Site:
    """Home, log and store, opened as a site opens them."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path, segment_bytes=SEGMENT)
        state = self.home.meta.state
        log = self.home.log_directory(state)
        self.store = Store(self.home.data_directory(state), OPTIONS, log=log)
        floor = self.store.applied.tip.lsn
        self.log = SegmentedLog(log, segment_bytes=SEGMENT, floor=floor)
        self.meta = self.home.meta

    def perform(self, step: Step) -> None:
        if (step.promise, step.vote) != (self.meta.promise, self.meta.vote):
            self.meta = self.meta._replace(promise=step.promise, vote=step.vote)
            until_there_is_space(lambda: self.home.metafile.save(self.meta))
        if step.cut is not None and self.log.tip.lsn > step.cut:
            self.log.cut(step.cut)
        for record in step.append:
            self.log.append(record)
        until_there_is_space(self.log.flush)
        until_there_is_space(lambda: self.apply(step.applied))
        if step.trim:
            until_there_is_space(lambda: self.store.checkpoints.take(self.store.applied.tip))
            self.log.trim(step.trim)

    def apply(self, lsn: int) -> None:
        self.store.apply(self.log.read(self.store.applied.tip.lsn + 1, lsn, 1 << 30))

    def close(self) -> None:
        self.log.close()
        self.store.close()
        self.home.close()


def until_there_is_space(act: Callable[[], None]) -> None:
    """Do what the engine does about a full disk: the same again, later."""
    try:
        act()
    except DiskFullError:
        note("full")
        act()


_notes = -1


def note(word: str) -> None:
    os.write(_notes, f"{word}\n".encode())


def run(path: Path, shim: Any) -> None:
    """Run the script, as far as it gets."""
    try:
        site = Site(path)
        note("durable")
        for step in script()[1:]:
            site.perform(step)
            note("durable")
    except (StorageError, DiskFullError):
        note("stopped")
        return
    site.close()
    note(f"calls {shim.faultshim_count()}")


def _flush_later(log: SegmentedLog) -> None:
    """Believe a group durable that is only buffered, until the next ones come."""
    if log.tip.lsn > log.durable + 3:
        _flush(log)


def _write_in_place(temporary: Path, data: bytes) -> None:
    temporary.with_suffix("").write_bytes(data)
    temporary.write_bytes(data)


def _flush_hopefully(segment: Segment) -> None:
    with suppress(OSError):
        os.fdatasync(segment._writable())


_flush = SegmentedLog.flush
BUGS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "ack-before-flush": (SegmentedLog, "flush", _flush_later),
    "meta-in-place": (sealed, "_write", _write_in_place),
    "failed-flush-ignored": (Segment, "flush", _flush_hopefully),
}


def serve() -> None:
    global _notes
    shim = ctypes.CDLL(None)
    for line in sys.stdin:
        path, number, mode, bug = line.split()
        heard, _notes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(heard)
            shim.faultshim_arm(path.encode(), ctypes.c_long(int(number)), int(mode))
            if bug in BUGS:
                setattr(*BUGS[bug])
            try:
                run(Path(path), shim)
            except BaseException as error:
                note(f"{type(error).__name__}: {error}")
            finally:
                os._exit(0)
        os.close(_notes)
        with os.fdopen(heard) as file:
            notes = file.read().splitlines()
        os.waitpid(child, 0)
        print(json.dumps(notes), flush=True)


if __name__ == "__main__":
    serve()
