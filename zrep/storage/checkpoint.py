"""Checkpoints: how a store that no commit flushes comes back after a crash of the operating system.

LMDB runs unsynced here: the log is flushed before anything is promised, so the store may lag. But what of
the data file reaches the disk, and in which order, is then the system's choice, and after its crash the
file may mix any moments. A checkpoint is a snapshot S that is whole on the disk:

    1  pin S by a read transaction: LMDB reuses no page that S can reach; keep S's meta page
    2  flush the log: it is not behind S then, even where no commit flushes it (durability "process")
    3  flush the data file, little by little: every page of S is on the disk now
    4  save the meta page, and which prefix of the log S is, in `checkpoint`, replaced atomically
    5  release the pin of the checkpoint before: its pages may be written over from now on

At a start after such a crash `recover` writes the meta page back into both of LMDB's meta slots: the file
then is S, whatever else is in it, and the log replays the rest. A crash of the process alone loses nothing,
and the store is used as it is; but the pin has died with the process, so each start takes a checkpoint
before its first write, as does whatever else ends LMDB's read transactions.

    released before it is saved:   … 5, commits write over S's pages, crash   the old file names a ruin
    saved before the log is:       the log ends below S, crash                S's LSNs are given out again
    meta page read after commits:  slot S & 1 holds S + 2's                   S + 2 was never flushed
    one meta slot written back:    the other may hold a later one             LMDB believes the later

A clean close takes one more, and marks it: nothing was written since, the file is whole as it is. What is
replayed, others decide.

LMDB maps the file without a look at its length, and dies of SIGBUS where a page is missing. A file shorter than
its checkpoint's is damaged. One shorter than the newest meta page says need not be: pages that a transaction
took at the end and gave back are never written. So it is not set aside, it goes back to its checkpoint.
"""

import logging
import os
import shutil
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import lmdb

from zrep.errors import DiskFullError, ForkError, StorageError, ZrepError, invariant
from zrep.ids import Nanoseconds
from zrep.options import MIB, MILLISECOND
from zrep.records import Tip
from zrep.storage import sealed
from zrep.storage.files import boot_id, read_at, sync_directory, write_at
from zrep.storage.log import flush_newest
from zrep.storage.writeout import write_out

FORMAT = 1
INTERVAL_MS = 5000
"""How long something new waits for its checkpoint."""
CALM_MS = 250
"""Checkpoints that follow one another faster leave the disk no time for rests."""
PINS = 2
"""Reader slots that checkpoints use: the last one's, and that of the one being made."""
BYTES = 32 * MIB
"""How much may be written until the next. Pages freed since the last two are not reused: the file grows by these."""

_MAGIC = b"ZREPCKPT"
_FACTS = struct.Struct("<32s?QQQI")
_META = struct.Struct("=10xH4xII16xI92xQQ")
"""What LMDB 0.9 has in a meta page, as `_Meta` names it: the page's header, then MDB_meta."""
_IS_META, _META_MAGIC, _META_VERSION = 0x08, 0xBEEFC0DE, 1
_LARGEST_PAGE = 1 << 16

_logger = logging.getLogger("zrep.storage")


class DamagedStoreError(StorageError):
    """The store lost what was durable: nothing in it can be believed, the log has to build it again."""


class Snapshot(NamedTuple):
    """What brings a snapshot back whose pages are on the disk."""

    boot: str
    """The operating system's boot whose crash alone can undo what was written since; empty: do not wait for it."""
    nbytes: int
    """How long the data file was, at least."""
    tip: Tip
    """The record that the store stood at."""
    page: bytes
    """LMDB's meta page."""
    clean: bool = False
    """Whether the store was closed then, and nothing is written before the next checkpoint is saved."""


class _Meta(NamedTuple):
    flags: int
    magic: int
    version: int
    page_size: int
    last_page: int
    txnid: int


class _Pin(NamedTuple):
    txn: "lmdb.Transaction"
    snapshot: Snapshot


class Checkpoints:
    """The checkpoints of one open store. The engine's thread calls; one at a time is made on a thread of its own."""

    def __init__(self, store: Path, env: lmdb.Environment, *, log: Path | None = None) -> None:
        self.tip = Tip()
        """Up to where the log is not needed to bring the store back; records above it must stay."""
        self._env = env
        self._log = log
        self._path = path_of(store)
        self._boot = boot_id()
        self._fd = os.open(store / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
        self._pinned: _Pin | None = None
        """What the file `checkpoint` holds."""
        self._pending: _Pin | None = None
        self._helper: threading.Thread | None = None
        self._hurry = threading.Event()
        """Somebody waits for the helper."""
        self._refusal: ZrepError | None = None
        """Why the pending one could not be made durable."""
        self._failure: StorageError | None = None
        self._due_at: Nanoseconds | None = None
        self._ended_at: Nanoseconds | None = 0
        """When the last helper was done; None until the next `tick`."""
        self._nbytes = 0
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child: file and pins are the parent's, who writes on.

        A clean close noted here would outlive the parent's crash, and a pin released here is the parent's.
        """
        return self._pid != os.getpid()

    def _check_process(self) -> None:
        if self.inherited:
            raise ForkError(f"the store of {self._path} is the parent's: a forked child leaves it alone")

    @property
    def deadline(self) -> Nanoseconds | None:
        """When `tick` has something to do."""
        return self._due_at if self._helper is None else None

    def hasten(self) -> None:
        """Have the next `tick` start one."""
        self._due_at = 0

    def wrote(self, nbytes: int) -> None:
        """Note that a commit wrote about so many bytes."""
        self._nbytes += nbytes
        if self._nbytes >= BYTES:
            self.hasten()

    def ensure(self, tip: Tip) -> None:
        """Call before every write transaction: what the disk would be restored to is pinned, or taken anew."""
        if self._pinned is None:
            self.take(tip)

    def tick(self, now: Nanoseconds, tip: Tip, collect: Callable[[], None]) -> None:
        """Start a checkpoint if it is time for one; the helper calls `collect` when it is done with it.

        `tip` is what the newest snapshot stands at. `collect` asks the engine's thread to call `collect`.
        """
        if self._helper is not None:
            return
        if self._ended_at is None:
            self._ended_at = now
        if tip == self.tip:
            return
        if self._due_at is None:
            self._due_at = now + INTERVAL_MS * MILLISECOND
        if now < self._due_at:
            return
        try:
            pin = self._pending = self.pin(tip)
        except lmdb.ReadersFullError as error:
            _logger.warning("no checkpoint yet reason=%s", error)
            return
        rest = self._hurry.wait if now - self._ended_at >= CALM_MS * MILLISECOND else None
        self._hurry.clear()
        self._helper = threading.Thread(
            target=self._help, args=(pin.snapshot, rest, collect), name="zrep-checkpoint", daemon=True
        )
        self._helper.start()

    def collect(self) -> None:
        """Take in what the helper has done; waits for it. Raises StorageError, which stops the site."""
        self._check_process()
        if self._helper is None:
            return
        self._hurry.set()
        self._helper.join()
        self._helper = self._ended_at = None
        pin, self._pending = self._pending, None
        assert pin is not None
        if self._refusal is None:
            self.complete(pin)
            return
        refusal, self._refusal = self._refusal, None
        pin.txn.abort()
        if not isinstance(refusal, DiskFullError):
            raise refusal
        _logger.warning("no checkpoint yet reason=%s", refusal)

    def take(self, tip: Tip, *, clean: bool = False) -> None:
        """Make a checkpoint here and now. Raises DiskFullError, and StorageError for what stops the site."""
        self.collect()
        pin = self.pin(tip)
        try:
            self.secure(pin.snapshot._replace(clean=clean))
        except ZrepError:
            pin.txn.abort()
            raise
        self.complete(pin)

    def unpin(self) -> None:
        """Let go of all snapshots: what comes next ends read transactions. `ensure` takes one before any write."""
        self.collect()
        if self._pinned is not None:
            self._pinned.txn.abort()
            self._pinned = None

    def close(self, tip: Tip) -> None:
        """Take the last one; not in a forked child. Idempotent."""
        if self._fd < 0 or self.inherited:
            return
        try:
            self.take(tip, clean=True)
        except (ZrepError, lmdb.Error) as error:
            _logger.warning("closed without a checkpoint path=%s reason=%s", self._path, error)
        if self._pinned is not None:
            self._pinned.txn.abort()
            self._pinned = None
        fd, self._fd = self._fd, -1
        os.close(fd)

    # The steps of one.

    def pin(self, tip: Tip) -> _Pin:
        """Hold the newest snapshot, and read its meta page while no later commit can have written over it."""
        self._check_process()
        self._due_at, self._nbytes = None, 0
        txn = self._env.begin()
        try:
            size = self._env.stat()["psize"]
            page = read_at(self._fd, size, (txn.id() & 1) * size)
            found = txnid(page)
            invariant(found == txn.id(), "a meta page is of its snapshot", found=found, snapshot=txn.id())
            return _Pin(txn, Snapshot(self._boot, os.fstat(self._fd).st_size, tip, page))
        except BaseException:
            txn.abort()
            raise

    def secure(self, snapshot: Snapshot, rest: Callable[[float], bool] | None = None) -> None:
        """Make a pinned snapshot durable, the log first; on any thread. With `rest` little by little, see `write_out`.

        Raises DiskFullError when there is no room for the file: the checkpoint before stands. Any other failure
        is final, as what it covered may never reach the disk: the next start goes back to the one before.
        """
        self._check_process()
        if self._failure is not None:
            raise self._failure
        try:
            if self._log is not None:
                flush_newest(self._log)
        except OSError as error:
            self._failure = StorageError(f"cannot flush the log in {self._log}: {error}; the site must stop")
            raise self._failure from error
        try:
            if rest is not None:
                write_out(self._fd, rest)
            os.fdatasync(self._fd)
            save(self._path, snapshot)
        except OSError as error:
            self._failure = StorageError(f"cannot flush the store of {self._path}: {error}; the site must stop")
            with suppress(OSError, ZrepError):
                if (last := load(self._path)) is not None:
                    save(self._path, last._replace(boot="", clean=False))
            raise self._failure from error

    def complete(self, pin: _Pin) -> None:
        """Let go of the snapshot before: the disk does not need it any more."""
        if self._pinned is not None:
            self._pinned.txn.abort()
        self._pinned = pin
        self.tip = pin.snapshot.tip

    def _help(self, snapshot: Snapshot, rest: Callable[[float], bool] | None, collect: Callable[[], None]) -> None:
        try:
            self.secure(snapshot, rest)
        except ZrepError as error:
            self._refusal = error
        with suppress(ZrepError):  # the engine has stopped: `close` collects
            collect()


def path_of(store: Path) -> Path:
    """Return where the checkpoint of the store at `store` is."""
    return store.with_name("checkpoint")


def recover(store: Path) -> Tip | None:
    """Undo what a crash may have made of the store; call before LMDB opens it: LMDB may die of what is damaged.

    Return the record that the store must stand at then, None where it may stand anywhere after it. Raises
    DamagedStoreError when it cannot be brought back.
    """
    path = store / "data.mdb"
    try:
        if not path.exists():
            raise DamagedStoreError(f"{path} is not there any more")
        snapshot = load(path_of(store))
        if believed(snapshot) and is_complete(path, snapshot):
            return snapshot.tip if snapshot is not None and snapshot.clean else None
        if snapshot is None:
            raise DamagedStoreError(f"{path} is shorter than when it was created")
        restore(store, snapshot)
    except OSError as error:
        raise StorageError(f"cannot bring {store} back to its checkpoint: {error}; correct that first") from error
    return snapshot.tip


def believed(snapshot: Snapshot | None) -> bool:
    """Tell whether no crash has undone a write: never written, closed cleanly, or written in this boot only."""
    return snapshot is None or snapshot.clean or bool(snapshot.boot and snapshot.boot == boot_id())


def is_complete(path: Path, snapshot: Snapshot | None) -> bool:
    """Tell whether a data file that is believed has every page that its newest meta page speaks of.

    Raises DamagedStoreError when it is shorter than at its checkpoint, or changed since it was closed, or as
    `newest_meta`.
    """
    with path.open("rb") as file:
        page = newest_meta(file.read(2 * _LARGEST_PAGE))
        nbytes = os.fstat(file.fileno()).st_size
    if snapshot is not None:
        _check_length(path, nbytes, snapshot)
        if page == snapshot.page:
            return True
        if snapshot.clean:
            raise DamagedStoreError(f"{path} is not what it was when it was closed")
    meta = _meta(page)
    return nbytes >= (meta.last_page + 1) * meta.page_size


def newest_meta(data: bytes) -> bytes:
    """Return the meta page that LMDB goes by, of a file that begins like this.

    Raises DamagedStoreError unless both are meta pages: LMDB would refuse the file, or divide by a page size of 0.
    """
    try:
        size = _meta(data).page_size
        pages = [data[:size], data[size : 2 * size]]
        metas = [_meta(page) for page in pages]
        if all(meta[:4] == (_IS_META, _META_MAGIC, _META_VERSION, size) for meta in metas):
            return pages[metas[1].txnid > metas[0].txnid]
    except struct.error:
        pass
    raise DamagedStoreError("the store's file does not begin like one of LMDB")


def txnid(page: bytes) -> int:
    """Return the number of the transaction that wrote a meta page."""
    return _meta(page).txnid


def _meta(page: bytes) -> _Meta:
    return _Meta(*_META.unpack_from(page))


def restore(store: Path, snapshot: Snapshot) -> None:
    """Make the store exactly the snapshot, durably.

    Other processes may still read a file that this boot wrote: they keep it, and the store gets a copy.
    """
    target = path = store / "data.mdb"
    if snapshot.boot in ("", boot_id()):
        target = path.with_name("data.mdb.tmp")
        shutil.copyfile(path, target)
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        _check_length(path, os.fstat(fd).st_size, snapshot)
        for slot in (0, 1):
            write_at(fd, snapshot.page, slot * len(snapshot.page))
        os.fdatasync(fd)
    finally:
        os.close(fd)
    with suppress(FileNotFoundError):
        os.unlink(store / "lock.mdb")  # its readers are of another boot, or of the file that was
    if target != path:
        os.rename(target, path)
        sync_directory(store)


def _check_length(path: Path, nbytes: int, snapshot: Snapshot) -> None:
    if nbytes < snapshot.nbytes:
        raise DamagedStoreError(f"{path} has {nbytes} bytes of the {snapshot.nbytes} that were flushed")


def forget(store: Path) -> None:
    """Remove, durably, the checkpoint of a store that is no more: it must never meet another one."""
    path = path_of(store)
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def load(path: Path) -> Snapshot | None:
    """Read a checkpoint; None if there is none. Raises StorageError for another format, DamagedStoreError."""
    try:
        payload = sealed.load(path, _MAGIC, FORMAT)
        if payload is None:
            return None
        boot, clean, nbytes, *tip = _FACTS.unpack_from(payload)
    except (sealed.DamagedFileError, struct.error):
        raise DamagedStoreError(f"{path} is damaged, and what the store was cannot be told") from None
    name = boot.rstrip(b"\0").decode("ascii", "replace")
    return Snapshot(name, nbytes, Tip(*tip), payload[_FACTS.size :], clean)


def save(path: Path, snapshot: Snapshot) -> None:
    """Replace the checkpoint. Raises DiskFullError when nothing changed for lack of space, OSError else."""
    boot = snapshot.boot.encode("ascii")
    facts = _FACTS.pack(boot, snapshot.clean, snapshot.nbytes, *snapshot.tip)
    sealed.save(path, _MAGIC, FORMAT, facts + snapshot.page)
