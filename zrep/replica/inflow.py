"""Records on their way into the log: in order, held while there is a gap, asked for again.

The first request for missing records goes at once to anybody; repeats back off from `request_min` to
`request_max` and go to the master. What is held is bounded: beyond that, it will be asked for.
"""

from collections.abc import Iterator

from zrep.ids import Lsn, Nanoseconds
from zrep.options import MILLISECOND, Options
from zrep.records import Record, Tip, follows
from zrep.replica.timers import Backoff

HELD_RECORDS = 10_000


class Inflow:
    """Records above the tip that arrived early, and the state of the request for what is missing."""

    __slots__ = ("_held_bytes", "_limit_bytes", "backoff", "held", "known_end")

    def __init__(self, options: Options) -> None:
        self.held: dict[Lsn, Record] = {}
        """The records, by LSN."""
        self._held_bytes = 0
        self._limit_bytes = options.limit_bytes
        self.known_end: Lsn = 0
        """The highest end of the master's log heard of in this gen."""
        self.backoff = Backoff(options.request_min_ms * MILLISECOND, options.request_max_ms * MILLISECOND)

    def clear(self) -> None:
        self.held.clear()
        self._held_bytes = 0
        self.known_end = 0
        self.backoff.reset()

    def hold(self, record: Record) -> None:
        """Keep an early record, if there is room."""
        if record.lsn in self.held or len(self.held) >= HELD_RECORDS:
            return
        if self._held_bytes + len(record.raw) > self._limit_bytes:
            return
        self.held[record.lsn] = record
        self._held_bytes += len(record.raw)

    def in_order(self, tip: Tip) -> Iterator[Record]:
        """Yield and forget the held records that continue `tip`, as far as they do."""
        lsn = tip.lsn + 1
        while (record := self.held.pop(lsn, None)) is not None:
            self._held_bytes -= len(record.raw)
            if not follows(tip, record):
                return
            yield record
            tip = Tip(record.gen, record.lsn, record.chain)
            lsn += 1

    def forget_below(self, lsn: Lsn) -> None:
        """Drop held records that have arrived another way."""
        if min(self.held, default=lsn) < lsn:
            self.held = {at: record for at, record in self.held.items() if at >= lsn}
            self._held_bytes = sum(len(record.raw) for record in self.held.values())

    def first_held(self) -> Lsn | None:
        return min(self.held, default=None)

    def pause(self) -> Nanoseconds:
        return self.backoff.pause()
