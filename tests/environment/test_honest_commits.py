"""What callers are told by three real sites, with all of them there, one stopped, or the cables pulled."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import zrep
from tests.environment.sites import DEADLINE_S, QUICK, Sites, eventually
from zrep.options import AckPolicy, Options
from zrep.tickets import Awaited

PATIENT = replace(QUICK, election_timeout_ms=60_000, quorum_timeout_ms=60_000)
"""Nobody campaigns or steps down while a test has cables pulled."""
LONG_MS = int(DEADLINE_S * 1000)
NEED_EVERYBODY = {AckPolicy.ALL_PEERS, AckPolicy.ALL}


def group(root: Path, options: Options) -> Sites:
    """Return a group in which any site can be master, though the first is at the start."""
    return Sites(root, options, priorities=(100, 90, 80))


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    with group(tmp_path, QUICK) as sites:
        yield sites


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Sites]:
    with group(tmp_path, PATIENT) as sites:
        yield sites


def batch(key: bytes, value: bytes = b"1") -> zrep.Batch:
    return zrep.Batch().put(key, value)


def times_written(site: zrep.Site, word: bytes) -> int:
    """Count a word in the permanent records of a site's log."""
    engine = site.env.engine
    log, applied = engine.log, engine.store.applied.tip.lsn
    return sum(record.payload.count(word) for record in engine.call(lambda: log.read(1, applied, 1 << 30)))


def heir_of(sites: Sites) -> zrep.Site:
    """Wait until somebody else than the first site is master."""

    def heir() -> zrep.Site | None:
        return sites.master if sites.master is not sites.all[0] else None

    found = eventually(heir, "another master")
    assert found is not None
    return found


# The seven policies.


def test_each_policy_is_met_when_all_are_there(patient: Sites) -> None:
    env, ids = patient.all[0].env, {site.site for site in patient.all}
    for policy in AckPolicy:
        result = env.write(batch(b"k"), acks=policy, timeout_ms=LONG_MS)
        assert result.token is not None
        if policy in (AckPolicy.QUORUM, *NEED_EVERYBODY, AckPolicy.ALL_AVAILABLE):
            assert result.perm
            assert result.token.site in result.acked
            assert len(result.acked) >= 2
        if policy in NEED_EVERYBODY:
            assert set(result.acked) == ids
        assert env.txn_applied(result.token, LONG_MS) == "applied"


def test_with_one_site_down_only_who_wants_all_is_disappointed(patient: Sites) -> None:
    env, lost = patient.all[0].env, patient.all[2].site
    patient.all[2].stop()
    eventually(lambda: lost not in env.engine.replica.up, "the loss is noticed")
    for policy in AckPolicy:
        txn = env.begin(write=True)
        txn.put(b"k", policy.value.encode())
        if policy not in NEED_EVERYBODY:
            assert lost not in txn.commit(policy, LONG_MS).acked
            continue
        with pytest.raises(zrep.PermFailedError, match=policy.value) as failed:
            txn.commit(policy, 100)
        assert lost not in failed.value.acked
        assert list(failed.value.missing) == [lost]
        assert env.txn_applied(failed.value.token) == "applied"
        assert env.get(b"k") == policy.value.encode()


def test_a_master_alone_says_who_is_missing_and_the_commit_may_still_happen(patient: Sites) -> None:
    first, *others = patient.all
    env = first.env
    for policy in AckPolicy:
        patient.cables[0].pull()
        if policy is AckPolicy.NONE:
            result = env.write(batch(b"k", policy.value.encode()), acks=policy)
            token = result.token
            assert (result.perm, result.acked) == (False, ())  # sealed, and not even flushed here
        else:
            with pytest.raises(zrep.PermFailedError) as failed:
                env.write(batch(b"k", policy.value.encode()), acks=policy, timeout_ms=50)
            token = failed.value.token
            assert tuple(failed.value.acked) == (first.site,)
            assert set(failed.value.missing) == {other.site for other in others}
        assert token is not None
        assert env.txn_applied(token) == "pending"
        assert env.get(b"k") != policy.value.encode()
        patient.cables[0].plug_in()
        assert env.txn_applied(token, LONG_MS) == "applied"
        assert env.get(b"k") == policy.value.encode()


@pytest.mark.parametrize("policy", list(AckPolicy))
def test_the_policy_of_an_environment_is_its_options(tmp_path: Path, policy: AckPolicy) -> None:
    with group(tmp_path, replace(PATIENT, ack_policy=policy, ack_timeout_ms=200)) as sites:
        env = sites.all[0].env
        lost = sites.all[2].site
        sites.all[2].stop()
        eventually(lambda: lost not in env.engine.replica.up, "the loss is noticed")
        if policy in NEED_EVERYBODY:
            with pytest.raises(zrep.PermFailedError, match=policy.value), env.begin(write=True) as txn:
                txn.put(b"k", b"1")
            assert env.write(batch(b"k", b"2"), acks=AckPolicy.QUORUM).perm
        else:
            env.put(b"k", b"1")


# Mastership lost.


def test_what_another_master_wrote_over_did_not_happen(sites: Sites) -> None:
    env = sites.all[0].env
    sites.cables[0].pull()
    sealed = env.write(batch(b"lost"), acks=AckPolicy.NONE)
    with pytest.raises(zrep.NoMasterError):
        env.begin(write=True, timeout_ms=1)
    heir = heir_of(sites)
    heir.env.put(b"kept", b"1")
    sites.cables[0].plug_in()
    assert sealed.token is not None
    token = sealed.token
    eventually(lambda: env.get(b"kept"), "the old master follows")
    assert [site.env.txn_applied(token) for site in sites.all] == ["rolled_back"] * 3
    assert [site.env.get(b"lost") for site in sites.all] == [None] * 3


def test_who_waits_long_enough_is_told_that_it_did_not_happen(sites: Sites) -> None:
    env = sites.all[0].env
    sites.cables[0].pull()
    txn = env.begin(write=True)
    txn.put(b"lost", b"1")
    future = txn.commit_async(timeout_ms=LONG_MS)
    heir_of(sites).env.put(b"kept", b"1")
    sites.cables[0].plug_in()
    with pytest.raises(zrep.NotAppliedError, match="run it again"):
        future.result(DEADLINE_S)
    assert len(set(sites.digests())) == 1
    assert env.get(b"lost") is None


def test_who_does_not_wait_is_told_that_nobody_knows_and_it_was_lost(sites: Sites) -> None:
    env = sites.all[0].env
    sites.cables[0].pull()
    future = env.submit(batch(b"lost"), timeout_ms=1500)
    heir_of(sites).env.put(b"kept", b"1")
    with pytest.raises(zrep.UnknownOutcomeError) as unknown:
        future.result(DEADLINE_S)
    assert unknown.value.token is not None
    assert env.txn_applied(unknown.value.token, 1) == "pending"
    sites.cables[0].plug_in()
    assert env.txn_applied(unknown.value.token, LONG_MS) == "rolled_back"


def test_who_does_not_wait_is_told_that_nobody_knows_and_it_happened(sites: Sites) -> None:
    """The master is only deaf: its record arrives, the acknowledgements do not, and the heir holds it."""
    env = sites.all[0].env
    sites.cables[0].deaf = True
    with pytest.raises(zrep.UnknownOutcomeError) as unknown:
        env.write(batch(b"kept"), timeout_ms=1500)
    token = unknown.value.token
    assert token is not None
    assert heir_of(sites).env.txn_applied(token, LONG_MS) == "applied"
    sites.cables[0].plug_in()
    assert env.txn_applied(token, LONG_MS) == "applied"
    assert env.get(b"kept") == b"1"


# Callers who go away.


def test_a_cancelled_future_neither_loses_nor_repeats_its_commit(patient: Sites) -> None:
    for number, site in enumerate(patient.all):
        word = b"cancelled-%d" % number
        patient.cables[number].pull()
        future = site.env.submit(batch(word), timeout_ms=LONG_MS)
        assert future.cancel()
        patient.cables[number].plug_in()
        eventually(partial(site.env.get, word), "the commit happens all the same")
        with pytest.raises(CancelledError):
            future.result(0)
        patient.all[0].env.put(b"after", b"1")
        assert times_written(patient.all[0], word) == 1


def test_a_cancelled_task_neither_loses_nor_repeats_its_commit(patient: Sites) -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(patient.all[1].env.awrite(batch(b"cancelled"), timeout_ms=LONG_MS))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    patient.cables[1].pull()
    asyncio.run(cancelled())
    patient.cables[1].plug_in()
    eventually(lambda: patient.all[1].env.get(b"cancelled"), "the commit happens all the same")
    patient.all[0].env.put(b"after", b"1")
    assert times_written(patient.all[0], b"cancelled") == 1


def test_a_caller_who_gave_up_finds_his_write_once(patient: Sites) -> None:
    """The client is deaf: it asks again and again, the master does it once, and no answer arrives."""
    env = patient.all[1].env
    patient.cables[1].deaf = True
    with pytest.raises(zrep.UnknownOutcomeError):
        env.write(batch(b"repeated"), timeout_ms=300)
    patient.cables[1].plug_in()
    assert env.put(b"other", b"1").perm
    assert times_written(patient.all[0], b"repeated") == 1


def test_a_refusal_is_the_same_error_at_every_site(patient: Sites) -> None:
    wrong: list[tuple[type[Exception], zrep.Batch]] = [
        (zrep.NotFoundError, zrep.Batch().put(b"k", b"v", db=b"nowhere")),
        (zrep.BadValsizeError, zrep.Batch().put(bytes(600), b"v")),
    ]
    for site in patient.all[:2]:
        for error, write in wrong:
            with pytest.raises(error):
                site.env.write(write)


def test_a_forwarded_write_and_a_remote_one_say_whether_they_are_permanent(tmp_path: Path) -> None:
    with group(tmp_path, replace(PATIENT, ack_policy=AckPolicy.NONE)) as sites:
        assert not sites.all[1].env.put(b"k", b"1").perm
        assert sites.all[1].env.write(batch(b"k"), acks=AckPolicy.QUORUM).perm
        with zrep.connect(f"ipc://{sites.homes[0]}/site.sock") as client:
            assert not client.put(b"k", b"1").perm


def test_a_write_is_not_repeated_by_a_clock_that_is_set(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """R25: a master whose clock was wrong by a day still knows which requests it has run."""
    engine = sites.all[0].env.engine

    def ask(value: bytes) -> object:
        ticket = Awaited(AckPolicy.QUORUM, engine.until(LONG_MS))
        engine.call(lambda: engine.run(batch(b"k", value), "session", 1, ticket))
        return ticket.future.result(DEADLINE_S).token

    first = ask(b"old")
    sites.all[0].env.put(b"k", b"new")
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 86_400 * 10**9)
    sites.all[0].env.put(b"other", b"1")
    assert ask(b"old") == first
    assert sites.all[0].env.get(b"k") == b"new"


def test_a_forwarded_write_outlives_its_master_once(sites: Sites) -> None:
    """The master is deaf when it is sent; whoever is master next is asked under the same name, and it happens once."""
    sites.cables[0].deaf = True
    env = sites.all[1].env
    future = env.submit(batch(b"survivor"), timeout_ms=LONG_MS)
    assert future.result(DEADLINE_S).perm
    sites.cables[0].plug_in()
    assert len(set(sites.digests())) == 1
    assert times_written(sites.all[0], b"survivor") == 1


# Reads.


def test_a_token_and_a_linearizable_read_see_the_write_at_every_site(patient: Sites) -> None:
    for number in range(30):
        value = b"%d" % number
        token = patient.all[number % 3].env.put(b"k", value).token
        assert token is not None
        same = zrep.CommitToken.from_bytes(bytes(token))
        for site in patient.all:
            with site.env.begin(token=same) as txn:
                assert txn.get(b"k") == value
        patient.all[0].env.put(b"l", value)
        for site in patient.all:
            with site.env.begin(linearizable=True) as txn:
                assert txn.get(b"l") == value


def test_a_master_that_is_cut_off_does_not_answer_linearizable_reads(sites: Sites) -> None:
    env = sites.all[0].env
    env.put(b"k", b"old")
    sites.cables[0].pull()
    with pytest.raises(zrep.NoMasterError):
        env.begin(linearizable=True, timeout_ms=100)
    heir = heir_of(sites)
    heir.env.put(b"k", b"new")
    with pytest.raises(zrep.NoMasterError):
        env.begin(linearizable=True, timeout_ms=100)
    assert env.get(b"k") == b"old"
    sites.cables[0].plug_in()
    with env.begin(linearizable=True, timeout_ms=LONG_MS) as txn:
        assert txn.get(b"k") == b"new"


def test_a_client_that_is_cut_off_does_not_answer_them_either(patient: Sites) -> None:
    env = patient.all[1].env
    patient.cables[1].pull()
    patient.all[0].env.put(b"k", b"new")
    with pytest.raises(zrep.NoMasterError):
        env.begin(linearizable=True, timeout_ms=100)
    patient.cables[1].plug_in()
    with env.begin(linearizable=True, timeout_ms=LONG_MS) as txn:
        assert txn.get(b"k") == b"new"


def test_a_forgotten_transaction_does_not_stop_the_group(tmp_path: Path) -> None:
    with group(tmp_path, replace(QUICK, write_txn_timeout_ms=200)) as sites:
        master, client = sites.all[0].env, sites.all[1].env
        forgotten = master.begin(write=True)
        forgotten.put(b"IBM", b"142.30")
        assert client.put(b"MSFT", b"39.81").perm  # waits for the forgotten one to be ended, not for ever
        with pytest.raises(zrep.NotAppliedError, match="open for more than 200 ms"):
            forgotten.put(b"ORCL", b"12.01")
        with pytest.raises(zrep.NotAppliedError):
            forgotten.commit()
        with master.begin(write=True) as txn:
            txn.put(b"AAPL", b"25.94")
        assert (master.get(b"IBM"), master.get(b"AAPL")) == (None, b"25.94")
        assert len(set(sites.digests())) == 1


def test_an_abandoned_transaction_leaves_nothing(sites: Sites) -> None:
    env = sites.all[0].env
    abandoned = env.begin(write=True)
    abandoned.put(b"IBM", b"142.30")
    del abandoned
    assert env.put(b"MSFT", b"39.81").perm
    assert env.get(b"IBM") is None
