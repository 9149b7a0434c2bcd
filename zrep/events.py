"""What a site tells its application, by Berkeley DB's names (DB_EVENT_REP_*).

Events are delivered on a dispatcher thread, never on the engine's. One NEWMASTER per gen, always
before its STARTUPDONE.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar

from zrep.ids import Egen, Gen, Lsn, SiteId, short


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at this site. `name` is Berkeley DB's word for it."""

    name: ClassVar[str] = ""

    def __str__(self) -> str:
        facts = (
            f"{key}={short(SiteId(value)) if key in _SITES else value}"
            for key, value in asdict(self).items()
            if value not in ("", None)
        )
        return " ".join((self.name, *facts))


_SITES = frozenset({"site", "master"})


@dataclass(frozen=True, slots=True)
class Client(Event):
    """The role became client."""

    name = "CLIENT"
    gen: Gen


@dataclass(frozen=True, slots=True)
class Master(Event):
    """The role became master; it takes writes once its log's tail is in place."""

    name = "MASTER"
    gen: Gen


@dataclass(frozen=True, slots=True)
class NewMaster(Event):
    """A different site is master; once per gen."""

    name = "NEWMASTER"
    gen: Gen
    master: SiteId


@dataclass(frozen=True, slots=True)
class Elected(Event):
    """This site won the election of that egen."""

    name = "ELECTED"
    egen: Egen


@dataclass(frozen=True, slots=True)
class ElectionStarted(Event):
    """This site proposed a new reign."""

    name = "ELECTION_STARTED"
    egen: Egen
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ElectionFailed(Event):
    """Nobody won in time; it will be tried again."""

    name = "ELECTION_FAILED"
    egen: Egen


@dataclass(frozen=True, slots=True)
class StartupDone(Event):
    """The client has caught up with the master of that gen."""

    name = "STARTUPDONE"
    gen: Gen
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class MasterFailure(Event):
    """The connection to the master broke, or it fell silent."""

    name = "MASTER_FAILURE"
    gen: Gen
    master: SiteId
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DupMaster(Event):
    """This master heard of a higher gen and stepped down."""

    name = "DUPMASTER"
    gen: Gen


@dataclass(frozen=True, slots=True)
class ConnectEstd(Event):
    """HELLO was exchanged both ways."""

    name = "CONNECT_ESTD"
    site: SiteId


@dataclass(frozen=True, slots=True)
class ConnectBroken(Event):
    """A connected site's sockets are gone."""

    name = "CONNECT_BROKEN"
    site: SiteId
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ConnectTryFailed(Event):
    """An endpoint could not be reached, or refused us."""

    name = "CONNECT_TRY_FAILED"
    endpoint: str
    reason: str
    refused: bool = False
    """Trying again will not help: it belongs to another group."""


@dataclass(frozen=True, slots=True)
class SiteAdded(Event):
    """A configuration that lists a new site, or a learner as voter, is in force."""

    name = "SITE_ADDED"
    site: SiteId
    role: str = ""


@dataclass(frozen=True, slots=True)
class SiteRemoved(Event):
    """A configuration that no longer lists the site is in force."""

    name = "SITE_REMOVED"
    site: SiteId


@dataclass(frozen=True, slots=True)
class LocalSiteRemoved(Event):
    """The group no longer lists this site, which was replaced: its word counts no more, a new home may join."""

    name = "LOCAL_SITE_REMOVED"


@dataclass(frozen=True, slots=True)
class JoinFailure(Event):
    """This site cannot catch up or become a member; `reason` says why."""

    name = "JOIN_FAILURE"
    reason: str


@dataclass(frozen=True, slots=True)
class TailCut(Event):
    """Records first..last were never permanent and were cut (R18)."""

    name = "TAIL_CUT"
    first: Lsn
    last: Lsn


@dataclass(frozen=True, slots=True)
class SiteWentBack(Event):
    """A voter's durable end is below what it once acknowledged: its disk lost records (R5)."""

    name = "SITE_WENT_BACK"
    site: SiteId
    acknowledged: Lsn
    found: Lsn


@dataclass(frozen=True, slots=True)
class QuorumLost(Event):
    """This master lacks a majority's answers and became a client (R12)."""

    name = "QUORUM_LOST"
    gen: Gen


@dataclass(frozen=True, slots=True)
class InqueueFull(Event):
    """The queue of writes is full (`inqueue_bytes`): whoever brings more waits.

    Told again only after it has fallen below 85 %.
    """

    name = "INQUEUE_FULL"
    nbytes: int


@dataclass(frozen=True, slots=True)
class Diverged(Event):
    """This log disagrees with the master's below what both hold, or lost what this site acknowledged (R4).

    The site reads on, but neither votes nor acknowledges; started again, it joins as a new one.
    """

    name = "DIVERGED"
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class DuplicateSite(Event):
    """Another process speaks with a site id that is already speaking (R1)."""

    name = "DUPLICATE_SITE"
    site: SiteId


@dataclass(frozen=True, slots=True)
class StorageFailed(Event):
    """A write or flush failed: the site has stopped (R3)."""

    name = "STORAGE_FAILED"
    reason: str


@dataclass(frozen=True, slots=True)
class Panic(Event):
    """A bug: an exception in the machine stopped the site. Nothing that its last step did was promised to anybody."""

    name = "PANIC"
    reason: str
