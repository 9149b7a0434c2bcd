"""`zrep cluster`: detached sites that are found again, and only they."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.processes import wait_until
from tests.cli.command import COMMAND, zrep


def sites(directory: Path) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = json.loads(zrep("cluster", "status", directory, "--json").stdout)["sites"]
    return said


def test_a_life_of_a_group(tmp_path: Path) -> None:
    started = zrep("cluster", "start", "3", tmp_path)
    assert started.returncode == 0, started.stderr
    try:
        assert sorted(site["role"] for site in sites(tmp_path)) == ["client", "client", "master"]
        again = zrep("cluster", "start", "3", tmp_path)
        assert again.returncode == 2
        assert "are running" in again.stderr

        assert zrep("cluster", "kill", "2", tmp_path).stdout == "killed: 2\n"
        assert [site["state"] for site in sites(tmp_path)] == ["running", "stopped", "running"]
        assert zrep("cluster", "kill", "2", tmp_path).returncode == 2
        assert zrep("cluster", "kill", "4", tmp_path).returncode == 2
        assert zrep("put", "IBM", "1", "-C", sites(tmp_path)[0]["address"]).returncode == 0
        assert zrep("cluster", "restart", "2", tmp_path).stdout == "restarted: 2\n"
        assert [site["state"] for site in sites(tmp_path)] == ["running"] * 3

        assert zrep("cluster", "stop", tmp_path).stdout == "stopped: 1, 2, 3\n"
        assert [site["state"] for site in sites(tmp_path)] == ["stopped"] * 3
        assert zrep("cluster", "start", "2", tmp_path).returncode == 2
        assert zrep("cluster", "start", "3", tmp_path).returncode == 0
        assert zrep("get", "IBM", "-H", tmp_path / "site-2").stdout == "1\n"
    finally:
        zrep("cluster", "stop", tmp_path)


def test_a_start_that_is_killed_leaves_no_site_that_nobody_knows(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "cluster", "start", "3", tmp_path], stdout=subprocess.DEVNULL) as process:
        wait_until((tmp_path / "site-1" / "site.sock").exists, 20, "the first site did not start")
        process.kill()
    try:
        assert zrep("cluster", "stop", tmp_path).stdout.startswith("stopped: 1")
        started = zrep("cluster", "start", "3", tmp_path)
        assert started.returncode == 0, started.stderr
    finally:
        zrep("cluster", "stop", tmp_path)


def test_homes_without_their_addresses_get_no_new_ones(tmp_path: Path) -> None:
    (tmp_path / "site-2").mkdir()
    result = zrep("cluster", "start", "3", tmp_path)
    assert result.returncode == 2
    assert "has the home site-2 but no cluster.json, which knew its address" in result.stderr
    assert not (tmp_path / "cluster.json").exists()


SITE = {"index": 1, "home": "/h", "address": "tcp://127.0.0.1:1", "pid": 1, "started": "1"}
DAMAGED = [
    "{",
    "[]",
    '{"sites": []}',
    json.dumps({"sites": [SITE | {"pid": "1"}]}),
    json.dumps({"sites": [SITE | {"pid": -1}]}),
    json.dumps({"sites": [SITE | {"pid": 1 << 40}]}),
    json.dumps({"sites": [SITE | {"home": None}]}),
    json.dumps({"sites": ["site"]}),
]


@pytest.mark.parametrize("written", DAMAGED)
def test_a_damaged_file_is_told(tmp_path: Path, written: str) -> None:
    (tmp_path / "cluster.json").write_text(written)
    result = zrep("cluster", "stop", tmp_path)
    assert result.returncode == 2
    assert "is damaged" in result.stderr
