"""The history of a killed process: what it had not finished writing is no evidence, all before it is."""

from pathlib import Path

import pytest

from tests.processes.history import History, Recorder


def test_a_line_that_a_kill_has_cut_counts_for_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "site1")
    with recorder.operation("put", key="a", value="1") as end:
        end["came"] = "ok"
    with recorder.operation("put", key="b", value="2") as end:
        end["came"] = "ok"
    recorder.close()
    (file,) = tmp_path.glob("*.history")
    whole = file.read_bytes()
    begin_of_last = whole.rindex(b"{")
    for size in range(begin_of_last, len(whole)):
        file.write_bytes(whole[:size])
        assert [operation["came"] for operation in History(tmp_path).of("put")] == ["ok", "unknown"]


@pytest.mark.parametrize("held", [{b"a": b"1"}, {}])
def test_what_was_acknowledged_must_be_there(tmp_path: Path, held: dict[bytes, bytes]) -> None:
    recorder = Recorder(tmp_path, "site1")
    with recorder.operation("put", key="a", value="1") as end:
        end["came"] = "ok"
    recorder.close()
    assert [put["key"] for put in History(tmp_path).wrong_puts(held)] == ([] if held else ["a"])
