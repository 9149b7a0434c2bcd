"""A group of nodes on this machine: founding it, starting it, waiting until it stands, stopping it."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .processes import Node, local_addresses, wait_until
from .status import ask

FORMED_S = 30.0
STOPPED_S = 10.0


def founded(count: int, directory: Path) -> list[Node]:
    """Return nodes for a new group with homes in `directory`; nothing runs yet."""
    directory.mkdir(parents=True, exist_ok=True)
    addresses = local_addresses(count)
    return [Node(index, str(directory / f"site-{index}"), address) for index, address in enumerate(addresses, 1)]


def start(nodes: Sequence[Node], *arguments: str, started: Callable[[], None] = lambda: None) -> None:
    """Start every node: the first founds the group and the others join it, unless they have done so.

    An earlier try may have come to an end anywhere between: who is of a group already is not harmed by being
    told again. `started` is called after each start of a process.
    """
    first, *others = nodes
    is_new = not any(Path(node.home).exists() for node in others)
    first.start(*arguments, *(["--create"] if is_new else []))
    started()
    if is_new:
        first.await_ready()
    for node in others:
        node.start(*arguments, "--join", first.address)
        started()
    for node in nodes:
        node.await_ready()


def await_formed(nodes: Sequence[Node]) -> None:
    """Wait until every site sees a master, and is connected to all, who are voters. Raises TimeoutError."""
    wait_until(lambda: is_formed(nodes), FORMED_S, f"the group did not form: see {nodes[0].log} and those beside it")


def is_formed(nodes: Sequence[Node]) -> bool:
    """Return whether every site sees a master, and is connected to all, who are voters."""
    answers = [ask(node.address) for node in nodes]
    return all(
        "error" not in answer
        and answer["master"] is not None
        and sum(member["role"] == "voter" and member["connected"] for member in answer["members"]) == len(nodes)
        for answer in answers
    )


def stop(nodes: Sequence[Node]) -> list[Node]:
    """End every node, cleanly if it does so in time; return those that were running."""
    stopping = [node for node in nodes if node.signal(signal.SIGTERM)]
    try:
        wait_until(lambda: not any(node.running for node in stopping), STOPPED_S, "not all stopped")
    except TimeoutError:
        kill(stopping)
    return stopping


def kill(nodes: Sequence[Node]) -> list[Node]:
    """Kill every node as a crash would, and wait for their ends; return those that were running."""
    dying = [node for node in nodes if node.signal(signal.SIGKILL)]
    wait_until(lambda: not any(node.running for node in dying), STOPPED_S, "a killed process does not end")
    return dying
