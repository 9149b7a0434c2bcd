"""Writing a file out little by little, so that its flush holds up nobody else's.

A flush of many changed pages keeps the disk busy, and every other file's flush waits for it. Linux can be
asked to write a part; elsewhere the flush does it all.
"""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from zrep.options import KIB

PORTION_BYTES = 256 * KIB
PORTIONS = 1024
"""About so many at most of one file."""
_WAIT_WRITE_WAIT = 1 | 2 | 4
MOST_S = 1.0
"""After so long the flush does the rest: with a busy thread each portion also waits for Python's lock."""
_CLEAN_S = 1e-4
"""A portion that took no longer had nothing to be written."""
_sync_file_range: Any = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def write_out(fd: int, rest: Callable[[float], bool]) -> None:
    """Have a file's changed pages written, a portion at a time, until `rest` is in a hurry.

    It is called after each portion, with the seconds that this took, and rests as long, or returns True.
    Nothing is durable by this: flush afterwards. Raises OSError when a page could not be written, which no
    flush would tell again.
    """
    if _sync_file_range is None or _sync_file_range(fd, 0, 0, 0):  # without flags it only says whether it is known
        return
    nbytes = os.fstat(fd).st_size
    portion = max(PORTION_BYTES, nbytes // PORTIONS)
    until = time.monotonic() + MOST_S
    for start in range(0, nbytes, portion):
        began = time.monotonic()
        if began >= until:
            return
        if _sync_file_range(fd, start, portion, _WAIT_WRITE_WAIT):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        took = time.monotonic() - began
        if took > _CLEAN_S and rest(took):
            return
