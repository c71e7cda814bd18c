"""`IOLoop`: Tornado's event loop interface over any asyncio event loop.

Rules:

1.  An `IOLoop` and its asyncio loop live together, one each: `IOLoop.current` inside a running
    loop gives the same object always, whoever made the loop.
2.  The current loop of a thread is the one that asyncio knows for it. There is no second record.
3.  Every callback, timer and handler runs through `_run`, so that an `Exception` reaches one
    hook, `handle_callback_exception`, and never the loop.
4.  Tasks that the loop started for somebody are held until they are done.
5.  Nothing at import makes a loop or a thread, or touches the event loop policy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import get_ident
from typing import Any, ClassVar, Literal, TypeVar, overload

from waterspout.ioloop._alarm import Alarm
from waterspout.ioloop._configure import Install, LoopFactory, loop_factory, new_loop, thread_loop
from waterspout.ioloop._executors import Executors
from waterspout.ioloop._fork import is_inherited, refuse, watch
from waterspout.ioloop._futures import calls_back_directly
from waterspout.ioloop._handlers import Handlers
from waterspout.ioloop._interrupts import first_interrupt_calls, signals_wake
from waterspout.ioloop._lifecycle import (
    call_with_timeout,
    cancel_all_tasks,
    check_can_run,
    close_source,
    knows_its_thread,
)
from waterspout.ioloop._main import run_until_done
from waterspout.ioloop._tasks import HeldTasks
from waterspout.ioloop._timers import Timer
from waterspout.ioloop.scheduling import (
    ERROR,
    READ,
    WRITE,
    EventCallback,
    FileDescriptor,
    Reactor,
    TimeoutHandle,
    register_scheduler,
)
from waterspout.ioloop.scheduling._registry import defaults
from waterspout.ioloop.scheduling._seconds import (
    Timeout,
    checked_deadline,
    deadline_of_delay,
    timeout_seconds,
)

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any] | concurrent.futures.Future[Any]")

_get_running_loop = asyncio._get_running_loop
_ATTRIBUTE = "_waterspout_ioloop"


class IOLoop(Reactor):
    """An event loop: callbacks, timers, descriptors and executors on an asyncio loop.

    Inside a running asyncio loop, use `IOLoop.current()`. To make one and run it::

        loop = IOLoop()
        loop.run_sync(main)
        loop.close()

    Args:
        asyncio_loop: The asyncio loop to wrap; `None` makes one, as `configure` says.
        make_current: Whether a loop that is made becomes the current one of this thread. It
            does not where another loop is running.

    Attributes:
        READ: Event mask: the descriptor can be read from.
        WRITE: Event mask: the descriptor takes bytes.
        ERROR: Event mask: the descriptor failed or was hung up.

    Raises:
        TypeError: If `asyncio_loop` is no event loop.
        RuntimeError: If it has an IOLoop already, or is closed.
    """

    READ = READ
    WRITE = WRITE
    ERROR = ERROR

    _factory: ClassVar[LoopFactory] = staticmethod(loop_factory(None, {}))
    _global: "ClassVar[IOLoop | None]" = None
    _global_lock: ClassVar[Any] = threading.RLock()

    def __init__(
        self,
        asyncio_loop: asyncio.AbstractEventLoop | None = None,
        *,
        make_current: bool = True,
    ) -> None:
        loop = new_loop(IOLoop._factory) if asyncio_loop is None else asyncio_loop
        if not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"asyncio_loop must be an asyncio event loop, not {loop!r}")
        if loop.is_closed():
            raise RuntimeError(f"asyncio_loop is closed: {loop!r}")
        if hasattr(loop, _ATTRIBUTE):
            raise RuntimeError(f"{loop!r} has an IOLoop already: IOLoop.current() gives it")
        self._loop = loop
        # Bound once: they are called often, and in a forked child they are taken away.
        self._call_soon: Callable[..., object] = loop.call_soon
        self._call_soon_threadsafe: Callable[..., object] = loop.call_soon_threadsafe
        self._is_closed: Callable[[], bool] = loop.is_closed
        self._time = loop.time
        self._knows_thread: Any = loop if knows_its_thread(loop) else None
        self._alarm = Alarm(loop, self._run)
        self._handlers = Handlers(loop, self._closed, self._report)
        self._tasks = HeldTasks(loop, self.handle_callback_exception)
        self._executors = Executors(loop)
        self._closing = False
        self._ours = False  # whether start() or run_sync() runs the loop
        setattr(loop, _ATTRIBUTE, self)
        watch(self)
        if not hasattr(loop, "_waterspout_scheduler"):
            register_scheduler(loop, self)
        if asyncio_loop is None and make_current and _get_running_loop() is None:
            self.make_current()

    def __repr__(self) -> str:
        loop = self.asyncio_loop
        state = "closed" if loop.is_closed() else "running" if loop.is_running() else "stopped"
        return f"<{type(self).__name__} {state} {loop!r}>"

    # Which loop

    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop:
        """The asyncio loop beneath."""
        return self._loop

    @classmethod
    def configure(cls, impl: "str | LoopFactory | None", **kwargs: Any) -> None:
        """Choose what new loops are made of; loops that exist stay as they are.

        Args:
            impl: `"asyncio"` (the default, also `None`), `"uvloop"` (the extra
                `waterspout-ioloop[uvloop]`), the dotted name of an asyncio loop class or of a
                function that makes a loop, or that class or function.
            **kwargs: What to call it with.

        Raises:
            TypeError: If `impl` is none of these.
            ImportError: If it cannot be imported.
        """
        IOLoop._factory = staticmethod(loop_factory(impl, kwargs))

    @classmethod
    def instance(cls) -> "IOLoop":
        """Give the loop that all threads share: the installed one.

        Without `install`, the first call installs the current loop of its thread, made if there
        is none.

        Returns:
            The same loop in every thread, until it is closed.
        """
        with IOLoop._global_lock:
            loop = None if IOLoop._global is None else IOLoop._global.asyncio_loop
            if loop is None or loop.is_closed() or is_inherited(loop):
                IOLoop._global = cls.current()
            assert IOLoop._global is not None
            return IOLoop._global

    @staticmethod
    def _set_global(loop: "IOLoop") -> None:
        IOLoop._global = loop

    install: ClassVar[Install] = Install()
    """Make a loop the one that `instance` gives in every thread: as `IOLoop.install()` this
    thread's current one, made if there is none; as `loop.install()` that loop."""

    @overload
    @classmethod
    def current(cls, instance: Literal[True] = True) -> "IOLoop": ...
    @overload
    @classmethod
    def current(cls, instance: bool) -> "IOLoop | None": ...
    @classmethod
    def current(cls, instance: bool = True) -> "IOLoop | None":
        """Give the IOLoop of the running loop, or of this thread.

        Args:
            instance: Whether to make one, and make it current, where there is none.

        Returns:
            The IOLoop of the running asyncio loop, always the same one for a loop; where none
            runs, that of the loop set for this thread; else a new one, or `None` with
            `instance=False`.
        """
        loop = _get_running_loop() or thread_loop()
        if loop is not None and not is_inherited(loop):
            found: IOLoop | None = getattr(loop, _ATTRIBUTE, None)
            return cls(loop) if found is None else found
        return cls() if instance else None

    def make_current(self) -> None:
        """Make this the current loop of the calling thread, for asyncio as well.

        Raises:
            RuntimeError: If the loop is closed.
        """
        self._check_open()
        asyncio.set_event_loop(self.asyncio_loop)

    @staticmethod
    def clear_current() -> None:
        """Leave the calling thread without a current loop."""
        asyncio.set_event_loop(None)

    # Running

    def start(self) -> None:
        """Run the loop until `stop` is called.

        Raises:
            RuntimeError: If a loop runs in this thread, or this one runs or is closed.
            KeyboardInterrupt: And `SystemExit`, if a callback lets one out or Ctrl-C comes. The
                loop is closed then, as `close` does it.
        """
        check_can_run(self.asyncio_loop, self._is_closed, "start")
        loop = self.asyncio_loop
        with self._running(lambda: self._call_soon_threadsafe(loop.stop)):
            loop.run_forever()

    def stop(self) -> None:
        """End the loop that `start` runs, after this iteration.

        Before `start`, the next `start` ends after one iteration. From another thread, use
        `loop.add_callback(loop.stop)`.

        Raises:
            RuntimeError: If somebody else runs the loop, such as `asyncio.run`. Inside `run_sync`
                it makes that raise.
        """
        if self._closing:
            return  # the loop is at its end anyway
        if not self._is_closed() and self.asyncio_loop.is_running() and not self._ours:
            raise RuntimeError("stop() ends only a loop that start() runs; this one is another's")
        self.asyncio_loop.stop()

    @overload
    def run_sync(self, func: Callable[[], Awaitable[T]], timeout: Timeout = None) -> T: ...
    @overload
    def run_sync(self, func: Callable[[], T], timeout: Timeout = None) -> T: ...
    def run_sync(self, func: Callable[[], Any], timeout: Timeout = None) -> Any:
        """Run a coroutine function to its end, in a loop that runs for it alone.

        Args:
            func: A coroutine function without arguments, or a function whose result is awaited
                if it is awaitable.
            timeout: Seconds, or a `timedelta`, that it may take. When they are over it is
                cancelled, and its end is waited for.

        Returns:
            What `func` returned.

        Raises:
            TypeError: If `func` cannot be called or `timeout` is no timeout.
            ValueError: If `timeout` is NaN or a number of more than ten years.
            TimeoutError: If it took too long.
            RuntimeError: If a loop runs in this thread, or this one runs, is closed, or is
                stopped before `func` is done.
            Exception: What `func` raised.
            KeyboardInterrupt: If Ctrl-C comes; `func` is cancelled first, and its end waited for.
                After this, or `SystemExit`, the loop is closed, as `close` does it.
        """
        check_can_run(self.asyncio_loop, self._is_closed, "run_sync")
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        seconds = timeout_seconds(timeout)
        main = self.asyncio_loop.create_task(call_with_timeout(func, seconds))
        try:
            with self._running(partial(self._call_soon_threadsafe, main.cancel)):
                run_until_done(self._loop, main)
            return main.result()
        finally:
            del main  # its exception refers to this frame

    def close(self, all_fds: bool = False) -> None:
        """Close the loop for good, and the asyncio loop beneath it.

        Tasks that are left are cancelled and waited for, as `asyncio.run` does; timers and
        handlers are dropped. Closing twice does nothing.

        Args:
            all_fds: Whether to close the descriptors and objects that have handlers, too.

        Raises:
            RuntimeError: If the loop is running, or has tasks while another runs in this thread.
        """
        loop = self.asyncio_loop
        if self._is_closed():
            return
        if loop.is_running():
            raise RuntimeError("a running loop cannot be closed: stop it first")
        if _get_running_loop() is not None and asyncio.all_tasks(loop):
            raise RuntimeError("a loop with tasks cannot be closed while another runs here")
        current = thread_loop() is loop
        self._closing = True
        try:
            if _get_running_loop() is None:
                cancel_all_tasks(loop)
        finally:
            sources = self._handlers.sources()
            self._handlers.close()
            self._alarm.timers.clear()
            loop.close()
            if current:
                self.clear_current()
        if all_fds:
            for source in sources.values():
                close_source(source)

    # Descriptors

    def add_handler(self, fd: FileDescriptor, handler: EventCallback, events: int) -> None:
        self._handlers.add(fd, handler, events)

    def update_handler(self, fd: FileDescriptor, events: int) -> None:
        self._handlers.update(fd, events)

    def remove_handler(self, fd: FileDescriptor) -> None:
        self._handlers.remove(fd)

    # Timers

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, **kwargs: Any
    ) -> TimeoutHandle:
        return self._add_timer(checked_deadline(when, self._time(), "when"), callback, args, kwargs)

    def call_later(
        self,
        delay: float | timedelta,
        callback: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> TimeoutHandle:
        return self._add_timer(deadline_of_delay(delay, self._time()), callback, args, kwargs)

    def add_timeout(
        self,
        deadline: float | timedelta,
        callback: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> TimeoutHandle:
        now = self._time()
        if isinstance(deadline, timedelta):
            when = deadline_of_delay(deadline, now, "deadline")
        else:
            when = checked_deadline(deadline, now, "deadline")
        return self._add_timer(when, callback, args, kwargs)

    def remove_timeout(self, timeout: TimeoutHandle) -> None:
        if not isinstance(timeout, Timer):
            raise TypeError(f"timeout must be what call_at or call_later gave, not {timeout!r}")
        timeout.owner.remove(timeout)

    def time(self) -> float:
        return self._time()

    # Callbacks and futures

    def add_callback(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        here = (
            _get_running_loop() is self._loop
            if self._knows_thread is None
            else self._knows_thread._thread_id == get_ident()
        )
        if here:
            self._call_soon(self._run, callback, args, kwargs)
        else:
            self._call_soon_threadsafe(self._run, callback, args, kwargs)

    def add_callback_from_signal(
        self, callback: Callable[..., object], *args: Any, **kwargs: Any
    ) -> None:
        """Run a callback in a later iteration; safe inside a `signal.signal` handler.

        Args:
            callback: A function or coroutine function. It starts in the context in which the
                handler ran.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Raises:
            TypeError: If `callback` cannot be called.
            RuntimeError: If the loop is closed.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        # A handler may have interrupted this very loop, so the loop must be woken in any case.
        self._call_soon_threadsafe(self._run, callback, args, kwargs)

    def create_future(self) -> "asyncio.Future[Any]":
        return self._loop.create_future()

    def add_future(self, future: F, callback: Callable[[F], object]) -> None:
        if not calls_back_directly(self._loop, self._run, future, callback):
            super().add_future(future, callback)

    def handle_callback_exception(self, callback: Callable[..., object]) -> None:
        """Report the exception being handled, which a callback let out.

        Every exception of a callback, timer, handler or task that this loop started comes here.
        It goes to the asyncio loop's exception handler, which by default logs it. Override it,
        or set that handler, to do otherwise.

        Args:
            callback: What raised it.
        """
        self.asyncio_loop.call_exception_handler(
            {"message": f"Exception in callback {callback!r}", "exception": sys.exception()}
        )

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[..., T],
        *args: Any,
    ) -> "asyncio.Future[T]":
        if self._is_closed():
            raise RuntimeError("the event loop is closed")
        return self._executors.run(executor, func, args)

    def set_default_executor(self, executor: concurrent.futures.Executor) -> None:
        """Set where `run_in_executor(None, ...)` runs functions.

        Args:
            executor: Any executor. A pool of threads becomes the asyncio loop's default as well,
                and is shut down with it. Another one, such as a pool of processes, stays its
                owner's, and asyncio's own functions (`asyncio.to_thread`) keep their threads.

        Raises:
            TypeError: If it is no executor.
        """
        self._executors.set_default(executor)

    # Inside

    @contextmanager
    def _running(self, interrupt: Callable[[], object]) -> Generator[None, None, None]:
        """Around a run of the loop; closes it when the program is to end."""
        self._ours = True
        try:
            with signals_wake(self.asyncio_loop), first_interrupt_calls(interrupt):
                yield
        except (KeyboardInterrupt, SystemExit):
            self._ours = False
            self.close()
            raise
        finally:
            self._ours = False

    def _closed(self) -> bool:
        return self._is_closed()

    def _check_open(self) -> None:
        if self._is_closed():
            raise RuntimeError("the event loop is closed")

    def _run(
        self, callback: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        try:
            result = callback(*args, **kwargs)
            if result is not None and inspect.isawaitable(result):
                self._tasks.hold(callback, result)
        except Exception:
            self.handle_callback_exception(callback)

    def _report(self, callback: Callable[..., object]) -> None:
        self.handle_callback_exception(callback)

    def _add_timer(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Timer:
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        self._check_open()
        return self._alarm.add(when, callback, args, kwargs)

    def _become_inherited(self) -> None:  # pragma: no cover (in a forked child)
        """See `_fork`."""
        self._call_soon = self._call_soon_threadsafe = self._is_closed = refuse


defaults.for_loop = IOLoop
defaults.for_thread = partial(IOLoop.current, instance=False)
