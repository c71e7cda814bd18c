"""`connect_tcp`: a TCP connection to a host that may have several addresses.

The addresses are raced as RFC 8305 ("Happy Eyeballs Version 2") says: families take turns
(section 4), an attempt is given a quarter of a second before the next one starts beside it
(section 5), and the first to connect wins. The losers are closed, on every way out.

An exception that has been raised refers to the frames that it came through. No frame or object
here keeps one that was raised in it, so a failed connection is freed without the garbage collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
from waterspout.iostream._errors import copy_error
from waterspout.iostream._network import (
    Address,
    check_host,
    check_local_addr,
    check_port,
    look_up,
    network_of,
)
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._tlscontext import SSLOptions, checked_name, ssl_context, verification_name

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
        host: A name or address. A name is resolved off the loop, in threads of the package's own;
            an address needs no thread.
        port: The port.
        ssl: For TLS, True, or a context or dict as `SSLIOStream` takes them; `None` and False
            mean plain.
        server_hostname: With TLS, the name that the server must prove; by default `host`, without
            the dot at the end of a name and the zone of an IPv6 address.
        timeout: Seconds, or a `timedelta`, that all of it may take.
        local_addr: The host and port to connect from. Of the addresses of `host`, only those of
            its family are tried.
        **kwargs: What the stream takes, such as `max_buffer_size`.

    Returns:
        The connected stream: an `SSLIOStream` for TLS, else an `IOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a port is no port, `timeout` is NaN or a number of more than ten years, or
            the name that a TLS server must prove is no possible one.
        TimeoutError: If it took too long.
        ssl.SSLError: If the handshake fails.
        OSError: If a name cannot be resolved or is no possible one (`socket.gaierror`), or no
            address can be connected: the last one's error, and an `ExceptionGroup` of all as its
            cause where there are several. An address that this machine cannot use does not keep
            the others from being tried.
    """
    check_host("host", host)
    check_port(port)
    check_local_addr(local_addr)
    seconds = timeout_seconds(timeout)
    options = None if isinstance(ssl, bool) else ssl
    context = None if ssl is None or ssl is False else ssl_context(options, False)
    if context is not None and server_hostname is not None:
        server_hostname = checked_name(context, False, server_hostname)

    def new_stream(socket: _socket.socket) -> IOStream:
        if context is None:
            return IOStream(socket, **kwargs)
        name = verification_name(host) if server_hostname is None else server_hostname
        return SSLIOStream(socket, ssl_options=context, server_hostname=name, **kwargs)

    scheduler = current_scheduler()
    with time_limit(seconds):
        remote = await look_up(scheduler, host, port)
        local = None if local_addr is None else await look_up(scheduler, *local_addr)
        if local is not None:
            remote = _of_families(remote, local)
        return await _Race(scheduler, interleave(remote), local, new_stream).run()


def _of_families(remote: list[Address], local: list[Address]) -> list[Address]:
    """Give the addresses that can be connected to from one of the local ones."""
    families = {family for family, _ in local}
    found = [address for address in remote if address[0] in families]
    if not found:
        raise OSError(
            errno.EAFNOSUPPORT, f"local_addr {local[0][1]!r} is of another family than the host"
        )
    return found


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Let the families take turns, beginning with the first one's (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None]


def one_for_all(message: str, errors: list[OSError]) -> OSError:
    """Give the last of some errors; if it is not alone, an `ExceptionGroup` of all is its cause.

    The list is emptied: it may belong to a frame to which the errors refer once they are raised.
    """
    all_errors = errors.copy()
    errors.clear()
    if len(all_errors) == 1:
        return all_errors[0]
    # A copy: an exception that is in its own cause would be a reference cycle.
    error = copy_error(all_errors[-1])
    error.__cause__ = ExceptionGroup(message, all_errors)
    return error


class _Race:
    """Attempts to connect, side by side; the first to succeed is the result."""

    def __init__(
        self,
        scheduler: Scheduler,
        addresses: list[Address],
        local: list[Address] | None,
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
            raise one_for_all("no address could be connected", self._errors)
        finally:
            self._errors.clear()
            await self._stop(winner)

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
        return self._outcome()

    def _outcome(self) -> IOStream | None:
        """Give the stream of an attempt that succeeded, and gather the errors of those that failed.

        Raises:
            BaseException: What another kind of error says: a mistake in an argument, perhaps.
        """
        for attempt in [attempt for attempt in self._attempts if attempt.done()]:
            error = attempt.exception()
            if error is None:
                return attempt.result()
            self._attempts.discard(attempt)
            if not isinstance(error, OSError):
                try:
                    raise error
                finally:
                    del error, attempt  # or this frame and the error would refer to each other
            self._errors.append(error)
        return None

    async def _stop(self, winner: IOStream | None) -> None:
        """Cancel what still runs and close what connected, but the winner."""
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            attempt.cancel()
        cancelled = False
        while pending := [attempt for attempt in attempts if not attempt.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError:
                cancelled = True  # once all of them are done, which takes no time
        with contextlib.ExitStack() as stack:  # each is closed, even if closing another fails
            for attempt in attempts:
                if not attempt.cancelled() and attempt.exception() is None:
                    stream = attempt.result()
                    if stream is not winner or cancelled:
                        stack.callback(stream.close)
        if cancelled:
            raise asyncio.CancelledError

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
            stream.set_nodelay(True)
        except BaseException:
            stream.close()
            raise
        return stream

    def _bind(self, socket: _socket.socket, family: int) -> None:
        """Bind a socket to the first local address of its family that it can be bound to."""
        if self._local is None:
            return
        usable = [address for local_family, address in self._local if local_family == family]
        for address in usable[:-1]:
            with contextlib.suppress(OSError):
                socket.bind(address)
                return
        socket.bind(usable[-1])
