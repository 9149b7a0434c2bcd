"""Which group a command talks to: `-C URI`, else `-H DIR`, else `ZREP_CONNECT`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from zrep.client import Client

Connect = Annotated[
    list[str] | None,
    typer.Option("-C", "--connect", metavar="URI", help="A site's address; repeat for more. Else ZREP_CONNECT."),
]
Home = Annotated[
    Path | None, typer.Option("-H", "--home", metavar="DIR", help="Talk to the site that runs in this home.")
]
TIMEOUT_MAX_MS = 86_400_000
"""A day; what waits cannot count to any number."""
Timeout = Annotated[
    int,
    typer.Option("--timeout-ms", metavar="N", min=1, max=TIMEOUT_MAX_MS, help="Give up after so many milliseconds."),
]


def connect(addresses: list[str] | None, home: Path | None, timeout_ms: int, *, roam: bool = True) -> "Client":
    """Return a client of the group that the options name. Raises OptionError when they name none, or two.

    With a home, or without `roam`, only the named sites are read from.
    """
    import zrep
    from zrep.errors import OptionError

    if addresses and home:
        raise OptionError("-C and -H both say whom to talk to: give one of them")
    if home:
        addresses = [local(home)]
    elif not addresses:
        addresses = os.environ.get("ZREP_CONNECT", "").replace(",", " ").split()
    if not addresses:
        raise OptionError("no site is named to talk to: give -C URI or -H DIR, or set ZREP_CONNECT")
    return zrep.connect(*addresses, timeout_ms=timeout_ms, roam=roam and home is None)


def local(home: Path) -> str:
    """Return the address of the site that runs in a home on this machine. Raises OptionError when none does."""
    from zrep.endpoints import IPC_LIMIT
    from zrep.errors import OptionError

    path = home.absolute() / "site.sock"
    if len(os.fsencode(path)) > IPC_LIMIT:
        raise OptionError(f"the path {path} is too long for a socket, of {IPC_LIMIT} bytes at most: use -C URI")
    if not path.exists():
        raise OptionError(f"no site runs in {home}: start one with `zrep node {home} --bind URI`, or use -C URI")
    return f"ipc://{path}"
