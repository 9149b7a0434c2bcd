"""What a real site answers to programs outside."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import zrep
from tests.environment.sites import QUICK

DUPLICATES = 3000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[zrep.Site]:
    with zrep.Site(tmp_path / "home", bind="tcp://127.0.0.1:0", create=True, options=QUICK) as site:
        yield site


def test_a_scan_has_every_pair_once(site: zrep.Site) -> None:
    """Also where a page ends within a key's duplicates, and where the pair that it ended with is gone."""
    env = site.env
    db = env.open_db(b"dups", dupsort=True)
    pairs = [(b"k%d" % (number // DUPLICATES), b"%06d" % number) for number in range(2 * DUPLICATES + 5)]
    with env.begin(write=True, db=db) as txn, txn.cursor() as cursor:
        cursor.putmulti(pairs)
    with zrep.connect(site.address) as client:
        assert list(client.scan(db=b"dups")) == pairs
        assert list(client.scan(b"k1", db=b"dups")) == pairs[DUPLICATES : 2 * DUPLICATES]
        reading = client.scan(db=b"dups")
        first = [next(reading) for _ in range(1000)]
        with env.begin(write=True, db=db) as txn:
            assert txn.delete(*first[-1])
        assert first + list(reading) == pairs
        reading = client.scan(db=b"dups")
        first = [next(reading) for _ in range(1000)]
        with env.begin(write=True, db=db) as txn:
            assert txn.delete(b"k0")
        assert first + list(reading) == [*pairs[:999], pairs[1000], *pairs[DUPLICATES:]]


@pytest.mark.parametrize("integers", [False, True])
def test_a_prefix_is_refused_where_it_means_nothing(site: zrep.Site, integers: bool) -> None:
    db = site.env.open_db(b"db", reverse_key=not integers, integerkey=integers)
    keys = [bytes([number, 0, 0, 0]) for number in range(20)]
    for key in keys:
        site.env.put(key, b"v", db=db)
    with zrep.connect(site.address) as client:
        assert sorted(key for key, _ in client.scan(db=b"db")) == keys
        with pytest.raises(zrep.OptionError, match="without a prefix"):
            list(client.scan(b"\x01", db=b"db"))
