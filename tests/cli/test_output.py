"""Bytes in and out of the command line, and the lines a pipe sees."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import output, quote


@given(st.binary())
def test_an_argument_is_taken_as_its_bytes(raw: bytes) -> None:
    assert output.from_argument(os.fsdecode(raw)) == raw


def test_what_is_not_utf8_is_hex_in_json_and_escaped_in_tables() -> None:
    assert output.jsonable(b"IBM") == "IBM"
    assert output.jsonable(b"\xff\x00") == {"hex": "ff00"}
    assert output.jsonable(None) is None
    assert output.readable(b"caf\xc3\xa9\xff") == "café\\xff"


def test_a_table_in_a_pipe_is_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table(("SITE", "GEN"), [("a1b2c3", 3), ("d", 12)])
    assert capsys.readouterr().out == "SITE    GEN\na1b2c3  3\nd       12\n"


def test_a_table_on_a_terminal_is_whole_and_marks_what_to_worry_about() -> None:
    show = "from zrep_cli import output; output.show_table(('SITE', 'ADDRESS'), [('a', 'x' * 100), ('b', 'y')], [1])"
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "40"}
    subprocess.run([sys.executable, "-c", show], stdout=theirs, env=environment, check=True, timeout=30)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "x" * 100 in shown
    assert "\x1b[31m" in shown


def test_the_quote_table_is_berkeley_dbs() -> None:
    lines = list(quote.table([(b"IBM", b"142.30"), (b"A-VERY-LONG-NAME", b"1" * 30)]))
    assert lines == [
        "\tSymbol\t\tPrice",
        "\t======\t\t=====",
        "\tIBM\t\t142.30",
        "\tA-VERY-LON\t\t" + "1" * 20,
        "",
    ]
