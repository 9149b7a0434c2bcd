"""What can go wrong, by what the caller does about it.

Every error of zrep's own derives from `ZrepError`, and that from `lmdb.Error`, so a program written
for py-lmdb catches what it always caught. LMDB's own errors (`KeyExistsError`, `MapFullError`, …)
*are* lmdb's objects, re-exported by the package. Messages end with what to do next; the values are
attributes.
"""

from collections.abc import Sequence
from typing import Any

import lmdb

from zrep.ids import Lsn, SiteId

Error = lmdb.Error
"""What a program written for py-lmdb catches; ours are below it."""

JOIN_ANEW = "move the home away and let the site join its group with an empty one, at the same address"
"""What to do about a home that is lost. The address is what tells the group whom the new site replaces."""


class ZrepError(lmdb.Error):
    """Root of zrep's errors."""


class OptionError(ZrepError):
    """An argument, option or endpoint that zrep cannot work with: correct it and call again."""


class NotMasterError(ZrepError):
    """A write was begun at a client site: write at `master_address`, or use `put`/`write`, which forward."""

    def __init__(self, message: str, master: SiteId | None = None, master_address: str | None = None) -> None:
        super().__init__(message)
        self.master = master
        self.master_address = master_address


class NoMasterError(ZrepError):
    """No master is known within the time given: see `zrep status` for who is missing, then try again."""


class NotAppliedError(ZrepError):
    """The write provably did not and will not happen: it is safe to run it again."""


class UnknownOutcomeError(ZrepError):
    """The write may or may not become permanent: ask `txn_applied(token)` later, never assume either.

    `token` is None where nobody can tell which record the write would be in, as for one that was sent to
    the master from elsewhere: read what it would have changed.
    """

    def __init__(self, message: str, token: Any = None) -> None:
        super().__init__(message)
        self.token = token


class PermFailedError(ZrepError):
    """The ack policy was not met in time; the commit is in the log and may still become permanent.

    Berkeley DB: DB_EVENT_REP_PERM_FAILED, which there leaves `commit` returning 0.
    """

    def __init__(
        self, message: str, token: Any = None, acked: Sequence[SiteId] = (), missing: Sequence[SiteId] = ()
    ) -> None:
        super().__init__(message)
        self.token = token
        self.acked = tuple(acked)
        self.missing = tuple(missing)


class ConflictError(ZrepError):
    """An `expect` of a batch found another value, and nothing was applied: read again, then retry."""

    def __init__(self, message: str, key: bytes = b"", found: bytes | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.found = found


class LeaseExpiredError(ZrepError):
    """An authoritative read could not be confirmed in time: retry, or read without `linearizable`.

    Berkeley DB: DB_REP_LEASE_EXPIRED.
    """


class ElectionFailedError(ZrepError):
    """No site won the election: check that a majority of the sites is up, then elect again.

    Berkeley DB: DB_REP_UNAVAIL from rep_elect.
    """


class TxnTooLargeError(ZrepError):
    """The transaction exceeds the record limit and was not applied: split it."""


class HandleDeadError(ZrepError):
    """A handle from before an internal init: open it again. Berkeley DB: DB_REP_HANDLE_DEAD."""


class CompactedError(ZrepError):
    """The log no longer reaches back to that LSN: start again from a snapshot, or from `oldest`."""

    def __init__(self, message: str, oldest: Lsn = 0) -> None:
        super().__init__(message)
        self.oldest = oldest


class JoinFailedError(ZrepError):
    """The site could not become a member; the message says whom it asked and what they said."""


class NotAuthorizedError(ZrepError):
    """The group does not know this key: have it authorised, then connect again."""


class ForkError(ZrepError):
    """A zrep object was used in a child process: connect to a site, or open another home, in the child instead.

    Not the parent's home, read-only either: for py-lmdb it is open in this process. A spawned process may.
    """


class HomeInUseError(ZrepError):
    """Another process has this home open: stop it, or reach its site with `zrep.connect`."""


class StorageError(ZrepError):
    """The disk does not hold what it must: the message names the file; the site stops."""


class DamagedLogError(StorageError):
    """The log lost or changed what was durable, at `lsn`: this site lost trust and must join anew (R4)."""

    def __init__(self, message: str, lsn: Lsn = 0) -> None:
        super().__init__(message)
        self.lsn = lsn


class DiskFullError(ZrepError, lmdb.DiskError):
    """No space left: nothing was lost. The site stops: free some and start it again."""


class ProtocolError(ZrepError):
    """Bytes that are not a zrep message, record or request; counted and dropped where a peer sent them."""


class InvariantError(ZrepError):
    """A promise about data would be broken: the site stops before anything leaves it. Please report it."""


def refusal(name: str, text: str) -> lmdb.Error:
    """Return LMDB's error of that name, which another site raised; OptionError for any other name."""
    kind = getattr(lmdb, name, None)
    return kind(text) if isinstance(kind, type) and issubclass(kind, lmdb.Error) else OptionError(text)


def invariant(condition: object, promise: str, /, **values: object) -> None:
    """Stop the site unless a promise about data holds. Stays on in production."""
    if not condition:
        facts = " ".join(f"{name}={value!r}" for name, value in values.items())
        raise InvariantError(f"invariant broken: {promise} ({facts})")
