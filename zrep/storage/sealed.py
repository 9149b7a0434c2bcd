"""Small files that are replaced whole, and say when they are damaged.

    file = magic format length crc  payload

A save writes a temporary file, flushes it, renames it over the old one and flushes the directory: at
every moment one whole version stands under the name.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from struct import Struct

from zrep.errors import DiskFullError, StorageError
from zrep.storage.files import DISK_FULL, sync_directory, write_at

_HEADER = Struct("<8sIII")
_LIMIT = 1 << 20


class DamagedFileError(ValueError):
    """The file is there, and not what was saved."""


def load(path: Path, magic: bytes, version: int) -> bytes | None:
    """Return what was saved last; None if there is no file.

    Raises DamagedFileError, StorageError for another format, OSError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT)
    except FileNotFoundError:
        return None
    if len(data) >= _HEADER.size:
        found, written, length, crc = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        if found == magic and written != version:
            raise StorageError(
                f"{path} has format {written} and this zrep reads format {version}: "
                "open the home with the zrep that wrote it, or a newer one"
            )
        if found == magic and length == len(payload) and crc == zlib.crc32(payload, version):
            return payload
    raise DamagedFileError(f"{path} is damaged")


def save(path: Path, magic: bytes, version: int, payload: bytes) -> None:
    """Replace the file. Raises DiskFullError when nothing changed for lack of space.

    After an OSError either version may stand on the disk.
    """
    data = _HEADER.pack(magic, version, len(payload), zlib.crc32(payload, version)) + payload
    temporary = path.with_name(path.name + ".tmp")
    try:
        _write(temporary, data)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        if error.errno in DISK_FULL:
            raise DiskFullError(f"no space to save {path}, nothing was lost: free some") from error
        raise
    os.rename(temporary, path)
    sync_directory(path.parent)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_at(fd, data, 0)
        os.fdatasync(fd)
    finally:
        os.close(fd)
