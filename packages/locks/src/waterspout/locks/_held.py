"""What locks and semaphores have in common: being held for the length of a block."""

from __future__ import annotations

from types import TracebackType


class Held:
    """Held for the length of an `async with` block."""

    __slots__ = ("__weakref__",)

    async def acquire(self) -> bool:
        """Take it."""
        raise NotImplementedError(type(self).__name__)

    def release(self) -> None:
        """Give it back."""
        raise NotImplementedError(type(self).__name__)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.release()
