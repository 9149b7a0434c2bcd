"""How sites and environments begin and end: in forked children, after Ctrl-C, and from two threads at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zrep
from tests.environment.sites import eventually
from zrep.storage import checkpoint

DEADLINE_S = 20.0


@pytest.fixture
def site(home: Path) -> Iterator[zrep.Site]:
    with zrep.Site(home, bind="tcp://127.0.0.1:0", create=True) as site:
        yield site


def in_child(work: Callable[[], object]) -> None:
    """Do `work` in a forked child; fail if it fails there, or does not come back."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    statuses: list[int] = []

    def ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        statuses.append(status)
        return found == pid

    try:
        eventually(ended, "the child has ended")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(statuses[-1]) == 0


def run(program: str, *arguments: str | Path) -> tuple[int, str]:
    """Run a program, and whatever it forks, to its end; return its exit code and what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            said = process.communicate(timeout=DEADLINE_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, said


# In a forked child.


def test_in_a_forked_child_a_site_is_its_parents(site: zrep.Site, home: Path) -> None:
    site.env.put(b"a", b"1")
    lock = site._dispatcher._lock

    def child() -> None:
        for use in (
            site.start, site.__enter__, site.sites, site.stat, site.events, site.wait_for_master,
            lambda: site.role, lambda: site.on_event(print), lambda: site.env.put(b"a", b"2"), lambda: site.env.begin(),
        ):  # fmt: skip
            with pytest.raises(zrep.ForkError, match="before a fork"):
                use()
        site.__exit__(None, None, None)
        site.stop()

    with lock:  # another thread holds it at the fork, and no thread of the child will ever release it
        in_child(child)
    noted = checkpoint.load(home / "state-1" / "checkpoint")
    assert noted is not None
    assert not noted.clean
    assert site.env.put(b"b", b"2").perm


def test_a_site_that_does_not_run_may_be_started_in_a_forked_child(home: Path) -> None:
    site = zrep.Site(home, bind="tcp://127.0.0.1:0", create=True)

    def child() -> None:
        with site:
            site.env.put(b"a", b"1")

    in_child(child)
    with site:
        site.wait_for_master()
        assert site.env.get(b"a") == b"1"
    in_child(child)


LEAVES_IN_A_CHILD = """
import os, signal, sys, zrep
with zrep.Site(sys.argv[1], bind="tcp://127.0.0.1:0", create=True) as site:
    site.env.put(b"a", b"1")
    child = os.fork()
    if child == 0:
        sys.exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
    site.env.put(b"a", b"2")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_leaves_the_block_spoils_nothing_for_its_parents_next_start(home: Path) -> None:
    """Its clean close of the parent's store would be believed after the parent's kill -9."""
    assert run(LEAVES_IN_A_CHILD, home) == (-signal.SIGKILL, "0\n")
    with zrep.Site(home, bind="tcp://127.0.0.1:0") as site:
        site.wait_for_master()
        assert site.env.get(b"a") == b"2"


# After Ctrl-C.


INTERRUPTED = """
import signal, sys, threading, zrep
from zrep.storage.writers import Writers

home, kind, when = sys.argv[1:]

def opened():
    if kind == "site":
        return zrep.Site(home, bind="tcp://127.0.0.1:0", create=True).start().stop
    return zrep.open(home).close

opened()()
begin, writing = threading.Event(), threading.Event()
admit, start, start_new_thread = Writers.admit, threading.Thread.start, threading._start_new_thread
Writers.admit = lambda *arguments: (admit(*arguments), writing.set())

def start_late(run, arguments):
    start_new_thread(lambda: begin.wait() and run(*arguments), ())
    signal.raise_signal(signal.SIGINT)

def interrupted(thread):
    if not thread.name.startswith("zrep-engine"):
        return start(thread)
    if when == "before it starts":
        signal.raise_signal(signal.SIGINT)
    if when == "before it begins":
        threading._start_new_thread = start_late
    start(thread)
    writing.wait()
    signal.raise_signal(signal.SIGINT)

threading.Thread.start = interrupted
try:
    opened()
except KeyboardInterrupt:
    print("interrupted")
threading.Thread.start, threading._start_new_thread = start, start_new_thread
close = opened()
begin.set()
close()
while any(thread.name.startswith("zrep-engine") for thread in threading.enumerate()):
    pass
print("closed")
"""


@pytest.mark.parametrize("kind", ["site", "environment"])
@pytest.mark.parametrize("when", ["before it starts", "before it begins", "as it writes"])
def test_who_is_interrupted_as_the_engine_starts_leaves_nothing_open(home: Path, kind: str, when: str) -> None:
    assert run(INTERRUPTED, home, kind, when) == (0, "interrupted\nclosed\n")
