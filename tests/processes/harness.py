"""A group of real `zrep node` processes, and a writer that keeps a ledger of what was acknowledged."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import zrep
from cli import group
from cli.processes import Node, local_addresses, wait_until
from cli.status import ask
from tests.processes.proxy import Network
from zrep.errors import NotAppliedError, UnknownOutcomeError

ROOT = Path(__file__).parent.parent.parent
QUICK = ("--set", "election_timeout_ms=400", "--set", "quorum_timeout_ms=400", "--set", "heartbeat_ms=40")
"""Options that let tests of silence be short."""


def eventually(condition: Callable[[], Any], otherwise: str, timeout_s: float = 15.0) -> Any:
    """Poll until the condition is true, and return what it was. Fails with `otherwise` at the deadline."""
    found: list[Any] = [None]

    def holds() -> bool:
        found[0] = condition()
        return bool(found[0])

    try:
        wait_until(holds, timeout_s, otherwise)
    except TimeoutError as error:
        pytest.fail(str(error))
    return found[0]


@dataclass(slots=True)
class ProxiedNode(Node):
    """A node whose connections to the others go through the network."""

    publish: str = ""
    control: str = ""
    histories: str = ""
    """Where the site's own workloads, if it shall have some, write what they did."""

    def start(self, *arguments: str) -> None:
        launcher = "embedded" if self.histories else "launcher"
        through = [self.control, str(self.index), *filter(None, [self.histories])]
        self.command = (sys.executable, "-m", f"tests.processes.{launcher}", *through)
        Node.start(self, "--publish", self.publish, *arguments)


class Cluster:
    """Sites 1 to n on loopback, started and formed; with a `network`, all that they say goes through it."""

    def __init__(
        self, directory: Path, count: int = 3, *, network: Network | None = None, histories: Path | None = None
    ) -> None:
        self.nodes: Sequence[Node] = group.founded(count, directory)
        if network is not None:
            self.nodes = [_proxied(node, network, str(histories or "")) for node in self.nodes]
        try:
            group.start(self.nodes, *QUICK)
            group.await_formed(self.nodes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGCONT)
        group.kill(self.nodes)

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def client(self, timeout_ms: int = 15_000) -> zrep.Client:
        return zrep.connect(*self.addresses, timeout_ms=timeout_ms)

    def master(self, among: Iterable[Node] | None = None) -> Node:
        """Wait for a master, and return it; of two, the one of the higher gen."""

        def find() -> Node | None:
            answers = [(ask(node.address), node) for node in among or self.nodes if node.running]
            masters = [(answer["gen"], node.index) for answer, node in answers if answer.get("role") == "master"]
            return self.nodes[max(masters)[1] - 1] if masters else None

        found: Node = eventually(find, "no site became master")
        return found

    def others(self, node: Node) -> list[Node]:
        return [other for other in self.nodes if other is not node]

    def kill(self, *nodes: Node) -> None:
        group.kill(nodes)

    def start(self, *nodes: Node) -> None:
        for node in nodes:
            node.start(*QUICK)

    def restart(self, *nodes: Node) -> None:
        self.start(*nodes)
        for node in nodes:
            node.await_ready()

    def repair(self) -> None:
        """Make all sites run and know one another, whatever an earlier test has left."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
        self.restart(*(node for node in self.nodes if not node.running))
        group.await_formed(self.nodes)

    def await_level(self) -> None:
        """Wait until every site has applied the same log to its end."""

        def tips() -> bool:
            answers = [ask(node.address) for node in self.nodes]
            facts = {(a.get("gen"), a.get("end"), a.get("applied"), a.get("chain")) for a in answers}
            return len(facts) == 1 and all("error" not in a and a["end"] == a["applied"] for a in answers)

        eventually(tips, "the sites did not become equal")

    def contents(self) -> list[dict[bytes, bytes]]:
        """Return what each site holds, asked of itself."""
        held = []
        for node in self.nodes:
            with zrep.connect(node.address, timeout_ms=5000, roam=False) as client:
                held.append(dict(client.scan()))
        return held


class Acknowledged(NamedTuple):
    key: bytes
    value: bytes
    gen: int


class Writer(threading.Thread):
    """Puts one new key after the other and keeps the ledger; ends at `finish`."""

    _numbers = itertools.count(1)

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name=f"writer-{next(self._numbers)}")
        self.ledger: list[Acknowledged] = []
        self.unknown: list[bytes] = []
        self.failure: BaseException | None = None
        self._client = cluster.client()
        self._finished = threading.Event()

    def __enter__(self) -> "Writer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        number = 0
        while not self._finished.is_set():
            number += 1
            key, value = f"{self.name}/{number:06}".encode(), os.urandom(20).hex().encode()
            try:
                token = self._client.put(key, value).token
            except UnknownOutcomeError:
                self.unknown.append(key)
            except NotAppliedError:
                continue
            except zrep.Error as error:
                self.failure = error
                return
            else:
                self.ledger.append(Acknowledged(key, value, token.gen if token else 0))

    @property
    def gen(self) -> int:
        return self.ledger[-1].gen if self.ledger else 0

    def await_more(self, count: int = 20) -> None:
        """Wait until so many further writes are acknowledged."""
        goal = len(self.ledger) + count
        eventually(lambda: self._healthy() and len(self.ledger) >= goal, f"no {count} further writes were acknowledged")

    def await_gen_above(self, gen: int) -> None:
        """Wait until a master after `gen` acknowledges."""
        eventually(lambda: self._healthy() and self.gen > gen, f"no master after gen {gen} acknowledged a write")

    def _healthy(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return True


def assert_nothing_lost(cluster: Cluster, *writers: Writer) -> None:
    """Every acknowledged write is at every site, all sites hold the same, and nothing that nobody wrote."""
    cluster.await_level()
    held, *others = cluster.contents()
    assert all(other == held for other in others)
    for writer in writers:
        lost = [entry.key for entry in writer.ledger if held.get(entry.key) != entry.value]
        assert not lost, f"{len(lost)} of {len(writer.ledger)} acknowledged writes are lost, first {lost[0]!r}"
        mine = {key for key in held if key.startswith(writer.name.encode() + b"/")}
        assert mine <= {entry.key for entry in writer.ledger} | set(writer.unknown)


def _proxied(node: Node, network: Network, histories: str) -> ProxiedNode:
    (publish,) = local_addresses(1)
    network.site_by_address |= {node.address: node.index, publish: node.index}
    return ProxiedNode(
        node.index, node.home, node.address, publish=publish, control=network.control, histories=histories
    )
