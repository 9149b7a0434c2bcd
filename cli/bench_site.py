"""`python -m zrep_cli.bench_site HOME`: a site of a measured group, and the program that embeds it.

It obeys (`bench_process`): starts the site, runs workloads on its environment, tells how it is. HOME is
named for `ps` only.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench_loads import Workload, fill, run
from .bench_process import obey
from .bench_samples import summary

if TYPE_CHECKING:
    from zrep.site import Site

APPLY_POLL_S = 0.001


class Embedded:
    """The site of this process, and the orders that it obeys."""

    def __init__(self) -> None:
        self._site: Site | None = None
        self._began = 0

    def orders(self) -> dict[str, Callable[..., Any]]:
        """Return what can be ordered."""
        return {
            "start": self.start,
            "status": self.status,
            "load": self.load,
            "fill": self.fill,
            "applied": self.applied,
            "usage": self.usage,
        }

    def start(
        self, home: str, bind: str, create: bool, join: list[str], options: dict[str, Any], core: int | None
    ) -> dict[str, Any]:
        """Start the site, with all its threads on `core` if that is given; the clock of `applied` runs from here."""
        if sys.platform == "linux" and core is not None:
            os.sched_setaffinity(0, {core})
        from zrep import Site
        from zrep.options import Options

        self._began = time.perf_counter_ns()
        self._site = Site(home, bind, create=create, join=join, options=Options.from_mapping(options, "--set"))
        self._site.start()
        return {"address": self._site.address}

    def status(self) -> dict[str, Any]:
        """Return the site's status."""
        return self._running.stat()

    def load(self, workload: list[Any], seconds: float) -> dict[str, Any]:
        """Run a workload here."""
        chosen = Workload(*workload)
        return summary(run(self._running.env, chosen, seconds), chosen.puts)

    def fill(self, workload: list[Any], batches: int, first: int = 0) -> None:
        """Write so many batches of a workload from the `first`th key on, untimed."""
        fill(self._running.env, Workload(*workload), batches, first)

    def applied(self, lsn: int, timeout_s: float) -> dict[str, Any]:
        """Wait until everything up to `lsn` is applied here; tell the nanoseconds since the site started."""
        deadline = time.monotonic() + timeout_s
        while self._running.stat()["applied"] < lsn:
            if time.monotonic() > deadline:
                raise TimeoutError(f"record {lsn} was not applied within {timeout_s:g} s")
            time.sleep(APPLY_POLL_S)
        return {"taken_ns": time.perf_counter_ns() - self._began}

    def usage(self) -> dict[str, Any]:
        """Return what this process has used so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu_s": used.ru_utime + used.ru_stime, "rss_kb": _resident_kb(), "at": time.monotonic()}

    def stop(self) -> None:
        """Stop the site, if it was started."""
        if self._site is not None:
            self._site.stop()

    @property
    def _running(self) -> "Site":
        if self._site is None:
            raise ValueError("the site has not been told to start")
        return self._site


def _resident_kb() -> int:
    """Return what this process has in memory now; its most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize() // 1024


def main() -> None:
    """Obey, and stop the site in the end."""
    embedded = Embedded()
    try:
        obey(embedded.orders())
    finally:
        embedded.stop()


if __name__ == "__main__":
    main()
