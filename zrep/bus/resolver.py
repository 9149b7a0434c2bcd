"""Names into addresses, beside the engine: a name server that is slow or gone must not stop a master.

One daemon thread, started by the first name that is looked up; addresses given as numbers need none.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from zrep.endpoints import Endpoint, resolve


class Resolver:
    """Answers at once from what it last learnt, and learns anew meanwhile."""

    def __init__(self, learnt: Callable[[], None]) -> None:
        self._learnt = learnt
        self._known: dict[str, tuple[str, ...]] = {}
        self._asked: set[str] = set()
        self._questions: SimpleQueue[Endpoint | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def lookup(self, endpoint: Endpoint) -> list[Endpoint]:
        """Return the addresses of an endpoint, IPv6 first; none yet for a name that is new."""
        if not endpoint.is_name:
            return [endpoint]
        name = endpoint.address
        if name not in self._asked:
            self._asked.add(name)
            self._questions.put(endpoint)
            if self._thread is None:
                self._thread = threading.Thread(target=self._learn, name="zrep-resolver", daemon=True)
                self._thread.start()
        return [endpoint._replace(address=address) for address in self._known.get(name, ())]

    def close(self) -> None:
        """Let the thread end, when the name server has answered; nobody waits for it."""
        self._questions.put(None)

    def _learn(self) -> None:
        while (endpoint := self._questions.get()) is not None:
            found = [address.address for address in resolve(endpoint) if not address.is_name]
            if found:
                self._known[endpoint.address] = tuple(found)
            self._asked.discard(endpoint.address)
            self._learnt()
