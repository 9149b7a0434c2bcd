"""Run the `zrep` command with every ZeroMQ connection made through a proxy of the test's network.

`python -m tests.processes.launcher CONTROL SITE node HOME …`: before a socket connects to a TCP address,
the network at CONTROL is asked where it shall connect instead. Nothing in zrep knows of this.
"""

import socket
import sys
from typing import Any

import zmq
from zrep_cli import main


def through(control: str, site: str) -> None:
    """Make every `connect` of this process go through the network."""
    host, _, port = control.rpartition(":")
    direct = zmq.Socket.connect

    def connect(self: "zmq.Socket[Any]", address: str) -> Any:
        if not address.startswith("tcp://"):
            return direct(self, address)
        with socket.create_connection((host, int(port)), timeout=10) as line, line.makefile("rw") as question:
            question.write(f"{site} {address}\n")
            question.flush()
            return direct(self, question.readline().strip())

    zmq.Socket.connect = connect  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    through(sys.argv[1], sys.argv[2])
    sys.exit(main.run(sys.argv[3:]))
