"""The bare commit: what the threads, sockets and flushes of a commit cost with no zrep in them.

Three processes do for a write what the sites of a group do, and nothing else. A thread hands its value to the
engine's, which publishes all that came in one frame, and flushes it to a file; two others receive, flush and
acknowledge; the first acknowledgement wakes who waits first, who wakes the next, as in zrep. No transaction, no
protocol, no LMDB: nothing made of these parts, in this Python, on this machine, commits faster.
"""

import os
import select
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

FILE_BYTES = 16 << 20
NUMBER_BYTES = 8
HELLO = b"hello"
CLIENTS = 2
IDLE_MS = 60_000
"""A client that hears nothing for so long ends: its master was killed."""
POLLIN = int(zmq.POLLIN)


class _File:
    """A file of zeros that is written over, and from its beginning again when it is full."""

    def __init__(self, path: Path, sync: bool) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._descriptor, bytes(FILE_BYTES), 0)
        os.fsync(self._descriptor)
        self._at = 0
        self._sync = sync

    def append(self, data: bytes) -> None:
        if self._at + len(data) > FILE_BYTES:
            self._at = 0
        os.pwrite(self._descriptor, data, self._at)
        self._at += len(data)
        if self._sync:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _Commit:
    """A value on its way, and the thread that waits for it."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.done = threading.Lock()
        self.done.acquire()
        self.following: _Commit | None = None
        """Whose thread this one's wakes."""


class Bare:
    """The three processes; this one is the master. In a `with` they run."""

    def __init__(self, directory: Path, sync: bool) -> None:
        self._directory = directory
        self._sync = sync
        self._waiting: deque[_Commit] = deque()
        self._awake, self._wake = os.pipe()
        self._asleep = False
        self._stopping = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._router = self._context.socket(zmq.ROUTER)
        self._engine = threading.Thread(target=self._run, name="bare-engine", daemon=True)
        self._clients: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Bare":
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _start(self) -> None:
        ports = [str(socket.bind_to_random_port("tcp://127.0.0.1")) for socket in (self._publisher, self._router)]
        for number in range(CLIENTS):
            path = self._directory / f"bare-{number}"
            self._clients.append(
                subprocess.Popen([sys.executable, "-m", __name__, str(path), *ports, str(int(self._sync))])
            )
        greeted: set[bytes] = set()
        while len(greeted) < CLIENTS:  # a subscription takes its time: all hear it when both have said so
            self._publisher.send(HELLO)
            if self._router.poll(10):
                greeted.add(self._router.recv_multipart()[0])
            elif any(client.poll() is not None for client in self._clients):
                raise RuntimeError("a bare client has ended: see what it said")
        self._engine.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        os.write(self._wake, b"!")
        if self._engine.ident is not None:
            self._engine.join()
        for client in self._clients:
            client.kill()
            client.wait()
        for socket in (self._publisher, self._router):
            socket.close(linger=0)
        self._context.term()
        os.close(self._awake)
        os.close(self._wake)

    def commit(self, value: bytes) -> None:
        """Return when a majority of the three has the value; any thread."""
        commit = _Commit(value)
        self._waiting.append(commit)
        if self._asleep:
            self._asleep = False
            os.write(self._wake, b"!")
        commit.done.acquire()
        if commit.following is not None:
            commit.following.done.release()

    def _run(self) -> None:
        log = _File(self._directory / "bare-master", self._sync)
        poller = select.poll()
        acknowledged: Any = self._router
        poller.register(acknowledged.get(zmq.FD), select.POLLIN)
        poller.register(self._awake, select.POLLIN)
        number = 0
        group: list[_Commit] = []
        while not self._stopping:
            self._asleep = True
            if group or not self._waiting:
                for descriptor, _ in poller.poll():
                    if descriptor == self._awake:
                        os.read(self._awake, 4096)
            self._asleep = False
            current = number.to_bytes(NUMBER_BYTES, "big")
            while acknowledged.get(zmq.EVENTS) & POLLIN:
                if acknowledged.recv_multipart()[1] == current and group:
                    group[0].done.release()
                    group = []
            if self._waiting and not group:
                number += 1
                while self._waiting:
                    group.append(self._waiting.popleft())
                    if len(group) > 1:
                        group[-2].following = group[-1]
                frame = number.to_bytes(NUMBER_BYTES, "big") + b"".join([commit.value for commit in group])
                self._publisher.send(frame)
                log.append(frame)
        log.close()


def _serve(path: str, published: str, router: str, sync: str) -> None:
    """Be a client: receive, write, flush, acknowledge."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{router}")
        subscriber.connect(f"tcp://127.0.0.1:{published}")
        subscriber.subscribe(b"")
        subscriber.rcvtimeo = IDLE_MS
        log = _File(Path(path), sync == "1")
        subscriber.recv()
        dealer.send(HELLO)
        while True:
            frame = subscriber.recv()
            if frame != HELLO:
                log.append(frame)
                dealer.send(frame[:NUMBER_BYTES])


if __name__ == "__main__":
    _serve(*sys.argv[1:])
