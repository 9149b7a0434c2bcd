"""`zrep node`: what it says while it runs, how it ends, and one clear sentence for each wrong start."""

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.processes import local_addresses
from tests.cli.command import COMMAND, zrep
from zrep.errors import ZrepError

FREE = "tcp://127.0.0.1:0"


@contextmanager
def running(*arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """A node in the foreground, ready; its first line is in `args`."""
    with subprocess.Popen(
        [*COMMAND, "node", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: "subprocess.Popen[str]") -> str:
    """Return the first line a node prints: that it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ZrepError(process.stderr.read() if process.stderr else "it said nothing")
    return line


def address_of(process: "subprocess.Popen[str]") -> str:
    return first_line(process).rpartition("address=")[2].strip()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_that_it_is_ready_and_ends_cleanly(tmp_path: Path, signum: signal.Signals) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        ready = first_line(process)
        assert ready.startswith("zrep node: ready site=")
        assert "address=tcp://127.0.0.1:" in ready
        process.send_signal(signum)
        said, complained = process.communicate(timeout=20)
    assert (process.returncode, complained) == (0, "")
    assert said.endswith("zrep node: stopped\n")


def test_its_changes_are_json_if_asked(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create", "--json") as process:
        first_line(process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert [json.loads(line)["event"] for line in said.splitlines()][-1] == "stopped"


def test_it_says_what_durability_the_group_has(tmp_path: Path) -> None:
    """It is the founder's choice, whatever a site that joins asks for."""
    with running(tmp_path / "a", "--bind", FREE, "--create", "--set", "durability=process") as founder:
        address = address_of(founder)
        with running(tmp_path / "b", "--bind", FREE, "--join", address, "--set", "durability=sync") as joined:
            assert " durability=process " in first_line(joined)


def test_a_restart_needs_neither_create_nor_join(tmp_path: Path) -> None:
    for arguments in (["--create"], [], []):
        with running(tmp_path / "a", "--bind", FREE, *arguments) as process:
            address = address_of(process)
            put = zrep("put", "IBM", "142.30", "-C", address)
            assert put.returncode == 0, put.stderr
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Start a node that must not start; return its exit code and its one sentence."""
    result = zrep("node", *arguments)
    assert result.stdout == ""
    assert result.stderr.startswith("zrep: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.returncode, result.stderr


def test_a_new_home_must_be_told_to_create_or_to_join(tmp_path: Path) -> None:
    code, sentence = refused(tmp_path / "a", "--bind", FREE)
    assert code == 2
    assert "create" in sentence
    assert "join" in sentence


@pytest.mark.parametrize("address", ["pigeon://roof", "tcp://127.0.0.1:99999", "127.0.0.1:7001", "tcp://127.0.0.1"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    code, sentence = refused(tmp_path / "a", "--bind", address, "--create")
    assert code == 2
    assert address in sentence


def test_an_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    code, sentence = refused(tmp_path / "a", "--bind", "tcp://0.0.0.0:0", "--create")
    assert code == 2
    assert "insecure" in sentence


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, sentence = refused(tmp_path / "a", "--bind", address, "--create")
    assert code == 2
    assert f"cannot bind {address}: it is in use" in sentence


def test_a_home_in_use_is_refused_with_the_pid(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        first_line(process)
        code, sentence = refused(tmp_path / "a", "--bind", FREE)
    assert code == 5
    assert str(process.pid) in sentence


def test_a_join_that_nobody_answers_names_who_was_asked(tmp_path: Path) -> None:
    dead = local_addresses(2)
    code, sentence = refused(
        tmp_path / "a", "--bind", FREE, "--join", dead[0], "--join", dead[1], "--timeout-ms", "500"
    )
    assert code == 4
    assert all(address in sentence for address in dead)


def test_a_home_of_another_group_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "b", "--bind", FREE, "--create") as other:
        theirs = address_of(other)
        with running(tmp_path / "a", "--bind", FREE, "--create") as process:
            first_line(process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        code, sentence = refused(tmp_path / "a", "--bind", FREE, "--join", theirs)
    assert code in (2, 4)
    assert "group" in sentence


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("not a home")
    code, sentence = refused(tmp_path / "a", "--bind", FREE, "--create")
    assert code in (2, 5)
    assert str(tmp_path / "a") in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, sentence = refused(tmp_path / "a", "--bind", FREE, "--create")
    assert code in (2, 5)
    assert str(tmp_path) in sentence


def test_a_home_from_a_newer_format_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        first_line(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    meta = bytearray((tmp_path / "a" / "site.meta").read_bytes())
    struct.pack_into("<I", meta, len(b"ZREPMETA"), 99)
    (tmp_path / "a" / "site.meta").write_bytes(meta)
    code, sentence = refused(tmp_path / "a", "--bind", FREE)
    assert code == 5
    assert "format 99" in sentence
