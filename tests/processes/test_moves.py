"""Sites that are started again at other addresses, even at one another's: the group finds them, and elects."""

from collections.abc import Sequence

import pytest

from cli import group
from cli.processes import Node, local_addresses
from tests.processes.harness import QUICK, Cluster, Writer, assert_nothing_lost


def swap(nodes: Sequence[Node]) -> None:
    """Give each node the address of the next one."""
    addresses = [node.address for node in nodes]
    for node, address in zip(nodes, (*addresses[1:], addresses[0]), strict=True):
        node.address = address


def test_two_clients_that_exchanged_addresses_can_elect_without_the_third(cluster: Cluster) -> None:
    master = cluster.master()
    clients = cluster.others(master)
    cluster.kill(*clients)
    swap(clients)
    cluster.restart(*clients)
    group.await_formed(cluster.nodes)
    with Writer(cluster) as writer:
        writer.await_more()
        gen = writer.gen
        cluster.kill(cluster.master())
        writer.await_gen_above(gen)
        cluster.repair()
    assert_nothing_lost(cluster, writer)


def test_sites_that_move_one_after_the_other_are_found(cluster: Cluster) -> None:
    """Each to the address that the one before has left."""
    (left,) = local_addresses(1)
    with Writer(cluster) as writer:
        for node in cluster.nodes:
            cluster.kill(node)
            node.address, left = left, node.address
            cluster.restart(node)
            group.await_formed(cluster.nodes)
            writer.await_more()
    assert_nothing_lost(cluster, writer)


@pytest.mark.parametrize("told", [False, True], ids=["by themselves", "by --join"])
def test_sites_that_all_took_the_next_ones_address_find_one_another(cluster: Cluster, told: bool) -> None:
    with Writer(cluster) as writer:
        writer.await_more()
    cluster.kill(*cluster.nodes)
    swap(cluster.nodes)
    first = cluster.nodes[0]
    for node in cluster.nodes:
        node.start(*QUICK, *(["--join", first.address] if told and node is not first else []))
    for node in cluster.nodes:
        node.await_ready()
    group.await_formed(cluster.nodes)
    assert_nothing_lost(cluster, writer)
