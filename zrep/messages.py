"""Every message between sites: types, flags and fields. Bytes are the codec's business.

On the wire a message is `[control, rec]`; `control` is one array of fixed order:

    magic version type group sender incarnation to gen lsn flags field…

`lsn` is the one LSN the message is about; each type says which. Type codes are frozen for ever.
"""

from enum import IntEnum
from typing import Any, Final, NamedTuple

from zrep.ids import Egen, Gen, GroupId, Incarnation, Lsn, Nanoseconds, SiteId
from zrep.records import MemberRole, Record, Reign

HISTORY_LIMIT = 512
"""At most this many reigns travel in one message: the newest."""
TEXT_LIMIT = 1000
"""Longest text of an answer, in characters: an error may quote what a stranger sent."""


class Type(IntEnum):
    """Message types; docs/protocol.md says who sends them to whom, and why."""

    HELLO = 1
    NEWCLIENT = 2
    NEWSITE = 3
    NEWMASTER = 4
    MASTER_IS = 5
    MASTER_REQ = 6
    HEARTBEAT = 7
    ACK = 8
    LOG = 9
    LOG_REQ = 10
    REREQUEST = 11
    SYNC_REQ = 12
    SYNC = 13
    VOTE1 = 14
    VOTE2 = 15
    HIGHER = 16
    JOIN = 17
    JOIN_REPLY = 18
    RECONFIG = 19
    RECONFIG_REPLY = 20
    FORWARD = 21
    FORWARD_REPLY = 22
    READ_REQ = 23
    READ = 24


class Flag:
    """Control flags: plain integers, as they are combined for every message."""

    NONE: Final = 0
    PERM: Final = 1
    """Carries records to acknowledge."""
    RESEND: Final = 2
    """The master repeats its end because no quorum has answered."""
    REREQUEST: Final = 4
    """A request that was made before."""
    ANYWHERE: Final = 8
    """Any site that is up to date may answer."""
    LOG_END: Final = 16
    """The last records the server has."""
    MORE: Final = 32
    """The byte limit was reached; ask again from where this ended."""
    TRANSFER: Final = 64
    APPOINTED: Final = 128
    GROUP_ESTD: Final = 256
    """The sender has seen a master since boot."""
    PULL: Final = 512
    """An election pull: no master vouches for these records (R13)."""
    LOST: Final = 1024
    """Of a SYNC: the asker once acknowledged permanent records that its log does not hold any more (R5)."""


class Hello(NamedTuple):
    """lsn: unused. What a site says of itself on connect and on change; hints, all of it."""

    endpoints: tuple[str, ...]
    publish: tuple[str, ...]
    sees_you: bool
    """The sender's XPUB has the receiver's own topic: no broadcast to it is missed any more."""
    software: str = ""


class NewClient(NamedTuple):
    """lsn: own end. A site has started."""

    contact: bytes = b""


class NewSite(NamedTuple):
    """lsn: unused. Contact data of a third site."""

    contact: bytes = b""


class NewMaster(NamedTuple):
    """lsn: the master's end. A reign has begun, or goes on."""

    chain: int
    perm: Lsn
    history: tuple[Reign, ...]


class MasterIs(NamedTuple):
    """gen, lsn: of the master that the sender hears; lsn is the sender's match. A refusal to elect."""

    master: SiteId
    perm: Lsn
    history: tuple[Reign, ...]


class MasterReq(NamedTuple):
    """lsn: own end. Who is master?"""


class Heartbeat(NamedTuple):
    """lsn: the master's end."""

    chain: int
    perm: Lsn
    stamp: Nanoseconds
    """The master's clock at sending; echoed in ACK as evidence for check-quorum (R12)."""
    keep: Lsn = 0
    """Nobody needs records below this one (R19)."""


class Ack(NamedTuple):
    """lsn: the match: everything up to it is durable and verified against the master of `gen` (R15)."""

    master_incarnation: Incarnation
    """The master's incarnation that is acknowledged."""
    applied: Lsn
    stamp: Nanoseconds
    """The newest stamp heard in this gen."""


class Log(NamedTuple):
    """lsn: the LSN before the first record. Live from the master, or the answer to a LOG_REQ."""

    perm: Lsn
    stamp: Nanoseconds
    last_gen: Gen = 0
    """With PULL: the gen of the server's last record."""
    last_lsn: Lsn = 0
    """With PULL: that record's LSN."""


class LogReq(NamedTuple):
    """lsn: the first LSN wanted."""

    last: Lsn
    limit_bytes: int


class Rerequest(NamedTuple):
    """lsn: that of the request that cannot be served here: ask the master."""


class SyncReq(NamedTuple):
    """lsn: own end. Where do our logs part?"""

    last_gen: Gen
    perm: Lsn
    """A common point at least: what is permanent is the same everywhere."""
    history: tuple[Reign, ...]
    """Own reigns above `perm`."""


class Sync(NamedTuple):
    """lsn: the common point."""

    chain: int
    asker: Incarnation
    asker_last: tuple[Gen, Lsn]
    """The request this answers: another log of the asker, though it may end at the same LSN, must not be
    cut by it."""


class Vote1(NamedTuple):
    """lsn: own end. Not binding: who has the best log, and who hears whom (R9, R11)."""

    egen: Egen
    last_gen: Gen
    priority: int
    heard: tuple[SiteId, ...]
    """Whose VOTE1 of this egen the sender holds."""


class Vote2(NamedTuple):
    """lsn: unused. Binding and durable: one per egen (R8)."""

    egen: Egen
    candidate: SiteId
    candidate_incarnation: Incarnation
    """A vote answers one campaign of one run of it."""


class Higher(NamedTuple):
    """lsn: unused. The sender promised more than the gen or egen it was sent (R7)."""

    promise: Egen


class Status(IntEnum):
    """How a request went."""

    OK = 0
    BUSY = 1
    """Ask again in a moment."""
    REDIRECT = 2
    """Not the master; `master` and `endpoints` of the reply say who is, as far as known."""
    REMOVED = 3
    NOT_APPLIED = 4
    UNKNOWN = 5
    CONFLICT = 6
    TOO_LARGE = 7
    REFUSED = 8
    """The request is wrong; `text` says why."""


class Join(NamedTuple):
    """lsn: unused. Make me a member; idempotent by site id."""

    site: SiteId
    endpoints: tuple[str, ...]
    publish: tuple[str, ...]
    priority: int
    role: MemberRole
    replaces: SiteId = SiteId("")
    forwarded: bool = False


class JoinReply(NamedTuple):
    """lsn: unused. With OK, `role` is what the site permanently is."""

    site: SiteId
    status: Status
    role: MemberRole
    master: SiteId = SiteId("")
    endpoints: tuple[str, ...] = ()
    text: str = ""
    """Why not, or not yet."""


class Reconfig(NamedTuple):
    """lsn: unused. Change a member's priority."""

    request: int
    site: SiteId
    priority: int
    forwarded: bool = False


class ReconfigReply(NamedTuple):
    """lsn: unused."""

    request: int
    status: Status
    text: str = ""


class Forward(NamedTuple):
    """lsn: unused; data: the batch. A write for the master; at most once by (session, seq) (R25)."""

    session: str
    seq: int
    deadline_ms: int
    """How long the asker still waits, at sending."""
    acks: int = -1
    """Ack policy asked for; -1 for the environment's."""


class ForwardReply(NamedTuple):
    """lsn: the record's LSN with OK; data: the value found with CONFLICT."""

    session: str
    seq: int
    status: Status
    gen: Gen = 0
    """The record's gen."""
    site: SiteId = SiteId("")
    """The master that sealed it."""
    text: str = ""
    key: bytes = b""
    found: bool = False
    """With CONFLICT: the key was there, with the value in `data`."""
    acked: tuple[SiteId, ...] = ()
    perm: bool = False
    """With OK: the record is permanent."""
    error: str = ""
    """With REFUSED: the class of LMDB's error."""


class ReadReq(NamedTuple):
    """lsn: unused. Which LSN must an authoritative read wait for (R23)?"""

    request: int


class Read(NamedTuple):
    """lsn: with OK, what the reader waits for to be applied here. Else BUSY: ask again."""

    request: int
    status: Status


class Message(NamedTuple):
    """One message. `records` and `data` are its rec frame: records of a LOG, or opaque bytes."""

    type: Type
    group: GroupId
    sender: SiteId
    incarnation: Incarnation
    to: SiteId | None
    """None: a broadcast."""
    gen: Gen
    lsn: Lsn
    flags: int
    fields: Any
    records: tuple[Record, ...] = ()
    data: bytes = b""


FIELDS: dict[Type, type[Any]] = {
    Type.HELLO: Hello,
    Type.NEWCLIENT: NewClient,
    Type.NEWSITE: NewSite,
    Type.NEWMASTER: NewMaster,
    Type.MASTER_IS: MasterIs,
    Type.MASTER_REQ: MasterReq,
    Type.HEARTBEAT: Heartbeat,
    Type.ACK: Ack,
    Type.LOG: Log,
    Type.LOG_REQ: LogReq,
    Type.REREQUEST: Rerequest,
    Type.SYNC_REQ: SyncReq,
    Type.SYNC: Sync,
    Type.VOTE1: Vote1,
    Type.VOTE2: Vote2,
    Type.HIGHER: Higher,
    Type.JOIN: Join,
    Type.JOIN_REPLY: JoinReply,
    Type.RECONFIG: Reconfig,
    Type.RECONFIG_REPLY: ReconfigReply,
    Type.FORWARD: Forward,
    Type.FORWARD_REPLY: ForwardReply,
    Type.READ_REQ: ReadReq,
    Type.READ: Read,
}
"""What the fields of each type are."""
TYPE_OF: dict[type[Any], Type] = {fields: kind for kind, fields in FIELDS.items()}
