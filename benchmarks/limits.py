"""What the machine can do at most: a flush, an LMDB loop, a ZeroMQ round trip, a bare commit, with nothing around."""

import os
import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import lmdb
import zmq

from cli.bench_loads import keys
from cli.bench_samples import closed_loop, summary

from .bare import Bare

PREALLOCATED = 512 << 20
ZEROS = 16 << 20
FRAME, FRAME_OF_64 = 150, 8192
"""Bytes of a log's frame: with one put, with one of each of 64 threads."""
PUTS = 1000

Limit = Callable[[Path, float, int], dict[str, Any]]


def flush(nbytes: int, zeros: bool = False) -> Limit:
    """Return the limit of a log: so many bytes written into a preallocated file and flushed, again and again.

    `zeros`: it was not only preallocated but written before, as zrep's log is some way ahead.
    """

    def limit(directory: Path, seconds: float, value_bytes: int) -> dict[str, Any]:
        frame, size = bytes(nbytes), ZEROS if zeros else PREALLOCATED
        with NamedTemporaryFile(dir=directory, buffering=0) as file:
            descriptor = file.fileno()
            os.posix_fallocate(descriptor, 0, size)
            if zeros:
                file.write(bytes(size))
            os.fsync(descriptor)
            offsets = (number * nbytes % (size - nbytes) for number in count())

            def operation() -> None:
                os.pwrite(descriptor, frame, next(offsets))
                os.fdatasync(descriptor)

            return summary(closed_loop([operation], seconds))

    return limit


def lmdb_puts(order: str, puts: int = PUTS) -> Limit:
    """Return the limit of a local LMDB loop: transactions of so many puts, keys in this order."""

    def limit(directory: Path, seconds: float, value_bytes: int) -> dict[str, Any]:
        value = bytes(value_bytes)
        path = directory / f"lmdb-{order}-{puts}"
        with lmdb.open(str(path), map_size=1 << 36, lib_version=0) as env:
            stream = keys(order, 0)

            def operation() -> None:
                with env.begin(write=True) as txn:
                    for _ in range(puts):
                        txn.put(next(stream), value)

            return summary(closed_loop([operation], seconds), puts)

    return limit


def zmq_round_trip(directory: Path, seconds: float, value_bytes: int) -> dict[str, Any]:
    """Send a message of a value's size from a DEALER to a ROUTER of another thread, over tcp, and back."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer.connect(f"tcp://127.0.0.1:{port}")

        def echo() -> None:
            while len((frames := router.recv_multipart())[1]):
                router.send_multipart(frames)

        thread = threading.Thread(target=echo, name="echo", daemon=True)
        thread.start()
        frame = bytes(value_bytes)

        def operation() -> None:
            dealer.send(frame)
            dealer.recv()

        told = summary(closed_loop([operation], seconds))
        dealer.send(b"")
        thread.join()
        return told


def bare(threads: int, sync: bool = True) -> Limit:
    """Return the limit of what is made of these threads, sockets and flushes: commits with nothing in them."""

    def limit(directory: Path, seconds: float, value_bytes: int) -> dict[str, Any]:
        with TemporaryDirectory(dir=directory) as home, Bare(Path(home), sync) as group:
            return summary(closed_loop([partial(group.commit, bytes(value_bytes))] * threads, seconds))

    return limit


LIMITS: tuple[tuple[str, str, str, Limit], ...] = (
    ("fdatasync", "sync", "sequential", flush(FRAME)),
    ("fdatasync", "sync", "threads-64", flush(FRAME_OF_64)),
    ("fdatasync of zeros", "sync", "threads-64", flush(FRAME_OF_64, zeros=True)),
    ("zmq", "process", "sequential", zmq_round_trip),
    ("bare", "sync", "sequential", bare(1)),
    ("bare", "sync", "threads-16", bare(16)),
    ("bare", "sync", "threads-64", bare(64)),
    ("bare", "process", "sequential", bare(1, sync=False)),
    ("bare", "process", "threads-64", bare(64, sync=False)),
    ("lmdb", "sync", "sequential", lmdb_puts("sequential", 1)),
    ("lmdb", "sync", "pipelined", lmdb_puts("sequential")),
    ("lmdb", "sync", "pipelined-random", lmdb_puts("random")),
)
"""Who, durability, the work of ours that it is beside, and how it is measured."""
