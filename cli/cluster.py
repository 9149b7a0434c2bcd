"""`zrep cluster`: a local group of detached `zrep node` processes, remembered in DIR/cluster.json.

Decides nothing about replication: it starts, lists, stops and kills. Only processes that are provably
its own are signalled (`processes`).
"""

import json as jsonlib
import os
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from . import group, output
from .processes import PID_MAX, Node
from .status import alarms, ask

app = typer.Typer(help="Control a local group of sites. Each is a process of its own.", rich_markup_mode=None)

Directory = Annotated[
    Path, typer.Argument(metavar="[DIR]", envvar="ZREP_CLUSTER", help="The group's directory; else ZREP_CLUSTER, or .")
]
Index = Annotated[int, typer.Argument(metavar="I", min=1, help="Which site; the first is 1.")]


@app.command()
def start(
    count: Annotated[int, typer.Argument(metavar="N", min=1, max=9, help="How many sites.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where their homes go; made if need be.")],
    json: output.Json = False,
) -> None:
    """Start N sites, or again those of DIR. Returns when all are voters and one is master."""
    directory = directory.absolute()
    nodes = _load(directory) if (directory / "cluster.json").exists() else _founded(count, directory)
    if len(nodes) != count:
        raise _usage(f"{directory} has a group of {len(nodes)} sites: say {len(nodes)}, or another DIR")
    if any(node.running for node in nodes):
        raise _usage(f"sites of {directory} are running: see `zrep cluster status {directory}`")
    with ExitStack() as undo:
        undo.callback(group.kill, nodes)
        group.start(nodes, started=partial(_save, directory, nodes))
        group.await_formed(nodes)
        undo.pop_all()
    _show(nodes, json)


@app.command()
def status(directory: Directory = Path(), json: output.Json = False) -> None:
    """Show each site's process and state."""
    _show(_load(directory), json)


@app.command()
def stop(directory: Directory = Path(), json: output.Json = False) -> None:
    """Stop all sites cleanly. Their data stay, and `start` starts them again."""
    stopped = group.stop(_load(directory))
    _report(json, stopped=[node.index for node in stopped])


@app.command()
def kill(index: Index, directory: Directory = Path(), json: output.Json = False) -> None:
    """Kill site I with SIGKILL, as a crash would."""
    node = _pick(_load(directory), index, directory)
    if not group.kill([node]):
        raise _usage(f"site {index} is not running: `zrep cluster restart {index} {directory}` starts it")
    _report(json, killed=[index])


@app.command()
def restart(index: Index, directory: Directory = Path(), json: output.Json = False) -> None:
    """Start site I again. It is stopped first if it runs."""
    nodes = _load(directory)
    node = _pick(nodes, index, directory)
    group.stop([node])
    node.start()
    node.await_ready()
    _save(directory, nodes)
    _report(json, restarted=[index])


def _show(nodes: list[Node], json: bool) -> None:
    sites = [_description(node) for node in nodes]
    if json:
        output.show_json({"sites": sites})
        return
    columns = ("I", "PID", "ADDRESS", "STATE", "ROLE", "GEN", "END", "PERM", "APPLIED")
    keys = tuple(map(str.lower, columns))
    rows = [tuple("-" if site.get(key) is None else site[key] for key in keys) for site in sites]
    worrying = [number for number, site in enumerate(sites) if site["state"] != "running"]
    output.show_table(columns, rows, worrying + alarms([site | {"master": site.get("master")} for site in sites]))


def _description(node: Node) -> dict[str, Any]:
    known = {"i": node.index, "pid": node.pid, "address": node.address, "home": node.home}
    if not node.running:
        return known | {"pid": None, "state": "stopped"}
    answer = ask(node.address)
    return answer | known | {"state": "silent" if "error" in answer else "running"}


def _founded(count: int, directory: Path) -> list[Node]:
    """Return the nodes of a new group, remembered before the first is started: no kill may leave one unknown."""
    from zrep.errors import StorageError

    try:
        nodes = group.founded(count, directory)
    except (FileExistsError, NotADirectoryError):
        raise _usage(f"{directory} is a file, or lies below one: give another DIR") from None
    except OSError as error:
        raise StorageError(f"cannot make {directory}: {error.strerror}; correct that, or give another DIR") from None
    for node in nodes:
        if Path(node.home).exists():
            raise _usage(
                f"{directory} has the home {Path(node.home).name} but no cluster.json, which knew its address: start "
                f"its sites with `zrep node HOME --bind URI`, or give another DIR"
            )
    _save(directory, nodes)
    return nodes


def _load(directory: Path) -> list[Node]:
    path = directory / "cluster.json"
    try:
        nodes = [_remembered(site) for site in jsonlib.loads(path.read_text(encoding="utf-8"))["sites"]]
        if not nodes:
            raise ValueError("it has no sites")
    except FileNotFoundError:
        raise _usage(f"{directory.absolute()} has no cluster.json: `zrep cluster start 3 DIR` makes one") from None
    except OSError as error:
        raise _usage(f"cannot read {path}: {error.strerror}; give the DIR of a group") from None
    except (ValueError, TypeError, KeyError) as error:
        raise _usage(f"{path} is damaged ({error}): stop its nodes by hand and start a new group") from None
    return nodes


def _remembered(site: dict[str, Any]) -> Node:
    """Return a node of the file. Raises ValueError, TypeError or KeyError for one that nobody can have saved."""
    facts = {name: site[name] for name in _REMEMBERED}
    for name, kind in _REMEMBERED.items():
        if type(facts[name]) is not kind:
            raise ValueError(f"{name} is {facts[name]!r}")
    if not 0 <= facts["pid"] <= PID_MAX:
        raise ValueError(f"pid is {facts['pid']}")
    return Node(**facts)


def _save(directory: Path, nodes: list[Node]) -> None:
    from zrep.errors import StorageError

    remembered = [{name: getattr(node, name) for name in _REMEMBERED} for node in nodes]
    path = directory / "cluster.json"
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(jsonlib.dumps({"sites": remembered}, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; correct that and start again") from None


_REMEMBERED = {item.name: item.type for item in fields(Node)[:5]}


def _pick(nodes: list[Node], index: int, directory: Path) -> Node:
    for node in nodes:
        if node.index == index:
            return node
    raise _usage(f"{directory} has sites 1 to {len(nodes)}, not {index}")


def _report(json: bool, **done: list[int]) -> None:
    if json:
        output.show_json(done)
        return
    for what, indexes in done.items():
        print(f"{what}: {', '.join(map(str, indexes)) or 'none'}")


def _usage(message: str) -> Exception:
    from zrep.errors import OptionError

    return OptionError(message)
