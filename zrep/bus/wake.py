"""The wake-up: how any thread makes the engine's poll return."""

import socket


class Wake:
    """One byte in a socket pair; none when one is already on its way."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._pending = False

    def fileno(self) -> int:
        return self._reader.fileno()

    def set(self) -> None:
        """Make `poll` return, now or when it is next called. Any thread; harmless after `close`."""
        if not self._pending:
            self._pending = True
            try:
                self._writer.send(b"!")
            except OSError:
                return

    def clear(self) -> None:
        """Take the byte, then allow the next: what was queued before a `set` is looked at after this."""
        try:
            self._reader.recv(16)
        except BlockingIOError:
            return
        finally:
            self._pending = False

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
