"""The two engines of TLS, which look the same to a stream.

`MemoryTLSSocket` encrypts in memory, over anything that has a socket's methods, and can be given
bytes that were received before it was made. It is used wherever this package begins TLS itself. It
gives OpenSSL one record at a time, and a limited number of them for one event: OpenSSL's `SSL_read`
returns only when it has application data or no more input, so a peer that sends nothing but
KeyUpdate records, say, would otherwise keep the event loop for as long as it likes.

`SocketEngine` is for an `ssl.SSLSocket` that the caller made. OpenSSL receives from its descriptor
itself, so there the number of records without application data cannot be limited.
"""

from __future__ import annotations

import contextlib
import socket as _socket
import ssl
import threading
from abc import ABC, abstractmethod
from typing import Any, TypeAlias, TypeGuard

RECORD = 16 * 1024
"""The plain text of one TLS record, at most, in bytes (RFC 8446, section 5.1)."""
HEADER = 5
"""Bytes before the body of a record: its type, version and length."""
CHUNK = 4 * (HEADER + RECORD + 256)
"""Bytes received at a time: four records, also if they are full."""
BATCH = RECORD * 3
WORK = 128
"""Work for one event. A record of application data is 1."""
OVERHEAD = 8
"""The work of a record without application data. A KeyUpdate takes OpenSSL 7 to 15 microseconds,
a full record of application data 6; no peer needs more than a few of the former in a row.
"""
OUTPUT_LIMIT = 64 * 1024
"""Bytes of TLS's own records waiting to be sent above which nothing is received, since a peer can
ask for an answer to each KeyUpdate and not receive it.
"""
LOOK_AHEAD = 64 * 1024
"""Bytes of plain text received, after a write has failed, to find the alert that says why."""

_TYPES = range(20, 25)
_LONGEST_BODY = RECORD + 2048  # RFC 5246, section 6.2.3; TLS 1.3 allows fewer
_BYTES = {
    *("dup", "makefile", "read", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg"),
    *("recvmsg_into", "sendall", "sendfile", "sendmsg", "sendto", "unwrap", "write"),
}
"""Methods of a socket or of an `ssl.SSLObject` that would bypass the engine."""

_IS_FULL = "the socket takes no more"
_IS_EMPTY = "nothing has come yet"
_NOTHING = memoryview(b"")
_local = threading.local()


def _scratch() -> memoryview:
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
        """What knows of the handshake."""

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


class MemoryTLSSocket(TLSEngine):
    """TLS in memory, over a socket or over another engine.

    What can be asked of an `ssl.SSLSocket` or a socket can be asked of it: certificates, ciphers,
    addresses, options.

    Args:
        raw: What carries the records: a non-blocking socket, or an engine.
        context: The TLS context.
        server_side: Whether this is the server's side.
        server_hostname: The name that the server must prove.
        received: Bytes from the peer that were received already.
    """

    __slots__ = (
        *(
            "_alert_made",
            "_carrier",
            "_drained",
            "_incoming",
            "_input",
            "_missing",
            "_outgoing",
            "_plain",
        ),
        *("_promised", "_start", "_tls", "_unfed", "_unsent", "raw"),
    )

    def __init__(
        self,
        raw: Any,
        context: ssl.SSLContext,
        server_side: bool = False,
        server_hostname: str | None = None,
        received: bytes = b"",
    ) -> None:
        super().__init__()
        self.raw = raw
        self._carrier = raw if isinstance(raw, TLSEngine) else None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._input: bytes | memoryview = received  # records that TLS has not been given
        self._start = 0  # how much of that it has been given
        self._plain = 0  # bytes of plain text, at most, in the record that it was given last
        self._missing = 0  # bytes of the record of which it has been given a part
        self._drained = False  # whether the socket beneath has nothing more for now
        self._unfed = True  # whether TLS has used up what it was given
        self._unsent = _NOTHING  # records that the socket beneath has not taken
        self._promised = 0  # bytes of plain text in there that send() has not confirmed
        self._alert_made = False
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )

    def __getattr__(self, name: str) -> Any:
        if name not in _BYTES and not name.startswith("_"):
            for owner in (self._tls, self.raw):
                if hasattr(owner, name):
                    return getattr(owner, name)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def fileno(self) -> int:
        descriptor: int = self.raw.fileno()
        return descriptor

    def close(self) -> None:
        self.raw.close()

    def _tls_object(self) -> ssl.SSLObject:
        return self._tls

    def renew(self) -> None:
        self._work = WORK
        if self._carrier is not None:
            self._carrier.renew()

    @property
    def holds_input(self) -> bool:  # type: ignore[override]
        return (
            not self._unfed
            or len(self._input) - self._start >= (1 if self._missing else HEADER)
            or self._end is not None
            or bool(self._early)
            or (self._carrier is not None and self._carrier.holds_input)
        )

    @property
    def holds_output(self) -> bool:  # type: ignore[override]
        return bool(self._unsent or self._outgoing.pending)

    # Receiving

    def _read_records(self, buffer: memoryview) -> int:
        received, room, read = 0, len(buffer), self._tls.read
        self._drained = False
        try:
            while received < room and self._work > 0 and self._end is None:
                left = room - received
                if self._unfed and not self._feed(left):
                    break
                if self._plain > left:
                    break  # it might not fit
                try:
                    size: Any = read(left, buffer[received:] if received else buffer)
                except ssl.SSLWantReadError:  # a record without application data
                    self._unfed = True
                    self._work -= OVERHEAD
                    self.flush()
                    continue
                received += size
                self._work -= 1
                self._unfed = not self._incoming.pending and (
                    size < left or not self._tls.pending()
                )
                if not size:
                    self._end = 0
        except ssl.SSLWantWriteError:
            if not received:
                raise
        except OSError as error:
            self._end = error.with_traceback(None)
            self._unfed = True
            self.flush()  # the alert that says why
        finally:
            if self._input:
                self._keep_input()
        return received

    def _keep_input(self) -> None:
        """Copy what is left in the memory that all engines of the thread receive into."""
        if type(self._input) is memoryview:
            self._input = bytes(self._input[self._start :])
            self._start = 0

    def _feed(self, room: int = CHUNK) -> bool:
        """Give TLS the next record. False if it has not arrived as a whole.

        Args:
            room: Bytes of plain text that can be taken. No more is received than that, so that
                records are left in the kernel, where the reactor sees them.
        """
        while True:
            data, start, size = self._input, self._start, self._missing
            available = len(data) - start
            if not size and available >= HEADER:
                size = data[start + 3] << 8 | data[start + 4]
                self._plain = min(size, RECORD)
                is_tls = data[start] in _TYPES and size <= _LONGEST_BODY
                size = HEADER + size if is_tls else available  # of which OpenSSL will complain
            if 0 < size < available:
                self._incoming.write(data[start : start + size])
                self._start = start + size
                self._missing = 0
                self._unfed = False
                return True
            if size and available:
                self._incoming.write(data[start:] if start else data)
                self._input, self._start = b"", 0
                self._missing = size - available
                if size == available:
                    self._unfed = False
                    return True
            if self._drained or not self._receive(room):
                return False
            if not self._unfed:
                return True  # it is the end

    def _receive(self, room: int) -> bool:
        """Take what the socket beneath has. False if that is nothing."""
        if self._outgoing.pending > OUTPUT_LIMIT:
            self._flush_answers()
        rest = bytes(self._input[self._start :]) if self._input else b""  # less than a header
        carrier = self._carrier  # which receives into the common memory itself
        target = _scratch() if carrier is None else memoryview(bytearray(CHUNK))
        if room < CHUNK and carrier is None:
            target = target[:room]
        try:
            size = self.raw.recv_into(target) if carrier is None else carrier.read_into(target)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            size = None
        if size is None:
            self._drained = True
            return False
        self._drained = size < len(target)
        self._input, self._start = target[:size], 0
        if rest:
            self._input = rest + self._input
        if not size:
            self._end_input()
        return True

    def _flush_answers(self) -> None:
        """Send what TLS itself wants sent, or drop it if nothing can be sent any more."""
        try:
            self._flush()
        except ssl.SSLWantWriteError:
            raise
        except OSError:  # which whoever sends is told; reading goes on
            self._outgoing.read()

    def _end_input(self) -> None:
        """Have TLS notice that the socket beneath has come to its end."""
        if not self._incoming.eof:
            self._incoming.write(self._input)
            self._incoming.write_eof()
        self._input = b""
        self._unfed = False

    # Sending

    def do_handshake(self) -> None:
        self._drained = False
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    self.flush()  # the alert that says why
                    raise
                else:
                    self._unfed = not self._incoming.pending
                    self.flush()
                    return
                self._flush()
                if self._work <= 0 or not self._feed():
                    raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, _IS_EMPTY)
                self._unfed = True
                self._work -= OVERHEAD
        finally:
            self._keep_input()

    def send(self, data: memoryview) -> int:
        if self._unsent or self._outgoing.pending:
            self._flush()
        sent, self._promised = self._promised, 0
        if sent:
            return sent
        try:
            sent = self._tls.write(data if len(data) <= RECORD else data[:RECORD])
        except ssl.SSLWantReadError:
            self._go_on()
            return self.send(data)
        records = self._outgoing.read()
        if len(data) > RECORD:
            more, records = self._write_more(data[sent : sent + BATCH], records)
            sent += more
        taken = 0
        try:
            taken = self.raw.send(records)
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, _IS_FULL) from None
        finally:
            if taken < len(records):
                self._unsent, self._promised = memoryview(records)[taken:], sent
        if self._unsent:
            self._flush()
            self._promised = 0
        return sent

    def _write_more(self, data: memoryview, records: bytes) -> tuple[int, bytes]:
        """Encrypt several records, to send them together."""
        sent, parts = 0, [records]
        while sent < len(data):
            sent += self._tls.write(data[sent : sent + RECORD])
            parts.append(self._outgoing.read())
        return sent, b"".join(parts)

    def _go_on(self) -> None:
        """Go on with a handshake that the peer has begun (TLS 1.2)."""
        self._drained = False
        try:
            self._flush()
            if self._work <= 0 or not self._feed():
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, _IS_EMPTY)
            self._work -= OVERHEAD
        finally:
            self._keep_input()

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self.raw.send(self._unsent)
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                sent = 0
            # An empty view would keep all of it in memory.
            self._unsent = self._unsent[sent:] if sent < len(self._unsent) else _NOTHING
            if sent == 0:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, _IS_FULL)

    # The end

    def close_notify(self) -> None:
        if not self._alert_made:
            self._alert_made = True
            with contextlib.suppress(ssl.SSLError):  # the peer's alert is not waited for
                self._tls.unwrap()
        self._flush()
        if self._carrier is not None:
            self._carrier.close_notify()

    def shut_down(self) -> None:
        if self._carrier is None:
            self.raw.shutdown(_socket.SHUT_WR)
        else:
            self._carrier.shut_down()

    def discard(self) -> bool:
        if self._carrier is None:
            return bool(self.raw.recv_into(_scratch()))
        return self._carrier.discard()


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
        if name in _BYTES or name.startswith("_"):
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
        return bool(_socket.socket.recv_into(self.socket, _scratch()))

    def close(self) -> None:
        self.socket.close()

    def _tls_object(self) -> ssl.SSLSocket:
        return self.socket


TLSSocket: TypeAlias = ssl.SSLSocket | MemoryTLSSocket


def engine_over(socket: Any) -> TLSEngine:
    """Give the engine of a socket of TLS."""
    return SocketEngine(socket) if isinstance(socket, ssl.SSLSocket) else socket


def is_kernels(socket: _socket.socket | MemoryTLSSocket) -> TypeGuard[_socket.socket]:
    """Whether a socket's methods are the kernel's, and not those of one that stands for it."""
    kind: Any = type(socket)
    return all(
        getattr(kind, name, None) is getattr(_socket.socket, name)
        for name in ("recv", "recv_into", "send")
    )
