"""`SSLIOStream`: TLS over a socket.

Which of the two engines encrypts is up to `_tlsengines`. OpenSSL takes one record (up to 16 KiB of
plain text) off the socket at a time, so as long as it is always offered room for a whole one,
nothing that can be read is ever hidden inside it, and the readiness of the descriptor tells the
truth. The engine in memory takes more off its socket, and says itself when it holds some.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as _socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self, overload

from waterspout.ioloop.scheduling import (
    READ,
    WRITE,
    Reactor,
    Timeout,
    TimeoutHandle,
    timeout_seconds,
)
from waterspout.iostream._checks import check_callback
from waterspout.iostream._linger import Linger
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tlscontext import (
    HANDSHAKE_TIMEOUT,
    SSLOptions,
    check_name,
    explain,
    ssl_context,
)
from waterspout.iostream._tlsengines import RECORD, MemoryTLSSocket, SocketEngine, TLSEngine, TLSSocket


class SSLIOStream(IOStream):
    """A TLS stream over a socket, connected or to be connected.

    The handshake begins with the first operation, or with `wait_for_handshake`; reads and writes
    wait for it. The end of the other side without its close_notify alert (RFC 8446, section 6.1)
    is an error, since bytes may have been cut off: `StreamClosedError` with an `ssl.SSLEOFError`.
    `close` sends ours, in the background where the connection is slow (see `_linger`).

    Args:
        socket: A stream socket; or a connected `ssl.SSLSocket` that was made with
            `do_handshake_on_connect=False`.
        io_loop: As for `BaseIOStream`.
        ssl_options: A context, or a dict of `certfile`, `keyfile`, `ca_certs`, `cert_reqs`,
            `check_hostname` and `ciphers`; `None` verifies a server against the system's
            authorities.
        server_side: Whether this is the server's side.
        server_hostname: For a client, the name that the server must prove (SNI).
        handshake_timeout: Seconds, or a `timedelta`, that the handshake may take.
        **kwargs: As for `BaseIOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the socket is unfit, a server has no certificate, or a client's context
            checks the name of the server and none is given.
        ssl.SSLError: If a certificate cannot be loaded.
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
        super().__init__(socket, io_loop, **kwargs)
        self._read_chunk_size = max(self._read_chunk_size, RECORD)
        self._least_room = RECORD
        self._handshake_timeout = timeout_seconds(handshake_timeout, "handshake_timeout")
        self._handshake_timer: TimeoutHandle = None
        self._handshake_begun = False
        self._has_opened = False
        self._opening = True
        self._engine: TLSEngine | None = None  # None until it is connected
        self._write_wants_read = self._read_wants_write = False  # of the protocol's own accord
        self._reads_held_input = False  # whether that is about to happen
        self._server_side = server_side
        self._server_hostname = server_hostname
        self._context: ssl.SSLContext | None = None
        if isinstance(socket, ssl.SSLSocket | MemoryTLSSocket):
            if not self._has_peer:
                raise ValueError("socket must be connected if it is an SSLSocket")
            self._engine = SocketEngine(socket) if isinstance(socket, ssl.SSLSocket) else socket
            return
        self._context = ssl_context(ssl_options, server_side)
        if self._has_peer:
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
            RuntimeError: If the socket is not connected and not connecting.
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
        """What the two sides agreed on (ALPN); `None` before the handshake, and for nothing."""
        return self._engine.negotiated_protocol() if self._has_opened else None

    @overload
    def peer_certificate(self, binary: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def peer_certificate(self, binary: Literal[True]) -> bytes | None: ...
    def peer_certificate(self, binary: bool = False) -> dict[str, Any] | bytes | None:
        """Give the certificate of the other side.

        Args:
            binary: Whether to give it whole, in DER, also if it was not verified.

        Returns:
            What it says, as `ssl.SSLSocket.getpeercert` puts it, if it was verified; `None` if
            there is none, or the handshake is not done.
        """
        certificate: Any = self._engine.peer_certificate(binary) if self._has_opened else None
        return certificate or None

    def close_fd(self) -> None:
        reactor = self._reactor
        if self._has_opened and not self.error and reactor is not None and sys.platform != "win32":
            with contextlib.suppress(RuntimeError):  # the loop is closed, so there is no waiting
                Linger(reactor, self._engine)
                return
        super().close_fd()

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
                sent += engine.send(data[sent:])
        except ssl.SSLWantWriteError:
            pass
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except OSError as error:
            if sent == 0:
                raise engine.reason_of(error) from None
            # else the next time
        return sent

    def _flush(self) -> None:
        if self._engine is not None:
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
        self._server_hostname = server_hostname or self._server_hostname
        assert self._context is not None, "only a socket that is connected can have come with TLS"
        check_name(self._context, self._server_side, self._server_hostname)

    def _connected(self) -> None:
        self._connecting = False
        self._has_peer = True
        try:
            assert self._context is not None
            self._wrap(self._context)
            self._open()
        except OSError as error:  # it is gone already, say
            self._fail_opening(error)

    def _wrap(self, context: ssl.SSLContext) -> None:
        check_name(context, self._server_side, self._server_hostname)
        wrapped = MemoryTLSSocket(self.socket, context, self._server_side, self._server_hostname)
        self.socket = self._engine = wrapped  # pyright: ignore[reportIncompatibleVariableOverride]

    def _open(self) -> None:
        if self._has_peer and not self._handshake_begun and not self._closed:
            self._handshake_begun = True
            if self._handshake_timeout is not None:
                self._handshake_timer = self._use_reactor().call_later(
                    self._handshake_timeout, self._on_handshake_timeout
                )
            self._advance_opening()

    def _advance_opening(self) -> None:
        if not self._handshake_begun:
            super()._advance_opening()
            return
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            self._opening_events = READ
        except ssl.SSLWantWriteError:
            self._opening_events = WRITE
        except OSError as error:
            explain(error)
            self._fail_opening(error)
        else:
            self._finish_opening()
        self._update_events()

    def _on_handshake_timeout(self) -> None:
        self._fail_opening(TimeoutError("the TLS handshake took too long"))

    def _finish_opening(self) -> None:
        self._forget_timer()
        super()._finish_opening()
        if not self._closed and self._engine.holds_input:
            self._fill()  # left over by who had the socket before; its descriptor tells nothing

    def _close_now(self) -> None:
        self._forget_timer()
        super()._close_now()

    def _forget_timer(self) -> None:
        timer, self._handshake_timer = self._handshake_timer, None
        if timer is not None:
            self._use_reactor().remove_timeout(timer)
