"""The documents are true: the Python of each runs, block after block, as one program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def programs() -> list[Path]:
    return [path for path in sorted(DOCS.glob("*.md")) if "```python" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("document", programs(), ids=lambda path: path.stem)
def test_the_python_of_a_document_runs(document: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_links_lead_somewhere() -> None:
    for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
