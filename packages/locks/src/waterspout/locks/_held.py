"""What locks and semaphores have in common: being held for the length of a block."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self


class Held:
    """Held for the length of an `async with` block."""

    __slots__ = ("__weakref__",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have a block take and give it as the class says, where that was overridden.

        Classes take short cuts in `__aenter__` and `__aexit__`.
        """
        super().__init_subclass__(**kwargs)
        for name, block in (("acquire", "__aenter__"), ("release", "__aexit__")):
            if name in vars(cls) and block not in vars(cls):
                setattr(cls, block, getattr(Held, block))

    async def acquire(self) -> bool:
        """Take it."""
        raise NotImplementedError(type(self).__name__)

    def release(self) -> None:
        """Give it back."""
        raise NotImplementedError(type(self).__name__)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.release()
