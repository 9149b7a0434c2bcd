"""Homes that are wiped, or put back as they once were: such a disk cannot vouch for what its site acknowledged."""

import shutil
from pathlib import Path

from cli.processes import Node
from cli.status import ask
from tests.processes.harness import QUICK, Cluster, Writer, assert_nothing_lost, eventually
from tests.processes.proxy import Network


def voters(cluster: Cluster) -> set[str]:
    members = ask(cluster.master().address)["members"]
    return {member["site"] for member in members if member["role"] == "voter"}


def site_of(node: Node) -> str:
    return str(ask(node.address)["site"])


def test_a_wiped_site_comes_back_as_another_one(cluster: Cluster) -> None:
    with Writer(cluster) as writer:
        writer.await_more()
        victim = cluster.others(cluster.master())[0]
        before, old = voters(cluster), site_of(victim)
        cluster.kill(victim)
        shutil.rmtree(victim.home)
        writer.await_more()
        victim.start(*QUICK, "--join", cluster.others(victim)[0].address)
        victim.await_ready()
        new = site_of(victim)
        assert new != old
        eventually(lambda: voters(cluster) == before - {old} | {new}, "the new site did not take the old one's place")
        writer.await_more()
    assert_nothing_lost(cluster, writer)


def test_a_site_restored_from_an_old_copy_joins_as_a_new_one(
    proxied: Cluster, network: Network, tmp_path: Path
) -> None:
    """F35: it once acknowledged records that its disk does not hold any more; the master remembers (R5)."""
    victim, other = proxied.others(proxied.master())
    with Writer(proxied) as writer:
        writer.await_more()
        proxied.kill(victim)
        shutil.copytree(victim.home, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        proxied.restart(victim)
        writer.await_more(100)
        before, old = voters(proxied), site_of(victim)
        proxied.kill(victim)
        shutil.rmtree(victim.home)
        shutil.copytree(tmp_path / "copy", victim.home)
        network.cut([(victim.index, other.index)])  # else it may catch up with that one, unseen
        victim.start(*QUICK)
        eventually(lambda: not victim.running, "it was not told that it lost records")
        assert victim.process is not None
        assert victim.process.returncode == 5
        assert "DIVERGED" in victim.log.read_text()
        assert victim.log.read_text().endswith("start it again: it joins its group as a new site\n")
        network.heal()
        writer.await_more()
        assert voters(proxied) == before
        proxied.kill(victim)
        proxied.restart(victim)
        new = site_of(victim)
        eventually(lambda: voters(proxied) == before - {old} | {new}, "it did not join as a new site")
        writer.await_more()
    assert_nothing_lost(proxied, writer)
