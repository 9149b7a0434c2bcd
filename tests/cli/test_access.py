"""`zrep get put delete scan status`, by address and by home, for people, pipes and programs."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, zrep


@pytest.fixture(params=["address", "home"])
def whom(request: pytest.FixtureRequest, group: Path) -> tuple[str, str]:
    """The option that says whom to talk to."""
    sites = json.loads((group / "cluster.json").read_text())["sites"]
    return ("-C", sites[0]["address"]) if request.param == "address" else ("-H", sites[2]["home"])


def test_what_is_put_is_found_and_what_is_deleted_is_not(whom: tuple[str, str]) -> None:
    assert zrep("put", "IBM", "142.30", *whom).stdout.startswith("ok lsn=")
    assert zrep("scan", "I", *whom).stdout.count("\n") <= 1
    assert zrep("delete", "IBM", *whom).returncode == 0
    gone = zrep("delete", "IBM", *whom)
    assert gone.returncode == 0


def test_a_site_shows_its_own_writes_and_says_what_is_missing(group: Path) -> None:
    home = json.loads((group / "cluster.json").read_text())["sites"][0]["home"]
    assert zrep("put", "café", "a b\tc", "-H", home).returncode == 0
    assert zrep("get", "café", "-H", home).stdout == "a b\tc\n"
    assert json.loads(zrep("get", "café", "-H", home, "--json").stdout) == {"key": "café", "value": "a b\tc"}
    missing = zrep("get", "nothing", "-H", home)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "zrep: there is no key 'nothing': `zrep scan` lists those there are\n"
    assert json.loads(zrep("get", "nothing", "-H", home, "--json").stdout) == {"key": "nothing", "value": None}


def test_a_database_that_is_not_there(whom: tuple[str, str]) -> None:
    for arguments in (("get", "IBM"), ("put", "IBM", "1"), ("scan",)):
        result = zrep(*arguments, "--db", "nowhere", *whom)
        assert result.returncode == 2
        assert "there is no database named b'nowhere', a program creates it by open_db" in result.stderr


def test_an_output_that_cannot_be_written_is_no_storage_of_the_group(group: Path) -> None:
    sites = json.loads((group / "cluster.json").read_text())["sites"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, "status", "-C", sites[0]["address"]], stdout=full, stderr=subprocess.PIPE, timeout=30
        )
    assert result.returncode == 1
    assert result.stderr == b"zrep: cannot write the output: No space left on device\n"


def test_a_put_in_json_says_who_holds_it(whom: tuple[str, str]) -> None:
    said = json.loads(zrep("put", "MSFT", "39.81", *whom, "--json").stdout)
    assert said["perm"] is True
    assert len(said["acked"]) >= 2
    assert said["lsn"] > 0


def test_a_scan_is_in_order_and_limited_to_its_prefix(group: Path) -> None:
    home = json.loads((group / "cluster.json").read_text())["sites"][0]["home"]
    for key in ("q/b", "q/a", "r/a"):
        zrep("put", key, key.upper(), "-H", home)
    assert zrep("scan", "q/", "-H", home).stdout == "q/a\tQ/A\nq/b\tQ/B\n"
    lines = zrep("scan", "q/", "-H", home, "--json").stdout.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["q/a", "q/b"]


def test_status_shows_every_site(whom: tuple[str, str]) -> None:
    lines = zrep("status", *whom).stdout.splitlines()
    assert lines[0].split()[:4] == ["SITE", "ADDRESS", "ROLE", "MEMBER"]
    assert sorted(line.split()[2] for line in lines[1:4]) == ["client", "client", "master"]
    said = json.loads(zrep("status", *whom, "--json").stdout)
    assert len(said["sites"]) == 3
    assert said["master"]["address"] in {site["address"] for site in said["sites"]}


def test_nobody_there_is_exit_3_and_says_so() -> None:
    result = zrep("put", "a", "b", "-C", "tcp://127.0.0.1:1", "--timeout-ms", "300")
    assert result.returncode == 3
    assert "tcp://127.0.0.1:1" in result.stderr
    assert result.stderr.count("\n") == 1
