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
    patience = 0
    """How large the buffer should be before the next attempt, while bytes keep coming."""

    @abstractmethod
    def attempt(self, buffer: ReadBuffer) -> R | NotYet:
        """Take the result out of the buffer, if it is there."""

    def at_end(self, buffer: ReadBuffer) -> R | NotYet:
        """Take the result out of the buffer, knowing that nothing more will come."""
        return NOT_YET

    def can_fit(self, size: int, limit: int) -> bool:
        """Whether its result can still come of a buffer of `size` bytes that takes `limit`."""
        return size < limit

    def room(self) -> memoryview:
        """Where bytes may be received straight to while nothing is buffered."""
        raise NotImplementedError(f"{type(self).__name__} takes no memory")

    def place(self, size: int) -> None:
        """So many bytes were put there."""

    def recall(self) -> bytes:
        """The bytes that were put there, which are not to be there any more."""
        return b""

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

    While it waits and nothing is buffered, bytes may be received straight into the memory
    (`room`, `place`); if the read then fails, they are recalled from there.
    """

    __slots__ = ("least", "partial", "placed", "target")
    takes_memory = True

    def __init__(self, target: memoryview, partial: bool) -> None:
        self.target = target
        self.least = min(len(target), 1) if partial else len(target)
        self.partial = partial
        self.placed = 0

    def attempt(self, buffer: ReadBuffer) -> int | NotYet:
        available, missing = len(buffer), len(self.target) - self.placed
        if available < missing and not (self.partial and available + self.placed):
            return NOT_YET
        size = min(available, missing)
        if size:
            buffer.take_into(self.target[self.placed :], size)
        size += self.placed
        self.placed = 0
        return size

    def room(self) -> memoryview:
        return self.target[self.placed :]

    def place(self, size: int) -> None:
        self.placed += size

    def recall(self) -> bytes:
        placed, self.placed = self.placed, 0
        return bytes(self.target[:placed])

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

    A pattern cannot go on from where it stopped, so each attempt looks at everything. While bytes
    keep coming, that is done each time that there are twice as many, which keeps the whole search
    linear; once no more are there, it is done at once.
    """

    __slots__ = ("max_bytes", "patience", "pattern")

    def __init__(self, pattern: re.Pattern[bytes], max_bytes: int | None) -> None:
        self.pattern = pattern
        self.max_bytes = max_bytes
        self.patience = 0

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        size = len(buffer)
        limit = size if self.max_bytes is None else min(size, self.max_bytes)
        data, start = buffer.whole()
        if start:  # where a pattern may want to see the beginning
            data, start = buffer.peek(size), 0
        match = self.pattern.search(data, 0, limit)
        if match is not None:
            return buffer.take(match.end())
        if self.max_bytes is not None and size >= self.max_bytes:
            raise UnsatisfiableReadError(
                f"no match of {self.pattern.pattern!r} within max_bytes={self.max_bytes}"
            )
        self.patience = 2 * size
        if self.max_bytes is not None:
            self.patience = min(self.patience, self.max_bytes)
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


class StreamBytes(Read[bytes]):
    """So many bytes, or with `partial` the first that come, given to a callback as they arrive."""

    __slots__ = ("emit", "least", "partial", "remaining")

    def __init__(self, size: int, partial: bool, emit: Emit) -> None:
        self.least = min(size, 1)
        self.remaining = size
        self.partial = partial
        self.emit = emit

    def attempt(self, buffer: ReadBuffer) -> bytes | NotYet:
        size = min(self.remaining, len(buffer))
        if size:
            self.remaining -= size
            self.emit(buffer.take(size))
        return b"" if self.remaining == 0 or (self.partial and size) else NOT_YET

    def can_fit(self, size: int, limit: int) -> bool:
        return True

    def undo(self, result: bytes) -> bytes:
        return b""  # the callback has had them


class StreamUntilClose(Read[bytes]):
    """Everything until the other end closes, given to a callback as it arrives."""

    __slots__ = ("emit",)

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def attempt(self, buffer: ReadBuffer) -> NotYet:
        if len(buffer):
            self.emit(buffer.take(len(buffer)))
        return NOT_YET

    def at_end(self, buffer: ReadBuffer) -> bytes:
        return b""

    def can_fit(self, size: int, limit: int) -> bool:
        return True

    def undo(self, result: bytes) -> bytes:
        return b""  # the callback has had them
