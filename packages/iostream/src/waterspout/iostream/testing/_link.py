"""What carries bytes from one simulated socket to another, and how well.

Each direction of a connection is a `Lane`. A byte that is sent is on its way, then it has arrived
and waits to be received; both count against the room of the lane, as with a kernel's windows and
buffers, so a sender is held back by a receiver that does not read.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

ROOM = 64 * 1024
"""The default of `Link.room`, in bytes."""

Span: TypeAlias = float | tuple[float, float]
Sizes: TypeAlias = int | tuple[int, int] | None


@dataclass(frozen=True)
class Link:
    """How well a connection carries bytes, each way.

    Where a value is a pair, one between its two ends is drawn for each piece, by the network's
    seed.

    Attributes:
        latency: Seconds until what is sent arrives; connecting takes it twice.
        bandwidth: Bytes a second; `None` is without limit.
        chunk: Bytes that arrive together, and so are received by one call, at most; `None`
            is without limit.
        room: Bytes that can be under way or unreceived, before the sender must wait.
        reset_after: Bytes after which the connection is reset; `None` is never.
        end_after: Bytes after which the sending side ends, and the rest is lost.
        stall_after: Bytes after which nothing arrives any more.
    """

    latency: Span = 0.0
    bandwidth: float | None = None
    chunk: Sizes = None
    room: int = ROOM
    reset_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None

    def __post_init__(self) -> None:
        chunk = self.chunk if isinstance(self.chunk, tuple) else (self.chunk, self.chunk)
        latency = self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)
        if not 0 <= latency[0] <= latency[1]:
            raise ValueError(f"latency must not be negative, not {self.latency!r}")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be positive, not {self.bandwidth!r}")
        if chunk[0] is not None and not 1 <= chunk[0] <= (chunk[1] or 0):
            raise ValueError(f"chunk must be positive, not {self.chunk!r}")
        if self.room < 1:
            raise ValueError(f"room must be positive, not {self.room!r}")
        for name in ("reset_after", "end_after", "stall_after"):
            value: int | None = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, not {value!r}")


class Lane:
    """One direction of a connection.

    Args:
        clock: Gives the time by which bytes travel.
        at: Calls something at a time.
        link: How well it carries them.
        dice: What is drawn is drawn from this.
        changed: Called when the receiving or the sending side may see something new.
        reset: Called when the link resets the connection.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        at: Callable[[float, Callable[..., None], Any], None],
        link: Link,
        dice: random.Random,
        changed: Callable[[], None],
        reset: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._at = at
        self._link = link
        self._dice = dice
        self._changed = changed
        self._reset = reset
        self._travelling = 0  # bytes under way
        self._arrived: deque[bytes] = deque()
        self._size = 0  # bytes of these
        self._sent = 0  # ever
        self._free_at = 0.0  # when the wire is free
        self._last_arrival = 0.0
        self._held: deque[Callable[[], None]] = deque()  # what a stall keeps back
        self._stalled = False
        self._ended = False  # the sender has said so
        self.at_end = False  # and this has arrived
        self._dropped = False

    @property
    def readable(self) -> bool:
        """Whether something can be received, if only the end."""
        return bool(self._arrived) or self.at_end

    @property
    def unread(self) -> int:
        """Bytes that have arrived and were not received."""
        return self._size

    @property
    def room(self) -> int:
        """Bytes that can be sent now."""
        return max(0, self._link.room - self._travelling - self._size)

    def send(self, data: memoryview) -> int:
        """Send what there is room for, and give how much that is."""
        size = min(len(data), self.room)
        taken = bytes(data[:size])
        if self._dropped or self._ended:
            return size
        for name, then in (
            ("end_after", self.end),
            ("reset_after", self._reset_soon),
            ("stall_after", self.stall),
        ):
            bound = getattr(self._link, name)
            if bound is not None and self._sent + len(taken) >= bound:
                fit = max(0, bound - self._sent)
                self._post(taken[:fit])
                self._sent += fit
                rest = taken[fit:]
                then()
                if name == "stall_after":
                    self._post(rest)
                    self._sent += len(rest)
                return size
        self._post(taken)
        self._sent += size
        return size

    def end(self) -> None:
        """Let the other side know that nothing more comes."""
        if not self._ended:
            self._ended = True
            self._travel(0, self._arrive_end)

    def receive(self, size: int) -> bytes:
        """Take up to so many bytes of what has arrived; none at the end."""
        if self._link.chunk is not None:
            piece = self._arrived.popleft() if self._arrived else b""
            if len(piece) > size:
                self._arrived.appendleft(piece[size:])
        else:
            piece = b"".join(self._arrived)
            self._arrived.clear()
            if len(piece) > size:
                self._arrived.append(piece[size:])
        taken = piece[:size]
        self._size -= len(taken)
        self._changed()
        return taken

    def stall(self) -> None:
        """Let nothing arrive until `resume`."""
        self._stalled = True

    def resume(self) -> None:
        """Let what a stall has kept back arrive, and what comes."""
        self._stalled = False
        while self._held:
            self._held.popleft()()

    def drop(self) -> None:
        """Lose what is under way, and all that is sent from now on."""
        self._dropped = True
        self._held.clear()

    def _reset_soon(self) -> None:
        self._travel(0, self._reset)

    def _post(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            piece = data[start : start + self._draw_chunk()]
            start += len(piece)
            self._travelling += len(piece)
            self._travel(len(piece), lambda piece=piece: self._arrive(piece))  # type: ignore[misc]

    def _travel(self, size: int, arrive: Callable[[], None]) -> None:
        """Have something arrive when it has gone all the way, behind what is ahead of it."""
        now = self._clock()
        self._free_at = max(now, self._free_at)
        if self._link.bandwidth is not None:
            self._free_at += size / self._link.bandwidth
        when = max(self._free_at + self._draw_latency(), self._last_arrival)
        self._last_arrival = when
        if when > now:
            self._at(when, self._let_in, arrive)
        else:
            self._let_in(arrive)

    def _let_in(self, arrive: Callable[[], None]) -> None:
        if self._dropped:
            return
        if self._stalled:
            self._held.append(arrive)
        else:
            arrive()

    def _arrive(self, piece: bytes) -> None:
        self._travelling -= len(piece)
        self._arrived.append(piece)
        self._size += len(piece)
        self._changed()

    def _arrive_end(self) -> None:
        self.at_end = True
        self._changed()

    def _draw_chunk(self) -> int:
        chunk = self._link.chunk
        if isinstance(chunk, tuple):
            return self._dice.randint(*chunk)
        return ROOM if chunk is None else chunk

    def _draw_latency(self) -> float:
        latency = self._link.latency
        return self._dice.uniform(*latency) if isinstance(latency, tuple) else latency
