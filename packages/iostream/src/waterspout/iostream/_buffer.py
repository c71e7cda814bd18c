"""The two buffers of a stream. No I/O.

`ReadBuffer` is a `bytearray`. Bytes come in at the end (amortised O(1) per byte) and leave at the
front, where CPython moves a pointer instead of the rest (O(bytes taken), amortised). Searching
is left to the reads, which remember how far they have looked.

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
    """Bytes that have arrived and have not been read."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()
        """The bytes, for searching; changed only by the methods."""

    def __len__(self) -> int:
        return len(self.data)

    def append(self, chunk: BytesLike) -> None:
        """Add bytes that arrived. Amortised O(len(chunk))."""
        self.data += chunk

    def peek(self, size: int) -> bytes:
        """Copy bytes from the front. O(size)."""
        return bytes(self.data[:size])

    def take(self, size: int) -> bytes:
        """Take bytes from the front. Amortised O(size), however many remain."""
        data = self.data
        if size == len(data):
            taken = bytes(data)
            data.clear()
        else:
            with memoryview(data) as view:
                taken = bytes(view[:size])
            del data[:size]
        return taken

    def take_into(self, target: memoryview, size: int) -> None:
        """Take bytes from the front to the start of `target`. Amortised O(size)."""
        with memoryview(self.data) as view:
            target[:size] = view[:size]
        del self.data[:size]

    def give_back(self, taken: bytes) -> None:
        """Put bytes back to the front. O(all), and rare."""
        self.data[:0] = taken

    def clear(self) -> None:
        """Drop all."""
        self.data = bytearray()


class WriteBuffer:
    """Bytes that wait for the kernel to take them."""

    __slots__ = ("_offset", "_segments", "_size")

    def __init__(self) -> None:
        self._segments: deque[bytearray | memoryview] = deque()
        self._offset = 0  # how much of the first segment is gone
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: memoryview) -> None:
        """Add bytes to be sent: small ones are copied, large ones are kept as they are."""
        self._size += len(data)
        if len(data) > SMALL:
            self._segments.append(data)
            return
        last = self._segments[-1] if self._segments else None
        if isinstance(last, bytearray) and len(last) < SEGMENT:
            last += data
        elif data:
            self._segments.append(bytearray(data))

    def first(self) -> memoryview:
        """A view of bytes to send next. Release it before anything else is called. O(1)."""
        return memoryview(self._segments[0])[self._offset :]

    def advance(self, size: int) -> None:
        """Drop bytes of the first segment that were sent. O(1)."""
        self._size -= size
        self._offset += size
        if self._offset == len(self._segments[0]):
            self._segments.popleft()
            self._offset = 0

    def clear(self) -> None:
        """Drop all."""
        self._segments.clear()
        self._offset = self._size = 0
