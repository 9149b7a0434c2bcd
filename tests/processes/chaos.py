"""Everything at once: kills, stops, cuts, one-way silence and resets, under load, then a reckoning.

`python -m tests.processes.chaos --seconds 600 --seed 7` runs it for long (`make soak`); the seed decides the
faults, not the interleaving. Three sites, a network between them; in each site's process two workloads
through its environment, outside three through the remote client. At the end all are killed and started
again, and what they hold is compared with what everybody was told:

    the sites are equal; nothing acknowledged is missing, nothing refused is there;
    every register is linearizable, and the transactions on lists are strictly serializable.
"""

import argparse
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

from cli import group
from cli.processes import Node
from cli.status import ask
from tests.processes.harness import Cluster
from tests.processes.history import History
from tests.processes.proxy import Network
from tests.processes.workload import STOP, Remote, Workload


class Nemesis:
    """Does the harm, and undoes it."""

    def __init__(self, cluster: Cluster, network: Network, rng: random.Random, longest_s: float) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._network = network
        self._rng = rng
        self._longest_s = longest_s
        self._stopped: list[Node] = []

    def round(self) -> None:
        """Do one to three kinds of harm, one after the other, wait a little, and undo it all."""
        harms: list[Callable[[], None]] = [self._kill, self._kill, self._stop, self._cut, self._silence, self._reset]
        for harm in self._rng.sample(harms, self._rng.choice((1, 1, 2, 3))):
            harm()
            self._pause(0.2)
        self._pause(self._longest_s * self._rng.random() ** 2)
        self.heal()

    def _pause(self, longest_s: float) -> None:
        time.sleep(longest_s * self._rng.random())

    def _victim(self) -> Node:
        """Return a site, half of the time the master."""
        running = [node for node in self._cluster.nodes if node not in self._stopped]
        masters = [node for node in running if ask(node.address).get("role") == "master"]
        return self._rng.choice(masters if masters and self._rng.random() < 0.5 else list(self._cluster.nodes))

    def _kill(self) -> None:
        victims = list(self._cluster.nodes) if self._rng.random() < 0.1 else [self._victim()]
        self.done["kills"] += len(group.kill(victims))
        self._pause(0.5)
        for node in self._cluster.nodes:
            if not node.running:
                self._cluster.start(node)

    def _stop(self) -> None:
        node = self._victim()
        if node.signal(signal.SIGSTOP):
            self._stopped.append(node)
            self.done["stops"] += 1

    def _cut(self) -> None:
        self._network.cut(self._rng.sample([(1, 2), (1, 3), (2, 3)], self._rng.choice((1, 2))))
        self.done["cuts"] += 1

    def _silence(self) -> None:
        self._network.stall(self._rng.sample(list(permutations((1, 2, 3), 2)), self._rng.randrange(1, 5)))
        self.done["silences"] += 1

    def _reset(self) -> None:
        self._network.reset()
        self.done["resets"] += 1

    def heal(self) -> None:
        for node in self._stopped:
            node.signal(signal.SIGCONT)
        self._stopped.clear()
        self._network.heal()


class Chaos:
    """One run, in a directory of its own."""

    def __init__(self, directory: Path, seed: int, longest_s: float) -> None:
        self.histories = directory / "histories"
        self.histories.mkdir(parents=True)
        self._rng = random.Random(seed)
        self._longest_s = longest_s
        self._directory = directory

    def run(self, seconds: float) -> tuple[History, Counter[str]]:
        """Do it for so long, then judge it. Raises AssertionError or pytest's failure for what is wrong."""
        network = Network()
        try:
            with Cluster(self._directory, network=network, histories=self.histories) as cluster:
                nemesis = Nemesis(cluster, network, self._rng, self._longest_s)
                with ExitStack() as stack:
                    self._do_harm(seconds, cluster, nemesis, [self._client(cluster, stack, n) for n in range(3)])
                group.kill(cluster.nodes)
                cluster.restart(*cluster.nodes)
                cluster.await_level()
                return self._judge(cluster), nemesis.done
        finally:
            network.close()

    def _client(self, cluster: Cluster, stack: ExitStack, number: int) -> Workload:
        remote = Remote(cluster.addresses)
        stack.callback(remote.close)
        return Workload(remote, self.histories, f"client{number}")

    def _do_harm(self, seconds: float, cluster: Cluster, nemesis: Nemesis, clients: list[Workload]) -> None:
        """Let the clients work, and the nemesis; leave everything healed, and everybody at rest."""
        for client in clients:
            client.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                nemesis.round()
                if self._rng.random() < 0.5:
                    self._await_progress(cluster)
                self._check(cluster, clients)
            nemesis.heal()
            self._await_progress(cluster)
        finally:
            (self.histories / STOP).touch()
            for client in clients:
                client.join()
        self._check(cluster, clients)

    def _await_progress(self, cluster: Cluster) -> None:
        with cluster.client(20_000) as client:
            client.put(b"progress", b"")

    def _check(self, cluster: Cluster, clients: list[Workload]) -> None:
        """No site has stopped by itself, and no workload saw an error that is none of the promised ones."""
        for client in clients:
            if client.failure is not None:
                raise client.failure
        for node in cluster.nodes:
            said = node.log.read_text(errors="replace")
            assert not any(word in said for word in ("Traceback", "please report")), (
                f"site {node.index}: {said[-3000:]}"
            )

    def _judge(self, cluster: Cluster) -> History:
        history = History(self.histories)
        held, *others = cluster.contents()
        assert all(other == held for other in others), "the sites differ"
        wrong = history.wrong_puts(held)
        assert not wrong, f"{len(wrong)} writes are not what their writers were told, first {wrong[0]}"
        registers = history.wrong_registers(held)
        assert not registers, f"{len(registers)} registers are wrong, first {next(iter(registers.items()))}"
        lists = history.wrong_lists(held)
        assert not lists, f"{len(lists)} problems with lists, first {lists[0]}"
        return history


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill, stop and cut three loaded sites for a while, then judge them.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--longest", type=float, default=5.0, help="longest fault, in seconds")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="zrep-soak-"))
    print(f"seed {options.seed}, {options.seconds:g} s, in {directory}", flush=True)
    history, done = Chaos(directory, options.seed, options.longest).run(options.seconds)
    counts = ", ".join(f"{history.count(came)} {came}" for came in ("ok", "conflict", "failed", "unknown"))
    print(f"nothing lost: {counts}; {', '.join(f'{count} {what}' for what, count in sorted(done.items()))}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
