"""`zrep get`, `put`, `delete`, `scan`: one-line access to a group's data from outside."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import output, target

if TYPE_CHECKING:
    from zrep.commit import CommitResult

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="The key, taken as bytes; after `--` it may begin with a dash.")
]
Value = Annotated[str, typer.Argument(metavar="VALUE", help="The value, taken as bytes.")]
Prefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with this.")]
Database = Annotated[str | None, typer.Option("--db", metavar="NAME", help="A named database; else the main one.")]


def get(
    key: Key,
    connect: target.Connect = None,
    home: target.Home = None,
    db: Database = None,
    json: output.Json = False,
    timeout_ms: target.Timeout = 5000,
) -> int:
    """Print the value of a key. The first site to answer gives it; exit 1 if there is none."""
    raw = key_bytes(key)
    with target.connect(connect, home, timeout_ms) as client:
        value = client.get(raw, db=_database(db))
    if json:
        output.show_json({"key": output.jsonable(raw), "value": output.jsonable(value)})
    elif value is not None:
        output.show_bytes(value)
    else:
        output.complain(f"there is no key {key!r}: `zrep scan` lists those there are")
    return 0 if value is not None else 1


def put(
    key: Key,
    value: Value,
    connect: target.Connect = None,
    home: target.Home = None,
    db: Database = None,
    json: output.Json = False,
    timeout_ms: target.Timeout = 5000,
) -> None:
    """Store a value under a key. Returns when a majority of the sites holds it."""
    with target.connect(connect, home, timeout_ms) as client:
        result = client.put(key_bytes(key), output.from_argument(value), db=_database(db))
    _show_commit(result, json)


def delete(
    key: Key,
    connect: target.Connect = None,
    home: target.Home = None,
    db: Database = None,
    json: output.Json = False,
    timeout_ms: target.Timeout = 5000,
) -> None:
    """Remove a key. Returns when a majority of the sites holds the removal; a missing key is fine."""
    with target.connect(connect, home, timeout_ms) as client:
        result = client.delete(key_bytes(key), db=_database(db))
    _show_commit(result, json)


def scan(
    prefix: Prefix = "",
    connect: target.Connect = None,
    home: target.Home = None,
    db: Database = None,
    json: output.Json = False,
    timeout_ms: target.Timeout = 5000,
) -> None:
    """Print keys and values in order. A tab is between them; --json prints an object a line."""
    with target.connect(connect, home, timeout_ms) as client:
        for key, value in client.scan(output.from_argument(prefix), db=_database(db)):
            if json:
                output.show_json({"key": output.jsonable(key), "value": output.jsonable(value)})
            else:
                output.show_bytes(key, value)


def key_bytes(text: str) -> bytes:
    """Return the bytes of a key. Raises OptionError for none that LMDB takes, whose own words name no limit."""
    from zrep.errors import OptionError
    from zrep.storage.child import KEY_BYTES

    raw = output.from_argument(text)
    if not 1 <= len(raw) <= KEY_BYTES:
        raise OptionError(f"the key has {len(raw)} bytes: give one of 1 to {KEY_BYTES}")
    return raw


def _database(name: str | None) -> bytes | None:
    return None if name is None else output.from_argument(name)


def _show_commit(result: "CommitResult", json: bool) -> None:
    gen, lsn, site = result.token or (0, 0, "")
    if json:
        output.show_json(
            {"gen": gen, "lsn": lsn, "site": site, "acked": list(result.acked), "durable": result.durable}
            | {"perm": result.perm}
        )
    else:
        print(f"ok lsn={lsn} gen={gen} acked={len(result.acked)} durable={result.durable}")
