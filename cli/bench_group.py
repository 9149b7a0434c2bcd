"""A group of sites to be measured: processes of this one, which obey orders (`bench_site`).

They are children that end when this process does, however it ends, because their input ends then.
"""

import json
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .processes import local_addresses, wait_until

FORMED_S = 30.0
STOPPED_S = 10.0
TICK_S = 0.1
COMMAND = (sys.executable, "-m", "zrep_cli.bench_site")

Tick = Callable[[], None]
"""Called now and then while something takes its time."""


class BenchSite:
    """One site: its home, its address, and its process while it has one."""

    def __init__(self, home: Path, address: str, options: dict[str, Any]) -> None:
        self.home = home
        self.address = address
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def spawn(self) -> None:
        """Start the process; its site does not run yet."""
        self._process = subprocess.Popen(
            [*COMMAND, str(self.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, *, create: bool = False, join: Sequence[str] = ()) -> None:
        """Start the process, if need be, and in it the site."""
        if not self.running:
            self.spawn()
        self.order(
            "start", home=str(self.home), bind=self.address, create=create, join=list(join), options=self._options
        )

    def order(self, do: str, tick: Tick | None = None, **arguments: Any) -> Any:
        """Give an order and return its result. Raises ZrepError with the site's own words."""
        from zrep.errors import ZrepError

        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ZrepError(f"the site in {self.home} has no process")
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise ZrepError(f"the site in {self.home} has died: its own words are above") from None
        while not select.select([process.stdout], [], [], TICK_S)[0]:
            if tick is not None:
                tick()
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended, its own words are above"}
        if "error" in answer:
            raise ZrepError(f"the site in {self.home.name} cannot {do}: {answer['error']}")
        return answer["result"]

    def kill(self) -> None:
        """End the process as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def stop(self) -> None:
        """End the process cleanly if it does so in time."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOPPED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            # Leaving Popen's context closes the pipes and waits; what could not be written is nobody's loss.
            try:
                self._process.__exit__(None, None, None)
            except BrokenPipeError:
                self._process.wait()
            self._process = None


class BenchGroup:
    """A group of `count` sites with homes in `directory`; in a `with` it runs."""

    def __init__(self, count: int, directory: Path, options: dict[str, Any]) -> None:
        addresses = local_addresses(count)
        self.sites = [
            BenchSite(directory / f"site-{number}", address, options) for number, address in enumerate(addresses, 1)
        ]

    @property
    def addresses(self) -> list[str]:
        return [site.address for site in self.sites]

    def __enter__(self) -> "BenchGroup":
        try:
            for site in self.sites:
                site.spawn()
            first, *others = self.sites
            first.start(create=True)
            for site in others:
                site.start(join=[first.address])
            self.await_formed()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for site in self.sites:
            if sys.exc_info()[0] is None:
                site.stop()
            else:
                site.kill()

    def master(self) -> BenchSite:
        """Return the site that is master. Raises TimeoutError when none becomes it."""
        found: list[BenchSite] = []

        def reigns() -> bool:
            found[:] = [site for site in self.sites if site.running and site.order("status")["role"] == "master"]
            return bool(found)

        wait_until(reigns, FORMED_S, "no site became master")
        return found[0]

    def await_formed(self) -> None:
        """Wait until every site is a voter, connected to all, and sees a master. Raises TimeoutError."""
        wait_until(self._is_formed, FORMED_S, "the group did not form")

    def _is_formed(self) -> bool:
        return all(
            status["master"] is not None
            and sum(member["role"] == "voter" and member["connected"] for member in status["members"])
            == len(self.sites)
            for status in (site.order("status") for site in self.sites)
        )
