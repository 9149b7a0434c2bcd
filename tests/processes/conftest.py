"""The groups that the process tests use: one with a network of proxies, one without."""

from collections.abc import Iterator

import pytest

from tests.processes.harness import Cluster
from tests.processes.proxy import Network


@pytest.fixture(scope="package")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("plain")) as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Three sites that are well; earlier tests may have left data."""
    _cluster.repair()
    return _cluster


@pytest.fixture(scope="package")
def network() -> Iterator[Network]:
    """The network between the sites of `proxied`."""
    network = Network()
    yield network
    network.close()


@pytest.fixture(scope="package")
def _proxied(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("proxied"), network=network) as cluster:
        yield cluster


@pytest.fixture
def proxied(_proxied: Cluster, network: Network) -> Cluster:
    """Three sites that are well, with the network between them; earlier tests may have left data."""
    network.heal()
    _proxied.repair()
    return _proxied
