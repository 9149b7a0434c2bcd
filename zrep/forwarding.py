"""Writes made at a client site, brought to the master until answered, at most once (R25).

Each write travels under a session of its own (session, seq): the master remembers the last one of every
session in the replicated state, so a repeat, also to the next master, finds what the first has done. A
session carries one write at a time, and goes on to another only after a success: after anything else a
copy of the write may still be on its way, and must not meet a different one under its name.

What one copy came to decides nothing while another may be elsewhere: "not applied" and "unknown" are
asked again, until a master knows, or time is up. When this site is the master itself, it runs them here.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zrep import codec
from zrep.commit import Batch, CommitResult, CommitToken
from zrep.errors import (
    ConflictError,
    NoMasterError,
    NotAppliedError,
    PermFailedError,
    TxnTooLargeError,
    UnknownOutcomeError,
    refusal,
)
from zrep.ids import Gen, Nanoseconds, Position, SiteId
from zrep.messages import TEXT_LIMIT, Forward, ForwardReply, Message, Status
from zrep.options import MILLISECOND, REPEATED_MS, AckPolicy, Options
from zrep.replica.replica import Replica, Role
from zrep.replica.timers import Backoff
from zrep.tickets import Callback, Ticket

POLICIES = tuple(AckPolicy)
"""An ack policy travels as its place in this tuple: the order is frozen."""


@dataclass(slots=True)
class Session:
    """A numbered line of writes, one at a time."""

    name: str
    seq: int = 1


@dataclass(slots=True)
class Pending:
    """A write that is not answered yet."""

    session: Session
    data: bytes
    ticket: Ticket
    backoff: Backoff
    due: Nanoseconds = 0
    sent_to: Gen = 0
    """The gen of the master that was given it last; 0 while nobody was."""


class Forwarding:
    """The unanswered writes of this site. Used by the engine's thread only."""

    def __init__(
        self,
        replica: Replica,
        options: Options,
        new_session: Callable[[], str],
        run: Callable[[Batch, str, int, Ticket], None],
    ) -> None:
        """`run` runs a batch of a session here, at the master."""
        self._replica = replica
        self._options = options
        self._new_session = new_session
        self._run = run
        self._idle: list[Session] = []
        self._early: deque[tuple[Position, Session]] = deque()
        """Whose last write an ack policy answered before it was permanent: rolled back, its number is not known."""
        self._pending: dict[str, Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def deadline(self) -> Nanoseconds | None:
        """When something is to be repeated or given up."""
        return min((min(entry.due, entry.ticket.deadline) for entry in self._pending.values()), default=None)

    def add(self, batch: Batch, ticket: Ticket, now: Nanoseconds) -> None:
        """Take a write, and send it as soon as there is a master."""
        data = codec.encode_batch(batch)
        if len(data) > codec.MESSAGE_LIMIT:
            ticket.reject(
                TxnTooLargeError(
                    f"the batch has {len(data)} bytes and a message holds {codec.MESSAGE_LIMIT}: "
                    f"nothing was applied, split it"
                )
            )
            return
        ticket.deadline = min(ticket.deadline, now + REPEATED_MS * MILLISECOND)
        session = self._take_session()
        options = self._options
        backoff = Backoff(options.request_min_ms * MILLISECOND, options.request_max_ms * MILLISECOND)
        entry = Pending(session, data, ticket, backoff, now)
        self._pending[session.name] = entry
        self._send_if_due(entry, now)

    def _take_session(self) -> Session:
        """Return one that is free; of those that were answered early, one whose last write is permanent by now."""
        if self._idle:
            return self._idle.pop()
        while self._early and self._early[0][0].lsn <= self._replica.perm:
            position, session = self._early.popleft()
            if self._replica.gen_at(position.lsn) == position.gen:
                return session
        return Session(self._new_session())

    def tick(self, now: Nanoseconds) -> None:
        """Send what is due, at once to a new master; give up what is too late."""
        for entry in list(self._pending.values()):
            if entry.ticket.deadline <= now:
                self._give_up(entry)
            else:
                self._send_if_due(entry, now)

    def _send_if_due(self, entry: Pending, now: Nanoseconds) -> None:
        replica, ticket, session = self._replica, entry.ticket, entry.session
        master = replica.master
        if master is None:
            entry.due = ticket.deadline
            return
        if entry.sent_to != replica.gen:
            entry.backoff.reset()
        elif entry.due > now:
            return
        entry.sent_to = replica.gen
        if replica.role is Role.MASTER:
            entry.due = ticket.deadline
            here = Callback(ticket.policy, ticket.deadline, lambda result, error: self._answered(entry, result, error))
            self._run(codec.decode_batch(entry.data), session.name, session.seq, here)
            return
        left_ms = max((ticket.deadline - now) // MILLISECOND, 1)
        fields = Forward(session.name, session.seq, left_ms, POLICIES.index(ticket.policy))
        replica.send(master, fields, data=entry.data)
        entry.due = now + entry.backoff.pause()

    def _give_up(self, entry: Pending) -> None:
        del self._pending[entry.session.name]
        if entry.sent_to:
            entry.ticket.reject(
                UnknownOutcomeError("the master did not answer in time: the write may or may not have happened")
            )
        else:
            entry.ticket.reject(
                NoMasterError("no master is known, the write was not sent: see `zrep status`, then try again")
            )

    def on_reply(self, message: Message, fields: ForwardReply) -> None:
        """Take the master's answer."""
        entry = self._pending.get(fields.session)
        if entry is None or entry.session.seq != fields.seq:
            return
        if fields.status is Status.OK:
            token = CommitToken(fields.gen, message.lsn, fields.site) if message.lsn else None
            result = CommitResult(token, fields.perm, fields.acked, self._replica.config.durability)
            self._answered(entry, result, None)
        else:
            self._answered(entry, None, error_of(fields, message.data))

    def _answered(self, entry: Pending, result: CommitResult | None, error: Exception | None) -> None:
        """One copy of a write was answered; a late answer finds nobody waiting."""
        name = entry.session.name
        if self._pending.get(name) is not entry:
            return
        if isinstance(error, _AGAIN):
            entry.due = self._replica.state.now + entry.backoff.pause()
            return
        del self._pending[name]
        if result is not None:
            if result.token is not None:  # else the batch wrote nothing, and its session has no trace of it
                entry.session.seq += 1
                if result.perm:
                    self._idle.append(entry.session)
                else:
                    self._early.append((result.token.position, entry.session))
            entry.ticket.resolve(result)
        elif error is not None:
            entry.ticket.reject(error)

    def abandon(self, error: Exception) -> None:
        """The site stops: `error` for what was never sent, unknown for what was."""
        pending, self._pending = self._pending, {}
        for entry in pending.values():
            unknown = UnknownOutcomeError("the site stopped before the master answered: the write may have happened")
            entry.ticket.reject(unknown if entry.sent_to else error)


_AGAIN = (NoMasterError, NotAppliedError, PermFailedError, UnknownOutcomeError)
"""Answers after which the same write is asked again under the same name."""


def error_of(reply: ForwardReply, data: bytes) -> Exception:
    """Return the error that the master's answer stands for."""
    status, text = reply.status, reply.text
    if status in (Status.BUSY, Status.REDIRECT):
        return NoMasterError(text or "the site asked is not master")
    if status is Status.CONFLICT:
        return ConflictError(text, reply.key, data if reply.found else None)
    if status is Status.NOT_APPLIED:
        return NotAppliedError(text)
    if status is Status.TOO_LARGE:
        return TxnTooLargeError(text)
    if status is Status.REFUSED:
        return refusal(reply.error, text)
    return UnknownOutcomeError(text or "the master does not remember this write: it may have happened")


def reply_to(
    session: str, seq: int, result: CommitResult | None, error: Exception | None
) -> tuple[ForwardReply, bytes]:
    """Return the answer to a forwarded write, and the data that goes with it."""
    if result is not None:
        gen, site = (result.token.gen, result.token.site) if result.token else (0, SiteId(""))
        return ForwardReply(session, seq, Status.OK, gen, site, acked=result.acked, perm=result.perm), b""
    text = str(error)[:TEXT_LIMIT]
    if isinstance(error, ConflictError):
        found = error.found is not None
        return ForwardReply(session, seq, Status.CONFLICT, text=text, key=error.key, found=found), error.found or b""
    if isinstance(error, NotAppliedError):
        return ForwardReply(session, seq, Status.NOT_APPLIED, text=text), b""
    if isinstance(error, TxnTooLargeError):
        return ForwardReply(session, seq, Status.TOO_LARGE, text=text), b""
    if isinstance(error, (UnknownOutcomeError, PermFailedError)):
        return ForwardReply(session, seq, Status.UNKNOWN, text=text), b""
    if isinstance(error, NoMasterError):
        return ForwardReply(session, seq, Status.BUSY, text=text), b""
    if error is not None:
        return ForwardReply(session, seq, Status.REFUSED, text=text, error=type(error).__name__), b""
    return ForwardReply(session, seq, Status.UNKNOWN), b""
