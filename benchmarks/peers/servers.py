"""Starting server processes, waiting until they answer, and ending them; ports nobody uses."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cli.processes import local_addresses, wait_until

READY_S = 30.0
STOPPED_S = 10.0


def ports(count: int) -> list[int]:
    """Return ports of this machine on which nobody listens at the moment."""
    return [int(address.rpartition(":")[2]) for address in local_addresses(count)]


@contextmanager
def running(commands: Sequence[Sequence[str]], directory: Path) -> Iterator[None]:
    """Run each command until the end of the `with`; what they say goes to files in the directory."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (directory / f"server-{number}.log").open("ab") as log:
                processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
                )
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(STOPPED_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_ready(ready: Callable[[], bool], what: str) -> None:
    """Wait until `ready()`; one that raises OSError is not ready yet. Raises TimeoutError."""

    def is_ready() -> bool:
        try:
            return ready()
        except OSError:
            return False

    wait_until(is_ready, READY_S, f"{what} did not start")


def on_path(*names: str) -> bool:
    """Whether all these programs are installed; also those that are only in an administrator's PATH."""
    return all(find(name) is not None for name in names)


def program_version(name: str) -> str:
    """Return what a program on PATH calls its version, or "unknown"."""
    said = subprocess.run([find(name) or name, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "unknown"


def find(name: str) -> str | None:
    """Return where a program is."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    found = (os.path.join(place, name) for place in places)
    return next((path for path in found if os.access(path, os.X_OK)), None)
