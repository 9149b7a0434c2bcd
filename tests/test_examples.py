"""Every example runs, and prints what it says it does."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zrep

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A client of a group of two, so that a program must find the master."""
    homes = tmp_path_factory.mktemp("homes")
    with (
        zrep.Site(homes / "a", bind="tcp://127.0.0.1:0", create=True) as a,
        zrep.Site(homes / "b", bind="tcp://127.0.0.1:0", join=a.address) as b,
    ):
        b.wait_for_master()
        yield b.address


def run(name: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_three_sites() -> None:
    said = run("three_sites.py")
    assert re.fullmatch(
        r"at b: b'142.30'\nthe master was a and is [bc] at gen [2-9]\nat the new master: b'143.05'\n", said
    )


def test_foreign_client(address: str) -> None:
    said = run("foreign_client.py", address)
    assert re.fullmatch(r"held by [12] sites\nIBM is 142.30\nkeys: \['IBM'\]\nasked a master\n", said)


def test_a_foreign_program_imports_nothing_of_ours() -> None:
    source = (EXAMPLES / "foreign_client.py").read_text(encoding="utf-8")
    assert "zrep" not in re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert len(source.partition('"""\n\nimport')[2].splitlines()) <= 50


def test_bank(address: str) -> None:
    assert run("bank.py", address).endswith("together: 500\n")


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")} - {"__init__.py"}
