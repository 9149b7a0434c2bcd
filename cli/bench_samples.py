"""What a benchmark measures: operations a second and exact percentiles of their latencies.

Decides how operations are timed: closed loops, one operation after the other on each thread, or one thread
that keeps many outstanding. It does not know what an operation does. All times are nanoseconds.
"""

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

Operation = Callable[[], object]
Submission = Callable[[], "Future[Any]"]

SECOND = 1_000_000_000
WARM_UP, WARM_UP_MOST_S = 0.2, 3.0
"""Part of the measured time that runs before it, unmeasured; and its most."""
SAMPLED = 8
"""Of outstanding operations one in so many is timed: a callback costs as much as a good part of a submission."""
TOLD = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 100.0)


class Timing(NamedTuple):
    """What came of one measurement."""

    operations: int
    ran: int
    """Operations, those of the warm-up included."""
    seconds: float
    latencies: Sequence[int]
    """Sorted."""


def percentile(latencies: Sequence[int], percent: float) -> int:
    """Return the smallest of sorted `latencies` that at least `percent` % of them do not exceed (nearest rank)."""
    # In millionths, so that 99.9 % of 1000 is 999 and not 999.0000000000001 rounded up.
    rank = -(-round(percent * 10_000) * len(latencies) // 1_000_000)
    return latencies[max(rank, 1) - 1]


def summary(timing: Timing, per_operation: int = 1) -> dict[str, Any]:
    """Return a measurement as JSON holds it; `per_operation` puts or gets are done by one operation."""
    latencies = timing.latencies
    return {
        "operations": timing.operations,
        "ran": timing.ran,
        "samples": len(latencies),
        "per_operation": per_operation,
        "seconds": round(timing.seconds, 6),
        "per_second": round(timing.operations * per_operation / timing.seconds, 1),
        "latency_ns": {name: percentile(latencies, percent) for name, percent in TOLD.items()} if latencies else {},
        "curve": [[percent, percentile(latencies, percent)] for percent in CURVE] if latencies else [],
    }


def closed_loop(operations: Sequence[Operation], seconds: float) -> Timing:
    """Repeat each operation on a thread of its own, and time every one. Raises what an operation raises."""
    begun, taken = [array("q") for _ in operations], [array("q") for _ in operations]
    failures: list[BaseException] = []
    start = time.perf_counter_ns() + _warm_up_ns(seconds)
    stop = start + int(seconds * SECOND)

    def repeat(operation: Operation, begun: "array[int]", taken: "array[int]") -> None:
        clock = time.perf_counter_ns
        try:
            now = clock()
            # An operation that takes longer than the whole time is measured, too.
            while not failures and (now < stop or not begun or begun[-1] < start):
                operation()
                ended = clock()
                begun.append(now)
                taken.append(ended - now)
                now = ended
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=repeat, args=each, name=f"bench-{number}", daemon=True)
        for number, each in enumerate(zip(operations, begun, taken, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    end = max((at + took for at, took in _pairs(begun, taken) if at >= start), default=stop)
    latencies = sorted(took for at, took in _pairs(begun, taken) if at >= start)
    return Timing(len(latencies), sum(map(len, begun)), (end - start) / SECOND, latencies)


def _warm_up_ns(seconds: float) -> int:
    return int(min(WARM_UP * seconds, WARM_UP_MOST_S) * SECOND)


def _pairs(begun: "Sequence[array[int]]", taken: "Sequence[array[int]]") -> Iterator[tuple[int, int]]:
    """Return when each operation of any thread began, and how long it took; a long run has millions."""
    return chain.from_iterable(zip(one, other, strict=True) for one, other in zip(begun, taken, strict=True))


def pipeline(submit: Submission, outstanding: int, seconds: float) -> Timing:
    """Keep `outstanding` submissions under way from this thread. Raises what one of them raises."""
    clock = time.perf_counter_ns
    taken = array("q")
    pending: deque[Future[Any]] = deque()

    def note(begun: int, _: "Future[Any]") -> None:
        taken.append(clock() - begun)

    def run(until: int) -> int:
        done = 0
        while (now := clock()) < until:
            future = submit()
            if not done % SAMPLED:
                future.add_done_callback(partial(note, now))
            pending.append(future)
            done += 1
            if len(pending) >= outstanding:
                pending.popleft().result()
        while pending:
            pending.popleft().result()
        return done

    warmed_up = run(clock() + _warm_up_ns(seconds))
    taken = array("q")
    start = clock()
    operations = run(start + int(seconds * SECOND))
    return Timing(operations, warmed_up + operations, (clock() - start) / SECOND, sorted(taken))
