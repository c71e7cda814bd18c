"""The last words on a TLS connection.

Closing a socket that has unread bytes makes the kernel reset the connection, and what was sent and
has not arrived is lost with it. A TLS 1.3 server sends session tickets of its own accord, so a
client that writes and closes is in that danger without having done anything wrong. And a
close_notify alert that the kernel does not take at once would leave the other end believing that
bytes were cut off.

So a TLS socket is closed in the background: the alert is sent, then the sending side is shut down,
and what comes is thrown away until the other end has closed, or `LINGER_SECONDS` are over.
"""

from __future__ import annotations

import contextlib
import socket as _socket
import ssl
import weakref
from typing import Any

from waterspout.ioloop.scheduling import READ, WRITE, Reactor, TimeoutHandle
from waterspout.iostream._tlsengines import TLSSocket, unwrapped

LINGER_SECONDS = 5.0
"""How long the other end has to take the last words."""


class Linger:
    """Closes a TLS socket whose handshake is done, in good order and in a bounded time.

    Args:
        reactor: Where it runs. If the reactor's loop ends first, the socket is just closed.
        socket: The socket; it is its own from now on.
    """

    def __init__(self, reactor: Reactor, socket: TLSSocket) -> None:
        self._reactor = reactor
        self._socket: TLSSocket | None = socket  # until the alert is sent
        self._plain: _socket.socket | None = None  # after that
        self._last_resort = self._closed_with_the_loop(socket)
        self._watched = 0
        self._timer: TimeoutHandle = None
        try:
            self._send_alert(socket)
            if self.fileno() >= 0:
                self._timer = reactor.call_later(LINGER_SECONDS, self.close)
        except BaseException:
            self.close()
            raise

    def _closed_with_the_loop(self, socket: TLSSocket | _socket.socket) -> Any:
        """Have a socket closed when the loop has ended, and with it the reason to wait.

        Then this object is garbage, in a cycle with its loop, and a socket in there would complain.
        """
        last_resort = weakref.finalize(self, socket.close)
        last_resort.atexit = False
        return last_resort

    def _send_alert(self, socket: TLSSocket) -> None:
        try:
            socket.unwrap()
        except ssl.SSLWantWriteError:
            self._watch(WRITE)
            return
        except ssl.SSLWantReadError:
            pass  # it is sent; the other end's is not waited for
        except (OSError, ValueError):
            self.close()
            return
        self._shut_down(socket)

    def _shut_down(self, socket: TLSSocket) -> None:
        """Say that nothing more will come, and from here on be just a plain socket."""
        try:
            socket.shutdown(_socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._socket = None
        self._last_resort.detach()
        self._plain = plain = unwrapped(socket)
        self._last_resort = self._closed_with_the_loop(plain)
        self._discard(plain)

    def _discard(self, plain: _socket.socket) -> None:
        try:
            for _ in range(16):
                if not plain.recv(65536):
                    self.close()
                    return
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch(READ)

    def _watch(self, events: int) -> None:
        if not self._watched:
            self._reactor.add_handler(self, self._on_events, events)
        elif self._watched != events:
            self._reactor.update_handler(self, events)
        self._watched = events

    def _on_events(self, source: Linger, events: int) -> None:
        if self._socket is not None:
            self._send_alert(self._socket)
        else:
            assert self._plain is not None
            self._discard(self._plain)

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        socket = self._plain if self._socket is None else self._socket
        return -1 if socket is None else socket.fileno()

    def close(self) -> None:
        """Wait no longer."""
        if self._watched:
            with contextlib.suppress(KeyError):
                self._reactor.remove_handler(self)
        if self._timer is not None:
            self._reactor.remove_timeout(self._timer)
        self._last_resort.detach()
        for socket in (self._socket, self._plain):
            if socket is not None:
                socket.close()
        self._socket = self._plain = None
