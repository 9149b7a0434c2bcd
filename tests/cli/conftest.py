"""A running group for the commands that need one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import zrep


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of three sites that `zrep cluster start` has started."""
    directory = tmp_path_factory.mktemp("group")
    started = zrep("cluster", "start", "3", directory)
    assert started.returncode == 0, started.stderr
    yield directory
    zrep("cluster", "stop", directory)
