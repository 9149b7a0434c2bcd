"""How sites and environments begin and end: in forked children, after Ctrl-C, and from two threads at once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


# Two at once, and again.


@pytest.fixture(params=["site", "environment"])
def ended(request: pytest.FixtureRequest, home: Path) -> tuple[zrep.Environment, Callable[[], None]]:
    """An environment, and what ends it."""
    if request.param == "site":
        site = zrep.Site(home, bind="tcp://127.0.0.1:0", create=True).start()
        site.wait_for_master()
        return site.env, site.stop
    env = zrep.open(home)
    return env, env.close


def held(env: zrep.Environment) -> threading.Event:
    """Hold the engine until the event is set."""
    go_on, is_held = threading.Event(), threading.Event()

    def wait() -> None:
        is_held.set()
        assert go_on.wait(DEADLINE_S)

    env.engine._post(wait, lambda error: None)
    assert is_held.wait(DEADLINE_S)
    return go_on


def stopping(env: zrep.Environment) -> list[None]:
    """Return what gets longer whenever somebody begins to wait for the engine's end; a signal's handler may look."""
    stop, begun = env.engine.stop, list[None]()

    def note_and_stop() -> None:
        begun.append(None)
        stop()

    env.engine.stop = note_and_stop  # type: ignore[method-assign]
    return begun


def test_who_closes_while_another_does_waits_for_him(
    home: Path, ended: tuple[zrep.Environment, Callable[[], None]]
) -> None:
    env, close = ended
    go_on, begun, comes = held(env), stopping(env), threading.Event()

    def come_second() -> None:
        comes.set()
        close()
        zrep.open(home).close()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(close)
        eventually(lambda: begun, "the first one waits")
        second = pool.submit(come_second)
        assert comes.wait(DEADLINE_S)
        go_on.set()
        first.result(DEADLINE_S)
        second.result(DEADLINE_S)


@contextmanager
def handling(handle: Callable[[], None]) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Handle a signal so; yield what sends it until something is true: one just before a thread blocks wakes nobody."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handle())

    def send_until(done: Callable[[], bool]) -> None:
        def sent() -> bool:
            if not done():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            return done()

        eventually(sent, "the signal was handled")

    try:
        yield send_until
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_who_is_interrupted_as_he_closes_closes_again(
    home: Path, ended: tuple[zrep.Environment, Callable[[], None]]
) -> None:
    """Ctrl-C while the engine has not ended yet; `Thread.join` would not wait for it the next time."""
    env, close = ended
    go_on, begun = held(env), stopping(env)
    interrupted: list[None] = []

    def interrupt() -> None:
        if len(interrupted) < min(len(begun), 2):
            interrupted.append(None)
            raise KeyboardInterrupt

    def go_on_at_last() -> None:
        eventually(lambda: len(begun) == 3, "the last one waits")
        go_on.set()

    with handling(interrupt) as send_until, ThreadPoolExecutor(1) as pool:
        told = pool.submit(send_until, lambda: len(interrupted) == 2)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                close()
        told.result(DEADLINE_S)
        told = pool.submit(go_on_at_last)
        close()
        told.result(DEADLINE_S)
    zrep.open(home).close()


def test_a_signals_handler_may_close_what_is_being_closed(
    home: Path, ended: tuple[zrep.Environment, Callable[[], None]]
) -> None:
    env, close = ended
    go_on, begun = held(env), stopping(env)

    def close_too() -> None:
        if begun:
            close()
            go_on.set()

    with handling(close_too) as send_until, ThreadPoolExecutor(1) as pool:
        told = pool.submit(send_until, go_on.is_set)
        close()
        told.result(DEADLINE_S)
    zrep.open(home).close()


LEAF, FLAGS_AT = 2, 10


def test_damage_that_is_met_in_use_stops_the_site_and_is_healed_by_the_next_start(tmp_path: Path) -> None:
    """The log is whole. Started again and again on the same pages, the site would only stop again."""
    home, keys = tmp_path / "home", [b"%05d" % number for number in range(3000)]
    env = zrep.open(home)
    with env.begin(write=True) as txn:
        for key in keys:
            txn.put(key, key)
    file = home / "state-1" / "data" / "data.mdb"
    with file.open("r+b") as data:
        pages = data.read()
        for page in range(2 * 4096, len(pages), 4096):
            if pages[page + FLAGS_AT] == LEAF and keys[-1] in pages[page : page + 4096]:
                data.seek(page + FLAGS_AT)
                data.write(b"\0")
    with pytest.raises(zrep.UnknownOutcomeError):
        env.put(keys[-1], b"new")
    with pytest.raises(zrep.StorageError, match=r"is damaged: .*; start the site again"):
        env.put(keys[-1], b"new")
    env.close()
    with zrep.open(home) as env, env.begin() as txn:
        held = dict(txn.cursor())
    assert held == dict(zip(keys, keys, strict=True)) | {keys[-1]: b"new"}, "the log had its record"
    assert (home / "state-1" / "data.damaged" / "data.mdb").exists()
