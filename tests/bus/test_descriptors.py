"""No descriptor is left: a dial fails and is repeated, a start says what to do, and nothing half made stays open."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from cli.processes import wait_until
from tests.bus.net import A, B, Net
from tests.bus.test_hostile import open_descriptors
from zrep.bus import ConnectFailed
from zrep.bus.sockets import DESCRIPTORS, NoDescriptorError


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors; afterwards no more may be open than before."""
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 2 * DESCRIPTORS, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    wait_until(lambda: open_descriptors() == before, 5, "what was half made is still open")


@pytest.mark.parametrize("count", range(4))
def test_a_dial_without_a_descriptor_fails_and_is_repeated(tcp: Net, count: int) -> None:
    """Whichever of its four sockets gets none: control, the two ends of its monitor, bulk."""
    a, b = tcp.bus(A), tcp.bus(B)
    with descriptors_left(count):
        tcp.members()
        tcp.until(lambda: tcp.got(A, ConnectFailed) and tcp.got(B, ConnectFailed))
        tcp.settle()
        for site, other in ((A, b), (B, a)):
            (failed,) = tcp.got(site, ConnectFailed)
            assert failed.endpoint == other.endpoints[0]
            assert failed.reason.startswith("too many open files: ")
    tcp.until_connected()


def test_a_seed_without_a_descriptor_is_dialled_again(tcp: Net) -> None:
    a, b = tcp.bus(A), tcp.bus(B)
    with descriptors_left(0):
        a.seed(b.endpoints[0])
        tcp.until(lambda: tcp.got(A, ConnectFailed))
    tcp.until_connected()


def test_a_dial_without_a_descriptor_is_repeated_ever_less_often(tcp: Net) -> None:
    tried: list[float] = []
    a = tcp.bus(A, socket_hook=lambda _, purpose: tried.append(time.monotonic()) if purpose == "control" else None)
    b = tcp.bus(B)
    tcp.close(B)
    with descriptors_left(1):
        a.seed(b.endpoints[0])
        tcp.until(lambda: len(tried) == 8)
    assert tried[-1] - tried[0] > 0.2, "pauses of 4, 8, 16, … ms"


def test_a_start_without_descriptors_is_refused_and_leaves_nothing_open(tcp: Net) -> None:
    """ZeroMQ would abort the process."""
    with descriptors_left(DESCRIPTORS - 1), pytest.raises(NoDescriptorError, match="ulimit -n"):
        tcp.bus(A)
    with descriptors_left(DESCRIPTORS):
        tcp.bus(A)
        tcp.close(A)
