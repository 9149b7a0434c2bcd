"""What `zrep bench` measures with sites that die: fail-over and catch-up; and what a group costs that does nothing.

The writer of the fail-over is a remote client, as in `zrep demo`: its clock runs through the master's death.
"""

import threading
import time
from typing import TYPE_CHECKING, Any

from .bench_group import BenchGroup
from .bench_loads import Workload
from .bench_process import Tick
from .bench_samples import SECOND, percentile
from .processes import wait_until

if TYPE_CHECKING:
    from zrep.client import Client

PATIENCE_S = 30.0
BEFORE_MS, AFTER_MS = 100, 400
"""What of the writes around a kill is kept: so long before it, and so long after it or after the first write."""
MISSED_PUTS = 100
STEADY_WRITES = 50
"""How many writes a master must have acknowledged before it is killed."""


class Writer(threading.Thread):
    """Writes one key after the other through a remote client, and notes when which gen acknowledged."""

    def __init__(self, client: "Client") -> None:
        super().__init__(name="bench-writer", daemon=True)
        self.acknowledged: list[tuple[int, int]] = []
        """(perf_counter_ns, gen) of each."""
        self._client = client
        self._ended = False
        self._failure: Exception | None = None

    def run(self) -> None:
        number = 0
        try:
            while not self._ended:
                token = self._client.put(number.to_bytes(16, "big"), b"x" * 100).token
                self.acknowledged.append((time.perf_counter_ns(), token.gen if token else 0))
                number += 1
        except Exception as error:
            self._failure = error

    def end(self) -> None:
        self._ended = True
        self.join()

    def await_writes(self, count: int, gen_above: int = -1) -> None:
        """Wait until `count` writes more than now are acknowledged, the last by a gen above. Raises what stopped it."""
        wanted = len(self.acknowledged) + count

        def holds() -> bool:
            if self._failure is not None:
                raise self._failure
            return len(self.acknowledged) >= wanted and self.acknowledged[-1][1] > gen_above

        wait_until(holds, PATIENCE_S, "the writes stopped")


def failover(group: BenchGroup, rounds: int, tick: Tick) -> dict[str, Any]:
    """Kill the master `rounds` times while a client writes; time each kill to the next acknowledged write."""
    import zrep

    timelines, pauses = [], []
    with zrep.connect(*group.addresses, timeout_ms=int(PATIENCE_S * 1000)) as client:
        for _ in range(rounds):
            tick()
            group.await_formed()
            writer = Writer(client)
            writer.start()
            try:
                writer.await_writes(STEADY_WRITES)
                victim = group.master()
                gen = writer.acknowledged[-1][1]
                struck = time.perf_counter_ns()
                victim.kill()
                writer.await_writes(STEADY_WRITES, gen_above=gen)
            finally:
                writer.end()
            first = next(at for at, by in writer.acknowledged if by > gen)
            pauses.append(first - struck)
            timelines.append(_around(writer.acknowledged, struck, first))
            victim.start()
    ordered = sorted(pauses)
    return {
        "rounds": rounds,
        "pause_ms": [round(pause / 1e6, 3) for pause in pauses],
        "latency_ns": {"p50": percentile(ordered, 50), "p99": percentile(ordered, 99), "max": ordered[-1]},
        "timelines_ms": timelines,
    }


def _around(acknowledged: list[tuple[int, int]], struck: int, first: int) -> list[float]:
    """Return when writes were acknowledged, in milliseconds after the kill; those before it are negative."""
    relative = [(at - struck) / 1e6 for at, _ in acknowledged]
    last = (first - struck) / 1e6 + AFTER_MS
    return [round(at, 2) for at in relative if -BEFORE_MS <= at <= last]


def catch_up(group: BenchGroup, batches: int, tick: Tick) -> dict[str, Any]:
    """Let a client site miss so many batches of 100 random puts; time its start until it has applied them all."""
    group.await_formed()
    master = group.master()
    sleeper = next(site for site in group.sites if site is not master)
    before = master.order("status")["end"]
    sleeper.stop()
    missed = Workload("missed", "submit", "", puts=MISSED_PUTS, outstanding=50, order="random")
    master.order("fill", tick, workload=list(missed), batches=batches)
    end = master.order("status")["end"]
    sleeper.start()
    taken: int = sleeper.order("applied", tick, lsn=end, timeout_s=PATIENCE_S + batches / 10)["taken_ns"]
    return {
        "records": end - before,
        "puts": batches * MISSED_PUTS,
        "seconds": round(taken / SECOND, 6),
        "per_second": round(batches * MISSED_PUTS * SECOND / taken, 1),
    }


def idle(group: BenchGroup, seconds: float, tick: Tick) -> dict[str, Any]:
    """Let the group do nothing; tell what its most expensive site costs: share of one core, memory."""
    group.await_formed()
    before = [site.order("usage") for site in group.sites]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        tick()
        time.sleep(min(0.1, seconds))
    after = [site.order("usage") for site in group.sites]
    shares = [(b["cpu_s"] - a["cpu_s"]) / (b["at"] - a["at"]) for a, b in zip(before, after, strict=True)]
    return {
        "seconds": seconds,
        "cpu_percent": round(100 * max(shares), 2),
        "rss_mb": round(max(usage["rss_kb"] for usage in after) / 1024, 1),
    }
