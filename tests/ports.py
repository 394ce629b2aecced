"""Ports of this machine for the servers that tests start."""

import os
import socket
from itertools import count

_FIRST, _SHARE = 20000, 1000
"""Below 32768, where the kernel takes the ports of those who do not name one; each pytest worker has its share."""

_ports = count(_FIRST + _SHARE * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


def free_port() -> int:
    """One that nobody listens on, that no other test is given, and that no connection takes before its server does."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable: the count has no end")
