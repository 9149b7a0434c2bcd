"""Answering what other sites ask of our log: records, and the common point.

A master serves its whole log. A client serves only its own gen, and only up to its match: what it
verified against the master of that gen. An election pull is the exception: no master vouches for
those records, and the asker knows (R13).
"""

from zrep.ids import Lsn, SiteId
from zrep.messages import Flag, Log, LogReq, Message, Rerequest, Sync, SyncReq
from zrep.replica.rules import IGNORE, SUCCESS, Result, Role
from zrep.replica.state import State
from zrep.replica.sync import common_point


class Serving:
    """Answers LOG_REQ and SYNC_REQ."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _verified_end(self) -> Lsn:
        """How far this site can vouch for its log in its gen."""
        state = self.state
        return state.log.tip.lsn if state.role is Role.MASTER else state.match

    def on_log_req(self, message: Message, fields: LogReq) -> Result:
        state = self.state
        pull = bool(message.flags & Flag.PULL)
        end = state.log.durable if pull else self._verified_end()
        serves = pull or message.gen == state.gen
        first = max(message.lsn, state.log.first) if pull else message.lsn  # what was trimmed, every member has
        if not serves or first > end or first < state.log.first:
            deposed = state.role is Role.CLIENT and state.master == state.site
            if not pull and not deposed and (state.role is Role.CLIENT or first < state.log.first):
                state.send(message.sender, Rerequest(), lsn=message.lsn)
            return IGNORE
        last = end if pull else min(end, max(fields.last, message.lsn))
        self._serve(message.sender, first, last, fields.limit_bytes, pull)
        return SUCCESS

    def _serve(self, asker: SiteId, lsn: Lsn, last: Lsn, limit_bytes: int, pull: bool) -> None:
        """Send records `lsn`..`last`, up to the limit; the last message says LOG_END or MORE."""
        state = self.state
        left = min(limit_bytes, state.options.limit_bytes)
        fields = Log(0, 0, *state.position) if pull else Log(state.perm, 0)
        base = Flag.PULL if pull else Flag.NONE
        while lsn <= last:
            records = tuple(state.log.read(lsn, last, state.options.bulk_bytes))
            if not records:
                return
            before, lsn = lsn - 1, records[-1].lsn + 1
            left -= sum(len(record.raw) for record in records)
            flag = Flag.LOG_END if lsn > last else Flag.MORE if left <= 0 else Flag.NONE
            state.send(asker, fields, lsn=before, flags=base | flag, records=records)
            if left <= 0:
                return

    def on_sync_req(self, message: Message, fields: SyncReq, flags: int = Flag.NONE) -> Result:
        """Tell where the asker's log and the master's part, and send what follows.

        A client may answer only if the answer does not depend on what lies beyond its own match.
        """
        state = self.state
        end = self._verified_end()
        if message.gen != state.gen or (state.role is Role.CLIENT and not state.synced):
            return IGNORE
        common = common_point(state.history.reigns, end, fields.history, message.lsn, fields.perm)
        chain = state.log.chain(common)
        if chain is None or common > end or (state.role is Role.CLIENT and common == end < message.lsn):
            state.send(message.sender, Rerequest(), lsn=message.lsn)
            return IGNORE
        sync = Sync(chain, message.incarnation, (fields.last_gen, message.lsn))
        state.send(message.sender, sync, lsn=common, flags=flags)
        if common < end:  # saves the asker a round trip, at the moment when a new reign waits for its acks
            self._serve(message.sender, common + 1, end, state.options.limit_bytes, pull=False)
        return SUCCESS
