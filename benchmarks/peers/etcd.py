"""etcd: three members, spoken to at the leader over gRPC, with the two requests encoded by hand.

etcd always flushes before it acknowledges, so it has only "sync".
"""

import importlib
import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from .peer import SERVERS, Pairs, Served, Writer
from .servers import await_ready, on_path, ports, running


class Etcd(Served):
    name = "etcd"
    program = "etcd"
    durabilities = ("sync",)

    def missing(self) -> str | None:
        if not on_path("etcd"):
            return "etcd is not on PATH (apt-get install etcd-server)"
        return None if importlib.util.find_spec("grpc") else "its client needs gRPC (pip install grpcio)"

    def versions(self) -> dict[str, str]:
        return super().versions() | {"grpcio": metadata.version("grpcio")}

    @contextmanager
    def servers(self, directory: Path, durability: str) -> Iterator[str]:
        clients, peers = ports(2 * SERVERS)[:SERVERS], ports(2 * SERVERS)[SERVERS:]
        cluster = ",".join(f"e{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        commands = []
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            ours, theirs = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
            urls = ["--listen-client-urls", ours, "--advertise-client-urls", ours]
            urls += ["--listen-peer-urls", theirs, "--initial-advertise-peer-urls", theirs]
            home = ["--name", f"e{number}", "--data-dir", str(directory / f"etcd-{number}")]
            commands.append(["etcd", *home, *urls, "--initial-cluster", cluster, "--log-level", "error"])
        leader: list[str] = []

        def elected() -> bool:
            leader[:] = [f"127.0.0.1:{port}" for port in clients if self._leads(port)]
            return bool(leader)

        with running(commands, directory):
            await_ready(elected, "etcd")
            yield leader[0]

    def _leads(self, port: int) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", b"{}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            status: dict[str, Any] = json.load(answer)
        return bool(status.get("leader") == status["header"]["member_id"])

    def writer(self, address: str, stack: ExitStack) -> Writer:
        grpc: Any = importlib.import_module("grpc")
        # Channels to one address share a connection unless their options differ.
        channel = stack.enter_context(grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]))
        put, txn = (channel.unary_unary(f"/etcdserverpb.KV/{name}") for name in ("Put", "Txn"))

        def write(pairs: Pairs) -> None:
            if len(pairs) == 1:
                put(put_request(*pairs[0]))
            else:
                txn(b"".join(field(2, field(2, put_request(*pair))) for pair in pairs))

        return write


def put_request(key: bytes, value: bytes) -> bytes:
    """Return an etcdserverpb.PutRequest."""
    return field(1, key) + field(2, value)


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of a protocol buffer."""
    length, size = b"", len(content)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + content
