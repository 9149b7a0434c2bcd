"""A network of TCP proxies, one between each site and each address it connects to, that can misbehave.

A site is told to connect to a proxy instead of the address it wants (`launcher`). Traffic is seen as
*flows* from site to site: what goes from a to b is what a says on connections it made to b, and what it
answers on connections b made to it.

    cut      connections are reset and new ones refused        (the link is down, and both ends see it)
    stall    bytes stay where they are, connections stay open  (a silent partition: nobody sees it)
    reset    every open connection is reset once               (in-flight messages are lost)
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Pair = tuple[int, int]

CHUNK = 65536


@dataclass(eq=False)
class Connection:
    """One proxied connection that `source` made to `target`."""

    source: int
    target: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Network:
    """The proxies, on an event loop in a thread of its own. Sites are numbers; every method may be called anywhere."""

    def __init__(self) -> None:
        self.site_by_address: dict[str, int] = {}
        """Which site listens at an address: the harness fills it in."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._servers: dict[tuple[int, str], asyncio.Server] = {}
        self._connections: set[Connection] = set()
        self._cut: set[Pair] = set()
        self._stalled: set[Pair] = set()
        self._changed = asyncio.Condition()
        self._thread.start()
        server = self._call(asyncio.start_server(self._direct, "127.0.0.1", 0))
        self._control = server
        self.control = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        """Where the launcher asks what to connect to."""

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Take the links between these sites down, both ways."""
        self._call(self._set_cut(set(pairs)))

    def stall(self, pairs: Iterable[Pair]) -> None:
        """Let nothing flow from the first to the second of each pair, silently."""
        self._call(self._set_stalled(set(pairs)))

    def heal(self) -> None:
        """Let everything flow again."""
        self._call(self._set_cut(set()))
        self._call(self._set_stalled(set()))

    def reset(self) -> None:
        """Reset every open connection, once."""
        self._call(self._reset_all())

    def close(self) -> None:
        self._call(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _set_cut(self, pairs: set[Pair]) -> None:
        self._cut = pairs | {(target, source) for source, target in pairs}
        for connection in list(self._connections):
            if (connection.source, connection.target) in self._cut:
                connection.reset()

    async def _set_stalled(self, pairs: set[Pair]) -> None:
        async with self._changed:
            self._stalled = pairs
            self._changed.notify_all()

    async def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _shut_down(self) -> None:
        for server in (self._control, *self._servers.values()):
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _direct(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a launcher's question: site and wanted address in, the proxy's address out."""
        with suppress(OSError, ValueError):
            source, wanted = (await reader.readline()).decode().split()
            key = int(source), wanted
            if key not in self._servers:
                self._servers[key] = await asyncio.start_server(
                    lambda reader, writer: self._carry(key, reader, writer), "127.0.0.1", 0
                )
            port = self._servers[key].sockets[0].getsockname()[1]
            writer.write(f"tcp://127.0.0.1:{port}\n".encode())
            await writer.drain()
        writer.close()

    async def _carry(self, key: tuple[int, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source, wanted = key
        target = self.site_by_address[wanted]
        connection = Connection(source, target, [writer])
        self._connections.add(connection)
        try:
            if (source, target) in self._cut:
                return
            host, _, port = wanted.removeprefix("tcp://").rpartition(":")
            there, onward = await asyncio.open_connection(host, int(port))
            connection.writers.append(onward)
            ends = {
                asyncio.create_task(self._pump((source, target), reader, onward)),
                asyncio.create_task(self._pump((target, source), there, writer)),
            }
            _, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        except OSError:
            return
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _pump(self, flow: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                async with self._changed:
                    await self._changed.wait_for(lambda: flow not in self._stalled)
                writer.write(chunk)
                await writer.drain()
