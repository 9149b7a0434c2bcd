"""The register checker finds what is planted, and nothing else."""

import random
from math import inf

import pytest

from tests.checkers.linearizability import Call, Kind, Value, Verdict, judge

READ, WRITE, CAS = Kind.READ, Kind.WRITE, Kind.CAS


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        pytest.param([], Verdict.LINEARIZABLE, id="nothing"),
        pytest.param([Call(READ, None, 0, 1)], Verdict.LINEARIZABLE, id="absent"),
        pytest.param([Call(WRITE, b"1", 0, 1), Call(READ, b"1", 2, 3)], Verdict.LINEARIZABLE, id="read your write"),
        pytest.param([Call(WRITE, b"1", 0, 1), Call(READ, None, 2, 3)], Verdict.VIOLATION, id="lost write"),
        pytest.param(
            [Call(WRITE, b"1", 0, 1), Call(WRITE, b"2", 2, 3), Call(READ, b"1", 4, 5)], Verdict.VIOLATION, id="stale"
        ),
        pytest.param([Call(WRITE, b"1", 0, 9), Call(READ, b"1", 1, 2)], Verdict.LINEARIZABLE, id="overlapping write"),
        pytest.param(
            [Call(WRITE, b"1", 0, 9), Call(READ, b"1", 1, 2), Call(READ, None, 3, 4)],
            Verdict.VIOLATION,
            id="back again",
        ),
        pytest.param([Call(WRITE, b"1", 0), Call(READ, None, 5, 6)], Verdict.LINEARIZABLE, id="unknown, not happened"),
        pytest.param([Call(WRITE, b"1", 0), Call(READ, b"1", 5, 6)], Verdict.LINEARIZABLE, id="unknown, happened"),
        pytest.param(
            [Call(WRITE, b"1", 0), Call(WRITE, b"2", 1, 2), Call(READ, b"2", 3, 4), Call(READ, b"1", 5, 6)],
            Verdict.LINEARIZABLE,
            id="unknown, happened late",
        ),
        pytest.param(
            [Call(WRITE, b"1", 0), *(Call(READ, value, n, n + 0.5) for n, value in enumerate([b"1", None], 1))],
            Verdict.VIOLATION,
            id="unknown, happened and undone",
        ),
        pytest.param(
            [Call(CAS, b"1", 0, 1, None, True), Call(CAS, b"2", 2, 3, None, True)], Verdict.VIOLATION, id="two CAS"
        ),
        pytest.param(
            [Call(CAS, b"1", 0, 1, None, True), Call(CAS, b"2", 2, 3, None, False)], Verdict.LINEARIZABLE, id="one CAS"
        ),
        pytest.param([Call(CAS, b"1", 0, 1, None, False)], Verdict.VIOLATION, id="CAS refused without cause"),
    ],
)
def test_small_histories(history: list[Call], verdict: Verdict) -> None:
    assert judge(history) is verdict


def history_of(rng: random.Random, count: int, clients: int) -> list[Call]:
    """Run clients against a register that is one, each call at a moment of its own between begin and end."""
    value: Value = None
    free = [0.0] * clients
    calls = []
    for number in range(count):
        client = rng.randrange(clients)
        start = free[client] + rng.random() * 0.1
        calls.append((start + rng.random(), start, client, rng.choice(list(Kind)), b"%d" % number))
        free[client] = start + 1.1
    history = []
    for moment, start, _, kind, new in sorted(calls):
        end = moment + rng.random() * 0.1
        if kind is WRITE and rng.random() < 0.05:
            if rng.random() < 0.5:
                value = new
            history.append(Call(kind, new, start, inf))
        elif kind is READ:
            history.append(Call(kind, value, start, end))
        elif kind is WRITE:
            value = new
            history.append(Call(kind, new, start, end))
        else:
            expected = value if rng.random() < 0.7 else b"other"
            swapped = expected == value
            value = new if swapped else value
            history.append(Call(kind, new, start, end, expected, swapped))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_one_register_did_is_linearizable(seed: int) -> None:
    rng = random.Random(seed)
    assert judge(history_of(rng, 150, rng.randrange(1, 8))) is Verdict.LINEARIZABLE


@pytest.mark.parametrize("seed", range(20))
def test_a_stale_read_among_many_calls_is_found(seed: int) -> None:
    rng = random.Random(seed)
    history = sorted(history_of(rng, 150, 4), key=lambda call: call.start)
    known = [call for call in history if call.kind is WRITE and call.end < inf]
    stale, later = known[len(known) // 3], known[2 * len(known) // 3]
    begin = max(call.end for call in history if call.end < inf and call.start <= later.end) + 10
    after = [call._replace(start=call.start + 100, end=call.end + 100) for call in history if call.start > later.end]
    before = [call for call in history if call.start <= later.end]
    assert judge([*before, Call(READ, stale.value, begin, begin + 1), *after]) is Verdict.VIOLATION


def test_who_runs_out_of_budget_has_not_passed() -> None:
    history = [Call(WRITE, b"%d" % n, 0, 9) for n in range(20)] + [Call(READ, b"none", 10, 11)]
    assert judge(history, budget=1000) is Verdict.UNDECIDED
