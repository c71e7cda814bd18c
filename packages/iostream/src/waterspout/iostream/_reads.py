"""What a read waits for. No I/O.

A read is asked again whenever bytes have arrived. It takes its result out of the buffer, or says
`NOT_YET` and leaves the buffer alone, or raises and leaves it alone. Bytes only ever join at the
end while a read waits, so a read may remember how far it has searched.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from waterspout.iostream._buffer import ReadBuffer
from waterspout.iostream._errors import UnsatisfiableReadError

R = TypeVar("R")

Emit: TypeAlias = Callable[[bytes], object]

FREE_BYTES = 64 * 1024
"""Bytes that the attempts of a regular expression may look at in any case."""
SHARE = 8
"""How often they may look at each byte, on average, besides."""


class _Mark(Enum):
    NOT_YET = "not yet"


NOT_YET: Final = _Mark.NOT_YET
NotYet: TypeAlias = Literal[_Mark.NOT_YET]


class Read(ABC, Generic[R]):
    """One read and its progress."""

    __slots__ = ()

    least = 1
    """The fewest bytes that it can be done with, before the end."""
    takes_memory = False
    """Whether it has room for bytes to be received straight to."""
    emits = False
    """Whether an attempt gives bytes to a callback, which cannot be undone."""
    patience = 0
    """How large the buffer should be before the next attempt, while more bytes are there."""
    due = 0
    """How large the buffer should be for an attempt as soon as no more bytes are there."""

    @abstractmethod
    def attempt(self, buffer: ReadBuffer) -> R | NotYet:
        """Take the result out of the buffer, if it is there."""

    def at_end(self, buffer: ReadBuffer) -> R | NotYet:
        """Take the result out of the buffer, knowing that nothing more will come."""
        return NOT_YET

    def can_fit(self, size: int, limit: int) -> bool:
        """Whether its result can still come of a buffer of `size` bytes that takes `limit`."""
        return size < limit

    def take_in(self, buffer: ReadBuffer, chunk: memoryview) -> None:
        """Put bytes that arrived behind all others."""
        buffer.append(chunk)

    def room(self, buffered: int) -> memoryview:
        """Where bytes may be received straight to, behind so many that are in the buffer."""
        raise NotImplementedError(f"{type(self).__name__} takes no memory")

    def place(self, size: int) -> None:
        """So many bytes were put there."""

    def recall(self, buffer: ReadBuffer) -> None:
        """Move the bytes that were put there to the buffer. O(bytes)."""

    @abstractmethod
    def undo(self, result: R) -> bytes:
        """The bytes that `attempt` took, given what it returned."""


class ReadBytes(Read[bytes]):
    """So many bytes, or with `partial` at least one."""

    __slots__ = ("least", "partial", "size")

    def __init__(self, size: int, partial: bool) -> None:
        self.size = size
        self.partial = partial
        self.least = min(size, 1) if partial else size

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        available = len(buffer)
        if available >= self.size:
            return buffer.take(self.size)
        if self.partial and available:
            return buffer.take(available)
        return NOT_YET

    def can_fit(self, size: int, limit: int) -> bool:
        return self.partial or self.size <= limit

    def undo(self, result: bytes) -> bytes:
        return result


class Peek(ReadBytes):
    """So many bytes, or with `partial` at least one, that stay where they are."""

    __slots__ = ()

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        available = len(buffer)
        if available < self.size and not (self.partial and available):
            return NOT_YET
        return buffer.peek(min(available, self.size))

    def undo(self, result: bytes) -> bytes:
        return b""


class ReadInto(Read[int]):
    """As many bytes as a caller's memory holds, or with `partial` at least one.

    While it waits, bytes may be received straight into the memory (`room`, `place`). What was
    buffered before stays in the buffer until all is there; its place in the memory, `ahead` bytes,
    is kept free. So a read that fails only has to append what was placed: however often one is
    cancelled, each byte is moved to the buffer once.
    """

    __slots__ = ("ahead", "least", "partial", "placed", "target")
    takes_memory = True

    def __init__(self, target: memoryview, partial: bool) -> None:
        self.target = target
        self.least = min(len(target), 1) if partial else len(target)
        self.partial = partial
        self.ahead = 0  # bytes of the buffer that come before the placed ones
        self.placed = 0

    def attempt(self, buffer: ReadBuffer) -> int | NotYet:
        total = min(len(buffer) + self.placed, len(self.target))
        if total < len(self.target) and not (self.partial and total):
            return NOT_YET
        if self.placed:
            buffer.take_into(self.target, self.ahead)
            filled, self.placed = self.ahead + self.placed, 0
        else:
            filled = 0
        buffer.take_into(self.target[filled:], total - filled)
        return total

    def take_in(self, buffer: ReadBuffer, chunk: memoryview) -> None:
        if self.placed:
            room = self.room(self.ahead)
            size = min(len(room), len(chunk))
            room[:size] = chunk[:size]
            self.placed += size
            chunk = chunk[size:]
        if chunk:
            buffer.append(chunk)

    def room(self, buffered: int) -> memoryview:
        self.ahead = buffered  # no more than before, while bytes are placed
        return self.target[self.ahead + self.placed :]

    def place(self, size: int) -> None:
        self.placed += size

    def recall(self, buffer: ReadBuffer) -> None:
        placed, self.placed = self.placed, 0
        if placed:
            buffer.append(self.target[self.ahead : self.ahead + placed])

    def can_fit(self, size: int, limit: int) -> bool:
        return self.partial or len(self.target) <= limit

    def undo(self, result: int) -> bytes:
        return bytes(self.target[:result])


class ReadUntil(Read[bytes]):
    """Everything up to and with one of several delimiters.

    The match that ends first wins, and of two that end together the longer. Each attempt looks
    only at what is new, so the whole search is linear in the bytes.
    """

    __slots__ = ("delimiters", "max_bytes", "only", "searched")

    def __init__(self, delimiters: tuple[bytes, ...], max_bytes: int | None) -> None:
        self.delimiters = delimiters
        self.only = delimiters[0] if len(delimiters) == 1 and max_bytes is None else None
        self.max_bytes = max_bytes
        self.searched = 0  # no match ends at or before this

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        if self.only is not None and not buffer.tail:  # as below, in fewer steps
            head, start, size = buffer.head, buffer.start, len(self.only)
            place = head.find(
                self.only, start if self.searched < size else start + self.searched + 1 - size
            )
            if place < 0:
                self.searched = len(head) - start
                return NOT_YET
            after = place + size
            if after == len(head):  # as `buffer.take`
                buffer.head, buffer.start = b"", 0
            else:
                buffer.start = after
            return head[start:after]
        end = self._find(*buffer.whole())
        if end is not None:
            return buffer.take(end)
        self.searched = len(buffer)
        if self.max_bytes is not None and self.searched >= self.max_bytes:
            raise UnsatisfiableReadError(
                f"none of {self.delimiters!r} within max_bytes={self.max_bytes}"
            )
        return NOT_YET

    def _find(self, data: "bytes | bytearray", begin: int) -> int | None:
        """How many bytes it is to the end of the first match, if that is within `max_bytes`."""
        best: int | None = None
        limit = len(data) if self.max_bytes is None else begin + self.max_bytes
        for delimiter in self.delimiters:
            size = len(delimiter)
            start = data.find(delimiter, begin + max(0, self.searched + 1 - size), limit)
            if start >= 0:
                limit = start + size
                best = limit - begin
        return best

    def undo(self, result: bytes) -> bytes:
        return result


class ReadLine(ReadUntil):
    """Everything up to and with a newline; the last line may have none."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__((b"\n",), None)

    def at_end(self, buffer: ReadBuffer) -> bytes | NotYet:
        return buffer.take(len(buffer)) if len(buffer) else NOT_YET


class ReadUntilRegex(Read[bytes]):
    """Everything up to and with what a pattern matches first.

    A pattern cannot go on from where it stopped, so each attempt looks at everything. While more
    bytes are there, that is done each time that there are twice as many. Once no more are there, it
    is done at once (`due`), as long as all attempts together have looked at no more than
    `FREE_BYTES` and `SHARE` times the bytes; else a little later (see `_delayed`).
    """

    __slots__ = ("due", "looked_at", "max_bytes", "patience", "pattern")

    def __init__(self, pattern: re.Pattern[bytes], max_bytes: int | None) -> None:
        self.pattern = pattern
        self.max_bytes = max_bytes
        self.looked_at = self.patience = self.due = 0

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        size = len(buffer)
        limit = size if self.max_bytes is None else min(size, self.max_bytes)
        data, start = buffer.whole()
        if start:  # where a pattern may want to see the beginning
            data = buffer.peek(limit)
        match = self.pattern.search(data, 0, limit)
        if match is not None:
            return buffer.take(match.end())
        if self.max_bytes is not None and size >= self.max_bytes:
            raise UnsatisfiableReadError(
                f"no match of {self.pattern.pattern!r} within max_bytes={self.max_bytes}"
            )
        self.looked_at += size
        self.patience = 2 * size
        self.due = min(max(size + 1, (self.looked_at - FREE_BYTES) // (SHARE - 1)), self.patience)
        if self.max_bytes is not None:
            self.patience = min(self.patience, self.max_bytes)
            self.due = min(self.due, self.max_bytes)
        return NOT_YET

    def undo(self, result: bytes) -> bytes:
        return result


class ReadUntilClose(Read[bytes]):
    """Everything until the other end closes."""

    __slots__ = ()

    def attempt(self, buffer: ReadBuffer) -> NotYet:
        return NOT_YET

    def at_end(self, buffer: ReadBuffer) -> bytes:
        return buffer.take(len(buffer))

    def can_fit(self, size: int, limit: int) -> bool:
        return size <= limit  # it may end right here

    def undo(self, result: bytes) -> bytes:
        return result


def _emit(emit: Emit, buffer: ReadBuffer, size: int) -> None:
    """Give a callback bytes from the front of the buffer, or leave them there."""
    data = buffer.take(size)
    try:
        emit(data)
    except BaseException:
        buffer.give_back(data)
        raise


class StreamBytes(Read[bytes]):
    """So many bytes, or with `partial` the first that come, given to a callback as they arrive."""

    __slots__ = ("emit", "least", "partial", "remaining")
    emits = True

    def __init__(self, size: int, partial: bool, emit: Emit) -> None:
        self.least = min(size, 1)
        self.remaining = size
        self.partial = partial
        self.emit = emit

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        size = min(self.remaining, len(buffer))
        if size:
            _emit(self.emit, buffer, size)
            self.remaining -= size
        return b"" if self.remaining == 0 or (self.partial and size) else NOT_YET

    def can_fit(self, size: int, limit: int) -> bool:
        return True

    def undo(self, result: bytes) -> bytes:
        return b""  # the callback has had them


class StreamUntilClose(Read[bytes]):
    """Everything until the other end closes, given to a callback as it arrives."""

    __slots__ = ("emit",)
    emits = True

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def attempt(self, buffer: ReadBuffer) -> NotYet:
        if len(buffer):
            _emit(self.emit, buffer, len(buffer))
        return NOT_YET

    def at_end(self, buffer: ReadBuffer) -> bytes:
        return b""

    def can_fit(self, size: int, limit: int) -> bool:
        return True

    def undo(self, result: bytes) -> bytes:
        return b""  # the callback has had them
