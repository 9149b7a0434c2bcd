"""Homes: made whole or made again, one process each, and a clear sentence for what cannot be one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zrep.errors import DamagedLogError, HomeInUseError, OptionError, StorageError, ZrepError
from zrep.ports import Meta
from zrep.records import Kind, Tip, make_record
from zrep.storage import home as home_module
from zrep.storage.home import Home
from zrep.storage.log import SegmentedLog
from zrep.storage.meta import DiskMeta

SEGMENT = 4096


def opened(path: Path) -> Home:
    return Home(path, segment_bytes=SEGMENT)


def open_log(home: Home, floor: int = 0) -> SegmentedLog:
    return SegmentedLog(home.log_directory(home.meta.state), segment_bytes=SEGMENT, floor=floor)


def test_a_new_home_mints_an_identity_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "home"
    first = opened(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert len(first.meta.site) == 32
    assert (first.meta.boots, first.meta.state, first.rebooted) == (1, 1, False)
    assert first.data_directory(1).parent == first.log_directory(1).parent
    assert open_log(first).tip == Tip()
    first.close()
    second = opened(path)
    assert second.meta == first.meta._replace(boots=2)
    assert second.metafile.load() == second.meta
    assert second.incarnation >> 32 == 2
    second.close()


def test_a_different_boot_of_the_system_is_noticed_until_it_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).close()
    home = opened(tmp_path)
    assert not home.rebooted
    home.close()
    monkeypatch.setattr(home_module, "boot_id", lambda: "another")
    for _ in range(2):
        home = opened(tmp_path)
        assert home.rebooted
        home.close()
    home = opened(tmp_path)
    home.settled()
    assert home.metafile.load() == home.meta
    home.close()
    home = opened(tmp_path)
    assert not home.rebooted
    home.close()


def test_a_second_open_names_who_has_it(tmp_path: Path) -> None:
    home = opened(tmp_path)
    with pytest.raises(HomeInUseError, match="in use by this process"):
        opened(tmp_path)
    script = f"from zrep.storage.home import Home; Home({str(tmp_path)!r}, segment_bytes=4096)"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}:" in child.stderr
    home.close()
    opened(tmp_path).close()


def test_a_forked_child_neither_keeps_nor_drops_the_lock(tmp_path: Path) -> None:
    """A site process is killed while a child that it forked lives on."""
    told, tell = os.pipe()
    hold, release = os.pipe()
    site = os.fork()
    if site == 0:
        try:
            os.close(release)
            home = opened(tmp_path)
            if os.fork() == 0:
                home.close()
                os.write(tell, b".")
            os.read(hold, 1)
        finally:
            os._exit(0)
    assert os.read(told, 1) == b"."
    with pytest.raises(HomeInUseError, match=f"in use by process {site}:"):
        opened(tmp_path)
    os.kill(site, signal.SIGKILL)
    os.waitpid(site, 0)
    opened(tmp_path).close()
    for descriptor in (release, hold, told, tell):
        os.close(descriptor)


def test_what_cannot_be_a_home_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a home")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    for path, error, sentence in [
        (file, OptionError, "is a file: a home is a directory"),
        (file / "below", OptionError, "lies below a file"),
        (other, OptionError, "holds other files and is not a zrep home"),
    ]:
        with pytest.raises(error, match=sentence):
            opened(path)
    assert sorted(os.listdir(other)) == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("was_a_home", [False, True])
def test_a_directory_that_cannot_be_written(tmp_path: Path, was_a_home: bool) -> None:
    if was_a_home:
        opened(tmp_path).close()
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="must be writable"):
        opened(tmp_path)
    tmp_path.chmod(0o700)


def test_an_unfinished_home_is_made_again(tmp_path: Path) -> None:
    """A kill before site.meta, wherever it struck, leaves nothing that the next start believes."""
    opened(tmp_path).close()
    (tmp_path / "site.meta").rename(tmp_path / "site.meta.tmp")
    home = opened(tmp_path)
    assert home.meta.boots == 1
    home.close()
    (tmp_path / "site.meta").unlink()
    (tmp_path / "state-1").rename(tmp_path / "state-1.tmp")
    home = opened(tmp_path)
    assert open_log(home).tip == Tip()
    assert not (tmp_path / "state-1.tmp").exists()
    home.close()


def test_a_lost_identity_is_not_replaced_silently(tmp_path: Path) -> None:
    home = opened(tmp_path)
    log = open_log(home)
    log.append(make_record(Tip(), 1, 0, Kind.COMMIT, b"x"))
    log.flush()
    home.close()
    (tmp_path / "site.meta").unlink()
    with pytest.raises(StorageError, match=r"holds a log but no site\.meta.* at the same address"):
        opened(tmp_path)


def test_a_lost_identity_that_was_not_the_first_is_not_replaced_silently(tmp_path: Path) -> None:
    home = opened(tmp_path)
    home.begin_anew(home.meta)
    log = open_log(home)
    log.append(make_record(Tip(), 1, 0, Kind.COMMIT, b"x"))
    log.flush()
    home.close()
    (tmp_path / "site.meta").unlink()
    (tmp_path / "site.sock.lock").touch()
    assert {"lost-1", "state-2"} <= set(os.listdir(tmp_path))
    with pytest.raises(StorageError, match=r"holds a log but no site\.meta"):
        opened(tmp_path)


def test_a_lost_log_is_not_replaced_silently(tmp_path: Path) -> None:
    home = opened(tmp_path)
    for segment in home.log_directory(1).iterdir():
        segment.unlink()
    with pytest.raises(DamagedLogError, match="no log any more"):
        open_log(home, floor=5)
    home.close()


def test_a_damaged_meta_file_and_a_newer_one_say_so(tmp_path: Path) -> None:
    opened(tmp_path).close()
    path = tmp_path / "site.meta"
    good = path.read_bytes()
    for index in range(len(good)):
        bad = bytearray(good)
        bad[index] ^= 4
        path.write_bytes(bad)
        with pytest.raises(ZrepError, match=r"is damaged|has format"):
            opened(tmp_path)
    path.write_bytes(good[:-1])
    with pytest.raises(StorageError, match="is damaged"):
        opened(tmp_path)
    path.write_bytes(good[:8] + b"\2" + good[9:])
    with pytest.raises(StorageError, match="has format 2 and this zrep reads format 1"):
        opened(tmp_path)
    path.write_bytes(good)
    opened(tmp_path).close()


def test_a_failed_save_ends_all_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DiskMeta(tmp_path / "site.meta")
    file.save(Meta(home_module._mint()))

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageError, match="the site must stop"):
            file.save(Meta(home_module._mint()))
    with pytest.raises(StorageError, match="the site must stop"):
        file.save(Meta(home_module._mint()))


def test_a_site_that_lost_trust_begins_anew(tmp_path: Path) -> None:
    home = opened(tmp_path)
    before = home.meta._replace(promise=9, vote=home.meta.site, doubtful=True)
    log = open_log(home)
    log.append(make_record(Tip(), 1, 0, Kind.COMMIT, b"x"))
    log.flush()
    after = home.begin_anew(before)
    assert after.site != before.site
    assert (after.replaces, after.state, after.promise, after.vote) == (before.site, 2, 0, "")
    assert not after.doubtful
    assert open_log(home).tip == Tip()
    assert (tmp_path / "lost-1" / "log").is_dir()
    home.close()
    home = opened(tmp_path)
    assert home.meta.site == after.site
    home.close()


def test_a_home_without_its_state_can_begin_anew(tmp_path: Path) -> None:
    home = opened(tmp_path)
    (tmp_path / "state-1" / "log").rename(tmp_path / "elsewhere")
    (tmp_path / "state-1").rmdir()
    with pytest.raises(DamagedLogError):
        open_log(home)
    home.begin_anew(home.meta)
    assert open_log(home).tip == Tip()
    home.close()


def test_states_that_are_not_current_are_removed(tmp_path: Path) -> None:
    home = opened(tmp_path)
    home.make_state(2, Tip(3, 50, 7))
    home.close()
    home = opened(tmp_path)
    assert not (tmp_path / "state-2").exists()
    home.make_state(2, Tip(3, 50, 7))
    home.metafile.save(home.meta._replace(state=2))
    home.close()
    home = opened(tmp_path)
    assert not (tmp_path / "state-1").exists()
    assert open_log(home).tip == Tip(3, 50, 7)
    home.close()
