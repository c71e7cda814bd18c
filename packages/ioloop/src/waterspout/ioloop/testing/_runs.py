"""Runs of a scenario: each as though on a new loop, and its outcome.

A loop costs as much to make as a small scenario to run, so one that nothing is left on serves
again, with its clock set back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeAlias

from waterspout.ioloop._lifecycle import cancel_all_tasks
from waterspout.ioloop.testing._loop import DeadlockError, Order, SimulatedLoop, StepObserver
from waterspout.ioloop.testing._steps import AnyTask, label_of, number_of

MAX_TURNS = 100_000
"""Turns of the loop after which a run is called endless."""

Main: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
Wrap: TypeAlias = Callable[[int, Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


class Runs:
    """Runs coroutine functions on simulated loops. To be used in a `with` block.

    Args:
        name: Of the function that runs them, for the error message.

    Raises:
        RuntimeError: If a loop runs in this thread.
    """

    def __init__(self, name: str) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(f"{name}() cannot be called while an event loop runs in this thread")
        self._loop: SimulatedLoop | None = None
        self._made: list[AnyTask] = []
        self._reported: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop.close()

    def run(
        self,
        main: Main,
        order: Order | None = None,
        observer: StepObserver | None = None,
        *,
        wrap: Wrap | None = None,
        after: Main | None = None,
        expected: Callable[[BaseException], bool] | None = None,
    ) -> BaseException | None:
        """Run a coroutine function to its end.

        Args:
            main: The coroutine function.
            order: Of the tasks.
            observer: Of their steps.
            wrap: Takes a new task's number and coroutine, and gives the coroutine to run instead.
            after: Run on the same loop once all tasks are done, in the loop's own order; tasks
                that are left over are cancelled for it instead of being an error.
            expected: Whether an exception is to be overlooked.

        Returns:
            What it raised; or what the loop was told of by a callback; or that it left tasks.
        """
        loop = self._fresh_loop()
        loop._order, loop._observer, loop._wrap = order, observer, wrap
        self._made.clear()
        error = self._run_on(loop, main)
        loop._order = loop._observer = loop._wrap = None
        left = sorted(asyncio.all_tasks(loop), key=number_of)
        if left:
            try:
                cancel_all_tasks(loop)
            except DeadlockError as stuck:
                error = error or stuck
        error = self._unexpected(error, expected)
        if error is None and after is not None:
            error = self._unexpected(self._run_on(loop, after), None)
        elif error is None and left:
            error = AssertionError(f"tasks were left running: {', '.join(map(label_of, left))}")
        self._recycle(loop, clean=not left)
        return error

    def _run_on(self, loop: SimulatedLoop, main: Main) -> BaseException | None:
        try:
            task = loop.create_task(main())
            task.add_done_callback(self._stop)
            loop.run_forever()
            task.result()
        except (Exception, asyncio.CancelledError) as error:
            return error
        return None

    def _unexpected(
        self, error: BaseException | None, expected: Callable[[BaseException], bool] | None
    ) -> BaseException | None:
        """Give the first of what a run raised and what nobody looked at, but for the expected."""
        errors: list[BaseException] = [] if error is None else [error]
        if self._reported:
            errors += [
                context.get("exception") or RuntimeError(context["message"])
                for context in self._reported
            ]
            self._reported.clear()
        for task in self._made:
            if task._log_traceback:
                failed = task.exception()  # now it was looked at, and is not reported much later
                assert failed is not None
                errors.append(failed)
        return next((one for one in errors if expected is None or not expected(one)), None)

    def _stop(self, task: AnyTask) -> None:
        task.get_loop().stop()

    def _fresh_loop(self) -> SimulatedLoop:
        loop, self._loop = self._loop, None
        if loop is None:
            loop = SimulatedLoop()
            loop._most_turns = MAX_TURNS
            loop._made = self._made
            loop.set_exception_handler(lambda _, context: self._reported.append(context))
        return loop

    def _recycle(self, loop: SimulatedLoop, clean: bool) -> None:
        """Keep a loop for the next run, unless something is left on it."""
        self._reported.clear()
        if clean and loop.is_pristine():
            loop.start_over()
            self._loop = loop
        else:
            loop.close()
