"""`Scheduler` and `Reactor`: what a loop must offer, and what follows from it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from waterspout.ioloop.scheduling._seconds import deadline_of_delay

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any] | concurrent.futures.Future[Any]")

READ: Final = 0x001
"""The descriptor can be read from, or its other end is closed."""
WRITE: Final = 0x004
"""The descriptor takes bytes."""
ERROR: Final = 0x008
"""The descriptor failed or was hung up."""


class HasFileno(Protocol):
    """An object over a descriptor, such as a socket."""

    def fileno(self) -> int: ...


TimeoutHandle: TypeAlias = object
"""What `Scheduler.call_at` returns and `Scheduler.remove_timeout` takes."""
FileDescriptor: TypeAlias = int | socket.socket | HasFileno
"""A descriptor, or an object with a `fileno` method."""
EventCallback: TypeAlias = Callable[[Any, int], object]
"""Takes the descriptor or object that was registered, and the events that came."""
TimeoutCallback: TypeAlias = Callable[[], object]
"""Takes nothing."""


class Scheduler(ABC):
    """A clock, callbacks, timers, futures and a way off the loop."""

    @abstractmethod
    def time(self) -> float:
        """Give the clock by which timers run.

        Returns:
            Seconds since some fixed moment. It never goes backwards.
        """

    @abstractmethod
    def add_callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Run a callback in a later iteration of the loop, after those added before it.

        Safe from any thread; the loop wakes for it. It runs in a copy of the caller's context
        (PEP 567). What it returns, if awaitable, becomes a task that is held until it is done.

        Args:
            callback: A function or coroutine function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            TypeError: If `callback` cannot be called.
            RuntimeError: If the loop is closed.
        """

    @abstractmethod
    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, **kwargs: Any
    ) -> TimeoutHandle:
        """Run a callback when the clock has reached a deadline, in a copy of the caller's context.

        Timers run by deadline, and those of one deadline in the order of their creation.

        Args:
            when: A value of `time`, in seconds; one that has passed means the next iteration,
                and infinity never comes.
            callback: A function or coroutine function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A handle for `remove_timeout`.

        Raises:
            TypeError: If `when` is no number or `callback` cannot be called.
            ValueError: If `when` is NaN, or more than ten years ahead and not infinity.
            RuntimeError: If the loop is closed.
        """

    @abstractmethod
    def remove_timeout(self, timeout: TimeoutHandle) -> None:
        """Make a timer never run. Does nothing to one that ran or was removed.

        Args:
            timeout: What `call_at`, `call_later` or `add_timeout` returned.

        Raises:
            TypeError: If it is no handle of this kind of scheduler.
        """

    @abstractmethod
    def create_future(self) -> "asyncio.Future[Any]":
        """Make a pending future of this scheduler's loop."""

    @abstractmethod
    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[..., T],
        *args: Any,
    ) -> "asyncio.Future[T]":
        """Run a function off the loop.

        Context variables go along to executors known to run in this process and interpreter.

        Args:
            executor: Where to run it; `None` for the loop's default.
            func: A plain function.
            *args: Its arguments.

        Returns:
            A future of its result, which is not done yet. It ends as the executor's own future
            does, but `StopIteration` becomes the cause of a `RuntimeError`. Cancelling it keeps
            the function from running if it has not started; one that has started runs to its
            end, and its result is dropped.

        Raises:
            TypeError: If `func` cannot be called, or `executor` is no executor, or gives no future
                of `concurrent.futures`.
            RuntimeError: If the executor is shut down or the loop is closed.
        """

    def call_later(
        self,
        delay: float | timedelta,
        callback: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> TimeoutHandle:
        """Run a callback after a delay, as `call_at` does.

        Args:
            delay: Seconds from now, or a `timedelta`; zero or less means the next iteration.
                Infinity, and a `timedelta` of more than ten years, never come.
            callback: A function or coroutine function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A handle for `remove_timeout`.

        Raises:
            TypeError: If `delay` is neither or `callback` cannot be called.
            ValueError: If `delay` is NaN, or a number of more than ten years other than infinity:
                that looks like a wall-clock deadline.
            RuntimeError: If the loop is closed.
        """
        when = deadline_of_delay(delay, self.time())
        return self.call_at(when, callback, *args, **kwargs)

    def add_timeout(
        self,
        deadline: float | timedelta,
        callback: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> TimeoutHandle:
        """Run a callback at a deadline (a number) or after a delay (a `timedelta`).

        Args:
            deadline: A value of `time`, in seconds, or a `timedelta` from now. Infinity, and a
                `timedelta` of more than ten years, never come.
            callback: A function or coroutine function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A handle for `remove_timeout`.

        Raises:
            TypeError: If `deadline` is neither or `callback` cannot be called.
            ValueError: If `deadline` is NaN, or a number more than ten years ahead other than
                infinity.
            RuntimeError: If the loop is closed.
        """
        if isinstance(deadline, timedelta):
            return self.call_later(deadline, callback, *args, **kwargs)
        return self.call_at(deadline, callback, *args, **kwargs)

    def add_future(self, future: F, callback: Callable[[F], object]) -> None:
        """Run `callback(future)` on this loop once the future is done, however it ends.

        It runs in a copy of the caller's context, in a later iteration, also if the future is done.

        Args:
            future: An asyncio future of any loop, or one of `concurrent.futures`. Its exception,
                if it has one, is the callback's to retrieve.
            callback: A function or coroutine function of one argument.

        Raises:
            TypeError: If `future` is no future or `callback` cannot be called.
        """
        if not isinstance(future, asyncio.Future | concurrent.futures.Future):
            raise TypeError(f"future must be a Future, not {future!r}")
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        # A future of concurrent.futures runs its callbacks in a thread with no context of ours.
        context = contextvars.copy_context()

        def on_done(done: Any) -> None:
            context.run(self.add_callback, callback, done)

        if future.done():
            on_done(future)
            return
        home = future.get_loop() if isinstance(future, asyncio.Future) else None
        if home is None or home is asyncio._get_running_loop() or not home.is_running():
            future.add_done_callback(on_done)
        else:  # it is another thread's, and only that may touch it
            home.call_soon_threadsafe(lambda: future.add_done_callback(on_done))

    def spawn_callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Start a callback for its own sake: its result is dropped, its errors are reported.

        Args:
            callback: A function or coroutine function. A coroutine becomes a task that is held
                until it is done.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            TypeError: If `callback` cannot be called.
            RuntimeError: If the loop is closed.
        """
        self.add_callback(callback, *args, **kwargs)


class Reactor(Scheduler):
    """A scheduler that also watches file descriptors."""

    @abstractmethod
    def add_handler(self, fd: FileDescriptor, handler: EventCallback, events: int) -> None:
        """Call a handler whenever a descriptor is ready.

        Readiness is level-triggered: the handler is called in every iteration in which an event
        of its mask is present. It runs in a copy of the caller's context. One that raises is
        reported and stays registered.

        Args:
            fd: A descriptor, or an object with `fileno`.
            handler: Takes `fd` as it was given here, and the events, one or several of
                `READ`, `WRITE` and `ERROR`.
            events: What to watch for, a union of `READ`, `WRITE` and `ERROR`. Only a handler
                that asks for `ERROR` is told of a hang-up as such.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If the descriptor is negative or has a handler, or the mask is bad.
            OSError: If the descriptor is not open or cannot be watched.
            RuntimeError: If the loop is closed, or the descriptor belongs to one of its transports.
        """

    @abstractmethod
    def update_handler(self, fd: FileDescriptor, events: int) -> None:
        """Change the events for which a descriptor's handler is called.

        Args:
            fd: What was given to `add_handler`, or its descriptor.
            events: A union of `READ`, `WRITE` and `ERROR`.

        Raises:
            KeyError: If the descriptor has no handler.
            ValueError: If the mask is bad.
            OSError: If the descriptor is not open any more.
            RuntimeError: If the loop is closed.
        """

    @abstractmethod
    def remove_handler(self, fd: FileDescriptor) -> None:
        """Stop watching a descriptor; its handler is not called again.

        Call it before the descriptor is closed: its number is soon somebody else's.

        Args:
            fd: What was given to `add_handler`, or its descriptor.

        Raises:
            KeyError: If the descriptor has no handler.
        """
