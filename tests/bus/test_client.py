"""The remote client against scripted sites: whom it asks, when it asks again, what it makes of the answers."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from zrep.bus.sockets import Socket
from zrep.client import PAUSE_MS, Client, connect
from zrep.codec import FOREIGN, Malformed, Reply, Request, decode_batch, decode_request, encode_reply
from zrep.commit import Batch
from zrep.errors import (
    ConflictError,
    ForkError,
    NoMasterError,
    OptionError,
    ProtocolError,
    TxnTooLargeError,
    UnknownOutcomeError,
    ZrepError,
)
from zrep.messages import Status

Script = Callable[[Request], Reply | None]
DONE = {"gen": 3, "lsn": 9, "site": "m", "perm": True, "acked": ["m", "n"], "durable": "sync"}


class Site:
    """A ROUTER in a thread that answers as its script says, and notes what it was asked."""

    def __init__(self, script: Script, bind: str = "tcp://127.0.0.1:0") -> None:
        self.script = script
        self.asked: list[Request] = []
        self._context: zmq.Context[Socket] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(bind)
        self.uri = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._router.poll(2):
                continue
            route, *frames = self._router.recv_multipart()
            request = decode_request(frames)
            if isinstance(request, Malformed):
                continue
            if request.verb != "status":
                self.asked.append(request)
            reply = self.script(request)
            if reply is not None:
                self._router.send_multipart([route, *encode_reply(reply._replace(id=request.id))])
        self._router.close(0)

    def verbs(self) -> list[str]:
        return [request.verb for request in self.asked]

    def kill(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.term()


class Stage:
    """The sites of one test, and clients of them."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.clients: list[Client] = []

    def site(self, script: Script, bind: str = "tcp://127.0.0.1:0") -> Site:
        self.sites.append(Site(script, bind))
        return self.sites[-1]

    def client(self, *sites: Site, timeout_ms: int = 5000) -> Client:
        self.clients.append(connect(*(site.uri for site in sites), timeout_ms=timeout_ms))
        return self.clients[-1]

    def kill(self, site: Site) -> None:
        self.sites.remove(site)
        site.kill()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    for client in stage.clients:
        client.close()
    for site in stage.sites:
        site.kill()


def ok(result: Any = None) -> Reply:
    return Reply(0, Status.OK, "", result)


def master(request: Request) -> Reply:
    return ok({"members": []}) if request.verb == "status" else ok(DONE)


def busy(request: Request) -> Reply:
    return ok({}) if request.verb == "status" else Reply(0, Status.BUSY, "no master is known here")


def silent(request: Request) -> Reply | None:
    return None


def knowing(other: Site, script: Script) -> Script:
    """Answer by the script, and to `status` name another site as a member."""

    def told(request: Request) -> Reply | None:
        return ok({"members": [{"endpoints": [other.uri]}]}) if request.verb == "status" else script(request)

    return told


def redirect_to(site: Site) -> Script:
    def script(request: Request) -> Reply:
        if request.verb == "status":
            return ok({})
        return Reply(0, Status.REDIRECT, f"the master is {site.uri}", {"master": "m", "endpoints": [site.uri]})

    return script


def test_a_write_returns_what_the_master_says(stage: Stage) -> None:
    site = stage.site(master)
    result = stage.client(site).put(b"k", b"v", db=b"quotes")
    assert result.token is not None
    assert (result.token.gen, result.token.lsn, result.token.site) == (3, 9, "m")
    assert result.perm
    assert result.acked == ("m", "n")
    assert result.durable == "sync"
    session, seq, deadline_ms, data = site.asked[0].args
    assert seq == 1
    assert 4000 < deadline_ms <= 5000
    assert decode_batch(data).ops == Batch().put(b"k", b"v", b"quotes").ops
    assert session


def test_a_session_goes_on_after_a_success_and_ends_with_anything_else(stage: Stage) -> None:
    """A late copy of a failed write must not meet another one under its name."""
    answers = iter([ok(DONE), ok(DONE), Reply(0, Status.CONFLICT, "no", {"key": b"k", "found": None}), ok(DONE)])
    site = stage.site(lambda request: ok({}) if request.verb == "status" else next(answers))
    client = stage.client(site)
    client.put(b"k", b"1")
    client.put(b"k", b"2")
    with pytest.raises(ConflictError) as raised:
        client.write(Batch().expect(b"k", b"x").put(b"k", b"3"))
    assert (raised.value.key, raised.value.found) == (b"k", None)
    client.delete(b"k")
    first, second, third, fourth = [request.args[:2] for request in site.asked]
    assert first == (second[0], 1)
    assert second[1] == 2
    assert third == (first[0], 3)
    assert fourth[0] != first[0]
    assert fourth[1] == 1


def test_a_write_that_is_not_permanent_says_so_and_its_session_ends(stage: Stage) -> None:
    """It may be rolled back: then nobody knows its number, and would not take the next."""
    site = stage.site(lambda request: ok({} if request.verb == "status" else DONE | {"perm": False}))
    client = stage.client(site)
    assert not client.put(b"k", b"1").perm
    client.put(b"k", b"2")
    first, second = [request.args[:2] for request in site.asked]
    assert first[0] != second[0]
    assert second[1] == 1


def test_a_redirect_is_followed_and_remembered(stage: Stage) -> None:
    chief = stage.site(master)
    other = stage.site(redirect_to(chief))
    client = stage.client(other)
    client.put(b"k", b"v")
    client.put(b"k", b"v")
    assert other.verbs() == ["write"]
    assert chief.verbs() == ["write", "write"]
    assert other.asked[0].args[:2] == chief.asked[0].args[:2]


def test_while_nobody_is_master_everybody_is_asked_again(stage: Stage) -> None:
    turns = iter([busy] * 5)
    late = stage.site(lambda request: next(turns, master)(request))
    other = stage.site(busy)
    began = time.monotonic()
    stage.client(other, late).put(b"k", b"v")
    assert time.monotonic() - began < 1
    assert len(other.asked) >= 2


def test_who_is_kept_waiting_asks_less_and_less(stage: Stage) -> None:
    site = stage.site(busy)
    with pytest.raises(NoMasterError, match="within 1000 ms"):
        stage.client(site, timeout_ms=1000).put(b"k", b"v")
    assert len(site.asked) < 1000 / PAUSE_MS / 3


def test_a_dead_master_is_left_at_once(stage: Stage) -> None:
    """It dies with the request unanswered; the same write goes to the other site within milliseconds."""
    heir = stage.site(master)
    chief = stage.site(knowing(heir, master))
    client = stage.client(chief)
    client.put(b"k", b"1")

    def struck(request: Request) -> Reply | None:
        threading.Thread(target=stage.kill, args=(chief,)).start()
        return None

    chief.script = struck
    began = time.monotonic()
    client.put(b"k", b"2")
    assert time.monotonic() - began < 0.08, "before the patience of 100 ms is over"
    assert heir.asked[-1].args[:2] == chief.asked[-1].args[:2]


def test_a_silent_master_is_left_after_a_while(stage: Stage) -> None:
    heir = stage.site(master)
    chief = stage.site(knowing(heir, silent))
    began = time.monotonic()
    stage.client(chief).put(b"k", b"v")
    assert 0.09 < time.monotonic() - began < 1
    assert heir.asked[0].args[:2] == chief.asked[0].args[:2]


def test_two_sites_that_name_each_other_are_not_asked_in_a_spin(stage: Stage) -> None:
    one = stage.site(busy)
    two = stage.site(redirect_to(one))
    one.script = redirect_to(two)
    with pytest.raises(NoMasterError):
        stage.client(one, timeout_ms=200).put(b"k", b"v")
    assert len(one.asked) + len(two.asked) < 250


def test_the_other_addresses_are_learnt_from_the_first(stage: Stage) -> None:
    heir = stage.site(master)

    first = stage.site(knowing(heir, master))
    client = stage.client(first)
    client.put(b"k", b"1")
    client.put(b"k", b"2")
    stage.kill(first)
    client.put(b"k", b"3")
    assert heir.verbs() == ["write"]


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.NOT_APPLIED])
def test_an_undecided_write_is_asked_again_under_its_name(stage: Stage, status: Status) -> None:
    """The next master remembers (session, seq): it tells what became of the first try, or runs it."""
    answers = iter([Reply(0, status, "mastership was lost")])
    site = stage.site(lambda request: ok({}) if request.verb == "status" else next(answers, ok(DONE)))
    stage.client(site).put(b"k", b"v")
    assert len(site.asked) == 2
    assert site.asked[0].args[:2] == site.asked[1].args[:2]


def test_outcomes_at_the_deadline(stage: Stage) -> None:
    """Sent and unanswered is unknown; refused by everybody, or never sent, did not happen."""
    with pytest.raises(UnknownOutcomeError, match="may or may not have happened"):
        stage.client(stage.site(silent), timeout_ms=150).put(b"k", b"v")
    with pytest.raises(NoMasterError, match="no master is known here"):
        stage.client(stage.site(busy), timeout_ms=150).put(b"k", b"v")
    gone = stage.site(master)
    stage.kill(gone)
    with pytest.raises(NoMasterError, match="no site answered at tcp://"):
        stage.client(gone, timeout_ms=150).put(b"k", b"v")
    with pytest.raises(NoMasterError, match="no site answered at tcp://"):
        stage.client(gone, timeout_ms=150).get(b"k")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(0, Status.TOO_LARGE, "split it"), TxnTooLargeError),
        (Reply(0, Status.REFUSED, "no database is named x"), OptionError),
        (ok("nonsense"), ProtocolError),
        (ok({"gen": "3"}), ProtocolError),
    ],
)
def test_refusals_are_raised(stage: Stage, reply: Reply, error: type[Exception]) -> None:
    site = stage.site(lambda request: ok({}) if request.verb == "status" else reply)
    with pytest.raises(error):
        stage.client(site).put(b"k", b"v")


def test_reads_go_to_the_first_that_answers_and_move_on_when_it_dies(stage: Stage) -> None:
    second = stage.site(lambda request: ok(b"two"))
    first = stage.site(knowing(second, lambda request: ok(b"one")))
    client = stage.client(first)
    assert client.get(b"k") == b"one"
    assert client.get(b"k", db=b"db") == b"one"
    assert first.asked[-1].args == (b"db", b"k")
    stage.kill(first)
    assert client.get(b"k") == b"two"


def test_a_scan_reads_pages(stage: Stage) -> None:
    pairs = [(b"k%04d" % number, b"v") for number in range(25)]

    def page(request: Request) -> Reply:
        if request.verb == "status":
            return ok({})
        _, prefix, after, _ = request.args
        found = [pair for pair in pairs if pair[0].startswith(prefix) and pair > (after or ())]
        return ok(found[:10])

    site = stage.site(page)
    assert list(stage.client(site).scan()) == pairs
    assert list(stage.client(site).scan(b"k001")) == pairs[10:20]


def test_what_is_no_bytes_is_refused_at_once(stage: Stage) -> None:
    client: Any = stage.client(stage.site(silent))
    for call, arguments in (
        (client.get, ("k",)),
        (client.get, (None,)),
        (client.scan, ("k",)),
        (client.get, (b"k", 5)),
    ):
        with pytest.raises(TypeError, match="must be bytes"):
            call(*arguments)
    with pytest.raises(TxnTooLargeError, match="split it"):
        client.put(b"k", bytes(70 << 20))


@pytest.mark.parametrize("result", [[b"k"], [[b"k", 1]], [[b"k", b"v", b"x"]], [None]])
def test_a_page_that_is_none_is_refused(stage: Stage, result: Any) -> None:
    site = stage.site(lambda request: ok(result))
    with pytest.raises(ProtocolError):
        list(stage.client(site).scan())


def test_status_is_plain_values(stage: Stage) -> None:
    site = stage.site(lambda request: ok({"role": "master", "members": []}))
    assert stage.client(site).status() == {"role": "master", "members": ()}


def test_garbage_in_reply_is_no_answer(stage: Stage) -> None:
    good = stage.site(master)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind("tcp://127.0.0.1:0")
        uri = router.getsockopt_string(zmq.LAST_ENDPOINT)
        client = connect(uri, good.uri)
        stage.clients.append(client)

        def babble() -> None:
            while not stop.is_set():
                if router.poll(2):
                    route, *_ = router.recv_multipart()
                    for frames in ([b"x"], [FOREIGN, b"\xc1"], [FOREIGN, b"\x94\x01\x00\xa0"], [b"", b"", b""]):
                        router.send_multipart([route, *frames])

        stop = threading.Event()
        thread = threading.Thread(target=babble)
        thread.start()
        try:
            assert client.put(b"k", b"v").perm
        finally:
            stop.set()
            thread.join()


def test_threads_share_a_client(stage: Stage) -> None:
    site = stage.site(master)
    client = stage.client(site)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(client.put(b"k", b"v").perm)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert sorted(request.args[1] for request in site.asked) == list(range(1, 9))


def test_a_closed_client_and_one_in_a_child_say_so(stage: Stage) -> None:
    site = stage.site(master)
    client = stage.client(site)
    client.put(b"k", b"v")
    child = os.fork()
    if child == 0:
        try:
            client.put(b"k", b"v")
        except ForkError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    client.put(b"k", b"v")
    with client:
        pass
    with pytest.raises(ZrepError, match="closed"):
        client.get(b"k")
    client.close()


def test_a_name_is_tried_at_every_address_at_once(stage: Stage) -> None:
    """localhost may be ::1 first, where nobody listens."""
    site = stage.site(master)
    client = connect(site.uri.replace("127.0.0.1", "localhost"))
    stage.clients.append(client)
    began = time.monotonic()
    client.put(b"k", b"v")
    assert time.monotonic() - began < 0.5


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="needs an address"):
        connect()
    with pytest.raises(OptionError, match="no known scheme"):
        connect("127.0.0.1:7001")
