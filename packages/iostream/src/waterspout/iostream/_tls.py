"""`SSLIOStream`: TLS over a socket.

The engines that encrypt are in `_tlsengines` and `_tlsmemory`. An engine may hold input of which
the descriptor does not tell: records that it has received and that the event's share of work did
not allow. So after each event the stream asks it, and if there is such input, reads it in the next
turn of the loop.
"""

from __future__ import annotations

import asyncio
import socket as _socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self, TypeAlias, overload

from waterspout.ioloop.scheduling import (
    READ,
    WRITE,
    Reactor,
    Timeout,
    TimeoutHandle,
    timeout_seconds,
)
from waterspout.iostream._checks import check_callback
from waterspout.iostream._errors import without_frames
from waterspout.iostream._linger import Linger
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tlscontext import (
    HANDSHAKE_TIMEOUT,
    SSLOptions,
    checked_name,
    explain,
    ssl_context,
)
from waterspout.iostream._tlsengines import RECORD, SocketEngine, TLSEngine
from waterspout.iostream._tlsmemory import MemoryTLSSocket

TLSSocket: TypeAlias = ssl.SSLSocket | MemoryTLSSocket


class SSLIOStream(IOStream):
    """A TLS stream over a socket, connected or to be connected.

    The handshake begins with the first operation, or with `wait_for_handshake`; reads and writes
    wait for it. The end of the connection without the peer's close_notify alert (RFC 8446, section
    6.1) is an error, since bytes may have been cut off: `StreamClosedError` with an
    `ssl.SSLEOFError`. `close` sends ours, in the background where the connection is slow. In a
    forked child, `close` of a stream that the parent has used only closes the descriptor.

    A peer cannot keep the event loop, whatever records it sends. That does not hold for an
    `ssl.SSLSocket` that the caller made: OpenSSL receives from its descriptor itself.

    Args:
        socket: A stream socket; or a connected `ssl.SSLSocket` that was made with
            `do_handshake_on_connect=False`. The attribute `socket` is then an object that answers
            what an `ssl.SSLSocket` can be asked; bytes are moved by the stream alone.
        io_loop: As for `BaseIOStream`.
        ssl_options: A context, or a dict of `certfile`, `keyfile`, `ca_certs`, `cert_reqs`,
            `check_hostname` and `ciphers`; `None` verifies a server against the system's
            authorities.
        server_side: Whether this is the server's side.
        server_hostname: For a client, the name or address that the server must prove, and that
            it is asked for (SNI). The dot at the end of a name and the zone of an IPv6 address
            are left out.
        handshake_timeout: Seconds, or a `timedelta`, that the handshake may take.
        **kwargs: As for `BaseIOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the socket is unfit, a server has no certificate, `server_hostname` is no
            name or is given for a server, `handshake_timeout` is NaN, or the socket is connected
            and a client's context checks the name of the server and none is given.
        ssl.SSLError: If a certificate cannot be loaded, or (or `ValueError`) the context is for
            the other side.
        OSError: If a file of `ssl_options` cannot be read, or the connection is broken already.
    """

    socket: TLSSocket  # type: ignore[assignment]
    _keeps_unsent = True  # a record that was begun must be ended
    can_write_eof = False  # no bytes can be read safely between our close_notify and the other's

    def __init__(
        self,
        socket: _socket.socket,
        io_loop: Reactor | None = None,
        *,
        ssl_options: SSLOptions = None,
        server_side: bool = False,
        server_hostname: str | None = None,
        handshake_timeout: Timeout = HANDSHAKE_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        seconds = timeout_seconds(handshake_timeout, "handshake_timeout")
        is_tls = isinstance(socket, ssl.SSLSocket | MemoryTLSSocket)
        self._context = None if is_tls else ssl_context(ssl_options, server_side)
        if server_hostname is not None and self._context is not None:
            server_hostname = checked_name(self._context, server_side, server_hostname)
        blocking = socket.gettimeout() if hasattr(socket, "gettimeout") else None
        super().__init__(socket, io_loop, **kwargs)
        self._read_chunk_size = max(self._read_chunk_size, RECORD)
        self._least_room = RECORD
        self._handshake_timeout = seconds
        self._handshake_timer: TimeoutHandle = None
        self._handshake_begun = False
        self._has_opened = False
        self._opening = True
        self._engine: TLSEngine | None = None  # None until it is connected
        self._write_wants_read = self._read_wants_write = False  # of the protocol's own accord
        self._reads_held_input = False  # whether that is about to happen
        self._server_side = server_side
        self._server_hostname = server_hostname
        try:
            self._take(socket)
        except BaseException:
            socket.settimeout(blocking)
            raise

    def _take(self, socket: _socket.socket) -> None:
        """Put an engine over the socket, if it is connected."""
        if self._context is None:
            if not self._has_peer:
                raise ValueError(f"socket must be connected if it is an SSLSocket, not {socket!r}")
            given: Any = socket
            self._engine = SocketEngine(given) if isinstance(given, ssl.SSLSocket) else given
        elif self._has_peer:
            self._wrap(self._context)

    def wait_for_handshake(
        self, callback: Callable[[Self], object] | None = None
    ) -> "asyncio.Future[Self]":
        """Begin the handshake, if it has not begun.

        Cancelling the future leaves the handshake going on.

        Args:
            callback: Called on the loop with the stream.

        Returns:
            A future of the stream, done when the handshake is.

        Raises:
            TypeError: If `callback` cannot be called.
            RuntimeError: If the socket is not connected and not connecting, no loop is running, or
                this is a forked child and the stream belongs to a loop of its parent.
            StreamClosedError: Through the future, if the stream was closed before or is closed
                meanwhile.
            ssl.SSLError: Through the future, if the handshake fails: it says why.
            TimeoutError: Through the future, if it takes longer than `handshake_timeout`.
            OSError: Through the future, if the connection breaks.
        """
        check_callback("callback", callback)
        if not (self._has_peer or self._connecting or self._closed):
            raise RuntimeError("the stream is not connected: connect() shakes hands itself")
        self._open()
        future = self._when_open()
        if callback is not None:
            future.add_done_callback(partial(self._deliver, callback))
        return future

    @property
    def negotiated_protocol(self) -> str | None:
        """The protocol agreed on by both sides (ALPN); `None` before the handshake or without one.

        It can be asked also when the stream is closed.
        """
        engine = self._engine
        return None if engine is None else engine.negotiated_protocol

    @overload
    def peer_certificate(self, binary: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def peer_certificate(self, binary: Literal[True]) -> bytes | None: ...
    def peer_certificate(self, binary: bool = False) -> dict[str, Any] | bytes | None:
        """Give the certificate of the peer.

        It can be asked for also when the stream is closed.

        Args:
            binary: Whether to give it whole, in DER, even if it was not verified.

        Returns:
            What it says, as `ssl.SSLSocket.getpeercert` puts it, if it was verified; `None` if
            there is none, or the handshake has not been done.
        """
        engine = self._engine
        certificate: Any = None if engine is None else engine.peer_certificate(binary)
        return certificate or None

    def close_fd(self) -> None:
        reactor, engine = self._reactor, self._engine
        if (
            self._has_opened
            and not self.error
            and not (reactor is None or engine is None)
            and sys.platform != "win32"
            and not self._is_inherited()
        ):
            Linger(reactor, engine)
        elif engine is not None:
            engine.close()
        else:
            super().close_fd()

    def _carrier(self) -> Any:
        return self._engine

    def read_from_fd(self, buf: memoryview) -> int | None:
        assert self._engine is not None
        try:
            return self._engine.read_into(buf)
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            return None

    def _fill(self) -> None:
        engine = self._engine
        assert engine is not None
        super()._fill()
        # The end may have been met behind the bytes; the descriptor may not tell of it again.
        if engine.at_end() and not self._ended:
            super()._fill()
        if self._write_wants_read and not self._closed:  # for which input may have come just now
            self._write_wants_read = False
            self._flush()

    def write_to_fd(self, data: memoryview) -> int:
        engine = self._engine
        assert engine is not None
        sent = 0
        try:
            while sent < len(data):
                sent += engine.send(data[sent:] if sent else data)
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except OSError as error:
            if sent == 0:
                without_frames(error)
                raise engine.reason_of(error) from None
            # else the next write meets it
        return sent

    def _flush(self) -> None:
        assert self._engine is not None
        self._engine.flush()
        super()._flush()

    def _update_events(self) -> None:
        super()._update_events()
        engine = self._engine
        if (
            engine is not None
            and engine.holds_input
            and not (self._closed or self._reads_held_input)
            and self._wanted_events() & READ
        ):
            self._reads_held_input = True
            self._use_reactor().add_callback(self._read_held_input)

    def _read_held_input(self) -> None:
        self._reads_held_input = False
        if not self._closed and self._wanted_events() & READ:
            self._on_events(self._watched, READ)

    def _wanted_events(self) -> int:
        events = super()._wanted_events()
        if self._engine is not None and self._engine.holds_output:
            events |= WRITE
        if self._write_wants_read:
            events = events & ~WRITE | READ
        if self._read_wants_write:
            events = events & ~READ | WRITE
        return events

    def _on_events(self, fd: int, events: int) -> None:
        if self._reads_held_input:
            events &= ~READ  # that comes next, with the work that is allowed for one event
        if self._engine is not None:
            self._engine.renew()
        if events & READ and self._write_wants_read:
            self._write_wants_read = False
            events |= WRITE
        if events & WRITE and self._read_wants_write:
            self._read_wants_write = False
            events |= READ
        super()._on_events(fd, events)

    # Opening

    def _check_can_connect(self, server_hostname: str | None) -> None:
        super()._check_can_connect(server_hostname)
        assert self._context is not None, "only a socket that is connected can have come with TLS"
        name = self._server_hostname if server_hostname is None else server_hostname
        self._server_hostname = checked_name(self._context, self._server_side, name)

    def _connected(self) -> None:
        assert self._context is not None
        self._connecting = False
        self._has_peer = True
        try:
            self._wrap(self._context)
            self._open()
        except Exception as error:
            self._fail_opening(without_frames(error))

    def _wrap(self, context: ssl.SSLContext) -> None:
        name = checked_name(context, self._server_side, self._server_hostname)
        plain: Any = self.socket
        self._engine = engine = MemoryTLSSocket(plain, context, self._server_side, name)
        self.socket = engine  # pyright: ignore[reportIncompatibleVariableOverride]

    def _open(self) -> None:
        if self._has_peer and not self._handshake_begun and not self._closed:
            reactor = self._use_reactor()
            if self._is_inherited():
                raise RuntimeError("the stream belongs to an event loop of the parent process")
            if self._handshake_timeout is not None:
                self._handshake_timer = reactor.call_later(
                    self._handshake_timeout, self._on_handshake_timeout
                )
            self._handshake_begun = True
            self._advance_opening()

    def _advance_opening(self) -> None:
        if not self._handshake_begun:
            super()._advance_opening()
            return
        engine = self._engine
        assert engine is not None
        try:
            engine.do_handshake()
        except ssl.SSLWantReadError:
            self._opening_events = READ
        except ssl.SSLWantWriteError:
            self._opening_events = WRITE
        except OSError as error:
            without_frames(error)  # which this frame is one of
            reason = engine.reason_of(error)
            explain(reason)
            self._fail_opening(reason)
            return
        else:
            engine.remember()
            self._finish_opening()
        self._register_or_end()

    def _on_handshake_timeout(self) -> None:
        self._fail_opening(TimeoutError("the TLS handshake took too long"))

    def _finish_opening(self) -> None:
        self._forget_timer()
        super()._finish_opening()

    def _close_now(self) -> None:
        self._forget_timer()
        super()._close_now()

    def _forget_timer(self) -> None:
        timer, self._handshake_timer = self._handshake_timer, None
        if timer is not None:
            self._use_reactor().remove_timeout(timer)
