"""Processes that die, stand still, or all die at once, while a writer keeps a ledger."""

import signal

import pytest

from cli.status import ask
from tests.processes.harness import Cluster, Writer, assert_nothing_lost, eventually
from zrep.errors import NoMasterError


def test_three_nodes_form_a_group_that_serves_everywhere(cluster: Cluster) -> None:
    for node in cluster.nodes:
        status = ask(node.address)
        assert sorted(member["address"] for member in status["members"]) == sorted(cluster.addresses)
    with cluster.client() as client:
        client.put(b"IBM", b"142.30")
    cluster.await_level()
    assert [held[b"IBM"] for held in cluster.contents()] == [b"142.30"] * 3


def test_nothing_acknowledged_is_lost_when_masters_are_killed(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        for _ in range(3):
            writer.await_more()
            gen, master = writer.gen, cluster.master()
            cluster.kill(master)
            writer.await_gen_above(gen)
            writer.await_more()
            cluster.restart(master)
    assert_nothing_lost(cluster, writer)


def test_a_killed_client_catches_up(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        client = cluster.others(cluster.master())[0]
        cluster.kill(client)
        writer.await_more(50)
        cluster.restart(client)
        writer.await_more()
    assert_nothing_lost(cluster, writer)


def test_all_killed_at_once_lose_nothing(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        writer.await_more(50)
        cluster.kill(*cluster.nodes)
        cluster.restart(*cluster.nodes)
        writer.await_more()
    assert_nothing_lost(cluster, writer)


def test_a_stopped_master_is_replaced_and_steps_down_when_it_goes_on(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        writer.await_more()
        gen, master = writer.gen, cluster.master()
        master.signal(signal.SIGSTOP)
        writer.await_gen_above(gen)
        writer.await_more()
        master.signal(signal.SIGCONT)
        eventually(lambda: ask(master.address).get("role") == "client", "the old master did not step down")
        writer.await_more()
    assert_nothing_lost(cluster, writer)


def test_a_stopped_client_hinders_nobody(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        gen, client = writer.gen, cluster.others(cluster.master())[0]
        writer.await_more()
        client.signal(signal.SIGSTOP)
        writer.await_more(50)
        client.signal(signal.SIGCONT)
        writer.await_more()
        assert writer.gen == gen or gen == 0
    assert_nothing_lost(cluster, writer)


def test_without_a_majority_nothing_is_acknowledged(cluster: Cluster) -> None:
    master = cluster.master()
    dead = cluster.others(master)
    with Writer(cluster) as writer:
        writer.await_more()
        cluster.kill(*dead)
        eventually(lambda: ask(master.address).get("role") == "client", "a master without a majority did not step down")
        acknowledged = len(writer.ledger)
        with cluster.client(timeout_ms=2000) as client, pytest.raises(NoMasterError, match="zrep status"):
            client.put(b"IBM", b"142.30")
        assert len(writer.ledger) == acknowledged
        cluster.restart(dead[0])
        writer.await_more()
        cluster.restart(dead[1])
    assert_nothing_lost(cluster, writer)
