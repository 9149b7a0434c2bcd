"""Sites find one another, hear one another, and notice when one is gone."""

import time

import pytest

from tests.bus.net import A, B, C, Net, message
from zrep.bus import Connected, ConnectFailed, Disconnected, DuplicateSite
from zrep.errors import OptionError
from zrep.ids import NO_GROUP
from zrep.messages import Flag, Heartbeat, Join, JoinReply, Log, Message, Status, Type
from zrep.records import Kind, MemberRole, Record, Tip, make_record


def records(count: int, size: int) -> list[Record]:
    tip, made = Tip(), []
    for _ in range(count):
        record = make_record(tip, 1, 0, Kind.COMMIT, bytes(size))
        made.append(record)
        tip = Tip(record.gen, record.lsn, record.chain)
    return made


def test_members_are_connected_and_hear_broadcasts_and_each_other(net: Net) -> None:
    a, b, c = net.bus(A), net.bus(B), net.bus(C)
    net.members()
    net.until_connected()
    net.until(lambda: {arrival.site for arrival in net.got(A, Connected)} == {B, C})
    heartbeat = message(a, A, None, Heartbeat(1, 2, 3))
    assert a.send(heartbeat)
    net.until(lambda: net.got(B, Message) == [heartbeat] == net.got(C, Message))
    directed = message(b, B, C)
    assert b.send(directed)
    net.until(lambda: directed in net.got(C, Message))
    net.settle()
    assert net.got(A, Message) == []
    assert net.got(B, Message) == [heartbeat]
    assert c.counters["received"] == 2


def test_the_first_broadcast_after_connected_is_never_missed(net: Net) -> None:
    """No slow joiner: connected means that the subscription is there (zeromq trap 4)."""
    for run in range(1, 9):
        a, b = net.bus(A, run=run), net.bus(B, run=run)
        net.members()
        net.until(lambda b=b: b.connected())  # type: ignore[misc]
        net.until(lambda a=a: a.connected())  # type: ignore[misc]
        assert a.send(message(a, A, None, run=run))
        assert b.send(message(b, B, None, run=run))
        net.until(lambda: net.got(A, Message) and net.got(B, Message))
        net.close(A, B)


def test_a_log_travels_whole_live_and_in_bulk(net: Net) -> None:
    a, _ = net.bus(A), net.bus(B)
    net.members()
    net.until_connected()
    carried = records(20, 30_000)
    live = message(a, A, None, Log(0, 0), carried)
    answer = message(a, A, B, Log(0, 0), carried, flags=Flag.LOG_END)
    assert a.send(live)
    assert a.send(answer)
    net.until(lambda: len(net.got(B, Message)) == 2)
    assert sorted(net.got(B, Message), key=lambda got: got.flags) == [live, answer]


def test_a_closed_site_is_missed_at_once_and_found_again_after_its_restart(net: Net) -> None:
    a, b = net.bus(A), net.bus(B)
    net.members()
    net.until_connected()
    where = b.endpoints[0]
    net.close(B)
    began = time.monotonic()
    net.until(lambda: net.got(A, Disconnected))
    assert time.monotonic() - began < 0.5
    assert a.connected() == frozenset()
    net.bus(B, run=2, bind=where)
    net.members()
    began = time.monotonic()
    net.until_connected()
    assert time.monotonic() - began < 1.0, "the sockets to a restarted site are replaced, not waited for (trap 17)"
    net.until(lambda: len(net.got(A, Connected)) == 2)
    assert len(net.got(A, Disconnected)) == 1


def test_a_restarted_site_is_found_at_another_address(tcp: Net) -> None:
    tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    tcp.close(B)
    b = tcp.bus(B, run=2)
    tcp.members()
    tcp.until_connected()
    tcp.until(lambda: tcp.got(A, Connected)[-1].hello.endpoints == b.endpoints)


def test_a_broken_subscription_is_noticed_by_both_and_mended(tcp: Net) -> None:
    """A sees it at once; B is told, asks again for a while, and then connects anew."""
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    b._subscriber.disconnect(A)
    tcp.until(lambda: Disconnected(B, "its subscription ended") in tcp.seen[A])
    tcp.until(lambda: Disconnected(A, "it does not hear us any more") in tcp.seen[B])
    tcp.until_connected()
    broadcast = message(a, A, None)
    assert a.send(broadcast)
    tcp.until(lambda: broadcast in tcp.got(B, Message))


def test_messages_of_an_older_run_are_dropped(tcp: Net) -> None:
    a, b = tcp.bus(A, run=3), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    assert a.send(message(a, A, B, run=2))
    assert a.send(message(a, A, B, run=3))
    tcp.until(lambda: tcp.got(B, Message))
    assert tcp.got(B, Message) == [message(a, A, B, run=3)]
    assert b.counters["stale"] == 1


def test_two_living_runs_of_one_site_are_reported(tcp: Net) -> None:
    """A copied home: at first what the older says may be late, a second later it is alive (R1)."""
    a, b = tcp.bus(A, run=3), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    assert DuplicateSite(A) not in tcp.seen[B]

    def reported() -> bool:
        a.send(message(a, A, B, run=2))
        return DuplicateSite(A) in tcp.seen[B]

    tcp.until(reported)
    tcp.settle()
    assert tcp.seen[B].count(DuplicateSite(A)) == 1
    assert b.connected() == {A}


def test_another_process_with_our_own_site_id_is_reported(tcp: Net) -> None:
    a = tcp.bus(A)
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    assert tcp.buses[B].send(message(a, A, A, run=5))
    tcp.until(lambda: DuplicateSite(A) in tcp.seen[A])
    assert tcp.buses[B].send(message(a, A, A, run=1))
    tcp.settle()
    assert tcp.seen[A].count(DuplicateSite(A)) == 1
    assert tcp.got(A, Message) == []


def test_a_joiner_reaches_a_group_through_a_seed_and_takes_its_name(net: Net) -> None:
    """Nil group: HELLO, JOIN and its reply pass; what follows the reply waits until the name is taken."""
    a = net.bus(A)
    net.members()
    joiner = net.bus(B, group=NO_GROUP)
    joiner.seed(a.endpoints[0])
    net.until_connected()
    assert joiner.send(message(joiner, B, A, Join(B, joiner.endpoints, joiner.publish, 100, MemberRole.VOTER)))
    net.until(lambda: net.got(A, Message))
    reply = message(a, A, B, JoinReply(B, Status.OK, MemberRole.LEARNER, A, a.endpoints))
    follows = message(a, A, B, Heartbeat(1, 2, 3))
    assert a.send(reply)
    assert a.send(follows)

    def admitted() -> bool:
        joiner.poll(1)
        for arrival in joiner.receive(time.monotonic_ns(), 64):
            net.seen[B].append(arrival)
            if isinstance(arrival, Message) and arrival.type is Type.JOIN_REPLY:
                joiner.group = arrival.group
        return follows in net.got(B, Message)

    deadline = time.monotonic() + 10
    while not admitted():
        assert time.monotonic() < deadline
    assert net.got(B, Message) == [reply, follows]
    net.members()
    net.until_connected()
    broadcast = message(a, A, None)
    assert a.send(broadcast)
    net.until(lambda: broadcast in net.got(B, Message))


def test_a_removed_site_is_dropped(net: Net) -> None:
    a, _, _ = net.bus(A), net.bus(B), net.bus(C)
    net.members()
    net.until_connected()
    net.members(A, B)
    net.until(lambda: Disconnected(C, "it is not a member any more") in net.seen[A])
    assert not a.send(message(a, A, C))
    assert a.connected() == {B}


def test_an_address_that_nobody_answers_is_told_once_and_tried_again(tcp: Net) -> None:
    taken = tcp.bus(B)
    where = taken.endpoints[0]
    tcp.close(B)
    a = tcp.bus(A)
    a.seed(where)
    tcp.until(lambda: tcp.got(A, ConnectFailed))
    assert tcp.got(A, ConnectFailed) == [ConnectFailed(where, "nobody answers there")]
    tcp.bus(B, bind=where)
    tcp.until_connected()
    assert len(tcp.got(A, ConnectFailed)) == 1


def test_a_name_is_tried_at_every_address(tcp: Net) -> None:
    """localhost is ::1 first; a site that listens on 127.0.0.1 only is found all the same."""
    b = tcp.bus(B)
    port = b.endpoints[0].rpartition(":")[2]
    a = tcp.bus(A, bind="tcp://localhost:0")
    a.seed(f"tcp://localhost:{port}")
    tcp.until_connected()


def test_sites_talk_over_ipv6(tcp: Net) -> None:
    try:
        tcp.bus(A, bind="tcp://[::1]:0")
    except OptionError:
        pytest.skip("this host has no IPv6")
    tcp.bus(B)
    tcp.members()
    tcp.until_connected()


def test_a_seed_that_is_ourselves_or_known_is_harmless(tcp: Net) -> None:
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    a.seed(a.endpoints[0])
    a.seed(b.endpoints[0])
    a.seed(b.endpoints[0])
    tcp.until_connected()
    tcp.settle()
    assert len(tcp.got(A, Connected)) == 1
    assert len(tcp.got(B, Connected)) == 1


def test_a_connected_group_falls_silent(tcp: Net) -> None:
    """No exchange feeds itself (I22): idle sites say a HELLO a second, no more."""
    a, b = tcp.bus(A), tcp.bus(B)
    tcp.members()
    tcp.until_connected()
    tcp.settle()
    before = a.counters["hellos"] + b.counters["hellos"]
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        tcp.turn()
    assert 1 <= a.counters["hellos"] + b.counters["hellos"] - before <= 12
    assert a.connected() == {B}
