"""Are transactions that read and append to lists strictly serializable? (After Elle, Kingsbury and Alvaro 2020.)

Every element is appended once, so a list that was read tells the order of all appends before. From these
orders follow the edges of a graph of transactions: *ww* one appended next after the other, *wr* one read
what the other appended last, *rw* one read the list before the other appended to it, and *rt* one ended
before the other began. A serial order exists only if the graph has no cycle.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import inf
from typing import TypeAlias

Key: TypeAlias = Hashable
Element: TypeAlias = Hashable


class Outcome(Enum):
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Txn:
    """A transaction: what it read of each list, before its own appends, and what it appended."""

    reads: dict[Key, Sequence[Element]] = field(default_factory=dict)
    appends: dict[Key, Element] = field(default_factory=dict)
    outcome: Outcome = Outcome.OK
    start: float = 0.0
    end: float = inf


def problems(history: Sequence[Txn]) -> list[str]:
    """Say what is wrong with a history; nothing when it is strictly serializable."""
    appender = {(key, item): n for n, txn in enumerate(history) for key, item in txn.appends.items()}
    good = [n for n, txn in enumerate(history) if txn.outcome is Outcome.OK]
    order: dict[Key, Sequence[Element]] = defaultdict(tuple)
    found = []
    for n in good:
        for key, read in history[n].reads.items():
            longer, shorter = sorted((tuple(order[key]), tuple(read)), key=len, reverse=True)
            if longer[: len(shorter)] != shorter:
                found.append(f"incompatible order: of {key!r}, {longer} and {shorter} were read")
            order[key] = longer
            if len(set(read)) < len(read):
                found.append(f"duplicate: {key!r} was read as {tuple(read)}")
            for item in read:
                writer = appender.get((key, item))
                if writer is None:
                    found.append(f"garbage: {item!r} of {key!r} was read and appended by nobody")
                elif history[writer].outcome is Outcome.FAILED:
                    found.append(f"aborted read: {item!r} of {key!r} was read, and its transaction had failed")
    return found or _cycles(history, good, order, appender)


def _cycles(
    history: Sequence[Txn],
    good: list[int],
    order: dict[Key, Sequence[Element]],
    appender: dict[tuple[Key, Element], int],
) -> list[str]:
    edges: dict[int, set[int]] = defaultdict(set)
    for key, items in order.items():
        writers = [appender[key, item] for item in items]
        for before, after in pairwise(writers):
            edges[before].add(after)
        for n in good:
            if key in history[n].reads:
                length = len(history[n].reads[key])
                if length:
                    edges[writers[length - 1]].add(n)
                if length < len(writers):
                    edges[n].add(writers[length])
    seen_items = {(key, item) for key, items in order.items() for item in items}
    # An append that is certain and that nobody saw comes after all that were seen.
    for (key, item), n in appender.items():
        if (key, item) not in seen_items and history[n].outcome is Outcome.OK:
            for reader in good:
                if key in history[reader].reads:
                    edges[reader].add(n)
    _add_real_time(history, good, edges)
    return [
        f"cycle: {[history[n] for n in sorted(component) if n < len(history)]}"
        for component in _components(edges)
        if len(component) > 1
    ]


def _add_real_time(history: Sequence[Txn], good: list[int], edges: dict[int, set[int]]) -> None:
    """Add "ended before the other began", through a chain of moments: one edge a transaction, not one a pair."""
    moment = len(history)
    moments = sorted([(history[n].end, 1, n) for n in good] + [(history[n].start, 0, n) for n in good])
    for _, ends, n in moments:
        if ends:
            edges[n].add(moment + 1)
            edges[moment].add(moment + 1)
            moment += 1
        else:
            edges[moment].add(n)


def _components(edges: dict[int, set[int]]) -> list[list[int]]:
    """Return the strongly connected components (Tarjan), without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in list(edges):
        work = [(root, iter(edges.get(root, ())))] if root not in index else []
        while work:
            node, successors = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            for successor in successors:
                if successor not in index:
                    work.append((successor, iter(edges.get(successor, ()))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    place = stack.index(node)
                    found.append(stack[place:])
                    on_stack.difference_update(stack[place:])
                    del stack[place:]
    return found
