"""What a client site makes of the master's answers to its writes."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from zrep import codec
from zrep.commit import Batch, CommitResult
from zrep.errors import ConflictError, NoMasterError, TxnTooLargeError, UnknownOutcomeError
from zrep.forwarding import Forwarding
from zrep.ids import NO_GROUP, Gen, SiteId
from zrep.messages import Forward, ForwardReply, Message, Status, Type
from zrep.options import MILLISECOND, REPEATED_MS, AckPolicy, Options
from zrep.replica.replica import Replica, Role
from zrep.storage.sessions import KEPT_MS
from zrep.tickets import Callback, Ticket

MASTER = SiteId("master")
SECOND = 1000 * MILLISECOND


class Bench:
    """A client site whose time and master the test decides."""

    def __init__(self) -> None:
        self.sent: list[Forward] = []
        self.ran: list[tuple[str, int, Ticket]] = []
        self.answers: list[Any] = []
        self.now = 0
        self.gens: dict[int, Gen] = {}
        self.replica: Any = SimpleNamespace(
            role=Role.CLIENT,
            master=MASTER,
            gen=Gen(1),
            state=SimpleNamespace(now=0),
            config=SimpleNamespace(durability="sync"),
            perm=0,
            gen_at=self.gens.get,
            send=lambda to, fields, data=b"": self.sent.append(fields),
        )
        names = iter("abcdefgh")
        self.forwarding = Forwarding(
            cast(Replica, self.replica),
            Options(),
            lambda: next(names),
            lambda batch, session, seq, ticket: self.ran.append((session, seq, ticket)),
        )

    def write(self, batch: Batch | None = None, limit_ms: int = 1000) -> None:
        deadline = self.now + limit_ms * MILLISECOND
        ticket = Callback(AckPolicy.QUORUM, deadline, lambda *answer: self.answers.append(answer))
        self.forwarding.add(batch or Batch().put(b"a", b"1"), ticket, self.now)

    def reply(self, status: Status, lsn: int = 0, number: int = -1, perm: bool = True) -> None:
        session, seq = self.sent[number][:2]
        fields = ForwardReply(session, seq, status, 1, MASTER, perm=perm)
        self.forwarding.on_reply(Message(Type.FORWARD_REPLY, NO_GROUP, MASTER, 1, None, 1, lsn, 0, fields), fields)

    def at(self, ms: int) -> None:
        self.now = self.replica.state.now = ms * MILLISECOND
        self.forwarding.tick(self.now)

    @property
    def error(self) -> Exception:
        ((_, error),) = self.answers
        assert isinstance(error, Exception)
        return error


def names(sent: list[Forward]) -> list[tuple[str, int]]:
    return [(fields.session, fields.seq) for fields in sent]


def test_a_session_goes_on_after_a_success_only() -> None:
    """Otherwise a late copy of a refused write runs under the name of the next, which is then taken for done."""
    bench = Bench()
    bench.write()
    bench.reply(Status.OK, 7)
    bench.write()
    bench.reply(Status.CONFLICT)
    bench.write()
    assert names(bench.sent) == [("a", 1), ("a", 2), ("b", 1)]
    assert [type(error) for _, error in bench.answers] == [type(None), ConflictError]


def test_a_session_does_not_go_on_after_a_batch_that_wrote_nothing() -> None:
    bench = Bench()
    bench.write()
    bench.reply(Status.OK, 0)
    bench.write()
    assert names(bench.sent) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(("gen", "third"), [(1, ("a", 2)), (2, ("c", 1))])
def test_a_session_whose_write_was_answered_early_goes_on_when_it_is_permanent(
    gen: Gen, third: tuple[str, int]
) -> None:
    """If another master's record took its place instead, its number is not remembered, and it ends."""
    bench = Bench()
    bench.write()
    bench.reply(Status.OK, 7, perm=False)
    ((result, _),) = bench.answers
    assert isinstance(result, CommitResult)
    assert not result.perm
    bench.write()
    bench.replica.perm, bench.gens[7] = 7, gen
    bench.write()
    assert names(bench.sent) == [("a", 1), ("b", 1), third]


def test_nothing_is_repeated_for_longer_than_its_name_is_remembered() -> None:
    assert 10 * REPEATED_MS <= KEPT_MS
    bench = Bench()
    bench.write(limit_ms=2 * KEPT_MS)
    bench.at(REPEATED_MS)
    assert isinstance(bench.error, UnknownOutcomeError)


@pytest.mark.parametrize("status", [Status.NOT_APPLIED, Status.UNKNOWN, Status.BUSY, Status.REDIRECT])
def test_what_decides_nothing_is_asked_again_under_the_same_name(status: Status) -> None:
    """One copy was not applied; an earlier one, sent to the master before, may have been."""
    bench = Bench()
    bench.write()
    bench.reply(status)
    assert not bench.answers
    bench.replica.gen = 2
    bench.at(10)
    assert names(bench.sent) == [("a", 1), ("a", 1)]
    bench.reply(status)
    bench.at(1000)
    assert isinstance(bench.error, UnknownOutcomeError)


def test_what_was_never_sent_did_not_happen() -> None:
    bench = Bench()
    bench.replica.master = None
    bench.write()
    bench.at(1000)
    assert isinstance(bench.error, NoMasterError)


def test_a_new_master_runs_its_own_writes_under_the_names_they_have() -> None:
    bench = Bench()
    bench.write()
    bench.replica.role, bench.replica.gen = Role.MASTER, 2
    bench.at(10)
    ((session, seq, ticket),) = bench.ran
    assert (session, seq) == ("a", 1)
    ticket.reject(NoMasterError("deposed"))
    assert not bench.answers
    bench.replica.role, bench.replica.gen = Role.CLIENT, 3
    bench.at(20)
    assert names(bench.sent) == [("a", 1), ("a", 1)]
    bench.reply(Status.OK, 9)
    ticket.resolve(CommitResult(None, True, (), "sync"))
    assert len(bench.answers) == 1


def test_a_batch_that_no_message_holds_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MESSAGE_LIMIT", 1000)
    bench = Bench()
    bench.write(Batch().put(b"a", bytes(1001)))
    assert isinstance(bench.error, TxnTooLargeError)
    assert not bench.sent
