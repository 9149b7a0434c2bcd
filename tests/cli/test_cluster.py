"""`zrep cluster`: detached sites that are found again, and only they."""

import json
from pathlib import Path
from typing import Any

from tests.cli.command import zrep


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


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")
    result = zrep("cluster", "stop", tmp_path)
    assert result.returncode == 2
    assert "is damaged" in result.stderr
