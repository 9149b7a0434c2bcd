"""Deadlines by name, and the doubling pause between repeats of a request."""

from zrep.ids import Nanoseconds

DETECTION = frozenset({"silence", "election"})
"""Timers that conclude something from silence. They fire only when the inbox has been empty once since
they were due: after a pause, what arrived meanwhile is heard before anybody is declared dead."""


class Timers:
    """Named deadlines. Setting a name again moves it."""

    __slots__ = ("_at", "deadline")

    def __init__(self) -> None:
        self._at: dict[str, Nanoseconds] = {}
        self.deadline: Nanoseconds | None = None
        """Nothing is due before. What was due then may have been moved since: most timers are, many times."""

    def set(self, name: str, at: Nanoseconds) -> None:
        self._at[name] = at
        if self.deadline is None or at < self.deadline:
            self.deadline = at

    def clear(self, name: str) -> None:
        if self._at.pop(name, None) == self.deadline:
            self.deadline = min(self._at.values(), default=None)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def take_due(self, now: Nanoseconds, drained: bool) -> str | None:
        """Remove and return the name that fell due first, if any; what it does may clear those due after it."""
        due = [(at, name) for name, at in self._at.items() if at <= now and (drained or name not in DETECTION)]
        if not due:
            self.deadline = min(self._at.values(), default=None)
            return None
        _, name = min(due)
        del self._at[name]
        return name


class Backoff:
    """Pauses that double from `shortest` to `longest`."""

    __slots__ = ("_longest", "_next", "_shortest")

    def __init__(self, shortest: Nanoseconds, longest: Nanoseconds) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest

    def reset(self) -> None:
        self._next = self._shortest

    def pause(self) -> Nanoseconds:
        """Return the next pause."""
        pause = self._next
        self._next = min(2 * pause, self._longest)
        return pause
