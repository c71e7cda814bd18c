"""`connect_tcp`: a TCP connection to a host that may have several addresses.

The addresses are raced as RFC 8305 ("Happy Eyeballs Version 2") says: families take turns
(section 4), an attempt is given a quarter of a second before the next one starts beside it
(section 5), and the first to connect wins. The losers are closed, on every way out.
"""

from __future__ import annotations

import asyncio
import socket as _socket
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from waterspout.ioloop.scheduling import (
    Scheduler,
    Timeout,
    TimeoutHandle,
    current_scheduler,
    time_limit,
    timeout_seconds,
)
from waterspout.iostream._network import Address, network_of
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._tlscontext import SSLOptions, ssl_context

ATTEMPT_DELAY = 0.25
"""Seconds between the starts of two attempts: RFC 8305's "Connection Attempt Delay"."""


async def connect_tcp(
    host: str,
    port: int,
    *,
    ssl: SSLOptions | bool = None,
    server_hostname: str | None = None,
    timeout: Timeout = None,
    local_addr: tuple[str, int] | None = None,
    **kwargs: Any,
) -> IOStream:
    """Connect to a TCP port, and shake hands if it is to be TLS.

    Cancelled or timed out, at any moment, it leaves no socket behind. Small writes are sent at
    once (`TCP_NODELAY`).

    Args:
        host: A name or address. A name is resolved off the loop.
        port: The port.
        ssl: For TLS, True, or a context or dict as `SSLIOStream` takes them; `None` and False
            mean plain.
        server_hostname: With TLS, the name that the server must prove; by default `host`.
        timeout: Seconds, or a `timedelta`, that all of it may take.
        local_addr: The address and port to connect from.
        **kwargs: What the stream takes, such as `max_buffer_size`.

    Returns:
        The connected stream: an `SSLIOStream` for TLS, else an `IOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `port` is no port, or `timeout` is NaN or a number of more than ten years.
        TimeoutError: If it took too long.
        ssl.SSLError: If the handshake fails.
        OSError: If the name cannot be resolved (`socket.gaierror`), or no address can be
            connected: the last one's error, and an `ExceptionGroup` of all as its cause where
            there are several.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a string, not {host!r}")
    check_port(port)
    seconds = timeout_seconds(timeout)
    options = None if isinstance(ssl, bool) else ssl
    context = None if ssl is None or ssl is False else ssl_context(options, False)

    def new_stream(socket: _socket.socket) -> IOStream:
        if context is None:
            return IOStream(socket, **kwargs)
        return SSLIOStream(
            socket, ssl_options=context, server_hostname=server_hostname or host, **kwargs
        )

    scheduler = current_scheduler()
    with time_limit(seconds):
        network = network_of(scheduler)
        remote = await network.resolve(scheduler, host, port)
        local = [] if local_addr is None else await network.resolve(scheduler, *local_addr)
        return await _Race(scheduler, interleave(remote), local, new_stream).run()


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Let the families take turns, beginning with the first one's (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None]


def check_port(port: int) -> None:
    """Raise unless a value is a port number."""
    if not isinstance(port, int):
        raise TypeError(f"port must be an integer, not {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port!r}")


class _Race:
    """Attempts to connect, side by side; the first to succeed is the result."""

    def __init__(
        self,
        scheduler: Scheduler,
        addresses: list[Address],
        local: list[Address],
        new_stream: Callable[[_socket.socket], IOStream],
    ) -> None:
        self._scheduler = scheduler
        self._addresses = addresses
        self._local = local
        self._new_stream = new_stream
        self._attempts: set[asyncio.Task[IOStream]] = set()
        self._errors: list[OSError] = []
        self._wake: asyncio.Future[None] = scheduler.create_future()

    async def run(self) -> IOStream:
        """Run it, and leave nothing behind but the winner."""
        winner: IOStream | None = None
        try:
            for family, address in self._addresses:
                self._start(family, address)
                winner = await self._first(ATTEMPT_DELAY)
                if winner is not None:
                    return winner
            while self._attempts:
                winner = await self._first(None)
                if winner is not None:
                    return winner
        finally:
            await self._stop(winner)
        raise self._failure()

    def _start(self, family: int, address: Any) -> None:
        attempt = asyncio.create_task(self._attempt(family, address))
        attempt.add_done_callback(self._notice)
        self._attempts.add(attempt)

    def _notice(self, _: object = None) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def _first(self, delay: float | None) -> IOStream | None:
        """Wait until an attempt is done, or for a delay."""
        self._wake = self._scheduler.create_future()
        timer: TimeoutHandle = None
        if delay is not None:
            timer = self._scheduler.call_later(delay, self._notice)
        try:
            await self._wake
        finally:
            if delay is not None:
                self._scheduler.remove_timeout(timer)
        for attempt in [attempt for attempt in self._attempts if attempt.done()]:
            error = attempt.exception()
            if error is None:
                return attempt.result()
            self._attempts.discard(attempt)
            if not isinstance(error, OSError):
                raise error
            self._errors.append(error)
        return None

    async def _stop(self, winner: IOStream | None) -> None:
        """Cancel what still runs and close what connected, but the winner."""
        cancelled: asyncio.CancelledError | None = None
        for attempt in self._attempts:
            attempt.cancel()
        while pending := [attempt for attempt in self._attempts if not attempt.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                cancelled = error  # once all of them are done, which takes no time
        for attempt in self._attempts:
            if not attempt.cancelled() and attempt.exception() is None:
                stream = attempt.result()
                if stream is not winner or cancelled is not None:
                    stream.close()
        self._attempts.clear()
        if cancelled is not None:
            raise cancelled

    async def _attempt(self, family: int, address: Any) -> IOStream:
        socket = network_of(self._scheduler).new_socket(family)
        try:
            socket.setblocking(False)
            self._bind(socket, family)
            stream = self._new_stream(socket)
        except BaseException:
            socket.close()
            raise
        try:
            await stream.connect(address)
        except BaseException:
            stream.close()
            raise
        stream.set_nodelay(True)
        return stream

    def _bind(self, socket: _socket.socket, family: int) -> None:
        if not self._local:
            return
        for local_family, local in self._local:
            if local_family == family:
                socket.bind(local)
                return
        raise OSError(f"local_addr {self._local[0][1]!r} is of another family than the host")

    def _failure(self) -> OSError:
        error = self._errors[-1]
        if len(self._errors) > 1:
            error.__cause__ = ExceptionGroup("no address could be connected", self._errors)
        return error
