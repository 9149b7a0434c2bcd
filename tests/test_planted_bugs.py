"""Bugs planted into the machine, one method at a time: a named scenario or a few seeds must catch each.

What no test catches is not tested. There is no switch in the code: a bug is a patch that lives as long as
its test. `by` is the scenario whose outcome changes or whose checkers object; without one, one of the first
`seeds` seeds does, or the one seed that is named.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.sim.swarm import Failed, run_seed
from tests.sim.truth import Violation
from tests.test_scenarios import play
from zrep.errors import InvariantError
from zrep.ids import Egen, Lsn, Nanoseconds, Position, SiteId, majority
from zrep.messages import Ack, Message, Sync, Type, Vote1
from zrep.ports import Meta
from zrep.records import Config, History, Record, Reign, Tip
from zrep.replica import acks, election, following, inflow, membership, reign, rules, state
from zrep.replica.replica import Replica
from zrep.replica.rules import SUCCESS, Gate, Result, Role, Rule

NOBODY = SiteId("")
Plant = Callable[[pytest.MonkeyPatch], None]


class Bug(NamedTuple):
    """A bug, and who must catch it."""

    plant: Plant
    by: str = ""
    seeds: int = 0
    seed: tuple[int, int, int] | None = None
    """Its number, how many sites, how many events."""


def acked_before_the_flush(patch: pytest.MonkeyPatch) -> None:
    """R2: an ACK is for what was appended, and does not wait for the disk."""

    def settle(self: following.Following) -> None:
        state = self.state
        if state.synced and self._ack_due and state.master is not None and state.gen == state.meta.promise:
            self._ack_due = False
            ack = Ack(self._master_incarnation, state.applied, self._stamp)
            state.send(state.master, ack, lsn=state.log.tip.lsn)
            state.effects.early.append(state.effects.sends.pop())
        original(self)

    original = following.Following.settle
    patch.setattr(following.Following, "settle", settle)
    patch.setattr(state, "check_leaving", lambda state, message: None)


def vote_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    """R2: the vote stays in memory."""

    def promise(self: state.State, egen: Egen, vote: SiteId = NOBODY) -> None:
        self.meta = self.meta._replace(promise=egen, vote=vote)

    patch.setattr(state.State, "promise", promise)


def win_takes_the_promise_of_the_day(patch: pytest.MonkeyPatch) -> None:
    """R6: a win counts though the promise has moved on, and reigns in the promised gen."""

    def count(self: election.Elections, voter: SiteId) -> None:
        state, campaign = self.state, self.campaign
        assert campaign is not None
        campaign.votes.add(voter)
        if len(campaign.votes) >= majority(len(state.config.voters)):
            egen = max(campaign.egen, state.meta.promise)
            self.stop()
            self._win(egen)

    patch.setattr(election.Elections, "_count_vote", count)


def stale_gen_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """R7: a lower gen is not fenced."""

    def receive(self: Replica, now: Nanoseconds, message: Message) -> Result:
        if message.type in (Type.HEARTBEAT, Type.NEWMASTER, Type.LOG) and message.gen < self.promise:
            message = message._replace(gen=self.promise)
        return original(self, now, message)

    original = Replica.receive
    patch.setattr(Replica, "receive", receive)


def vote_for_a_worse_log(patch: pytest.MonkeyPatch) -> None:
    """R8: whoever asks gets the vote, however little its log has."""

    def choose(self: election.Elections) -> None:
        campaign = self.campaign
        if campaign is not None:
            own = campaign.ballots.get(self.state.site)
            for site, ballot in list(campaign.ballots.items()):
                campaign.ballots[site] = ballot._replace(position=Position(1 << 40, 0))
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(state.State, "position", property(lambda self: Position(0, 0)))
                original(self)
            if own is not None:
                campaign.ballots[self.state.site] = own

    original = election.Elections._try_choose
    patch.setattr(election.Elections, "_try_choose", choose)


def duplicate_votes_count(patch: pytest.MonkeyPatch) -> None:
    """R8: the same vote twice is two votes."""

    class Votes(list[SiteId]):
        add = list.append

    def start(self: election.Campaign, *args: Any) -> None:
        original(self, *args)
        self.votes = Votes()  # type: ignore[assignment]

    original = election.Campaign.__init__
    patch.setattr(election.Campaign, "__init__", start)


def priority_beats_data(patch: pytest.MonkeyPatch) -> None:
    """R9: priority is looked at before the log."""

    def best(ballots: dict[SiteId, election.Ballot], config: Config) -> SiteId | None:
        ranked = {
            site: ballot._replace(position=Position(ballot.priority, 0), priority=1)
            for site, ballot in ballots.items()
            if ballot.priority > 0
        }
        return original(ranked, config)

    original = election.best_candidate
    patch.setattr(election, "best_candidate", best)


def deaf_site_can_win(patch: pytest.MonkeyPatch) -> None:
    """R9: nobody looks at whom a candidate has heard."""

    def best(ballots: dict[SiteId, election.Ballot], config: Config) -> SiteId | None:
        everybody = frozenset(config.voters)
        return original({site: ballot._replace(heard=everybody) for site, ballot in ballots.items()}, config)

    original = election.best_candidate
    patch.setattr(election, "best_candidate", best)


def learners_are_counted(patch: pytest.MonkeyPatch) -> None:
    """R10: any two of two sites are a majority, voters or not."""

    def held(self: acks.Acks, config: Config, own: SiteId, durable: Lsn) -> Lsn:
        counted = sorted([durable, *self.match.values()], reverse=True)
        needed = majority(len(config.voters))
        return counted[needed - 1] if len(counted) >= needed else 0

    patch.setattr(acks.Acks, "held_by_majority", held)


def everybody_takes_part(patch: pytest.MonkeyPatch) -> None:
    """R11: a site that hears its master votes it away all the same."""

    def on_vote1(self: election.Elections, message: Message, fields: Vote1) -> Result:
        self.state.hears_master = False
        return original(self, message, fields)

    original = election.Elections.on_vote1
    patch.setattr(election.Elections, "on_vote1", on_vote1)


def lonely_master_stays(patch: pytest.MonkeyPatch) -> None:
    """R12: no check-quorum."""
    patch.setattr(reign.Reigning, "lacks_quorum", lambda self: False)


def pull_cuts_for_a_worse_log(patch: pytest.MonkeyPatch) -> None:
    """R13: a pull cuts what the server has not, whether or not the server's log is the better one."""

    def on_pulled(self: following.Following, message: Message, fields: Any) -> Result:
        return original(self, message, fields._replace(last_gen=1 << 40, last_lsn=1))

    original = following.Following._on_pulled
    patch.setattr(following.Following, "_on_pulled", on_pulled)


def previous_record_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """R14: any record of the next LSN is appended."""

    def follows(tip: Tip, record: Record) -> bool:
        return record.lsn == tip.lsn + 1

    patch.setattr(following, "follows", follows)
    patch.setattr(inflow, "follows", follows)


def gap_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """R14: a record is appended though earlier ones are missing."""

    def take(self: following.Following, record: Record) -> bool:
        if record.lsn > self.state.log.tip.lsn and self.state.synced:
            self.state.append(record)
        return True

    patch.setattr(following.Following, "_take", take)


def sync_answers_a_length(patch: pytest.MonkeyPatch) -> None:
    """R14: SYNC is taken for any log that ends at the same LSN."""

    def on_sync(self: following.Following, message: Message, fields: Sync) -> Result:
        if fields.asker_last[1] == self.state.position.lsn:
            fields = fields._replace(asker_last=self.state.position)
        return original(self, message, fields)

    original = following.Following.on_sync
    patch.setattr(following.Following, "on_sync", on_sync)


def common_point_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """R14: a client takes its log for the master's without asking."""

    def adopt(self: following.Following, *args: Any, **kwargs: Any) -> Result:
        result = original(self, *args, **kwargs)
        self.state.synced = True
        return result

    original = following.Following._adopt
    patch.setattr(following.Following, "_adopt", adopt)


def acks_of_other_reigns_count(patch: pytest.MonkeyPatch) -> None:
    """R15: the master looks at an ACK's LSN, and not at its gen."""

    def on_ack(self: reign.Reigning, message: Message, fields: Ack) -> Result:
        if message.lsn <= self.state.log.tip.lsn:
            self.acks.ack(message.sender, message.lsn, fields.stamp)
        return SUCCESS

    patch.setitem(rules.RULES, Type.ACK, Rule(Gate.ANY, Role.MASTER))
    patch.setattr(reign.Reigning, "on_ack", on_ack)


def old_records_count(patch: pytest.MonkeyPatch) -> None:
    """R16: perm advances to a record of an earlier gen."""

    def count(self: reign.Reigning) -> None:
        own, self.reign_lsn = self.reign_lsn, 0
        original(self)
        self.reign_lsn = own

    original = reign.Reigning._count
    patch.setattr(reign.Reigning, "_count", count)


def perm_is_believed(patch: pytest.MonkeyPatch) -> None:
    """R17: a client takes the master's perm for its own log before it knows where they part."""

    def settle(self: following.Following) -> None:
        state = self.state
        if state.role is Role.CLIENT and not state.log.dirty:
            state.raise_perm(min(self._master_perm, state.log.tip.lsn))
        original(self)

    original = following.Following.settle
    patch.setattr(following.Following, "settle", settle)


def cut_goes_below_perm(patch: pytest.MonkeyPatch) -> None:
    """R18: a SYNC cuts one record too many, permanent or not."""

    def cut(self: state.State, lsn: Lsn) -> None:
        self.perm = min(self.perm, lsn - 1)
        original(self, lsn - 1)

    original = state.State.cut
    patch.setattr(state.State, "cut", cut)


def anybody_is_replaced(patch: pytest.MonkeyPatch) -> None:
    """R4: a site that is there, the master itself, gives its place to who names it."""
    original = membership.admit
    patch.setattr(membership, "admit", lambda config, join, present: original(config, join, ()))


def a_joiner_asks_once(patch: pytest.MonkeyPatch) -> None:
    """R20: a site that its log lists believes it, though that may be cut."""
    patch.setattr(Replica, "_on_sync", lambda self, message, fields: self.following.on_sync(message, fields))


def any_reign_takes_a_promotion_back(patch: pytest.MonkeyPatch) -> None:
    """R20: a later reign, too, though the second voter may have reigned in between and made it permanent."""

    def withdraw(self: reign.Reigning) -> bool:
        history, self.state.history = self.state.history, History((Reign(self.state.gen, NOBODY, 1),))
        try:
            return original(self)
        finally:
            history.cut(self.state.log.tip.lsn)
            self.state.history = history

    original = reign.Reigning.withdraw_promotion
    patch.setattr(reign.Reigning, "withdraw_promotion", withdraw)


def half_is_a_majority(patch: pytest.MonkeyPatch) -> None:
    """Permanence at one site too few."""
    patch.setattr(acks, "majority", lambda nsites: nsites // 2)


def half_elects(patch: pytest.MonkeyPatch) -> None:
    """A master by one vote too few."""
    patch.setattr(election, "majority", lambda nsites: max(nsites // 2, 1))


def own_broadcast_is_processed(patch: pytest.MonkeyPatch) -> None:
    """R1: what comes back through a forwarder counts as somebody's."""

    def receive(self: Replica, now: Nanoseconds, message: Message) -> Result:
        if message.sender == self.state.site:
            message = message._replace(sender=SiteId("c"))
        return original(self, now, message)

    original = Replica.receive
    patch.setattr(Replica, "receive", receive)


def others_mail_is_read(patch: pytest.MonkeyPatch) -> None:
    """R1: a message for another site is processed."""

    def receive(self: Replica, now: Nanoseconds, message: Message) -> Result:
        return original(self, now, message._replace(to=None))

    original = Replica.receive
    patch.setattr(Replica, "receive", receive)


def timers_do_not_wait_for_the_inbox(patch: pytest.MonkeyPatch) -> None:
    """Somebody is declared silent while its messages wait to be read."""

    def tick(self: Replica, now: Nanoseconds, drained: bool) -> None:
        original(self, now, True)

    original = Replica.tick
    patch.setattr(Replica, "tick", tick)


def nothing_is_asked_twice(patch: pytest.MonkeyPatch) -> None:
    """A lost request is not repeated."""
    patch.setattr(inflow.Inflow, "pause", lambda self: 1 << 60)


def reads_are_not_confirmed(patch: pytest.MonkeyPatch) -> None:
    """R23: a master answers an authoritative read from its own perm, and asks nobody."""
    patch.setattr(acks.Acks, "echoed_by_majority", lambda self, config, own, now: now)


def promise_can_sink(patch: pytest.MonkeyPatch) -> None:
    """I6: what is saved is the last promise heard of, not the highest."""

    def set_meta(self: state.State, meta: Meta) -> None:
        meta = meta._replace(promise=max(meta.promise - 1, 1))
        original(self, meta)

    original = state.State.set_meta
    patch.setattr(state.State, "set_meta", set_meta)


BUGS = [
    Bug(acked_before_the_flush, seeds=10),
    Bug(vote_is_not_durable, "r02_vote_is_durable_before_it_leaves"),
    Bug(win_takes_the_promise_of_the_day, "r06_a_win_is_void_when_the_promise_moved_on"),
    Bug(stale_gen_is_accepted, "r07_a_promise_fences_the_old_master"),
    Bug(vote_for_a_worse_log, "r08_no_vote_for_a_worse_log_though_nobody_else_can_win"),
    Bug(duplicate_votes_count, "r08_duplicate_votes_count_once"),
    Bug(priority_beats_data, "r09_priority_never_beats_data"),
    Bug(deaf_site_can_win, "r09_a_deaf_site_cannot_win"),
    Bug(learners_are_counted, "r10_a_learner_counts_in_no_quorum"),
    Bug(everybody_takes_part, "r11_a_link_that_breaks_for_one_is_no_election_for_all"),
    Bug(lonely_master_stays, "r12_a_master_without_quorum_steps_down"),
    Bug(pull_cuts_for_a_worse_log, "r13_a_late_pull_cuts_no_better_log"),
    Bug(previous_record_is_not_checked, "r14_a_pull_out_of_order_is_refused"),
    Bug(gap_is_ignored, "r14_a_gap_is_held_and_asked_for"),
    Bug(sync_answers_a_length, "r14_the_answer_to_another_request_cuts_nothing"),
    Bug(common_point_is_skipped, "r14_a_record_of_another_past_is_refused"),
    Bug(acks_of_other_reigns_count, "r15_an_ack_counts_in_its_own_reign_only"),
    Bug(old_records_count, "r16_figure_8"),
    Bug(perm_is_believed, "r17_perm_is_not_raised_before_the_sync"),
    Bug(cut_goes_below_perm, "r18_a_cut_tail_is_told_with_its_range"),
    Bug(anybody_is_replaced, "r04_nobody_takes_the_place_of_a_site_that_is_there"),
    Bug(a_joiner_asks_once, "r20_an_admission_that_is_cut_is_asked_for_again"),
    Bug(any_reign_takes_a_promotion_back, seed=(19962, 2, 4000)),
    Bug(half_is_a_majority, seeds=10),
    Bug(half_elects, seeds=20),
    Bug(own_broadcast_is_processed, "r01_a_broadcast_that_comes_back_is_not_processed"),
    Bug(others_mail_is_read, "r01_mail_for_others_is_not_processed"),
    Bug(timers_do_not_wait_for_the_inbox, "f03_what_was_said_during_a_pause_is_heard_first"),
    Bug(nothing_is_asked_twice, seeds=50),
    Bug(reads_are_not_confirmed, seeds=100),
    Bug(promise_can_sink, seeds=10),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
def test_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario named, or one of so many seeds, notices."""
    bug.plant(monkeypatch)
    if bug.by:
        assert differs(bug.by)
    else:
        assert fails(*bug.seed) if bug.seed else any(map(fails, range(bug.seeds)))


def differs(scenario: str) -> bool:
    """Tell whether a scenario goes another way, or breaks a promise."""
    text = (Path(__file__).parent / "scenarios" / f"{scenario}.txt").read_text(encoding="utf-8")
    try:
        return play(text) != text
    except (Violation, InvariantError):
        return True


def fails(seed: int, nsites: int | None = None, events: int = 2000) -> bool:
    try:
        run_seed(seed, nsites, events)
    except Failed:
        return True
    return False
