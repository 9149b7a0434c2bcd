"""The errors that py-lmdb itself would raise: same class, same words, same attributes."""

import errno
import os

import lmdb


def lmdb_error(kind: type[lmdb.Error], what: str, code: int = 0, reason: str = "") -> lmdb.Error:
    """Return LMDB's error for the operation `what`; a positive `code` is the system's errno."""
    reason = reason or (os.strerror(code) if code else "")
    error = kind(f"{what}: {reason}" if reason else what)
    error.__dict__.update(what=what, code=code, reason=reason)
    return error


def closed() -> lmdb.Error:
    """The error for the use of anything that has ended."""
    return lmdb_error(lmdb.Error, "Attempt to operate on closed/deleted/dropped object.")


def invalid_parameter(what: str) -> lmdb.Error:
    """The error for an argument that cannot be."""
    return lmdb_error(lmdb.InvalidParameterError, what, errno.EINVAL)


def has_nested(what: str) -> lmdb.Error:
    """The error for the use of a transaction in which another one is open."""
    reason = "Transaction must abort, has a child, or is invalid"
    return lmdb_error(lmdb.BadTxnError, f"{what}: MDB_BAD_TXN", -30782, reason)


def read_only(what: str) -> lmdb.Error:
    """The error for a write where only reading is possible."""
    return lmdb_error(lmdb.ReadonlyError, what, errno.EACCES)


def missing(path: str) -> lmdb.Error:
    """The error for a path where nothing is."""
    return lmdb_error(lmdb.Error, path, errno.ENOENT)


def not_found(name: bytes | None) -> lmdb.Error:
    """The error for a database that does not exist."""
    reason = f"there is no database named {name!r}, a program creates it by open_db"
    return lmdb_error(lmdb.NotFoundError, "mdb_dbi_open: MDB_NOTFOUND", -30798, reason)


def databases_full(reason: str) -> lmdb.Error:
    """The error for one database too many."""
    return lmdb_error(lmdb.DbsFullError, "mdb_dbi_open: MDB_DBS_FULL", -30791, reason)
