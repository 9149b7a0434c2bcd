"""The process whose store is written without flushes, recorded call by call (`recorder.c`).

`python -m tests.shim.unsynced` serves orders from its standard input: one line `seed bug points images argue`
runs a script of that seed with one of `BUGS` planted, or "none", and has `wreckage` look at what a crash of
the operating system may leave: at so many moments, so many images, and all subsets too if `argue` is 1. Both
happen in children, as LMDB may well die of a ruined file. The answer is one line of JSON.
"""

import ctypes
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.shim import MEMORY
from tests.shim.wreckage import Wreckage
from zrep import codec
from zrep.ids import SiteId
from zrep.options import MIB, Options
from zrep.records import Kind, Op, Record, Tip, Txn, make_record
from zrep.storage import checkpoint, sealed
from zrep.storage.checkpoint import Checkpoints, Snapshot
from zrep.storage.files import write_at
from zrep.storage.store import Store

OPTIONS = Options(map_bytes=4 * MIB, max_readers=126)
RECORDS = 40
STEPS = {"apply": 60, "checkpoint": 30, "die": 3, "close": 3, "grow": 2}


def log(seed: int) -> list[Record]:
    """Return the records that the script applies: puts, deletes, large values, databases that come and go."""
    rng = random.Random(f"{seed}/log")
    records = [make_record(Tip(), 1, 0, Kind.REIGN, codec.encode_reign(SiteId("a" * 32)))]
    keys: dict[bytes | None, set[bytes]] = {None: set()}
    while len(records) < RECORDS:
        last = records[-1]
        ops = tuple(_op(rng, keys) for _ in range(rng.choice([1, 1, 2, 5, 12])))
        payload = codec.encode_txns([Txn(ops)])
        records.append(make_record(Tip(last.gen, last.lsn, last.chain), 1, 0, Kind.COMMIT, payload))
    return records


def _op(rng: random.Random, keys: dict[bytes | None, set[bytes]]) -> tuple[Any, ...]:
    name = rng.choice(list(keys))
    chance = rng.random()
    if chance < 0.06 and len(keys) < 5:
        name = next(b"db%d" % number for number in range(5) if b"db%d" % number not in keys)
        keys[name] = set()
        return (Op.CREATE_DB, name, rng.choice([0, 0, 4]))
    if chance < 0.10 and name is not None:
        del keys[name]
        return (Op.DELETE_DB, name)
    if chance < 0.12:
        keys[name].clear()
        return (Op.CLEAR, name)
    if chance < 0.35 and keys[name]:
        key = rng.choice(sorted(keys[name]))
        keys[name].remove(key)
        return (Op.DELETE, name, key)
    key = b"key-%d" % rng.randrange(60)
    keys[name].add(key)
    size = rng.choice([5, 100, 400] if name is not None else [5, 100, 1000, 1000, 5000, 20000])
    return (Op.PUT, name, key, rng.randbytes(size))


class Run:
    """One run of the script: applies, the steps of checkpoints between them, and other ends of a process."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(f"{seed}/run")
        self.path = path / "data"
        self.log = log(seed)
        self.store = Store(self.path, OPTIONS)
        self.note()
        self.pending: Any = None
        self.secured = False

    def go(self) -> None:
        steps, weights = list(STEPS), list(STEPS.values())
        while self.store.applied.tip.lsn < len(self.log):
            getattr(self, f"_{self.rng.choices(steps, weights)[0]}")()
            self.note()

    def note(self) -> None:
        mark(f"applied {self.store.applied.tip.lsn} {self.store.digest()}")

    def _apply(self) -> None:
        lsn = self.store.applied.tip.lsn
        self.store.apply(self.log[lsn : lsn + self.rng.choice([1, 1, 1, 2, 3])])

    def _checkpoint(self) -> None:
        """The next step of a checkpoint; what else happens meanwhile is up to chance."""
        checkpoints = self.store.checkpoints
        if self.pending is None:
            self.pending = checkpoints.pin(self.store.applied.tip)
        elif not self.secured:
            checkpoints.secure(self.pending.snapshot)
            self.secured = True
        else:
            checkpoints.complete(self.pending)
            self.pending, self.secured = None, False

    def _die(self) -> None:
        self.store.env.close()
        self._open()

    def _close(self) -> None:
        self._let_go()
        self.store.close()
        self._open()

    def _grow(self) -> None:
        self._let_go()
        self.store.grow()

    def _let_go(self) -> None:
        """A checkpoint that is going on is waited for."""
        while self.pending is not None:
            self._checkpoint()

    def _open(self) -> None:
        self.pending, self.secured = None, False
        self.store = Store(self.path, OPTIONS)


def mark(text: str) -> None:
    ctypes.CDLL(None).recorder_mark(text.encode())


def record(path: Path, seed: int, bug: str) -> None:
    """Run the script with the recorder on; the store is there before."""
    Store(path / "data", OPTIONS).close()
    if bug in BUGS:
        setattr(*BUGS[bug])
    pin = Checkpoints.pin

    def marked(self: Checkpoints, tip: Tip) -> Any:
        pinned = pin(self, tip)
        mark(f"pin {tip.lsn}")
        return pinned

    Checkpoints.pin = marked  # type: ignore[method-assign]
    shim = ctypes.CDLL(None)
    (path / "before").mkdir()
    for file in (path / "data" / "data.mdb", path / "checkpoint"):
        (path / "before" / file.name).write_bytes(file.read_bytes())
    shim.recorder_start(str(path).encode(), str(path / "trace").encode())
    Run(path, seed).go()
    shim.recorder_stop()


def examine(path: Path, seed: int, bug: str, points: int, images: int, argue: bool) -> dict[str, Any]:
    """Look at what crashes of the system may leave of a recorded run."""
    if bug in BUGS:
        setattr(*BUGS[bug])
    checkpoint.boot_id = lambda: "f" * 32  # type: ignore[attr-defined]
    wreckage = Wreckage(path, log(seed), OPTIONS, random.Random(f"{seed}/crash"), argue=argue)
    wreckage.examine(points, images)
    return wreckage.report()


def _released_at_once(self: Checkpoints, tip: Tip) -> Any:
    pinned = _pin(self, tip)
    if self._pinned is not None:
        self._pinned.txn.abort()
    return pinned


def _meta_read_late(self: Checkpoints, snapshot: Snapshot, *rest: Any) -> None:
    size = len(snapshot.page)
    slot = checkpoint.txnid(snapshot.page) & 1
    _secure(self, snapshot._replace(page=os.pread(self._fd, size, slot * size)))


def _not_flushed(self: Checkpoints, snapshot: Snapshot, *rest: Any) -> None:
    checkpoint.save(self._path, snapshot)


def _saved_first(self: Checkpoints, snapshot: Snapshot, *rest: Any) -> None:
    checkpoint.save(self._path, snapshot)
    os.fdatasync(self._fd)


def _one_slot(store: Path, snapshot: Snapshot) -> None:
    slot = checkpoint.txnid(snapshot.page) & 1
    fd = os.open(store / "data.mdb", os.O_RDWR)
    write_at(fd, snapshot.page, slot * len(snapshot.page))
    os.close(fd)


def _nothing(*args: object) -> None:
    return None


class Bug(NamedTuple):
    place: object
    name: str
    instead: Callable[..., object]


_pin, _secure = Checkpoints.pin, Checkpoints.secure
BUGS = {
    "pin-released-before-the-save": Bug(Checkpoints, "pin", _released_at_once),
    "meta-page-read-too-late": Bug(Checkpoints, "secure", _meta_read_late),
    "flush-skipped": Bug(Checkpoints, "secure", _not_flushed),
    "saved-before-the-flush": Bug(Checkpoints, "secure", _saved_first),
    "one-meta-slot-restored": Bug(checkpoint, "restore", _one_slot),
    "name-not-flushed": Bug(sealed, "sync_directory", _nothing),
    "no-checkpoint-before-the-first-write": Bug(Checkpoints, "ensure", _nothing),
    "a-larger-map-loses-the-pin": Bug(Checkpoints, "unpin", _nothing),
}


def in_child(work: Callable[[], object]) -> dict[str, Any]:
    """Do `work` in a child; return what it returned, or how it ended."""
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        try:
            answer = work()
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(said, json.dumps(answer or {}).encode())
        os._exit(0)
    os.close(said)
    with os.fdopen(heard, "rb") as file:
        heard_all = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"error": f"died of signal {os.WTERMSIG(status)}"}
    result: dict[str, Any] = json.loads(heard_all)
    return result


def serve() -> None:
    for line in sys.stdin:
        seed, bug, points, images, argue = line.split()
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            path = Path(name)
            answer = in_child(lambda: record(path, int(seed), bug))  # noqa: B023 - called at once
            if not answer:
                numbers = int(points), int(images), argue == "1"
                answer = in_child(lambda: examine(path, int(seed), bug, *numbers))  # noqa: B023
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
