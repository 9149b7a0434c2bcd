"""What clients do while the chaos goes on, from outside through the remote client or inside a site's own process.

Every thread works on the same keys at the same time: registers that are read, written and compared, lists
that are read and appended to in transactions of several keys, and keys of its own that nobody else writes.
Keys change with the clock, so that the history of one stays short enough to be judged.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import zrep
from tests.processes.history import Recorder, items, stored
from zrep.commit import Batch
from zrep.errors import ConflictError, NoMasterError, NotAppliedError, PermFailedError, UnknownOutcomeError

REGISTER_S = 0.1
LIST_S = 1.0
STOP = "stop"
"""The file in the histories' directory that ends every workload."""


class Access(Protocol):
    """How a workload reaches the group."""

    def write(self, batch: Batch) -> object: ...
    def get(self, key: bytes) -> bytes | None: ...
    def read(self, key: bytes) -> bytes | None: ...


class Remote:
    """The remote client. A write that only compares is an authoritative read."""

    def __init__(self, addresses: list[str], timeout_ms: int = 3000) -> None:
        self._client = zrep.connect(*addresses, timeout_ms=timeout_ms)
        self.write = self._client.write
        self.get = self._client.get
        self.close = self._client.close

    def read(self, key: bytes) -> bytes | None:
        try:
            self.write(Batch().expect(key, b"?"))
        except ConflictError as error:
            return error.found
        return b"?"


class Embedded:
    """A site in this process."""

    def __init__(self, site: zrep.Site) -> None:
        self._env = site.env
        self.write = self._env.write
        self.get = self._env.get

    def read(self, key: bytes) -> bytes | None:
        with self._env.begin(linearizable=True, timeout_ms=1000) as txn:
            value: bytes | None = txn.get(key)
            return value


class Workload(threading.Thread):
    """One client. Ends when the directory has a file `stop`."""

    def __init__(self, access: Access, directory: Path, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._access = access
        self._stop_file = directory / STOP
        self._recorder = Recorder(directory, name)
        self._rng = random.Random()
        self._number = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        operations = [self._put, self._read, self._write, self._cas, self._append]
        try:
            while not self._stop_file.exists():
                self._number += 1
                self._rng.choices(operations, [5, 6, 4, 2, 4])[0]()
        except BaseException as error:
            self.failure = error
            raise

    def _try(self, end: dict[str, Any], work: Callable[[], object]) -> None:
        """Do it, and note what came of it. Anything but these outcomes is a bug and ends the workload."""
        try:
            work()
        except (UnknownOutcomeError, PermFailedError):
            end["came"] = "unknown"
        except ConflictError:
            end["came"] = "conflict"
        except (NotAppliedError, NoMasterError):
            end["came"] = "failed"
        else:
            end["came"] = "ok"

    def _new(self) -> str:
        return f"{self.name}.{self._recorder.number}.{self._number}"

    def _put(self) -> None:
        key = f"p/{self._new()}"
        with self._recorder.operation("put", key=key, value=key[::-1]) as end:
            self._try(end, lambda: self._access.write(Batch().put(key.encode(), key[::-1].encode())))

    def _register(self) -> str:
        return f"r/{int(time.monotonic() / REGISTER_S)}"

    def _read(self) -> None:
        key = self._register()

        def read() -> None:
            value = self._access.read(key.encode())
            end["value"] = None if value is None else value.decode()

        with self._recorder.operation("read", key=key) as end:
            self._try(end, read)

    def _write(self) -> None:
        key, value = self._register(), self._new()
        with self._recorder.operation("write", key=key, value=value) as end:
            self._try(end, lambda: self._access.write(Batch().put(key.encode(), value.encode())))

    def _cas(self) -> None:
        key, value = self._register(), self._new()
        expected = self._access_get(key)
        batch = Batch().expect(key.encode(), expected).put(key.encode(), value.encode())
        shown = None if expected is None else expected.decode()
        with self._recorder.operation("cas", key=key, value=value, expected=shown) as end:
            self._try(end, lambda: self._access.write(batch))

    def _append(self) -> None:
        """Read some lists and append to them, or only read, at one moment: the batch compares what was read."""
        keys = [
            f"l/{int(time.monotonic() / LIST_S)}/{n}" for n in self._rng.sample(range(4), self._rng.randrange(1, 4))
        ]
        value = self._new()
        reads = {key: items(self._access_get(key)) for key in keys}
        appends = dict.fromkeys(keys, value) if self._rng.random() < 0.7 else {}
        batch = Batch()
        for key, read in reads.items():
            batch.expect(key.encode(), stored(read) if read else None)
            if appends:
                batch.put(key.encode(), stored((*read, value)))
        with self._recorder.operation("txn", reads=reads, appends=appends) as end:
            self._try(end, lambda: self._access.write(batch))
            if end["came"] == "conflict":
                end["came"] = "failed"

    def _access_get(self, key: str) -> bytes | None:
        """Read what some site has: a guess, which the write compares."""
        try:
            return self._access.get(key.encode())
        except NoMasterError:
            return None
