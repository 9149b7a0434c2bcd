"""From a directory to a site that can start: what its log and store say, and whether they may be believed.

    log end ≥ applied                    the machine replays the rest of the log
    log end < applied, or damaged        the log lost records: lost trust, a new site id that JOINs (R4)
    found to differ from the group's     the same
    "process" durability, other boot     the same: what was acknowledged may be gone
    log begins above applied + 1         the store lost records: internal init (not yet here)

A group's only voter keeps what it has: there is nobody to learn more from. If it does not flush its log either,
one that ends below what is applied begins again there: the records in between are in the store, and nowhere else.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from zrep import codec
from zrep.errors import JOIN_ANEW, DamagedLogError, OptionError, StorageError
from zrep.ids import GroupId
from zrep.options import MILLISECOND, Options
from zrep.ports import Meta, records_from
from zrep.records import Config, Kind, Tip
from zrep.replica.replica import found
from zrep.storage.home import Home
from zrep.storage.log import SegmentedLog
from zrep.storage.store import Store

_logger = logging.getLogger("zrep.opening")


class Opened:
    """A home with its log and store open, fit to run."""

    def __init__(self, path: str | Path, options: Options) -> None:
        """Open or make the home at `path`. Raises as `Home`, and StorageError for what cannot be repaired."""
        self.options = options
        self.home = Home(path, segment_bytes=options.segment_bytes)
        try:
            self._open()
        except BaseException:
            self.home.close()
            raise

    def _open(self) -> None:
        self.store = self._open_store()
        self._config = self.store.applied.config
        try:
            self.log = self._open_log()
        except DamagedLogError as error:
            self._begin_anew(str(error))
        except BaseException:
            self.store.close()
            raise
        else:
            reason = self._distrust()
            if reason:
                self.log.close()
                self._begin_anew(reason)
        try:
            self.home.settled()
        except BaseException:
            self.close()
            raise

    def _distrust(self) -> str:
        """Say why an intact log may not be believed all the same; nothing for a group's only voter."""
        if self._alone:
            return ""
        if self.meta.doubtful:
            return "its log differs from what the group made permanent"
        if self.home.rebooted and not self._config.sync:
            return 'durability "process" does not survive a restart of the operating system'
        return ""

    @property
    def meta(self) -> Meta:
        return self.home.meta

    @property
    def _alone(self) -> bool:
        return self._config.voters in ((), (self.meta.site,))

    def _open_store(self) -> Store:
        state = self.meta.state
        return Store(self.home.data_directory(state), self.options, log=self.home.log_directory(state))

    def _open_log(self) -> SegmentedLog:
        tip = self.store.applied.tip
        may_be_short = self._alone and not self._config.sync
        log = SegmentedLog(
            self.home.log_directory(self.meta.state),
            segment_bytes=self.options.segment_bytes,
            floor=0 if may_be_short else tip.lsn,
            restart=tip if may_be_short else Tip(),
        )
        if log.first > tip.lsn + 1:
            log.close()
            raise StorageError(
                f"{self.home.path}: the log begins at LSN {log.first} and the store ends at {tip.lsn}: {JOIN_ANEW}"
            )
        try:
            if not self.meta.group and log.tip.lsn:  # founded, but for the last step: found or join again
                log.cut(0)
                log.flush()
            if not self._config.voters:  # the store is new, or was set aside
                self._config = _config_of(log)
        except BaseException:
            log.close()
            raise
        return log

    def _begin_anew(self, reason: str) -> None:
        """Give up the identity that this disk cannot vouch for, and start empty under a new one (R4)."""
        self.store.close()
        if self._alone:
            advice = (
                "as the group's only voter it has nobody to copy from: restore it from a backup"
                if self._config.voters
                else f"does not tell any more whom to copy from: restore it from a backup, or {JOIN_ANEW}"
            )
            raise StorageError(f"{self.home.path} cannot be used, and {advice} ({reason})")
        seeds = [endpoint for member in self._config.members for endpoint in member.endpoints]
        _logger.warning("lost trust home=%s reason=%s", self.home.path, reason)
        self.home.begin_anew(self.meta)
        self.save(self.meta._replace(seeds=tuple(dict.fromkeys((*self.meta.seeds, *seeds)))[:8]))
        self.store = self._open_store()
        self.log = self._open_log()

    def save(self, meta: Meta) -> None:
        self.home.metafile.save(meta)
        self.home.meta = meta

    def found(
        self, wall_ns: int, *, priority: int = 100, endpoints: tuple[str, ...] = (), publish: tuple[str, ...] = ()
    ) -> None:
        """Found a group of one in this home, unless it belongs to a group already."""
        if self.meta.group:
            return
        if self.meta.replaces:
            raise OptionError(
                f"{self.home.path} lost its data and must join its group: give --join instead of --create"
            )
        meta = found(
            self.log,
            self.meta,
            GroupId(uuid4().hex),
            self.options,
            wall_ms=wall_ns // MILLISECOND,
            priority=priority,
            endpoints=endpoints,
            publish=publish,
        )
        self.log.flush()
        self.save(meta)

    def close(self) -> None:
        """Let go of everything; the engine has stopped."""
        self.log.close()
        self.store.close()
        self.home.close()


class Ending:
    """Lets one thread at a time end something, while the others wait until it has; it may be interrupted, and repeated.

    A signal's handler that comes into the midst of it, on the same thread, can neither wait nor do it: it returns,
    and the frame below goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False

    def run(self, end: Callable[[], None]) -> None:
        """Call `end`, which does nothing when all is done."""
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                end()
            finally:
                self._busy = False


def _config_of(log: SegmentedLog) -> Config:
    """Return the newest configuration that is left in the log. Raises DamagedLogError."""
    config = Config()
    for record in records_from(log, log.first):
        if record.kind is Kind.CONFIG:
            config = codec.decode_config(record.payload)
    return config
