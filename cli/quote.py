"""`zrep quote`: the stock-quote prompt of Berkeley DB's ex_repquote, over any site of a group.

Decides what the prompt says and what a typed line does. The role is asked anew for every prompt, so the
prompt changes by itself when the site becomes master; no other site answers for it. Quotes are the main
database: symbol to price. Who typed a line of another form, or a symbol too long, gets exit code 1 at the end.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from . import output, target
from .access import key_bytes

if TYPE_CHECKING:
    from zrep.client import Client

MASTER_PROMPT = "QUOTESERVER> "
CLIENT_PROMPT = "QUOTESERVER (read-only)> "
SYMBOL_WIDTH, PRICE_WIDTH = 10, 20


def quote(connect: target.Connect = None, home: target.Home = None, timeout_ms: target.Timeout = 5000) -> int:
    """Open the stock-quote prompt. `TICKER VALUE` stores, an empty line shows all, `exit` ends."""
    code = 0
    with target.connect(connect, home, timeout_ms, roam=False) as client:
        for line in _lines(client):
            words = line.split()
            if not words:
                _show(client)
            elif words in (["exit"], ["quit"]):
                break
            elif len(words) != 2:
                print("Format: TICKER VALUE")
                code = 1
            elif not _store(client, *words):
                code = 1
    return code


def _lines(client: "Client") -> Iterator[str]:
    """Prompt for lines until the input ends."""
    while True:
        print(MASTER_PROMPT if _is_master(client) else CLIENT_PROMPT, end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        yield line


def _store(client: "Client", symbol: str, price: str) -> bool:
    """Store a quote, or say why not; False if that is what was typed."""
    from zrep.errors import OptionError, PermFailedError

    status = client.status()
    if status["role"] != "master":
        master = status["master"]
        where = f"the master is {master['address']}" if master else "no master is known, try again in a moment"
        print(f"Can't update at client: {where}")
        return True
    try:
        client.put(key_bytes(symbol), output.from_argument(price))
    except OptionError as error:
        print(f"Not stored: {error}")
        return False
    except PermFailedError:
        print("Insufficient acknowledgements for transaction durability.")
        print(f"put {symbol} {price} not durable.")
    return True


def _show(client: "Client") -> None:
    quotes = list(client.scan())
    if not quotes and not _is_master(client):
        print("No stock database yet available.")
        return
    for line in table(quotes):
        print(line)


def table(quotes: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """Return the lines of the table of quotes, in the order given."""
    yield "\tSymbol\t\tPrice"
    yield "\t======\t\t====="
    for symbol, price in quotes:
        yield f"\t{output.readable(symbol)[:SYMBOL_WIDTH]}\t\t{output.readable(price)[:PRICE_WIDTH]}"
    yield ""


def _is_master(client: "Client") -> bool:
    return bool(client.status()["role"] == "master")
