"""`zrep.open`: from py-lmdb's arguments to an environment that is a group of one, or to read-only eyes on one."""

import errno
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zrep.engine import Engine
from zrep.environment import Absent, Environment
from zrep.errors import OptionError
from zrep.opening import Opened
from zrep.options import Options
from zrep.replica.replica import Replica
from zrep.solo import Solo
from zrep.storage.failures import invalid_parameter, missing, read_only
from zrep.storage.plain import PlainReader, adopted, is_plain, portions, put_aside
from zrep.storage.reader import StoreReader

OPEN_TIMEOUT_MS = 10_000


def open(
    path: str | bytes | os.PathLike[str],
    map_size: int = 10485760,
    subdir: bool = True,
    readonly: bool = False,
    metasync: bool = True,
    sync: bool = True,
    map_async: bool = False,
    mode: int = 0o755,
    create: bool = True,
    readahead: bool = True,
    writemap: bool = False,
    meminit: bool = True,
    max_readers: int = 126,
    max_dbs: int | None = None,
    max_spare_txns: int = 0,
    lock: bool = True,
    lib_version: int | None = None,
    *,
    options: Options | None = None,
    **zrep_options: Any,
) -> Environment:
    """Open the home at `path` as a group of one, creating it; arguments as lmdb.open's, and zrep's own.

    A plain LMDB environment in the directory becomes the home's first content (`storage.plain`).
    `options` or single options as keywords (`ack_timeout_ms=500`) come before `ZREP_…` variables. Of lmdb's,
    `map_size` and `max_readers` are hints, `max_dbs` limits this environment's handles (None: no limit),
    `sync=False` founds a group with durability "process", and tuning of LMDB's files has no effect. The
    home of a site with more than one voter is refused: start the `Site`. Raises OptionError for what
    cannot be, HomeInUseError, StorageError.
    """
    asked: dict[str, Any] = {
        "subdir": subdir,
        "readonly": readonly,
        "metasync": metasync,
        "sync": sync,
        "map_async": map_async,
        "readahead": readahead,
        "writemap": writemap,
        "meminit": meminit,
        "lock": lock,
        "map_size": map_size,
        "max_dbs": max_dbs,
    }
    numbers = {"map_size": map_size, "max_readers": max_readers, "max_dbs": max_dbs, "lib_version": lib_version}
    for name, number in numbers.items():
        if number is not None and number < 0:
            raise OverflowError(f"{name} must be >= 0")
    _refuse_the_impossible(asked, lib_version)
    if max_readers == 0:
        raise invalid_parameter("mdb_env_set_maxreaders")
    base = options or Options.from_environ()
    settings = {"max_readers": max(max_readers, base.max_readers), **zrep_options}
    if not sync:
        settings.setdefault("durability", "process")
    options = Options.from_mapping(settings, "open", base)
    shown = os.fsdecode(path)
    _check_path(shown, create=create and not readonly)
    if readonly:
        return _open_read_only(shown, asked)
    adopting = put_aside(Path(shown))
    env = _open(shown, options, asked)
    if adopting is not None:
        _adopt(env, adopting)
    return env


def _open(path: str, options: Options, asked: dict[str, Any]) -> Environment:
    opened = Opened(path, options)
    try:
        engine = _engine(opened)
        env = Environment(engine, opened, path, owned=True)
    except BaseException:
        opened.close()
        raise
    env.asked = asked
    try:
        engine.start()
        env.await_writable(OPEN_TIMEOUT_MS)
    except BaseException:
        env.close()
        raise
    return env


def _adopt(env: Environment, adopting: Path) -> None:
    """Write the pairs of a plain LMDB environment; a crash on the way leaves it to be done again."""
    plain = PlainReader(adopting)
    try:
        for name, flags, pairs in plain.databases():
            db = env.main if name is None else env.open_db(name, **flags)
            for portion in portions(pairs):
                with env.begin(write=True, db=db) as txn, txn.cursor() as cursor:
                    cursor.putmulti(portion)
    except BaseException:
        env.close()
        raise
    finally:
        plain.close()
    adopted(adopting)


def _open_read_only(path: str, asked: dict[str, Any]) -> Environment:
    """Open the home's store beside, or without, the process that writes it."""
    reason = "Cannot start write transaction with read-only environment."
    engine = Absent(lambda: read_only(reason))
    reader = PlainReader(Path(path)) if is_plain(Path(path)) else StoreReader(Path(path))
    env = Environment(engine, reader, path, owned=True)  # type: ignore[arg-type]
    env.asked, env.readonly = asked, True
    return env


def _refuse_the_impossible(asked: Mapping[str, Any], lib_version: int | None) -> None:
    if not asked["subdir"]:
        raise OptionError("subdir=False is not possible: a home is a directory, with a log beside the data")
    if asked["writemap"]:
        raise OptionError("writemap=True is not possible: writes that may still be rolled back must not reach the map")
    if not asked["lock"]:
        raise OptionError("lock=False is not possible: the engine and other processes share the data by LMDB's locks")
    if lib_version:
        raise OptionError(f"lib_version={lib_version} is not possible: every site uses LMDB 0.9, lib_version=0")


def _check_path(path: str, create: bool) -> None:
    """Fail as lmdb does where there is no directory to open, or none to create it in."""
    if create and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not create and not os.path.isdir(path):
        raise missing(path)


def _engine(opened: Opened) -> Engine:
    """Make the engine of a group of one."""
    opened.found(time.time_ns())
    replica = Replica(
        meta=opened.meta,
        incarnation=opened.home.incarnation,
        log=opened.log,
        applied=opened.store.applied,
        options=opened.options,
        rng=random.SystemRandom(),
        now=time.monotonic_ns(),
    )
    if len(replica.config.members) > 1:
        raise OptionError(f"{opened.home.path} belongs to a group of several sites: start it as a Site")
    return Engine(
        replica=replica,
        log=opened.log,
        metafile=opened.home.metafile,
        store=opened.store,
        transport=Solo(),
        options=opened.options,
        name=opened.home.path.name,
        on_event=lambda event: None,
    )
