"""What a test leaves behind: on its loop, and in its process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from waterspout.ioloop._alarm import Alarm
from waterspout.ioloop._ioloop import IOLoop
from waterspout.ioloop.testing._loop import SimulatedLoop
from waterspout.ioloop.testing._steps import describe
from waterspout.ioloop.testing._threads import is_idle

KINDS = ("tasks", "handlers", "timers", "descriptors", "sockets", "threads")
"""What is looked for, as `leaks_of_loop` and `leaks_since` call it."""

_OPEN_FILES = next((p for p in (Path("/proc/self/fd"), Path("/dev/fd")) if p.exists()), None)


def leaks_of_loop(loop: asyncio.AbstractEventLoop, allowed: Iterable[str] = ()) -> list[str]:
    """Give what is left on a loop, each as a sentence.

    Args:
        loop: A loop that is neither running nor closed.
        allowed: Kinds that may be left: `"tasks"`, `"handlers"`, `"timers"`, `"descriptors"`.
    """
    io_loop: IOLoop | None = getattr(loop, "_waterspout_ioloop", None)
    found: dict[str, Sequence[object]] = {
        "tasks": [describe(task) for task in asyncio.all_tasks(loop)],
        "handlers": _handlers(loop, io_loop),
        "timers": _timers(loop, io_loop),
        "descriptors": list(loop.open_descriptors()) if isinstance(loop, SimulatedLoop) else [],
    }
    return [
        f"{kind} left behind: {', '.join(map(str, left))}"
        for kind, left in found.items()
        if left and kind not in allowed
    ]


def _handlers(loop: asyncio.AbstractEventLoop, io_loop: IOLoop | None) -> list[object]:
    left: dict[int, object] = {}
    if isinstance(loop, asyncio.SelectorEventLoop):  # others do not say
        own = getattr(loop, "_ssock", None)
        selector: Any = vars(loop)["_selector"]
        keys = selector.get_map().values()
        left = {key.fd: key.fd for key in keys if own is None or key.fd != own.fileno()}
    if io_loop is not None:
        left.pop(io_loop._handlers.own_descriptor, -1)
        left |= io_loop._handlers.sources()
    return list(left.values())


def _timers(loop: asyncio.AbstractEventLoop, io_loop: IOLoop | None) -> list[object]:
    left: list[object] = []
    if io_loop is not None:
        left += io_loop._alarm.timers.pending()
    for handle in getattr(loop, "_scheduled", ()):  # a loop that is not asyncio's does not say
        if not handle.cancelled():
            callback = handle._callback
            if not isinstance(getattr(callback, "__self__", None), Alarm):
                left.append(handle)
    return left


class Census:
    """The threads and sockets of the process at one moment."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._sockets = _sockets()

    def leaks(self, allowed: Iterable[str] = ()) -> list[str]:
        """Give what has come since and is still there, each as a sentence.

        Args:
            allowed: Kinds that may be left: `"threads"`, `"sockets"`.
        """
        found: dict[str, Sequence[object]] = {
            "threads": [
                thread
                for thread in threading.enumerate()
                if thread not in self._threads and not is_idle(thread)
            ],
            "sockets": sorted(_sockets() - self._sockets),
        }
        if found["sockets"]:  # one that nobody can reach any more tells of itself
            gc.collect()
            found["sockets"] = sorted(_sockets() - self._sockets)
        return [
            f"{kind} left behind: {', '.join(map(str, left))}"
            for kind, left in found.items()
            if left and kind not in allowed
        ]


def _sockets() -> set[str]:
    """The open sockets of the process, where the system can tell."""
    found: set[str] = set()
    if _OPEN_FILES is not None:
        for name in os.listdir(_OPEN_FILES):  # noqa: PTH208 (much faster)
            with contextlib.suppress(OSError):
                target = os.readlink(_OPEN_FILES / name)  # noqa: PTH115
                if target.startswith("socket:"):
                    found.add(target)
    return found
