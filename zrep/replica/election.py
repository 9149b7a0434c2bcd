"""Who should be master: campaigns, ballots and votes (R6–R13).

    VOTE1  not binding: "my log ends here, and these are the sites I hear". Raises nobody's promise.
    VOTE2  binding: durable before it leaves, one per egen, to a log at least as good as one's own.

After a crash every site hears of it within milliseconds and broadcasts VOTE1. Each re-sends its own as
it hears of more sites, so that soon all ballots name all participants; then every site makes the same
choice, and one VOTE2 each decides:

    B  lost A   VOTE1(B) ───────►   VOTE1(B,C) ──►  choose C: promise, VOTE2(C) ─►
    C  lost A   VOTE1(C) ───────►   VOTE1(B,C) ──►  choose C: promise ── majority: reign record, NEWMASTER

A site that hears a master answers VOTE1 with MASTER_IS instead: that is its refusal, no veto (R11).
"""

from collections.abc import Callable
from typing import NamedTuple

from zrep.events import Elected, ElectionFailed, ElectionStarted
from zrep.ids import Egen, Incarnation, Lsn, Nanoseconds, Position, SiteId, majority
from zrep.messages import HISTORY_LIMIT, Flag, Higher, LogReq, MasterIs, Message, Vote1, Vote2
from zrep.options import MILLISECOND
from zrep.records import Config
from zrep.replica.rules import HOLDELECTION, IGNORE, SUCCESS, Result, Role
from zrep.replica.state import State
from zrep.replica.timers import Backoff

ASK_AGAIN_MS = 4
"""First repeat of a VOTE1 to those who did not answer: after a crash, others notice within milliseconds."""


class Ballot(NamedTuple):
    """A VOTE1 as it is held."""

    position: Position
    priority: int
    heard: frozenset[SiteId]
    incarnation: Incarnation


def best_candidate(ballots: dict[SiteId, Ballot], config: Config) -> SiteId | None:
    """Return whom the holder of these ballots should vote for (R9); None when nobody can be chosen.

    Order: last gen, last LSN, priority, site id; priority never beats data. A candidate must be heard by
    and hear a majority with itself, for a site that speaks but cannot hear must not win for ever.
    """
    voters = config.voters
    needed = majority(len(voters))
    choice = None
    for site, ballot in ballots.items():
        if ballot.priority <= 0 or site not in voters:
            continue
        if sum(1 for voter in voters if voter == site or voter in ballot.heard) < needed:
            continue
        rank = (ballot.position, ballot.priority, site)
        if choice is None or rank > choice:
            choice = rank
    return choice[2] if choice else None


class Campaign:
    """One election as this site sees it."""

    __slots__ = ("ballots", "egen", "started", "suspect", "voted", "votes")

    def __init__(self, egen: Egen, started: Nanoseconds, suspect: SiteId | None) -> None:
        self.egen = egen
        self.started = started
        self.suspect = suspect
        """The master that is believed dead: not waited for."""
        self.ballots: dict[SiteId, Ballot] = {}
        self.votes: set[SiteId] = set()
        """Who gave this site its VOTE2; a set, so that a duplicate counts once."""
        self.voted = False
        """Phase 2: this site's VOTE2 is given."""


class Elections:
    """This site's part in elections. `win` is the machine's entry into a reign."""

    def __init__(self, state: State, win: Callable[[Egen], None]) -> None:
        self.state = state
        self._win = win
        self.campaign: Campaign | None = None
        self._booted = state.now
        self._spoken: Egen = 0
        """The highest egen that this run of the site sent a VOTE1 for, or heard of. Never proposed again:
        a late VOTE2 must not count for a later, shorter log."""
        self._failures = 0
        self._again = Backoff(ASK_AGAIN_MS * MILLISECOND, state.options.election_timeout_ms * MILLISECOND // 5)
        self._pulling: tuple[SiteId, Position] | None = None

    # Starting and ending.

    def start(self, reason: str) -> None:
        """Propose a new reign, if this site may. A sole voter elects itself at once."""
        state = self.state
        if state.role is Role.MASTER or not self._may_campaign():
            return
        egen = max(state.meta.promise, self._spoken) + 1
        self._campaign_for(egen, reason)

    def stop(self) -> None:
        """A master is followed: no campaign, no back-off."""
        self.campaign = None
        self._pulling = None
        self._failures = 0
        for name in ("election", "vote1", "pull"):
            self.state.timers.clear(name)

    def schedule(self, soon: bool = False) -> None:
        """Elect after a random pause: first within half the timeout, then about the whole of it (R13)."""
        state = self.state
        timeout = state.options.election_timeout_ms * MILLISECOND
        first = soon or self._failures <= 1
        low, high = (timeout // 4, timeout // 2) if first else (timeout, 2 * timeout)
        state.timers.set("election", state.now + state.rng.randint(low, high))

    def _may_campaign(self) -> bool:
        state = self.state
        return state.config.is_voter(state.site) and not state.muted

    def _campaign_for(self, egen: Egen, reason: str) -> None:
        state = self.state
        suspect = None if state.hears_master else state.master
        self.campaign = Campaign(egen, state.now, suspect)
        self._spoken = max(self._spoken, egen)
        self._again.reset()
        state.notify(ElectionStarted(egen, reason))
        state.timers.set("election", state.now + self._timeout // 2)
        self._broadcast_vote1()
        self._try_choose()

    @property
    def _timeout(self) -> Nanoseconds:
        return self.state.options.election_timeout_ms * MILLISECOND

    # VOTE1: phase 1.

    def _broadcast_vote1(self) -> None:
        self._send_vote1(None)
        self.state.timers.set("vote1", self.state.now + self._again.pause())

    def _send_vote1(self, to: SiteId | None) -> None:
        state, campaign = self.state, self.campaign
        if campaign is None:
            return
        heard = tuple(site for site in campaign.ballots if site != state.site)
        own = Ballot(state.position, state.priority, frozenset((state.site, *heard)), state.incarnation)
        campaign.ballots[state.site] = own
        if len(state.config.voters) > 1:
            fields = Vote1(campaign.egen, own.position.gen, own.priority, heard)
            state.send(to, fields, lsn=own.position.lsn)

    def on_vote1(self, message: Message, fields: Vote1) -> Result:
        state = self.state
        sender = message.sender
        position = Position(fields.last_gen, message.lsn)
        if state.hears_master and sender == state.master:
            state.hears_master = False  # the master itself campaigns: it is none any more
        if state.role is Role.MASTER or state.hears_master:
            self.refuse(sender)
            return IGNORE
        self.consider_pull(sender, position)
        if not state.config.is_voter(sender) or not self._may_campaign():
            return IGNORE
        campaign = self.campaign
        if campaign is not None and campaign.voted and fields.egen != campaign.egen:
            # Our vote is given: let that election end first. A late-comer is told of it.
            if fields.egen < campaign.egen:
                self._send_vote1(sender)
            return IGNORE
        if fields.egen <= state.meta.promise and (campaign is None or fields.egen != campaign.egen):
            state.send(sender, Higher(state.meta.promise))
            if campaign is None:
                self.start("asked")
            return HOLDELECTION
        if campaign is None or fields.egen > campaign.egen:
            if fields.egen < self._spoken:
                self.start("asked")
            else:
                self._campaign_for(fields.egen, "asked")
            campaign = self.campaign
        if campaign is None or campaign.egen != fields.egen:
            self._send_vote1(sender)
            return HOLDELECTION
        known = campaign.ballots.get(sender)
        heard = frozenset((sender, *fields.heard))
        campaign.ballots[sender] = Ballot(position, fields.priority, heard, message.incarnation)
        if known is None:
            self._again.reset()
            self._broadcast_vote1()
        elif state.site not in heard:
            self._send_vote1(sender)
        self._try_choose()
        return HOLDELECTION

    def refuse(self, sender: SiteId) -> None:
        """Say who is master: a refusal to elect, and a way to catch up for a stranded site (R11)."""
        state = self.state
        master = state.master
        if master is None:
            return
        match = state.match if state.role is Role.CLIENT else state.log.tip.lsn
        fields = MasterIs(master, state.perm, state.history.since(state.perm, HISTORY_LIMIT))
        state.send(sender, fields, lsn=match)

    def raise_proposal(self, promise: Egen) -> None:
        """Somebody promised more than we propose: propose above it (R11)."""
        self._spoken = max(self._spoken, promise)
        campaign = self.campaign
        if campaign is not None and not campaign.voted and promise >= campaign.egen:
            self.start("higher promise")

    def on_connected(self, site: SiteId) -> None:
        if self.campaign is not None:
            self._send_vote1(site)

    # The choice, and VOTE2: phase 2.

    def _try_choose(self) -> None:
        """Vote, as soon as phase 1 is complete: all who are connected have answered and heard each other."""
        state, campaign = self.state, self.campaign
        if campaign is None or campaign.voted:
            return
        voters = state.config.voters
        ballots = {site: ballot for site, ballot in campaign.ballots.items() if site in voters}
        # Whom the others name has spoken too: at the rim of a star nobody but the hub hears a majority.
        agree = sum(1 for voter in voters if any(voter in ballot.heard for ballot in ballots.values()))
        if agree < majority(len(voters)):
            return
        elapsed = state.now - campaign.started
        full = state.options.full_election_timeout_ms * MILLISECOND
        if not state.established and state.now - self._booted < full and len(ballots) < len(voters):
            return  # a cold boot: every election until then waits for all (BDB: the full election)
        early = elapsed < self._timeout // 2
        if early:
            absent = (v for v in voters if v in state.up and v != campaign.suspect and v not in ballots)
            if any(absent) or any(not ballots.keys() <= ballot.heard for ballot in ballots.values()):
                return
        choice = best_candidate(ballots, state.config)
        if choice is None or ballots[choice].position < state.position:
            return  # R8; whoever can win pulls the missing records first (R13)
        if early and any(ballot.position > ballots[choice].position for ballot in ballots.values()):
            return  # it pulls them now: a vote for it as it was would find no majority
        if campaign.egen <= state.meta.promise:
            self.start("promise moved on")
            return
        state.promise(campaign.egen, choice)
        campaign.voted = True
        # Others may wait half a timeout for their phase 1 before they vote: give up after that, not with them.
        state.timers.set("election", max(campaign.started + self._timeout, state.now + self._timeout // 2))
        if choice == state.site:
            self._count_vote(state.site)
        else:
            state.send(choice, Vote2(campaign.egen, choice, ballots[choice].incarnation))

    def on_vote2(self, message: Message, fields: Vote2) -> Result:
        state, campaign = self.state, self.campaign
        if fields.candidate != state.site or fields.candidate_incarnation != state.incarnation:
            return IGNORE
        if campaign is None or campaign.egen != fields.egen:
            return IGNORE
        self._count_vote(message.sender)
        return SUCCESS

    def _count_vote(self, voter: SiteId) -> None:
        """Count a VOTE2; the quorum-th makes a master, unless the promise has moved on (R6)."""
        state, campaign = self.state, self.campaign
        if campaign is None:
            return
        campaign.votes.add(voter)
        voters = state.config.voters
        if sum(1 for site in campaign.votes if site in voters) < majority(len(voters)):
            return
        if state.meta.promise > campaign.egen:
            return
        if state.meta.promise < campaign.egen:
            state.promise(campaign.egen)
        state.notify(Elected(campaign.egen))
        egen = campaign.egen
        self.stop()
        self._win(egen)

    # Timers.

    def on_vote1_timer(self) -> None:
        """Repeat VOTE1 to the voters that have not answered, or not heard us."""
        state, campaign = self.state, self.campaign
        if campaign is None or campaign.voted:
            return
        for site in state.config.voters:
            ballot = campaign.ballots.get(site)
            if site != state.site and (ballot is None or state.site not in ballot.heard):
                self._send_vote1(site)
        state.timers.set("vote1", state.now + self._again.pause())

    def on_election_timer(self) -> None:
        state, campaign = self.state, self.campaign
        if campaign is None:
            if state.role is Role.CLIENT and not state.hears_master:
                self.start("no master")
            return
        self._try_choose()
        campaign = self.campaign
        if campaign is None or (campaign.voted and "election" in state.timers):
            return
        end = campaign.started + self._timeout
        if not campaign.voted and state.now < end:
            state.timers.set("election", end)
            return
        state.notify(ElectionFailed(campaign.egen))
        self.campaign = None
        self._failures += 1
        state.timers.clear("vote1")
        self.schedule()

    # The pull (R13).

    def consider_pull(self, server: SiteId, position: Position) -> None:
        """Fetch the better log of a campaigner, so that its newest records reach somebody who can win.

        Asks from above perm: what is permanent is common to both logs.
        """
        state = self.state
        if position <= state.position or state.hears_master:
            return
        if self._pulling is not None and self._pulling[1] >= position and "pull" in state.timers:
            return
        self.pull(server, position, state.perm + 1)

    def pull(self, server: SiteId, position: Position, first: Lsn) -> None:
        """Ask for a better log's records from `first` on."""
        state = self.state
        self._pulling = (server, position)
        state.timers.set("pull", state.ms(state.options.request_min_ms))
        state.send(server, LogReq(position.lsn, state.options.limit_bytes), lsn=first, flags=Flag.PULL)

    def pulled(self) -> None:
        """The log grew by a pull: campaign with it."""
        if self.campaign is not None:
            self._again.reset()
            self._broadcast_vote1()
            self._try_choose()
