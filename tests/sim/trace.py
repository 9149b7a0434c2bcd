"""What happened in a simulated world: a hash over all of it, and its tail in readable lines.

Events are kept as tuples and rendered only when somebody asks: a seed that passes formats nothing.
The hash tells whether two runs were the same run.
"""

from collections import deque
from hashlib import blake2b
from typing import Any

from zrep.ids import Nanoseconds, SiteId
from zrep.messages import Flag, Message, Type
from zrep.options import MILLISECOND
from zrep.records import Kind, Record

KEPT = 300
_UNTOLD = frozenset(
    (
        *("applied", "asker", "candidate_incarnation", "chain", "contact", "endpoints", "keep"),
        *("master_incarnation", "publish", "request", "software", "stamp"),
    )
)
"""Fields that a reader of a trace cannot use: checksums, clocks, addresses."""
_FLAGS = {name: flag for name, flag in vars(Flag).items() if name.isupper() and name != "GROUP_ESTD"}


class Trace:
    """The trace of one run. Note with `note`; `digest` and `tail` are for the end."""

    __slots__ = ("_hash", "_ring", "count")

    def __init__(self, kept: int | None = KEPT) -> None:
        self._ring: deque[tuple[Nanoseconds, SiteId, str, Any]] = deque(maxlen=kept)
        self._hash = blake2b(digest_size=12)
        self.count = 0

    def note(self, now: Nanoseconds, site: SiteId, what: str, detail: Any = "") -> None:
        """Note that `what` happened at `site`; a message is its own description."""
        self.count += 1
        self._ring.append((now, site, what, detail))
        if detail.__class__ is Message:
            code = (detail.type, detail.sender, detail.incarnation, detail.gen, detail.lsn, detail.flags)
            self._hash.update(b"%d %b %b" % (now, what.encode(), repr(code).encode()))
        else:
            self._hash.update(f"{now} {site} {what} {detail}".encode())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def tail(self, lines: int = 60) -> list[str]:
        """Return the newest lines, readable."""
        chosen = list(self._ring)[-lines:]
        return [f"{now / MILLISECOND:12.3f} ms  {describe(site, what, detail)}" for now, site, what, detail in chosen]


def describe(site: SiteId, what: str, detail: Any) -> str:
    """Return one thing that happened, in words."""
    if isinstance(detail, Message):
        return f"{what} {describe_message(detail)}"
    return f"{site} {what} {detail}".rstrip()


def describe_message(message: Message) -> str:
    """Return a message in one line: `a>b LOG gen=2 after=7 perm=6 [2/8 x]`; `a>*` is a broadcast."""
    fields = message.fields
    words = [f"{message.sender}>{message.to or '*'}", message.type.name, f"gen={message.gen}"]
    if message.type is Type.VOTE1:
        words.append(f"egen={fields.egen} last={fields.last_gen}/{message.lsn}")
        words.extend([f"priority={fields.priority}"] if fields.priority != 100 else [])
        words.append(f"heard={','.join(fields.heard) or '-'}")
    else:
        words.extend([f"lsn={message.lsn}"] if message.lsn else [])
        words.extend(
            f"{name}={_value(value)}"
            for name, value in fields._asdict().items()
            if name not in _UNTOLD and value not in ("", (), 0, False, (0, 0))
        )
    words.extend(name for name, flag in _FLAGS.items() if flag & message.flags)
    if message.records:
        words.append(f"[{' '.join(describe_record(record) for record in message.records)}]")
    return " ".join(words)


def describe_record(record: Record) -> str:
    """Return a record in a word: `2/8:x` is the commit of x, `2/7` the reign record of gen 2."""
    name = f"{record.gen}/{record.lsn}"
    if record.kind is Kind.COMMIT:
        return f"{name}:{record.payload[:12].decode('ascii', 'replace').rstrip()}"
    return f"{name}:{record.kind.name}"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return ",".join("/".join(map(str, item)) for item in value)
        return "/".join(map(str, value))
    return str(getattr(value, "name", value))
