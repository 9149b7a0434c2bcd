"""kill -9, SIGSTOP and fork of a site's process, seen from another's bus."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bus.net import A, B, Net
from zrep.bus import Connected, Disconnected

CHILD = """
import os, random, sys, time
from zrep.bus import Bus
bus = Bus(bind=["tcp://127.0.0.1:0"], site="b" * 32, incarnation=int(sys.argv[2]) << 32, group="group-1",
          rng=random.Random(2))
bus.seed(sys.argv[1])
print(bus.endpoints[0], flush=True)
if len(sys.argv) > 3 and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
while True:
    bus.poll(10)
    now = time.monotonic_ns()
    while bus.receive(now, 64):
        pass
    bus.tick(now)
"""


@contextmanager
def site_b(seed: str, run: int) -> Iterator["subprocess.Popen[str]"]:
    """Run site B in another process."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, seed, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("tcp://")
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


def test_a_forked_child_does_not_keep_an_ipc_path(tcp: Net) -> None:
    """The child outlives its parent; the parent's path must be free for the next run."""
    directory = tcp._directory
    code = CHILD.replace('"tcp://127.0.0.1:0"', f'"ipc://{directory}/b"')
    child = subprocess.Popen(
        [sys.executable, "-c", code, "tcp://127.0.0.1:9", "1", "fork"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("ipc://")
    grandchild = int(child.stdout.readline())
    try:
        child.kill()
        child.wait()
        tcp.bus(B, bind=f"ipc://{directory}/b")
    finally:
        os.kill(grandchild, signal.SIGKILL)
        child.communicate()
