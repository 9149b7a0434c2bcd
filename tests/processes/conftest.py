"""The groups that the process tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.harness import Cluster
from tests.processes.proxy import Network


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three sites, formed."""
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def network() -> Iterator[Network]:
    """A network to put between the sites."""
    network = Network()
    yield network
    network.close()


@pytest.fixture
def proxied(tmp_path: Path, network: Network) -> Iterator[Cluster]:
    """Three sites with the network between them."""
    with Cluster(tmp_path, network=network) as cluster:
        yield cluster
