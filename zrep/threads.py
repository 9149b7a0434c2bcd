"""The threads that engines run on: none of them may wait for an engine, not even for another site's.

A future's callback runs there. What it would wait for needs the thread that it runs on, or one that may wait
for this one in turn.
"""

import os
import threading
from typing import NoReturn

from zrep.errors import ZrepError

engines: set[int] = set()
"""The engines' threads of this process."""


def may_wait() -> bool:
    return threading.get_ident() not in engines


def check_may_wait() -> None:
    """Raise ZrepError on an engine's thread; call before what may wait for an engine."""
    if threading.get_ident() in engines:
        refuse_to_wait()


def refuse_to_wait() -> NoReturn:
    raise ZrepError(
        "this is an engine's thread, as in a future's callback, and would wait for itself: "
        "submit the write instead, or hand the call to another thread"
    )


os.register_at_fork(after_in_child=engines.clear)
