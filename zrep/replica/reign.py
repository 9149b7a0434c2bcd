"""A master's duties: its reign record, its records on the wire, counting acknowledgements, stepping down.

begin ─► reign record ─► NEWMASTER ─► LOG … ACK ─► perm ─► … ─► end
                                      └ HEARTBEAT when idle, so that a lost tail is noticed
"""

from zrep import codec
from zrep.events import Client, Master, QuorumLost, SiteWentBack
from zrep.ids import Egen, Gen, Incarnation, Lsn, Nanoseconds, Position, SiteId
from zrep.messages import (
    HISTORY_LIMIT,
    Ack,
    Flag,
    Heartbeat,
    Join,
    JoinReply,
    Log,
    Message,
    NewMaster,
    Reconfig,
    ReconfigReply,
    Status,
)
from zrep.options import MILLISECOND
from zrep.records import Config, Kind, MemberRole, Record
from zrep.replica import membership
from zrep.replica.acks import Acks
from zrep.replica.rules import SUCCESS, Result, Role
from zrep.replica.state import State
from zrep.replica.timers import Backoff

ANNOUNCE_PERM_MS = 2
"""An idle master tells its clients of a new perm after this long; a busy one does with its next LOG."""
TRIMMED = (
    "a new site needs the whole log, which was trimmed here (option retain_bytes) or begun anew after a crash, "
    "and copies of the data cannot be sent yet: go on with the sites that there are, or restore this one's home"
)


class Reigning:
    """What this site does while it is master; idle otherwise."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.acks = Acks()
        self.reign_lsn: Lsn = 0
        """This reign's own reign record: before it is permanent, nothing is (R16, R24)."""
        self._began: Nanoseconds = 0
        self._told_perm: Lsn = 0
        self._counted: Lsn = 0
        """How far the own log was flushed when the sites that hold records were last counted."""
        self._ever_acked: dict[SiteId, Lsn] = {}
        self._settled: Config | None = None
        """A configuration that calls for no change."""
        self._incarnations: dict[SiteId, set[Incarnation]] = {}
        """The runs of each site that have spoken of their log to this one."""
        self._lost: set[Incarnation] = set()
        """Those that lack what their site once acknowledged."""
        options = state.options
        self._resend = Backoff(options.request_min_ms * MILLISECOND, options.request_max_ms * MILLISECOND)
        self._reads: dict[int, tuple[Nanoseconds, Lsn]] = {}

    @property
    def authoritative(self) -> bool:
        """Whether this master's perm is the group's: its own reign record is permanent (R24)."""
        return self.state.role is Role.MASTER and self.state.perm >= self.reign_lsn

    # The reign.

    def begin(self, egen: Egen) -> None:
        """Become master of gen `egen`. Nothing is permanent before the reign record is (R16)."""
        state = self.state
        state.role, state.gen, state.master = Role.MASTER, egen, state.site
        state.hears_master = False
        state.established = True
        self.acks = Acks()
        self._began = state.now
        self._told_perm = state.perm
        self._counted = 0
        self._reads.clear()
        self._resend.reset()
        for name in ("silence", "sync", "gap", "master_req"):
            state.timers.clear(name)
        self._append(Kind.REIGN, codec.encode_reign(state.site))
        self.reign_lsn = state.log.tip.lsn
        self._announce(None)
        state.notify(Master(egen))
        state.timers.set("heartbeat", state.ms(state.options.heartbeat_ms))
        state.timers.set("quorum", state.ms(max(state.options.quorum_timeout_ms // 4, 1)))

    def end(self) -> None:
        """The reign is over: its timers stop."""
        self._reads.clear()
        for name in ("heartbeat", "quorum", "resend", "announce"):
            self.state.timers.clear(name)

    def _announce(self, to: SiteId | None) -> None:
        """NEWMASTER: the reign has begun, or goes on."""
        state = self.state
        tip = state.log.tip
        fields = NewMaster(tip.chain, state.perm, state.history.since(0, HISTORY_LIMIT))
        if to is not None or len(state.config.members) > 1:
            state.send(to, fields, lsn=tip.lsn)

    def announce_to(self, site: SiteId) -> None:
        self._announce(site)

    # Records.

    def submit(self, payload: bytes) -> Position:
        """Append the payload of one group commit as a record, and publish it."""
        return self._append(Kind.COMMIT, payload).position

    def _append(self, kind: Kind, payload: bytes) -> Record:
        state = self.state
        record = state.append_own(kind, payload)
        if len(state.config.members) > 1:
            self._told_perm = state.perm
            fields = Log(state.perm, state.now)
            state.send(None, fields, lsn=record.lsn - 1, flags=Flag.PERM, records=(record,))
            state.timers.clear("announce")
            state.timers.set("heartbeat", state.ms(state.options.heartbeat_ms))
            if "resend" not in state.timers:
                self._resend.reset()
                state.timers.set("resend", state.now + self._resend.pause())
        return record

    def _heartbeat(self, to: SiteId | None, flags: int = Flag.NONE) -> None:
        state = self.state
        tip = state.log.tip
        state.send(to, Heartbeat(tip.chain, state.perm, state.now, self._keep()), lsn=tip.lsn, flags=flags)

    def _keep(self) -> Lsn:
        """Nobody needs records below this LSN: every member holds them (R19)."""
        state = self.state
        others = (self.acks.match.get(member.site, 0) for member in state.config.members if member.site != state.site)
        return min(min(others, default=state.perm), state.perm)

    @property
    def keep(self) -> Lsn:
        return self._keep()

    # Acknowledgements.

    def on_ack(self, message: Message, fields: Ack) -> Result:
        """Count an acknowledgement of this reign (R15)."""
        state, sender = self.state, message.sender
        if fields.master_incarnation not in (0, state.incarnation) or message.lsn > state.log.tip.lsn:
            return SUCCESS
        self._incarnations.setdefault(sender, set()).add(message.incarnation)
        self.acks.ack(sender, message.lsn, min(fields.stamp, state.now))
        if message.lsn > state.perm:
            self._count()
        return SUCCESS

    def went_back(self, site: SiteId, incarnation: Incarnation, end: Lsn) -> bool:
        """Compare a site's end with what it once acknowledged as permanent: less means it lost records (R5).

        Decided at first sight of an incarnation: one that acknowledged has records, and a late or repeated
        request of an earlier one says what was true then.
        """
        incarnations = self._incarnations.setdefault(site, set())
        acknowledged = self._ever_acked.get(site, 0)
        if incarnation not in incarnations and end < acknowledged:
            self._lost.add(incarnation)
            self.state.notify(SiteWentBack(site, acknowledged, end))
        incarnations.add(incarnation)
        return incarnation in self._lost

    def _count(self) -> None:
        """Advance perm by what a majority holds."""
        state = self.state
        self._counted = state.log.durable
        held = self.acks.held_by_majority(state.config, state.site, state.log.durable)
        if held > state.perm and held >= self.reign_lsn:  # R16: only a record of the own gen carries perm
            state.raise_perm(held)
            for site, match in self.acks.match.items():
                self._ever_acked[site] = max(self._ever_acked.get(site, 0), min(match, state.perm))

    def settle(self) -> None:
        """Count, and do what waits for permanence."""
        state = self.state
        if state.log.durable != self._counted or state.config is not self._settled:
            self._count()
        if state.perm > self._told_perm and "announce" not in state.timers and len(state.config.members) > 1:
            state.timers.set("announce", state.ms(ANNOUNCE_PERM_MS))
        if state.perm == state.log.tip.lsn:
            state.timers.clear("resend")
        if state.config is not self._settled and self.may_change:
            self._improve()

    def holders(self, lsn: Lsn) -> tuple[SiteId, ...]:
        return self.acks.holders(lsn, self.state.site, self.state.log.durable)

    # Membership.

    def change(self, config: Config) -> None:
        """Append a configuration; the last one is permanent, and so is a record of this gen (R20)."""
        self._append(Kind.CONFIG, codec.encode_config(config))

    @property
    def may_change(self) -> bool:
        return self.authoritative and self.state.config_lsn <= self.state.perm

    def _improve(self) -> None:
        """Make the change that the configuration in force calls for, if any."""
        state = self.state
        own = state.config.member(state.site)
        if own is not None and state.endpoints:
            now = own._replace(endpoints=state.endpoints, publish=state.publish, priority=state.priority)
            if now != own:  # started at another address, or with another priority
                self.change(state.config.with_member(now))
                return
        if len(state.config.voters) == len(state.config.members):
            self._settled = state.config
            return
        self._promote_learner()

    def _promote_learner(self) -> None:
        state = self.state
        fresh = state.now - 2 * state.options.heartbeat_ms * MILLISECOND
        ready = [
            site
            for site, match in self.acks.match.items()
            if match >= state.perm and self.acks.stamp.get(site, 0) >= fresh
        ]
        config = membership.promote(state.config, ready)
        if config is not None:
            self.change(config)

    def on_join(self, message: Message, fields: Join) -> Result:
        """Admit a site, or tell it what it is by now; idempotent by site id."""
        state = self.state
        member = state.config.member(fields.site)
        outcome = membership.admit(state.config, fields, (*state.up, state.site))
        if isinstance(outcome, Config) and member is None and state.log.first > 1:
            outcome = membership.Refusal(Status.REFUSED, TRIMMED)
        status, text = outcome if isinstance(outcome, membership.Refusal) else (Status.BUSY, "")
        if isinstance(outcome, Config) and self.may_change:
            self.change(outcome)
        if status in (Status.OK, Status.REMOVED) and not self.may_change:
            status = Status.BUSY
        member = state.config.member(fields.site)
        role = member.role if member is not None else MemberRole.LEARNER
        state.send(message.sender, JoinReply(fields.site, status, role, state.site, state.endpoints, text))
        if status is Status.OK:
            self._announce(message.sender)
        return SUCCESS

    def on_reconfig(self, message: Message, fields: Reconfig) -> Result:
        """Change a member's priority."""
        state = self.state
        member = state.config.member(fields.site)
        status, text = Status.OK, ""
        if member is None:
            status, text = Status.REFUSED, f"no member has the site id {fields.site}"
        elif member.priority != fields.priority:
            status = Status.BUSY
            if self.may_change:
                self.change(state.config.with_member(member._replace(priority=fields.priority)))
        elif not self.may_change:
            status = Status.BUSY
        state.send(message.sender, ReconfigReply(fields.request, status, text))
        return SUCCESS

    # Authoritative reads.

    def read_index(self, request: int) -> None:
        """Begin a read-index round: done when a majority echoes a stamp taken after now (R23)."""
        state = self.state
        self._reads[request] = (state.now, max(state.perm, self.reign_lsn))
        if len(state.config.voters) > 1:
            self._heartbeat(None)

    def reads_confirmed(self) -> list[tuple[int, Lsn]]:
        """Take the read-index rounds that are confirmed: (request, LSN to wait for)."""
        state = self.state
        if not self._reads or not self.authoritative:
            return []
        echoed = self.acks.echoed_by_majority(state.config, state.site, state.now)
        done = [(request, lsn) for request, (stamp, lsn) in self._reads.items() if echoed >= stamp]
        for request, _ in done:
            del self._reads[request]
        return done

    # Timers.

    def on_heartbeat_timer(self) -> None:
        """Speak to all; and once more, directly, to voters whose answers are missing."""
        state = self.state
        if len(state.config.members) > 1:
            self._told_perm = state.perm
            state.timers.clear("announce")
            self._heartbeat(None)
            late = state.now - state.options.election_timeout_ms * MILLISECOND // 5
            for site in state.config.voters:
                if site != state.site and site in state.up and self.acks.stamp.get(site, self._began) < late:
                    self._announce(site) if site not in self.acks.match else self._heartbeat(site)
        state.timers.set("heartbeat", state.ms(state.options.heartbeat_ms))

    def on_announce_timer(self) -> None:
        if self.state.perm > self._told_perm:
            self._told_perm = self.state.perm
            self._heartbeat(None)

    def on_resend_timer(self) -> None:
        """No quorum has answered: repeat the end, so that whoever missed it asks."""
        state = self.state
        if state.perm < state.log.tip.lsn:
            self._heartbeat(None, Flag.RESEND)
            state.timers.set("resend", state.now + self._resend.pause())

    def lacks_quorum(self) -> bool:
        """Check-quorum (R12): no majority has echoed a stamp within quorum_timeout."""
        state = self.state
        state.timers.set("quorum", state.ms(max(state.options.quorum_timeout_ms // 4, 1)))
        echoed = max(self.acks.echoed_by_majority(state.config, state.site, state.now), self._began)
        if state.now - echoed <= state.options.quorum_timeout_ms * MILLISECOND:
            return False
        state.notify(QuorumLost(state.gen))
        return True

    def withdraw_promotion(self) -> bool:
        """As the only voter so far, take back the promotion of a second one that died (R20).

        The promotion is in force but cannot become permanent without the second voter. A new reign under
        the old configuration, whose one voter we are, cuts it. The second voter, if it ever got the
        record, cannot win without our vote, and our log is now the better one (R8). Only in the reign that
        made it: in a later one the second may have reigned in between, and made more permanent than we know.
        """
        state = self.state
        previous = state.previous_config
        if previous is None or previous.voters != (state.site,) or state.config_lsn <= state.perm:
            return False
        if state.history.gen_at(state.config_lsn) != state.gen:
            return False
        egen: Gen = state.meta.promise + 1
        state.promise(egen, state.site)
        state.role = Role.CLIENT
        state.notify(Client(state.gen))
        state.cut(state.config_lsn - 1)
        self.begin(egen)
        return True
