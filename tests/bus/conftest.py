"""Nets for the bus tests: over each transport, or over tcp."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.bus.net import Net, nets


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        yield from nets(request.param, directory)


@pytest.fixture
def tcp() -> Iterator[Net]:
    with tempfile.TemporaryDirectory() as directory:
        yield from nets("tcp", directory)
