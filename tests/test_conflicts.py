"""A failed `expect` is a ConflictError with the value found, wherever the batch was handed in."""

from collections.abc import Iterator

import pytest

import zrep


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[zrep.Site, zrep.Site]]:
    """A master and a client."""
    homes = tmp_path_factory.mktemp("homes")
    with (
        zrep.Site(homes / "a", bind="tcp://127.0.0.1:0", create=True) as a,
        zrep.Site(homes / "b", bind="tcp://127.0.0.1:0", join=a.address) as b,
    ):
        b.wait_for_master()
        yield a, b


@pytest.fixture(params=["master", "client site", "remote client"])
def target(
    request: pytest.FixtureRequest, pair: tuple[zrep.Site, zrep.Site]
) -> "Iterator[zrep.Environment | zrep.Client]":
    master, client = pair
    if request.param == "remote client":
        with zrep.connect(client.address) as remote:
            yield remote
    else:
        yield (master if request.param == "master" else client).env


def test_a_conflict_applies_nothing_and_says_what_is_there(target: "zrep.Environment | zrep.Client") -> None:
    target.put(b"IBM", b"142.30")
    with pytest.raises(zrep.ConflictError) as raised:
        target.write(zrep.Batch().put(b"MSFT", b"39.81").expect(b"IBM", b"0"))
    assert (raised.value.key, raised.value.found) == (b"IBM", b"142.30")
    token = target.put(b"IBM", b"143.05").token
    assert token is not None, "the next write of the same caller happens"
    assert target.write(zrep.Batch().expect(b"IBM", b"143.05").expect(b"MSFT", None).put(b"IBM", b"1")).token


def test_an_expected_absence_conflicts_with_a_value(target: "zrep.Environment | zrep.Client") -> None:
    target.put(b"GOOG", b"")
    with pytest.raises(zrep.ConflictError) as raised:
        target.write(zrep.Batch().expect(b"GOOG", None).put(b"GOOG", b"1"))
    assert raised.value.found == b""
    target.delete(b"GOOG")
    with pytest.raises(zrep.ConflictError) as raised:
        target.write(zrep.Batch().expect(b"GOOG", b"").put(b"GOOG", b"1"))
    assert raised.value.found is None
