"""The `zrep` command: its sub-commands, and the one way out.

Decides what an error looks like from outside: one sentence on stderr that says what to do, and an exit
code. It does not decide what the commands do. `import zrep` happens inside them, so that `--help` is quick.
"""

import os
import sys
from typing import NoReturn, cast

import typer

from . import access, bench, cluster, demo, node, output, quote, status

FAILED, USAGE, NO_MASTER, REFUSED, STORAGE, INTERRUPTED = 1, 2, 3, 4, 5, 130

UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="py-lmdb, replicated: an embedded transactional key-value environment with one elected master.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 no master or not enough sites, 4 refused, 5 storage.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("node")(node.node)
app.command("quote")(quote.quote)
app.add_typer(cluster.app, name="cluster")
app.command("get")(access.get)
app.command("put")(access.put)
app.command("delete")(access.delete)
app.command("scan")(access.scan)
app.command("status")(status.status)
app.add_typer(bench.app, name="bench")


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    output.open_standard()
    try:
        code = run(sys.argv[1:])
    finally:
        output.close_standard()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors have been told on stderr."""
    try:
        code: int = app(arguments or ["--help"], prog_name="zrep", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED  # whoever read our output has gone: nobody is left to tell
    except Exception as error:
        code, sentence = explain(error)
        output.complain(sentence)
        if os.environ.get("ZREP_DEBUG"):
            raise
        return code


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error and what to say about it. The only place that maps the one to the other."""
    import zrep
    from zrep import errors

    sentence = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UsageError):
        usage = cast(typer.BadParameter, error)
        command = usage.ctx.command_path if usage.ctx else "zrep"
        return USAGE, f"{usage.format_message().rstrip('.')}: see `{command} --help`"
    codes: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
        (USAGE, (errors.OptionError,)),
        (NO_MASTER, (errors.NoMasterError, errors.NotMasterError, errors.PermFailedError)),
        (NO_MASTER, (errors.ElectionFailedError, errors.LeaseExpiredError)),
        (REFUSED, (errors.JoinFailedError, errors.NotAuthorizedError)),
        (STORAGE, (errors.StorageError, errors.DiskFullError, errors.HomeInUseError)),
        (FAILED, (errors.ZrepError, TimeoutError, output.OutputError)),
        (STORAGE, (zrep.Error, OSError)),
    )
    for code, classes in codes:
        if isinstance(error, classes):
            return code, sentence
    return FAILED, f"internal error, please report it (ZREP_DEBUG=1 shows where): {type(error).__name__}: {sentence}"
