"""The two buffers of a stream. No I/O.

`ReadBuffer` has a head, which arrived at once and is being read, and a tail of pieces for what
arrives meanwhile. Small reads slice the head, of which nothing is moved or copied but what they
take; when it is used up, the next piece becomes the head. A large chunk becomes a piece as it is,
so that large reads join their pieces just once. All behind a small chunk is gathered in one piece
that grows as a `bytearray` does (amortised O(1) per byte), so no chunking costs memory. A search
that fails in the head needs everything in one such piece; it has looked at every byte of the head,
so to move them costs no more than the search did. Searching is left to the reads, which remember
how far they have looked.

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
        tail: What comes behind the head, in pieces, of which only the last can grow.
    """

    __slots__ = ("_tail_size", "head", "start", "tail")

    def __init__(self) -> None:
        self.head = b""
        self.start = 0
        self.tail: list[bytes | bytearray] = []
        self._tail_size = 0

    def __len__(self) -> int:
        return len(self.head) - self.start + self._tail_size

    def append(self, chunk: BytesLike) -> None:
        """Add bytes that arrived. Amortised O(len(chunk))."""
        left, tail = len(self.head) - self.start, self.tail
        if not tail and left <= min(SMALL, len(chunk)):
            self.head = self.head[self.start :] + bytes(chunk) if left else bytes(chunk)
            self.start = 0
            return
        self._tail_size += len(chunk)
        last = tail[-1] if tail else None
        if isinstance(last, bytearray):
            last += chunk
        else:
            tail.append(bytes(chunk) if len(chunk) > SMALL else bytearray(chunk))

    def whole(self) -> "tuple[bytes | bytearray, int]":
        """Give what holds all bytes, for searching, and where in it they begin.

        O(1), or O(all) after an append that did not find the head read.
        """
        if not self.tail:
            return self.head, self.start
        if self.start < len(self.head) or len(self.tail) > 1:
            merged = bytearray(memoryview(self.head)[self.start :])
            for piece in self.tail:
                merged += piece
            self._drop_head()
            self.tail = [merged]
            self._tail_size = len(merged)
        return self.tail[0], 0

    def peek(self, size: int) -> bytes:
        """Copy bytes from the front. O(size)."""
        copied = self.head[self.start : self.start + size]
        if len(copied) == size or not self.tail:
            return copied
        parts: list[bytes | bytearray | memoryview] = [copied]
        size -= len(copied)
        for piece in self.tail:
            parts.append(memoryview(piece)[:size])
            size -= len(parts[-1])
            if size == 0:
                break
        return b"".join(parts)

    def take(self, size: int) -> bytes:
        """Take bytes from the front. Amortised O(size), however many remain."""
        end = self.start + size
        if end < len(self.head):
            taken = self.head[self.start : end]
            self.start = end
            return taken
        parts = []
        while size and (part := self._take_part(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def take_into(self, target: memoryview, size: int) -> None:
        """Take bytes from the front to the start of `target`. Amortised O(size)."""
        done = 0
        while done < size:
            part = self._take_part(size - done)
            target[done : done + len(part)] = part
            done += len(part)

    def _take_part(self, most: int) -> bytes:
        """Take some bytes that are in one piece, of so many at most."""
        if self.start == len(self.head):
            self._promote()
        part = self.head[self.start : self.start + most]
        self.start += len(part)
        if self.start == len(self.head):
            self._promote()
        return part

    def give_back(self, taken: bytes) -> None:
        """Put bytes back to the front. O(len(taken)), or the head's length if they left it."""
        start = self.start - len(taken)
        if start >= 0 and self.head.startswith(taken, start):
            self.start = start  # they have not left it
        else:
            self.head = taken + self.head[self.start :]
            self.start = 0

    def clear(self) -> None:
        """Drop all."""
        self._drop_head()
        self.tail = []
        self._tail_size = 0

    def _drop_head(self) -> None:
        self.head = b""
        self.start = 0

    def _promote(self) -> None:
        """Make the first piece of the tail the head, whose bytes are gone."""
        self._drop_head()
        if self.tail:
            self.head = bytes(self.tail.pop(0))
            self._tail_size -= len(self.head)


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

    def take_back(self, size: int) -> None:
        """Undo the last `append`, which was of `size` bytes, before anything else is called. O(1).

        Nothing of them may have been sent.
        """
        segments = self._segments
        if not size or segments is None:
            return
        self.size -= size
        last = segments[-1]
        if isinstance(last, bytearray) and len(last) > size:
            del last[-size:]
        else:
            segments.pop()
            if not segments:
                self._segments = None

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
