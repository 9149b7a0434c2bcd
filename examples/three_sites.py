"""Three sites in one process: a write at any of them, the master stopped, the next one elected.

    python examples/three_sites.py

In one process it is easy to read; nothing changes when each site has its own, on its own machine.
"""

import tempfile

import zrep


def main() -> None:
    with tempfile.TemporaryDirectory() as homes:
        a = zrep.Site(f"{homes}/a", bind="tcp://127.0.0.1:0", create=True).start()
        b = zrep.Site(f"{homes}/b", bind="tcp://127.0.0.1:0", join=a.address).start()
        c = zrep.Site(f"{homes}/c", bind="tcp://127.0.0.1:0", join=a.address).start()
        with b, c:
            with a:
                put = c.env.put(b"IBM", b"142.30")  # a client forwards it to the master
                with b.env.begin(token=put.token) as txn:  # waits until b has it, then reads b's own copy
                    print("at b:", txn.get(b"IBM"))
                wait_for_three_voters(c)
            # a has stopped. b and c are a majority of three: one of them takes over.
            put = c.env.put(b"IBM", b"143.05")
            master = b if b.role == "master" else c
            print("the master was a and is", "b" if master is b else "c", "at gen", put.token.gen if put.token else "-")
            with master.env.begin() as txn:
                print("at the new master:", txn.get(b"IBM"))


def wait_for_three_voters(site: zrep.Site) -> None:
    """A new site is a learner first: it votes once it has caught up."""
    events = site.events()
    while sum(info.role == "voter" for info in site.sites()) < 3:
        next(events)


if __name__ == "__main__":
    main()
