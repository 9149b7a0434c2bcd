"""The log's clock never jumps, and comes to agree with the wall clock."""

import pytest

from zrep.options import MILLISECOND
from zrep.replica.clock import LogClock

HOUR_MS = 3_600_000


def test_it_begins_with_the_wall_clock_and_goes_on_by_itself() -> None:
    clock = LogClock(0)
    assert clock.read(5 * MILLISECOND, 1_000_000) == 1_000_000
    assert clock.read(15 * MILLISECOND, 1_000_010) == 1_000_010


def test_it_goes_on_between_records_that_are_closer_than_a_millisecond() -> None:
    clock = LogClock(0)
    times = [clock.read(step * MILLISECOND // 10, 1000 + step // 10) for step in range(101)]
    for time in times:
        clock.hear(time, 0)
    assert times == sorted(times)
    assert 9 <= times[-1] - times[0] <= 10


@pytest.mark.parametrize(("set_by_ms", "most"), [(2 * HOUR_MS, 2000), (-2 * HOUR_MS, 500), (-(10**15), 500)])
def test_a_wall_clock_that_is_set_makes_it_faster_or_slower(set_by_ms: int, most: int) -> None:
    clock = LogClock(0)
    before = clock.read(0, 10 * HOUR_MS)
    assert clock.read(1000 * MILLISECOND, 10 * HOUR_MS + 1000 + set_by_ms) - before == most


def test_it_agrees_with_the_wall_clock_in_the_end() -> None:
    clock = LogClock(0)
    clock.hear(HOUR_MS, 0)
    for second in range(100):
        shown = clock.read(second * 1000 * MILLISECOND, HOUR_MS + 30_000 + second * 1000)
    assert shown == HOUR_MS + 30_000 + 99_000


def test_the_next_master_goes_on_from_the_last_record() -> None:
    """Its own clock is a day ahead: what it shows is not."""
    clock = LogClock(0)
    clock.hear(HOUR_MS, 7 * MILLISECOND)
    assert clock.read(8 * MILLISECOND, 25 * HOUR_MS) == HOUR_MS + 2


def test_a_clock_before_1970_is_none() -> None:
    assert LogClock(0).read(0, -5) == 0
