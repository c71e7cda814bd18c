"""What can go wrong with a stream."""

from __future__ import annotations

import copy
import traceback
from typing import Any


class StreamClosedError(OSError):
    """The stream is closed, or its other end is, and the operation cannot be done any more.

    Args:
        real_error: What closed it; `None` for a clean end.
        partial: What had arrived for the read that failed. It is a copy: the bytes can still be
            read, with `partial=True`.

    Attributes:
        real_error: What closed the stream; `None` where the other end closed it in good order.
        partial: What had arrived for the read that failed.
    """

    def __init__(self, real_error: BaseException | None = None, *, partial: bytes = b"") -> None:
        reason = "closed by the other end" if real_error is None else f"{real_error!r}"
        super().__init__(f"stream is closed: {reason}")
        self.real_error = real_error
        self.partial = partial

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.real_error, self.partial)


def _rebuild(
    cls: type[StreamClosedError], real_error: BaseException | None, partial: bytes
) -> StreamClosedError:
    return cls(real_error, partial=partial)


class UnsatisfiableReadError(Exception):
    """What a read looks for does not come within its `max_bytes`.

    The stream stays open, with every byte still to be read.
    """


class StreamBufferFullError(Exception):
    """A read or write is larger than the stream's buffer may become.

    The stream stays open; a read leaves every byte to be read, and of a write nothing is sent.
    """


_EXPLAIN_THEMSELVES = OSError, UnsatisfiableReadError, StreamBufferFullError


def without_frames(error: BaseException) -> BaseException:
    """Take the frames out of an exception that is to be kept.

    They refer to the stream or the future that keeps it, so that all of it, and the locals of
    whoever awaits, would wait for the garbage collector. The traceback of an unexpected exception,
    such as one of a subclass's `read_from_fd`, becomes a note.
    """
    if error.__traceback__ is not None and not isinstance(error, _EXPLAIN_THEMSELVES):
        error.add_note("".join(traceback.format_exception(error)))
    kept: BaseException | None = error
    while kept is not None and (kept.__traceback__ or kept.__context__):
        kept.__traceback__ = kept.__context__ = None
        kept = kept.__cause__
    return error


def reason_of(error: BaseException) -> BaseException | bool:
    """Give the reason to close a stream for, where an operation on it ends by an exception.

    It is a copy: the frames of the original, which is raised, refer to the stream.
    """
    reason = error.real_error if isinstance(error, StreamClosedError) else error
    if not isinstance(reason, Exception):
        return False
    try:
        return without_frames(copy.copy(reason))
    except Exception:  # not every exception can be copied
        return reason
