"""What can go wrong with a stream."""

from __future__ import annotations

import pickle
from typing import Any, Self


class StreamClosedError(OSError):
    """The stream is closed, or its other end is, and the operation cannot be done any more.

    Args:
        real_error: What closed it; `None` for a clean end.
        partial: What had arrived for the read that failed. It is a copy: the bytes can still be
            read, with `partial=True`.

    Attributes:
        real_error: What closed the stream; `None` where the other end closed it in good order.
            When the exception comes from another process, an error that cannot be pickled is
            represented by an `Exception` with its text.
        partial: What had arrived for the read that failed.
    """

    def __init__(self, real_error: BaseException | None = None, *, partial: bytes = b"") -> None:
        reason = "closed by the other end" if real_error is None else f"{real_error!r}"
        super().__init__(f"stream is closed: {reason}")
        self.real_error = real_error
        self.partial = partial

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, the class would be called with the message.
        state = vars(self) | {"real_error": _picklable(self.real_error)}
        return _restore, (type(self), self.args), state

    def __copy__(self) -> Self:
        copied: Self = _restore(type(self), self.args)
        vars(copied).update(vars(self))
        return copied


def _restore(cls: type[StreamClosedError], args: tuple[Any, ...]) -> Any:
    error = cls.__new__(cls)
    error.args = args
    return error


def _picklable(error: BaseException | None) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)
    except Exception:
        return Exception(repr(error))
    return error


class UnsatisfiableReadError(Exception):
    """What a read looks for does not come within its `max_bytes`.

    The stream stays open, with every byte still to be read.
    """


class StreamBufferFullError(Exception):
    """A read or write is larger than the stream's buffer may become.

    The stream stays open; a read leaves every byte to be read, and of a write nothing is sent.
    """
