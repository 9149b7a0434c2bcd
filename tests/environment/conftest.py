"""An environment to write into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import zrep
from zrep.options import MIB

MAP_BYTES = 256 * MIB


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> Iterator[zrep.Environment]:
    with zrep.open(home, map_bytes=MAP_BYTES, durability="process") as env:
        yield env
