"""The log's clock: the time that a record carries.

Sessions are forgotten by it (R25), so it must not jump, whatever a machine's clock does, and whichever
machine is master next. It goes on from the last record's time as time passes here, and follows the wall
clock by going twice or half as fast until they agree. Only a log without a record takes the wall clock's.
"""

from zrep.ids import Nanoseconds
from zrep.options import MILLISECOND


class LogClock:
    """Milliseconds since 1970, about; kept in nanoseconds, as records may be closer than one of these."""

    __slots__ = ("_at", "_ns")

    def __init__(self, now: Nanoseconds) -> None:
        self._ns: Nanoseconds = 0
        """What it showed when this site's own clock showed `_at`; 0 before the first record."""
        self._at = now

    def hear(self, time_ms: int, now: Nanoseconds) -> None:
        """A record of that time was appended."""
        if time_ms != self._ns // MILLISECOND:
            self._ns, self._at = time_ms * MILLISECOND, now

    def read(self, now: Nanoseconds, wall_ms: int) -> int:
        """Return the time of a record that is made now."""
        if not self._ns:
            self._ns, self._at = max(wall_ms, 0) * MILLISECOND, now
        passed = now - self._at
        behind = wall_ms * MILLISECOND - (self._ns + passed)
        self._ns += passed + max(min(behind, passed), -passed // 2)
        self._at = now
        return self._ns // MILLISECOND
