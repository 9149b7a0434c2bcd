"""The ladder: who may import whom (and which foreign module may be imported where).

A module imports from lower rungs, from its own rung, or from its own package; `bus/`, `replica/` and
`storage/` never import one another. What is imported for type checking only does not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RUNGS = (
    {"zrep.ids", "zrep.errors", "zrep.threads"},
    {"zrep.messages", "zrep.records", "zrep.options", "zrep.events", "zrep.commit", "zrep.schema", "zrep.endpoints"},
    {"zrep.codec", "zrep.ports"},
    {"zrep.bus", "zrep.replica", "zrep.storage"},
    {"zrep.opening", "zrep.dispatch", "zrep.solo", "zrep.tickets", "zrep.inqueue"},
    {"zrep.commits", "zrep.forwarding", "zrep.reads", "zrep.writing"},
    {"zrep.engine", "zrep.service"},
    {"zrep.environment", "zrep.transaction", "zrep.cursor"},
    {"zrep.alone", "zrep.site", "zrep.client"},
    {"zrep"},
    {"cli"},
)
RUNG = {module: number for number, rung in enumerate(RUNGS) for module in rung}
SIBLINGS = {"zrep.bus", "zrep.replica", "zrep.storage"}

ONLY_IN = {
    "lmdb": {"zrep.storage", "zrep.transaction", "zrep.cursor", "zrep.environment", "zrep.errors", "zrep"},
    "zmq": {"zrep.bus", "zrep.client"},
    "msgpack": {"zrep.codec"},
    "typer": {"cli"},
    "rich": {"cli"},
}
PURE = {"zrep.replica", "zrep.messages", "zrep.records", "zrep.codec", "zrep.ports", "zrep.events"}
IMPURE = {"time", "random", "threading", "socket", "os", "zmq", "lmdb", "asyncio"}


def violations(package: str, module: str, source: str) -> Iterator[str]:
    """Name each import of `source` that the ladder forbids; `package` is the module's own rung's name."""
    if package not in RUNG:
        yield f"{module} has no rung: give it one in {Path(__file__).name}"
        return
    for line, target in _imports(module, ast.parse(source)):
        where = f"{module.replace('.', '/')}:{line} imports {target}"
        top = target.split(".")[0]
        if top in ("zrep", "cli"):
            other = _package(target)
            if other not in RUNG:
                yield f"{where}, which has no rung: give it one in {Path(__file__).name}"
            elif other != package and (RUNG[other] > RUNG[package] or {other, package} <= SIBLINGS):
                yield f"{where}, which is not below {package}"
        elif package not in ONLY_IN.get(top, {package}) or (package in PURE and top in IMPURE):
            yield f"{where}, which does not belong in {package}"


def _imports(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name if _package(name) in RUNG and base == "zrep" else base) for name in names)
        else:
            yield from _imports(module, node)


def _package(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "zrep" else parts[0]


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((*ROOT.glob("zrep/**/*.py"), *ROOT.glob("cli/**/*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts), path


def test_every_import_is_down_the_ladder() -> None:
    found: list[str] = []
    for module, path in _modules():
        package = _package(module.removesuffix(".__init__"))
        found += violations(package, module, path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def test_the_documents_picture_is_this_ladder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("## The ladder")[1].split("```")[1]
    drawn = [name.strip("/") for line in picture.splitlines() for name in line[:48].split()]
    modules = ["zrep" if name == "__init__" else name if name == "cli" else f"zrep.{name}" for name in drawn]
    for rung in reversed(RUNGS):
        assert set(modules[: len(rung)]) == rung
        del modules[: len(rung)]
    assert not modules


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("zrep.replica.election", "import time", "zrep/replica/election:1 imports time, which does not belong"),
        ("zrep.replica.acks", "def f():\n    from zrep.bus import Bus", "zrep/replica/acks:2 imports zrep.bus, which"),
        ("zrep.storage.log", "from ..engine import Engine", "zrep/storage/log:1 imports zrep.engine, which is"),
        ("zrep.engine", "import lmdb", "zrep/engine:1 imports lmdb, which does not belong in zrep.engine"),
        ("zrep.options", "from zrep import site", "zrep/options:1 imports zrep.site, which is not below zrep.options"),
        ("zrep.client", "import zrep.novelty", "zrep/client:1 imports zrep.novelty, which has no rung"),
    ],
)
def test_a_planted_violation_is_named(module: str, source: str, told: str) -> None:
    (found,) = violations(_package(module), module, source)
    assert found.startswith(told)


def test_type_checking_imports_do_not_count() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random"
    assert not list(violations("zrep.replica", "zrep.replica.replica", source))
