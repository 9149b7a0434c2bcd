"""Checkpoints: when one is taken, what stands after each way it can fail, and what a start makes of it."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

import zrep
from tests.shim import pages
from tests.unit.test_store import OPTIONS, SITE, Script
from zrep import codec, engine
from zrep.errors import DiskFullError, ForkError, StorageError
from zrep.options import MIB, MILLISECOND, Options
from zrep.records import Config, Kind, Member, Op, Tip
from zrep.storage import checkpoint, home, sealed
from zrep.storage.log import SegmentedLog
from zrep.storage.store import ENGINE, Store

LATER = (checkpoint.INTERVAL_MS + 1) * MILLISECOND


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path, OPTIONS)
    yield store
    store.close()


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What is opened from now on is opened after a restart of the operating system."""

    def restart() -> None:
        for module in (checkpoint, home):
            monkeypatch.setattr(module, "boot_id", lambda: "f" * 32)

    return restart


def written(store: Store, commits: int = 1) -> Tip:
    """Apply some records to a new store; return where it stands."""
    script = Script()
    for number in range(commits):
        script.commit((Op.PUT, None, b"%d" % number, bytes(3000)))
    store.apply(script.records[store.applied.tip.lsn :])
    return store.applied.tip


def load(path: Path) -> checkpoint.Snapshot | None:
    return checkpoint.load(checkpoint.path_of(path))


def crash(store: Store) -> None:
    """Let the process go without closing anything."""
    store.env.close()
    os.close(store.checkpoints._fd)
    store.checkpoints._fd = -1


def copied(path: Path, name: str) -> Path:
    """Return a copy of a store and its checkpoint, in a directory of this name."""
    copy = path.parent / name / "data"
    shutil.copytree(path, copy)
    shutil.copy(checkpoint.path_of(path), checkpoint.path_of(copy))
    return copy


def damage(file: Path, at: int, bits: int) -> None:
    """Flip these bits of the byte at `at`."""
    data = bytearray(file.read_bytes())
    data[at] ^= bits
    file.write_bytes(data)


def taken(store: Store, now: int = LATER) -> bool:
    """Run a tick, wait for the helper if there is one, and take in what it did."""
    asked = threading.Event()
    store.checkpoint(now, asked.set)
    if store.checkpoints._helper is None:
        return False
    assert asked.wait(10)
    store.checkpoints.collect()
    return True


def test_one_is_due_some_time_after_the_first_new_record(store: Store) -> None:
    assert not taken(store, LATER)
    tip = written(store)
    assert not taken(store, LATER)
    assert store.checkpoints.deadline == LATER + checkpoint.INTERVAL_MS * MILLISECOND
    assert not taken(store, store.checkpoints.deadline - 1)
    assert taken(store, store.checkpoints.deadline)
    assert store.checkpoints.tip == tip
    assert not taken(store, 3 * LATER)


def test_one_is_due_at_once_when_much_was_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BYTES", 100_000)
    written(store)
    assert not taken(store, 0)
    assert store.checkpoints.deadline
    written(store, 20)
    assert store.checkpoints.deadline == 0, "the engine looks before anything else happens"
    assert taken(store, 0)


def test_no_more_than_two_snapshots_are_held(store: Store) -> None:
    for commits in range(1, 8):
        written(store, commits)
        store.checkpoints.take(store.applied.tip)
        pinned = [line for line in store.env.readers().splitlines()[1:] if not line.endswith("-")]
        assert len(pinned) == 1


def test_after_a_reboot_the_store_is_the_checkpoint(store: Store, path: Path, reboot: Callable[[], None]) -> None:
    tip = written(store, 3)
    store.checkpoints.take(tip)
    digest = store.digest()
    written(store, 10)
    crash(store)
    reboot()
    again = Store(path, OPTIONS)
    assert (again.applied.tip, again.digest()) == (tip, digest)
    written(again, 10)
    again.close()


def test_a_crash_of_the_process_alone_loses_nothing(store: Store, path: Path) -> None:
    tip = written(store, 10)
    crash(store)
    again = Store(path, OPTIONS)
    assert again.applied.tip == tip
    assert again.checkpoints.tip == tip, "taken before the first write"
    again.close()


def test_a_clean_close_leaves_the_file_whole(path: Path, reboot: Callable[[], None]) -> None:
    store = Store(path, OPTIONS)
    tip = written(store, 5)
    store.close()
    data = (path / "data.mdb").read_bytes()
    reboot()
    assert checkpoint.recover(path) == tip
    assert (path / "data.mdb").read_bytes() == data
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    assert (saved := load(path)) is not None
    assert not saved.clean
    store.close()


def test_a_configuration_is_checkpointed_at_once(store: Store) -> None:
    script = Script()
    store.apply(script.records)
    assert not taken(store, 0)
    script.add(Kind.CONFIG, codec.encode_config(Config((Member(SITE),))))
    store.apply(script.records[1:])
    assert taken(store, 0)
    assert store.checkpoints.tip == script.tip


def test_one_waits_for_a_reader_slot(path: Path) -> None:
    store = Store(path, Options(map_bytes=64 * MIB, max_readers=126))
    tip = written(store)
    readers = [store.env.begin() for _ in range(126 + 1)]
    store.checkpoints.hasten()
    assert not taken(store, 0)
    del readers[:]  # py-lmdb keeps the slot of an aborted one
    assert not taken(store, 0)
    assert taken(store)
    assert store.checkpoints.tip == tip
    store.close()


def test_a_larger_map_has_a_checkpoint_before_the_next_write(path: Path, reboot: Callable[[], None]) -> None:
    store = Store(path, Options(map_bytes=1 * MIB))
    tip = written(store, 5)
    store.grow()
    assert store.checkpoints.tip.lsn == 0
    written(store, 6)
    assert store.checkpoints.tip == tip
    written(store, 40)
    crash(store)
    reboot()
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    store.close()


def test_a_full_disk_leaves_the_checkpoint_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written(store)

    def full(fd: int, data: bytes, offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sealed, "write_at", full)
        with pytest.raises(DiskFullError, match="no space to save"):
            store.checkpoints.take(store.applied.tip)
        taken(store, 0)
        assert taken(store)
        assert store.checkpoints.tip.lsn == 0
    tip = written(store, 2)
    taken(store, 0)
    assert taken(store)
    assert store.checkpoints.tip == tip


def test_a_failed_flush_is_final_and_the_next_start_goes_back(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = written(store, 2)
    store.checkpoints.take(tip)
    written(store, 5)
    calls: list[int] = []

    def fail(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        taken(store, 0)
        with pytest.raises(StorageError, match="cannot flush the store"):
            taken(store)
        with pytest.raises(StorageError, match="cannot flush the store"):
            store.checkpoints.take(store.applied.tip)
    crash(store)
    with (path / "data.mdb").open("rb") as reader:
        before = reader.read()
        again = Store(path, OPTIONS)
        assert again.applied.tip == tip
        reader.seek(0)
        assert reader.read() == before, "who reads goes on with what it has"
    again.close()


def test_no_checkpoint_is_saved_whose_log_cannot_be_flushed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is flushed first; that it could not be is told once, so there is none afterwards, either."""
    log = path.with_name("log")
    log.mkdir()
    SegmentedLog.create(log)
    store = Store(path, OPTIONS, log=log)
    before = load(path)
    written(store, 2)
    failed: list[int] = []

    def fail(fd: int) -> None:
        failed.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        taken(store, 0)
        with pytest.raises(StorageError, match="cannot flush the log"):
            taken(store)
    with pytest.raises(StorageError, match="cannot flush the log"):
        store.checkpoints.take(store.applied.tip)
    store.close()
    assert load(path) == before
    assert len(failed) == 1


def test_a_page_that_cannot_be_written_out_fails_the_flush(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells such an error once: the flush afterwards succeeds, and has lost it."""
    written(store, 2)

    def fail(fd: int, rest: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_out", fail)
        taken(store, 0)
        with pytest.raises(StorageError, match="cannot flush the store"):
            taken(store)
    with pytest.raises(StorageError, match="cannot flush the store"):
        store.checkpoints.take(store.applied.tip)


def test_who_waits_for_one_hurries_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = written(store, 2)
    rested: list[object] = []
    monkeypatch.setattr(checkpoint, "write_out", lambda fd, rest: rested.append(rest(3600.0)))
    for now in (0, LATER):
        store.checkpoints.tick(now, tip, lambda: None)
    store.checkpoints.collect()
    assert rested == [True], "it was told not to rest any longer"
    assert store.checkpoints.tip == tip


def test_who_writes_much_gives_the_disk_no_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    now = 0
    monkeypatch.setattr(checkpoint, "BYTES", 0)
    monkeypatch.setattr(checkpoint, "write_out", lambda fd, rest: begun.append(now))
    for commits, pause in enumerate((checkpoint.CALM_MS, checkpoint.CALM_MS - 1, checkpoint.CALM_MS), 1):
        now += pause * MILLISECOND
        written(store, commits)
        assert taken(store, now)
        now += 3600 * 1000 * MILLISECOND  # for so long it took
        assert not taken(store, now)
    first = checkpoint.CALM_MS * MILLISECOND
    assert begun == [first, now - 3600 * 1000 * MILLISECOND]


@pytest.mark.parametrize("damage", ["checkpoint", "length", "missing"])
def test_what_cannot_be_brought_back_is_set_aside(path: Path, damage: str, reboot: Callable[[], None]) -> None:
    store = Store(path, OPTIONS)
    written(store, 20)
    store.checkpoints.take(store.applied.tip)
    crash(store)
    if damage == "checkpoint":
        file = path.with_name("checkpoint")
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    elif damage == "length":
        os.truncate(path / "data.mdb", 16384)
    else:
        (path / "data.mdb").unlink()
    reboot()
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    assert path.with_name("data.damaged").is_dir()
    tip = written(store, 20)
    store.close()
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    store.close()


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("nbytes", [0, 100, 4096, 5000, 8192, 20000, -4096, -1])
def test_a_file_that_is_shorter_than_its_checkpoint_is_set_aside(path: Path, closed: bool, nbytes: int) -> None:
    """LMDB would map it, and die of SIGBUS."""
    store = Store(path, OPTIONS)
    written(store, 20)
    store.checkpoints.take(store.applied.tip)
    (store.close if closed else lambda: crash(store))()
    file = path / "data.mdb"
    os.truncate(file, nbytes if nbytes >= 0 else file.stat().st_size + nbytes)
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    assert path.with_name("data.damaged").is_dir()
    tip = written(store, 20)
    store.close()
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    store.close()


def test_a_file_that_lacks_later_pages_goes_back_to_its_checkpoint(store: Store, path: Path) -> None:
    tip = written(store, 5)
    store.checkpoints.take(tip)
    digest, nbytes = store.digest(), (path / "data.mdb").stat().st_size
    written(store, 20)
    crash(store)
    for cut in range(nbytes, (path / "data.mdb").stat().st_size, 4096):
        copy = copied(path, f"cut-{cut}")
        os.truncate(copy / "data.mdb", cut)
        again = Store(copy, OPTIONS)
        assert (again.applied.tip, again.digest()) == (tip, digest)
        written(again, 20)
        again.close()


def test_a_file_that_never_had_its_last_pages_is_well(store: Store, path: Path) -> None:
    """LMDB does not write what one transaction took at the end of the file and gave back."""
    script = Script()
    for _ in range(5):
        script.commit((Op.PUT, None, b"a", bytes(100)))
        store.apply(script.records[store.applied.tip.lsn :])
        store.checkpoints.take(store.applied.tip)
    tip = store.applied.tip
    script.commit((Op.PUT, None, b"b", bytes(100_000)), (Op.DELETE, None, b"b"))
    store.apply(script.records[tip.lsn :])
    digest = store.digest()
    assert (path / "data.mdb").stat().st_size < 4096 * store.env.info()["last_pgno"]
    copy = copied(path, "killed")
    again = Store(copy, OPTIONS)
    assert again.applied.tip == tip
    again.apply(script.records[tip.lsn :])
    assert (again.applied.tip, again.digest()) == (script.tip, digest)
    again.close()
    for _ in range(2):
        again = Store(copy, OPTIONS)
        assert (again.applied.tip, again.digest()) == (script.tip, digest)
        again.close()
    assert not copy.with_name("data.damaged").exists()


def test_who_reads_keeps_the_file_that_goes_back(store: Store, path: Path) -> None:
    tip = written(store, 5)
    store.checkpoints.take(tip)
    written(store, 20)
    crash(store)
    os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size - 4096)
    with (path / "data.mdb").open("rb") as reader:
        before = reader.read()
        again = Store(path, OPTIONS)
        written(again, 20)
        reader.seek(0)
        assert reader.read() == before
    again.close()


def test_who_only_reads_refuses_a_file_that_is_too_short(tmp_path: Path) -> None:
    with zrep.open(tmp_path / "home") as env:
        env.put(b"k", bytes(100_000))
    os.truncate(tmp_path / "home" / "state-1" / "data" / "data.mdb", 8192)
    with pytest.raises(StorageError, match=r"cannot be read: .* has 8192 bytes of the"):
        zrep.open(tmp_path / "home", readonly=True)
    with zrep.open(tmp_path / "home") as env:
        assert env.get(b"k") == bytes(100_000), "the log had it"


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("at", [10, 16, 20, 41, 42])
def test_a_file_without_two_meta_pages_is_set_aside(path: Path, slot: int, at: int) -> None:
    """LMDB would refuse it, or divide by a page size of 0."""
    store = Store(path, OPTIONS)
    written(store)
    crash(store)
    damage(path / "data.mdb", slot * 4096 + at, 0x18)
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    store.close()


@pytest.mark.parametrize("at", [24, 44, 80, 128, 136, 144])
def test_a_file_that_changed_since_it_was_closed_is_set_aside(path: Path, at: int) -> None:
    store = Store(path, OPTIONS)
    written(store)
    store.close()
    for slot in (0, 1):
        damage(path / "data.mdb", slot * 4096 + at, 1)
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    store.close()


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("what", ["empty page", "another page", "no bookkeeping", "meta pages"])
def test_what_lmdb_finds_damaged_is_set_aside(
    path: Path, closed: bool, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At every start, and for ever, if it were not: the log is whole."""
    store = Store(path, OPTIONS)
    written(store, 20)
    (store.close if closed else lambda: crash(store))()
    file = path / "data.mdb"
    data = bytearray(file.read_bytes())
    meta = pages.newest_meta(pages.split(bytes(data)))
    (root,) = struct.unpack_from("=Q", meta, 128)
    page = data[root * 4096 :][:4096]
    if what == "empty page":
        page[:] = bytes(4096)
    elif what == "another page":
        page[10] ^= 3
    elif what == "no bookkeeping":
        page = page.replace(b"__zrep.dbs", b"__zrep.dbt").replace(b"__zrep\0", b"__zrap\0")
    else:
        data[4096 * (pages.txnid(meta) & 1) + 90] ^= 1
    data[root * 4096 : (root + 1) * 4096] = page
    file.write_bytes(data)
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    assert (path.with_name("data.damaged") / "data.mdb").read_bytes()[8192:] == data[8192:]
    assert "store set aside, the log builds it again" in caplog.text
    tip = written(store, 20)
    store.close()
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    store.close()


@pytest.mark.parametrize("at", [0, 4])
def test_a_damaged_lock_file_is_no_damage_of_the_store(path: Path, at: int) -> None:
    store = Store(path, OPTIONS)
    tip = written(store)
    store.close()
    script = f"""if True:
        import lmdb, sys
        env = lmdb.open({str(path)!r}, readonly=True, **{ENGINE})
        print(flush=True)
        sys.stdin.read()"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with (path / "lock.mdb").open("r+b") as file:
            file.seek(at)
            file.write(b"\0")
        with pytest.raises(StorageError, match="stop the programs that read the store"):
            Store(path, OPTIONS)
    store = Store(path, OPTIONS)
    assert store.applied.tip == tip
    store.close()


@pytest.mark.parametrize("error", [lmdb.MemoryError, lmdb.DiskError, lmdb.ReadonlyError, lmdb.Error])
def test_a_store_that_cannot_be_read_stays_where_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: type[lmdb.Error]
) -> None:
    Store(path, OPTIONS).close()

    def fail(*args: object, **options: object) -> None:
        raise error("no")

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", fail)
        with pytest.raises(StorageError):
            Store(path, OPTIONS)
    assert not path.with_name("data.damaged").exists()
    Store(path, OPTIONS).close()


def test_a_checkpoint_never_meets_another_store(path: Path, reboot: Callable[[], None]) -> None:
    store = Store(path, OPTIONS)
    written(store, 20)
    store.close()
    path.rename(path.with_name("elsewhere"))
    Store(path, OPTIONS).close()
    reboot()
    store = Store(path, OPTIONS)
    assert store.applied.tip == Tip()
    store.close()


def test_another_format_is_refused(path: Path) -> None:
    Store(path, OPTIONS).close()
    file = path.with_name("checkpoint")
    data = bytearray(file.read_bytes())
    data[8] = 9
    file.write_bytes(data)
    with pytest.raises(StorageError, match="has format 9"):
        Store(path, OPTIONS)


def test_a_store_that_is_not_its_checkpoints_is_refused(path: Path, reboot: Callable[[], None]) -> None:
    Store(path, OPTIONS).close()
    saved = load(path)
    assert saved is not None
    checkpoint.save(checkpoint.path_of(path), saved._replace(tip=Tip(1, 7, 7), clean=False))
    reboot()
    with pytest.raises(StorageError, match="does not stand where its checkpoint says"):
        Store(path, OPTIONS)


def test_a_site_goes_on_where_its_log_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reboot: Callable[[], None]
) -> None:
    """The log is trimmed up to the checkpoint and not above, and brings back what came after it."""
    monkeypatch.setattr(engine, "MAINTENANCE_MS", 1)
    home = tmp_path / "home"
    first = home / "state-1" / "log" / "00000000000000000001.log"
    with zrep.open(home, segment_bytes=4096, retain_bytes=1) as env:
        for number in range(50):
            env.put(b"%d" % number, bytes(1000))
        assert first.exists()
        crashed = shutil.copytree(home, tmp_path / "crashed", ignore=shutil.ignore_patterns("*.sock"))
        monkeypatch.setattr(checkpoint, "INTERVAL_MS", 1)
        deadline = time.monotonic() + 30
        while first.exists():
            assert time.monotonic() < deadline, "the log is never trimmed"
            env.put(b"0", bytes(1000))
    reboot()
    with pytest.raises(StorageError, match="start its site once"):
        zrep.open(crashed, readonly=True)
    zrep.open(home, readonly=True).close()
    for path in (home, crashed):
        with zrep.open(path) as env, env.begin() as txn:
            assert txn.stat()["entries"] == 50


def test_a_home_whose_store_and_log_are_damaged_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with zrep.open(home, segment_bytes=4096) as env:
        for number in range(20):
            env.put(b"%d" % number, bytes(1000))
    (home / "state-1" / "data" / "data.mdb").unlink()
    segment = home / "state-1" / "log" / "00000000000000000001.log"
    damaged = bytearray(segment.read_bytes())
    damaged[1000] ^= 1
    segment.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(
            StorageError, match="does not tell any more whom to copy from: restore it from a backup, or"
        ):
            zrep.open(home)


def test_a_forked_child_takes_none_and_releases_none(store: Store, path: Path) -> None:
    tip = written(store)
    before, pinned = load(path), store.env.readers()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            checkpoints = store.checkpoints
            for step in (lambda: checkpoints.take(tip), checkpoints.unpin, lambda: checkpoints.pin(tip)):
                with pytest.raises(ForkError, match="parent's"):
                    step()
            store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert load(path) == before
    assert store.env.readers() == pinned
