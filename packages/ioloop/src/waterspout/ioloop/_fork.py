"""Loops that a forked child has inherited.

A child of `os.fork` shares the loop's descriptors with its parent: its epoll instance and its
wake-up pipe. Anything the child does with the loop is done to the parent's, even closing it. So in
the child every use of an inherited loop raises.

The asyncio loop beneath is also touched without being used: a child that leaves a running loop by
an exception, `sys.exit` included, unwinds `asyncio.run`, which runs the loop once more and closes
it, and a loop that is collected closes itself. Closing unregisters descriptors from the epoll; done
to the parent's, that makes its loop deaf to other threads. So in the child the descriptors that the
loop shares with the parent are replaced, under the same numbers, by new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import selectors
import socket
import weakref
from typing import Any, NoReturn, Protocol

from waterspout.ioloop._interrupts import take_back


class _Inheritable(Protocol):
    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop: ...

    def _become_inherited(self) -> None: ...


_loops: "weakref.WeakSet[Any]" = weakref.WeakSet()
_inherited: "list[asyncio.AbstractEventLoop]" = []


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
        with contextlib.suppress(OSError):  # no descriptors are left
            _unshare(loop.asyncio_loop)
    _loops.clear()


def _unshare(loop: Any) -> None:  # pragma: no cover (in the child)
    """Replace the epoll of an inherited loop, and the sockets that wake it.

    A kqueue is not inherited, and what does not say which epoll it uses is left alone.
    """
    selector = getattr(loop, "_selector", None)
    if hasattr(selectors, "EpollSelector") and type(selector) is selectors.EpollSelector:
        _replace_epoll(selector.fileno())
        with contextlib.ExitStack() as stack:
            for new, old in zip(socket.socketpair(), (loop._ssock, loop._csock), strict=True):
                stack.enter_context(new).setblocking(False)
                os.dup2(new.fileno(), old.fileno(), inheritable=False)
        key = selector.unregister(loop._ssock)
        selector.register(loop._ssock, key.events, key.data)
    elif hasattr(loop, "_get_backend_id"):  # uvloop
        _replace_epoll(loop._get_backend_id())


def _replace_epoll(number: int) -> None:  # pragma: no cover (in the child)
    with select.epoll() as epoll:
        os.dup2(epoll.fileno(), number, inheritable=False)
