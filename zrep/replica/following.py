"""A client's life under a master: adopt its gen, find the common point, take its records, acknowledge.

    NEWMASTER ─► promise gen ─► SYNC_REQ ─► SYNC: cut the tail above the common point ─► LOG_REQ, LOG … ─► ACK

Until SYNC nothing is acknowledged, and live records wait in the inflow. Afterwards this log is a prefix
of the master's, and stays one: a record is appended only if it follows the tip (R14).
"""

from collections.abc import Callable

from zrep.events import Client, Diverged, DupMaster, JoinFailure, MasterFailure, NewMaster, StartupDone
from zrep.ids import Gen, Incarnation, Lsn, Nanoseconds, Position, SiteId
from zrep.messages import (
    HISTORY_LIMIT,
    Ack,
    Flag,
    Heartbeat,
    Higher,
    Log,
    LogReq,
    MasterIs,
    MasterReq,
    Message,
    Rerequest,
    Sync,
    SyncReq,
)
from zrep.messages import (
    NewMaster as NewMasterFields,
)
from zrep.options import MILLISECOND
from zrep.records import History, Record, Reign, Tip, follows
from zrep.replica.election import Elections
from zrep.replica.inflow import Inflow
from zrep.replica.rules import DUPMASTER, IGNORE, SUCCESS, Result, ResultCode, Role
from zrep.replica.state import State
from zrep.replica.timers import Backoff

TOO_FAR_BEHIND = "restore this home from a later backup, as copies of the data cannot be sent yet"


class Following:
    """What this site, as a client, knows of the master's log and of its own agreement with it."""

    def __init__(self, state: State, elections: Elections, end_reign: Callable[[], None]) -> None:
        self.state = state
        self.elections = elections
        self._end_reign = end_reign
        self.startup_done = False
        self._inflow = Inflow(state.options)
        self._master_perm: Lsn = 0
        self._master_incarnation: Incarnation = 0
        self._master_history = History()
        """The master's reigns, perhaps not from the first on: what a record's gen must agree with (R14)."""
        self._stamp: Nanoseconds = 0
        self._ack_due = False
        self._announced: Gen = 0
        self._startup_target: Lsn = 0
        self._relay: SiteId | None = None
        """Who told us of a master that we do not hear ourselves."""
        self._asks_relay = False
        options = state.options
        self._sync_backoff = Backoff(options.request_min_ms * MILLISECOND, options.request_max_ms * MILLISECOND)
        self.keep: Lsn = 0
        """Nobody needs records below this one, says the master (R19)."""

    # Finding a master.

    def lose_master(self, reason: str) -> None:
        """The master's sockets broke, or it fell silent: campaign, or ask around."""
        state = self.state
        if not state.hears_master:
            return
        state.hears_master = False
        state.timers.clear("silence")
        if state.master is not None:
            state.notify(MasterFailure(state.gen, state.master, reason))
        self.elections.start(reason)
        self.look_for_master()

    def look_for_master(self) -> None:
        """Ask who is master; repeated while nobody is heard."""
        state = self.state
        if state.role is Role.CLIENT and not state.hears_master:
            if state.meta.group:
                state.send(None, MasterReq(), lsn=state.log.tip.lsn)
            state.timers.set("master_req", state.ms(state.options.request_max_ms))

    def ask_for_master(self, site: SiteId) -> None:
        if not self.state.hears_master:
            self.state.send(site, MasterReq(), lsn=self.state.log.tip.lsn)

    def become_client(self) -> None:
        """Leave mastership, if we have it: nothing of our reign is acknowledged any more."""
        state = self.state
        if state.role is Role.CLIENT:
            return
        self._end_reign()
        state.role = Role.CLIENT
        state.hears_master = False
        self.forget_reign()
        state.notify(Client(state.gen))

    def forget_reign(self) -> None:
        """Nothing is verified against a master, and nothing is to be acknowledged, until the next SYNC."""
        self.state.synced = False
        self.startup_done = False
        self._inflow.clear()
        self._master_history = History()
        self._master_perm = 0
        self._ack_due = False
        self._stamp = 0
        self._relay = None
        self._sync_backoff.reset()
        for name in ("sync", "gap"):
            self.state.timers.clear(name)

    def on_newmaster(self, message: Message, fields: NewMasterFields) -> Result:
        result = self._adopt(message.gen, message.sender, fields.history, fields.perm, message.lsn)
        if result.code is ResultCode.IGNORE:
            return result
        self._master_incarnation = message.incarnation
        self._hear(self._stamp)
        self._note_end(message.lsn)
        return result

    def on_master_is(self, message: Message, fields: MasterIs) -> Result:
        """A refusal to elect; and, for a site that cannot hear the master, the way to follow it (R11)."""
        state = self.state
        if message.gen < state.meta.promise or fields.master == state.site or message.sender == state.site:
            return IGNORE
        campaign = self.elections.campaign
        if campaign is not None and campaign.voted:
            return IGNORE
        if fields.master == message.sender:
            self.ask_for_master(message.sender)
            return SUCCESS
        if state.hears_master and message.gen <= state.gen:
            return IGNORE
        if state.gen != message.gen or not state.synced:
            result = self._adopt(message.gen, fields.master, (), fields.perm, message.lsn)
            if result.code is ResultCode.IGNORE:
                return result
        self._relay = message.sender
        self._master_perm = max(self._master_perm, fields.perm)
        self.ask_for_master(fields.master)
        self._note_end(message.lsn)
        return SUCCESS

    def _adopt(self, gen: Gen, master: SiteId, reigns: tuple[Reign, ...], perm: Lsn, end: Lsn) -> Result:
        """Follow the master of `gen`. The promise is durable before anything is acknowledged to it (R7)."""
        state = self.state
        if gen == state.gen and (state.role is Role.MASTER or (state.master is not None and master != state.master)):
            return IGNORE  # a second master of one gen cannot be (I1); whoever says so is mistaken
        result = SUCCESS
        if gen != state.gen or state.master is None:
            if state.role is Role.MASTER:
                state.notify(DupMaster(gen))
                self.become_client()
                result = DUPMASTER
            self.forget_reign()
            state.promise(gen)
            state.gen, state.master = gen, master
            state.hears_master = False
            self._startup_target = end
        state.established = True
        if reigns:
            self._master_history = History(reigns)
        self._master_perm = max(self._master_perm, perm)
        if self._announced < gen:
            self._announced = gen
            state.notify(NewMaster(gen, master))
        return result

    def _hear(self, stamp: Nanoseconds) -> None:
        """The master spoke to us. What trickles in after its sockets broke is no sign of life (R11)."""
        state = self.state
        if state.master not in state.up:
            return
        if not state.hears_master:
            state.hears_master = True
            self.elections.stop()
            state.timers.clear("master_req")
            self._relay = None
        self._stamp = max(self._stamp, stamp)
        state.timers.set("silence", state.ms(state.options.election_timeout_ms))

    def _speaks_for_our_master(self, message: Message) -> bool:
        """Whether a LOG or HEARTBEAT is from the master that we follow, in this run of it.

        One of another gen, not lower than our promise, is from a master that we have not met: ask it.
        """
        state = self.state
        if message.gen == state.gen and message.sender == state.master and state.role is Role.CLIENT:
            return message.incarnation == self._master_incarnation or not self._master_incarnation
        if message.gen > state.gen or state.master is None:
            state.send(message.sender, MasterReq(), lsn=state.log.tip.lsn)
        return False

    # The common point.

    def _request_sync(self) -> None:
        """Ask the master where our logs part; while we do not hear it, by turns also who told us of it."""
        state = self.state
        self._asks_relay = self._relay is not None and not state.hears_master and not self._asks_relay
        to = self._relay if self._asks_relay else state.master
        if to is None or to == state.site:
            return
        fields = SyncReq(state.position.gen, state.perm, state.history.since(state.perm, HISTORY_LIMIT))
        state.send(to, fields, lsn=state.log.tip.lsn)
        state.timers.set("sync", state.now + self._sync_backoff.pause())

    def on_sync_timer(self) -> None:
        if not self.state.synced and self.state.master is not None and self.state.role is Role.CLIENT:
            self._request_sync()

    def on_sync(self, message: Message, fields: Sync) -> Result:
        """Cut what the master does not have; from here on our log is a prefix of its log."""
        state, common = self.state, message.lsn
        answers = (fields.asker, fields.asker_last) == (state.incarnation, state.position)
        if state.synced or not answers or common > state.log.tip.lsn or message.gen < state.meta.promise:
            return IGNORE
        ours = state.log.chain(common)
        if message.flags & Flag.LOST or common < state.perm or (ours is not None and ours != fields.chain):
            return self._diverged(common)
        state.cut(common)
        state.synced = True
        self._ack_due = True
        state.timers.clear("sync")
        self._append_held()
        self._check_startup()
        state.timers.set("gap", state.now + self._inflow.pause())  # what follows was sent with the SYNC
        return SUCCESS

    def _diverged(self, lsn: Lsn) -> Result:
        """Our log is not what the group made permanent: this disk cannot vouch for anything (R4)."""
        state = self.state
        if not state.muted:
            state.muted = True
            state.set_meta(state.meta._replace(doubtful=True))
            state.notify(Diverged(lsn))
        return Result(ResultCode.JOIN_FAILURE, lsn)

    # Records.

    def on_log(self, message: Message, fields: Log) -> Result:
        state = self.state
        if message.flags & Flag.PULL:
            return self._on_pulled(message, fields)
        if message.gen < state.meta.promise:
            if message.to is None:
                state.send(message.sender, Higher(state.meta.promise))
            return IGNORE
        live = message.to is None
        if live:
            if not self._speaks_for_our_master(message):
                return IGNORE
            self._hear(fields.stamp)
        elif message.gen != state.gen:
            return IGNORE
        self._ack_due = True
        self._master_perm = max(self._master_perm, fields.perm)
        before = state.log.tip.lsn
        for record in message.records:
            if not self._take(record):
                return self._diverged(record.lsn)
        self._append_held()
        last = message.lsn + len(message.records)
        if state.log.tip.lsn > before:
            self._inflow.backoff.reset()
            state.timers.clear("gap")
        self._check_startup()
        if message.flags & Flag.MORE and state.synced:
            self._request(message.sender)
        else:
            self._note_end(last)
        code = ResultCode.ISPERM if last <= state.match else ResultCode.NOTPERM
        return Result(code, last)

    def _take(self, record: Record) -> bool:
        """Append a record, hold it, or recognise it; False if it contradicts our log (R14)."""
        state = self.state
        tip = state.log.tip
        if not state.synced or record.lsn > tip.lsn + 1:
            self._inflow.hold(record)
            return True
        if record.lsn <= tip.lsn:
            return record.gen == state.history.gen_at(record.lsn)
        if not follows(tip, record) or self._master_history.gen_at(record.lsn) not in (0, record.gen):
            return False
        state.append(record)
        return True

    def _append_held(self) -> None:
        state = self.state
        if state.synced and self._inflow.held:
            self._inflow.forget_below(state.log.tip.lsn + 1)
            for record in self._inflow.in_order(state.log.tip):
                state.append(record)

    def _ask_if_behind(self) -> None:
        """Ask for what is missing; at once the first time, then as the back-off says."""
        state, end = self.state, self.state.log.tip.lsn
        if self._inflow.known_end > end and "gap" not in state.timers and self._end_wanted() > end:
            self._request(self._anybody())

    def _end_wanted(self) -> Lsn:
        held = self._inflow.first_held()
        return self._inflow.known_end if held is None else min(held - 1, self._inflow.known_end)

    def _request(self, server: SiteId | None) -> None:
        state = self.state
        if server is None or server == state.site:
            return
        flags = Flag.ANYWHERE if server != state.master else Flag.REREQUEST
        fields = LogReq(self._end_wanted(), state.options.limit_bytes)
        state.send(server, fields, lsn=state.log.tip.lsn + 1, flags=flags)
        state.timers.set("gap", state.now + self._inflow.pause())

    def _anybody(self) -> SiteId | None:
        """Whom to ask first: any connected site but the master, which has enough to do."""
        state = self.state
        if self._relay is not None and not state.hears_master:
            return self._relay
        others = [site for site in state.up if site != state.master and state.config.member(site)]
        return state.rng.choice(others) if others else state.master

    def on_gap_timer(self) -> None:
        state = self.state
        if state.synced and self._end_wanted() > state.log.tip.lsn:
            self._request(state.master if state.hears_master or self._relay is None else self._relay)

    def on_rerequest(self, message: Message, fields: Rerequest) -> Result:
        """The asked site cannot serve: turn to the master."""
        state = self.state
        asked = state.log.tip.lsn + 1 if state.synced else state.log.tip.lsn  # LOG_REQ, or SYNC_REQ
        if message.lsn != asked:
            return IGNORE  # the answer to a request that others have met meanwhile
        if message.sender == state.master:
            state.notify(JoinFailure(f"the master's log no longer reaches back to LSN {message.lsn}: {TOO_FAR_BEHIND}"))
            return Result(ResultCode.JOIN_FAILURE, message.lsn)
        if not state.synced:
            self._request_sync()
        elif self._end_wanted() > state.log.tip.lsn:
            self._request(state.master)
        return SUCCESS

    def _note_end(self, end: Lsn) -> None:
        """The master's log reaches to `end`: ask for what is missing, or first for the common point."""
        self._inflow.known_end = max(self._inflow.known_end, end)
        if self.state.synced:
            self._ask_if_behind()
        elif "sync" not in self.state.timers:
            self._request_sync()

    def on_heartbeat(self, message: Message, fields: Heartbeat) -> Result:
        """The master's end reveals a lost tail; the chain there reveals a log that is not its own."""
        state = self.state
        if not self._speaks_for_our_master(message):
            return IGNORE
        self._hear(fields.stamp)
        self._ack_due = True
        self._master_perm = max(self._master_perm, fields.perm)
        self.keep = max(self.keep, fields.keep)
        if state.synced:
            if message.lsn == state.log.tip.lsn and fields.chain != state.log.tip.chain:
                return self._diverged(message.lsn)
            self._check_startup()
        self._note_end(message.lsn)
        return SUCCESS

    def _check_startup(self) -> None:
        state = self.state
        if state.synced and not self.startup_done and state.log.tip.lsn >= self._startup_target:
            self.startup_done = True
            state.notify(StartupDone(state.gen, state.log.tip.lsn))

    # The end of a turn.

    def settle(self) -> None:
        """When nothing waits for a flush: acknowledge, and raise perm to what is permanent *and* ours (R17)."""
        state = self.state
        if not state.synced or state.muted or state.log.dirty:
            return
        match = state.match
        state.raise_perm(min(self._master_perm, match))
        if self._ack_due and state.master is not None and state.gen == state.meta.promise:
            self._ack_due = False
            state.send(state.master, Ack(self._master_incarnation, state.applied, self._stamp), lsn=match)

    # The election pull.

    def _on_pulled(self, message: Message, fields: Log) -> Result:
        """Take a better log's records before an election (R13). Never acknowledged before a SYNC.

        A conflict may be cut, above perm, because the server's last position is not below ours: every
        record that is permanent, or may yet become so, is then in the server's log.
        """
        state = self.state
        server = Position(fields.last_gen, fields.last_lsn)
        if state.hears_master or state.role is Role.MASTER or server < state.position:
            return IGNORE
        grown = False
        for record in message.records:
            before, end = record.lsn - 1, state.log.tip.lsn
            if record.lsn <= state.perm or (record.lsn <= end and record.gen == state.history.gen_at(record.lsn)):
                continue
            chain = state.log.chain(before) if before <= end else None
            if chain is None or not follows(Tip(state.history.gen_at(before), before, chain), record):
                return IGNORE
            state.cut(before)
            if record.gen > state.meta.promise:
                state.promise(record.gen)
            state.synced = False
            state.append(record)
            grown = True
        if message.flags & Flag.MORE and state.position < server:
            self.elections.pull(message.sender, server, message.lsn + len(message.records) + 1)
        if grown:
            self.elections.pulled()
        return SUCCESS
