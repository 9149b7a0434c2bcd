"""What the machine may rely on in any meta file, on disk or in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.memory import MemoryMeta
from zrep.ids import GroupId, SiteId
from zrep.ports import Meta, MetaFile
from zrep.storage.meta import DiskMeta

SITE = SiteId("0123456789abcdef0123456789abcdef")
FULL = Meta(SITE, GroupId("g" * 32), 3, 2**40, SiteId("f" * 32), 7, SiteId("e" * 32), "b" * 32)


@pytest.fixture(params=["memory", "disk"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], MetaFile]:
    """Return what opens the meta file, as each start of a site does."""
    memory = MemoryMeta()
    return (lambda: memory) if request.param == "memory" else (lambda: DiskMeta(tmp_path / "site.meta"))


def test_nothing_was_saved(start: Callable[[], MetaFile]) -> None:
    assert start().load() is None


@pytest.mark.parametrize("meta", [Meta(SITE), FULL])
def test_what_was_saved_is_loaded(start: Callable[[], MetaFile], meta: Meta) -> None:
    start().save(meta)
    assert start().load() == meta


def test_the_last_save_counts(start: Callable[[], MetaFile]) -> None:
    file = start()
    for promise in range(5):
        file.save(FULL._replace(promise=promise))
        assert file.load() == FULL._replace(promise=promise)
    assert start().load() == FULL._replace(promise=4)
