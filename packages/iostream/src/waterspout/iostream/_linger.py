"""Closing a TLS connection in good order.

Closing a socket that has unread bytes makes the kernel reset the connection, and what was sent and
has not arrived is lost with it. A TLS 1.3 server sends session tickets of its own accord, so a
client that writes and closes is in that danger without having done anything wrong. And a
close_notify alert that the kernel does not take at once would leave the peer believing that bytes
were cut off.

So a TLS socket is closed in the background: the alert is sent, the innermost layer's first where
TLS runs inside of TLS, then the sending side is shut down, and what comes is thrown away until the
peer has closed, or `LINGER_SECONDS` are over.
"""

from __future__ import annotations

import contextlib
import ssl
import weakref

from waterspout.ioloop.scheduling import READ, WRITE, Reactor, TimeoutHandle
from waterspout.iostream._tlsengines import TLSEngine

LINGER_SECONDS = 5.0
"""How long the peer has to take what is left."""
DISCARDS = 16
"""Chunks thrown away before the loop gets its turn."""


class Linger:
    """Closes a TLS connection whose handshake is done, in good order and in a bounded time.

    Args:
        reactor: Where it runs. If the reactor's loop ends first, the socket is just closed.
        engine: The connection; it is its own from now on.

    Raises:
        Exception: What the reactor raised; the socket is closed then.
    """

    def __init__(self, reactor: Reactor, engine: TLSEngine) -> None:
        self._reactor = reactor
        self._engine = engine
        self._discarding = False
        self._watched = 0
        self._timer: TimeoutHandle = None
        # When the loop has ended, this object is garbage in a cycle with it, and an open socket in
        # there would complain.
        self._last_resort = weakref.finalize(self, engine.close)
        self._last_resort.atexit = False
        try:
            self._go_on()
            if self._last_resort.alive:
                self._timer = reactor.call_later(LINGER_SECONDS, self.close)
        except BaseException:
            self.close()
            raise

    def _go_on(self) -> None:
        try:
            if not self._discarding:
                self._engine.close_notify()
                self._engine.shut_down()
                self._discarding = True
            for _ in range(DISCARDS):
                if not self._engine.discard():
                    self.close()
                    return
        except ssl.SSLWantWriteError:
            self._watch(WRITE)
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
        self._go_on()

    def fileno(self) -> int:
        """The descriptor, for the reactor."""
        return self._engine.fileno()

    def close(self) -> None:
        """Wait no longer."""
        if self._watched:
            with contextlib.suppress(KeyError):
                self._reactor.remove_handler(self)
        if self._timer is not None:
            self._reactor.remove_timeout(self._timer)
        self._last_resort()
