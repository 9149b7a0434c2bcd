"""The engine: the one thread that feeds the machine and performs its effects.

It owns the log, the LMDB write transaction, all sockets and the timers. One turn:

    poll ─► arrivals ─► calls ─► writes ─► timers ─► effects: meta, early sends, ONE flush, sends ─► apply, answer

Application threads hand it work through one inbox with one wake-up and wait on a ticket. A put, end to end:
its child transaction merges into the open group (`writing`); when no writer waits, and nobody who was just
answered is on the way back (`tickets`), the group is sealed into a record, published and flushed; when a
majority holds it, it is committed and its writers are answered (`commits`). What the machine decides is
`replica`'s business, never this file's.
"""

import atexit
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from zrep import codec
from zrep.bus.arrivals import Arrival, ClientRequest, Connected, ConnectFailed, Disconnected, DuplicateSite
from zrep.commit import Batch, CommitResult
from zrep.commits import Commits
from zrep.errors import (
    DiskFullError,
    NoMasterError,
    NotMasterError,
    ProtocolError,
    StorageError,
    ZrepError,
)
from zrep.events import ConnectBroken, ConnectEstd, ConnectTryFailed, Event, InqueueFull, Panic, StorageFailed
from zrep.forwarding import POLICIES, Forwarding, reply_to
from zrep.ids import Gen, GroupId, Lsn, Nanoseconds, Position, SiteId
from zrep.inqueue import COME_BACK, Inqueue
from zrep.messages import Forward, ForwardReply, Message, Status, Type
from zrep.options import MILLISECOND, AckPolicy, Options
from zrep.ports import Log, MetaFile
from zrep.reads import AppliedWait, AppliedWaits, Reads
from zrep.records import Member
from zrep.replica.replica import Replica, Role
from zrep.storage.store import Store
from zrep.threads import check_may_wait, engines, refuse_to_wait
from zrep.tickets import Awaited, Callback, Returning, Ticket, Wait
from zrep.writing import Write, Writing

ARRIVALS_PER_TURN = 256
MAINTENANCE_MS = 10_000
APPLY_MS = 5
"""So long a client may leave what is permanent unapplied while records keep coming and nobody waits for them."""

_T = TypeVar("_T")


class Transport(Protocol):
    """What the engine needs of a bus. `bus.Bus` over ZeroMQ, or `solo.Solo` for a site on its own."""

    group: GroupId

    def wake(self) -> None: ...
    def poll(self, timeout_ms: int | None) -> None: ...
    def receive(self, now: Nanoseconds, limit: int) -> list[Arrival]: ...
    def send(self, message: Message) -> bool: ...
    def reply(self, route: bytes, reply: codec.Reply) -> None: ...
    def seed(self, endpoint: str) -> None: ...
    def members(self, members: Iterable[Member]) -> None: ...
    def tick(self, now: Nanoseconds) -> None: ...
    def deadline(self) -> Nanoseconds | None: ...
    def close(self) -> None: ...


class Call(NamedTuple):
    """Something that another thread wants done on the engine's."""

    run: Callable[[], None]
    refuse: Callable[[Exception], None]
    """Called instead when the engine stops first."""


class Engine:
    """The thread of one environment and everything that only this thread touches."""

    def __init__(
        self,
        *,
        replica: Replica,
        log: Log,
        metafile: MetaFile,
        store: Store,
        transport: Transport,
        options: Options,
        name: str,
        on_event: Callable[[Event], None],
        on_request: "Callable[[Engine, ClientRequest], None] | None" = None,
    ) -> None:
        self.replica = replica
        self.log = log
        self.store = store
        self.transport = transport
        self.options = options
        self.failure: ZrepError | None = None
        """Why the site stopped; None while it runs."""
        self._metafile = metafile
        self._on_event = on_event
        self._on_request = on_request
        self._site: SiteId = replica.state.site
        self._logger = logging.getLogger(f"zrep.engine.{name}")
        self._thread = threading.Thread(target=self._run, name=f"zrep-engine-{name}", daemon=True)
        self._fate: dict[str, bool] = {}
        """Whether the thread "runs", said once: by itself as it begins, or by who stops the engine before that."""
        self._running = threading.Lock()
        """Held until the thread has closed everything. After Ctrl-C in a join the next one would not wait."""
        self._running.acquire()
        self._pid = os.getpid()
        self._stopping = False
        self._asleep = False
        self._woken = False
        """Whether somebody called `wake` since the inbox was last looked at, asleep or not."""
        self._closed = False
        """Set before the inbox is emptied for the last time: who puts something in later empties it himself."""
        self._calls: deque[Call] = deque()
        self._new_writes: deque[Write] = deque()

        self.inqueue = Inqueue(options.inqueue_bytes, self._filled)
        self._returning = Returning(self._returned)
        self._commits = Commits(replica, self._site, self._returning.wake)
        self._writing = Writing(
            replica=replica,
            log=log,
            store=store,
            commits=self._commits,
            returning=self._returning,
            options=options,
            wake=self._wake_to_write,
        )
        self.writers = self._writing.writers
        seeds = random.SystemRandom()
        self._forwarding = Forwarding(replica, options, lambda: f"{seeds.getrandbits(128):032x}", self.run)
        self._reads = Reads(replica, options, seeds.getrandbits(48))
        self._applied_waits = AppliedWaits()
        self._maintenance_at: Nanoseconds = 0
        self._due: Nanoseconds = 0
        """Nothing of the engine's own is due before: see `_own_deadline`."""
        self._stirred = False
        """Whether something happened in this turn that may have set an earlier one."""
        self._apply_at: Nanoseconds | None = None
        """When a client applies what it has left for later."""
        self._config = replica.config
        self._followed: tuple[Gen, Role, bool] = (0, Role.CLIENT, False)
        """What the last `_advance` acted on: the gen, our part in it, and whether its master is heard."""

    # Life.

    def start(self) -> None:
        """Start the thread. It is a daemon and stops itself at exit, so that a forgotten close hangs nothing.

        Who is interrupted in here calls `stop`: the thread may have begun, or be about to.
        """
        atexit.register(self.stop)
        self._thread.start()

    def stop(self) -> None:
        """End the thread: what waits is told, the log is flushed, everything is closed. Idempotent.

        May be interrupted, and called again. Nothing in a forked child, which has the parent's wake-up and none
        of its threads.
        """
        if self._pid == os.getpid():
            if not self._stopping:
                self._stopping = True
                self.wake()
            if not self._fate.setdefault("runs", False):
                if not self._closed:
                    self._close()
            elif threading.current_thread() is not self._thread:
                with self._running:
                    pass
        atexit.unregister(self.stop)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def wake(self) -> None:
        """Make the engine look at its inbox; any thread. Costs nothing while it is awake."""
        self._woken = True
        if self._asleep:
            self._asleep = False
            self.transport.wake()

    def _wake_to_write(self) -> None:
        """As `wake`; at a master not while somebody is on the way back: the last of them does it."""
        if not self._returning or self.replica.role is not Role.MASTER or self._writing.unfit:
            self.wake()

    def _returned(self) -> None:
        """Nobody who was answered is away any more; who came meanwhile has woken nobody."""
        if self._new_writes or self._writing.waits:
            self.wake()

    # What other threads ask of it.

    def call(self, function: Callable[[], _T]) -> _T:
        """Run `function` on the engine's thread and return what it returns."""
        if threading.current_thread() is self._thread:
            return function()
        check_may_wait()
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._post(run, future.set_exception)
        return future.result()

    def _post(self, run: Callable[[], None], refuse: Callable[[Exception], None]) -> None:
        if self._stopping:
            raise self._refusal()
        self._calls.append(Call(run, refuse))
        self._inbox_changed(self.wake)

    def _inbox_changed(self, wake: Callable[[], None]) -> None:
        if self._closed:
            self._refuse_inbox()
        elif self._asleep or not self._woken:
            wake()

    def _refuse_inbox(self) -> None:
        """Tell whoever asked for something that nobody will do it. Any thread, several at once."""
        error = self._refusal()
        for call in _taken(self._calls):
            call.refuse(error)
        for write in _taken(self._new_writes):
            write.ticket.reject(error)

    def _refusal(self) -> ZrepError:
        if self.failure is not None:
            return StorageError(f"the site has stopped: {self.failure}")
        return ZrepError("the environment is closed: open it again")

    def wait(self, acks: AckPolicy | None, timeout_ms: int | None) -> Wait:
        """Make a ticket to block on; its time runs from now. Raises ZrepError on an engine's thread."""
        if threading.get_ident() in engines:
            refuse_to_wait()
        return Wait(acks or self.options.ack_policy, self.until(timeout_ms), self._returning)

    def awaited(self, acks: AckPolicy | None, timeout_ms: int | None) -> Awaited:
        """Make a ticket that has a future; its time runs from now."""
        return Awaited(acks or self.options.ack_policy, self.until(timeout_ms))

    def until(self, timeout_ms: int | None) -> Nanoseconds:
        """Return when that time from now is over; None: that of the option `ack_timeout_ms`."""
        timeout = self.options.ack_timeout_ms if timeout_ms is None else timeout_ms
        return time.monotonic_ns() + timeout * MILLISECOND

    def submit(self, batch: Batch, ticket: Ticket) -> None:
        """Run a batch at the master, which may be another site; wait while too much is queued here.

        Raises NotAppliedError when that takes until the ticket's deadline.
        """
        while not self.submit_at_once(batch, ticket):
            self.inqueue.await_room(ticket)

    def submit_at_once(self, batch: Batch, ticket: Ticket) -> bool:
        """As `submit`, but return False instead of waiting."""
        if self._stopping:
            raise self._refusal()
        try:
            if not self.inqueue.enter(ticket, batch.nbytes):
                return False
            self._new_writes.append(Write(batch, ticket))
        except BaseException:
            self.inqueue.retract(ticket)
            raise
        self._inbox_changed(self._wake_to_write)
        return True

    def _filled(self) -> None:
        full = InqueueFull(self.inqueue.nbytes)
        self._calls.append(Call(lambda: self._emit(full), lambda _: None))
        self._inbox_changed(self.wake)

    def wait_applied(self, position: Position, deadline: Nanoseconds) -> None:
        """Block until the store has applied up to that record. Raises NoMasterError at the deadline."""
        check_may_wait()
        wait = AppliedWait(position.lsn, deadline, Future())
        self._post(lambda: self._applied_waits.append(wait), wait.done.set_exception)
        wait.done.result()

    def read_index(self, deadline: Nanoseconds) -> Lsn:
        """Return an LSN that holds everything acknowledged before now, at any site (R23).

        Raises NoMasterError at the deadline.
        """
        check_may_wait()
        future: Future[Lsn] = Future()
        self._post(lambda: self._reads.begin(deadline, future, time.monotonic_ns()), future.set_exception)
        return future.result()

    # The loop.

    def _run(self) -> None:
        if not self._fate.setdefault("runs", True):
            return  # it was stopped before it began
        engines.add(threading.get_ident())
        try:
            self._turn_until_stopped()
        except DiskFullError as error:
            stops = DiskFullError(f"{error} and start the site again").with_traceback(error.__traceback__)
            self._fail(stops, StorageFailed(str(stops)))
        except (StorageError, OSError) as error:
            self._fail(error, StorageFailed(str(error)))
        except BaseException as error:  # whatever ends the thread ends the site, and says so
            self._fail(error, Panic(f"{type(error).__name__}: {error}"))
        finally:
            try:
                self._close()
            finally:
                engines.discard(threading.get_ident())
                self._running.release()

    def _turn_until_stopped(self) -> None:
        now = time.monotonic_ns()
        self.replica.state.wall_ms = time.time_ns() // MILLISECOND
        self.replica.start(now)
        self._perform(now)
        while not self._stopping:
            deadline = self._deadline()
            self._sleep(deadline)
            now = time.monotonic_ns()
            self._turn(now, now >= deadline)

    def _turn(self, now: Nanoseconds, due: bool) -> None:
        """Do what there is to do. `due`: a deadline has passed; otherwise nobody needs to look at the time."""
        replica = self.replica
        replica.state.wall_ms = time.time_ns() // MILLISECOND
        arrivals = self.transport.receive(now, ARRIVALS_PER_TURN)
        for arrival in arrivals:
            self._take_in(now, arrival)
        if self._calls or self._new_writes:
            self._take_inbox(now)
        if self._can_advance(now):
            self._advance(now)
        self.transport.tick(now)
        if due:
            replica.tick(now, drained=len(arrivals) < ARRIVALS_PER_TURN)
        self._perform(now)
        if self._can_advance(now):
            self._advance(now)
        self._commits.settle(self.store.applied.tip.lsn)
        if self._reads:
            self._reads.settle()
        if self._applied_waits:
            self._applied_waits.settle(self.store.applied.tip.lsn)
        if due or self._stirred:
            self._tick(now)
            self._due, self._stirred = self._own_deadline(), False
        elif self._writing.waits:
            self._due = min(self._due, self._writing.expire_at)
        if replica.pending:
            self._perform(now)
            if self._can_advance(now):
                self._woken = True  # what it has moved on is for the next turn, at once
        self._returning.watch(now)

    def _sleep(self, deadline: Nanoseconds) -> None:
        """Wait for a socket, a wake-up or the deadline; not at all while something is queued."""
        self._asleep = True
        if not (self._woken or self._stopping or self._writing.can_run):
            left = deadline - time.monotonic_ns()
            self.transport.poll(max(-(-left // MILLISECOND), 0))
        self._asleep = self._woken = False

    def _deadline(self) -> Nanoseconds:
        """Return when somebody next needs to look at the time; perhaps too early, never too late."""
        deadline = self._due
        for at in (
            self.replica.state.timers.deadline,
            self.transport.deadline(),
            self._commits.deadline,
            self.store.checkpoints.deadline,
            self._apply_at,
            self._returning.deadline,
        ):
            if at is not None and at < deadline:
                deadline = at
        return deadline

    def _own_deadline(self) -> Nanoseconds:
        """Return the earliest deadline of what comes through the inbox, and of housekeeping."""
        waits = (self._forwarding.deadline, self._reads.deadline, self._applied_waits.deadline)
        return min(self._maintenance_at, *self._writing.deadlines, *(at for at in waits if at is not None))

    def _take_in(self, now: Nanoseconds, arrival: Arrival) -> None:
        if isinstance(arrival, Message):
            self.replica.receive(now, arrival)
        elif isinstance(arrival, ClientRequest):
            self._stirred = True
            if self._on_request is not None:
                self._on_request(self, arrival)
        elif isinstance(arrival, Connected):
            self._emit(ConnectEstd(arrival.site))
            self.replica.connected(now, arrival.site)
        elif isinstance(arrival, Disconnected):
            self._emit(ConnectBroken(arrival.site, arrival.reason))
            self.replica.disconnected(now, arrival.site)
        elif isinstance(arrival, ConnectFailed):
            self._emit(ConnectTryFailed(*arrival))
        else:
            assert isinstance(arrival, DuplicateSite)
            self.replica.duplicate(now, arrival.site)

    def _tick(self, now: Nanoseconds) -> None:
        """The engine's own deadlines; after everything that arrived has had its effect."""
        if (self._commits.deadline or now) < now:
            self._commits.settle(self.store.applied.tip.lsn, now)
        if self._forwarding:
            self._forwarding.tick(now)
        self._reads.tick(now)
        self._applied_waits.tick(now)
        self._writing.expire(now)
        self._writing.revoke_forgotten(now)
        self.store.checkpoint(now, self._checkpointed)
        if now >= self._maintenance_at:
            self._maintenance_at = now + MAINTENANCE_MS * MILLISECOND
            self.store.env.reader_check()
            if self.options.retain_bytes:
                self.log.trim(min(self.replica.keep, self.store.checkpoints.tip.lsn), self.options.retain_bytes)

    def _checkpointed(self) -> None:
        """A checkpoint is made, or failed. Called by the thread that made it."""
        self._post(self.store.checkpoints.collect, lambda _: None)

    def _flush(self) -> None:
        """Flush the log as the group does, whatever this site was started with.

        For real, too, while a checkpoint does not hold the configuration in force: who votes, and that the log
        need not have been flushed, is what a start after a crash of the operating system asks the disk first.

            1  the disk says that this site votes alone, and the log does not reach the disk
            2  others become voters: that record is acknowledged by them, and not flushed here
            3  the power goes: a start that believes 1 is a master beside theirs
        """
        state = self.replica.state
        self.log.sync = state.config.sync or state.config_lsn > self.store.checkpoints.tip.lsn
        self.log.flush()

    def _perform(self, now: Nanoseconds) -> None:
        """Perform the machine's effects, in the order of `replica.effects`: persist, then speak."""
        sends: list[Message] = []
        events: list[Event] = []
        work: list[Message] = []
        while True:
            effects = self.replica.take()
            if effects.meta is not None:
                self._metafile.save(effects.meta)
                self.transport.group = effects.meta.group
            for message in effects.early:
                self.transport.send(message)
            sends += effects.sends
            events += effects.events
            work += effects.work
            if not self.log.dirty:
                break
            self._flush()
            self.replica.persisted(now)
        for message in sends:
            self.transport.send(message)
        if self.replica.state.config is not self._config:
            self._config = self.replica.state.config
            self.transport.members(self._config.members)
        for event in events:
            self._emit(event)
        if work:
            self._stirred = True
            for message in work:
                self._work(now, message)
            self._returning.wake()
            self._perform(now)

    def _emit(self, event: Event) -> None:
        self._logger.info("%s", event)
        self._on_event(event)

    def _take_inbox(self, now: Nanoseconds) -> None:
        """Do what other threads ask."""
        for _ in range(len(self._calls)):
            self._stirred = True
            self._calls.popleft().run()
        self._sort_writes(now)

    # Writes: run here, or forwarded.

    def _can_advance(self, now: Nanoseconds) -> bool:
        """Whether the machine, or a writer, has moved on since the last `_advance`."""
        state = self.replica.state
        if (state.gen, state.role, state.hears_master) != self._followed or self._writing.can_advance:
            return True
        return state.perm != self.store.applied.tip.lsn and not self._applies_later(now)

    def _applies_later(self, now: Nanoseconds) -> bool:
        """Whether a client leaves permanent records for a moment: more is coming, one transaction takes all of it."""
        state = self.replica.state
        if state.role is Role.MASTER or state.perm == self.log.tip.lsn or self._applied_waits:
            return False
        if self._apply_at is None:
            self._apply_at = now + APPLY_MS * MILLISECOND
        return now < self._apply_at

    def _advance(self, now: Nanoseconds) -> None:
        """Move on what is written and applied."""
        self._apply_at = None
        state = self.replica.state
        followed = (state.gen, state.role, state.hears_master)
        if followed != self._followed:
            self._followed = followed
            self._stirred = True
            self._master_changed()
        self._writing.advance(now, self._not_master)

    def _not_master(self) -> ZrepError:
        member = self.replica.config.member(self.replica.master)
        if member is None:
            return NotMasterError("this site is a client and no master is known: see `zrep status`")
        address = member.endpoints[0] if member.endpoints else None
        return NotMasterError(
            f"this site is a client: begin write transactions at the master, {address or member.site}, "
            f"or use put, delete and write, which forward",
            member.site,
            address,
        )

    def _sort_writes(self, now: Nanoseconds) -> None:
        """Take new writes from the inbox: a master runs them, a client forwards them."""
        new = self._new_writes
        if self.replica.role is Role.MASTER:
            self._writing.add([new.popleft() for _ in range(len(new))])
        else:
            self._stirred = True
            for _ in range(len(new)):
                write = new.popleft()
                self._forwarding.add(write.batch, write.ticket, now)

    def run(self, batch: Batch, session: str, seq: int, ticket: Ticket) -> None:
        """Run a request of a session, or of a foreign program; on the engine's thread, at the master."""
        self._writing.add([Write(batch, ticket, session, seq)])

    def _master_changed(self) -> None:
        """Somebody else is master, or nobody: what waits to run here is sent to where it belongs."""
        if self.replica.role is Role.MASTER:
            return
        self.writers.refuse(self._not_master)
        for write in self._writing.take_queue():
            if write.session:
                write.ticket.reject(NoMasterError("this site is not master any more"))
            else:
                self._forwarding.add(write.batch, write.ticket, self.replica.state.now)

    def _work(self, now: Nanoseconds, message: Message) -> None:
        """Messages that ask something of the engine."""
        fields = message.fields
        if message.type is Type.FORWARD:
            self._on_forward(now, message, fields)
        elif message.type is Type.FORWARD_REPLY:
            self._forwarding.on_reply(message, fields)
        elif message.type is Type.JOIN_REPLY:
            for endpoint in fields.endpoints:
                self.transport.seed(endpoint)
        elif message.type is Type.READ_REQ:
            self._reads.serve(message, fields, now)
        elif message.type is Type.READ:
            self._reads.on_answer(message, fields)

    def _on_forward(self, now: Nanoseconds, message: Message, fields: Forward) -> None:
        def answer(result: CommitResult | None, error: Exception | None) -> None:
            reply, data = reply_to(fields.session, fields.seq, result, error)
            lsn = result.token.lsn if result is not None and result.token is not None else 0
            self.replica.send(message.sender, reply, lsn=lsn, data=data)

        if self.replica.role is not Role.MASTER:
            reply = ForwardReply(fields.session, fields.seq, Status.REDIRECT)
            self.replica.send(message.sender, reply)
            return
        policy = POLICIES[fields.acks] if 0 <= fields.acks < len(POLICIES) else self.options.ack_policy
        ticket = Callback(policy, now + fields.deadline_ms * MILLISECOND, answer)
        if self.inqueue.full:
            ticket.reject(NoMasterError(COME_BACK))
            return
        try:
            batch = codec.decode_batch(message.data)
        except ProtocolError as error:
            ticket.reject(error)
            return
        self.inqueue.enter(ticket, batch.nbytes)
        self.run(batch, fields.session, fields.seq, ticket)

    # The end.

    def _fail(self, error: BaseException, event: Event) -> None:
        """Stop the site: nothing that the step that failed was to make durable has been promised."""
        self.failure = error if isinstance(error, ZrepError) else StorageError(str(error) or type(error).__name__)
        self._stopping = True
        self._logger.error("%s", event, exc_info=error)
        self._on_event(event)

    def _close(self) -> None:
        """Tell everybody who waits, and let go of everything."""
        self._stopping = True
        self._returning.close()
        failure = self._refusal()
        self._writing.stop(failure, failed=self.failure is not None)
        self._commits.settle(self.store.applied.tip.lsn)
        self._commits.abandon()
        self._forwarding.abandon(failure)
        self._reads.abandon(failure)
        self._applied_waits.abandon(failure)
        self._closed = True
        self.inqueue.close()
        self._refuse_inbox()
        self.transport.close()


def _taken(queue: "deque[_T]") -> Iterator[_T]:
    """Take what is in the queue, each thing once, however many threads do."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return
