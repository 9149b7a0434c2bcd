"""The machine: one site's whole protocol, as a function of what happens and when.

Inputs are methods that take the time: `receive` (rep_process_message), `connected`, `disconnected`,
`submit`, `persisted`, `tick`, `start` (rep_start), `elect` (rep_elect). They answer at once and change
only memory; `take` hands out what is to be done, in the order of its obligations (`effects`). `deadline`
is when `tick` wants to run next.

Where a rule is kept: `rules` says who may take which message and what may leave; `election` R6–R13;
`following` R14, R15, R17 and the pull; `reign` R12, R15, R16, R24; `membership` R4, R20; `state` R2, R18.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from zrep import codec
from zrep.errors import NotMasterError
from zrep.events import Client, DuplicateSite, JoinFailure, LocalSiteRemoved
from zrep.ids import Egen, Gen, GroupId, Lsn, Nanoseconds, Position, SiteId
from zrep.messages import (
    Flag,
    Forward,
    ForwardReply,
    Higher,
    Join,
    JoinReply,
    MasterReq,
    Message,
    NewClient,
    NewSite,
    Read,
    ReadReq,
    Reconfig,
    ReconfigReply,
    Status,
    Sync,
    SyncReq,
    Type,
)
from zrep.options import Options
from zrep.ports import Applied, Log, Meta
from zrep.records import Config, Kind, MemberRole, make_record
from zrep.replica import membership
from zrep.replica.effects import NOTHING, Effects
from zrep.replica.election import Elections
from zrep.replica.following import Following
from zrep.replica.reign import Reigning
from zrep.replica.rules import (
    IGNORE,
    MAX_GEN_JUMP,
    RULES,
    SUCCESS,
    Gate,
    Result,
    ResultCode,
    Role,
    claimed_gen,
)
from zrep.replica.serving import Serving
from zrep.replica.state import State

if TYPE_CHECKING:
    from random import Random

__all__ = ["Replica", "Result", "ResultCode", "Role", "found"]


def found(
    log: Log,
    meta: Meta,
    group: GroupId,
    options: Options,
    *,
    wall_ms: int,
    priority: int = 100,
    endpoints: tuple[str, ...] = (),
    publish: tuple[str, ...] = (),
) -> Meta:
    """Found a group: append its first record, the configuration of one, to an empty log.

    Returns the meta to save once the log is flushed: a crash before leaves a home that founded nothing.
    """
    config = membership.founding(meta.site, endpoints, publish, priority, options.durability)
    if log.tip.lsn == 0:
        log.append(make_record(log.tip, 0, max(wall_ms, 0), Kind.CONFIG, codec.encode_config(config)))
    return meta._replace(group=group)


class Replica:
    """One incarnation of one site."""

    def __init__(
        self,
        *,
        meta: Meta,
        incarnation: int,
        log: Log,
        applied: Applied,
        options: Options,
        rng: "Random",
        now: Nanoseconds,
        priority: int = 100,
        endpoints: tuple[str, ...] = (),
        publish: tuple[str, ...] = (),
    ) -> None:
        self.state = State(
            meta=meta, incarnation=incarnation, log=log, applied=applied, options=options, rng=rng, now=now,
            priority=priority, endpoints=endpoints, publish=publish,
        )  # fmt: skip
        self.elections = Elections(self.state, self._win)
        self.reigning = Reigning(self.state)
        self.following = Following(self.state, self.elections, self.reigning.end)
        self.serving = Serving(self.state)
        self._joining: Join | None = None
        self.join_text = ""
        """Why the group has not admitted this site yet, if it said so."""
        self._handlers: dict[Type, Callable[[Message, Any], Result]] = {
            Type.NEWCLIENT: self._on_newclient,
            Type.NEWSITE: self._on_newsite,
            Type.NEWMASTER: self.following.on_newmaster,
            Type.MASTER_IS: self.following.on_master_is,
            Type.MASTER_REQ: self._on_master_req,
            Type.HEARTBEAT: self.following.on_heartbeat,
            Type.ACK: self.reigning.on_ack,
            Type.LOG: self.following.on_log,
            Type.LOG_REQ: self.serving.on_log_req,
            Type.REREQUEST: self.following.on_rerequest,
            Type.SYNC_REQ: self._on_sync_req,
            Type.SYNC: self._on_sync,
            Type.VOTE1: self.elections.on_vote1,
            Type.VOTE2: self.elections.on_vote2,
            Type.HIGHER: self._on_higher,
            Type.JOIN: self._on_join,
            Type.JOIN_REPLY: self._on_join_reply,
            Type.RECONFIG: self._on_reconfig,
            Type.RECONFIG_REPLY: self._hand_over,
            Type.FORWARD: self._hand_over,
            Type.FORWARD_REPLY: self._hand_over,
            Type.READ_REQ: self._hand_over,
            Type.READ: self._hand_over,
        }
        self._timer_handlers: dict[str, Callable[[], None]] = {
            "silence": lambda: self.following.lose_master("silent"),
            "election": self.elections.on_election_timer,
            "vote1": self.elections.on_vote1_timer,
            "pull": lambda: None,
            "master_req": self.following.look_for_master,
            "sync": self.following.on_sync_timer,
            "gap": self.following.on_gap_timer,
            "heartbeat": self.reigning.on_heartbeat_timer,
            "announce": self.reigning.on_announce_timer,
            "resend": self.reigning.on_resend_timer,
            "quorum": self._on_quorum_timer,
            "join": self._send_join,
        }

    # What a driver may look at.

    @property
    def role(self) -> Role:
        return self.state.role

    @property
    def gen(self) -> Gen:
        return self.state.gen

    @property
    def promise(self) -> Egen:
        return self.state.meta.promise

    @property
    def master(self) -> SiteId | None:
        """The master, as long as it is heard; this site itself, while it reigns."""
        state = self.state
        return state.master if state.role is Role.MASTER or state.hears_master else None

    @property
    def perm(self) -> Lsn:
        return self.state.perm

    @property
    def config(self) -> Config:
        return self.state.config

    @property
    def match(self) -> Lsn:
        return self.state.match

    @property
    def startup_done(self) -> bool:
        return self.following.startup_done

    @property
    def authoritative(self) -> bool:
        """Whether this is a master whose own reign record is permanent (R24)."""
        return self.reigning.authoritative

    @property
    def keep(self) -> Lsn:
        """Records below this LSN may be trimmed: no member needs them (R19)."""
        return self.reigning.keep if self.state.role is Role.MASTER else self.following.keep

    @property
    def deadline(self) -> Nanoseconds | None:
        """When `tick` wants to run next."""
        return self.state.timers.deadline

    @property
    def up(self) -> Collection[SiteId]:
        """The connected sites."""
        return self.state.up

    def gen_at(self, lsn: Lsn) -> Gen:
        """Return the gen of this log's record at `lsn`, trimmed ones included."""
        return self.state.history.gen_at(lsn)

    def holders(self, lsn: Lsn) -> tuple[SiteId, ...]:
        """Return the sites that are known to this master to hold the record at `lsn` durably."""
        return self.reigning.holders(lsn)

    def match_of(self, site: SiteId) -> Lsn | None:
        """Return how far a member's log is known to go: its acknowledged LSN at the master, else None."""
        state = self.state
        if site == state.site:
            return state.log.durable
        return self.reigning.acks.match.get(site) if state.role is Role.MASTER else None

    # Inputs.

    def start(self, now: Nanoseconds) -> None:
        """Begin as a client; a sole voter becomes master at once (Berkeley DB: rep_start)."""
        state = self.state
        state.now = now
        if state.log.tip.gen > state.meta.promise:
            state.promise(state.log.tip.gen)
        if state.config.voters == (state.site,):
            self.elections.start("sole voter")
            return
        state.notify(Client(state.gen))
        if state.meta.group:
            state.send(None, NewClient(), lsn=state.log.tip.lsn)
            self.following.look_for_master()
        self.elections.schedule(soon=True)

    def join(self, now: Nanoseconds, role: MemberRole = MemberRole.VOTER) -> None:
        """Ask every connected site to be admitted, until this site is what it asked to be (JOIN)."""
        state = self.state
        state.now = now
        self._joining = Join(state.site, state.endpoints, state.publish, state.priority, role, state.meta.replaces)
        self._send_join()

    def elect(self, now: Nanoseconds) -> None:
        """Call an election now (Berkeley DB: rep_elect)."""
        self.state.now = now
        self.elections.start("rep_elect")

    def connected(self, now: Nanoseconds, site: SiteId) -> None:
        """The transport exchanged HELLO with a site."""
        state = self.state
        state.now = now
        state.up[site] = None
        if state.role is Role.MASTER:
            if state.config.member(site) is not None:
                self.reigning.announce_to(site)
            elif site in state.config.removed and self.reigning.may_change:
                state.send(site, JoinReply(site, Status.REMOVED, MemberRole.LEARNER))
            return
        self.elections.on_connected(site)
        if state.meta.group:
            self.following.ask_for_master(site)
        if self._joining is not None:
            self._send_join()

    def disconnected(self, now: Nanoseconds, site: SiteId) -> None:
        """The transport lost a site. If that was the master, an election begins at once."""
        state = self.state
        state.now = now
        state.up.pop(site, None)
        if site == state.master and state.role is Role.CLIENT:
            self.following.lose_master("disconnected")

    def duplicate(self, now: Nanoseconds, site: SiteId) -> None:
        """Two processes speak with one site id (R1): if it is ours, stop voting and acknowledging."""
        self.state.now = now
        if site == self.state.site:
            self.state.muted = True
        self.state.notify(DuplicateSite(site))

    def submit(self, now: Nanoseconds, payload: bytes) -> Position:
        """Append the payload of a group commit and publish it; master only."""
        state = self.state
        state.now = now
        if state.role is not Role.MASTER:
            raise NotMasterError("this site is a client: write at the master", self.master)
        return self.reigning.submit(payload)

    def read_index(self, now: Nanoseconds, request: int) -> bool:
        """Begin a read-index round (R23); False where it cannot be answered: not a master, or too young (R24)."""
        self.state.now = now
        if not self.authoritative:
            return False
        self.reigning.read_index(request)
        return True

    def reads_confirmed(self) -> list[tuple[int, Lsn]]:
        """Take the confirmed read-index rounds: (request, LSN to apply first)."""
        return self.reigning.reads_confirmed()

    def persisted(self, now: Nanoseconds) -> None:
        """The log was flushed, at `now`: the next `take` has what may be acknowledged and counted by that."""
        self.state.now = now

    def set_applied(self, lsn: Lsn) -> None:
        """The store has applied everything up to `lsn`."""
        self.state.applied = lsn

    def tick(self, now: Nanoseconds, drained: bool) -> None:
        """Fire the timers that are due; those that detect failure only if the inbox was empty (`timers`)."""
        state = self.state
        deadline = state.timers.deadline
        state.now = now
        if deadline is None or deadline > now:
            return
        while (name := state.timers.take_due(now, drained)) is not None:
            self._timer_handlers[name]()

    def send(self, to: SiteId | None, fields: Any, *, lsn: Lsn = 0, data: bytes = b"") -> None:
        """Send a message of the engine's own business: FORWARD, READ_REQ, and their replies."""
        self.state.send(to, fields, lsn=lsn, data=data)

    @property
    def pending(self) -> bool:
        """Whether `take` has anything to hand out but what time or the log's flush may add."""
        return self.state.effects.any or self.state.log.dirty

    def take(self) -> Effects:
        """Hand out what is to be done; see `effects` for the order."""
        state = self.state
        if state.role is Role.MASTER:
            self.reigning.settle()
        else:
            self.following.settle()
        effects = state.effects
        if not effects.any:
            return NOTHING
        state.effects = Effects()
        return effects

    def receive(self, now: Nanoseconds, message: Message) -> Result:
        """Take in one message (Berkeley DB: rep_process_message). Never raises for what a peer sent."""
        state = self.state
        state.now = now
        rule = RULES.get(message.type)
        if rule is None or message.sender == state.site or message.to not in (None, state.site):
            return IGNORE
        if claimed_gen(message) > state.meta.promise + MAX_GEN_JUMP:
            return IGNORE
        if rule.from_voter and not state.config.is_voter(message.sender):
            return IGNORE
        if rule.role is not None and state.role is not rule.role:
            return IGNORE
        if rule.gate is Gate.FENCED and message.gen < state.meta.promise:
            state.send(message.sender, Higher(state.meta.promise))
            return IGNORE
        if rule.gate is Gate.CURRENT and message.gen != state.gen:
            return IGNORE
        return self._handlers[message.type](message, message.fields)

    # Handlers that belong to no part alone.

    def _win(self, egen: Egen) -> None:
        self.following.forget_reign()
        self.reigning.begin(egen)

    def _step_down(self) -> None:
        self.following.become_client()
        self.following.look_for_master()

    def _on_newclient(self, message: Message, fields: NewClient) -> Result:
        if self.state.role is Role.MASTER:
            self.reigning.announce_to(message.sender)
        return Result(ResultCode.NEWSITE, data=fields.contact)

    def _on_newsite(self, message: Message, fields: NewSite) -> Result:
        return Result(ResultCode.NEWSITE, data=fields.contact)

    def _on_master_req(self, message: Message, fields: MasterReq) -> Result:
        if self.state.role is Role.MASTER:
            self.reigning.announce_to(message.sender)
        elif self.state.hears_master and message.sender != self.state.master:
            self.elections.refuse(message.sender)
        return SUCCESS

    def _on_sync_req(self, message: Message, fields: SyncReq) -> Result:
        state = self.state
        if state.role is Role.MASTER:
            if message.gen == state.gen and self.reigning.went_back(message.sender, message.incarnation, message.lsn):
                return self.serving.on_sync_req(message, fields, Flag.LOST)
            if message.gen < state.gen:
                self.reigning.announce_to(message.sender)
        return self.serving.on_sync_req(message, fields)

    def _on_sync(self, message: Message, fields: Sync) -> Result:
        """Ask to be admitted again if what listed this site was not permanent, and is cut now."""
        result, state = self.following.on_sync(message, fields), self.state
        if result is SUCCESS and self._joining is None and state.config.member(state.site) is None:
            self.join(state.now)
        return result

    def _on_higher(self, message: Message, fields: Higher) -> Result:
        """A voter promised more: a master of a lower gen steps down and campaigns above it (R7)."""
        state = self.state
        self.elections.raise_proposal(fields.promise)
        if state.role is Role.MASTER and fields.promise > state.gen:
            self._step_down()
            self.elections.start("deposed")
        return SUCCESS

    def _on_quorum_timer(self) -> None:
        if self.state.role is not Role.MASTER or not self.reigning.lacks_quorum():
            return
        if self.reigning.withdraw_promotion():
            return
        self._step_down()
        self.elections.schedule(soon=True)

    # Joining.

    def _send_join(self) -> None:
        state, join = self.state, self._joining
        if join is None:
            return
        to = (self.master,) if self.master is not None else tuple(state.up)
        for site in to:
            if site != state.site:
                state.send(site, join)
        state.timers.set("join", state.ms(state.options.request_min_ms * 5))

    def _on_join(self, message: Message, fields: Join) -> Result:
        state = self.state
        if state.role is Role.MASTER:
            return self.reigning.on_join(message, fields)
        master = self.master
        member = state.config.member(master)
        reply = JoinReply(fields.site, Status.BUSY, MemberRole.LEARNER)
        if master is not None and member is not None and master != message.sender:
            reply = JoinReply(fields.site, Status.REDIRECT, MemberRole.LEARNER, master, member.endpoints)
        state.send(message.sender, reply)
        return SUCCESS

    def _on_join_reply(self, message: Message, fields: JoinReply) -> Result:
        state, join = self.state, self._joining
        if fields.site != state.site:
            return IGNORE
        if fields.status is Status.REMOVED and message.gen < state.meta.promise:
            return IGNORE  # whoever is master now may not have removed it
        if join is None:
            if fields.status is Status.REMOVED and not state.muted:
                state.muted = True
                state.notify(LocalSiteRemoved())
            return IGNORE
        if fields.status is Status.REMOVED:
            return self._fail_to_join("the group removed this site, which was replaced: join with an empty home")
        if fields.status is Status.REFUSED:
            return self._fail_to_join(fields.text)
        if message.sender == self.master or fields.text:
            self.join_text = fields.text
        if fields.status is Status.OK:
            if not state.meta.group:
                state.set_meta(state.meta._replace(group=message.group, replaces=SiteId("")))
            if fields.role is join.role:
                self._joining = None
                state.timers.clear("join")
        elif fields.status is Status.REDIRECT:
            self._hand_over(message, fields)
        return SUCCESS

    def _fail_to_join(self, reason: str) -> Result:
        self._joining = None
        self.state.muted = True
        self.state.notify(JoinFailure(reason))
        return Result(ResultCode.JOIN_FAILURE)

    def _on_reconfig(self, message: Message, fields: Reconfig) -> Result:
        if self.state.role is Role.MASTER:
            return self.reigning.on_reconfig(message, fields)
        self.state.send(message.sender, ReconfigReply(fields.request, Status.REDIRECT))
        return SUCCESS

    def _hand_over(
        self, message: Message, fields: Forward | ForwardReply | ReadReq | Read | ReconfigReply | JoinReply
    ) -> Result:
        """The engine's business."""
        self.state.effects.any = True
        self.state.effects.work.append(message)
        return SUCCESS
