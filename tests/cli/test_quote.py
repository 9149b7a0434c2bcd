"""`zrep quote`: ex_repquote's prompt, in a pipe."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.processes import wait_until
from cli.status import ask
from tests.cli.command import COMMAND, zrep


@pytest.fixture
def homes(group: Path) -> tuple[str, str]:
    """The homes of the master and of a client."""
    sites = json.loads((group / "cluster.json").read_text())["sites"]
    roles = {ask(site["address"])["role"]: site["home"] for site in sites}
    return roles["master"], roles["client"]


def test_a_master_takes_quotes_and_shows_the_table(homes: tuple[str, str]) -> None:
    result = zrep("quote", "-H", homes[0], typed="ZREP 1.25\nwhat\n\nexit\n")
    prompt = "QUOTESERVER> "
    assert result.returncode == 1, "a line was malformed"
    assert result.stdout.startswith(
        f"{prompt}{prompt}Format: TICKER VALUE\n{prompt}\tSymbol\t\tPrice\n\t======\t\t=====\n"
    )
    assert "\tZREP\t\t1.25\n" in result.stdout
    assert result.stdout.endswith(f"\n\n{prompt}")


def test_a_symbol_that_is_no_key_is_refused_and_the_prompt_goes_on(homes: tuple[str, str]) -> None:
    result = zrep("quote", "-H", homes[0], typed=f"{'Z' * 512} 1\nOK 2\n\n")
    assert "Not stored: the key has 512 bytes: give one of 1 to 511\n" in result.stdout
    assert "\tOK\t\t2\n" in result.stdout
    assert result.returncode == 1


def test_a_client_is_read_only_and_names_the_master(homes: tuple[str, str]) -> None:
    result = zrep("quote", "-H", homes[1], typed="IBM 1\nquit\n")
    master = ask(f"ipc://{homes[0]}/site.sock")["address"]
    prompt = "QUOTESERVER (read-only)> "
    assert result.stdout == f"{prompt}Can't update at client: the master is {master}\n{prompt}"
    assert result.returncode == 0


def test_a_client_without_quotes_says_so(tmp_path: Path) -> None:
    with started(tmp_path, 2) as sites:
        client = next(site for site in sites if ask(site["address"])["role"] == "client")
        result = zrep("quote", "-H", client["home"], typed="\n")
        prompt = "QUOTESERVER (read-only)> "
        assert result.stdout == f"{prompt}No stock database yet available.\n{prompt}\n"


def test_the_prompt_changes_when_the_site_becomes_master(tmp_path: Path) -> None:
    with started(tmp_path, 3) as sites, ExitStack() as stack:
        master = next(site for site in sites if ask(site["address"])["role"] == "master")
        clients = [site for site in sites if site is not master]
        prompts = [stack.enter_context(quoting(site["home"])) for site in clients]
        assert zrep("cluster", "kill", str(master["index"]), tmp_path).returncode == 0
        wait_until(lambda: any(ask(site["address"]).get("role") == "master" for site in clients), 10, "no master")
        roles = [ask(site["address"])["role"] for site in clients]
        said = [process.communicate("\n", timeout=20)[0] for process in prompts]
        assert "QUOTESERVER> \n" in said[roles.index("master")]
        assert "QUOTESERVER> " not in said[roles.index("client")]


@contextmanager
def started(directory: Path, count: int) -> Iterator[list[dict[str, Any]]]:
    """A group of its own, as cluster.json describes it."""
    result = zrep("cluster", "start", str(count), directory)
    assert result.returncode == 0, result.stderr
    try:
        yield json.loads((directory / "cluster.json").read_text())["sites"]
    finally:
        zrep("cluster", "stop", directory)


@contextmanager
def quoting(home: str) -> Iterator["subprocess.Popen[str]"]:
    """A prompt at a client's home that waits for its first line."""
    with subprocess.Popen(
        [*COMMAND, "quote", "-H", home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(len("QUOTESERVER (read-only)> ")) == "QUOTESERVER (read-only)> "
            yield process
        finally:
            process.kill()
