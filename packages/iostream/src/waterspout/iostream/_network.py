"""Where sockets and addresses come from: the kernel, unless a scheduler has a network of its own.

A scheduler whose descriptors are not the kernel's, such as a simulated loop's, has an attribute
`_waterspout_network` with the methods of `Network`.
"""

from __future__ import annotations

import socket as _socket
from typing import Any, TypeAlias

from waterspout.ioloop.scheduling import Scheduler

Address: TypeAlias = tuple[int, Any]
"""A socket family and one of its addresses."""


class Network:
    """The kernel's."""

    def new_socket(self, family: int) -> _socket.socket:
        """Make a stream socket."""
        return _socket.socket(family, _socket.SOCK_STREAM)

    async def resolve(
        self,
        scheduler: Scheduler,
        host: str | None,
        port: int,
        *,
        family: int = _socket.AF_UNSPEC,
        passive: bool = False,
    ) -> list[Address]:
        """Look up the addresses of a host, off the loop.

        Args:
            scheduler: The one that runs.
            host: A name or address; `None` for this machine.
            port: The port.
            family: The family that the addresses must be of.
            passive: Whether the addresses are to listen on.

        Raises:
            OSError: If it has none (`socket.gaierror`).
        """
        flags = _socket.AI_PASSIVE if passive else 0
        found = await scheduler.run_in_executor(
            None, _socket.getaddrinfo, host, port, family, _socket.SOCK_STREAM, 0, flags
        )
        return [(family, address) for family, _, _, _, address in found]


_KERNEL = Network()


def network_of(scheduler: Scheduler) -> Network:
    """Give the network of a scheduler."""
    network: Network = getattr(scheduler, "_waterspout_network", _KERNEL)
    return network
