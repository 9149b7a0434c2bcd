"""A group of sites to be measured: processes of this one, which obey orders (`bench_site`)."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .bench_loads import Workload
from .bench_process import Tick, Worker
from .processes import local_addresses, wait_until

FORMED_S = 30.0
COMMAND = (sys.executable, "-m", "zrep_cli.bench_site")


class BenchSite:
    """One site: its home, its address, and its process while it has one."""

    def __init__(self, home: Path, address: str, options: dict[str, Any], core: int | None = None) -> None:
        self.home = home
        self.address = address
        self._options = options
        self._core = core
        self._worker: Worker | None = None

    @property
    def running(self) -> bool:
        return self._worker is not None and self._worker.running

    def spawn(self) -> None:
        """Start the process; its site does not run yet."""
        self._worker = Worker(f"the site in {self.home.name}", [*COMMAND, str(self.home)])

    def start(self, *, create: bool = False, join: Sequence[str] = ()) -> None:
        """Start the process, if need be, and in it the site."""
        if not self.running:
            self.spawn()
        self.order(
            "start",
            home=str(self.home),
            bind=self.address,
            create=create,
            join=list(join),
            options=self._options,
            core=self._core,
        )

    def order(self, do: str, tick: Tick | None = None, **arguments: Any) -> Any:
        """Give the site's process an order and return its result. Raises ZrepError with its own words."""
        from zrep.errors import ZrepError

        if self._worker is None:
            raise ZrepError(f"the site in {self.home.name} has no process: start it first")
        return self._worker.order(do, tick, **arguments)

    def kill(self) -> None:
        """End the process as a crash would."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def stop(self) -> None:
        """End the process cleanly if it does so in time."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()


class BenchGroup:
    """A group of `count` sites with homes in `directory`; in a `with` it runs.

    `pin`: each site's process stays on one core, that of the first, the master, on one of its own if there are two.
    """

    def __init__(self, count: int, directory: Path, options: dict[str, Any], *, pin: bool = False) -> None:
        addresses = local_addresses(count)
        cores = _cores(count) if pin else [None] * count
        self.sites = [
            BenchSite(directory / f"site-{number}", address, options, core)
            for number, (address, core) in enumerate(zip(addresses, cores, strict=True), 1)
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
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for site in self.sites:
            if kind is None:
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

    def load(self, workload: Workload, seconds: float, tick: Tick | None = None) -> dict[str, Any]:
        """Run a workload at the master. Tells also how much processor time an operation took, at each end.

        That figure hardly moves when something else uses the machine, while all others do.
        """
        master = self.master()
        sites = [master, *(site for site in self.sites if site is not master)]
        before = [site.order("usage")["cpu_s"] for site in sites]
        result: dict[str, Any] = master.order("load", tick, workload=list(workload), seconds=seconds)
        spent = [site.order("usage")["cpu_s"] - was for site, was in zip(sites, before, strict=True)]
        own, *others = (round(seconds * 1e6 / result["ran"], 2) for seconds in spent)
        return result | {"cpu_us": {"master": own, "client": max(others, default=0.0)}}

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


def _cores(count: int) -> list[int | None]:
    """Return a core for each process; the first one's is nobody else's, if there are several."""
    from zrep.errors import OptionError

    if sys.platform != "linux":
        raise OptionError("processes can be pinned to cores on Linux only: measure without --pin")
    first, *rest = sorted(os.sched_getaffinity(0))
    others = rest or [first]
    return [first, *(others[number % len(others)] for number in range(count - 1))]
