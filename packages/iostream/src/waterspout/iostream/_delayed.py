"""`DelayedAttempt`: when a read that has searched enough for its size searches again.

A regular expression cannot go on from where it stopped: each attempt looks at every byte. If it
were tried with each byte that arrives, n bytes that arrive one at a time would cost n * n steps. If
it were tried only when there are more bytes by some factor, a match whose last byte has arrived
could wait for ever. So a read attempts at once while it has looked at no more than `FREE_BYTES`
plus `SHARE` times the bytes that are there (see `_reads`); after that its attempts are delayed:

-   until nothing has arrived for `QUIET_SECONDS`, and the time that `BYTES_PER_SECOND` takes for
    what is buffered;
-   if the bytes never pause, until `BUSY_SECONDS` and 16 times that time are over.

So the steps are at most a constant times the bytes, plus `BYTES_PER_SECOND` times the seconds; and
a match is found 2 ms after its last byte, plus 31 ms for each MiB that is buffered, or if other
bytes follow all the time, after 50 ms plus 0.5 s for each MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from waterspout.iostream._receiving import ReceivingStream

QUIET_SECONDS = 0.002
BUSY_SECONDS = 0.05
BUSY_FACTOR = 16
BYTES_PER_SECOND = 32 * 1024 * 1024


class DelayedAttempt:
    """An attempt of a stream's pending read that is to be made a little later.

    Args:
        stream: The stream.
        size: How many bytes it has buffered.

    Attributes:
        postponed: Whether bytes have arrived since the timer started.

    Raises:
        Exception: If the reactor refuses the timer.
    """

    __slots__ = ("_delay", "_latest", "_reactor", "_stream", "_timer", "postponed")

    def __init__(self, stream: ReceivingStream, size: int) -> None:
        self._stream = stream
        self._reactor = reactor = stream._use_reactor()
        seconds = size / BYTES_PER_SECOND
        self._delay = QUIET_SECONDS + seconds
        self._latest = reactor.time() + BUSY_SECONDS + BUSY_FACTOR * seconds
        self.postponed = False
        self._timer = reactor.call_later(self._delay, self._on_timer)

    def cancel(self) -> None:
        """Make no attempt."""
        self._reactor.remove_timeout(self._timer)

    def _on_timer(self) -> None:
        if self.postponed and self._reactor.time() < self._latest:
            self.postponed = False
            try:
                self._timer = self._reactor.call_later(self._delay, self._on_timer)
            except Exception as error:
                self._stream._break(error)
        else:
            self._stream._attempt_delayed()
