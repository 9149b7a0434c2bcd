"""How results are shown: tables for people, lines for pipes, JSON for programs.

Keys and values are bytes. On the way in an argument's exact bytes are taken; on the way out they are
written as they are, except in tables and JSON, where what is not UTF-8 is escaped.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

MARGIN = 3
"""What a table on a terminal puts around a column, at most."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class OutputError(Exception):
    """What is shown cannot be written; that says nothing about what was done."""


class _Stdout(io.FileIO):
    """Standard output, whose failures must not be taken for those of another file."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write the output: {error.strerror}") from error


def open_standard() -> None:
    """Make this process's standard streams fit for use; who closed one wants nothing of it.

    Closed, its number would be given to the next file that is opened, and what is printed written into that.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(1, "w", closefd=False)),
        encoding=getattr(sys.stdout, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=os.isatty(1),
    )


def close_standard() -> None:
    """Let go of what could not be written, of which the interpreter's own last flush would complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, OutputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def from_argument(text: str) -> bytes:
    """Return the bytes that were typed."""
    return os.fsencode(text)


def readable(raw: bytes) -> str:
    """Return bytes as text; what is not UTF-8 becomes `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def jsonable(raw: bytes | None) -> str | dict[str, str] | None:
    """Return bytes as JSON can hold them: a string if they are UTF-8, else {"hex": "…"}."""
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"hex": raw.hex()}


def json_line(value: Any) -> str:
    """Return one JSON value on one line."""
    return json.dumps(value, ensure_ascii=False)


def show_json(value: Any) -> None:
    """Print one JSON value on one line."""
    print(json_line(value), flush=True)


def complain(sentence: str) -> None:
    """Say on stderr what is wrong; where that cannot be written, the exit code says it."""
    with suppress(OSError):
        print(f"zrep: {sentence}", file=sys.stderr)


def show_or_drop(line: str) -> None:
    """Print a line at once, past all buffers, or not at all where it cannot be written."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def show_bytes(*parts: bytes) -> None:
    """Print a line of exact bytes, parts separated by tabs."""
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\t".join(parts) + b"\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], alarms: Iterable[int] = ()) -> None:
    """Print rows: a table on a terminal, where the rows numbered in `alarms` are red; else aligned lines."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, texts, set(alarms))
        return
    widths = _widths(columns, texts)
    for line in (columns, *texts):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], texts: list[list[str]], alarms: set[int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for number, row in enumerate(texts):
        table.add_row(*map(Text, row), style="red" if number in alarms else None)
    console = Console()
    # A narrow terminal wraps lines: rich would rather cut what is in them, addresses included.
    console.width = max(console.width, sum(width + MARGIN for width in _widths(columns, texts)))
    console.print(table)


def _widths(columns: Sequence[str], texts: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
