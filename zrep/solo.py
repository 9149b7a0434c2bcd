"""The transport of a site on its own: a group of one speaks to nobody."""

from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue

from zrep.bus.arrivals import Arrival
from zrep.codec import Reply
from zrep.ids import NO_GROUP, GroupId, Nanoseconds
from zrep.messages import Message
from zrep.records import Member


class Solo:
    """Waits and wakes; sends and receives nothing."""

    def __init__(self) -> None:
        self.group: GroupId = NO_GROUP
        self._woken: SimpleQueue[None] = SimpleQueue()
        """Unlike an Event it may be interrupted anywhere, by a signal or the collector."""

    def wake(self) -> None:
        self._woken.put(None)

    def poll(self, timeout_ms: int | None) -> None:
        with suppress(Empty):
            self._woken.get(timeout=None if timeout_ms is None else timeout_ms / 1000)
            while True:
                self._woken.get_nowait()

    def receive(self, now: Nanoseconds, limit: int) -> list[Arrival]:
        return []

    def send(self, message: Message) -> bool:
        return False

    def reply(self, route: bytes, reply: Reply) -> None:
        raise AssertionError("nobody can ask a site on its own")

    def seed(self, endpoint: str) -> None:
        raise AssertionError("a site on its own joins nobody")

    def members(self, members: Iterable[Member]) -> None:
        pass

    def tick(self, now: Nanoseconds) -> None:
        pass

    def deadline(self) -> Nanoseconds | None:
        return None

    def close(self) -> None:
        pass
