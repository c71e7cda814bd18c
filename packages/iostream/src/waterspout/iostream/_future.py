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
from collections.abc import Callable, Generator
from typing import Any, TypeVar

R = TypeVar("R")


class ReadFuture(asyncio.Future[R]):
    """The result of a pending read.

    Args:
        loop: The loop of the stream.
        on_settled: Called once the gap after the result has closed, with the result and whether
            it goes back.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_settled: Callable[[R, bool], object]
    ) -> None:
        super().__init__(loop=loop)
        self._on_settled: Callable[[R, bool], object] | None = on_settled
        self._awaiting = 0
        self._returned = False

    def has_gap(self) -> bool:
        """Whether it has a result that a task suspended in an `await` of it is to take.

        To be asked once it is done; if it has none, it lets go of the read.
        """
        if self._awaiting > 0 and not self.cancelled() and self.exception() is None:
            return True
        self._on_settled = None
        return False

    def __await__(self) -> Generator[Any, None, R]:
        if not self.done():
            self._awaiting += 1
            self._asyncio_future_blocking = True  # how a task knows that it is to wait for this
            try:
                yield self
            except BaseException:
                self._awaiting -= 1
                if self._awaiting == 0:
                    self._settle(returned=True)
                raise
            self._awaiting -= 1
            self._settle(returned=False)
        return self.result()

    __iter__ = __await__

    def result(self) -> R:
        """As for any future; but a result that was given back is gone (`CancelledError`)."""
        if self._returned:
            raise asyncio.CancelledError
        return super().result()

    def _settle(self, returned: bool) -> None:
        """Close the gap. The first task to resume decides, or else the last to be cancelled."""
        on_settled, self._on_settled = self._on_settled, None
        if on_settled is None or not self.done() or self.cancelled():
            return
        if self.exception() is None:
            result = super().result()
            self._returned = returned
            on_settled(result, returned)
