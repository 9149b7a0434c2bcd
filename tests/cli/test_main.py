"""The one way out of the command line: exit codes, one sentence on stderr, no traceback."""

import subprocess
import sys

import pytest
import typer

import zrep
from cli import main
from tests.cli import command
from zrep import errors

CODES = {
    errors.OptionError: 2,
    errors.NoMasterError: 3,
    errors.NotMasterError: 3,
    errors.PermFailedError: 3,
    errors.ElectionFailedError: 3,
    errors.LeaseExpiredError: 3,
    errors.JoinFailedError: 4,
    errors.NotAuthorizedError: 4,
    errors.StorageError: 5,
    errors.DiskFullError: 5,
    errors.HomeInUseError: 5,
    zrep.Error: 5,
    PermissionError: 5,
    errors.ConflictError: 1,
    errors.UnknownOutcomeError: 1,
    errors.NotAppliedError: 1,
    TimeoutError: 1,
    ZeroDivisionError: 1,
}


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_an_error_has_an_exit_code_and_a_sentence(error: type[Exception], code: int) -> None:
    found, sentence = main.explain(error("this went\nwrong"))
    assert found == code
    assert sentence.endswith("this went wrong")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fly",), "zrep: No such command 'fly': see `zrep --help`"),
        (("put", "IBM"), "zrep: Missing argument 'VALUE': see `zrep put --help`"),
        (("cluster", "start", "0", "d"), "zrep: Invalid value for 'N': "),
        (("get", "IBM"), "zrep: no site is named to talk to: give -C URI or -H DIR, or set ZREP_CONNECT"),
        (("get", "IBM", "-C", "tcp://127.0.0.1:1", "-H", "d"), "zrep: -C and -H both say whom to talk to"),
        (("get", "IBM", "-C", "carrier-pigeon://roof"), "zrep: "),
        (("status", "-H", "nowhere"), "zrep: no site runs in nowhere: start one with `zrep node nowhere --bind URI`"),
        (("cluster", "status", "nowhere"), "zrep: "),
        (
            ("node", "h", "--bind", "tcp://127.0.0.1:0", "--set", "colour=red"),
            "zrep: --set: no option is named 'colour'",
        ),
        (("node", "h", "--bind", "tcp://127.0.0.1:0", "--set", "heartbeat_ms"), "zrep: --set takes NAME=VALUE"),
        (("node", "h", "--bind", "tcp://127.0.0.1:0", "--config", "none.toml"), "zrep: cannot read options from none"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(arguments: tuple[str, ...], sentence: str) -> None:
    result = command.zrep(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1


HELP = """
import sys
from zrep_cli import main
assert main.run([]) == 0
assert not {"zrep", "zmq", "lmdb", "rich"} & set(sys.modules)
"""


def test_help_imports_nothing_of_zrep() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert "Exit codes: 0 ok" in result.stdout


def test_every_command_explains_itself() -> None:
    for each in typer.main.get_command(main.app).commands.values():  # type: ignore[attr-defined]
        assert each.help


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zrep_cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaint = process.communicate(timeout=30)
    assert complaint == b""
