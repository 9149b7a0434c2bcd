"""Links that are cut, silent, one-way, or reset, between processes that are well."""

from itertools import permutations

from cli.status import ask
from tests.processes.harness import Cluster, Writer, assert_nothing_lost, eventually
from tests.processes.proxy import Network


def test_a_master_that_is_cut_off_is_replaced(proxied: Cluster, network: Network) -> None:
    with Writer(proxied) as writer:
        writer.await_more()
        gen, master = writer.gen, proxied.master()
        others = proxied.others(master)
        network.cut((master.index, other.index) for other in others)
        heir = proxied.master(others)
        assert ask(heir.address)["gen"] > gen
        eventually(
            lambda: ask(master.address).get("role") == "client", "the master without a majority did not step down"
        )
        network.heal()
        writer.await_gen_above(gen)
        writer.await_more()
    assert_nothing_lost(proxied, writer)


def test_a_silent_partition_is_noticed(proxied: Cluster, network: Network) -> None:
    with Writer(proxied) as writer:
        writer.await_more()
        gen, master = writer.gen, proxied.master()
        others = [other.index for other in proxied.others(master)]
        network.stall({(master.index, other) for other in others} | {(other, master.index) for other in others})
        heir = proxied.master(proxied.others(master))
        assert ask(heir.address)["gen"] > gen
        eventually(
            lambda: ask(master.address).get("role") == "client", "the master without a majority did not step down"
        )
        network.heal()
        writer.await_gen_above(gen)
        writer.await_more()
    assert_nothing_lost(proxied, writer)


def test_a_master_that_cannot_hear_steps_down(proxied: Cluster, network: Network) -> None:
    """F11: its heartbeats arrive, so nobody else would campaign; it must notice by itself (R12)."""
    with Writer(proxied) as writer:
        writer.await_more()
        gen, master = writer.gen, proxied.master()
        network.stall((other.index, master.index) for other in proxied.others(master))
        eventually(lambda: ask(master.address).get("role") == "client", "the deaf master did not step down")
        heir = proxied.master(proxied.others(master))
        assert ask(heir.address)["gen"] > gen
        network.heal()
        writer.await_gen_above(gen)
        writer.await_more()
    assert_nothing_lost(proxied, writer)


def test_two_clients_without_their_link_do_not_disturb_the_master(proxied: Cluster, network: Network) -> None:
    with Writer(proxied) as writer:
        writer.await_more()
        gen = writer.gen
        one, two = proxied.others(proxied.master())
        network.cut([(one.index, two.index)])
        writer.await_more(100)
        assert writer.gen == gen
        network.heal()
    assert_nothing_lost(proxied, writer)


def test_resets_in_mid_stream_lose_nothing(proxied: Cluster, network: Network) -> None:
    """F17: messages in flight are lost with their connection; gaps are found by LSN and asked for again."""
    with Writer(proxied) as writer:
        for _ in range(5):
            writer.await_more()
            network.reset()
        writer.await_more()
    assert_nothing_lost(proxied, writer)


def test_nobody_hears_anybody_and_then_all_do(proxied: Cluster, network: Network) -> None:
    with Writer(proxied) as writer:
        writer.await_more()
        network.cut(permutations((1, 2, 3), 2))
        eventually(
            lambda: all(ask(node.address).get("role") == "client" for node in proxied.nodes), "a lone master went on"
        )
        network.heal()
        writer.await_more()
    assert_nothing_lost(proxied, writer)
