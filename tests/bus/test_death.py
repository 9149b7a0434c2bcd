"""kill -9, SIGSTOP and fork of a site's process, seen from another's bus."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bus.net import A, B, Net
from zrep.bus import Connected, Disconnected

CHILD = """
import os, random, signal, sys, time
from zrep.bus import Bus
def fork(*_):
    if os.fork() == 0:
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(60)
        os._exit(0)
signal.signal(signal.SIGUSR1, fork)
bus = Bus(bind=["tcp://127.0.0.1:0"], site="b" * 32, incarnation=int(sys.argv[2]) << 32, group="group-1",
          rng=random.Random(2))
bus.seed(sys.argv[1])
print(bus.endpoints[0], flush=True)
while True:
    bus.poll(10)
    now = time.monotonic_ns()
    while bus.receive(now, 64):
        pass
    bus.tick(now)
"""


@contextmanager
def site_b(seed: str, run: int, code: str = CHILD) -> Iterator["subprocess.Popen[str]"]:
    """Run site B in another process."""
    child = subprocess.Popen([sys.executable, "-c", code, seed, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().partition("://")[1]
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_killed_process_is_missed_within_milliseconds(tcp: Net) -> None:
    a = tcp.bus(A)
    took = []
    for run in range(1, 6):
        with site_b(a.endpoints[0], run) as child:
            tcp.until(lambda: a.connected() == {B})
            tcp.seen[A].clear()
            child.kill()
            killed = time.monotonic()
            tcp.until(lambda: tcp.got(A, Disconnected))
            took.append(time.monotonic() - killed)
    assert sorted(took)[2] < 0.02, took


def test_a_stopped_process_is_missed_after_a_while_and_found_when_it_goes_on(tcp: Net) -> None:
    """Its sockets stand open; nobody answers HELLO."""
    a = tcp.bus(A)
    with site_b(a.endpoints[0], 1) as child:
        tcp.until(lambda: a.connected() == {B})
        tcp.seen[A].clear()
        child.send_signal(signal.SIGSTOP)
        tcp.until(lambda: tcp.got(A, Disconnected), timeout_s=8)
        assert "silent" in tcp.got(A, Disconnected)[0].reason
        child.send_signal(signal.SIGCONT)
        tcp.until(lambda: tcp.got(A, Connected))


def test_when_we_were_stopped_ourselves_nobody_is_blamed(tcp: Net) -> None:
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    later = time.monotonic_ns() + 60_000_000_000
    for bus in tcp.buses.values():
        bus.tick(later)
    assert a.receive(later, 64) == []
    assert a.connected() == {B}


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "ipc://{directory}/b"])
def test_a_forked_child_keeps_neither_its_parents_sockets_nor_its_address(tcp: Net, bind: str) -> None:
    """The child lives on; the parent's death is seen at once, and its address is free for the next run."""
    a = tcp.bus(A)
    code = CHILD.replace("tcp://127.0.0.1:0", bind.format(directory=tcp.directory))
    with site_b(a.endpoints[0], 1, code) as child:
        tcp.until(lambda: tcp.got(A, Connected))
        where = tcp.got(A, Connected)[0].hello.endpoints[0]
        child.send_signal(signal.SIGUSR1)
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        try:
            tcp.seen[A].clear()
            child.kill()
            child.wait()
            tcp.until(lambda: tcp.got(A, Disconnected), timeout_s=1)
            tcp.bus(B, run=2, bind=where)
            tcp.until_connected()
        finally:
            os.kill(grandchild, signal.SIGKILL)
