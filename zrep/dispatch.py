"""Delivering events to the application, never on the engine's thread.

Iterators have a queue each. Functions are called one event at a time, in order, on one thread that is
started with the first event; an error in one is logged and hurts nobody else.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType

from zrep.events import Event

HISTORY = 256
"""How many past events a late subscriber may still see."""

_logger = logging.getLogger("zrep.events")


class Subscription:
    """One reader's queue of events. Iterate over it, or `get` with a time limit; `close` ends it."""

    def __init__(self, dispatcher: "Dispatcher", past: list[Event]) -> None:
        self._dispatcher = dispatcher
        self.queue: SimpleQueue[Event | None] = SimpleQueue()
        for event in past:
            self.queue.put(event)

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None after `timeout` seconds, or at the end."""
        try:
            return self.queue.get(timeout=timeout)
        except Empty:
            return None

    def close(self) -> None:
        self._dispatcher.forget(self)
        self.queue.put(None)

    def __iter__(self) -> Iterator[Event]:
        while (event := self.queue.get()) is not None:
            yield event

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Dispatcher:
    """Takes events from the engine and gives them to whoever asked for them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._functions: list[Callable[[Event], None]] = []
        self._past: deque[Event] = deque(maxlen=HISTORY)
        self._calls: Subscription | None = None

    def put(self, event: Event) -> None:
        """Deliver an event. Never blocks."""
        if self._functions and self._calls is None:  # closed, and started again
            self._begin_calls()
        with self._lock:
            self._past.append(event)
            for subscription in self._subscriptions:
                subscription.queue.put(event)

    def subscribe(self, history: bool = False) -> Subscription:
        """Return a new reader: of events from now on, or with `history` of the last ones, too."""
        with self._lock:
            subscription = Subscription(self, list(self._past) if history else [])
            self._subscriptions.append(subscription)
            return subscription

    def forget(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def add(self, function: Callable[[Event], None]) -> None:
        """Call `function` with every event from now on, also after a `close`."""
        self._functions.append(function)

    def _begin_calls(self) -> None:
        self._calls = self.subscribe()
        threading.Thread(target=self._call, args=(self._calls,), name=self._name, daemon=True).start()

    def _call(self, events: Subscription) -> None:
        for event in events:
            for function in list(self._functions):
                try:
                    function(event)
                except Exception:
                    _logger.exception("an event function failed event=%s", event)

    def close(self) -> None:
        """End every reader; what is queued is still delivered."""
        for subscription in list(self._subscriptions):
            subscription.close()
        self._calls = None
        with self._lock:
            self._past.clear()
