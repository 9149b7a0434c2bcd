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
        (("status", "-H", "long/" * 30), "zrep: the path /"),
        (("get", "IBM", "-C", "tcp://127.0.0.1:1", "--timeout-ms", "9" * 20), "zrep: Invalid value for '--timeout-ms'"),
        (("node", "h", "--bind", "tcp://127.0.0.1:0", "--timeout-ms", "9" * 20), "zrep: Invalid value for '--timeout"),
        (("get", "", "-C", "tcp://127.0.0.1:1"), "zrep: the key has 0 bytes: give one of 1 to 511"),
        (("put", "k" * 512, "v", "-C", "tcp://127.0.0.1:1"), "zrep: the key has 512 bytes: give one of 1 to 511"),
        (("get", "k", "-C", "ipc:///\udcff"), "zrep: endpoint 'ipc:///\\udcff' is not UTF-8: use another one"),
        (("cluster", "status", "nowhere"), "zrep: "),
        (("cluster", "status", "/dev/null"), "zrep: cannot read /dev/null/cluster.json: Not a directory"),
        (("cluster", "start", "3", "/dev/null"), "zrep: /dev/null is a file, or lies below one: give another DIR"),
        (("cluster", "start", "3", "/dev/null/d"), "zrep: /dev/null/d is a file, or lies below one: give another DIR"),
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


@pytest.mark.parametrize("arguments", ["--help", "get IBM -C tcp://127.0.0.1:1 --timeout-ms 200"])
def test_a_closed_output_is_no_traceback(arguments: str) -> None:
    script = f"{sys.executable} -m zrep_cli {arguments} >&-"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30)
    assert result.returncode == (0 if arguments == "--help" else 3)
    assert result.stderr.count("\n") == (0 if arguments == "--help" else 1)


def test_an_output_that_cannot_be_written_is_called_that() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run([*command.COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert process.returncode == 1
    assert process.stderr == b"zrep: cannot write the output: No space left on device\n"


def test_a_complaint_that_cannot_be_written_leaves_the_exit_code() -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run([*command.COMMAND, "fly"], stdout=full, stderr=full, timeout=30)
    assert process.returncode == 2


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zrep_cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaint = process.communicate(timeout=30)
    assert complaint == b""
