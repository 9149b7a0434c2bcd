"""A site of a group: the Replication Manager over ZeroMQ.

`Site` puts a home, a bus and an engine together and takes them apart again; it founds or joins a group,
tells what happens, and answers who is who. Everything else is done by what it holds.
"""

import os
import random
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from zrep.bus.bus import Bus
from zrep.dispatch import Dispatcher
from zrep.endpoints import IPC_LIMIT
from zrep.engine import Engine
from zrep.environment import Absent, Environment
from zrep.errors import ForkError, JoinFailedError, NoMasterError, OptionError, ZrepError
from zrep.events import ConnectEstd, ConnectTryFailed, Event, JoinFailure
from zrep.ids import VERSION, SiteId
from zrep.opening import Ending, Opened
from zrep.options import MILLISECOND, Options
from zrep.records import Member
from zrep.replica.replica import Replica, Role
from zrep.service import serve, status
from zrep.storage.home import is_unused
from zrep.threads import check_may_wait

if TYPE_CHECKING:
    import zmq

JOIN_TIMEOUT_MS = 10_000
LOOK_UP_S = 0.5
"""Python sees no signal that came just before it began to wait: so long at most until it does."""
KNOWN_TIMEOUT_MS = 1000
"""How long a member that was told to join again listens for a refusal before it starts all the same."""
_FORKED = "the site was started before a fork and is the parent's: fork before starting it, or spawn the process"
_sites: "weakref.WeakSet[Site]" = weakref.WeakSet()


class SiteInfo(NamedTuple):
    """A member of the group, as this site sees it (Berkeley DB: DB_REPMGR_SITE)."""

    site: SiteId
    address: str | None
    role: str
    """"voter", "learner" or "view"."""
    priority: int
    connected: bool
    is_self: bool


class Site:
    """One member of a replicated group, in this process (Berkeley DB: repmgr_start).

    >>> with zrep.Site("home/a", bind="tcp://127.0.0.1:7001", create=True) as site:
    ...     site.env.put(b"IBM", b"142.30")

    `bind` (one URI or a list) is where this site listens, `advertise` where others reach it if not there.
    A new home needs `create=True` (found a group) or `join=[…]` (addresses of its sites); a restart needs
    neither. Of equally up-to-date sites the one with the highest `priority` is elected; 0: never.
    `context` shares the application's ZeroMQ context, `socket_hook(socket, purpose)` sees every socket
    before it binds or connects. Several sites in one process are fine. In a forked child a running site
    stays the parent's: leaving it does nothing there, any other use raises ForkError.
    """

    def __init__(
        self,
        home: str | Path,
        bind: str | Sequence[str],
        *,
        advertise: str | Sequence[str] | None = None,
        publish: str | None = None,
        create: bool = False,
        join: str | Sequence[str] = (),
        priority: int = 100,
        options: Options | None = None,
        context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
        socket_hook: "Callable[[zmq.Socket[bytes], str], None] | None" = None,
    ) -> None:
        self.home = Path(home)
        self._bind = _listed(bind)
        self._advertise = None if advertise is None else _listed(advertise)
        self._publish = publish
        self._create = create
        self._join = _listed(join)
        self._priority = priority
        self._options = options if options is not None else Options.from_environ()
        self._context = context
        self._socket_hook = socket_hook
        self._dispatcher = Dispatcher(f"zrep-events-{self.home.name}")
        self._opened: Opened | None = None
        self._engine: Engine | None = None
        self._env: Environment | None = None
        self._ending = Ending()
        self._forked = False
        if not self._bind:
            raise OptionError("bind names no address: give one, for example tcp://127.0.0.1:7001")
        if create and self._join:
            raise OptionError("create founds a group and join enters one: give one of them")
        if not 0 <= priority <= 1_000_000:
            raise OptionError(f"priority={priority} is out of range: use 0 (never master) to 1000000")
        _sites.add(self)

    # Life.

    def start(self, timeout_ms: int = JOIN_TIMEOUT_MS) -> "Site":
        """Open the home, listen, and take part; a new site returns when its group has admitted it.

        Raises OptionError, StorageError, HomeInUseError for what is wrong here, and JoinFailedError when
        no group admitted this site within `timeout_ms`; everything is closed again then.
        """
        if self._forked:
            raise ForkError(_FORKED)
        if self._engine is not None:
            raise ZrepError("this site is started already")
        if not (self._create or self._join) and is_unused(self.home):
            raise self._belongs_nowhere()  # and nothing was made there
        try:
            self._opened = opened = Opened(self.home, self._options)
            self._engine = engine = self._make_engine(opened)
            self._env = Environment(engine, opened, self.home)
            engine.start()
            if self._needs_join(engine.replica):
                engine.call(lambda: engine.replica.join(time.monotonic_ns()))
            self._wait_until_admitted(timeout_ms)
        except BaseException:
            self.stop()
            raise
        return self

    def _make_engine(self, opened: Opened) -> Engine:
        """Bind, found the group if asked to, and put together what will run."""
        meta = opened.meta
        if not (meta.group or meta.seeds or self._create or self._join):
            raise self._belongs_nowhere()
        now = time.monotonic_ns()
        rng = random.SystemRandom()
        bus = Bus(
            bind=self._bind,
            local=self._local_endpoint(opened),
            publish=self._publish,
            advertise=self._advertise,
            site=meta.site,
            incarnation=opened.home.incarnation,
            group=meta.group,
            insecure=self._options.insecure,
            rng=rng,
            context=self._context,
            socket_hook=self._socket_hook,
            software=f"zrep {VERSION}",
        )
        try:
            if self._create:
                opened.found(time.time_ns(), priority=self._priority, endpoints=bus.endpoints, publish=bus.publish)
            elif self._join and not meta.group:
                opened.save(meta._replace(seeds=self._join))
            meta = opened.meta
            bus.group = meta.group
            replica = Replica(
                meta=meta,
                incarnation=opened.home.incarnation,
                log=opened.log,
                applied=opened.store.applied,
                options=self._options,
                rng=rng,
                now=now,
                priority=self._priority,
                endpoints=bus.endpoints,
                publish=bus.publish,
            )
            bus.members(replica.config.members)
            for endpoint in self._join or meta.seeds:
                bus.seed(endpoint)
            return Engine(
                replica=replica,
                log=opened.log,
                metafile=opened.home.metafile,
                store=opened.store,
                transport=bus,
                options=self._options,
                name=self.home.name,
                on_event=self._dispatcher.put,
                on_request=serve,
            )
        except BaseException:
            bus.close()
            raise

    def _belongs_nowhere(self) -> OptionError:
        return OptionError(
            f"{self.home} belongs to no group: found one by --create (in a program: create=True), "
            "or enter one by --join URI (join=[URI])"
        )

    def _local_endpoint(self, opened: Opened) -> str | None:
        """Where processes of this host reach the site: `ipc://HOME/site.sock`, if the path is not too long."""
        path = str(opened.home.socket_path)
        return f"ipc://{path}" if len(path.encode()) <= IPC_LIMIT else None

    def _needs_join(self, replica: Replica) -> bool:
        """Whether the group does not list this site, or not at the address where it is now."""
        member = replica.config.member(replica.state.site)
        if member is None:
            return True
        now = (replica.state.endpoints, replica.state.publish, replica.state.priority)
        return replica.config.voters != (member.site,) and (member.endpoints, member.publish, member.priority) != now

    def _wait_until_admitted(self, timeout_ms: int) -> None:
        """Wait until the group lists this site. One that is listed already only listens for a refusal."""
        engine = self._running
        replica = engine.replica
        listed = self._is_listed(replica)
        if listed and not self._join:
            return
        reasons: dict[str, str] = {}
        answered = False
        deadline = time.monotonic() + (min(timeout_ms, KNOWN_TIMEOUT_MS) if listed else timeout_ms) / 1000
        with self._dispatcher.subscribe(history=True) as events:
            while not (self._is_listed(replica) and (answered or not listed)):
                left = deadline - time.monotonic()
                event = events.get(min(max(left, 0), LOOK_UP_S))
                if engine.failure is not None:
                    raise engine.failure
                if event is None:
                    if left > 0:
                        continue
                    if listed:
                        return
                    raise self._nobody_admits(answered, replica.join_text, reasons, timeout_ms)
                if isinstance(event, JoinFailure):
                    raise JoinFailedError(f"cannot join: {event.reason}")
                if isinstance(event, ConnectTryFailed):
                    if event.refused:
                        raise JoinFailedError(f"cannot join {event.endpoint}: {event.reason}")
                    reasons[event.endpoint] = event.reason
                answered = answered or isinstance(event, ConnectEstd)

    def _is_listed(self, replica: Replica) -> bool:
        return bool(replica.state.meta.group) and replica.config.member(replica.state.site) is not None

    def _nobody_admits(self, answered: bool, text: str, reasons: dict[str, str], timeout_ms: int) -> JoinFailedError:
        if text:
            return JoinFailedError(f"cannot join, the group does not admit this site: {text}")
        if self._join and {*self._join} <= {*self._bind, *(self._advertise or ())}:
            return JoinFailedError(
                f"cannot join at {self._join[0]}, this site's own address: give that of another site of the group"
            )
        tried = ", ".join(f"{endpoint} ({reasons.get(endpoint, 'no answer')})" for endpoint in self._join)
        if answered:
            return JoinFailedError(
                f"cannot join: the group answered but did not admit this site within {timeout_ms} ms: "
                f"check with `zrep status` that it has a master and a majority"
            )
        return JoinFailedError(
            f"cannot join, nobody answered at {tried or 'the addresses that this home knows'} within "
            f"{timeout_ms} ms: check the address, and that a site of the group runs there"
        )

    def stop(self) -> None:
        """Leave cleanly and close everything; the other sites notice at once. Idempotent; nothing in a forked child.

        Who comes while another thread stops it waits for that. After Ctrl-C in here call it again. Raises ZrepError
        in a future's callback, which runs on the thread that is to end.
        """
        if self._forked:
            return
        check_may_wait()
        self._ending.run(self._stop)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
        if self._opened is not None:
            self._opened.close()
        self._engine = self._opened = None
        self._dispatcher.close()

    def __enter__(self) -> "Site":
        return self if self._engine is not None and not self._forked else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Who is who.

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            raise ZrepError("this site is not started: call start(), or use it in a with statement")
        return self._engine

    @property
    def env(self) -> Environment:
        """The site's environment; writes made here are forwarded to the master when this site is not."""
        if self._env is None:
            raise ZrepError("this site is not started: call start(), or use it in a with statement")
        return self._env

    @property
    def site(self) -> SiteId:
        """This site's id."""
        return self._running.replica.state.site

    @property
    def address(self) -> str:
        """Where the others reach this site; the real port where 0 was asked for."""
        return self._running.replica.state.endpoints[0]

    @property
    def role(self) -> str:
        """ "master" or "client"."""
        return self._running.replica.role.value

    @property
    def master(self) -> SiteInfo | None:
        """The master, while it is heard; None while nobody is."""
        return next((info for info in self.sites() if info.site == self._running.replica.master), None)

    def sites(self) -> list[SiteInfo]:
        """List the members of the group (Berkeley DB: repmgr_site_list, which leaves out the local one)."""
        replica = self._running.replica
        return [self._info(replica, member) for member in replica.config.members]

    def _info(self, replica: Replica, member: Member) -> SiteInfo:
        is_self = member.site == replica.state.site
        return SiteInfo(
            member.site,
            next(iter(member.endpoints), None),
            member.role.name.lower(),
            member.priority,
            is_self or member.site in replica.up,
            is_self,
        )

    def stat(self) -> dict[str, Any]:
        """Return the site's state and its view of the group, as plain values (Berkeley DB: rep_stat)."""
        engine = self._running
        return engine.call(lambda: status(engine))

    def wait_for_master(self, timeout_ms: int = 5000) -> SiteInfo:
        """Block until a master is known that can make writes permanent. Raises NoMasterError after `timeout_ms`."""
        with self._dispatcher.subscribe() as events:
            deadline = time.monotonic_ns() + timeout_ms * MILLISECOND
            while True:
                master = self.master
                if master is not None and (
                    self._running.replica.role is Role.CLIENT or self._running.replica.authoritative
                ):
                    return master
                left = deadline - time.monotonic_ns()
                if left <= 0:
                    raise NoMasterError(f"no master within {timeout_ms} ms: see `zrep status` for who is missing")
                events.get(min(left / 1e9, 0.01))

    # What happens.

    def on_event(self, function: Callable[[Event], None]) -> None:
        """Call `function` with every event from now on, on the dispatcher's thread, one at a time."""
        self._dispatcher.add(function)

    def events(self) -> Iterator[Event]:
        """Iterate over the events from now on, until the site stops."""
        return iter(self._dispatcher.subscribe())

    # A fork.

    def forked(self) -> None:
        """Become unusable: this process is a child, and everything here is its parent's.

        A site that does not run is nobody's yet. The locks may have been held by threads that this process has not.
        """
        if self._opened is None:
            return
        self._forked = True
        self._engine = self._dispatcher = Absent(lambda: ForkError(_FORKED))  # type: ignore[assignment]


def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _after_fork() -> None:
    for site in list(_sites):
        site.forked()


os.register_at_fork(after_in_child=_after_fork)
