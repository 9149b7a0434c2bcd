"""The workloads of `zrep bench`: what one operation of each does.

They run on an environment inside a site's process, as an embedding program's would, or on remote clients.
How operations are repeated and timed is `bench_samples`'.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from itertools import count
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from .bench_samples import Operation, Submission, Timing, closed_loop, pipeline

if TYPE_CHECKING:
    from zrep.client import Client
    from zrep.environment import Environment

KEY_BYTES = 16
HOT_KEYS = 20_000
"""What the read workloads read."""
PLAIN_BYTES = 1 << 30
READ_SHARE = 0.9
"""Of the mixed workload."""


class Workload(NamedTuple):
    """One thing to measure."""

    name: str
    kind: str
    """Which of `OPERATIONS` it repeats, or "submit", or "remote"."""
    about: str
    threads: int = 1
    puts: int = 1
    """Puts or gets of one operation."""
    outstanding: int = 0
    order: str = "sequential"
    """Of the keys: "sequential" or "random"."""
    value_bytes: int = 100
    among: int = 0
    """Random keys are drawn from the first so many sequential ones; 0: from all there could be."""
    plain: bool = False
    """Instead of the site's environment one of lmdb's own is read, in the same process, with the hot keys only."""


def catalogue(threads: Sequence[int], value_bytes: int = 100) -> list[Workload]:
    """Return the workloads that measure throughput, in the order of the report."""
    listed = [
        Workload("sequential", "put", "one put a transaction, one thread"),
        *(Workload(f"threads-{n}", "put", f"one put a transaction, {n} threads", threads=n) for n in threads),
        *(Workload(f"put-{n}", "env-put", f"env.put, {n} threads", threads=n) for n in threads),
        Workload("batched", "put", "100 puts a transaction, one thread", puts=100),
        Workload("pipelined", "submit", "one put a batch, 1000 outstanding", outstanding=1000),
        Workload("pipelined-random", "submit", "one put a batch, 1000 outstanding, random keys", 1, 1, 1000, "random"),
        Workload("pipelined-batches", "submit", "100 puts a batch, 16 outstanding", puts=100, outstanding=16),
        Workload("mixed", "mixed", "nine reads to a write, 16 threads", threads=16),
        Workload("reads", "read", "gets in one transaction, 100 an operation", puts=100),
        Workload("reads-lmdb", "read", "the same in an environment of lmdb's own", puts=100, plain=True),
        Workload("reads-fresh", "read-fresh", "gets with a transaction each, 100 an operation", puts=100),
        Workload("reads-fresh-lmdb", "read-fresh", "the same in an environment of lmdb's own", puts=100, plain=True),
        Workload("remote", "remote", "one put a request, one remote client"),
        Workload("remote-16", "remote", "one put a request, 16 remote clients", threads=16),
    ]
    return [workload._replace(value_bytes=value_bytes) for workload in listed]


def run(env: "Environment", workload: Workload, seconds: float) -> Timing:
    """Run a workload inside a site's process."""
    value = random.Random(0).randbytes(workload.value_bytes)
    if workload.kind == "submit":
        return pipeline(_submission(env, workload, keys(workload.order, 0), value), workload.outstanding, seconds)
    with _plain(env) if workload.plain else nullcontext(env) as used:
        if workload.kind in ("read", "read-fresh", "mixed"):
            _heat(used, value)
        make = OPERATIONS[workload.kind]
        streams = [keys(workload.order, number, among=workload.among) for number in range(workload.threads)]
        return closed_loop([make(used, workload, stream, value) for stream in streams], seconds)


@contextmanager
def _plain(env: "Environment") -> Iterator[Any]:
    """Open an environment of the kind that is inside `env`, but with lmdb's own settings."""
    from zrep.storage.store import ENGINE

    kind = type(env.engine.store.env)
    with TemporaryDirectory() as path, kind(path, map_size=PLAIN_BYTES, **ENGINE) as plain:
        yield plain


def fill(env: "Environment", workload: Workload, batches: int, first: int = 0) -> None:
    """Write so many batches of a workload, from the `first`th key on, and wait until they are permanent."""
    value = random.Random(0).randbytes(workload.value_bytes)
    submit = _submission(env, workload, keys(workload.order, 0, first), value)
    pending: deque[Future[Any]] = deque()
    for _ in range(batches):
        pending.append(submit())
        if len(pending) >= workload.outstanding:
            pending.popleft().result()
    for future in pending:
        future.result()


def run_remote(clients: "Sequence[Client]", workload: Workload, seconds: float) -> Timing:
    """Run a remote workload, each client on a thread of its own."""
    value = random.Random(0).randbytes(workload.value_bytes)

    def operation(client: "Client", keys: Iterator[bytes]) -> Operation:
        return lambda: client.put(next(keys), value)

    return closed_loop([operation(client, keys("sequential", n)) for n, client in enumerate(clients)], seconds)


def keys(order: str, stream: int, first: int = 0, among: int = 0) -> Iterator[bytes]:
    """Return endless keys; those of different streams differ, and those of one run and the next are the same.

    Sequential ones begin with the `first`th. Random ones of all streams are `among` the first sequential ones of
    stream 0, if that is given, and then repeat.
    """
    if order == "sequential":
        return (number.to_bytes(KEY_BYTES, "big") for number in count((stream << 64) + first))
    rng = random.Random(stream)
    if among:
        return (rng.randrange(among).to_bytes(KEY_BYTES, "big") for _ in count())
    return (rng.randbytes(KEY_BYTES) for _ in count())


def _submission(env: "Environment", workload: Workload, stream: Iterator[bytes], value: bytes) -> Submission:
    from zrep import Batch

    puts = range(workload.puts)

    def submit() -> "Future[Any]":
        batch = Batch()
        for _ in puts:
            batch.put(next(stream), value)
        return env.submit(batch)

    return submit


def _put(env: "Environment", workload: Workload, keys: Iterator[bytes], value: bytes) -> Operation:
    puts = range(workload.puts)

    def operation() -> None:
        with env.begin(write=True) as txn:
            for _ in puts:
                txn.put(next(keys), value)

    return operation


def _env_put(env: "Environment", workload: Workload, keys: Iterator[bytes], value: bytes) -> Operation:
    return lambda: env.put(next(keys), value)


def _read(env: "Environment", workload: Workload, keys: Iterator[bytes], value: bytes) -> Operation:
    txn = env.begin()
    chosen = _hot(workload.puts)

    def operation() -> None:
        get = txn.get
        for key in next(chosen):
            get(key)

    return operation


def _read_fresh(env: "Environment", workload: Workload, keys: Iterator[bytes], value: bytes) -> Operation:
    chosen = _hot(workload.puts)

    def operation() -> None:
        begin = env.begin
        for key in next(chosen):
            with begin() as txn:
                txn.get(key)

    return operation


def _mixed(env: "Environment", workload: Workload, keys: Iterator[bytes], value: bytes) -> Operation:
    rng = random.Random(1)
    chosen = _hot(1)

    def operation() -> None:
        (key,) = next(chosen)
        if rng.random() < READ_SHARE:
            with env.begin() as txn:
                txn.get(key)
        else:
            with env.begin(write=True) as txn:
                txn.put(key, value)

    return operation


def _hot(length: int) -> Iterator[list[bytes]]:
    """Return endless lists of so many hot keys, at random; drawn beforehand: a draw costs more than a get."""
    rng = random.Random(2)
    drawn = [[_hot_key(rng.randrange(HOT_KEYS)) for _ in range(length)] for _ in range(HOT_KEYS // length)]
    return (drawn[number % len(drawn)] for number in count())


def _hot_key(number: int) -> bytes:
    return b"hot" + number.to_bytes(KEY_BYTES - 3, "big")


def _heat(env: "Environment", value: bytes) -> None:
    """Write the hot keys."""
    with env.begin(write=True) as txn:
        for number in range(HOT_KEYS):
            txn.put(_hot_key(number), value)


OPERATIONS: dict[str, Callable[["Environment", Workload, Iterator[bytes], bytes], Operation]] = {
    "put": _put,
    "env-put": _env_put,
    "mixed": _mixed,
    "read": _read,
    "read-fresh": _read_fresh,
}
