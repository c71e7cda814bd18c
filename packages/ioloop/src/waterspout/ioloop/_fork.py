"""Loops that a forked child has inherited.

A child of `os.fork` shares the loop's descriptors with its parent: its epoll instance and its
wake-up pipe. Anything the child does with the loop is done to the parent's, even closing it. So in
the child every use of an inherited loop raises.
"""

from __future__ import annotations

import asyncio
import functools
import os
import weakref
from typing import Any, NoReturn, Protocol

from waterspout.ioloop._interrupts import take_back


class _Inheritable(Protocol):
    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop: ...

    def _become_inherited(self) -> None: ...


_loops: "weakref.WeakSet[Any]" = weakref.WeakSet()
_inherited: "list[asyncio.AbstractEventLoop]" = []
"""Never collected: an asyncio loop that is collected closes itself."""


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):  # pragma: no branch (all but Windows)
        os.register_at_fork(after_in_child=_in_child)


def watch(loop: _Inheritable) -> None:
    """Have a loop told, in a forked child, that it is inherited."""
    _watch_forks()
    _loops.add(loop)


def refuse(*args: object, **kwargs: object) -> NoReturn:  # pragma: no cover (in the child)
    """Stand in for what must not be done with an inherited loop."""
    raise RuntimeError(
        "this event loop was made in the parent process; a forked child must make its own"
    )


def is_inherited(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop is the parent's."""
    return any(loop is inherited for inherited in _inherited)


def _in_child() -> None:  # pragma: no cover (a child is tested, but not measured)
    take_back()
    for loop in list(_loops):
        _inherited.append(loop.asyncio_loop)
        loop._become_inherited()
    _loops.clear()
