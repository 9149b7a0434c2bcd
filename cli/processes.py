"""`zrep node` processes: start them apart from this one, find them again, signal them and nobody else.

A pid may be given to a stranger after its process died, so a remembered pid is signalled only when the
process behind it started when ours did and runs on the same home.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.005
PID_MAX = (1 << 31) - 1
"""What a system's call takes."""
HAS_PROC = Path("/proc/self/stat").exists()

READY_S = 30.0
"""How long a node may take to be ready; joining waits for a master of the group."""


@dataclass(slots=True)
class Node:
    """One `zrep node` process: where it runs, and enough to find it again from another process."""

    index: int
    home: str
    address: str
    pid: int = 0
    started: str = ""
    """When it started, in the operating system's words: the pid alone may be a stranger's."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)
    """Only in the process that started it; until that has taken note of its end, nobody else gets the pid."""
    command: tuple[str, ...] = field(default=(sys.executable, "-m", "zrep_cli"), repr=False)
    _said: int = 0
    """How much of the log is from earlier starts."""

    @property
    def log(self) -> Path:
        """Where the node's output goes; beside the home, which is the site's own."""
        return Path(f"{self.home}.log")

    @property
    def running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return self.started != "" and _start_of(self.pid) == self.started and _is_node(self.pid, self.home)

    def start(self, *arguments: str) -> None:
        """Start the process in a session of its own; it outlives this one."""
        command = (*self.command, "node", self.home, "--bind", self.address, *arguments)
        with self.log.open("ab") as log:
            self._said = log.tell()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self.process.pid
        self.started = _start_of(self.pid)

    def await_ready(self) -> None:
        """Wait until the started site takes requests. Raises ZrepError with its own last words if it ends instead."""
        wait_until(self._is_ready, READY_S, f"site {self.index} is not ready: see {self.log}")

    def _is_ready(self) -> bool:
        from zrep.errors import ZrepError

        said = self.log.read_bytes()[self._said :].decode(errors="replace").splitlines()
        if not self.running:
            raise ZrepError(f"site {self.index} did not start: {said[-1] if said else 'it said nothing'}")
        return any(line.startswith("zrep node: ready ") for line in said)

    def signal(self, signum: signal.Signals) -> bool:
        """Send a signal if the process is still ours; return whether it was."""
        if not self.pid:
            return False  # it was never started; and to the system 0 means ourselves
        with ExitStack() as stack:
            try:
                # A descriptor holds on to one process: if that is ours now, the signal cannot go astray.
                descriptor = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
                if descriptor is not None:
                    stack.callback(os.close, descriptor)
                if not self.running:
                    return False
                if descriptor is not None:
                    signal.pidfd_send_signal(descriptor, signum)
                else:
                    os.kill(self.pid, signum)
            except ProcessLookupError:
                return False
        return True


def local_addresses(count: int) -> list[str]:
    """Return addresses on this machine that nobody listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def wait_until(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    """Poll until the condition holds. Raises TimeoutError(otherwise)."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} (waited {timeout_s:g} s)")
        time.sleep(POLL_S)


def _start_of(pid: int) -> str:
    """Return when a process started; "" when it does not run, a zombie included."""
    if not HAS_PROC:
        return _ps(pid, "lstart=")
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else facts[18]  # starttime: the 19th after the state in proc(5)


def _is_node(pid: int, home: str) -> bool:
    """Return whether a process's command line is that of the node of a home."""
    if not HAS_PROC:
        return f"zrep_cli node {home} " in _ps(pid, "command=")
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return {b"zrep_cli", os.fsencode(home)} <= set(arguments)


def _ps(pid: int, column: str) -> str:
    return subprocess.run(["ps", "-ww", "-p", str(pid), "-o", column], capture_output=True, text=True).stdout.strip()
