"""What everything under a home does with files: write all, read all, make names durable, tell one boot from another."""

import errno
import os
from contextlib import suppress
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Refusals of a write that lost nothing: there is no room, yet."""
SUSPECT = "suspect"
"""A file of this name in a directory tells the next start that an access failed or met damage there (R3).

Of the log nothing is believed unread then; a store is set aside.
"""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data`; one call to the system where it takes all at once."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes, or as many as the file has."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def suspect(directory: Path) -> None:
    """Tell the next start. Where even this fails, a log still writes its newest group again."""
    with suppress(OSError):
        os.close(os.open(directory / SUSPECT, os.O_CREAT | os.O_WRONLY, 0o600))


def boot_id() -> str:
    """Name the operating system's boot; empty where it does not tell."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")
    return ""
