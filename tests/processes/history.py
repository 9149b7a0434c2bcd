"""What a workload did: a line before each operation and one after it.

A process that is killed leaves what it was doing without an end: its outcome is unknown. Times are of the
monotonic clock, which the processes of one machine share.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

from tests.checkers.linearizability import Call, Kind, Value, Verdict, judge
from tests.checkers.listappend import Outcome, Txn, problems

Line = dict[str, Any]


class Recorder:
    """One thread's file; each line is one write, so that it survives the process, whole but for the last."""

    def __init__(self, directory: Path, name: str) -> None:
        self.number = os.getpid()
        self._name = f"{name}-{self.number}"
        self._file = os.open(directory / f"{self._name}.history", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._count = 0

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: Line) -> None:
        os.write(self._file, json.dumps(line | {"at": time.monotonic()}).encode() + b"\n")

    @contextmanager
    def operation(self, do: str, **facts: Any) -> Iterator[Line]:
        """Record an operation; the caller fills in what came of it: `came`, and a `value` that was read."""
        self._count += 1
        name = {"id": f"{self._name}/{self._count}"}
        self._write(name | {"do": do} | facts)
        end: Line = {}
        yield end
        self._write(name | end)


class History:
    """All operations of a run, from the files in a directory.

    A kill may cut the last line of a file: that operation has not begun, or nobody knows how it ended.
    """

    def __init__(self, directory: Path) -> None:
        lines = [
            json.loads(line)
            for file in directory.glob("*.history")
            for line in file.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        ends = {line["id"]: line for line in lines if "do" not in line}
        self.operations = [
            line | {"came": "unknown", "value": line.get("value")} | ends.get(line["id"], {}) | {"start": line["at"]}
            for line in lines
            if "do" in line
        ]
        for operation in self.operations:
            operation["end"] = operation["at"] if operation["id"] in ends else inf

    def of(self, *kinds: str) -> list[Line]:
        return [operation for operation in self.operations if operation["do"] in kinds]

    def count(self, came: str) -> int:
        return sum(operation["came"] == came for operation in self.operations)

    def wrong_puts(self, held: dict[bytes, bytes]) -> list[Line]:
        """Return the puts of unique keys that were acknowledged and are not there, or refused and are there."""
        return [
            put
            for put in self.of("put")
            if (put["came"] == "ok" and held.get(put["key"].encode()) != put["value"].encode())
            or (put["came"] == "failed" and put["key"].encode() in held)
        ]

    def wrong_registers(self, held: dict[bytes, bytes]) -> dict[str, tuple[Verdict, list[Call]]]:
        """Return the registers whose history is not linearizable; what is held now was read last."""
        calls: dict[str, list[Call]] = defaultdict(list)
        for operation in self.of("read", "write", "cas"):
            call = _call(operation)
            if call is not None:
                calls[operation["key"]].append(call)
        now = max((operation["at"] for operation in self.operations), default=0.0) + 1
        for key, of_key in calls.items():
            of_key.append(Call(Kind.READ, held.get(key.encode()), now, now + 1))
        verdicts = {key: judge(of_key) for key, of_key in calls.items()}
        return {key: (verdict, calls[key]) for key, verdict in verdicts.items() if verdict is not Verdict.LINEARIZABLE}

    def wrong_lists(self, held: dict[bytes, bytes]) -> list[str]:
        """Say what is wrong with the transactions on lists; what is held now was read last."""
        txns = [
            Txn(
                {key: tuple(value) for key, value in operation["reads"].items()},
                operation["appends"],
                Outcome(operation["came"]),
                operation["start"],
                operation["end"] if operation["came"] == "ok" else inf,
            )
            for operation in self.of("txn")
        ]
        now = max((operation["at"] for operation in self.operations), default=0.0) + 1
        keys = {str(key) for txn in txns for key in txn.reads}
        txns.append(Txn({key: items(held.get(key.encode())) for key in keys}, start=now, end=now + 1))
        return problems(txns)


def _call(operation: Line) -> Call | None:
    """Return what a register sees of an operation; nothing of one that did not happen."""
    came, start, end = operation["came"], operation["start"], operation["end"]
    value = _bytes(operation["value"])
    if operation["do"] == "read":
        return Call(Kind.READ, value, start, end) if came == "ok" else None
    if operation["do"] == "cas":
        if came not in ("ok", "conflict", "unknown"):
            return None
        expected = _bytes(operation["expected"])
        return Call(Kind.CAS, value, start, inf if came == "unknown" else end, expected, came == "ok")
    return Call(Kind.WRITE, value, start, end if came == "ok" else inf) if came in ("ok", "unknown") else None


def _bytes(value: str | None) -> Value:
    return None if value is None else value.encode()


def items(value: bytes | None) -> tuple[str, ...]:
    """Return the elements of a stored list."""
    return tuple(value.decode().split(",")) if value else ()


def stored(elements: Iterable[str]) -> bytes:
    return ",".join(elements).encode()
