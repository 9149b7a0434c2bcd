"""Durability is the group's: whatever a site was started with, it flushes, or does not, as the founder chose."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import zmq

import zrep
from tests.environment.power import Power
from tests.environment.sites import DEADLINE_S, QUICK, eventually
from zrep import codec
from zrep.opening import Opened
from zrep.ports import records_from
from zrep.records import Kind
from zrep.storage import checkpoint
from zrep.storage import home as home_module
from zrep.storage.checkpoint import Checkpoints
from zrep.storage.segment import Segment


class Pair:
    """A founder and who joins it, each started with a durability of its own, and whose logs are flushed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._running: list[zrep.Site] = []
        self._keys = count()
        self._flushed: set[Path] = set()
        flush = Segment.flush

        def watched(segment: Segment) -> None:
            self._flushed.add(segment.path.parent)
            flush(segment)

        monkeypatch.setattr(Segment, "flush", watched)

    def start(self, name: str, durability: str, *, create: bool = False, join: tuple[str, ...] = ()) -> zrep.Site:
        site = zrep.Site(
            self._root / name,
            bind=f"inproc://{name}",
            create=create,
            join=join,
            priority=100 if create else 0,
            options=replace(QUICK, durability=durability),
            context=self._context,
        )
        self._running.append(site.start())
        return site

    def both(self, founders: str, own: str) -> tuple[zrep.Site, zrep.Site]:
        master = self.start("master", founders, create=True)
        member = self.start("member", own, join=("inproc://master",))
        eventually(lambda: {info.role for info in master.sites()} == {"voter"}, "both vote")
        return master, member

    def flushes(self, master: zrep.Site, member: zrep.Site) -> bool:
        """Write at the master, and tell whether the member flushes it."""
        key = b"%d" % next(self._keys)
        self._flushed.clear()
        master.env.put(key, b"value", None)
        eventually(lambda: member.env.get(key), "the member has applied it")
        return any(directory.is_relative_to(member.home) for directory in self._flushed)

    def close(self) -> None:
        for site in reversed(self._running):
            site.stop()
        self._context.term()


class Killed(BaseException):
    """Nothing that the process would have done comes after this."""


def killed(*arguments: object) -> None:
    raise Killed


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    pair = Pair(tmp_path, monkeypatch)
    try:
        yield pair
    finally:
        pair.close()


@pytest.fixture
def disk_free(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Checkpoints beside the engine wait while this is not set, as on a busy disk."""
    secure, may_go_on = Checkpoints.secure, threading.Event()

    def delayed(checkpoints: Checkpoints, *arguments: object) -> None:
        if threading.current_thread().name == "zrep-checkpoint":
            assert may_go_on.wait(DEADLINE_S)
        secure(checkpoints, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "secure", delayed)
    yield may_go_on
    may_go_on.set()


def test_a_site_flushes_in_a_group_that_does(pair: Pair) -> None:
    master, member = pair.both("sync", "process")
    assert pair.flushes(master, member)
    assert master.env.put(b"k", b"v").durable == "sync"
    member.stop()
    member = pair.start("member", "process")
    assert pair.flushes(master, member)


def test_a_site_does_not_flush_in_a_group_that_does_not(pair: Pair) -> None:
    master, member = pair.both("process", "sync")
    eventually(lambda: not pair.flushes(master, member), "it has the configuration, and so has its disk")
    assert master.env.put(b"k", b"v").durable == "process"
    member.stop()
    member = pair.start("member", "sync")
    assert not pair.flushes(master, member)


def test_a_site_flushes_until_its_disk_says_that_it_does_not(pair: Pair, disk_free: threading.Event) -> None:
    """A start after a crash of the operating system reads there whether the log may be believed."""
    master, member = pair.both("process", "process")
    assert pair.flushes(master, member)
    disk_free.set()
    eventually(lambda: not pair.flushes(master, member), "the checkpoint is made")


def test_a_founder_that_lost_power_knows_that_others_vote(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk_free: threading.Event
) -> None:
    """Its disk says that it votes alone; the record that ends this must be there, or two masters reign."""
    power = Power(monkeypatch)
    disk_free.set()
    master = pair.start("master", "process", create=True)
    eventually(lambda: master.env.put(b"k", b"v") and not master.env.engine.log.sync, "its log is not flushed")
    disk_free.clear()
    pair.start("member", "process", join=("inproc://master",))
    eventually(lambda: {info.role for info in master.sites()} == {"voter"}, "both vote")
    state = master.env.engine.replica.state
    eventually(lambda: state.perm >= state.config_lsn, "that is permanent")
    power.cut(master.home, tmp_path / "left")
    power.reboot()
    opened = Opened(tmp_path / "left", QUICK)
    try:
        records = records_from(opened.log, opened.log.first)
        configs = [codec.decode_config(record.payload) for record in records if record.kind is Kind.CONFIG]
        assert opened.store.applied.config.voters == (master.site,)
        assert len(configs[-1].voters) == 2
    finally:
        opened.close()


def test_a_start_that_is_killed_believes_no_unflushed_log_for_the_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start after a restart of the system finds it out; it may die before it has acted on that."""
    master, member = pair.both("process", "process")
    name = member.site
    master.env.put(b"k", b"v")
    member.stop()
    for module in (home_module, checkpoint):
        monkeypatch.setattr(module, "boot_id", lambda: "f" * 32)
    for step in ("_open_store", "_distrust", "_begin_anew"):
        with monkeypatch.context() as patch:
            patch.setattr(Opened, step, killed)
            with pytest.raises(Killed):
                pair.start("member", "process")
    member = pair.start("member", "process", join=("inproc://master",))
    assert member.site != name
    eventually(lambda: member.env.get(b"k"), "it has what was written")


@pytest.mark.parametrize("store", ["whole", "damaged"])
@pytest.mark.parametrize("durability", ["sync", "process"])
def test_an_unflushed_log_is_not_believed_after_a_restart_of_the_system(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, durability: str, store: str
) -> None:
    """What the site acknowledged may be gone, so it must not count under its old name (R4)."""
    master, member = pair.both(durability, durability)
    name = member.site
    master.env.put(b"k", b"v")
    member.stop()
    for module in (home_module, checkpoint):
        monkeypatch.setattr(module, "boot_id", lambda: "f" * 32)
    if store == "damaged":
        (member.home / "state-1" / "data" / "data.mdb").unlink()
    member = pair.start("member", durability, join=("inproc://master",))
    assert (member.site == name) == (durability == "sync")
    eventually(lambda: member.env.get(b"k"), "it has what was written")
