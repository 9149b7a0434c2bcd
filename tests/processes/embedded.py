"""As `launcher`, and the site's own process works on the data, too: through its environment.

`python -m tests.processes.embedded CONTROL SITE HISTORIES node HOME …`
"""

import sys
from pathlib import Path

from zrep_cli import main

import zrep
from tests.processes.launcher import through
from tests.processes.workload import STOP, Embedded, Workload
from zrep.site import JOIN_TIMEOUT_MS


def work_in(site_number: str, histories: Path) -> None:
    """Start workloads with every site that starts in this process."""
    start = zrep.Site.start

    def started(self: zrep.Site, timeout_ms: int = JOIN_TIMEOUT_MS) -> zrep.Site:
        start(self, timeout_ms)
        if not (histories / STOP).exists():
            for thread in range(2):
                Workload(Embedded(self), histories, f"site{site_number}.{thread}").start()
        return self

    zrep.Site.start = started  # type: ignore[method-assign]


if __name__ == "__main__":
    through(sys.argv[1], sys.argv[2])
    work_in(sys.argv[2], Path(sys.argv[3]))
    sys.exit(main.run(sys.argv[4:]))
