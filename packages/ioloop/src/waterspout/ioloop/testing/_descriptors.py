"""Descriptors that no kernel knows.

A virtual descriptor is a number, far above those of a kernel, and what is ready at it. The
simulated loop watches it through its selector, like any other, so everything that is built on
`add_reader` and `add_handler` runs over it unchanged.
"""

from __future__ import annotations

import errno
import os
import selectors
from collections.abc import Callable, Mapping
from typing import Any

from waterspout.ioloop._watcher import kernel
from waterspout.ioloop.scheduling import ERROR, READ, WRITE

FIRST_NUMBER = 1_000_000_000
"""The number of the first virtual descriptor; a kernel's are below."""

_Key = selectors.SelectorKey


class VirtualDescriptor:
    """A descriptor of a simulated loop; `SimulatedLoop.new_descriptor` makes one.

    Whoever made it sets what is ready, and the loop calls the handlers, level-triggered, as a
    real one would.
    """

    __slots__ = ("_changed", "_number", "_ready")

    def __init__(self, number: int, changed: Callable[[VirtualDescriptor], None]) -> None:
        self._number = number
        self._ready = 0
        self._changed = changed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._number} ready={self._ready:#x}>"

    def fileno(self) -> int:
        """Give its number."""
        return self._number

    @property
    def ready(self) -> int:
        """Give the events that it has: a union of `READ`, `WRITE` and `ERROR`, or 0.

        Raises:
            ValueError: If what is assigned is no such union.
        """
        return self._ready

    @ready.setter
    def ready(self, events: int) -> None:
        if events & ~(READ | WRITE | ERROR):
            raise ValueError(f"ready must be a mask of READ, WRITE and ERROR, not {events:#x}")
        self._ready = events
        self._changed(self)


class SimulatedSelector(selectors.BaseSelector):
    """Knows which descriptors are watched, and which of these are ready.

    Args:
        real: Serves the descriptors of the kernel; without it they are refused.

    Attributes:
        may_be_ready: Whether there is anything to ask about.
    """

    def __init__(self, real: selectors.BaseSelector | None) -> None:
        self._real = real
        self._open: dict[int, VirtualDescriptor] = {}
        self._keys: dict[int, _Key] = {}
        self._hot: dict[int, None] = {}  # watched and ready, in the order in which they became so
        self._count = 0
        self.may_be_ready: bool = real is not None

    def new_descriptor(self) -> VirtualDescriptor:
        """Open a virtual descriptor."""
        self.may_be_ready = True
        number = FIRST_NUMBER + self._count
        self._count += 1
        self._open[number] = VirtualDescriptor(number, self._note)
        return self._open[number]

    def close_descriptor(self, descriptor: VirtualDescriptor) -> None:
        """Close a virtual descriptor; one that is watched is watched no more."""
        number = descriptor.fileno()
        self._open.pop(number, None)
        self._keys.pop(number, None)
        self._hot.pop(number, None)

    def find(self, number: int) -> VirtualDescriptor:
        """Give an open virtual descriptor.

        Raises:
            OSError: If it is not open (EBADF).
        """
        try:
            return self._open[number]
        except KeyError:
            raise bad_descriptor(number) from None

    def check_open(self, number: int) -> None:
        """Raise unless a descriptor is open, whoever's it is."""
        if number >= FIRST_NUMBER:
            self.find(number)
        else:
            kernel.check_open(number)

    def hung_up(self, number: int) -> bool:
        """Whether a descriptor failed or was hung up, whoever's it is."""
        if number >= FIRST_NUMBER:
            return bool(self.find(number).ready & ERROR)
        return kernel.hung_up(number)

    def open_descriptors(self) -> list[int]:
        """The numbers of the virtual descriptors that are open."""
        return list(self._open)

    def watches_real(self) -> bool:
        """Whether descriptors of the kernel are watched, besides the loop's own."""
        return self._real is not None and len(self._real.get_map()) > 1

    def register(self, fileobj: Any, events: int, data: Any = None) -> _Key:
        number = _number(fileobj)
        if number < FIRST_NUMBER:
            if self._real is None:
                raise RuntimeError(
                    f"descriptor {number} is a real one, and a simulated loop does not wait for "
                    "these unless it is made with real_wait="
                )
            return self._real.register(fileobj, events, data)
        if number in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        self.find(number)
        return self._set(_Key(fileobj, number, events, data))

    def unregister(self, fileobj: Any) -> _Key:
        number = _number(fileobj)
        if number < FIRST_NUMBER and self._real is not None:
            return self._real.unregister(fileobj)
        key = self._keys.pop(number)
        self._hot.pop(number, None)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> _Key:
        number = _number(fileobj)
        if number < FIRST_NUMBER and self._real is not None:
            return self._real.modify(fileobj, events, data)
        return self._set(self._keys[number]._replace(events=events, data=data))

    def select(self, timeout: float | None = None) -> list[tuple[_Key, int]]:
        """Give what is ready. Only where nothing virtual is, and there are real descriptors, wait.

        Args:
            timeout: Real seconds.
        """
        found = [(self._keys[number], self._events(number)) for number in self._hot]
        if self._real is not None:
            found += self._real.select(0 if found else timeout)
        return found

    def close(self) -> None:
        self._keys.clear()
        self._hot.clear()
        if self._real is not None:
            self._real.close()

    def get_map(self) -> Mapping[Any, _Key]:
        keys = _KeysByFile(self._keys)
        if self._real is not None:
            keys.update((key.fd, key) for key in self._real.get_map().values())
        return keys

    def _set(self, key: _Key) -> _Key:
        self._keys[key.fd] = key
        self._note(self._open[key.fd])
        return key

    def _events(self, number: int) -> int:
        """What of that which is watched for is ready; an error is told to whoever watches."""
        ready, watched = self._open[number].ready, self._keys[number].events
        events = 0
        if ready & (READ | ERROR):
            events |= selectors.EVENT_READ
        if ready & (WRITE | ERROR):
            events |= selectors.EVENT_WRITE
        return events & watched

    def _note(self, descriptor: VirtualDescriptor) -> None:
        number = descriptor.fileno()
        if number in self._keys and self._events(number):
            self._hot[number] = None
        else:
            self._hot.pop(number, None)


class _KeysByFile(dict[int, _Key]):
    """Keys by descriptor, to be asked for by what has a descriptor, too."""

    def __getitem__(self, fileobj: Any) -> _Key:
        return super().__getitem__(_number(fileobj))

    def get(self, fileobj: Any, default: Any = None) -> Any:
        return super().get(_number(fileobj), default)


def bad_descriptor(number: int) -> OSError:
    """The error of a descriptor that is not open."""
    return OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: virtual descriptor {number}")


def _number(fileobj: Any) -> int:
    if isinstance(fileobj, int):
        return fileobj
    number: int = fileobj.fileno()
    return number
