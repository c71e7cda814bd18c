"""The two engines of TLS, which look the same to a stream.

`MemoryTLSSocket`, in `_tlsmemory`, is used wherever this package begins TLS itself. It limits the
work for one event, whatever records a peer sends.

`SocketEngine` is for an `ssl.SSLSocket` that the caller made. OpenSSL receives from its descriptor
itself, so there the number of records without application data cannot be limited.
"""

from __future__ import annotations

import socket as _socket
import ssl
import threading
from abc import ABC, abstractmethod
from typing import Any, TypeGuard

RECORD = 16 * 1024
"""The plain text of one TLS record, at most, in bytes (RFC 8446, section 5.1)."""
HEADER = 5
"""Bytes before the body of a record: its type, version and length."""
CHUNK = 4 * (HEADER + RECORD + 256)
"""Bytes received at a time: four records, also if they are full."""
WORK = 128
"""Work for one event. A record of application data is 1."""
LOOK_AHEAD = 64 * 1024
"""Bytes of plain text received, after a write has failed, to find the alert that says why."""
HIDDEN = {
    *("dup", "makefile", "read", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg"),
    *("recvmsg_into", "sendall", "sendfile", "sendmsg", "sendto", "unwrap", "write"),
}
"""Methods of a socket or of an `ssl.SSLObject` that would bypass an engine."""

_local = threading.local()


def scratch_memory() -> memoryview:
    """Memory to receive into, one piece a thread. It is used up before anything else runs."""
    try:
        scratch: memoryview = _local.scratch
    except AttributeError:
        scratch = _local.scratch = memoryview(bytearray(CHUNK))
    return scratch


class TLSEngine(ABC):
    """TLS over a non-blocking socket.

    Attributes:
        holds_input: Whether there may be something to read that the descriptor does not tell.
        holds_output: Whether there are records that the socket has not taken.
        negotiated_protocol: See `ssl.SSLSocket.selected_alpn_protocol`; once `remember` was called.
    """

    __slots__ = ("_certificates", "_early", "_end", "_work", "negotiated_protocol")

    holds_input: bool
    holds_output: bool

    def __init__(self) -> None:
        self._early = b""  # plain text received before anybody has asked for it
        self._end: int | OSError | None = None  # what came behind that: 0 is a clean end
        self._work = WORK
        self._certificates: tuple[Any, Any] = (None, None)
        self.negotiated_protocol: str | None = None

    def renew(self) -> None:
        """Allow the work of another event."""
        self._work = WORK

    def read_into(self, buffer: memoryview) -> int | None:
        """Receive plain text.

        Args:
            buffer: Where to put it. It must take a whole record, `RECORD` bytes.

        Returns:
            How many bytes; zero at the end that the peer announced; `None` if nothing is there
            yet, or the work allowed for this event is done.

        Raises:
            ssl.SSLWantWriteError: If something must be sent first.
            OSError: If the connection is broken, or was cut off (`ssl.SSLEOFError`).
        """
        if not self._early and self._end is None:
            received = self._read_records(buffer)
            if received or self._end is None:
                return received or None
        if self._early:
            size = min(len(buffer), len(self._early))
            buffer[:size] = self._early[:size]
            self._early = self._early[size:]
            return size
        end, self._end = self._end, None
        if not isinstance(end, OSError):
            return 0
        try:
            raise end
        finally:
            del end  # its traceback refers to this frame

    def at_end(self) -> bool:
        """Whether the next `read_into` tells of the end."""
        return self._end is not None and not self._early

    def reason_of(self, error: OSError) -> OSError:
        """Say why sending failed: by the peer's alert if it has arrived, else by `error`.

        What is received before the alert, or is no alert, is kept for `read_into`.
        """
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return error
        buffer = memoryview(bytearray(RECORD))
        while self._end is None and len(self._early) < LOOK_AHEAD:
            self.renew()
            try:
                received = self._read_records(buffer)
            except ssl.SSLWantWriteError:
                break
            if not received:
                break
            self._early += buffer[:received]
        end = self._end
        if isinstance(end, ssl.SSLError) and "ALERT" in (end.reason or ""):
            return end
        return error

    @abstractmethod
    def _read_records(self, buffer: memoryview) -> int:
        """Receive plain text; note the end if it comes behind it."""

    @abstractmethod
    def do_handshake(self) -> None:
        """See `ssl.SSLSocket.do_handshake`."""

    @abstractmethod
    def send(self, data: memoryview) -> int:
        """See `ssl.SSLSocket.send`; after `SSLWantWriteError`, the same bytes must come again."""

    def flush(self) -> None:  # noqa: B027
        """Send what waits of the records that TLS itself wanted sent.

        If sending fails, the next operation that sends says so.
        """

    @abstractmethod
    def close_notify(self) -> None:
        """Send the close_notify alert of each layer of TLS, the innermost first.

        Raises:
            ssl.SSLWantWriteError: If it must be called again, once the socket is writable.
            OSError: If the connection is broken.
        """

    @abstractmethod
    def shut_down(self) -> None:
        """End the sending side of the connection that carries everything."""

    @abstractmethod
    def discard(self) -> bool:
        """Receive a chunk of what still arrives, whatever it is; whether there was anything."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor, for the reactor."""

    @abstractmethod
    def close(self) -> None:
        """Close the socket beneath."""

    @abstractmethod
    def _tls_object(self) -> ssl.SSLObject | ssl.SSLSocket:
        """The object of `ssl` that has the result of the handshake."""

    def remember(self) -> None:
        """Note what the handshake has found out, which OpenSSL forgets after an error."""
        tls = self._tls_object()
        self._certificates = tls.getpeercert(), tls.getpeercert(True)
        self.negotiated_protocol = tls.selected_alpn_protocol()

    def peer_certificate(self, binary: bool) -> Any:
        """See `ssl.SSLSocket.getpeercert`; after `remember`, also when all is over."""
        try:
            # It may have been shown later, after ssl.SSLSocket.verify_client_post_handshake.
            return self._tls_object().getpeercert(binary)
        except (AttributeError, OSError, ValueError):  # it is closed, or there was an error
            return self._certificates[binary]


class SocketEngine(TLSEngine):
    """An `ssl.SSLSocket` that the caller made.

    Args:
        socket: The socket. It is made to tell of connections that were cut off.
    """

    __slots__ = ("socket",)

    def __init__(self, socket: ssl.SSLSocket) -> None:
        super().__init__()
        socket.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        self.socket = socket

    def __getattr__(self, name: str) -> Any:
        if name in HIDDEN or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return getattr(self.socket, name)

    @property
    def holds_input(self) -> bool:  # type: ignore[override]
        return bool(self._early) or self._end is not None or self.socket.pending() > 0

    @property
    def holds_output(self) -> bool:  # type: ignore[override]
        return False

    def fileno(self) -> int:
        return self.socket.fileno()

    def _read_records(self, buffer: memoryview) -> int:
        received = 0
        try:
            while self._end is None and self._work > 0 and len(buffer) - received >= RECORD:
                size = self.socket.recv_into(buffer[received:])
                received += size
                self._work -= 1
                if not size:
                    self._end = 0
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            if not received:
                raise
        except OSError as error:
            self._end = error.with_traceback(None)
        return received

    def do_handshake(self) -> None:
        self.socket.do_handshake()

    def send(self, data: memoryview) -> int:
        return self.socket.send(data)

    def close_notify(self) -> None:
        try:
            self.socket.unwrap()
        except ssl.SSLWantWriteError:
            raise
        except (ssl.SSLError, ValueError):
            pass  # it is sent; what was received instead of the peer's alert does not matter

    def shut_down(self) -> None:
        # As a plain socket: ssl.SSLSocket would forget what was agreed on.
        _socket.socket.shutdown(self.socket, _socket.SHUT_WR)

    def discard(self) -> bool:
        return bool(_socket.socket.recv_into(self.socket, scratch_memory()))

    def close(self) -> None:
        self.socket.close()

    def _tls_object(self) -> ssl.SSLSocket:
        return self.socket


def is_kernels(socket: Any) -> TypeGuard[_socket.socket]:
    """Whether a socket's methods are the kernel's, and not those of one that stands for it."""
    kind: Any = type(socket)
    return all(
        getattr(kind, name, None) is getattr(_socket.socket, name)
        for name in ("recv", "recv_into", "send")
    )
