"""zrep: py-lmdb, replicated.

An embedded, transactional key-value environment whose every site keeps a full copy in LMDB, with one
elected master, automatic fail-over, and no acknowledged write ever lost.

    env = zrep.open("home")                        py-lmdb's environment; a group of one
    site = zrep.Site("home", bind=…, create=True)  a member of a group; `site.env` is its environment
    client = zrep.connect("tcp://host:port")       remote access without a local copy

To read the code, follow a put: `environment`, `transaction`, `storage.group`, `engine`, then the machine that
decides, from `replica.replica`, and what it speaks, `messages`.
"""

from lmdb import (
    BadDbiError,
    BadRslotError,
    BadTxnError,
    BadValsizeError,
    CorruptedError,
    CursorFullError,
    DbsFullError,
    DiskError,
    Error,
    IncompatibleError,
    InvalidError,
    InvalidParameterError,
    KeyExistsError,
    LockError,
    MapFullError,
    MapResizedError,
    MemoryError,
    NotFoundError,
    PageFullError,
    PageNotFoundError,
    PanicError,
    ReadersFullError,
    ReadonlyError,
    TlsFullError,
    TxnFullError,
    VersionMismatchError,
    _Database,
    enable_drop_gil,
    version,
)

from zrep.alone import open
from zrep.client import Client, connect
from zrep.commit import Batch, CommitResult, CommitToken
from zrep.cursor import Cursor
from zrep.environment import Environment
from zrep.errors import (
    CompactedError,
    ConflictError,
    DiskFullError,
    ElectionFailedError,
    ForkError,
    HandleDeadError,
    HomeInUseError,
    InvariantError,
    JoinFailedError,
    LeaseExpiredError,
    NoMasterError,
    NotAppliedError,
    NotAuthorizedError,
    NotMasterError,
    OptionError,
    PermFailedError,
    ProtocolError,
    StorageError,
    TxnTooLargeError,
    UnknownOutcomeError,
    ZrepError,
)
from zrep.ids import DB_EID_BROADCAST, DB_EID_INVALID, DB_EID_MASTER, SELF_EID, VERSION
from zrep.options import AckPolicy, Options
from zrep.site import Site, SiteInfo
from zrep.transaction import Transaction

__version__ = VERSION

__all__ = [
    "DB_EID_BROADCAST",
    "DB_EID_INVALID",
    "DB_EID_MASTER",
    "SELF_EID",
    "AckPolicy",
    "BadDbiError",
    "BadRslotError",
    "BadTxnError",
    "BadValsizeError",
    "Batch",
    "Client",
    "CommitResult",
    "CommitToken",
    "CompactedError",
    "ConflictError",
    "CorruptedError",
    "Cursor",
    "CursorFullError",
    "DbsFullError",
    "DiskError",
    "DiskFullError",
    "ElectionFailedError",
    "Environment",
    "Error",
    "ForkError",
    "HandleDeadError",
    "HomeInUseError",
    "IncompatibleError",
    "InvalidError",
    "InvalidParameterError",
    "InvariantError",
    "JoinFailedError",
    "KeyExistsError",
    "LeaseExpiredError",
    "LockError",
    "MapFullError",
    "MapResizedError",
    "MemoryError",
    "NoMasterError",
    "NotAppliedError",
    "NotAuthorizedError",
    "NotFoundError",
    "NotMasterError",
    "OptionError",
    "Options",
    "PageFullError",
    "PageNotFoundError",
    "PanicError",
    "PermFailedError",
    "ProtocolError",
    "ReadersFullError",
    "ReadonlyError",
    "Site",
    "SiteInfo",
    "StorageError",
    "TlsFullError",
    "Transaction",
    "TxnFullError",
    "TxnTooLargeError",
    "UnknownOutcomeError",
    "VersionMismatchError",
    "ZrepError",
    "_Database",
    "connect",
    "enable_drop_gil",
    "open",
    "version",
]
