"""Durability is the group's: whatever a site was started with, it flushes, or does not, as the founder chose."""

from dataclasses import replace
from pathlib import Path

import pytest
import zmq

import zrep
from tests.environment.sites import QUICK, eventually
from zrep.storage.segment import Segment


@pytest.mark.parametrize(("founders", "own"), [("sync", "process"), ("process", "sync")])
def test_a_site_flushes_as_its_group_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, founders: str, own: str
) -> None:
    flushed: set[Path] = set()
    flush = Segment.flush

    def watched(segment: Segment) -> None:
        flushed.add(segment.path.parent)
        flush(segment)

    monkeypatch.setattr(Segment, "flush", watched)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def site(name: str, durability: str, **how: object) -> zrep.Site:
        options = replace(QUICK, durability=durability)
        made = zrep.Site(tmp_path / name, bind=f"inproc://{name}", options=options, context=context, **how)  # type: ignore[arg-type]
        return made.start()

    def flushes(master: zrep.Site, member: zrep.Site, key: bytes) -> bool:
        flushed.clear()
        written = master.env.put(key, b"value", None)
        assert written.durable == founders
        eventually(lambda: member.env.get(key), "the member has applied it")
        return any(directory.is_relative_to(member.home) for directory in flushed)

    master, member = site("master", founders, create=True), site("member", own, join="inproc://master", priority=0)
    try:
        eventually(lambda: {info.role for info in master.sites()} == {"voter"}, "both vote")
        assert flushes(master, member, b"joined") == (founders == "sync")
        member.stop()
        member = site("member", own, priority=0)
        eventually(lambda: member.env.get(b"joined"), "what it has is there")
        assert flushes(master, member, b"restarted") == (founders == "sync")
    finally:
        member.stop()
        master.stop()
        context.term()
