"""Ports for servers that tests start."""

import itertools
import os
import socket

# Below those that Linux gives to outgoing connections (from 32768): one of these may be given away
# between the moment it was seen to be free and that in which its server starts. Each process of the
# tests has its own.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.count(12_001 + 1_000 * _worker, 2)


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("", port)):
            return True
    except OSError:
        return False


def free_port() -> int:
    """One that nobody has; the one before it, where a roll call is, is free as well."""
    return next(p for p in _ports if _is_free(p) and _is_free(p - 1))
