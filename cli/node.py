"""`zrep node`: one site in the foreground, a line for every change of state.

Decides when the process ends: on SIGTERM or SIGINT cleanly, exit 0; with an error when the site has stopped
by itself, or would only go on with what it has: a supervisor sees that, and a person what to do. A line that
cannot be written ends nothing. The site's threads do the work; this one waits.
"""

import gc
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from . import output, target

if TYPE_CHECKING:
    from zrep.errors import ZrepError
    from zrep.events import Event
    from zrep.ids import SiteId
    from zrep.options import Options

LOOK_UP_S = 0.5

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
    int,
    typer.Option(
        "--timeout-ms", metavar="N", min=1, max=target.TIMEOUT_MAX_MS, help="How long a new site waits to be admitted."
    ),
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

    _allow_all_files()
    changes: SimpleQueue[Event | None] = SimpleQueue()

    def stop() -> None:
        changes.put(None)

    def give_up() -> None:
        _on_signals(stop)  # a second one must not interrupt the closing
        raise KeyboardInterrupt

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
    try:
        _on_signals(give_up)
        with site.start(timeout_ms):
            _on_signals(stop)
            gc.freeze()  # a full collection looks at all modules otherwise, and the engine stands still meanwhile
            _say(json, "ready", site=site.site, durability=site.stat()["durability"], address=site.address)
            while (change := _next(changes)) is not None:
                _tell(json, change)
                if (end := _end(change, site.site, home)) is not None:
                    raise end
    except KeyboardInterrupt:
        pass  # before it was ready
    _say(json, "stopped")


def _next(changes: "SimpleQueue[Event | None]") -> "Event | None":
    """Wait for a change; looking up now and then, as Python sees no signal that came just before it began to wait."""
    while True:
        with suppress(Empty):
            return changes.get(timeout=LOOK_UP_S)


def _on_signals(function: Callable[[], None]) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: function())


def _allow_all_files() -> None:
    """Open as many files as this process may at all: every connection takes one, a stranger's, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems refuse what they say is allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _options(config: Path | None, settings: list[str]) -> "Options":
    """Return the options of a node: `--set` over the environment over the file over the defaults."""
    from zrep.options import Options

    base = Options.from_toml(config) if config else Options()
    return Options.from_settings(settings, "--set", Options.from_environ(base=base))


def _end(change: "Event", site: "SiteId", home: Path) -> "ZrepError | None":
    """Return what the process ends with after this change; None where the site goes on by itself.

    A site that lost trust, has a twin or is no member any more still answers reads, with what it had then:
    nobody would notice.
    """
    from zrep import errors, events

    match change:
        case events.StorageFailed():
            return errors.StorageError(f"the site stopped: {change.reason}")
        case events.Panic():
            return errors.ZrepError(f"the site stopped, please report it: {change.reason}")
        case events.Diverged():
            return errors.StorageError(
                f"the log in {home} differs from what the group made permanent; start it again: "
                "it joins its group as a new site"
            )
        case events.DuplicateSite() if change.site == site:
            return errors.HomeInUseError(
                f"another process runs as this site, from a copy of {home}: stop one of them; "
                "a further site joins its group with an empty home"
            )
        case events.JoinFailure():
            return errors.JoinFailedError(f"the site cannot go on: {change.reason}")
        case events.LocalSiteRemoved():
            return errors.JoinFailedError("the group removed this site, which was replaced: join with an empty home")
    return None


def _tell(json: bool, change: "Event") -> None:
    from dataclasses import asdict

    line = output.json_line({"event": change.name, **asdict(change)}) if json else f"zrep node: {change}"
    output.show_or_drop(line)


def _say(json: bool, event: str, **facts: object) -> None:
    if json:
        line = output.json_line({"event": event, **facts})
    else:
        line = " ".join(("zrep node:", event, *(f"{name}={value}" for name, value in facts.items())))
    output.show_or_drop(line)
