"""Scenarios: a world that moves only when a script says so, and says what that caused.

A file is a header comment and blocks: commands, `----`, and everything they caused; `pytest --rewrite`
writes the latter. Time stands still but for `run`; messages stay in flight until they are delivered;
disks answer at once unless held. Then every interleaving is a line of text.

    group a b c [a.priority=0] [option=value]   a formed group, all connected, nobody master
    found a / join b [replaces=c]    found a group of one / start an empty site that asks to be admitted
    elect a / submit a x y:99  rep_elect / writes of x and of y, y padded to 99 bytes
    inflight                   what is in flight
    deliver, drop or copy …    `all`, or what matches every word: `a>b` `a>` `>b` `TYPE`; `1` is the first
                               of them, `2` the second; `copy` delivers what may have been dropped by its connection
    misdeliver a TYPE to c     a site hears what is not for it
    hold a / flush a           a's disk takes no write / takes them again
    pause a / resume a         SIGSTOP / SIGCONT
    crash a [torn] / restart a  kill -9, and with `torn` a random part of what was not flushed stays
    lose a 4                   a crashed site's disk forgets every record above LSN 4, flushed or not
    cut a>b | cut a b / heal [a b]   messages stay in flight, nobody is told / no longer
    break a b / connect a b    the connection breaks and both are told / is made again
    run 50ms / watch 50ms      time passes, messages take 1 ms; tell events / and messages
    status [a] / log a         sites in a line each / a site's records as gen/lsn
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.sim.disk import Speed
from tests.sim.host import Host
from tests.sim.network import Channel, Network
from tests.sim.trace import describe_message, describe_record
from tests.sim.world import World, join
from zrep.events import Event
from zrep.ids import Lsn, SiteId
from zrep.messages import Message, Type
from zrep.options import MILLISECOND, Options
from zrep.ports import Meta
from zrep.replica.replica import Replica

TRAVEL = MILLISECOND
"""How long a message takes while time passes."""


class Flight(NamedTuple):
    """A message on its way; `number` tells copies apart."""

    number: int
    channel: Channel
    epoch: int
    message: Message

    def __str__(self) -> str:
        text = describe_message(self.message)
        return text if self.message.to is not None else text.replace(">*", f">{self.channel.dst}*", 1)


class StagedNetwork(Network):
    """Messages wait in `flights`; notices arrive at once, and connections survive cuts."""

    flights: list[Flight]
    flowing = False

    def _fly(self, channel: Channel, message: Message, in_order: bool) -> None:
        channel.flying += 1
        self._flown = getattr(self, "_flown", 0) + 1
        flight = Flight(self._flown, channel, channel.link.epoch, message)
        self.flights.append(flight)
        if self.flowing:
            self.ends.at(self.ends.now + TRAVEL, self._flow, flight)

    def flow(self, flowing: bool) -> None:
        """Let messages travel by themselves, or stop them."""
        self.flowing = flowing
        if flowing:
            for flight in self.flights:
                self.ends.at(self.ends.now + TRAVEL, self._flow, flight)

    def _flow(self, flight: Flight) -> None:
        if self.flowing and flight in self.flights and not self.is_stuck(flight):
            self.land(flight)

    def is_stuck(self, flight: Flight) -> bool:
        """Whether a message cannot arrive by itself: its way is cut, or its connection is gone."""
        channel = flight.channel
        link = channel.link
        return (channel.src, channel.dst) in link.cut or not link.up or flight.epoch != link.epoch

    def land(self, flight: Flight) -> None:
        """Deliver a message in flight; to nobody if its connection is gone."""
        self.flights.remove(flight)
        self._arrive(flight.channel, flight.epoch, flight.message)

    def heal(self, a: SiteId, b: SiteId) -> None:
        link = self.link(a, b)
        link.cut.clear()
        for whom, of in link.owed:
            self.ends.tell(whom, of, False)
        link.owed = []
        self.connect(a, b)

    def _tell(self, link: object, site: SiteId, peer: SiteId, connected: bool) -> None:
        self.ends.tell(site, peer, connected)

    def _redial(self, link: object, a: SiteId, b: SiteId) -> None:
        self.connect(a, b)


class Stage(World):
    """A world that a script drives; `told` is what has happened since it was last taken."""

    network: StagedNetwork

    def __init__(self) -> None:
        self.told: list[str] = []
        self.tells_messages = True
        super().__init__("scenario")

    def _make_network(self) -> Network:
        network = StagedNetwork(self, (), self.stream("net"))
        network.flights = []
        return network

    def send(self, host: Host, message: Message) -> None:
        if self.tells_messages:
            self.told.append(describe_message(message))
        super().send(host, message)

    def happened(self, host: Host, event: Event) -> None:
        self.told.append(f"{host.site}: {event}")
        super().happened(host, event)

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        self.run_until(self.now)


class Script:
    """Runs the commands of one scenario."""

    def __init__(self) -> None:
        self.stage = Stage()
        self._options = Options()
        names = (
            *("group", "found", "join", "elect", "submit", "inflight", "deliver", "drop", "copy", "misdeliver"),
            *("hold", "flush", "pause", "resume", "crash", "restart", "lose", "cut", "heal", "break", "connect"),
            *("run", "watch", "status", "log"),
        )
        self._commands: dict[str, Callable[..., None]] = {name: getattr(self, f"_{name}") for name in names}

    def run(self, line: str) -> list[str]:
        """Run one command and return what it caused."""
        name, *words = line.split()
        self._commands[name](*words)
        self.stage.settle()
        told, self.stage.told = self.stage.told, []
        return told

    def is_up(self, name: str) -> bool:
        """Tell whether a process runs at a site."""
        return self.stage.alive(SiteId(name))

    def _host(self, name: str) -> Host:
        return self.stage.hosts[SiteId(name)]

    def _tell(self, line: str) -> None:
        self.stage.told.append(line)

    # Groups and sites.

    def _group(self, *words: str) -> None:
        settings = dict(word.split("=") for word in words if "=" in word)
        priorities = {key.split(".")[0]: int(settings.pop(key)) for key in list(settings) if key.endswith(".priority")}
        sites = [SiteId(word) for word in words if "=" not in word]
        self._options = Options.from_mapping(settings, "scenario")
        for host in self.stage.add_group(sites, self._options, [priorities.get(site, 100) for site in sites]):
            host.disk.speed = Speed(0, 0)
        for site in sites:
            self.stage.boot(site)
        self.stage.settle()
        self._forget()

    def _forget(self) -> None:
        """Nobody wants to read how a group says hello."""
        self.stage.network.flights.clear()
        self.stage.told.clear()

    def _found(self, name: str) -> None:
        host = self.stage.add_founder(SiteId(name), self._options)
        host.disk.speed = Speed(0, 0)
        self.stage.boot(host.site)

    def _join(self, name: str, replaces: str = "replaces=") -> None:
        old = SiteId(replaces.removeprefix("replaces="))
        host = self.stage.add(Meta(SiteId(name), replaces=old), (), self._options)
        host.disk.speed = Speed(0, 0)
        self.stage.boot(host.site, join)

    def _elect(self, name: str) -> None:
        self._host(name).put("begin", Replica.elect)

    def _submit(self, name: str, *payloads: str) -> None:
        for payload in payloads:
            text, _, size = payload.partition(":")
            self._host(name).put("submit", text.encode().ljust(int(size or 0)))

    # Messages.

    def _inflight(self) -> None:
        for flight in self.stage.network.flights:
            self._tell(str(flight))

    def _deliver(self, *words: str) -> None:
        network = self.stage.network
        while chosen := [flight for flight in self._chosen(words) if not network.is_stuck(flight)]:
            for flight in chosen:
                network.land(flight)
                self.stage.settle()
            if words != ("all",):
                break

    def _drop(self, *words: str) -> None:
        for flight in self._chosen(words):
            self.stage.network.flights.remove(flight)

    def _copy(self, *words: str) -> None:
        for flight in self._chosen(words):
            self.stage.deliver(flight.message, flight.channel.dst)
            self.stage.settle()

    def _misdeliver(self, sender: str, kind: str, _to: str, receiver: str) -> None:
        flight = next(iter(self._chosen((f"{sender}>", kind))))
        self.stage.deliver(flight.message, SiteId(receiver))

    def _chosen(self, words: Iterable[str]) -> list[Flight]:
        """Return the messages in flight that every word matches."""
        chosen = list(self.stage.network.flights)
        words = [word for word in words if word != "all"]
        for word in words:
            src, arrow, dst = word.partition(">")
            if arrow:
                chosen = [f for f in chosen if src in ("", f.channel.src) and dst in ("", f.channel.dst)]
            elif not word.isdigit():
                chosen = [f for f in chosen if f.message.type is Type[word]]
        number = next((int(word) for word in words if word.isdigit()), 0)
        chosen = chosen[number - 1 : number] if number else chosen
        if not chosen and words:
            self._tell("nothing in flight matches")
        return chosen

    # Trouble.

    def _hold(self, name: str) -> None:
        self._host(name).disk.held = True

    def _flush(self, name: str) -> None:
        self._host(name).disk.held = False
        self._host(name).resume()

    def _pause(self, name: str) -> None:
        self._host(name).pause()

    def _resume(self, name: str) -> None:
        self._host(name).resume()

    def _crash(self, name: str, torn: str = "") -> None:
        self._host(name).disk.tears = bool(torn)
        self.stage.kill(SiteId(name))

    def _restart(self, name: str) -> None:
        self.stage.boot(SiteId(name))

    def _lose(self, name: str, lsn: str) -> None:
        self._host(name).disk.lose(int(lsn))
        self.stage.checkers.disks_forget = True

    def _cut(self, *words: str) -> None:
        a, b = (SiteId(name) for name in (words if len(words) == 2 else words[0].split(">")))
        self.stage.network.cut(a, b)
        if len(words) == 2:
            self.stage.network.cut(b, a)

    def _heal(self, *words: str) -> None:
        if words:
            self.stage.network.heal(SiteId(words[0]), SiteId(words[1]))
        else:
            self.stage.network.heal_all()

    def _break(self, a: str, b: str) -> None:
        if self.stage.network.link(SiteId(a), SiteId(b)).up:
            self.stage.network.sever(SiteId(a), SiteId(b))

    def _connect(self, a: str, b: str) -> None:
        self.stage.network.connect(SiteId(a), SiteId(b))

    # Time, and looking.

    def _run(self, duration: str) -> None:
        self.stage.tells_messages = False
        self._watch(duration)
        self.stage.tells_messages = True

    def _watch(self, duration: str) -> None:
        stage = self.stage
        stage.network.flow(True)
        stage.run_until(stage.now + int(duration.removesuffix("ms")) * MILLISECOND)
        stage.network.flow(False)

    def _status(self, *names: str) -> None:
        for host in [self._host(name) for name in names] or self.stage.hosts.values():
            self._tell(status(host))

    def _log(self, name: str) -> None:
        log = self._host(name).disk.log
        end: Lsn = log.tip.lsn
        self._tell(" ".join(describe_record(record) for record in log.read(log.first, end, 1 << 30)) or "empty")


def status(host: Host) -> str:
    """Return a site's state in a line."""
    log, meta = host.disk.log, host.disk.saved
    end = f"promise={meta.promise} end={log.tip.gen}/{log.tip.lsn} durable={log.durable}"
    if host.replica is None:
        return f"{host.site} down {end}"
    replica = host.replica
    return (
        f"{host.site} {replica.role.value} of {replica.master or '-'} gen={replica.gen} {end}"
        f" perm={replica.perm} applied={host.disk.store.applied.tip.lsn}"
    )
