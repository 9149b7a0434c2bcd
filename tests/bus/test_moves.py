"""Sites that are started at other addresses: found there, whoever answers at the old ones."""

from collections.abc import Sequence

import pytest

from tests.bus.net import A, B, C, Net
from zrep.ids import SiteId
from zrep.records import Member


def members(**endpoints: Sequence[str]) -> list[Member]:
    """Return a configuration: where it says that each site is."""
    return [Member(SiteId(name * 32), endpoints=tuple(where)) for name, where in endpoints.items()]


def test_sites_that_exchanged_addresses_are_found_where_the_configuration_lists_them(net: Net) -> None:
    """Each dials the other at an address that is its own now; only the third hears from both where they are."""
    a, b, c = (net.bus(site).endpoints for site in (A, B, C))
    net.members()
    net.until_connected()
    net.close(B, C)
    net.bus(B, run=2, bind=c[0])
    net.bus(C, run=2, bind=b[0])
    for bus in net.buses.values():
        bus.members(members(a=a, b=b, c=c))
    net.until_connected(A, B)
    net.until_connected(A, C)
    assert C not in net.buses[B].connected()
    for bus in net.buses.values():
        bus.members(members(a=a, b=c, c=c))
        bus.members(members(a=a, b=c, c=b))
    net.until_connected()


def test_a_site_is_followed_although_another_answers_where_it_was(tcp: Net) -> None:
    """Its own HELLO says where it is; that a connection stands at the old address says nothing."""
    a, where = tcp.bus(A), tcp.bus(C).endpoints
    a.members(members(a=a.endpoints, b=where))
    peer = a._known.peer(B)
    assert peer is not None
    tcp.until(lambda: peer.link is not None and peer.link.up)
    b = tcp.bus(B)
    b.members(members(a=a.endpoints, b=where))
    tcp.until_connected(A, B)


def test_a_connected_site_that_is_listed_elsewhere_is_sought_there_once_it_is_lost(tcp: Net) -> None:
    """Before its death is noticed the configuration may tell where it is now, and it need not know where we are."""
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    new = tcp.bus(C).endpoints
    tcp.close(C)
    a.members(members(a=a.endpoints, b=new))
    tcp.settle()
    assert a.connected() == {B}, "it still answers where it was"
    tcp.close(B)
    tcp.bus(B, run=2, bind=new[0])
    tcp.until_connected(A, B)
    assert b.endpoints != new


@pytest.mark.parametrize("restarted", [(A, B, C), (C, B, A)], ids=["up", "down"])
def test_sites_that_move_one_after_the_other_stay_connected(tcp: Net, restarted: Sequence[SiteId]) -> None:
    """Each to the address that the one before has left."""
    for site in (A, B, C):
        tcp.bus(site)
    tcp.members()
    tcp.until_connected()
    old = {site: bus.endpoints for site, bus in tcp.buses.items()}
    left = tcp.endpoint()
    for site in restarted:
        where = tcp.buses[site].endpoints
        tcp.close(site)
        bus = tcp.bus(site, run=2, bind=left)
        bus.members([Member(each, endpoints=endpoints) for each, endpoints in old.items()])
        tcp.until_connected()
        old[site], left = bus.endpoints, where[0]


def test_sites_that_all_took_the_next_ones_address_find_one_another(net: Net) -> None:
    """Each dials itself, and a site that is not the one it looks for: that one learns where the dialler is.

    So one of them, at least, is connected to both others: it can be elected, and the configuration tells the rest.
    """
    for site in (A, B, C):
        net.bus(site)
    old = {site: bus.endpoints for site, bus in net.buses.items()}
    net.members()
    net.until_connected()
    net.close(A, B, C)
    for site, where in ((A, old[B]), (B, old[C]), (C, old[A])):
        bus = net.bus(site, run=2, bind=where[0])
        bus.members([Member(each, endpoints=endpoints) for each, endpoints in old.items()])
    net.until(lambda: any(len(bus.connected()) == 2 for bus in net.buses.values()))
    net.members()
    net.until_connected()


def test_sites_that_exchanged_addresses_find_one_another_by_a_seed(net: Net) -> None:
    """Each dials only itself, unless somebody tells it where the other is."""
    old = {site: net.bus(site).endpoints for site in (A, B)}
    net.members()
    net.until_connected()
    net.close(A, B)
    for site, where in ((A, old[B]), (B, old[A])):
        bus = net.bus(site, run=2, bind=where[0])
        bus.members([Member(each, endpoints=endpoints) for each, endpoints in old.items()])
    net.buses[A].seed(old[A][0])
    net.until_connected()
