"""Threads for the package's own blocking work: name resolution, processes, files.

That work never runs on the loop's default executor. The program may have filled that one with its
own jobs, or may have replaced it by a pool that cannot run these. The threads are daemons, so a
look-up that never returns does not keep the program from exiting.

Each kind of work has an executor of its own, so that one kind never waits for another. An executor
is passed to `Scheduler.run_in_executor`, so every scheduler can use it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

IDLE_SECONDS: Final = 5.0
"""How long a thread waits for another job before it ends."""


class _Worker(threading.Thread):
    """A thread of an executor.

    Attributes:
        _waterspout_idle: Whether it has no job. The testing kit does not count an idle thread as
            something that a test left behind.
    """

    _waterspout_idle = True


class DaemonExecutor(Executor):
    """Runs functions in daemon threads, which are started when they are needed.

    After a fork, the child has none of the threads and none of the jobs.

    Args:
        name: The name of its threads.
        max_workers: The most threads; jobs beyond that wait in order. `None` for no limit.
        idle_seconds: How long a thread waits for another job before it ends; `None` for ever.

    Attributes:
        _waterspout_threads: Tells a simulated loop that this executor needs real threads.
    """

    _waterspout_threads = True

    def __init__(
        self, name: str, max_workers: int | None, idle_seconds: float | None = IDLE_SECONDS
    ) -> None:
        self._name = name
        self._max_workers = max_workers
        self._idle_seconds = idle_seconds
        self._reset()
        if hasattr(os, "register_at_fork"):  # pragma: no branch (all but Windows)
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        # Reentrant, since the garbage collector may call for a job while this thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._workers = 0
        self._idle = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a function in one of the threads.

        Args:
            fn: The function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future of its result. Cancelling it drops a job that has not started.

        Raises:
            RuntimeError: If a thread is needed and cannot be started.
        """
        future: Future[T] = Future()
        job = future, lambda: fn(*args, **kwargs)
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) > self._idle and self._workers != self._max_workers:
                self._workers += 1
                try:
                    _Worker(target=self._work, name=self._name, daemon=True).start()
                except BaseException:
                    self._workers -= 1
                    self._jobs.remove(job)
                    raise
            else:
                self._changed.notify()
        return future

    def _work(self) -> None:
        thread = threading.current_thread()
        assert isinstance(thread, _Worker)
        while (job := self._next_job(thread)) is not None:
            _run(thread, *job)
            del job  # or it is kept until the next one comes

    def _next_job(self, thread: _Worker) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a job; `None` when there has been none for long enough."""
        with self._changed:
            self._idle += 1
            thread._waterspout_idle = True
            try:
                if not self._changed.wait_for(lambda: self._jobs, self._idle_seconds):
                    self._workers -= 1
                    return None
                thread._waterspout_idle = False
                return self._jobs.popleft()
            finally:
                self._idle -= 1


def _run(thread: _Worker, future: "Future[Any]", job: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except BaseException as error:
        thread._waterspout_idle = True
        future.set_exception(error)
        del future  # its exception refers to this frame
    else:
        # Before the result is known, so that whoever waits for it finds the thread idle.
        thread._waterspout_idle = True
        future.set_result(result)


LOOKUPS: Final = DaemonExecutor("waterspout-lookup", 32)
"""Resolves names. More look-ups than that wait for one of them to end."""
FILES: Final = DaemonExecutor("waterspout-file", 32)
"""Reads files."""
STARTS: Final = DaemonExecutor("waterspout-start", 32, None)
"""Starts processes. Its threads never end: to the kernel the thread that forks is the parent, and a
process that asked for a death signal (`PR_SET_PDEATHSIG`, prctl(2)) is killed when that thread
ends. There is one thread unless starts overlap, for instance while a `preexec_fn` blocks."""
EXITS: Final = DaemonExecutor("waterspout-exit", None)
"""Waits for processes to end, where the loop cannot watch them."""
