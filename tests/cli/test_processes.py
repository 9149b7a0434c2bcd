"""Which processes the command line signals: its own nodes, never a stranger."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import processes
from cli.processes import Node


@pytest.fixture(autouse=True, params=["proc", "ps"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where facts about processes come from: /proc, or `ps` where there is none."""
    if request.param == "ps":
        monkeypatch.setattr(processes, "HAS_PROC", False)
    elif not processes.HAS_PROC:
        pytest.skip("this system has no /proc")


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n", timeout=10)
    assert process.returncode == 0, "the stranger was signalled"


def node_like(home: str) -> "subprocess.Popen[bytes]":
    """Start a process whose command line is that of a node of `home`."""
    return subprocess.Popen(
        [sys.executable, "-c", "input()", "zrep_cli", "node", home, "--bind"], stdin=subprocess.PIPE
    )


def test_a_stranger_with_a_remembered_pid_is_not_signalled(stranger: "subprocess.Popen[bytes]") -> None:
    for started in ("", "1", processes._start_of(os.getpid())):
        node = Node(1, "home", "tcp://127.0.0.1:1", stranger.pid, started)
        assert not node.running
        assert not node.signal(signal.SIGKILL)


def test_a_later_process_of_the_same_home_is_not_signalled(tmp_path: Path) -> None:
    home = str(tmp_path / "site-1")
    process = node_like(home)
    node = Node(1, home, "tcp://127.0.0.1:1", process.pid, "12345")
    assert not node.signal(signal.SIGKILL)
    process.communicate(b"\n", timeout=10)
    assert process.returncode == 0


def test_our_own_process_is_signalled_from_anywhere(tmp_path: Path) -> None:
    home = str(tmp_path / "site-1")
    with node_like(home) as process:
        node = Node(1, home, "tcp://127.0.0.1:1", process.pid, processes._start_of(process.pid))
        processes.wait_until(lambda: node.running, 10, "it does not run")
        assert node.signal(signal.SIGKILL)
        # Nobody has waited for it yet: a zombie does not run.
        processes.wait_until(lambda: not node.running, 10, "it still runs")
        assert process.wait(10) == -signal.SIGKILL
    assert not node.signal(signal.SIGKILL)


def test_a_child_is_ours_until_it_has_ended(tmp_path: Path) -> None:
    home = str(tmp_path / "site-1")
    with node_like(home) as process:
        node = Node(1, home, "tcp://127.0.0.1:1", process.pid, process=process)
        assert node.running
        assert node.signal(signal.SIGKILL)
        processes.wait_until(lambda: not node.running, 10, "it still runs")
        assert not node.signal(signal.SIGKILL)


def test_a_pid_that_is_nobodys_is_not_running() -> None:
    node = Node(1, "home", "tcp://127.0.0.1:1", 2**22 + 1, "1")
    assert not node.running
    assert not node.signal(signal.SIGKILL)


def test_a_node_that_was_never_started_is_not_signalled() -> None:
    assert not Node(1, "home", "tcp://127.0.0.1:1").signal(signal.SIGKILL)


def test_local_addresses_are_distinct_and_free() -> None:
    assert len(set(processes.local_addresses(5))) == 5


def test_waiting_ends_at_its_deadline() -> None:
    with pytest.raises(TimeoutError, match=r"nothing came \(waited 0 s\)"):
        processes.wait_until(lambda: False, 0, "nothing came")
