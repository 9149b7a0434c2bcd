"""Every option of a site: unit, default, range and a sentence each.

Precedence: argument, environment variable `ZREP_<NAME>`, file, default. Times are integer
milliseconds, sizes are bytes.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from zrep.errors import OptionError

MILLISECOND = 1_000_000
"""In nanoseconds, the machine's unit of time."""

REPEATED_MS = 360_000
"""Most time for which a write is sent again, whatever its limit: its name is remembered ten times as long (R25)."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class AckPolicy(str, Enum):
    """How long a commit waits; never what is safe: permanence is always a majority of the voters.

    Berkeley DB: DB_REPMGR_ACKS_*; its ONE counts a client's acknowledgement, and so does ours.
    """

    NONE = "none"
    ONE = "one"
    ONE_PEER = "one_peer"
    QUORUM = "quorum"
    ALL_PEERS = "all_peers"
    ALL_AVAILABLE = "all_available"
    ALL = "all"


def _option(default: Any, sentence: str, low: int | None = None, high: int | None = None) -> Any:
    return field(default=default, metadata={"doc": sentence, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of one site. Build with keywords, `from_toml` or `from_environ`; all are checked."""

    heartbeat_ms: int = _option(100, "An idle master speaks this often.", 1, 60_000)
    election_timeout_ms: int = _option(1000, "Silence after which the master counts as failed.", 10, 600_000)
    full_election_timeout_ms: int = _option(
        0, "On a cold boot, wait this long for all voters before a majority elects; 0: do not.", 0, 600_000
    )
    quorum_timeout_ms: int = _option(1000, "A master that no majority answers for this long steps down.", 10, 600_000)
    request_min_ms: int = _option(20, "First repeat of an unanswered request.", 1, 60_000)
    request_max_ms: int = _option(1280, "Longest pause between repeats of a request.", 1, 600_000)
    ack_timeout_ms: int = _option(3000, "How long a commit waits for its ack policy.", 1, 3_600_000)
    ack_policy: AckPolicy = _option(AckPolicy.QUORUM, "Whose acknowledgements a commit waits for.")
    write_txn_timeout_ms: int = _option(
        30_000, "A write transaction open for longer is revoked, so that it cannot stop the group.", 10, 86_400_000
    )
    bulk_bytes: int = _option(1 * MIB, "Most bytes of records in one message of an answer.", 4 * KIB, 32 * MIB)
    limit_bytes: int = _option(10 * MIB, "Most bytes served per request, then MORE.", 4 * KIB, 1 * GIB)
    record_bytes: int = _option(32 * MIB, "Largest record, and so the largest transaction.", 64 * KIB, 32 * MIB)
    inqueue_bytes: int = _option(
        100 * MIB,
        "Most bytes of writes queued and not answered yet; beyond it whoever brings more waits.",
        64 * KIB,
        1 << 50,
    )
    segment_bytes: int = _option(64 * MIB, "Size at which a log segment ends.", 4 * KIB, 4 * GIB)
    retain_bytes: int = _option(0, "Log kept beyond what the group needs; 0: keep all of it.", 0, 1 << 50)
    map_bytes: int = _option(1 << 40, "LMDB map to reserve, sparse; halved until it opens.", 1 * MIB, 1 << 46)
    max_readers: int = _option(1024, "Reader slots of the LMDB environment.", 126, 65_536)
    durability: str = _option("sync", '"sync": flushed before an ack; "process": survives kill -9, not an OS crash.')
    insecure: bool = _option(False, "Allow a bind beyond loopback without keys.")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "ack_policy":
                if not isinstance(value, AckPolicy):
                    raise OptionError(f"ack_policy must be an AckPolicy, not {value!r}")
                continue
            wanted = type(item.default)
            if type(value) is not wanted:
                raise OptionError(f"option {item.name} takes {wanted.__name__}, not {value!r}")
            low, high = item.metadata["low"], item.metadata["high"]
            if low is not None and not low <= value <= high:
                raise OptionError(f"option {item.name}={value} is out of range: use {low} to {high}")
        if self.durability not in ("sync", "process"):
            raise OptionError(f'durability={self.durability!r} is unknown: use "sync" or "process"')
        if self.request_min_ms > self.request_max_ms:
            raise OptionError("request_min_ms must not exceed request_max_ms")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str, base: "Options | None" = None) -> "Options":
        """Return `base` (or the defaults) with `values` over it; strings are converted.

        Raises OptionError for a name that is no option, naming `source`.
        """
        base = base or cls()
        known = {item.name: item for item in fields(cls)}
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise OptionError(f"{source}: no option is named {name!r}; the options are {', '.join(sorted(known))}")
            changes[name] = _convert(known[name].default, value, f"{source}: {name}")
        try:
            return replace(base, **changes)
        except OptionError as error:
            raise OptionError(f"{source}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], base: "Options | None" = None) -> "Options":
        """Read a TOML file of `name = value` lines. Raises OptionError, naming the file."""
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OptionError(f"cannot read options from {os.fspath(path)}: {error}") from None
        return cls.from_mapping(values, os.fspath(path), base)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None, base: "Options | None" = None) -> "Options":
        """Take `ZREP_<NAME>` variables, where <NAME> is an option in capitals; others are not ours."""
        environ = os.environ if environ is None else environ
        names = {f"ZREP_{item.name.upper()}": item.name for item in fields(cls)}
        values = {names[key]: value for key, value in environ.items() if key in names}
        return cls.from_mapping(values, "environment", base)

    @classmethod
    def from_settings(cls, settings: Iterable[str], source: str, base: "Options | None" = None) -> "Options":
        """Take `NAME=VALUE` strings, as a command line has them. Raises OptionError, naming `source`."""
        values = dict(setting.partition("=")[::2] for setting in settings)
        if "" in values.values():
            raise OptionError(f"{source} takes NAME=VALUE, for example {source} heartbeat_ms=50")
        return cls.from_mapping(values, source, base)


def _convert(default: Any, value: Any, where: str) -> Any:
    if isinstance(default, AckPolicy):
        try:
            return value if isinstance(value, AckPolicy) else AckPolicy(str(value).lower())
        except ValueError:
            choices = ", ".join(policy.value for policy in AckPolicy)
            raise OptionError(f"{where}={value!r}: use one of {choices}") from None
    if isinstance(value, str) and isinstance(default, bool):
        if value.lower() not in ("0", "1", "true", "false"):
            raise OptionError(f"{where}={value!r}: use true or false")
        return value.lower() in ("1", "true")
    if isinstance(value, str) and isinstance(default, int):
        try:
            return int(value)
        except ValueError:
            raise OptionError(f"{where}={value!r}: use a whole number") from None
    return value
