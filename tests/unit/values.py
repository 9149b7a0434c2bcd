"""Hypothesis strategies for every typed value that crosses the codec, drawn from the annotations."""

import types
import typing
from enum import IntEnum
from typing import Any

from hypothesis import strategies as st

from zrep.ids import NO_GROUP, GroupId, SiteId
from zrep.messages import FIELDS, Message, Type
from zrep.records import History, Kind, Record, Tip, make_record

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
INTEGERS = st.integers(0, 2**63 - 1)
SITES = st.text(ALPHABET, min_size=1, max_size=32).map(SiteId)
GROUPS = st.just(NO_GROUP) | SITES.map(lambda site: GroupId(site))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for one annotation, as `zrep.schema` reads it."""
    simple: dict[Any, st.SearchStrategy[Any]] = {
        SiteId: SITES,
        GroupId: GROUPS,
        int: INTEGERS,
        bool: st.booleans(),
        bytes: st.binary(max_size=60),
        str: TEXTS,
    }
    if hint in simple:
        return simple[hint]
    if hint is History:
        return of(typing.get_type_hints(History.__init__)["reigns"]).map(History)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(of(args[0]), max_size=4).map(tuple)
    if origin is tuple:
        return st.tuples(*[of(arg) for arg in args])
    if origin in (typing.Union, types.UnionType):
        return st.none() | of(args[0])
    if issubclass(hint, IntEnum):
        return st.sampled_from(list(hint))
    return struct(hint)


def struct(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.tuples(*[of(hints[name]) for name in cls._fields]).map(cls._make)


@st.composite
def records(draw: st.DrawFn) -> tuple[Record, ...]:
    """Draw contiguous records, as a log holds them."""
    gen = draw(st.integers(1, 2**62))
    tip = Tip(gen, draw(st.integers(0, 2**62)), draw(st.integers(0, 2**32 - 1)))
    found = []
    for payload in draw(st.lists(st.binary(max_size=80), min_size=1, max_size=4)):
        record = make_record(tip, gen, draw(st.integers(0, 2**62)), draw(st.sampled_from(list(Kind))), payload)
        found.append(record)
        tip = Tip(record.gen, record.lsn, record.chain)
    return tuple(found)


@st.composite
def messages(draw: st.DrawFn, kind: Type | None = None) -> Message:
    """Draw a message of one type, or of any."""
    kind = kind or draw(st.sampled_from(list(Type)))
    message = Message(
        kind,
        draw(GROUPS),
        draw(SITES),
        draw(INTEGERS),
        draw(st.none() | SITES),
        draw(INTEGERS),
        draw(INTEGERS),
        draw(st.integers(0, 2**16 - 1)),
        draw(struct(FIELDS[kind])),
    )
    if kind is Type.LOG and draw(st.booleans()):
        carried = draw(records())
        return message._replace(lsn=carried[0].lsn - 1, records=carried)
    if kind in (Type.FORWARD, Type.FORWARD_REPLY):
        return message._replace(data=draw(st.binary(max_size=200)))
    return message
