"""`zrep demo`: three real site processes, a stream of real quotes, the master killed twice, and the proof.

A thread writes the quotes through the remote client and keeps the *ledger*: every write that was
acknowledged, and the gen of the master that did. The main thread tells the story: it kills masters while
writes are under way, starts the dead again, and in the end compares every site with the ledger key by
key, and the sites' logs with one another by their chain.
"""

import csv
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import group, output
from .processes import Node, wait_until
from .status import ask

if TYPE_CHECKING:
    from zrep.client import Client

SITES = 3
STRIKES = 2
PACE_S = 0.004
"""Between two quotes, so that the stream still flows when a dead site is back."""
PATIENCE_S = 15.0


def demo(json: output.Json = False) -> int:
    """Show fail-over with three sites. 560 quotes stream in, the master is killed twice, nothing is lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    story = Story(quiet=json)
    with tempfile.TemporaryDirectory(prefix="zrep-demo-") as directory:
        outcome = _play(Path(directory), story)
    if json:
        output.show_json(outcome)
    else:
        _conclude(outcome)
    return 0 if outcome["lost"] == 0 and outcome["rejoined"] and outcome["identical"] else 1


class Story:
    """Tells what happens, with the seconds since the start in front."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._start = time.monotonic()

    def tell(self, line: str) -> None:
        if not self._quiet:
            print(f"{time.monotonic() - self._start:6.2f} s  {line}", flush=True)


class Quote(NamedTuple):
    """A stock's price on a day."""

    symbol: bytes
    day: bytes
    price: bytes

    @property
    def key(self) -> bytes:
        return self.symbol + b"/" + self.day


class Entry(NamedTuple):
    """A line of the ledger: an acknowledged write, by the master of which gen, and when."""

    quote: Quote
    gen: int
    at: float


class Feed(threading.Thread):
    """Writes quotes one by one, each as one transaction of two keys, and keeps the ledger."""

    def __init__(self, client: "Client", quotes: Sequence[Quote]) -> None:
        super().__init__(name="feed", daemon=True)
        self.ledger: list[Entry] = []
        self._client = client
        self._quotes = quotes
        self._allowed = threading.Semaphore(0)
        self._failure: Exception | None = None

    def allow(self, count: int) -> None:
        """Let so many more quotes flow."""
        self._allowed.release(count)

    def run(self) -> None:
        from zrep import Batch, Error

        for quote in self._quotes:
            self._allowed.acquire()
            batch = Batch().put(quote.key, quote.price).put(quote.symbol, quote.price)
            try:
                token = self._client.write(batch).token
            except Error as error:
                self._failure = error
                return
            self.ledger.append(Entry(quote, token.gen if token else 0, time.monotonic()))
            time.sleep(PACE_S)

    def await_entries(self, count: int) -> None:
        """Wait until the ledger has so many entries. Raises what stopped the stream."""
        self._await(lambda: len(self.ledger) >= count)

    def await_gen_above(self, gen: int) -> Entry:
        """Wait for the first write that a master after `gen` acknowledges. Raises what stopped the stream."""
        self._await(lambda: bool(self.ledger) and self.ledger[-1].gen > gen)
        return next(entry for entry in self.ledger if entry.gen > gen)

    def _await(self, condition: Any) -> None:
        def holds() -> bool:
            if self._failure is not None:
                raise self._failure
            return bool(condition())

        wait_until(holds, PATIENCE_S, f"the stream of quotes stopped after {len(self.ledger)}")


def _play(directory: Path, story: Story) -> dict[str, Any]:
    """Run the whole story in `directory` and return its outcome; no process is left, however it ends."""
    import zrep

    quotes = list(read_quotes())
    nodes = group.founded(SITES, directory)
    with ExitStack() as stack:
        stack.callback(group.kill, nodes)
        story.tell(f"starting {SITES} sites, each a process with its own copy of the data")
        group.start(nodes)
        group.await_formed(nodes)
        for node in nodes:
            story.tell(f"  site {node.index} at {node.address} is {ask(node.address)['role']}, pid {node.pid}")
        client = zrep.connect(*(node.address for node in nodes), timeout_ms=int(PATIENCE_S * 1000))
        feed = Feed(client, quotes)
        feed.start()
        story.tell(f"{len(quotes)} stock quotes stream in; every acknowledged write is noted in a ledger")
        share = len(quotes) // (STRIKES + 1)
        feed.allow(share)
        failovers, rejoined = [], True
        for strike in range(1, STRIKES + 1):
            feed.allow(share)
            feed.await_entries(strike * share + 1)
            victim, pause_ms = _strike(nodes, feed, story)
            failovers.append(pause_ms)
            rejoined &= _revive(victim, nodes, story)
        feed.allow(len(quotes))
        feed.await_entries(len(quotes))
        story.tell(f"all {len(feed.ledger)} quotes are acknowledged; comparing the sites with the ledger")
        lost, identical = _compare(nodes, feed.ledger, story)
        client.close()
        group.stop(nodes)
    return {
        "sites": SITES,
        "acknowledged": len(feed.ledger),
        "lost": lost,
        "failover_ms": failovers,
        "rejoined": rejoined,
        "identical": identical,
    }


def _strike(nodes: Sequence[Node], feed: Feed, story: Story) -> tuple[Node, float]:
    """Kill the master in mid-stream; return it, and the time from the kill to the next acknowledged write."""
    master = next(node for node in nodes if ask(node.address).get("role") == "master")
    gen = feed.ledger[-1].gen
    struck = time.monotonic()
    master.signal(signal.SIGKILL)
    story.tell(f"{len(feed.ledger)} acknowledged; kill -9 of the master, site {master.index} (pid {master.pid})")
    entry = feed.await_gen_above(gen)
    pause_ms = round((entry.at - struck) * 1000, 1)
    heir = next(node for node in nodes if node.running and ask(node.address).get("role") == "master")
    story.tell(
        f"  site {heir.index} is master of gen {entry.gen}: it acknowledged a write {pause_ms} ms after the kill"
    )
    return master, pause_ms


def _revive(victim: Node, nodes: Sequence[Node], story: Story) -> bool:
    """Start a killed site again; return whether it caught up with the others in time."""
    begun = time.monotonic()
    group.kill([victim])
    victim.start()
    victim.await_ready()
    ends = [ask(node.address).get("perm", 0) for node in nodes if node is not victim]
    try:
        wait_until(lambda: bool(ask(victim.address).get("applied", 0) >= max(ends)), PATIENCE_S, "it is behind")
    except TimeoutError:
        story.tell(f"  site {victim.index} was started again and did NOT catch up: this is a bug, please report it")
        return False
    story.tell(f"  site {victim.index} was started again, rejoined and caught up in {time.monotonic() - begun:.2f} s")
    return True


def _compare(nodes: Sequence[Node], ledger: Sequence[Entry], story: Story) -> tuple[int, bool]:
    """Return how many acknowledged writes some site lacks, and whether all sites hold the same and nothing else."""
    level = True
    try:
        wait_until(lambda: len(_tips(nodes)) == 1, PATIENCE_S, "the sites are not level")
    except TimeoutError:
        level = False
    contents = [_contents(node) for node in nodes]
    expected = {entry.quote.key: entry.quote.price for entry in ledger}
    expected |= {entry.quote.symbol: entry.quote.price for entry in ledger}
    lost = sum(any(held.get(entry.quote.key) != entry.quote.price for held in contents) for entry in ledger)
    for node, held in zip(nodes, contents, strict=True):
        story.tell(f"  site {node.index}: {len(held)} keys, {'as' if held == expected else 'NOT as'} in the ledger")
    for lsn, chain in _tips(nodes):
        story.tell(f"  log: {lsn} records, chain {chain:08x}")
    return lost, level and all(held == expected for held in contents)


def _tips(nodes: Sequence[Node]) -> set[tuple[int, int]]:
    """Return the (LSN, chain) up to which each site has applied its log; equal ones are one."""
    answers = [ask(node.address) for node in nodes]
    return {(answer.get("applied", 0), answer.get("chain", 0)) for answer in answers}


def _contents(node: Node) -> dict[bytes, bytes]:
    import zrep

    with zrep.connect(node.address, roam=False) as client:
        return dict(client.scan())


def _conclude(outcome: dict[str, Any]) -> None:
    pauses = " and ".join(f"{pause:g} ms" for pause in outcome["failover_ms"])
    print(f"\n{outcome['acknowledged']} writes acknowledged, {outcome['lost']} lost; fail-over took {pauses}.")
    verdict = "identical" if outcome["identical"] else "NOT identical: this is a bug, please report it"
    print(f"The data and the logs of the {outcome['sites']} sites are {verdict}.")


def read_quotes() -> Iterator[Quote]:
    """Return the packaged quotes: monthly prices of five stocks."""
    source = resources.files("zrep_cli.examples").joinpath("quotes.csv")
    with source.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            day = datetime.strptime(row["date"], "%b %d %Y").date()
            yield Quote(row["symbol"].encode(), day.isoformat().encode(), row["price"].encode())
