"""Who waits for which record, and what they are told.

A `Flight` is a record that was sealed, with the tickets of everybody who waits for it.
The ack policy decides how long a caller waits, never what is safe: a flight is *permanent* when its
record is applied here, and *not applied* when another gen's record is permanent at its LSN. Until one of
the two is so, nobody knows: a cut of the tail alone proves nothing, for another site may hold the record.
"""

from collections.abc import Callable, Iterable

from zrep.commit import CommitResult, CommitToken
from zrep.errors import NotAppliedError, PermFailedError, UnknownOutcomeError, ZrepError
from zrep.ids import Lsn, Nanoseconds, Position, SiteId
from zrep.options import AckPolicy
from zrep.replica.acks import satisfied
from zrep.replica.replica import Replica, Role
from zrep.tickets import Ticket


class Flight:
    """A sealed record and who waits for it."""

    __slots__ = ("deadline", "only_for_permanence", "position", "tickets", "visible_at")

    def __init__(self, position: Position, tickets: list[Ticket]) -> None:
        self.position = position
        self.tickets = tickets
        self.only_for_permanence = True
        """Nobody here can be answered before the record is permanent: no need to look, it is the usual case."""
        self.deadline: Nanoseconds = tickets[0].deadline if tickets else 0
        for ticket in tickets:
            if ticket.policy is not AckPolicy.QUORUM:
                self.only_for_permanence = False
            if ticket.deadline < self.deadline:
                self.deadline = ticket.deadline
        self.visible_at: Lsn = position.lsn if self.only_for_permanence else 0
        """Nobody here can be answered, but for its deadline, until the store has come so far."""


class Commits:
    """Everybody who waits for a record of this site's log. Used by the engine's thread only."""

    def __init__(self, replica: Replica, site: SiteId, answered: Callable[[], None]) -> None:
        """`answered` is called when some were."""
        self._replica = replica
        self._site = site
        self._answered = answered
        self._flights: list[Flight] = []
        self.deadline: Nanoseconds | None = None
        """When the next waiter's time is up."""
        self._visible_at: Lsn = 0
        """The earliest of the flights' `visible_at`."""

    def __len__(self) -> int:
        return sum(len(flight.tickets) for flight in self._flights)

    def sealed(self, position: Position, tickets: Iterable[Ticket], applied: Lsn) -> None:
        """Wait for the record at `position` on behalf of `tickets`."""
        self._flights.append(Flight(position, list(tickets)))
        self._look_ahead()
        self.settle(applied)

    def settle(self, applied: Lsn, now: Nanoseconds = 0) -> None:
        """Answer who can be answered; with `now`, also whose time is up.

        `applied` is how far the store goes: what is visible here.
        """
        if self.deadline is None or (applied < self._visible_at and now < self.deadline):
            return
        self._flights = [flight for flight in self._flights if self._settle_flight(flight, applied, now)]
        self._look_ahead()
        self._answered()

    def _look_ahead(self) -> None:
        self.deadline, self._visible_at = None, 0
        for flight in self._flights:
            if self.deadline is None:
                self.deadline, self._visible_at = flight.deadline, flight.visible_at
                continue
            self.deadline = min(self.deadline, flight.deadline)
            self._visible_at = min(self._visible_at, flight.visible_at)

    def _settle_flight(self, flight: Flight, applied: Lsn, now: Nanoseconds) -> bool:
        """Answer a flight's waiters; return whether anybody goes on waiting."""
        state, (gen, lsn) = self._replica.state, flight.position
        permanent = applied >= lsn
        if not permanent and flight.only_for_permanence and now < flight.deadline:
            return True
        everybody = permanent and flight.only_for_permanence
        if permanent and state.history.gen_at(lsn) != gen:
            for ticket in flight.tickets:
                ticket.reject(_not_applied(flight.position))
            return False
        reigns = state.role is Role.MASTER and state.gen == gen
        holders = self._replica.holders(lsn) if reigns else ()
        waiting = []
        result: CommitResult | None = None
        for ticket in flight.tickets:
            if everybody or self._enough(ticket, permanent, reigns, holders):
                if result is None:
                    token = CommitToken(gen, lsn, self._site)
                    result = CommitResult(token, permanent, holders, state.config.durability)
                ticket.resolve(result if ticket.wrote else result._replace(token=None))
            elif ticket.deadline <= now:
                ticket.reject(self._too_late(flight.position, ticket, permanent, reigns, holders))
            else:
                waiting.append(ticket)
        if not waiting:
            return False
        flight.tickets = waiting
        flight.deadline = min(ticket.deadline for ticket in waiting)
        return True

    def _enough(self, ticket: Ticket, permanent: bool, reigns: bool, holders: tuple[SiteId, ...]) -> bool:
        if ticket.policy is AckPolicy.QUORUM or ticket.verdict is not None or not ticket.wrote or not reigns:
            return permanent
        replica = self._replica
        return satisfied(ticket.policy, permanent, holders, self._site, replica.config, replica.up)

    def _too_late(
        self, position: Position, ticket: Ticket, permanent: bool, reigns: bool, holders: tuple[SiteId, ...]
    ) -> ZrepError:
        token = CommitToken(position.gen, position.lsn, self._site)
        if not reigns and not permanent:
            return UnknownOutcomeError(
                f"this site lost mastership while record {position.lsn} was on its way: "
                f"ask txn_applied(token) what became of it",
                token,
            )
        missing = [member.site for member in self._replica.config.members if member.site not in holders]
        return PermFailedError(
            f"record {position.lsn} was acknowledged by {len(holders)} sites in time, policy {ticket.policy.value} "
            f"wants more: it stays in the log and may still become permanent, ask txn_applied(token)",
            token,
            holders,
            missing,
        )

    def abandon(self) -> None:
        """The site stops: nobody will hear more from it."""
        for flight in self._flights:
            token = CommitToken(flight.position.gen, flight.position.lsn, self._site)
            for ticket in flight.tickets:
                ticket.reject(UnknownOutcomeError("the site stopped: ask txn_applied(token) at another one", token))
        self._flights.clear()


def _not_applied(position: Position) -> NotAppliedError:
    return NotAppliedError(
        f"another master's record is permanent at LSN {position.lsn}: the transaction did not happen, run it again"
    )
