"""The two engines of TLS, which look the same from above.

`ssl.SSLSocket` encrypts straight into and out of a kernel's socket; no bytes are copied through
memory. `MemoryTLSSocket` does it in memory, over anything that has a socket's methods, and can be
given bytes that were received before it came.
"""

from __future__ import annotations

import contextlib
import socket as _socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

RECORD = 16 * 1024
"""The plain text of one TLS record, at most, in bytes (RFC 8446, section 5.1)."""
_BYTES = {"recvfrom", "recv_into", "sendall", "sendto", "write"}
"""What would go past the engine, or past the socket."""
CHUNK = 64 * 1024
"""Bytes received at a time."""


class MemoryTLSSocket:
    """An `ssl.SSLSocket` over an object that is no kernel's socket.

    Its methods do and raise what those of a non-blocking `ssl.SSLSocket` do that was made with
    `suppress_ragged_eofs=False`.

    Attributes:
        holds_input: Whether there may be bytes to read that the descriptor tells nothing of.

    Args:
        raw: What carries the records: a non-blocking socket, or what has its methods.
        context: The TLS context.
        server_side: Whether this is the server's side.
        server_hostname: The name that the server must prove.
        received: Bytes from the other side that were received already.
    """

    def __init__(
        self,
        raw: Any,
        context: ssl.SSLContext,
        server_side: bool = False,
        server_hostname: str | None = None,
        received: bytes = b"",
    ) -> None:
        self.raw = raw
        self.holds_input: bool = bool(received)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._incoming.write(received)
        self._unsent = memoryview(b"")  # records that the raw socket has not taken
        self._promised = 0  # bytes of plain text in there that send() has not owned to
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )

    def __getattr__(self, name: str) -> Any:
        # What a socket or a TLS connection is asked about: addresses, options, certificates.
        if name not in _BYTES and "_tls" in vars(self):
            for owner in (self._tls, self.raw):
                if hasattr(owner, name):
                    return getattr(owner, name)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def fileno(self) -> int:
        """The descriptor, for the reactor to watch."""
        descriptor: int = self.raw.fileno()
        return descriptor

    def close(self) -> None:
        """Close the socket beneath."""
        self.raw.close()

    def do_handshake(self) -> None:
        """See `ssl.SSLSocket.do_handshake`."""
        self._call(self._tls.do_handshake)

    def read(self, size: int, buffer: memoryview) -> int:
        """See `ssl.SSLSocket.read`; zero is the end that the other side announced."""
        size = self._read(buffer[:size])
        self.holds_input = bool(
            self._incoming.pending
            or self._tls.pending()
            or (isinstance(self.raw, MemoryTLSSocket) and self.raw.holds_input)
        )
        return size

    def recv(self, size: int) -> bytes:
        """See `ssl.SSLSocket.recv`."""
        buffer = bytearray(size)
        return bytes(buffer[: self.read(size, memoryview(buffer))])

    def send(self, data: memoryview) -> int:
        """See `ssl.SSLSocket.send`; after `SSLWantWriteError`, the same bytes must come again."""
        self._flush()
        if not self._promised:
            self._promised = self._tls.write(data[:RECORD])
            self._flush()
        sent, self._promised = self._promised, 0
        return sent

    def unwrap(self) -> None:
        """See `ssl.SSLSocket.unwrap`; the other side's alert is not waited for twice."""
        self._call(self._tls.unwrap)

    def holds_output(self) -> bool:
        """Whether there are records that the socket beneath has not taken."""
        return bool(self._unsent or self._outgoing.pending)

    def flush(self) -> None:
        """Send what is left of the records that TLS itself wanted sent, as far as it goes.

        Where sending fails, whoever sends next is told.
        """
        with contextlib.suppress(OSError):
            self._flush()

    def _read(self, buffer: memoryview) -> int:
        while True:
            try:
                size: Any = self._tls.read(len(buffer), buffer)
            except ssl.SSLWantReadError:
                self._receive()  # whatever waits to be sent: the other end may be waiting, too
            else:
                return int(size)
            finally:
                self.flush()

    def _call(self, operation: Callable[[], object]) -> None:
        """Do something that takes turns, with records received and sent for it as need be."""
        while True:
            try:
                operation()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            except ssl.SSLError:
                self.flush()  # the alert that says why
                raise
            else:
                self.flush()
                return

    def _receive(self) -> None:
        try:
            received = self.raw.recv(CHUNK)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self.holds_input = False
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing has come yet") from None
        if received:
            self._incoming.write(received)
            self.holds_input = True  # perhaps more than what it was received for
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        while self.holds_output():
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self.raw.send(self._unsent)
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                sent = 0
            self._unsent = self._unsent[sent:]
            if sent == 0:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the socket takes no more")


TLSSocket: TypeAlias = ssl.SSLSocket | MemoryTLSSocket


def wrap(
    socket: _socket.socket | MemoryTLSSocket,
    context: ssl.SSLContext,
    server_side: bool,
    server_hostname: str | None,
    received: bytes = b"",
) -> TLSSocket:
    """Put the engine over a connected socket that suits it, and bytes that came before it."""
    if is_kernels(socket) and not received:
        return context.wrap_socket(
            socket,
            server_side=server_side,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            server_hostname=server_hostname,
        )
    return MemoryTLSSocket(socket, context, server_side, server_hostname, received)


def unwrapped(socket: TLSSocket) -> _socket.socket:
    """Give the plain socket beneath; the other is not to be used any more."""
    if isinstance(socket, MemoryTLSSocket):
        plain: _socket.socket = socket.raw
        return plain
    left = _socket.socket(fileno=socket.detach())
    left.setblocking(False)
    return left


def is_kernels(socket: _socket.socket | MemoryTLSSocket) -> TypeGuard[_socket.socket]:
    """Whether a socket's methods are the kernel's, and not those of one that stands for it."""
    kind: Any = type(socket)
    return all(
        getattr(kind, name, None) is getattr(_socket.socket, name)
        for name in ("recv", "recv_into", "send")
    )
