"""Money moves between accounts from four threads at once, and none is made or lost.

    python examples/bank.py tcp://127.0.0.1:7001

A transfer reads two balances, then writes both in a batch that expects what it read. If another transfer
was quicker, the batch is refused as a whole, and the transfer begins again.
"""

import random
import sys
import threading

import zrep

ACCOUNTS = [b"account/%d" % number for number in range(5)]
START = 100


def open_accounts(address: str) -> None:
    with zrep.connect(address) as client:
        batch = zrep.Batch()
        for account in ACCOUNTS:
            batch.put(account, b"%d" % START)
        client.write(batch)


def transfer(client: zrep.Client, source: bytes, target: bytes, amount: int) -> bool:
    """Move an amount if it is there; return whether it was."""
    while True:
        has, had = client.get(source) or b"0", client.get(target) or b"0"
        if int(has) < amount:
            return False
        batch = zrep.Batch().expect(source, has).expect(target, had)
        batch.put(source, b"%d" % (int(has) - amount)).put(target, b"%d" % (int(had) + amount))
        try:
            client.write(batch)
        except zrep.ConflictError:
            continue
        return True


def move_money(address: str, seed: int) -> None:
    rng = random.Random(seed)
    with zrep.connect(address) as client:
        for _ in range(25):
            source, target = rng.sample(ACCOUNTS, 2)
            transfer(client, source, target, rng.randint(1, 50))


def main(address: str) -> None:
    open_accounts(address)
    threads = [threading.Thread(target=move_money, args=(address, seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with zrep.connect(address) as client:
        balances = dict(client.scan(b"account/"))
    print("balances:", *(int(balance) for balance in balances.values()))
    print("together:", sum(map(int, balances.values())))


if __name__ == "__main__":
    main(sys.argv[1])
