"""`ReadFuture`: the future of a read that had to wait.

A plain future loses its result when the task that awaits it is cancelled in the gap between the
result and the task's resumption. Bytes must not be lost, so this one notices: when its `await`
ends by an exception although there is a result that nobody has taken, it gives the bytes back to
the front of the stream's buffer. Until the gap has closed the stream starts no other read on the
buffer, so that no byte overtakes another.

A future that is kept, shielded, or has its `result()` taken elsewhere, is not awaited by a task
in that sense, and keeps its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from waterspout.iostream._receiving import ReceivingStream

R = TypeVar("R")

_result: Any = asyncio.Future.result


class PendingRead(asyncio.Future[R]):
    """The future of a read that waits: the stream is told at once of a cancellation.

    Attributes:
        stream: The stream; `None` when there is nothing to tell it any more.
    """

    __slots__ = ("stream",)

    stream: ReceivingStream | None

    def cancel(self, msg: Any = None) -> bool:
        """As for any future; the stream is told at once."""
        if not super().cancel(msg):
            return False
        stream, self.stream = self.stream, None
        assert stream is not None, "it has one while it waits"
        stream._read_cancelled()
        return True


class ReadFuture(PendingRead[R]):
    """A pending read that gives its result back if the task that awaits it does not get it.

    Attributes:
        awaiting: How many tasks await it.
        returned: Whether its result was given back.
    """

    __slots__ = ("awaiting", "returned")

    awaiting: int
    returned: bool

    def __await__(self) -> Generator[Any, None, R]:
        if not self.done():
            self.awaiting += 1
            self._asyncio_future_blocking = True  # how a task knows that it is to wait for this
            try:
                yield self
            except BaseException:
                self.awaiting -= 1
                if self.awaiting == 0:
                    self._settle(returned=True)
                del self  # its exception's traceback will have this frame: no cycles
                raise
            self.awaiting -= 1
            stream = self.stream
            if stream is not None and stream._read is None:  # as `_settle`, in fewer steps
                self.stream = stream._gap = None
            else:
                self._settle(returned=False)
        if self.returned:
            raise asyncio.CancelledError
        try:
            result: R = _result(self)
        finally:
            del self  # as above
        return result

    __iter__ = __await__

    def result(self) -> R:
        """As for any future; but a result that was given back is gone (`CancelledError`)."""
        if self.returned:
            raise asyncio.CancelledError
        try:
            result: R = _result(self)
        finally:
            del self  # as above; a task that wakes up calls this
        return result

    def _settle(self, returned: bool) -> None:
        """Close the gap. The first task to resume decides, or else the last to be cancelled."""
        stream = self.stream
        if stream is None or not self.done():
            return
        self.stream = None
        self.returned = returned
        stream._settled(_result(self), returned)
