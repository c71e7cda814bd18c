"""Where sockets and addresses come from: the kernel, unless a scheduler has a network of its own.

A scheduler whose descriptors are not the kernel's, such as a simulated loop's, has an attribute
`_waterspout_network` with the methods of `Network`.
"""

from __future__ import annotations

import errno
import os
import re
import socket as _socket
import sys
from typing import Any, TypeAlias

from waterspout.ioloop.scheduling import Scheduler
from waterspout.iostream._offloop import LOOKUPS

Address: TypeAlias = tuple[int, Any]
"""A socket family and one of its addresses."""

_NUMERIC = _socket.AI_NUMERICHOST | _socket.AI_NUMERICSERV

_MAYBE_LITERAL = re.compile(r"(?ai).*:.*|(\d+|0x[\da-f]*)(\.(\d+|0x[\da-f]*)){0,3}")
"""Possible addresses: they have a colon, or are one to four numbers, as inet_aton(3) takes them."""


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
        """Look up the addresses of a host: a name off the loop, an address without a thread.

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
        arguments = host, port, family, _socket.SOCK_STREAM, 0
        if host is None or _MAYBE_LITERAL.fullmatch(_idna(host)):
            try:
                # With these flags getaddrinfo(3) asks nobody, so it does not block the loop.
                return _addresses(_socket.getaddrinfo(*arguments, flags | _NUMERIC))
            except _socket.gaierror as error:
                if error.errno != _socket.EAI_NONAME:
                    raise
        return _addresses(
            await scheduler.run_in_executor(LOOKUPS, _socket.getaddrinfo, *arguments, flags)
        )


def _addresses(found: list[tuple[Any, ...]]) -> list[Address]:
    return [(family, address) for family, _, _, _, address in found]


_KERNEL = Network()


def network_of(scheduler: Scheduler) -> Network:
    """Give the network of a scheduler."""
    network: Network = getattr(scheduler, "_waterspout_network", _KERNEL)
    return network


async def look_up(
    scheduler: Scheduler,
    host: str | None,
    port: int,
    *,
    family: int = _socket.AF_UNSPEC,
    passive: bool = False,
) -> list[Address]:
    """Look up the addresses of a host in the network of a scheduler; see `Network.resolve`.

    Raises:
        OSError: If it has none, or is no possible name: `socket.gaierror`, with the host in its
            message or notes.
    """
    if host is not None:
        _check_name(host)
    network = network_of(scheduler)
    try:
        return await network.resolve(scheduler, host, port, family=family, passive=passive)
    except OSError as error:
        error.add_note(f"host is {host!r}")
        raise


def _check_name(host: str) -> None:
    """Raise `socket.gaierror` for what can be no host's name."""
    try:
        name = _idna(host)
    except UnicodeError as error:
        message = f"{host!r} is no possible host name: {error}"
        raise _socket.gaierror(_socket.EAI_NONAME, message) from error
    # getaddrinfo() would take the part before a null character for the whole.
    if not name or "\0" in name:
        message = f"{host!r} is no possible host name: it is empty or has a null character"
        raise _socket.gaierror(_socket.EAI_NONAME, message)


def _idna(host: str) -> str:
    """Give a host's name as `socket.getaddrinfo` passes it on.

    Raises:
        UnicodeError: If it can be no host's name.
    """
    return host.encode("idna").decode("ascii")


def check_host(name: str, host: object) -> None:
    """Raise unless a value is a host's name or address, as a string."""
    if not isinstance(host, str):
        raise TypeError(f"{name} must be a string, not {host!r}")


def check_port(port: object, name: str = "port") -> None:
    """Raise unless a value is a port number."""
    if not isinstance(port, int):
        raise TypeError(f"{name} must be an integer, not {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} must be from 0 to 65535, not {port!r}")


def check_local_addr(local_addr: object) -> None:
    """Raise unless a value is `None` or a pair of a host and a port."""
    if local_addr is None:
        return
    if not isinstance(local_addr, tuple | list) or len(local_addr) != 2:
        raise TypeError(f"local_addr must be a pair of a host and a port, not {local_addr!r}")
    check_host("the host of local_addr", local_addr[0])
    check_port(local_addr[1], "the port of local_addr")


def check_unix_path(path: str | bytes) -> None:
    """Raise unless a value can be the name of a Unix socket: a path, or an abstract name.

    Raises:
        ValueError: If it cannot. The kernel would take the part of a path before a null character
            for the whole.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeError as error:
        raise ValueError(f"path must be one of the file system's, not {path!r}") from error
    is_abstract = sys.platform == "linux" and encoded[:1] == b"\0"
    if b"\0" in encoded and not is_abstract:
        raise ValueError(f"path must not have a null character inside, not {path!r}")


def unix_error(error: OSError, path: str | bytes) -> OSError:
    """Give an error of a Unix socket with its path. CPython's for a long one has no number."""
    if error.errno is None:
        return OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    return OSError(error.errno, error.strerror, path)
