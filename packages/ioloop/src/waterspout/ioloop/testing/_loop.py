"""`SimulatedLoop`: an asyncio event loop whose time, order and descriptors are the test's.

It is asyncio's own selector loop with another clock, another selector and another turn:

1.  Time is virtual. It stands still while anything is ready, and then jumps to the next timer. A
    program that is never at rest, since it spins until some time has come, would wait for ever;
    so after many turns without a rest, each takes a moment.
2.  Where nothing is ready and no timer is left, nothing can ever happen: `DeadlockError`.
3.  An order may choose which of the task steps that are ready runs next. Plain callbacks keep
    their places in the queue, and task steps change theirs only among themselves: asyncio's own
    machinery (timeouts, transports, done callbacks) relies on the order of callbacks, and no
    program may rely on that of tasks.
4.  Descriptors are virtual, and so nothing outside the test decides when something happens. Real
    descriptors and threads are refused, unless the loop is told how long to wait for them.

`IOLoop.current()` is its `Reactor`, as on any loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
import threading
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

from waterspout.ioloop._executors import done_later
from waterspout.ioloop.scheduling import timeout_seconds
from waterspout.ioloop.testing._descriptors import SimulatedSelector, VirtualDescriptor
from waterspout.ioloop.testing._errors import DeadlockError, EndlessError
from waterspout.ioloop.testing._handles import (
    Order,
    Step,
    StepObserver,
    Timer,
    bring_to_head,
)
from waterspout.ioloop.testing._order import SeededOrder
from waterspout.ioloop.testing._steps import (
    AnyTask,
    as_current,
    give_number,
    has_begun,
    is_unknown,
    note_step,
    number_of,
    register,
    task_of,
)
from waterspout.ioloop.testing._threads import is_idle, needs_threads

T = TypeVar("T")

BUSY_TURNS = 1000
"""Turns without a rest that take no time."""
SECONDS_A_BUSY_TURN = 1e-6
"""What each further one takes, in virtual seconds."""

LONGEST_SELECT = 1e6
"""Seconds. epoll counts milliseconds in 32 bits."""


def _only_real(name: str, what: str) -> Any:
    """Make a loop's method that is refused without `real_wait`."""

    async def method(self: SimulatedLoop, *args: Any, **kwargs: Any) -> Any:
        self._need_real_wait(what)
        return await getattr(super(SimulatedLoop, self), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = "Refused without `real_wait`."
    return method


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with virtual time, for tests::

        asyncio.run(main(), loop_factory=SimulatedLoop)   # Python 3.12; or
        simulate(main)

    Tasks, timeouts and whatever is built on them run on it. An hour's sleep takes microseconds,
    and a wait that nothing can end raises `DeadlockError`.

    Args:
        seed: Of the order in which task steps that are ready together run: the same seed, the
            same run. `None` keeps asyncio's order, first come, first served.
        order: The order, as a function; instead of a seed.
        real_wait: Real seconds to wait for real descriptors and threads whenever nothing is
            ready, before time jumps. `None` refuses them.

    Raises:
        TypeError: If an argument is of the wrong kind, or both `seed` and `order` are given.
        ValueError: If `real_wait` is negative, NaN, or more than ten years and not infinity.
    """

    # Of asyncio's inside, what is used here.
    _asyncgens: Any
    _check_callback: Callable[[Any, str], None]
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]
    _closed: bool = True  # up to where there is something to close
    _debug: bool
    _process_events: Callable[[Any], None]
    _ready: deque[asyncio.Handle]
    _scheduled: list[Timer]
    _selector: SimulatedSelector
    _stopping: bool
    _task_factory: Any
    _timer_cancelled_count: int

    def __init__(
        self,
        *,
        seed: int | None = None,
        order: Order | None = None,
        real_wait: float | None = None,
    ) -> None:
        if seed is not None and order is not None:
            raise TypeError("seed and order exclude each other")
        if order is not None and not callable(order):
            raise TypeError(f"order must be callable, not {order!r}")
        if real_wait is not None and not isinstance(real_wait, int | float):
            raise TypeError(f"real_wait must be seconds or None, not {real_wait!r}")
        if real_wait is not None and not real_wait >= 0:
            raise ValueError(f"real_wait must not be negative, not {real_wait!r}")
        timeout_seconds(real_wait, "real_wait")
        self._now = 0.0
        self._real_wait = real_wait
        self._order = order if seed is None else SeededOrder(seed)
        self._observer: StepObserver | None = None
        self._made: list[AnyTask] | None = None  # every task that was made, if anybody asks
        self._wrap: Callable[[int, Any], Any] | None = None  # what a new task runs, by its number
        self._numbers = 0  # of tasks
        self._timers = 0  # ever made
        self._steps = 0  # of tasks, ever run
        self._offloaded: set[asyncio.Future[Any]] = set()  # what threads have to do for us
        self._thread = threading.get_ident()
        self._known_threads = () if real_wait is None else tuple(threading.enumerate())
        self._turns = 0
        self._busy = 0  # turns since the loop was at rest
        self._most_turns: float = math.inf  # before the run is given up
        real = None if real_wait is None else selectors.DefaultSelector()
        super().__init__(SimulatedSelector(real))
        self._waterspout_kernel = self._selector  # see waterspout.ioloop._watcher

    def time(self) -> float:
        """Give the virtual time, in seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass while the program does something that takes long.

        Args:
            seconds: How long, in virtual seconds.

        Raises:
            ValueError: If it is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must not be negative, not {seconds!r}")
        self._now += seconds

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Run a callback when the virtual time has come; of one time, the older first.

        Raises:
            TypeError: If `when` is no number or `callback` cannot be called.
            ValueError: If `when` is NaN.
            RuntimeError: If the loop is closed.
        """
        self._check_closed()
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {callback!r}")
        if not isinstance(when, int | float):
            raise TypeError(f"when must be a number, not {when!r}")
        if when != when:
            raise ValueError("when must not be NaN")
        timer = Timer(when, callback, args, self, context)
        timer.number = self._timers = self._timers + 1
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    # Virtual descriptors

    def new_descriptor(self) -> VirtualDescriptor:
        """Open a virtual descriptor, at which nothing is ready yet."""
        return self._selector.new_descriptor()

    def close_descriptor(self, descriptor: VirtualDescriptor) -> None:
        """Close a virtual descriptor. Closing twice does nothing."""
        if not self._closed:
            self._selector.close_descriptor(descriptor)

    def open_descriptors(self) -> list[int]:
        """The numbers of the virtual descriptors that are open."""
        return self._selector.open_descriptors()

    # What a loop outside of tests would do

    def run_in_executor(  # type: ignore[override]
        self, executor: futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """Run a function in an executor.

        Executors that complete in the loop's own thread are always welcome. The future is not done
        when it is returned, however fast the executor is.

        Raises:
            RuntimeError: If it is a pool of threads or processes, and the loop was made without
                `real_wait`.
        """
        self._check_executor(executor, func)
        future = super().run_in_executor(executor, func, *args)
        return self._account_for(done_later(future) if future.done() else future)

    def _waterspout_offload(
        self, executor: futures.Executor, func: Callable[..., Any]
    ) -> "asyncio.Future[Any]":
        """Give the future of what an IOLoop is about to submit. See `waterspout.ioloop._executors`.

        Raises:
            RuntimeError: As `run_in_executor`.
        """
        self._check_executor(executor, func)
        return self._account_for(self.create_future())

    def _check_executor(self, executor: futures.Executor | None, func: object) -> None:
        pools = (futures.ThreadPoolExecutor, futures.ProcessPoolExecutor, type(None))
        if self._real_wait is None and (isinstance(executor, pools) or needs_threads(executor)):
            raise RuntimeError(
                "a simulated loop does not wait for threads and processes unless it is made "
                f"with real_wait= (run_in_executor of {func!r})"
            )

    def _account_for(self, future: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Wait in real time while this future is pending."""
        if self._real_wait is not None:
            self._offloaded.add(future)
            future.add_done_callback(self._offloaded.discard)
        return future

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Run a callback in a later turn.

        Raises:
            RuntimeError: If another thread calls it, and the loop was made without `real_wait`.
        """
        if self._real_wait is None and self._thread != threading.get_ident():
            raise RuntimeError(
                f"{threading.current_thread().name} called a simulated loop, which does not wait "
                "for threads unless it is made with real_wait="
            )
        return super().call_soon_threadsafe(callback, *args, context=context)

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Refused without `real_wait`."""
        self._need_real_wait("signals")
        super().add_signal_handler(sig, callback, *args)

    def _need_real_wait(self, what: str) -> None:
        if self._real_wait is None:
            raise RuntimeError(
                f"a simulated loop does not wait for {what} unless it is made with real_wait="
            )

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Shut the pool of threads down; that takes real time, so none of ours limits it."""
        if getattr(self, "_default_executor", None) is not None:
            ending = self.create_future()
            self._offloaded.add(ending)
            try:
                await super().shutdown_default_executor()
            finally:
                self._offloaded.discard(ending)

    # Tasks are numbered

    def create_task(self, coro: Any, **kwargs: Any) -> AnyTask:
        """Make a task, as any loop does."""
        number = self._next_number()
        if self._wrap is not None:
            coro = self._wrap(number, coro)
        task: AnyTask
        if self._task_factory is None:
            self._check_closed()
            task = asyncio.Task(coro, loop=self, **kwargs)
        else:
            task = super().create_task(coro, **kwargs)
        if is_unknown(task):  # pragma: no cover (from Python 3.14 on)
            register(task)
        give_number(task, number)
        if self._made is not None:
            self._made.append(task)
        if self._observer is not None and not task.done() and has_begun(coro):
            self._observer.after_step(task)  # its first one, which it took eagerly
        return task

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # The turn

    def _run_once(self) -> None:
        """Run what is ready. Beneath, asyncio calls this again and again."""
        self._thread = threading.get_ident()
        ready = self._ready
        self._turns += 1
        if self._turns >= self._most_turns:
            raise EndlessError(f"the run did not come to its end in {self._turns} turns")
        if self._scheduled or self._selector.may_be_ready:
            self._collect_ready()
        if not ready and not self._stopping:
            self._busy = 0
            self._wait()
        elif self._busy < BUSY_TURNS:
            self._busy += 1
        else:
            self._now += SECONDS_A_BUSY_TURN
        if self._order is not None or self._observer is not None:
            self._run_in_order(ready)
            return
        handle: asyncio.Handle | None = None
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        # An exception's traceback may refer to this frame, and the handle's task to the exception.
        handle = None

    def _collect_ready(self) -> None:
        """Queue the callbacks of ready descriptors and of due timers."""
        selector, scheduled = self._selector, self._scheduled
        if selector.may_be_ready and (events := selector.select(0)):
            self._process_events(events)
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= self._now):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(handle)
        if self._timer_cancelled_count > 100 and self._timer_cancelled_count * 2 > len(scheduled):
            self._drop_cancelled_timers()

    def _drop_cancelled_timers(self) -> None:
        kept = []
        for handle in self._scheduled:
            if handle._cancelled:
                handle._scheduled = False
            else:
                kept.append(handle)
        heapq.heapify(kept)
        self._scheduled = kept
        self._timer_cancelled_count = 0

    def _wait(self) -> None:
        """Make something happen: from outside, if it may come from there, or by the clock."""
        if self._real_wait is not None and self._may_be_woken():
            self._process_events(self._selector.select(min(self._real_wait, LONGEST_SELECT)))
            if self._ready:
                return
        if not self._scheduled or self._scheduled[0]._when == math.inf:
            tasks = sorted(asyncio.all_tasks(self), key=number_of)
            raise DeadlockError(tasks)
        self._now = max(self._now, self._scheduled[0]._when)
        self._collect_ready()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Run a callback in the next turn."""
        if self._closed or self._debug:
            self._check_closed()
            self._check_thread()
            self._check_callback(callback, "call_soon")
        task = task_of(callback)
        handle: asyncio.Handle
        if task is None:
            handle = asyncio.Handle(callback, args, self, context)
        else:
            if is_unknown(task):  # pragma: no cover (from Python 3.14 on)
                register(task)  # it may have been made behind the loop's back
                callback = as_current(task, callback)
            handle = Step(callback, args, self, context)
            handle.task = task
        self._ready.append(handle)
        return handle

    def _may_be_woken(self) -> bool:
        """Whether something may come from outside: from descriptors, threads or signals."""
        signals: object = getattr(self, "_signal_handlers", None)
        if self._offloaded or self._selector.watches_real() or signals:
            return True
        pools: Any = vars(futures.thread)["_threads_queues"]  # their threads are idle, then
        known = {*self._known_threads, *pools}
        return any(thread not in known and not is_idle(thread) for thread in threading.enumerate())

    def _run_in_order(self, ready: "deque[asyncio.Handle]") -> None:
        order, observer = self._order, self._observer
        for _ in range(len(ready)):
            handle = ready[0]
            if type(handle) is not Step:
                ready.popleft()
                if not handle._cancelled:
                    handle._run()
                    if observer is not None:
                        observer.after_callback()
                continue
            if order is not None and len(ready) > 1:
                try:
                    handle = bring_to_head(ready, order)
                except BaseException:
                    self._order = None  # what is left is to be ended in peace
                    raise
            ready.popleft()
            self._steps += 1
            note_step(handle.task, self._steps)
            if observer is None:
                handle._run()
            else:
                observer.before_step(handle.task)
                handle._run()
                observer.after_step(handle.task)
            del handle  # as above

    # Inside asyncio: a pipe that wakes the loop exists only where something may come from outside

    def _make_self_pipe(self) -> None:
        if self._real_wait is not None:
            super()._make_self_pipe()  # type: ignore[misc]

    def _close_self_pipe(self) -> None:
        if self._real_wait is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def _write_to_self(self) -> None:
        if self._real_wait is not None:
            super()._write_to_self()  # type: ignore[misc]


_REAL = {
    "descriptors": (
        "create_connection",
        "create_server",
        "create_datagram_endpoint",
        "create_unix_connection",
        "create_unix_server",
        "connect_accepted_socket",
        "connect_read_pipe",
        "connect_write_pipe",
    ),
    "processes": ("subprocess_exec", "subprocess_shell"),
}

for _what, _names in _REAL.items():
    for _name in _names:
        setattr(SimulatedLoop, _name, _only_real(_name, _what))
