"""What py-lmdb's tests import as `lmdb`: zrep's names, and of lmdb's own modules those that build on them.

With `three`, every environment that is opened for writing is the master of a group of three sites.
"""

import contextlib
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import lmdb

import zrep
import zrep.alone
from tests.environment.sites import QUICK, Sites
from zrep.environment import Environment
from zrep.options import Options

_clients: dict[str, Path] = {}
"""Where the two other sites of each home are, for when it is opened again."""


class Leader(Environment):
    """The environment of the master of a group that lives and ends with it."""

    def __init__(self, path: str, options: Options) -> None:
        others = _clients.setdefault(path, Path(tempfile.mkdtemp(prefix="lmdb-suite-")))
        self._sites = Sites(others, options, homes=(Path(path), others / "b", others / "c"))
        self._sites.__enter__()
        master = self._sites.all[0]
        opened = master._opened
        assert opened is not None
        super().__init__(master.env.engine, opened, path, owned=True)

    def close(self) -> None:
        if not self._closed:
            super().close()
            self._sites.stop()


def _open(path: str, options: Options, asked: dict[str, Any]) -> Environment:
    for wrong in [known for known in _clients if not (Path(known) / "site.meta").exists()]:
        shutil.rmtree(_clients.pop(wrong), ignore_errors=True)
    quick = {name: getattr(QUICK, name) for name in ("heartbeat_ms", "election_timeout_ms", "quorum_timeout_ms")}
    env = Leader(path, Options.from_mapping(quick, "suite", options))
    env.asked = asked
    return env


def install(three: bool) -> None:
    """Make `import lmdb` find zrep from now on."""
    if three:
        zrep.alone._open = _open
    module: Any = types.ModuleType("lmdb", "zrep, under lmdb's name")
    for name in {*lmdb.__all__, *zrep.__all__}:
        setattr(module, name, getattr(zrep, name, None) or getattr(lmdb, name))
    module.__all__ = list(zrep.__all__)
    module.__version__ = lmdb.__version__
    module._reading_docs = lmdb._reading_docs
    module.__path__ = list(lmdb.__path__)
    for name in [name for name in sys.modules if name.startswith("lmdb.")]:
        if name not in ("lmdb.cpython", "lmdb.cffi"):
            del sys.modules[name]
    sys.modules["lmdb"] = module


@contextlib.contextmanager
def tidy() -> Any:
    """Remove the other sites' homes in the end."""
    try:
        yield
    finally:
        for directory in _clients.values():
            shutil.rmtree(directory, ignore_errors=True)
