"""NATS JetStream: a stream with three replicas, as its key-value buckets are, over a bare socket.

JetStream flushes every two minutes by default, so it has only "process". Several puts are not a transaction
there: they are published together, and all acknowledgements are awaited.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .peer import SERVERS, Pairs, Served, Writer
from .servers import await_ready, find, on_path, ports, running

STREAM = {"name": "KV_bench", "subjects": ["$KV.bench.>"], "num_replicas": SERVERS, "max_msgs_per_subject": 1}
STREAM |= {"storage": "file", "retention": "limits", "discard": "new", "allow_rollup_hdrs": True}


class Nats(Served):
    name = "nats"
    program = "nats-server"
    durabilities = ("process",)

    def missing(self) -> str | None:
        return None if on_path("nats-server") else "nats-server is not on PATH (apt-get install nats-server)"

    @contextmanager
    def servers(self, directory: Path, durability: str) -> Iterator[str]:
        program = find("nats-server") or "nats-server"
        listed = ports(2 * SERVERS)
        clients, routes = listed[:SERVERS], listed[SERVERS:]
        others = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
        commands = []
        for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
            where = ["-a", "127.0.0.1", "-p", str(client), "-js", "-sd", str(directory / f"nats-{number}")]
            group = ["--cluster_name", "bench", "--cluster", f"nats://127.0.0.1:{route}", "--routes", others]
            commands.append([program, "--name", f"n{number}", *where, *group])
        leader: list[int] = []

        def elected() -> bool:
            answer = self._create(clients[0])
            led = answer.get("cluster", {}).get("leader", "")
            leader[:] = [clients[number] for number in range(SERVERS) if led == f"n{number}"]
            return bool(leader)

        with running(commands, directory):
            await_ready(elected, "nats")
            yield f"127.0.0.1:{leader[0]}"

    def _create(self, port: int) -> dict[str, Any]:
        with ExitStack() as stack:
            connection = Connection(f"127.0.0.1:{port}", stack)
            connection.publish([(b"$JS.API.STREAM.CREATE.KV_bench", json.dumps(STREAM).encode())])
            answer: dict[str, Any] = json.loads(connection.answer())
            return answer

    def writer(self, address: str, stack: ExitStack) -> Writer:
        connection = Connection(address, stack)

        def write(pairs: Pairs) -> None:
            connection.publish([(b"$KV.bench." + key.hex().encode(), value) for key, value in pairs])
            for _ in pairs:
                answer = connection.answer()
                if b'"error"' in answer:
                    raise OSError(f"nats answered {answer!r}")

        return write


class Connection:
    """A connection to a NATS server with an inbox of its own."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        host, _, port = address.partition(":")
        self._socket = stack.enter_context(socket.create_connection((host, int(port)), 5))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = stack.enter_context(self._socket.makefile("rb"))
        self._inbox = b"_INBOX." + os.urandom(8).hex().encode()
        self._answers.readline()
        self._socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB %b 1\r\n' % self._inbox)

    def publish(self, messages: list[tuple[bytes, bytes]]) -> None:
        """Publish (subject, payload) pairs, to be answered at the inbox."""
        parts = (b"PUB %b %b %d\r\n%b\r\n" % (subject, self._inbox, len(data), data) for subject, data in messages)
        self._socket.sendall(b"".join(parts))

    def answer(self) -> bytes:
        """Return the next answer."""
        while True:
            line = self._answers.readline()
            if line.startswith(b"MSG "):
                data = self._answers.read(int(line.split()[-1]))
                self._answers.read(2)
                return data
            if line.startswith(b"PING"):
                self._socket.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise OSError(f"nats said {line!r}")
