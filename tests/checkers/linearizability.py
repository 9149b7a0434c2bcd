"""Is a key a register that behaves as if there were one copy of it? (Wing and Gong's search, with Lowe's memory.)

A history is what clients did to one key, with the times at which each call began and ended. It is
linearizable if every call can be given one moment between these, so that all results follow from that
order. A call whose outcome is unknown may have happened at any moment after its begin, or never.

The search is exponential at worst; it has a budget, and who runs out of it has *not* passed.
"""

from collections.abc import Iterable
from enum import Enum
from math import inf
from typing import NamedTuple

Value = bytes | None

BUDGET = 500_000
"""States that are looked at before the search gives up."""


class Kind(Enum):
    READ = "read"
    WRITE = "write"
    CAS = "cas"


class Call(NamedTuple):
    """One call and what came of it. `end` is infinite when nobody knows."""

    kind: Kind
    value: Value
    """What was read, or is to be written."""
    start: float
    end: float = inf
    expected: Value = None
    """Of a CAS: what the key must hold."""
    swapped: bool = True
    """Of a CAS whose outcome is known: whether it did."""


class Verdict(Enum):
    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


def judge(history: Iterable[Call], initial: Value = None, budget: int = BUDGET) -> Verdict:
    """Judge the calls on one key."""
    calls = sorted((call for call in history if call.end < inf or call.kind is not Kind.READ), key=lambda c: c.start)
    known = sum(1 << place for place, call in enumerate(calls) if call.end < inf)
    todo = [(0, initial)]
    seen = set(todo)
    while todo:
        done, value = todo.pop()
        done, candidates = _advance(calls, done, value)
        if done & known == known:
            return Verdict.LINEARIZABLE
        for place in candidates:
            state = (done | 1 << place, calls[place].value)
            if state not in seen:
                seen.add(state)
                todo.append(state)
        if len(seen) > budget:
            return Verdict.UNDECIDED
    return Verdict.VIOLATION


def _advance(calls: list[Call], done: int, value: Value) -> tuple[int, list[int]]:
    """Let every call happen that can and changes nothing; return those that can happen next and change something.

    To let a read happen as early as it fits rules out nothing. The last candidate is the one to try first.
    """
    while True:
        possible = _possible(calls, done)
        passive = [place for place in possible if _is_passive(calls[place], value)]
        if not passive:
            break
        done |= sum(1 << place for place in passive)
    changing = [place for place in possible if _changes(calls[place], value)]
    return done, sorted(changing, key=lambda place: -calls[place].end)


def _possible(calls: list[Call], done: int) -> list[int]:
    """Return the calls before which no other one must happen."""
    first_end = inf
    open_calls = []
    for place, call in enumerate(calls):
        if done >> place & 1:
            continue
        if call.start > first_end:
            break
        open_calls.append(place)
        first_end = min(first_end, call.end)
    return [place for place in open_calls if calls[place].start <= first_end]


def _is_passive(call: Call, value: Value) -> bool:
    if call.kind is Kind.READ:
        return call.value == value
    return call.kind is Kind.CAS and call.end < inf and not call.swapped and call.expected != value


def _changes(call: Call, value: Value) -> bool:
    if call.kind is Kind.CAS:
        return call.expected == value and (call.swapped or call.end == inf)
    return call.kind is Kind.WRITE
