"""`SimulatedNetwork`: hosts, addresses and connections on a simulated loop."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import random
import socket as _socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling import Scheduler, current_scheduler
from waterspout.ioloop.testing import SimulatedLoop
from waterspout.iostream._network import Address, Network
from waterspout.iostream._socket import IOStream
from waterspout.iostream.testing._link import Link
from waterspout.iostream.testing._socket import SimulatedSocket, os_error

_FIRST_PORT = 49152
"""Of the ports that are nobody's (RFC 6335, section 6)."""


class SimulatedNetwork(Network):
    """A network of its own for the running simulated loop::

        with SimulatedNetwork(Link(latency=0.1, chunk=1)) as network:
            async with await serve_tcp(handler, "server", 80):
                stream = await connect_tcp("server", 80)

    Inside the block, `connect_tcp`, `serve_tcp` and `IOStream.connect` make their connections
    here, and everything else about them is the real code. A host is a name of any kind: it is
    given an address when it is first spoken of, so names need not be declared.

    Args:
        link: How well connections carry bytes, unless `links` says otherwise.
        seed: Of what is drawn where the link leaves a choice.

    Attributes:
        hosts: The addresses of hosts, by name; several, of both families, if you say so.
        links: How well connections to an address carry bytes, by the address as a string.
        unreachable: The addresses, as strings, from which no answer ever comes.
        dice: What is drawn is drawn from this.

    Raises:
        TypeError: If `link` is no `Link`.
        RuntimeError: If no simulated loop is running; from the block, if the loop has a network.
    """

    def __init__(self, link: Link = Link(), *, seed: int = 0) -> None:  # noqa: B008 (frozen)
        if not isinstance(link, Link):
            raise TypeError(f"link must be a Link, not {link!r}")
        loop = asyncio._get_running_loop()
        if not isinstance(loop, SimulatedLoop):
            raise RuntimeError(f"a SimulatedNetwork needs a running SimulatedLoop, not {loop!r}")
        self._loop = loop
        self.dice: random.Random = random.Random(seed)
        self.hosts: dict[str, list[str]] = {}
        self.links: dict[str, Link] = {}
        self.unreachable: set[str] = set()
        self._connections: list[tuple[SimulatedSocket, SimulatedSocket]] = []
        self._link = link
        self._bound: dict[tuple[str, int], SimulatedSocket] = {}
        self._scheduler: Any = None
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def loop(self) -> SimulatedLoop:
        """The loop that it is on."""
        return self._loop

    @property
    def connections(self) -> list[tuple[SimulatedSocket, SimulatedSocket]]:
        """Every connection that was made, the sockets of the two ends: the client's comes first."""
        return self._connections

    def __enter__(self) -> Self:
        self._scheduler = current_scheduler()
        if getattr(self._scheduler, "_waterspout_network", None) is not None:
            raise RuntimeError("the running loop has a simulated network already")
        self._scheduler._waterspout_network = self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        del self._scheduler._waterspout_network
        for timer in self._timers:
            timer.cancel()  # nobody is there for what is under way
        self._timers.clear()

    def socketpair(self, link: Link | None = None) -> tuple[SimulatedSocket, SimulatedSocket]:
        """Make two sockets that are connected to each other.

        Args:
            link: How well they carry bytes; by default as the network does.

        Raises:
            TypeError: If `link` is no `Link`.
        """
        if link is not None and not isinstance(link, Link):
            raise TypeError(f"link must be a Link or None, not {link!r}")
        ends = self.new_socket(_socket.AF_INET), self.new_socket(_socket.AF_INET)
        for end in ends:
            end._name = self.bind(end, None)
        ends[0].join(ends[1], self._link if link is None else link)
        ends[1]._peer_name = ends[0]._name
        self._connections.append(ends)
        for end in ends:
            end.update()
        return ends

    def pair(self, link: Link | None = None, **kwargs: Any) -> tuple[IOStream, IOStream]:
        """Make two streams that are connected to each other.

        Args:
            link: How well they carry bytes; by default as the network does.
            **kwargs: What the streams take.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If the streams refuse an argument.
        """
        left, right = self.socketpair(link)
        try:
            return IOStream(left, **kwargs), IOStream(right, **kwargs)
        except BaseException:
            left.close()
            right.close()
            raise

    # What the code under test asks for

    def new_socket(self, family: int) -> SimulatedSocket:
        """Make a socket of this network."""
        return SimulatedSocket(self, family)

    async def resolve(
        self,
        scheduler: Scheduler,
        host: str | None,
        port: int,
        *,
        family: int = _socket.AF_UNSPEC,
        passive: bool = False,
    ) -> list[Address]:
        """Look up the addresses of a host."""
        if not host:
            addresses = ["0.0.0.0" if passive else "127.0.0.1"]  # noqa: S104 (of no machine)
        else:
            addresses = self.hosts.get(host) or [self._new_address(host)]
            self.hosts[host] = addresses
            if isinstance(addresses, str):
                raise TypeError(f"hosts[{host!r}] must be a list of addresses, not {addresses!r}")
        found = [_address(address, port) for address in addresses]
        found = [one for one in found if family in (_socket.AF_UNSPEC, one[0])]
        if not found:
            raise _socket.gaierror(_socket.EAI_NONAME, f"{host} has no address of this family")
        return found

    def _new_address(self, host: str) -> str:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            taken = {address for addresses in self.hosts.values() for address in addresses}
            names = (
                f"10.{count >> 16 & 255}.{count >> 8 & 255}.{count & 255}"
                for count in itertools.count(1)
            )
            return next(name for name in names if name not in taken)

    # What its sockets ask for

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Do something at a time, while the network lasts."""

        def run() -> None:
            self._timers.discard(timer)
            call(*args)

        timer = self.loop.call_at(when, run)
        self._timers.add(timer)

    def any_name(self, family: int) -> Any:
        """The address of a socket that has none."""
        return _address("::" if family == _socket.AF_INET6 else "0.0.0.0", 0)[1]  # noqa: S104

    def bind(self, socket: SimulatedSocket, address: Any) -> Any:
        """Give a socket an address, a free port of it if it asks for none."""
        name = address or self.any_name(socket.family)
        host, port = name[:2]
        if port == 0:
            free = (p for p in range(_FIRST_PORT, 65536) if (host, p) not in self._bound)
            port = next(free, 0)
            if not port:
                raise os_error(errno.EADDRNOTAVAIL)
        if (host, port) in self._bound:
            raise os_error(errno.EADDRINUSE)
        self._bound[host, port] = socket
        return (host, port, *name[2:])

    def forget(self, socket: SimulatedSocket) -> None:
        """Free the address of a socket."""
        for key in [key for key, owner in self._bound.items() if owner is socket]:
            del self._bound[key]

    def connect_soon(self, socket: SimulatedSocket, address: Any) -> None:
        """Have a socket be connected when there has been time enough for it, or refused."""
        if address[0] in self.unreachable:
            return
        link = self.links.get(address[0], self._link)
        latency = link.latency
        one_way = self.dice.uniform(*latency) if isinstance(latency, tuple) else latency
        self.at(self.loop.time() + one_way, self._arrive, socket, address, link, one_way)

    def _arrive(self, socket: SimulatedSocket, address: Any, link: Link, back: float) -> None:
        """A socket that wants to be connected has reached the other end."""
        then = self.loop.time() + back
        listener = self._listener(address)
        if socket.fileno() < 0:
            return
        if listener is None:
            self.at(then, socket.be_refused, errno.ECONNREFUSED)
            return
        accepted = self.new_socket(listener.family)
        accepted._name, accepted._peer_name = address, socket.getsockname()
        socket.join(accepted, link)
        self._connections.append((socket, accepted))
        listener.queue(accepted)
        accepted.update()
        self.at(then, socket.be_connected)

    def _listener(self, address: Any) -> SimulatedSocket | None:
        host, port = address[:2]
        any_host = "::" if ipaddress.ip_address(host).version == 6 else "0.0.0.0"  # noqa: S104
        for key in ((host, port), (any_host, port)):
            socket = self._bound.get(key)
            if socket is not None and socket.listens:
                return socket
        return None

    def updater(self, *ends: SimulatedSocket) -> Callable[[], None]:
        """Give what tells the loop that something has changed for either end."""

        def update() -> None:
            for end in ends:
                end.update()

        return update


def _address(host: str, port: int) -> Address:
    if ipaddress.ip_address(host).version == 6:
        return _socket.AF_INET6, (host, port, 0, 0)
    return _socket.AF_INET, (host, port)
