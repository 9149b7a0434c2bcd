"""The meta file: a site's identity, promise and vote, saved whole (R2).

    site.meta = magic format length crc  encoded Meta

A save writes a temporary file, flushes it, renames it over the old one and flushes the directory: at
every moment one whole version stands under the name. It is flushed whatever the durability option.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from struct import Struct

from zrep.codec import decode_meta, encode_meta
from zrep.errors import DiskFullError, ProtocolError, StorageError
from zrep.ports import Meta
from zrep.storage.files import DISK_FULL, sync_directory, write_at

FORMAT = 1

_MAGIC = b"ZREPMETA"
_HEADER = Struct("<8sIII")
_LIMIT = 1 << 20


class DiskMeta:
    """A `ports.MetaFile` over one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._failure: StorageError | None = None

    def load(self) -> Meta | None:
        """Read the file. Raises StorageError when it is damaged, or of another format."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}; correct that and start again") from error
        if len(data) >= _HEADER.size:
            magic, version, length, crc = _HEADER.unpack_from(data)
            payload = data[_HEADER.size :]
            if magic == _MAGIC and version != FORMAT:
                raise StorageError(
                    f"{self.path} has format {version} and this zrep reads format {FORMAT}: "
                    "open the home with the zrep that wrote it, or a newer one"
                )
            if magic == _MAGIC and length == len(payload) and crc == zlib.crc32(payload, version):
                try:
                    return decode_meta(payload)
                except ProtocolError as error:
                    raise StorageError(f"{self.path} cannot be used: {error}") from error
        raise StorageError(
            f"{self.path} is damaged, and with it what this site promised: "
            "move the home away and let the site join its group with an empty one"
        )

    def save(self, meta: Meta) -> None:
        """Replace the file. Raises DiskFullError when nothing changed for lack of space, else StorageError.

        After a StorageError either version may stand on the disk, so every later save raises too (R3).
        """
        if self._failure is not None:
            raise self._failure
        payload = encode_meta(meta)
        data = _HEADER.pack(_MAGIC, FORMAT, len(payload), zlib.crc32(payload, FORMAT)) + payload
        try:
            try:
                self._write_temporary(data)
            except OSError as error:
                with suppress(OSError):
                    self._temporary.unlink()
                if error.errno in DISK_FULL:
                    raise DiskFullError(f"no space to save {self.path}: free some, nothing was lost") from error
                raise
            os.rename(self._temporary, self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            self._failure = StorageError(f"cannot save {self.path}: {error}; the site must stop")
            raise self._failure from error

    def _write_temporary(self, data: bytes) -> None:
        fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_at(fd, data, 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
