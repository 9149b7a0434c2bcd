"""`zrep node`: one site in the foreground, a line for every change of state.

Decides when the process ends: on SIGTERM or SIGINT cleanly, exit 0; when the site has stopped by itself,
with an error. The site's threads do the work; this one waits.
"""

import gc
import signal
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from . import output

if TYPE_CHECKING:
    from zrep.events import Event
    from zrep.options import Options

HomeDirectory = Annotated[Path, typer.Argument(metavar="HOME", help="The site's directory; made if need be.")]
Bind = Annotated[str, typer.Option("--bind", metavar="URI", help="Where to listen; port 0 picks one.")]
Create = Annotated[bool, typer.Option("--create", help="Found a new group.")]
Join = Annotated[list[str] | None, typer.Option("--join", metavar="URI", help="A site of the group to join; repeat.")]
Advertise = Annotated[
    list[str] | None, typer.Option("--advertise", metavar="URI", help="Where the others reach --bind, if not there.")
]
Publish = Annotated[str | None, typer.Option("--publish", metavar="URI", help="Where to broadcast; else a free port.")]
Priority = Annotated[
    int, typer.Option("--priority", metavar="N", min=0, help="Of equals the highest is elected; 0: never.")
]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Options, as TOML.")]
JoinTimeout = Annotated[
    int, typer.Option("--timeout-ms", metavar="N", min=1, help="How long a new site waits to be admitted.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One option; repeat.")]


def node(
    home: HomeDirectory,
    bind: Bind,
    create: Create = False,
    join: Join = None,
    advertise: Advertise = None,
    publish: Publish = None,
    priority: Priority = 100,
    config: Config = None,
    set_: Set = None,
    timeout_ms: JoinTimeout = 10_000,
    json: output.Json = False,
) -> None:
    """Run a site in the foreground. It prints what changes; SIGTERM or Ctrl-C stops it cleanly."""
    import zrep

    changes: SimpleQueue[Event | None] = SimpleQueue()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: changes.put(None))
    site = zrep.Site(
        home,
        bind=bind,
        advertise=advertise,
        publish=publish,
        create=create,
        join=join or (),
        priority=priority,
        options=_options(config, set_ or []),
    )
    site.on_event(changes.put)
    with site.start(timeout_ms):
        gc.freeze()  # a full collection looks at all modules otherwise, and the engine stands still meanwhile
        _say(json, "ready", site=site.site, durability=site.stat()["durability"], address=site.address)
        while (change := changes.get()) is not None:
            _tell(json, change)
    _say(json, "stopped")


def _options(config: Path | None, settings: list[str]) -> "Options":
    """Return the options of a node: `--set` over the environment over the file over the defaults."""
    from zrep.options import Options

    base = Options.from_toml(config) if config else Options()
    return Options.from_settings(settings, "--set", Options.from_environ(base=base))


def _tell(json: bool, change: "Event") -> None:
    from dataclasses import asdict

    from zrep.errors import StorageError, ZrepError
    from zrep.events import Panic, StorageFailed

    if json:
        output.show_json({"event": change.name, **asdict(change)})
    else:
        _print(f"zrep node: {change}")
    if isinstance(change, StorageFailed):
        raise StorageError(f"the site stopped: {change.reason}")
    if isinstance(change, Panic):
        raise ZrepError(f"the site stopped, please report it: {change.reason}")


def _say(json: bool, event: str, **facts: object) -> None:
    if json:
        output.show_json({"event": event, **facts})
    else:
        _print(" ".join(("zrep node:", event, *(f"{name}={value}" for name, value in facts.items()))))


def _print(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
