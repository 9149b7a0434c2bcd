"""`zrep node`: what it says while it runs, how it ends, and one clear sentence for each wrong start."""

import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cli import main, node
from cli.processes import local_addresses, wait_until
from tests.cli.command import COMMAND, zrep
from zrep import events
from zrep.errors import ZrepError
from zrep.ids import Lsn, SiteId

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


def test_a_full_disk_for_the_output_ends_no_site(tmp_path: Path) -> None:
    """Everybody's output is lost; the master is killed, and the others have much to say about that."""
    addresses = local_addresses(3)
    with ExitStack() as stack:
        full = stack.enter_context(open("/dev/full", "w"))
        nodes = []
        for number, address in enumerate(addresses):
            role = ["--join", addresses[0]] if number else ["--create"]
            command = [*COMMAND, "node", str(tmp_path / str(number)), "--bind", address, *role]
            nodes.append(subprocess.Popen(command, stdout=full, stderr=full))
            stack.callback(nodes[-1].wait, 20)
            stack.callback(nodes[-1].kill)
            wait_until(lambda: votes(addresses[0]) == len(nodes), 20, "the site did not become a voter")
        nodes[0].kill()
        for address in addresses[1:]:
            put = zrep("put", "IBM", "142.30", "-C", address, "--timeout-ms", "20000")
            assert put.returncode == 0, put.stderr
        for survivor in nodes[1:]:
            survivor.terminate()
            assert survivor.wait(20) == 0


def votes(address: str) -> int:
    """Return how many voters a site knows."""
    said = zrep("status", "-C", address, "--json")
    return sum(site["member"] == "voter" for site in json.loads(said.stdout)["sites"]) if said.stdout else 0


def test_a_reader_that_leaves_ends_no_site(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        address = address_of(process)
        assert process.stdout is not None
        process.stdout.close()
        with running(tmp_path / "b", "--bind", FREE, "--join", address) as other:
            first_line(other)
            assert zrep("put", "IBM", "142.30", "-C", address).returncode == 0
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_group(tmp_path: Path, signum: signal.Signals) -> None:
    (nobody,) = local_addresses(1)
    with running(tmp_path / "a", "--bind", FREE, "--join", nobody, "--timeout-ms", "600000") as process:
        wait_until((tmp_path / "a" / "site.sock").exists, 20, "it does not listen")
        process.send_signal(signum)
        said, complained = process.communicate(timeout=20)
    assert (process.returncode, said, complained) == (0, "zrep node: stopped\n", "")


@pytest.mark.parametrize("where", ["--bind", "--advertise"])
def test_who_joins_itself_is_told_so(tmp_path: Path, where: str) -> None:
    (own,) = local_addresses(1)
    arguments = ["--bind", own] if where == "--bind" else ["--bind", FREE, "--advertise", own]
    said = zrep("node", str(tmp_path / "a"), *arguments, "--join", own, "--timeout-ms", "300")
    assert said.returncode == 4
    assert f"cannot join at {own}, this site's own address" in said.stderr


ENDS = [
    (events.StorageFailed("no space"), 5, "the site stopped: no space"),
    (events.Panic("a bug"), 1, "please report it: a bug"),
    (events.Diverged(Lsn(7)), 5, "start it again: it joins its group as a new site"),
    (events.DuplicateSite(SiteId("us")), 5, "another process runs as this site, from a copy of home"),
    (events.JoinFailure("the group removed this site: join with a new home"), 4, "the group removed this site"),
    (events.LocalSiteRemoved(), 4, "the group removed this site"),
]


@pytest.mark.parametrize(("change", "code", "sentence"), ENDS, ids=lambda value: getattr(value, "name", None))
def test_what_a_site_cannot_get_over_ends_it_in_a_sentence(change: events.Event, code: int, sentence: str) -> None:
    error = node._end(change, SiteId("us"), Path("home"))
    assert error is not None
    found, said = main.explain(error)
    assert found == code
    assert sentence in said


def test_what_happens_to_others_is_news() -> None:
    assert node._end(events.DuplicateSite(SiteId("them")), SiteId("us"), Path("home")) is None
    assert node._end(events.SiteRemoved(SiteId("them")), SiteId("us"), Path("home")) is None
    assert str(events.JoinFailure("so it is")) == "JOIN_FAILURE reason=so it is"


def test_a_site_whose_copy_speaks_says_so_and_ends(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        first_line(process)
        process.terminate()
        process.communicate(timeout=20)
    shutil.copytree(tmp_path / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    with running(tmp_path / "a", "--bind", FREE) as process:
        address = address_of(process)
        with running(tmp_path / "copy", "--bind", FREE, "--join", address):
            said, complained = process.communicate(timeout=20)
    assert process.returncode == 5
    assert "zrep node: DUPLICATE_SITE" in said
    assert complained.startswith("zrep: another process runs as this site, from a copy of")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
def test_a_full_disk_stops_the_site_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path / "a", "--bind", FREE, "--create") as process:
        address = address_of(process)
        assert zrep("put", "IBM", "142.30", "-C", address).returncode == 0
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
        assert zrep("put", "IBM", "142.31", "-C", address, "--timeout-ms", "1000").returncode != 0
        _, complained = process.communicate(timeout=20)
    assert process.returncode == 5
    assert complained.splitlines()[-1].startswith("zrep: the site stopped: no space ")
    assert complained.endswith(", nothing was lost: free some and start the site again\n")
    with running(tmp_path / "a", "--bind", FREE) as process:
        address = address_of(process)
        assert zrep("put", "IBM", "142.32", "-C", address).returncode == 0


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


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="nobody tells the limits of another process")
def test_it_may_open_as_many_files_as_the_system_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with running(tmp_path / "a", "--bind", FREE, "--create") as process:
            first_line(process)
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("limit", [16, 20, 24])
def test_too_few_files_are_refused_with_advice(tmp_path: Path, limit: int) -> None:
    limited = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *COMMAND]
    result = subprocess.run(
        [*limited, "node", tmp_path / "a", "--bind", FREE, "--create"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith("zrep: too many open files: allow this process more (`ulimit -n 4096`")
    assert result.stderr.count("\n") == 1, result.stderr


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
    assert "--create" in sentence
    assert "--join" in sentence
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("address", ["pigeon://roof", "tcp://127.0.0.1:99999", "127.0.0.1:7001", "tcp://127.0.0.1"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    code, sentence = refused(tmp_path / "a", "--bind", address, "--create")
    assert code == 2
    assert address in sentence


def test_a_path_that_is_not_text_is_refused(tmp_path: Path) -> None:
    code, sentence = refused(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), "--bind", FREE, "--create")
    assert code == 2
    assert "is not UTF-8" in sentence


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
