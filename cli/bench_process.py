"""A process that obeys: orders go to it a line each (JSON), and each is answered by a line.

`Worker` is the side that orders, `obey` the side that is ordered. The ordered process ends, cleanly, when
its input does: whoever measures cannot leave it behind, however he ends.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

STOPPED_S = 10.0
TICK_S = 0.1

Tick = Callable[[], None]
"""Called now and then while something takes its time."""


class Worker:
    """A child process that obeys."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def order(self, do: str, tick: Tick | None = None, limit_s: float | None = None, **arguments: Any) -> Any:
        """Give an order and return its result. Raises ZrepError with the worker's own words.

        A worker that takes longer than `limit_s` is killed.
        """
        from zrep.errors import ZrepError

        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise ZrepError(f"{self._name} has died, its own words are above: measure again") from None
        began = time.monotonic()
        while not select.select([process.stdout], [], [], TICK_S)[0]:
            if tick is not None:
                tick()
            if limit_s is not None and time.monotonic() - began > limit_s:
                self.kill()
                raise ZrepError(f"{self._name} did not {do} within {limit_s:.0f} s and was killed")
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended, its own words are above"}
        if "error" in answer:
            raise ZrepError(f"{self._name} cannot {do}: {answer['error']}")
        return answer["result"]

    def kill(self) -> None:
        """End the process as a crash would."""
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """End the process cleanly if it does so in time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOPPED_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        try:
            self._process.__exit__(None, None, None)  # closes the pipes and waits
        except BrokenPipeError:
            self._process.wait()


def obey(orders: Mapping[str, Callable[..., Any]]) -> None:
    """Obey the orders on this process's input until it ends; an order that fails is answered with why."""
    try:
        for line in sys.stdin:
            try:
                order = json.loads(line)
                answer = {"result": orders[order.pop("do")](**order)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            print(json.dumps(answer), flush=True)
    except KeyboardInterrupt:
        return
