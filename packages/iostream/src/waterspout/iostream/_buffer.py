"""The two buffers of a stream. No I/O.

`ReadBuffer` has a head, which arrived at once and is being read, and a tail for what arrives
meanwhile. Small reads slice the head, of which nothing is moved or copied but what they take. The
tail grows as a `bytearray` does (amortised O(1) per byte) and becomes the head when it is reached.
A search that fails in the head needs both in one piece; it has looked at every byte of the head, so
to move them costs no more than the search did. Searching is left to the reads, which remember how
far they have looked.

`WriteBuffer` is a line of segments. A small write is copied behind its neighbours, so that a
thousand of them go out in a few system calls (O(bytes)); a large one is kept as a view of the
caller's memory and never copied (O(1)).
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview

SMALL = 4096
"""A write up to this is copied behind its neighbours; a system call costs more than the copy."""
SEGMENT = 64 * 1024
"""A segment of small writes takes no more once it has this many bytes."""


class ReadBuffer:
    """Bytes that have arrived and have not been read.

    Attributes:
        head: The bytes that come first, from `start` on.
        start: How many bytes of the head are gone.
        tail: What comes behind the head.
    """

    __slots__ = ("head", "start", "tail")

    def __init__(self) -> None:
        self.head = b""
        self.start = 0
        self.tail = bytearray()

    def __len__(self) -> int:
        return len(self.head) - self.start + len(self.tail)

    def append(self, chunk: BytesLike) -> None:
        """Add bytes that arrived. Amortised O(len(chunk))."""
        left = len(self.head) - self.start
        if left == 0 and not self.tail:
            self.head = bytes(chunk)
            self.start = 0
        elif left <= len(chunk) and not self.tail:
            self.head = self.head[self.start :] + bytes(chunk)
            self.start = 0
        else:
            self.tail += chunk

    def whole(self) -> "tuple[bytes | bytearray, int]":
        """Give what holds all bytes, for searching, and where in it they begin.

        O(1), or O(all) after an append that did not find the head read.
        """
        if not self.tail:
            return self.head, self.start
        if self.start < len(self.head):
            self.tail[:0] = self.head[self.start :]
            self._drop_head()
        return self.tail, 0

    def peek(self, size: int) -> bytes:
        """Copy bytes from the front. O(size)."""
        data, start = self.whole()
        return bytes(data[start : start + size])

    def take(self, size: int) -> bytes:
        """Take bytes from the front. Amortised O(size), however many remain."""
        end = self.start + size
        if end < len(self.head):
            taken = self.head[self.start : end]
            self.start = end
            return taken
        taken = self.head[self.start :]
        self._drop_head()
        if len(taken) < size:
            tail, missing = self.tail, size - len(taken)
            with memoryview(tail) as view:
                taken = b"".join((taken, view[:missing])) if taken else bytes(view[:missing])
            del tail[:missing]
            self._promote()
        return taken

    def take_into(self, target: memoryview, size: int) -> None:
        """Take bytes from the front to the start of `target`. Amortised O(size)."""
        first = min(size, len(self.head) - self.start)
        target[:first] = memoryview(self.head)[self.start : self.start + first]
        self.start += first
        if self.start == len(self.head):
            self._drop_head()
        if first < size:
            with memoryview(self.tail) as view:
                target[first:size] = view[: size - first]
            del self.tail[: size - first]
            self._promote()

    def give_back(self, taken: bytes) -> None:
        """Put bytes back to the front. O(all), and rare."""
        self.head = taken + self.head[self.start :]
        self.start = 0

    def clear(self) -> None:
        """Drop all."""
        self._drop_head()
        self.tail = bytearray()

    def _drop_head(self) -> None:
        self.head = b""
        self.start = 0

    def _promote(self) -> None:
        """Make the tail the head, once it has been reached."""
        if self.tail:
            self.head = bytes(self.tail)
            self.tail = bytearray()


class WriteBuffer:
    """Bytes that wait for the kernel to take them.

    Attributes:
        size: How many there are.
    """

    __slots__ = ("_offset", "_segments", "size")

    def __init__(self) -> None:
        self._segments: deque[bytearray | memoryview] | None = None  # while there are none
        self._offset = 0  # how much of the first segment is gone
        self.size = 0

    def append(self, data: memoryview) -> None:
        """Add bytes to be sent: small ones are copied, large ones are kept as they are."""
        if not data:
            return
        self.size += len(data)
        segments = self._segments
        if segments is None:
            segments = self._segments = deque()
        if len(data) > SMALL:
            segments.append(data)
            return
        last = segments[-1] if segments else None
        if isinstance(last, bytearray) and len(last) < SEGMENT:
            last += data
        else:
            segments.append(bytearray(data))

    def first(self) -> memoryview:
        """A view of bytes to send next. Release it before anything else is called. O(1)."""
        assert self._segments is not None, "there are none"
        return memoryview(self._segments[0])[self._offset :]

    def advance(self, size: int) -> None:
        """Drop bytes of the first segment that were sent. O(1)."""
        self.size -= size
        self._offset += size
        if self._segments is not None and self._offset == len(self._segments[0]):
            self._segments.popleft()
            self._offset = 0
            if not self._segments:
                self._segments = None

    def clear(self) -> None:
        """Drop all."""
        self._segments = None
        self._offset = self.size = 0
