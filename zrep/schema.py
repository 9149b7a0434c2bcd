"""What a plain decoded value must be to become a typed one; built once from NamedTuple annotations.

A *check* takes what msgpack made of bytes and returns the typed value, or raises `Wrong`. The
annotations of messages, records and ports are the only description of the fields: nothing is written
down twice. This file knows types and ranges; what the values mean is decided by those who read them.
"""

import re
import types
import typing
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

from zrep.ids import GroupId, SiteId
from zrep.records import History, Reign

Check: TypeAlias = Callable[[Any], Any]

INT_LIMIT = 1 << 63
ITEMS_LIMIT = 1024
"""Most elements of one array."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z").match
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}\Z").match


class Wrong(ValueError):
    """A value is not what its place requires."""


class Struct(NamedTuple):
    """How a NamedTuple class is rebuilt from an array."""

    cls: type[Any]
    checks: tuple[Check, ...]
    required: int
    """Fields without a default."""
    numeric: bool
    """Whether all are integers: they are checked together, as most messages are such."""

    def build(self, values: Sequence[Any]) -> Any:
        """Return the typed tuple. Fields from a later version are ignored, absent ones take their default."""
        if len(values) < self.required:
            raise Wrong(f"{self.cls.__name__} of {len(values)} fields, not {len(self.checks)}")
        if self.numeric and len(values) == len(self.checks):
            return self.cls(*integers(values))
        return self.cls(*[check(value) for check, value in zip(self.checks, values, strict=False)])

    def exact(self, value: Any) -> Any:
        """Return the typed tuple of an array that has every field and no other."""
        if type(value) is not tuple or len(value) != len(self.checks):
            raise Wrong(f"not a {self.cls.__name__}")
        return self.cls(*[check(item) for check, item in zip(self.checks, value, strict=True)])


def struct(cls: type[Any]) -> Struct:
    """Read the annotations and defaults of a NamedTuple class."""
    hints = typing.get_type_hints(cls)
    defaults: dict[str, Any] = cls._field_defaults
    checks = tuple(_check(hints[name], defaults.get(name)) for name in cls._fields)
    return Struct(cls, checks, len(checks) - len(defaults), all(check is integer for check in checks))


@lru_cache(ITEMS_LIMIT)  # the same few come with every message
def site_id(value: Any) -> SiteId:
    if type(value) is not str or not _ID(value):
        raise Wrong("not a site id")
    return SiteId(value)


@lru_cache(ITEMS_LIMIT)
def group_id(value: Any) -> GroupId:
    """A group id, or "" for a home that is in no group."""
    if type(value) is not str or (value and not _ID(value)):
        raise Wrong("not a group id")
    return GroupId(value)


def integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < INT_LIMIT:
        raise Wrong("not an integer in range")
    return value


def integers(values: Sequence[Any]) -> Sequence[int]:
    """Check many at once."""
    for value in values:
        if type(value) is not int or not 0 <= value < INT_LIMIT:
            raise Wrong("not an integer in range")
    return values


def plain(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise Wrong(f"not {kind.__name__}")
    return value


def optional(check: Check, value: Any) -> Any:
    return None if value is None else check(value)


def session_id(value: Any) -> str:
    """Whose request it is (R25); a key in the store, so it is short."""
    if type(value) is not str or not _SESSION(value):
        raise Wrong("not a session of 1 to 64 characters")
    return value


def _check(hint: Any, default: Any) -> Check:
    """Choose the check for one annotation. A default widens it: None, -1 and "" mean "nothing"."""
    if hint is SiteId:
        return _site_id_or_nothing if default == "" else site_id
    if hint is GroupId:
        return group_id
    if hint is int:
        return _integer_or_minus_one if default == -1 else integer
    if hint in (bool, bytes, str):
        return partial(plain, hint)
    if hint is History:
        return _history
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return partial(_array, _check(args[0], None))
        return partial(_fixed, tuple(_check(arg, None) for arg in args))
    if origin in (typing.Union, types.UnionType):
        return partial(optional, _check(args[0], None))
    if issubclass(hint, IntEnum):
        return partial(_member, {int(member): member for member in hint})
    return struct(hint).exact


def _site_id_or_nothing(value: Any) -> SiteId:
    return site_id(value) if value != "" else SiteId("")


def _integer_or_minus_one(value: Any) -> int:
    return -1 if type(value) is int and value == -1 else integer(value)


def _member(members: dict[int, IntEnum], value: Any) -> IntEnum:
    if type(value) is not int or value not in members:
        raise Wrong("not a known code")
    return members[value]


def _array(check: Check, value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > ITEMS_LIMIT:
        raise Wrong("not an array, or too long")
    return tuple([check(item) for item in value])


def _fixed(checks: tuple[Check, ...], value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != len(checks):
        raise Wrong(f"not an array of {len(checks)}")
    return tuple([check(item) for check, item in zip(checks, value, strict=True)])


_reign = struct(Reign).exact


def _history(value: Any) -> History:
    if type(value) is not tuple:
        raise Wrong("not a gen history")
    return History(tuple([_reign(item) for item in value]))
