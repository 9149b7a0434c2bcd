"""Redis: one primary, two replicas, WAIT 1 after each write, over a bare socket.

With "sync" the primary flushes its append-only file before it answers. That a replica has acknowledged does
not mean that it has flushed: Redis has no such acknowledgement.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .peer import SERVERS, Pairs, Served, Writer
from .servers import await_ready, find, on_path, ports, running


class Redis(Served):
    name = "redis"
    program = "redis-server"
    durabilities = ("sync", "process")

    def missing(self) -> str | None:
        return None if on_path("redis-server") else "redis-server is not on PATH (apt-get install redis-server)"

    @contextmanager
    def servers(self, directory: Path, durability: str) -> Iterator[str]:
        program = find("redis-server") or "redis-server"
        primary, *replicas = ports(SERVERS)
        common = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0", "--protected-mode", "no"]
        common += ["--appendonly", "yes", "--appendfsync", "always"] if durability == "sync" else []
        commands = []
        for number, port in enumerate((primary, *replicas)):
            home = directory / f"redis-{durability}-{number}"
            home.mkdir()
            of = [] if port == primary else ["--replicaof", "127.0.0.1", str(primary)]
            commands.append([program, "--port", str(port), "--dir", str(home), *common, *of])
        with running(commands, directory):
            await_ready(lambda: self._replicas(primary) == len(replicas), "redis")
            yield f"127.0.0.1:{primary}"

    def _replicas(self, port: int) -> int:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(command(b"INFO", b"replication"))
            return connection.recv(65536).count(b"state=online")

    def writer(self, address: str, stack: ExitStack) -> Writer:
        host, _, port = address.partition(":")
        connection = stack.enter_context(socket.create_connection((host, int(port))))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = stack.enter_context(connection.makefile("rb"))
        wait = command(b"WAIT", b"1", b"0")

        def write(pairs: Pairs) -> None:
            connection.sendall(command(b"MSET", *(part for pair in pairs for part in pair)) + wait)
            stored, held = answers.readline(), answers.readline()
            if stored != b"+OK\r\n" or not held.startswith(b":") or held == b":0\r\n":
                raise OSError(f"redis answered {stored!r} {held!r}")

        return write


def command(*parts: bytes) -> bytes:
    """Return a command in Redis's protocol."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
