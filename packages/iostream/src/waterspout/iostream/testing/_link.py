"""What carries bytes from one simulated socket to another, and how well.

Each direction of a connection is a `Lane`. A byte that is sent is on its way, then it has arrived
and waits to be received; both count against the room of the lane, as with a kernel's windows and
buffers, so a sender is held back by a receiver that does not read.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from waterspout.ioloop.scheduling import timeout_seconds

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
        stall_after: Bytes after which nothing arrives any more, until `SimulatedSocket.resume`.
            Of these three, one at most.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of its range, or several of the last three are given.
    """

    latency: Span = 0.0
    bandwidth: float | None = None
    chunk: Sizes = None
    room: int = ROOM
    reset_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None

    def __post_init__(self) -> None:
        _check_span("latency", self.latency, 0.0, float)
        latency = self.latency
        timeout_seconds(latency[1] if isinstance(latency, tuple) else latency, "latency")
        if self.chunk is not None:
            _check_span("chunk", self.chunk, 1, int)
        if self.bandwidth is not None:
            _check_number("bandwidth", self.bandwidth, float)
            if not self.bandwidth > 0:
                raise ValueError(f"bandwidth must be positive, not {self.bandwidth!r}")
        _check_number("room", self.room, int)
        if self.room < 1:
            raise ValueError(f"room must be positive, not {self.room!r}")
        bounds = {name: getattr(self, name) for name in ("reset_after", "end_after", "stall_after")}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        for name, bound in given.items():
            _check_number(name, bound, int)
            if bound < 0:
                raise ValueError(f"{name} must not be negative, not {bound!r}")
        if len(given) > 1:
            raise ValueError(f"only one thing can happen to a link, not {' and '.join(given)}")


def _check_number(name: str, value: object, kind: type) -> None:
    if not isinstance(value, int if kind is int else (int, float)):
        wanted = "an integer" if kind is int else "a number"
        raise TypeError(f"{name} must be {wanted}, not {value!r}")


def _check_span(name: str, value: Any, least: float, kind: type) -> None:
    """Check a number of at least so much, or a pair of them."""
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2:
        raise TypeError(f"{name} must be a number or a pair of them, not {value!r}")
    for end in ends:
        _check_number(name, end, kind)
    if not least <= ends[0] <= ends[1] < math.inf:
        raise ValueError(f"{name} must be at least {least} and finite, not {value!r}")


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
        self.at_end: bool = False  # and this has arrived
        self._dropped = False
        bounds = (link.reset_after, link.end_after, link.stall_after)
        self._bound = next((bound for bound in bounds if bound is not None), None)
        self._under_way = 0  # things that have not arrived

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
        bound = self._bound
        if bound is not None and self._sent + size >= bound:
            fit = max(0, bound - self._sent)
            self._post(taken[:fit])
            self._bound = None
            self._at_bound()
            taken = taken[fit:]
        if not self._ended:
            self._post(taken)
        self._sent += size
        return size

    def _at_bound(self) -> None:
        """Let happen what is to happen after so many bytes."""
        if self._link.reset_after is not None:
            self._ended = True
            self.travel(self._reset)
        elif self._link.end_after is not None:
            self.end()
        else:
            self.travel(self.stall)

    def end(self) -> None:
        """Let the other side know that nothing more comes."""
        if not self._ended:
            self._ended = True
            self.travel(self._arrive_end)

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

    def travel(self, arrive: Callable[[], None]) -> None:
        """Have something happen at the other end, behind what is under way."""
        self._travel(0, arrive)

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
        if when > now or self._under_way:
            self._under_way += 1
            self._at(when, self._come, arrive)
        else:
            self._let_in(arrive)

    def _come(self, arrive: Callable[[], None]) -> None:
        self._under_way -= 1
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
