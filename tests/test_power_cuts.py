"""A power cut at any moment: whatever was not flushed is lost, kept or kept in parts (F24, F31, F32).

kill -9 leaves the page cache; a power cut does not, so only this shows a flush that is missing. The same
script as in the crash points runs on the real log and meta file, and images of what the disk could hold
are opened again.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shim import MEMORY
from tests.shim.powercut import PowerCuts
from tests.shim.script import SEGMENT, Step, script
from zrep.errors import DamagedLogError
from zrep.storage import frames, log, sealed
from zrep.storage.home import Home
from zrep.storage.log import SegmentedLog
from zrep.storage.segment import Segment

IMAGES = 3
"""At every change, so many ways in which the power could go."""


class Lost(AssertionError):
    """An image lacks what was durable, or holds what never was."""


def run(directory: Path, patch: pytest.MonkeyPatch, seed: int) -> list[tuple[Path, int]]:
    """Run the script; return images of the home, each with how many steps were durable then."""
    rng = random.Random(seed)
    images: list[tuple[Path, int]] = []
    durable = 0

    def change() -> None:
        for _ in range(IMAGES):
            path = directory / f"image-{len(images)}"
            disk.image(path, rng)
            images.append((path, durable))

    with patch.context() as patched:
        place = directory / "home"
        place.mkdir()
        disk = PowerCuts(place, patched, change)
        site = Home(place, segment_bytes=SEGMENT)
        records = SegmentedLog(site.log_directory(1), segment_bytes=SEGMENT)
        durable = 1
        for step in script()[1:]:
            if step.promise != site.meta.promise:
                site.meta = site.meta._replace(promise=step.promise, vote=step.vote)
                site.metafile.save(site.meta)
            if step.cut is not None:
                records.cut(step.cut)
            for record in step.append:
                records.append(record)
            records.flush()
            if step.trim:
                records.trim(step.trim)
            durable += 1
        records.close()
        site.close()
    return images


def check_all(images: list[tuple[Path, int]]) -> None:
    for path, durable in images:
        try:
            check(path, durable)
        except Exception as error:
            error.add_note(f"in {path.name}, {durable} steps durable")
            raise


def check(path: Path, durable: int) -> None:
    """Open an image and compare it with the model."""
    steps = script()
    before, after = steps[max(durable - 1, 0)], steps[min(durable, len(steps) - 1)]
    site = Home(path, segment_bytes=SEGMENT)
    try:
        records = SegmentedLog(site.log_directory(1), segment_bytes=SEGMENT)
        found = list(records.read(records.first, records.tip.lsn, 1 << 30))
        records.close()
    finally:
        site.close()
    votes = {(step.promise, step.vote) for step in (before, after)}
    if (site.meta.promise, site.meta.vote) not in votes:
        raise Lost(f"promise {site.meta.promise}, durable {before.promise}")
    end = records.tip.lsn
    if not any(end <= len(step.log) and found == list(step.log[records.first - 1 : end]) for step in (before, after)):
        raise Lost(f"log to {end} holds records that were never appended in this order")
    if end < common(before, after):
        raise Lost(f"log ends at {end}, durable was {common(before, after)}")


def common(before: Step, after: Step) -> int:
    for lsn, (one, other) in enumerate(zip(before.log, after.log, strict=False)):
        if one != other:
            return lsn
    return min(len(before.log), len(after.log))


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_at_any_change(directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    images = run(directory, monkeypatch, seed)
    assert len(images) > 1000
    check_all(images)


def nothing(*args: object) -> None:
    return None


def erase_at_leisure(segment: Segment, nbytes: int) -> None:
    """A cut that is not flushed before it is written over."""
    fd = segment._writable()
    os.ftruncate(fd, segment.end)
    os.posix_fallocate(fd, 0, nbytes)


PLANTED: dict[str, tuple[object, str, Callable[..., object]]] = {
    "the log is not flushed": (Segment, "flush", nothing),
    "a cut is not flushed before new frames": (Segment, "erase", erase_at_leisure),
    "a new segment's name is not flushed": (log, "sync_directory", nothing),
    "the meta file's name is not flushed": (sealed, "sync_directory", nothing),
    "a torn tail counts as damage": (frames, "is_torn", lambda rest, offset: False),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(directory: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*PLANTED[bug])
        images = run(directory, monkeypatch, 0)
        with pytest.raises((Lost, DamagedLogError)):
            check_all(images)
