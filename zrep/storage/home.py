"""A site's home: the directory, its lock, its identity, and where everything in it stands.

    home/
      LOCK                 flock: one process per home; holds its pid
      site.meta            identity, promise, vote, which state is current; written last when a home is made
      state-<k>/log        segments                    state-<k>/data     LMDB
      lost-<k>             a state that this site could not vouch for, kept for a person to look at
      site.sock            where local processes reach the site

A home is made under its lock, `site.meta` last. One that has none was not finished, and is made again,
unless it holds records: then its identity was lost, and it says so.
"""

import errno
import fcntl
import os
import re
import shutil
import weakref
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from zrep.errors import JOIN_ANEW, HomeInUseError, OptionError, StorageError
from zrep.ids import Incarnation, SiteId
from zrep.ports import Meta
from zrep.records import Tip
from zrep.storage.files import boot_id, sync_directory
from zrep.storage.log import SegmentedLog
from zrep.storage.meta import DiskMeta

_OURS = re.compile(r"LOCK|adopting|site\.(meta|meta\.tmp|sock|sock\.lock)|state-\d+(\.tmp)?|lost-\d+")

_open_homes: "weakref.WeakSet[Home]" = weakref.WeakSet()


class Home:
    """A home that this process has open, locked until `close`."""

    def __init__(self, path: str | os.PathLike[str], *, segment_bytes: int) -> None:
        """Open the home at `path`, or make it; counts this start.

        Raises HomeInUseError when another site has it open, OptionError for a path that cannot be a home,
        StorageError when it cannot be read or written.
        """
        self.path = Path(path).absolute()
        _refuse_undecodable(self.path)
        self.metafile = DiskMeta(self.path / "site.meta")
        self._segment_bytes = segment_bytes
        try:
            self._make_directory()
            self._lock = self._take_lock()
        except PermissionError as error:
            raise StorageError(f"cannot write in {self.path}: {error.strerror}; a home must be writable") from error
        except OSError as error:
            raise StorageError(f"cannot open the home {self.path}: {error.strerror}; correct that first") from error
        _open_homes.add(self)
        try:
            self._start()
        except OSError as error:
            self.close()
            raise StorageError(f"cannot start in {self.path}: {error}; correct that and start again") from error
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self._boot = boot_id()
        found = self.metafile.load() or self._make()
        self.rebooted = found.boots > 0 and (not self._boot or self._boot != found.boot_id)
        """Whether the operating system (as far as it tells) was started since a start of this home was `settled`."""
        self.meta = found._replace(boots=found.boots + 1)
        """As of this start; the machine keeps its own from here on, saved through `metafile`."""
        self.metafile.save(self.meta)
        self.incarnation: Incarnation = self.meta.boots << 32 | int.from_bytes(os.urandom(4), "big")
        self._sweep()

    def settled(self) -> None:
        """Whoever opens this home has decided what a restart of the operating system means for it.

        Not before: the start that finds this out may be killed, and the next one must find it again.
        """
        if self.meta.boot_id != self._boot:
            meta = self.meta._replace(boot_id=self._boot)
            self.metafile.save(meta)
            self.meta = meta

    def log_directory(self, state: int) -> Path:
        return self.path / f"state-{state}" / "log"

    def data_directory(self, state: int) -> Path:
        return self.path / f"state-{state}" / "data"

    @property
    def socket_path(self) -> Path:
        return self.path / "site.sock"

    def make_state(self, state: int, base: Tip = Tip()) -> None:  # noqa: B008 - immutable
        """Make a state whose log continues after `base`, durably and at once whole; the store makes its own part."""
        temporary = self.path / f"state-{state}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "log").mkdir(parents=True, mode=0o700)
        SegmentedLog.create(temporary / "log", base, self._segment_bytes)
        sync_directory(temporary)
        os.rename(temporary, self.path / f"state-{state}")
        sync_directory(self.path)

    def begin_anew(self, meta: Meta) -> Meta:
        """Give up an identity that this disk cannot vouch for any more (R4).

        Makes an empty state under a new site id that remembers the old one, switches to it, and puts the old
        state aside. A kill before the switch leaves the old home, to be given up again.
        """
        anew = meta._replace(
            site=_mint(), promise=0, vote=SiteId(""), state=meta.state + 1, replaces=meta.site, doubtful=False
        )
        shutil.rmtree(self.path / f"state-{anew.state}", ignore_errors=True)
        self.make_state(anew.state)
        self.metafile.save(anew)
        self.meta = anew
        lost = self.path / f"lost-{meta.state}"
        shutil.rmtree(lost, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(self.path / f"state-{meta.state}", lost)
        return anew

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            fd, self._lock = self._lock, None
            os.close(fd)

    def _close_in_child(self) -> None:
        """Let go of the descriptor, not of the lock.

        The lock belongs to the open file that parent and child share: while a child keeps the descriptor,
        the home of a dead parent stays locked.
        """
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_directory(self) -> None:
        try:
            self.path.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            if not self.path.is_dir():
                raise OptionError(f"{self.path} is a file: a home is a directory, give another path") from None
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "the directory is read-only") from None
        except NotADirectoryError:
            raise OptionError(f"{self.path} lies below a file: give another path") from None
        else:
            sync_directory(self.path.parent)

    def _take_lock(self) -> int | None:
        names = os.listdir(self.path)
        if "site.meta" not in names and not all(map(_OURS.fullmatch, names)):
            raise OptionError(f"{self.path} holds other files and is not a zrep home: give an empty or new directory")
        fd = os.open(self.path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            who = "this process" if pid == str(os.getpid()) else f"process {pid or 'unknown'}"
            raise HomeInUseError(
                f"the home {self.path} is in use by {who}: close it there first, or reach its site over the network"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def _make(self) -> Meta:
        for directory in self.path.glob("state-*[0-9]/log"):
            log = SegmentedLog(directory, segment_bytes=self._segment_bytes)
            log.close()
            if log.tip.lsn:
                raise StorageError(
                    f"{self.path} holds a log but no site.meta, so what this site promised is lost: {JOIN_ANEW}"
                )
        if not self.log_directory(1).exists():
            self.make_state(1)
        meta = Meta(site=_mint(), boot_id=self._boot)
        self.metafile.save(meta)
        return meta

    def _sweep(self) -> None:
        """Remove the states that an interrupted switch left: not yet current, or not any more."""
        for path in self.path.glob("state-*"):
            if path.name != f"state-{self.meta.state}":
                shutil.rmtree(path, ignore_errors=True)


def is_unused(path: Path) -> bool:
    """Tell whether nothing is there yet; of what cannot be a home, `Home` says why."""
    try:
        return not os.listdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _refuse_undecodable(path: Path) -> None:
    """LMDB and ZeroMQ take paths as text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise OptionError(f"the path {os.fsencode(path)!r} is not UTF-8: give the home another one") from None


def _mint() -> SiteId:
    return SiteId(uuid4().hex)


def _after_fork() -> None:
    for home in list(_open_homes):
        home._close_in_child()


os.register_at_fork(after_in_child=_after_fork)
