"""Random programs, run on py-lmdb and on zrep side by side: same results, same errors, same contents.

And what was captured of them replays to the same contents in a second store, and at every site of a group.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

import zrep
from tests.environment.conftest import MAP_BYTES
from tests.environment.sites import Sites
from zrep.options import Options
from zrep.storage.store import Store

PROGRAMS = 150
"""The 189th makes py-lmdb's own cursor, never positioned, miss the only pair of a dupsort database on `next`."""
STEPS = 60

KINDS: dict[bytes, dict[str, bool]] = {
    b"plain": {},
    b"dups": {"dupsort": True},
    b"fixed": {"dupfixed": True},
    b"integers": {"integerkey": True},
    b"pairs": {"integerkey": True, "integerdup": True},
    b"reversed": {"reverse_key": True, "dupsort": True},
}
WORDS = [b"a", b"b", b"ab", b"ba", b"abc", b"c", b"zz", b"m" * 40]
NUMBERS = [number.to_bytes(8, "little") for number in (0, 1, 2, 255, 256, 1 << 40)]
ODD = [b"", b"k" * 512]
"""Keys that no database takes, and duplicates that no dupsort database takes."""
MOVES = (
    *("first", "last", "next", "prev", "next_dup", "prev_dup", "next_nodup", "prev_nodup", "first_dup", "last_dup"),
    *("key", "value", "item", "count"),
)
ITERATIONS = ("iternext", "iterprev", "iternext_dup", "iterprev_dup", "iternext_nodup", "iterprev_nodup")


class Machine:
    """One of the two environments, and what the program has open in it."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.dbs = {name: env.open_db(name, **flags) for name, flags in KINDS.items()}
        self.txns: list[Any] = []
        self.cursors: list[Any] = []

    def do(self, step: Callable[["Machine"], Any]) -> tuple[Any, ...]:
        """Perform a step; return what came of it, in comparable form."""
        try:
            return ("returned", plain(step(self)))
        except lmdb.Error as error:
            if str(error).startswith("mdb_cursor_del"):
                return ("raised", "mdb_cursor_del")  # a listed difference: one of two errors
            return ("raised", type(error), str(error))
        except (TypeError, ValueError, OverflowError) as error:
            return ("raised", type(error))

    def begin(self, nested: bool, buffers: bool) -> None:
        parent = self.txns[-1] if nested else None
        self.txns.append(self.env.begin(write=True, parent=parent, buffers=buffers))
        self.cursors.clear()

    def end(self, commit: bool) -> None:
        txn = self.txns.pop()
        self.cursors.clear()
        if commit:
            txn.commit()
        else:
            txn.abort()

    def contents(self) -> dict[bytes, list[tuple[bytes, bytes]]]:
        with self.env.begin() as txn:
            return {name: plain(list(txn.cursor(db))) for name, db in self.dbs.items()}


def plain(value: Any) -> Any:
    """Return a result as bytes, lists and numbers; what commit returns is our own affair."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bytes, bool, int, str, type(None))) else None


class Program:
    """Draws the steps: each is a function that does the same to either machine."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"programs/{seed}")
        self.depth = 0
        self.cursors = 0

    def steps(self) -> Iterator[Callable[[Machine], Any]]:
        for _ in range(STEPS):
            yield self.step()
        while self.depth:
            yield self.end()

    def step(self) -> Callable[[Machine], Any]:
        rng = self.rng
        if not self.depth:
            return self.begin()
        roll = rng.random()
        if roll < 0.04:
            return self.end()
        if roll < 0.07 and self.depth < 3:
            return self.begin()
        if roll < 0.14:
            return self.open_cursor()
        if roll < 0.16:
            return self.drop()
        if roll < 0.6 and self.cursors:
            return self.use_cursor()
        return self.use_transaction()

    def begin(self) -> Callable[[Machine], Any]:
        nested, buffers = self.depth > 0, self.rng.random() < 0.3
        self.depth += 1
        self.cursors = 0
        return lambda machine: machine.begin(nested, buffers)

    def end(self) -> Callable[[Machine], Any]:
        commit = self.rng.random() < 0.7
        self.depth -= 1
        self.cursors = 0
        return lambda machine: machine.end(commit)

    def drop(self) -> Callable[[Machine], Any]:
        name = self.name()
        return lambda machine: machine.txns[-1].drop(machine.dbs[name], delete=False)

    def open_cursor(self) -> Callable[[Machine], Any]:
        name = self.name()
        self.cursors += 1
        return lambda machine: machine.cursors.append((machine.txns[-1].cursor(machine.dbs[name]), name))

    def name(self) -> bytes:
        return self.rng.choice(list(KINDS))

    def key(self, name: bytes) -> bytes:
        if self.rng.random() < 0.03:
            return self.rng.choice(ODD) if name not in (b"integers", b"pairs") else b""
        return self.rng.choice(NUMBERS if name in (b"integers", b"pairs") else WORDS)

    def value(self, name: bytes) -> bytes:
        if name in (b"pairs", b"fixed"):
            return self.rng.choice(NUMBERS)
        return self.rng.choice([*WORDS, b"", b"v" * 600, b"v" * 5000] if self.rng.random() < 0.2 else WORDS)

    def flags(self) -> dict[str, bool]:
        rng = self.rng
        return {
            "dupdata": rng.random() < 0.8,
            "overwrite": rng.random() < 0.8,
            "append": rng.random() < 0.1,
        }

    def use_transaction(self) -> Callable[[Machine], Any]:
        name = self.name()
        key, value, flags = self.key(name), self.value(name), self.flags()
        method = self.rng.choice(("put", "put", "put", "get", "delete", "delete_value", "pop", "replace", "stat"))

        def step(machine: Machine) -> Any:
            txn, db = machine.txns[-1], machine.dbs[name]
            if method == "put":
                return txn.put(key, value, db=db, **flags)
            if method == "delete_value":
                return txn.delete(key, value, db=db)
            if method == "replace":
                return txn.replace(key, value, db=db)
            if method == "stat":
                return txn.stat(db)["entries"]
            return getattr(txn, method)(key, db=db)

        return step

    def use_cursor(self) -> Callable[[Machine], Any]:
        index = self.rng.randrange(self.cursors)
        draw = self.rng.random()
        flags, dupdata, count = self.flags(), self.rng.random() < 0.4, self.rng.randrange(4)
        move, iteration = self.rng.choice(MOVES), self.rng.choice(ITERATIONS)
        method = self.rng.choice(("set_key", "set_range", "get", "pop", "put", "replace", "putmulti", "getmulti"))
        draws = [(self.rng.choice(WORDS), self.rng.choice(NUMBERS), self.value(b"plain")) for _ in range(3)]
        odd = self.rng.choice(ODD) if self.rng.random() < 0.03 else None

        def step(machine: Machine) -> Any:
            cursor, name = machine.cursors[index]
            numeric = name in (b"integers", b"pairs")
            keys = [number if numeric else word for word, number, _ in draws]
            if odd is not None and not numeric:
                keys[0] = odd
            values = [number if name in (b"pairs", b"fixed") else value for _, number, value in draws]
            if draw < 0.45 and "dup" in (move if draw < 0.35 else iteration) and not cursor.key():
                return None  # in LMDB itself undefined
            if draw < 0.35:
                return getattr(cursor, move)()
            if draw < 0.45:
                return [item for item, _ in zip(getattr(cursor, iteration)(), range(count), strict=False)]
            if draw < 0.65:
                return cursor.delete(dupdata)
            if draw < 0.7:
                return getattr(cursor, "set_key_dup" if dupdata else "set_range_dup")(keys[0], values[0])
            if method == "put":
                return cursor.put(keys[0], values[0], **flags)
            if method == "replace":
                return cursor.replace(keys[0], values[0])
            if method == "putmulti":
                return cursor.putmulti(list(zip(keys, values, strict=True)), **flags)
            if method == "getmulti":
                return cursor.getmulti(keys, dupdata=dupdata)
            return getattr(cursor, method)(keys[0])

        return step


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "lmdb").mkdir()
    with lmdb.open(str(tmp_path / "lmdb"), max_dbs=16, map_size=MAP_BYTES, sync=False, lib_version=0) as env:
        yield Machine(env)


def run_side_by_side(theirs: Machine, ours: Machine, programs: int) -> None:
    for seed in range(programs):
        for number, step in enumerate(Program(seed).steps()):
            expected, found = theirs.do(step), ours.do(step)
            assert found == expected, f"program {seed}, step {number}"
        assert ours.contents() == theirs.contents(), f"program {seed}"


def test_programs_do_the_same_on_both(theirs: Machine, env: zrep.Environment, tmp_path: Path) -> None:
    run_side_by_side(theirs, Machine(env), PROGRAMS)
    replayed = Store(tmp_path / "replayed", Options(map_bytes=MAP_BYTES))
    log = env.engine.log
    replayed.apply(env.engine.call(lambda: log.read(1, log.tip.lsn, 1 << 30)))
    assert replayed.digest() == env.engine.call(env.engine.store.digest)
    replayed.close()


def test_programs_on_a_master_leave_the_same_at_all_three_sites(theirs: Machine, tmp_path: Path) -> None:
    with Sites(tmp_path) as sites:
        run_side_by_side(theirs, Machine(sites.all[0].env), PROGRAMS)
        assert len(set(sites.digests())) == 1
