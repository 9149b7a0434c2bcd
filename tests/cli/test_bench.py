"""`zrep bench`: that it measures what it says and tells it whole. No time is judged here."""

import json
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as benchmarks
from benchmarks import goals
from benchmarks.peers import etcd, redis
from cli import bench_plot, bench_report
from cli.bench_loads import catalogue, keys
from cli.bench_samples import closed_loop, percentile, pipeline, summary
from cli.main import run
from tests.cli.command import zrep

WORKLOADS = ("idle", *(load.name for load in catalogue((2, 4))), "failover", "catch-up")
SMALL = ("--seconds", "0.05", "--threads", "2,4", "--kills", "1")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A result of every workload, and its picture."""
    directory = tmp_path_factory.mktemp("bench")
    picture = directory / "picture.svg"
    result = zrep("bench", *SMALL, "--json", "--plot", picture, "--directory", directory, timeout_s=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (directory / "result.json").write_text(result.stdout)
    assert {path.name for path in directory.iterdir()} == {"picture.svg", "result.json"}
    return directory / "result.json", picture


def test_every_workload_is_measured(measured: tuple[Path, Path]) -> None:
    report = bench_report.load(measured[0])
    assert tuple(result["name"] for result in report["results"]) == WORKLOADS
    for result in report["results"]:
        if result["name"] not in ("idle", "failover", "catch-up"):
            assert result["operations"] > 0
            assert result["per_second"] > 0
            assert result["ran"] >= result["operations"]
            latency = result["latency_ns"]
            assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]


def test_what_an_operation_costs_is_told_for_both_ends(measured: tuple[Path, Path]) -> None:
    results = {result["name"]: result for result in bench_report.load(measured[0])["results"]}
    assert results["sequential"]["cpu_us"]["master"] > 0
    assert results["sequential"]["cpu_us"]["client"] > 0
    assert "cpu_us" not in results["remote"]


def test_recovery_is_measured(measured: tuple[Path, Path]) -> None:
    results = {result["name"]: result for result in bench_report.load(measured[0])["results"]}
    assert results["idle"]["rss_mb"] > 0
    (pause,), (timeline,) = results["failover"]["pause_ms"], results["failover"]["timelines_ms"]
    assert pause > 0
    assert sorted(timeline) == timeline
    assert any(at < 0 for at in timeline)
    assert any(math.isclose(at, pause, abs_tol=0.01) for at in timeline)
    assert results["catch-up"]["puts"] == 100 * int(0.05 * 500)
    assert results["catch-up"]["records"] > 0


def test_a_result_says_how_it_was_taken(measured: tuple[Path, Path]) -> None:
    report = bench_report.load(measured[0])
    assert set(bench_report.CONDITIONS) <= set(report)
    assert report["sites"] == 3
    assert report["durability"] == report["options"]["durability"] == "sync"
    assert set(report["versions"]) == {"python", "zrep", "pyzmq", "lmdb", "msgpack"}


def test_the_picture_is_well_formed_and_has_every_diagram(measured: tuple[Path, Path]) -> None:
    picture = ElementTree.parse(measured[1]).getroot()
    texts = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Latency of an operation by percentile", "Puts a second by threads"} <= set(texts)
    assert "Acknowledged writes around kill -9 of the master" in texts
    assert "kill 1" in texts
    assert "nan" not in measured[1].read_text()


def test_a_picture_of_nothing_is_a_picture(measured: tuple[Path, Path]) -> None:
    report = bench_report.load(measured[0]) | {"results": []}
    assert ElementTree.fromstring(bench_plot.svg(report)) is not None


def test_a_few_workloads_and_a_table() -> None:
    result = zrep("bench", *SMALL, "--sites", "1", "--durability", "process", "--workload", "threads")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1 sites, durability process")
    assert [line.split()[0] for line in lines[4:]] == ["WORKLOAD", "threads-2", "threads-4"]


def test_compare_puts_ratios_of_b_to_a(measured: tuple[Path, Path], tmp_path: Path) -> None:
    report = bench_report.load(measured[0])
    for result in report["results"]:
        if "per_second" in result:
            result["per_second"] *= 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report | {"sites": 5}))
    result = zrep("bench", "compare", measured[0], other, "--json")
    assert result.returncode == 0, result.stderr
    comparison = json.loads(result.stdout)
    assert comparison["differing"] == ["sites"]
    ratios = {(each["name"], each["what"]): each["ratio"] for each in comparison["ratios"]}
    assert ratios["sequential", "per_second"] == 2
    assert ratios["sequential", "p50"] == 1
    table = zrep("bench", "compare", measured[0], other).stdout.splitlines()
    assert table[0] == "taken under different conditions: sites"
    assert table[1].split() == ["WORKLOAD", "WHAT", "A", "B", "B/A"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--workload", "dance"), "zrep: no workload of 3 sites is named 'dance'; they are batched, "),
        (("--sites", "1", "--workload", "failover"), "zrep: no workload of 1 sites is named 'failover'"),
        (("--threads", "many"), "zrep: --threads many is not a list of numbers"),
        (("--durability", "hope"), "zrep: --durability: durability='hope' is unknown"),
        (("compare", "none.json", "none.json"), "zrep: cannot read a result from none.json"),
        (("compare", __file__, __file__), "zrep: cannot read a result from "),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(sentence)


@given(st.lists(st.integers(0, 10**12), min_size=1), st.sampled_from((0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0)))
def test_a_percentile_is_that_of_a_dumb_twin(latencies: list[int], percent: float) -> None:
    ordered = sorted(latencies)

    def enough(value: int) -> bool:
        return sum(each <= value for each in ordered) * 10_000 >= round(percent * 100) * len(ordered)

    assert percentile(ordered, percent) == next(value for value in ordered if enough(value))


def test_a_closed_loop_counts_what_it_times() -> None:
    done = [0, 0]

    def operation(number: int) -> Any:
        def run_once() -> None:
            done[number] += 1

        return run_once

    timing = closed_loop([operation(0), operation(1)], 0.02)
    assert 0 < timing.operations == len(timing.latencies) <= timing.ran == sum(done)
    assert list(timing.latencies) == sorted(timing.latencies)
    told = summary(timing, per_operation=7)
    assert told["per_second"] == pytest.approx(7 * timing.operations / timing.seconds, rel=0.01)
    json.dumps(told)


def test_an_operation_that_fails_ends_the_measurement() -> None:
    with pytest.raises(ZeroDivisionError):
        closed_loop([lambda: 1 // 0, lambda: None], 60)


def test_a_pipeline_keeps_no_more_outstanding_than_asked() -> None:
    outstanding: list[int] = []
    most = 0

    with ThreadPoolExecutor(1) as pool:

        def submit() -> "Future[int]":
            nonlocal most
            outstanding.append(0)
            most = max(most, len(outstanding))
            return pool.submit(outstanding.pop)

        timing = pipeline(submit, 5, 0.02)
    assert 0 < len(timing.latencies) <= timing.operations
    assert 1 <= most <= 5


def test_keys_differ_and_repeat() -> None:
    for order in ("sequential", "random"):
        streams = [keys(order, stream) for stream in (0, 1, 0)]
        first, second, again = ([next(stream) for _ in range(100)] for stream in streams)
        assert first == again
        assert len({*first, *second}) == 200
        assert {len(key) for key in first} == {16}


def test_goals_tell_ratios_and_bounds_and_what_is_missed() -> None:
    measured: dict[tuple[str, str, str], dict[str, Any]] = {
        ("zrep", "sync", "sequential"): {"per_second": 300.0},
        ("etcd", "sync", "sequential"): {"per_second": 200.0},
        ("redis", "sync", "sequential"): {"per_second": 600.0},
        ("zrep", "sync", "failover"): {"latency_ns": {"p50": 15_000_000, "p99": 150_000_000}},
    }
    lines = {(line.goal, line.beside): line for line in goals.lines(measured)}
    assert lines["P1", "etcd"].figure == 1.5
    assert lines["P1", "etcd"].met
    assert lines["P1", "redis"].figure == 0.5
    assert not lines["P1", "redis"].met
    assert lines["P7", "p50, ms"].met
    assert not lines["P7", "p99, ms"].met
    assert len(lines) == 4


def test_requests_of_peers_are_encoded_as_their_protocols_say() -> None:
    assert redis.command(b"SET", b"k", b"") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n"
    assert etcd.field(2, b"abc") == b"\x12\x03abc"
    assert etcd.field(1, bytes(300)) == b"\x0a\xac\x02" + bytes(300)


def test_benchmarks_run_without_peers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--seconds", "0.03", "--durability", "process", "--json", "--directory", str(tmp_path)]
    benchmarks.main([*arguments, "--peers"])
    report = json.loads(capsys.readouterr().out)
    names = {result["name"] for result in report["results"]}
    assert {"fdatasync sync sequential", "zrep process sequential", "zrep process pipelined"} <= names
    assert report["left_out"] == []
    assert not list(tmp_path.iterdir())
