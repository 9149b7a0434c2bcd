"""The meta file: a site's identity, promise and vote, saved whole (R2), and flushed whatever the durability option."""

from pathlib import Path

from zrep.codec import decode_meta, encode_meta
from zrep.errors import JOIN_ANEW, ProtocolError, StorageError
from zrep.ports import Meta
from zrep.storage import sealed

FORMAT = 1

_MAGIC = b"ZREPMETA"


class DiskMeta:
    """A `ports.MetaFile` over one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failure: StorageError | None = None

    def load(self) -> Meta | None:
        """Read the file. Raises StorageError when it is damaged, or of another format."""
        try:
            payload = sealed.load(self.path, _MAGIC, FORMAT)
            return None if payload is None else decode_meta(payload)
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}; correct that and start again") from error
        except ProtocolError as error:
            raise StorageError(f"{self.path} cannot be used: {error}") from error
        except sealed.DamagedFileError as error:
            raise StorageError(f"{error}, and with it what this site promised: {JOIN_ANEW}") from None

    def save(self, meta: Meta) -> None:
        """Replace the file. Raises DiskFullError when nothing changed for lack of space, else StorageError.

        After a StorageError either version may stand on the disk, so every later save raises too (R3).
        """
        if self._failure is not None:
            raise self._failure
        try:
            sealed.save(self.path, _MAGIC, FORMAT, encode_meta(meta))
        except OSError as error:
            self._failure = StorageError(f"cannot save {self.path}: {error}; the site must stop")
            raise self._failure from error
