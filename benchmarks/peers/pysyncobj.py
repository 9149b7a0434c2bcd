"""PySyncObj: Raft in Python, its data in memory, tuned to ticks of a millisecond, its log never compacted.

Data in memory are compacted on the thread that also speaks to the others: with some 100 000 keys it is silent for
so long that they elect another leader, which discards what was under way.

It has no flush before an acknowledgement, so it has only "process". Several puts are not a transaction: they
are one replicated call.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .embedded import Embedded, serve
from .peer import Pairs

TICK_S = 0.001
PATIENCE_S = 30.0
NEVER = 1 << 60
LOST = (3, 4, 5)
"""FAIL_REASON.DISCARDED, NOT_LEADER, LEADER_CHANGED: an election came between."""
ATTEMPTS = 5


class PySyncObj(Embedded):
    name = "pysyncobj"
    durabilities = ("process",)
    library = "pysyncobj"
    module = "benchmarks.peers.pysyncobj"

    def environment(self, directory: Path) -> Mapping[str, str] | None:
        return None


class Site:
    """A node with one replicated dictionary."""

    def __init__(self) -> None:
        logging.disable(logging.WARNING)  # it warns of what it does as a matter of course
        self._library: Any = importlib.import_module("pysyncobj")
        self._node: Any = None
        self._dict: Any = importlib.import_module("pysyncobj.batteries").ReplDict()

    def start(self, home: str, number: int, ports: Sequence[int], durability: str) -> None:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        own = addresses.pop(number)
        tuned = self._library.SyncObjConf(
            appendEntriesPeriod=TICK_S,
            autoTickPeriod=TICK_S,
            dynamicMembershipChange=False,
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
        )
        self._node = self._library.SyncObj(own, addresses, conf=tuned, consumers=[self._dict])

    def formed(self) -> bool:
        return bool(self._node.isReady()) and self._node.getStatus()["partner_nodes_count"] == 2

    def leads(self) -> bool:
        return bool(self._node.getStatus()["leader"] == self._node.selfNode)

    def write(self, pairs: Pairs) -> None:
        """Set one key, or several by one call; again after an election, as its users must."""
        for left in reversed(range(ATTEMPTS)):
            try:
                if len(pairs) == 1:
                    self._dict.set(*pairs[0], sync=True, timeout=PATIENCE_S)
                else:
                    self._dict.update(dict(pairs), sync=True, timeout=PATIENCE_S)
            except self._library.SyncObjException as error:
                if error.errorCode not in LOST or not left:
                    raise
            else:
                return

    def stop(self) -> None:
        if self._node is not None:
            self._node.destroy()


if __name__ == "__main__":
    site = Site()
    serve(site, site.leads)
