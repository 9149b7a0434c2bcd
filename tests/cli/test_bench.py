"""`zrep bench`: that it measures what it says and tells it whole. No time is judged here."""

import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zrep as library
from benchmarks import __main__ as benchmarks
from benchmarks import goals
from benchmarks.peers import etcd, pysyncobj, redis, servers
from benchmarks.peers.embedded import Embedded
from benchmarks.works import Results, Summary, Works
from cli import bench, bench_plot, bench_report
from cli.bench_group import BenchGroup
from cli.bench_loads import Workload, catalogue, fill, keys
from cli.bench_process import Tick, Worker
from cli.bench_samples import Timing, closed_loop, percentile, pipeline, summary
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
    titles = {"Latency of a commit", "Puts a second", "Acknowledged writes around kill -9 of the master"}
    assert titles <= set(texts)
    assert any(text.startswith("Latency of reads") for text in texts)
    assert {"kill 1", "sequential", "reads", "3 sites, durability sync, values of 100 bytes"} <= set(texts)
    assert "nan" not in measured[1].read_text()


def test_a_picture_of_nothing_is_a_picture(measured: tuple[Path, Path]) -> None:
    report = bench_report.load(measured[0]) | {"results": []}
    assert ElementTree.fromstring(bench_plot.svg(report)) is not None


def test_a_curve_ends_where_its_samples_do() -> None:
    timing = Timing(200, 200, 1.0, range(1, 201))
    curve = bench_plot._supported(summary(timing))
    assert curve[-2:] == [(99.0, 198), (99.5, 199)]
    assert bench_plot._supported(summary(Timing(1, 1, 1.0, [7]))) == [(0, 7)]


@given(st.floats(1e-4, 1e4), st.floats(1, 1e4))
def test_the_ticks_of_an_axis_are_around_its_values(least: float, times: float) -> None:
    ticks = bench_plot._steps(least, least * times)
    assert ticks[0] <= least <= least * times <= ticks[-1]
    assert sorted(set(ticks)) == ticks
    assert 2 <= len(ticks) <= 11
    assert least <= bench_plot._step(least) <= 2.5 * least


def test_many_curves_differ() -> None:
    looks = set()
    panel = bench_plot.Panel("many", lambda x: x, lambda y: y)
    for number in range(21):
        panel.curve(str(number), [(0, 0), (1, 1)])
        looks.add(next(part for part in reversed(panel.parts) if "h28" in part).partition(" d=")[0])
    assert len(looks) == 21


def test_a_narrow_terminal_gets_a_table_without_its_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    table: tuple[Sequence[str], list[tuple[str, ...]]] = ("A", "WHAT"), [("a", "x" * 60)]
    assert bench._fitting(*table) == table
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert bench._fitting(*table) == table
    monkeypatch.setenv("COLUMNS", "40")
    assert bench._fitting(*table) == (("A",), [("a",)])


def test_a_few_workloads_and_a_table() -> None:
    result = zrep("bench", *SMALL, "--sites", "1", "--durability", "process", "--workload", "threads")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1 sites, durability process")
    assert [line.split()[0] for line in lines[4:]] == ["WORKLOAD", "threads-2", "threads-4"]


@pytest.mark.skipif(sys.platform != "linux", reason="PINNING NOT TESTED: this needs Linux")
def test_sites_stay_on_one_core_each_the_master_on_one_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BenchGroup(3, tmp_path, {}, pin=True) as group:
        workers = [site._worker for site in group.sites]
        used = [os.sched_getaffinity(worker._process.pid) for worker in workers if worker is not None]
    assert list(map(len, used)) == [1, 1, 1]
    assert used[0] not in used[1:] or os.sched_getaffinity(0) == used[0]
    assert run(["bench", *SMALL, "--pin", "--sites", "1", "--workload", "sequential"]) == 0
    assert capsys.readouterr().out.startswith("1 sites, each on one core, durability sync")


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


def test_random_keys_are_drawn_from_those_that_were_filled(tmp_path: Path) -> None:
    workload = Workload("fill", "submit", "", puts=5, outstanding=2, value_bytes=1)
    with library.open(str(tmp_path / "home")) as env:
        fill(env, workload, 3)
        fill(env, workload, 1, first=15)
        assert env.stat()["entries"] == 20
        with env.begin() as txn:
            drawn = [keys("random", stream, among=20) for stream in (0, 1)]
            for stream in drawn:
                assert all(txn.get(next(stream)) for _ in range(100))


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


def test_growth_tells_bytes_a_second_and_the_median() -> None:
    def measured(per_second: float, value_bytes: int, p50_ns: int) -> dict[str, Any]:
        return {"per_second": per_second, "value_bytes": value_bytes, "latency_ns": {"p50": p50_ns}}

    works = {
        goals.THREE_SITES: measured(1000.0, 100, 2_000_000),
        goals.SEVEN_SITES: measured(400.0, 100, 3_000_000),
        goals.LARGE_VALUES: measured(100.0, 65_536, 9_000_000),
        goals.FEW_KEYS: measured(900.0, 100, 2_000_000),
        goals.MANY_KEYS: measured(450.0, 100, 4_000_000),
    }
    lines = list(goals.lines({("zrep", "sync", work): summary for work, summary in works.items()}))
    assert [(line.work, round(line.figure, 2), line.met) for line in lines] == [
        (goals.SEVEN_SITES, 2.5, False),
        (goals.SEVEN_SITES, 1.5, True),
        (goals.LARGE_VALUES, 0.02, True),
        (goals.LARGE_VALUES, 4.5, False),
        (goals.MANY_KEYS, 2.0, True),
        (goals.MANY_KEYS, 2.0, False),
    ]


def test_the_tail_is_that_of_the_long_run_if_there_was_one() -> None:
    short = {("zrep", "sync", "threads-16"): {"per_second": 1.0, "latency_ns": {"p50": 1, "p99": 2}}}
    long = {("zrep", "sync", goals.LONG): {"per_second": 1.0, "latency_ns": {"p50": 1, "p99": 4}}}
    (line,) = goals.lines(short)
    assert (line.goal, line.work, line.figure) == ("P11", "threads-16", 2)
    (line,) = goals.lines(short | long)
    assert (line.goal, line.work, line.figure) == ("P11", goals.LONG, 4)


def test_a_work_that_fails_leaves_out_no_other() -> None:
    def fails(tick: Tick) -> Summary:
        raise OSError("no more")

    def works() -> Works:
        yield "one", lambda tick: {"per_second": 1}
        yield "two", fails
        yield "three", lambda tick: {"per_second": 3}
        raise ValueError("its end came early")

    results = Results()
    results.take("peer", "sync", works())
    assert [work for _, _, work in results.measured] == ["one", "three"]
    assert results.left_out == [
        "peer, sync, two, is left out: it failed with OSError: no more",
        "peer, sync, what follows three, is left out: it failed with ValueError: its end came early",
    ]


def test_of_several_rounds_the_middle_one_counts() -> None:
    results = Results()
    for rate in (3.0, 1.0, 2.0):

        def works(rate: float = rate) -> Works:
            yield "one", lambda tick: {"per_second": rate}
            yield "kills", lambda tick: {"p50": rate}

        results.take("peer", "sync", works())
        results.leave_out("another", "it is not here")
    assert results.measured == {
        ("peer", "sync", "one"): {"per_second": 2.0, "rounds": 3, "lowest": 1.0, "highest": 3.0},
        ("peer", "sync", "kills"): {"p50": 1.0, "rounds": 3},
    }
    assert results.left_out == ["another, is left out: it is not here"]


class Discarded(Exception):
    """pysyncobj's SyncObjException."""

    def __init__(self, errorCode: int | str) -> None:
        super().__init__(errorCode)
        self.errorCode = errorCode


@pytest.mark.parametrize(
    ("errors", "raised"), [([3, 4, 5], None), ([3] * pysyncobj.ATTEMPTS, 3), (["Timeout"], "Timeout"), ([1], 1)]
)
def test_pysyncobj_writes_again_what_an_election_discarded(
    errors: list[int | str], raised: int | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {}

    def put(key: bytes, value: bytes, **_: Any) -> None:
        if errors:
            raise Discarded(errors.pop(0))
        written[key] = value

    site = object.__new__(pysyncobj.Site)
    site._library = SimpleNamespace(SyncObjException=Discarded)
    site._dict = SimpleNamespace(set=put)
    if raised is None:
        site.write([(b"k", b"v")])
        assert written == {b"k": b"v"}
    else:
        with pytest.raises(Discarded, match=str(raised)):
            site.write([(b"k", b"v")])
    assert errors == []


def test_a_program_tells_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, said, version in (("serverd", "serverd v=7.0.15 sha=1.2", "7.0.15"), ("mute", "", "unknown")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / name).chmod(0o755)
        assert servers.program_version(name) == version


def test_the_extra_brings_what_the_peers_import() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {each.partition(">")[0] for each in project["optional-dependencies"]["benchmarks"]}
    assert brought == {"grpcio", *(peer.library for peer in benchmarks.PEERS if isinstance(peer, Embedded))}


def test_requests_of_peers_are_encoded_as_their_protocols_say() -> None:
    assert redis.command(b"SET", b"k", b"") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n"
    assert etcd.field(2, b"abc") == b"\x12\x03abc"
    assert etcd.field(1, bytes(300)) == b"\x0a\xac\x02" + bytes(300)


def test_benchmarks_run_without_peers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--seconds", "0.03", "--durability", "process", "--json", "--directory", str(tmp_path)]
    benchmarks.main([*arguments, "--peers"])
    report = json.loads(capsys.readouterr().out)
    names = {result["name"] for result in report["results"]}
    assert {
        "fdatasync sync sequential",
        "bare sync sequential",
        "bare process threads-64",
        "zrep process sequential",
        "zrep process pipelined",
    } <= names
    assert report["left_out"] == []
    assert report["durability"] == "process"
    assert set(bench_report.CONDITIONS) <= set(report)
    assert all(
        result["name"] == f"{result['who']} {result['durability']} {result['work']}" for result in report["results"]
    )
    assert not list(tmp_path.iterdir())


def test_a_worker_that_does_not_answer_is_killed() -> None:
    """Else one library that waits for its own lock would keep all others from being measured."""
    worker = Worker("the sleeper", [sys.executable, "-c", "import time; input(); time.sleep(600)"])
    with pytest.raises(library.Error, match="the sleeper did not load within 0 s and was killed"):
        worker.order("load", limit_s=0.1)
    assert not worker.running


def test_growth_and_the_long_run_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--seconds", "0.03", "--growth", "--keys", "2345", "--long", "0.05", "--alone", "--json"]
    benchmarks.main([*arguments, "--directory", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    results = {result["work"]: result for result in report["results"]}
    growth = ["3-sites", "64-KiB", "7-sites", "few-keys", "many-keys"]
    assert list(results) == [*growth, "threads-16-long"]
    assert (results["few-keys"]["keys"], results["many-keys"]["keys"]) == (235, 2345)
    assert [line["goal"] for line in report["goals"]] == ["P10"] * 6 + ["P11"]
    assert (report["left_out"], report["keys"], report["long"]) == ([], 2345, 0.05)
    assert not list(tmp_path.iterdir())


def test_what_was_left_out_and_missed_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(per_second: float) -> Callable[..., Summary]:
        return lambda directory, seconds, value_bytes: {"per_second": per_second}

    listed = (("zrep", 1.0), ("etcd", 2.0), ("redis", 0.5))
    monkeypatch.setattr(benchmarks, "LIMITS", [(who, "sync", "sequential", limit(rate)) for who, rate in listed])
    for part in ("measure", "reads", "pinned"):
        monkeypatch.setattr(f"benchmarks.ours.{part}", lambda *_: ())
    monkeypatch.setattr("benchmarks.peers.nats.Nats.missing", lambda self: "it is not here")
    for rounds in (1, 2):
        benchmarks.main(["--peers", "nats", "--rounds", str(rounds)])
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in shown if line.endswith(" ≥ 1 MISSED")] == ["P1"]
        assert shown[-2:] == ["1 of 2 are missed", "nats, process, is left out: it is not here"]
        assert ("ROUNDS FROM" in shown[4]) == (rounds > 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("--alone",), "nothing to measure"), (("--kills", "0"), "from 1 on"), (("--rounds", "0"), "from 1 on")],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(arguments)
    assert sentence in capsys.readouterr().err
