"""The README is true: its Python runs, its commands print what it shows, its table lists what exists."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import typer

from cli import main
from cli.processes import local_addresses, wait_until

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for tag, text in fenced if tag == language]


@pytest.fixture
def on_free_ports() -> Callable[[str], str]:
    """Replace the README's addresses by free ones."""
    free = dict(zip(("7001", "7002", "7003"), (address.rsplit(":")[-1] for address in local_addresses(3)), strict=True))

    def replaced(text: str) -> str:
        return re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda match: free[match[0]], text)

    return replaced


def test_the_python_runs(on_free_ports: Callable[[str], str], tmp_path: Path) -> None:
    (program,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", on_free_ports(program)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("b'142.30'\n", "")


def test_the_commands_do_what_is_shown(on_free_ports: Callable[[str], str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        for command, shown in transcript(on_free_ports("".join(blocks("console")))):
            arguments = [sys.executable, "-m", "zrep_cli", *command.split()[1:]]
            output = tmp_path / "output"
            if command.startswith("zrep node"):
                output = tmp_path / f"{command.split()[2]}.log"
                with output.open("wb") as log:
                    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=log, stderr=log)
                stack.callback(process.wait, 10)
                stack.callback(process.kill)
                wait_until(partial(has_said, output, b": ready"), 20, f"{command} is not ready")
            else:
                result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=30)
                output.write_text(result.stdout + result.stderr)
            pattern = r"[^\0]*".join(map(re.escape, shown.split("…")))
            assert re.match(pattern, output.read_text()), f"$ {command}\n{output.read_text()}"


def has_said(log: Path, words: bytes) -> bool:
    return words in log.read_bytes()


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command and what is shown under it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown.rstrip("\n")


def test_the_table_lists_the_commands_that_exist() -> None:
    table = README.partition("## Commands")[2].partition("\n\n`-C")[0]
    app = typer.main.get_command(main.app)
    commands: dict[str, object] = app.commands  # type: ignore[attr-defined]
    mentioned = set(re.findall(r"[`|·] ?`(?:zrep )?([a-z]+)", table))
    assert set(commands) <= mentioned
    assert mentioned <= {*commands, *commands["cluster"].commands}  # type: ignore[attr-defined]


def test_every_file_that_is_named_exists() -> None:
    root = Path(__file__).parent.parent
    layout = blocks("")[-1]
    for line in layout.splitlines():
        name = line.split()[0]
        assert (root / name).exists() or (root / "zrep" / name).exists(), name
