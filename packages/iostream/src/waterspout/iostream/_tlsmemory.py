"""`MemoryTLSSocket`: TLS in memory, one record at a time.

OpenSSL's `SSL_read` returns only when it has application data or no more input. A peer that sends
nothing but KeyUpdate records, say, would keep the event loop for as long as it likes. So the
records are received here and given to OpenSSL one by one, and a limited number for one event.
"""

from __future__ import annotations

import contextlib
import socket as _socket
import ssl
from typing import Any

from waterspout.iostream._tlsengines import (
    CHUNK,
    HEADER,
    HIDDEN,
    RECORD,
    WORK,
    TLSEngine,
    scratch_memory,
)

BATCH = 3 * RECORD
"""Bytes encrypted behind a first record, to send them together."""
OVERHEAD = 8
"""The work of a record without application data. A KeyUpdate takes OpenSSL 7 to 15 microseconds,
a full record of application data 6; no peer needs more than a few of the former in a row.
"""
OUTPUT_LIMIT = 64 * 1024
"""Bytes of TLS's own records waiting to be sent above which nothing is received, since a peer can
ask for an answer to each KeyUpdate and not receive it.
"""

_TYPES = range(20, 25)
_LONGEST_BODY = RECORD + 2048  # RFC 5246, section 6.2.3; TLS 1.3 allows fewer
_IS_FULL = "the socket takes no more"
_IS_EMPTY = "nothing has come yet"
_NOTHING = memoryview(b"")


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
        "_alert_made",
        "_carrier",
        "_drained",
        "_incoming",
        "_input",
        "_missing",
        "_outgoing",
        "_plain",
        "_promised",
        "_start",
        "_tls",
        "_unfed",
        "_unsent",
        "raw",
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
        self.raw: Any = raw
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
        if name not in HIDDEN and not name.startswith("_"):
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
        target = scratch_memory() if carrier is None else memoryview(bytearray(CHUNK))
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
            return bool(self.raw.recv_into(scratch_memory()))
        return self._carrier.discard()
