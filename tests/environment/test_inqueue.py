"""A site whose queue is full: whoever brings more is held up, and everything is written once there is room."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import zrep
from tests.environment.sites import DEADLINE_S, QUICK, Sites, eventually
from zrep.commit import CommitResult
from zrep.events import Event, InqueueFull
from zrep.options import KIB

LIMIT = 64 * KIB
VALUE = bytes(30 * KIB)


class Held:
    """A group whose master cannot write, for another's transaction is open, and whose queue is full."""

    def __init__(self, sites: Sites) -> None:
        self.master, self.client, _ = sites.all
        self.env = self.master.env
        self.fills: list[Event] = []
        """What the site said of being full."""
        self.master.on_event(lambda event: self.fills.append(event) if isinstance(event, InqueueFull) else None)
        self._release, held = threading.Event(), threading.Event()

        def hold() -> None:
            with self.env.begin(write=True):
                held.set()
                assert self._release.wait(DEADLINE_S)

        self._holder = threading.Thread(target=hold)
        self._holder.start()
        assert held.wait(DEADLINE_S)
        self.queued = [self.submit(b"queued %d" % number) for number in range(3)]
        assert self.env.engine.inqueue.full

    def submit(self, key: bytes) -> Future[CommitResult]:
        return self.env.submit(zrep.Batch().put(key, VALUE), timeout_ms=int(DEADLINE_S * 1000))

    def release(self) -> None:
        self._release.set()
        self._holder.join()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    options = replace(QUICK, inqueue_bytes=LIMIT, ack_timeout_ms=int(DEADLINE_S * 1000))
    with Sites(tmp_path, options) as sites, ExitStack() as stack:
        held = Held(sites)
        stack.callback(held.release)
        yield held


def test_a_thread_that_brings_more_waits_and_everything_is_written(held: Held) -> None:
    more: list[Future[CommitResult]] = []
    waiting = threading.Thread(target=lambda: more.append(held.submit(b"more")))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    held.release()
    waiting.join(DEADLINE_S)
    assert all(future.result(DEADLINE_S).perm for future in (*held.queued, *more))
    assert held.env.get(b"more") == VALUE
    assert held.env.engine.inqueue.nbytes == 0
    assert len(eventually(lambda: held.fills, "the site has said so")) == 1


def test_an_event_loop_goes_on_meanwhile(held: Held) -> None:
    async def main() -> CommitResult:
        writing = asyncio.create_task(held.env.awrite(zrep.Batch().put(b"more", b"value")))
        await asyncio.sleep(0.02)
        assert not writing.done()
        held.release()
        return await writing

    assert asyncio.run(main()).perm


def test_other_sites_and_programs_are_told_to_ask_again(held: Held) -> None:
    """Nobody but the master's own threads waits inside it."""
    remote = zrep.connect(f"ipc://{held.master.home}/site.sock")
    writers = [
        threading.Thread(target=held.client.env.put, args=(b"forwarded", b"1")),
        threading.Thread(target=remote.put, args=(b"remote", b"2")),
    ]
    for writer in writers:
        writer.start()
    nbytes = held.env.engine.inqueue.nbytes
    for writer in writers:
        writer.join(0.05)
        assert writer.is_alive()
    assert held.env.engine.inqueue.nbytes == nbytes
    held.release()
    for writer in writers:
        writer.join(DEADLINE_S)
    remote.close()
    assert (held.env.get(b"forwarded"), held.env.get(b"remote")) == (b"1", b"2")


def test_who_waits_for_room_is_told_when_the_site_stops(held: Held) -> None:
    told: list[Exception] = []

    def write() -> None:
        try:
            held.env.put(b"more", b"value")
        except zrep.Error as error:
            told.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.05)
    stopping = threading.Thread(target=held.master.stop)
    stopping.start()
    writer.join(DEADLINE_S)
    assert not writer.is_alive()
    assert len(told) == 1
    held.release()
    stopping.join(DEADLINE_S)
    eventually(lambda: all(future.done() for future in held.queued), "all are told")
