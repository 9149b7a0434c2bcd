"""Berkeley DB's Replication Manager through `berkeleydb`: acknowledged by a quorum, one database.

As shipped it leaves Nagle's algorithm on, which costs 40 ms a commit. Where a C compiler is found a small
library is loaded before it that turns Nagle off; otherwise it is measured as shipped, and so named.
"""

import importlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .embedded import Embedded, serve
from .peer import Pairs
from .servers import await_ready, find

NODELAY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
int socket(int domain, int type, int protocol) {
    int on = 1, fd = ((int (*)(int, int, int))dlsym(RTLD_NEXT, "socket"))(domain, type, protocol);
    if (fd >= 0 && domain != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}
"""
CACHE_BYTES = 256 << 20
THREADS = 4
ACK_TIMEOUT_US = 5_000_000


class Berkeley(Embedded):
    name = "berkeley"
    durabilities = ("sync", "process")
    works = ("sequential", "threads-16", "threads-64", "batched")
    library = "berkeleydb"
    module = "benchmarks.peers.berkeley"

    def versions(self) -> dict[str, str]:
        version = ".".join(map(str, importlib.import_module("berkeleydb.db").version()))
        as_shipped = "" if find("cc") else " with Nagle's algorithm"
        return super().versions() | {"Berkeley DB": version + as_shipped}

    def environment(self, directory: Path) -> Mapping[str, str] | None:
        """Load the library without Nagle before Berkeley DB; made once."""
        library = directory / "nodelay.so"
        if not library.exists():
            compiler = find("cc")
            if compiler is None:
                return None
            command = [compiler, "-shared", "-fPIC", "-o", str(library), "-x", "c", "-", "-ldl"]
            subprocess.run(command, input=NODELAY, text=True, check=True)
        return os.environ | {"LD_PRELOAD": str(library)}


class Site:
    """A site of Berkeley DB's Replication Manager."""

    def __init__(self) -> None:
        self._bdb: Any = importlib.import_module("berkeleydb.db")
        self._env: Any = self._bdb.DBEnv()
        self._db: Any = None
        self._founds = False

    def start(self, home: str, number: int, ports: Sequence[int], durability: str) -> None:
        """Open the environment; the first site founds the group and stays its master."""
        bdb, env = self._bdb, self._env
        self._founds = number == 0
        env.set_cachesize(0, CACHE_BYTES)
        for limit in (env.set_lk_max_locks, env.set_lk_max_lockers, env.set_lk_max_objects):
            limit(20_000)
        env.set_lk_detect(bdb.DB_LOCK_DEFAULT)
        if durability == "process":
            env.set_flags(bdb.DB_TXN_NOSYNC, 1)
        env.repmgr_set_ack_policy(bdb.DB_REPMGR_ACKS_QUORUM)
        flags = bdb.DB_CREATE | bdb.DB_RECOVER | bdb.DB_THREAD | bdb.DB_INIT_REP | bdb.DB_INIT_TXN
        env.open(home, flags | bdb.DB_INIT_LOCK | bdb.DB_INIT_LOG | bdb.DB_INIT_MPOOL)
        site = env.repmgr_site("127.0.0.1", ports[number])
        site.set_config(bdb.DB_LOCAL_SITE, True)
        if self._founds:
            site.set_config(bdb.DB_GROUP_CREATOR, True)
        else:
            env.repmgr_site("127.0.0.1", ports[0]).set_config(bdb.DB_BOOTSTRAP_HELPER, True)
        # Only sites that could be elected count towards the quorum: none may have priority 0.
        env.rep_set_priority(100 if self._founds else 50)
        env.rep_set_timeout(bdb.DB_REP_ACK_TIMEOUT, ACK_TIMEOUT_US)
        await_ready(self._join, f"Berkeley DB's site {number}")
        if self._founds:
            self._db = bdb.DB(env)
            create = bdb.DB_CREATE | bdb.DB_AUTO_COMMIT | bdb.DB_THREAD
            self._db.open("bench.db", dbtype=bdb.DB_BTREE, flags=create)

    def _join(self) -> bool:
        """Take part; False when the group cannot admit a site just now."""
        bdb = self._bdb
        try:
            self._env.repmgr_start(THREADS, bdb.DB_REP_MASTER if self._founds else bdb.DB_REP_CLIENT)
        except bdb.DBRepUnavailError:
            return False
        return True

    def formed(self) -> bool:
        """Whether all others are connected."""
        connected = self._bdb.DB_REPMGR_CONNECTED
        return not self._founds or sum(site[2] == connected for site in self._env.repmgr_site_list().values()) == 2

    def leads(self) -> bool:
        return self._founds

    def write(self, pairs: Pairs) -> None:
        """Put in one transaction; again after a deadlock, as its manual says."""
        while True:
            txn = self._env.txn_begin()
            try:
                for key, value in pairs:
                    self._db.put(key, value, txn=txn)
                txn.commit()
            except self._bdb.DBLockDeadlockError:
                txn.abort()
            else:
                return

    def stop(self) -> None:
        """Nothing: the process ends."""


if __name__ == "__main__":
    site = Site()
    serve(site, site.leads)
