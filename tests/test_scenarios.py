"""Directed scenarios: each file of `scenarios/` is a script and everything it causes (`tests.sim.script`).

`pytest --rewrite` writes the outcome into the files; then read the difference. The checkers watch every
step, whatever the file says.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.script import Script

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def blocks(text: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the blocks between blank lines, and whether each has commands."""
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        yield lines, not all(line.startswith("#") for line in lines)


def play(text: str) -> str:
    """Return the scenario as it is when its outcome is what happens now."""
    script = Script()
    played = []
    for lines, has_commands in blocks(text):
        if not has_commands:
            played.append("\n".join(lines))
            continue
        commands = lines[: lines.index("----")] if "----" in lines else lines
        caused = [line for command in commands if not command.startswith("#") for line in script.run(command)]
        played.append("\n".join([*commands, "----", *caused]))
    script.stage.checkers.sweep()
    return "\n\n".join(played) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """What the script causes is what its file says."""
    text = path.read_text(encoding="utf-8")
    played = play(text)
    if request.config.getoption("--rewrite"):
        path.write_text(played, encoding="utf-8")
    else:
        assert played == text


def test_headers_name_their_rule() -> None:
    """The first line of a scenario says which rule, or which test of Berkeley DB, it answers."""
    for path in SCENARIOS:
        assert re.match(r"# ([RF]\d+|BDB rep)", path.read_text(encoding="utf-8")), path.name
