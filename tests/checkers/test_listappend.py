"""The list-append checker finds what is planted, and nothing else."""

import random

import pytest

from tests.checkers.listappend import Outcome, Txn, problems


def serial(rng: random.Random, count: int) -> list[Txn]:
    """Run transactions on real lists, each at a moment of its own between begin and end."""
    lists: dict[object, list[int]] = {key: [] for key in "abc"}
    history = []
    for number in range(count):
        keys = rng.sample("abc", rng.randrange(1, 4))
        txn = Txn({key: tuple(lists[key]) for key in keys}, start=number - rng.random() * 3, end=number + rng.random())
        outcome = rng.choices(list(Outcome), [18, 1, 1])[0]
        if rng.random() < 0.7:
            txn.appends = dict.fromkeys(keys, number)
            if outcome is Outcome.OK or (outcome is Outcome.UNKNOWN and rng.random() < 0.5):
                for key in keys:
                    lists[key].append(number)
            txn.outcome = outcome
        history.append(txn)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_a_serial_history_is_fine(seed: int) -> None:
    assert problems(serial(random.Random(seed), 200)) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_stale_read_is_found(seed: int) -> None:
    rng = random.Random(seed)
    history = serial(rng, 200)
    late = max(n for n, txn in enumerate(history) if txn.outcome is Outcome.OK and len(txn.reads.get("a", ())) > 20)
    history[late].reads["a"] = history[late].reads["a"][:5]
    assert problems(history)


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([Txn({"a": (1,)})], "garbage"),
        ([Txn({}, {"a": 1}, Outcome.FAILED), Txn({"a": (1,)})], "aborted read"),
        ([Txn({}, {"a": 1}), Txn({}, {"a": 2}), Txn({"a": (1, 2)}), Txn({"a": (2, 1)})], "incompatible order"),
        ([Txn({}, {"a": 1}), Txn({"a": (1, 1)})], "duplicate"),
        ([Txn({"b": ()}, {"a": 1}), Txn({"a": ()}, {"b": 2}), Txn({"a": (1,), "b": (2,)})], "cycle"),
        ([Txn({"a": ()}, {"a": 1}), Txn({"a": ()}, {"a": 2}), Txn({"a": (1, 2)})], "cycle"),
        ([Txn({}, {"a": 1}, end=1), Txn({"a": ()}, start=2, end=3), Txn({"a": (1,)}, start=4, end=5)], "cycle"),
        ([Txn({}, {"a": 1}, end=1), Txn({"a": ()}, start=2, end=3)], "cycle"),
    ],
    ids=["garbage", "aborted read", "two orders", "twice", "write skew", "lost update", "stale", "lost append"],
)
def test_small_histories(history: list[Txn], problem: str) -> None:
    assert any(found.startswith(problem) for found in problems(history))


def test_unknown_outcomes_are_either() -> None:
    unknown = Txn({}, {"a": 1}, Outcome.UNKNOWN)
    assert problems([unknown, Txn({"a": ()})]) == []
    assert problems([unknown, Txn({"a": (1,)})]) == []
