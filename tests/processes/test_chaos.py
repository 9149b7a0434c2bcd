"""A bounded run of the chaos (`make soak` runs it for long)."""

from pathlib import Path

from tests.processes.chaos import Chaos


def test_nothing_is_lost_in_half_a_minute_of_chaos(tmp_path: Path) -> None:
    history, done = Chaos(tmp_path, seed=1, longest_s=1.5).run(20)
    assert history.count("ok") > 500
    assert done["kills"] >= 3
