"""Talk to a site with ZeroMQ and msgpack alone, as a program in any language can.

    python examples/foreign_client.py tcp://127.0.0.1:7001

A request is [b"ZREP1", msgpack [id, verb, arguments]] on a DEALER socket; the reply repeats the id:
[b"ZREP1", msgpack [id, code, text, result]]. Code 0 is OK; 1 means ask again in a moment, 2 that another
site is the master, whose addresses are in the result. The database None is the main one.
"""

import itertools
import sys
import time
from typing import Any

import msgpack
import zmq

OK, BUSY, REDIRECT = 0, 1, 2


class Client:
    """One connection; it moves to the master when a write wants it."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RCVTIMEO, 5000)
        self.address = address
        self.socket.connect(address)
        self.numbers = itertools.count(1)

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Return the result of one request."""
        while True:
            self.socket.send_multipart([b"ZREP1", msgpack.packb([next(self.numbers), verb, arguments])])
            _number, code, text, result = msgpack.unpackb(self.socket.recv_multipart()[1])
            if code == OK:
                return result
            if code == REDIRECT:
                self.socket.disconnect(self.address)
                self.address = result["endpoints"][0]
                self.socket.connect(self.address)
            elif code == BUSY:
                time.sleep(0.01)
            else:
                raise RuntimeError(text)


if __name__ == "__main__":
    with zmq.Context() as context:
        client = Client(context, sys.argv[1])
        print("held by", len(client.ask("put", None, b"IBM", b"142.30")["acked"]), "sites")
        print("IBM is", client.ask("get", None, b"IBM").decode())
        print("keys:", [key.decode() for key, _ in client.ask("scan", None, b"I", None, 100)])
        print("asked a", client.ask("status")["role"])
        client.socket.close()
