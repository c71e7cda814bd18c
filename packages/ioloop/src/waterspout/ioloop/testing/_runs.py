"""Runs of a scenario, each on a new loop, and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from waterspout.ioloop._lifecycle import cancel_all_tasks
from waterspout.ioloop._main import error_of, run_until_done
from waterspout.ioloop.testing._errors import DeadlockError, EndlessError
from waterspout.ioloop.testing._handles import Order, StepObserver
from waterspout.ioloop.testing._loop import SimulatedLoop
from waterspout.ioloop.testing._steps import AnyTask, label_of, number_of

MAX_TURNS = 100_000
"""The default of the turns of the loop after which a run is called endless."""
TURNS_TO_END = 1000
"""Turns that tasks which are cancelled at the end of a run may take to end."""

Main: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
Wrap: TypeAlias = Callable[[int, Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]
Expected: TypeAlias = Callable[[BaseException], bool]


def check_no_loop_runs(name: str) -> None:
    """Raise if a loop runs in this thread, where a function cannot run its own."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{name}() cannot be called while an event loop runs in this thread")


def check_positive(name: str, value: int) -> None:
    """Raise unless an argument is a positive integer."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, not {value!r}")


class Run:
    """One run of a coroutine function on a simulated loop.

    Args:
        order: Of the tasks.
        observer: Of their steps.
        wrap: Takes a new task's number and coroutine, and gives the coroutine to run instead.
        expected: Whether an exception is to be overlooked.
        max_turns: Of the loop, before the run is called endless.
        real_wait: As of the loop.
    """

    def __init__(
        self,
        order: Order | None = None,
        observer: StepObserver | None = None,
        *,
        wrap: Wrap | None = None,
        expected: Expected | None = None,
        max_turns: int = MAX_TURNS,
        real_wait: float | None = None,
    ) -> None:
        self._order = order
        self._observer = observer
        self._wrap = wrap
        self._expected = expected
        self._max_turns = max_turns
        self._real_wait = real_wait
        self._made: list[AnyTask] = []
        self._reported: list[dict[str, Any]] = []

    def of(self, main: Main, after: Main | None = None) -> BaseException | None:
        """Run it to its end.

        Args:
            main: The coroutine function.
            after: Run on the same loop once all tasks are done, in the loop's own order; tasks
                that are left over are cancelled for it instead of being an error.

        Returns:
            What it raised; or what the loop was told of by a callback; or what nobody looked at;
            or that it left tasks.

        Raises:
            KeyboardInterrupt: If it raised that, or `SystemExit`.
        """
        loop = SimulatedLoop(order=self._order, real_wait=self._real_wait)
        loop.set_debug(False)  # it notes a stack for each callback, and a run has a trace instead
        loop.set_exception_handler(self._note)
        loop._observer, loop._wrap, loop._made = self._observer, self._wrap, self._made
        loop._most_turns = self._max_turns
        clean = False
        error: BaseException | None = None
        stuck: BaseException | None = None
        left: list[AnyTask] = []
        try:
            error = self._run_on(loop, main)
            loop._order = loop._observer = loop._wrap = None
            if loop._asyncgens or asyncio.all_tasks(loop):
                error = error or self._run_on(loop, self._settle)
                left = sorted(asyncio.all_tasks(loop), key=number_of)
                stuck = self._end_tasks(loop)
            error = self._unexpected(error or stuck, self._expected)
            clean = after is None
            if after is not None and error is None:
                loop._most_turns = loop._turns + self._max_turns
                error = self._unexpected(self._run_on(loop, after), None)
            elif left and error is None:
                names = ", ".join(map(label_of, left))
                error = AssertionError(f"tasks were left running: {names}")
            return error
        finally:
            del error, stuck, left  # their tracebacks may refer to this frame
            if not clean:
                self._end_tasks(loop)
            self._made.clear()
            threads = getattr(loop, "_default_executor", None)
            if threads is not None:
                threads.shutdown()
            loop.close()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._reported.append(context)

    def _run_on(self, loop: SimulatedLoop, main: Main) -> BaseException | None:
        task = loop.create_task(main())
        try:
            run_until_done(loop, task)
        except (KeyboardInterrupt, SystemExit):
            raise
        except (DeadlockError, EndlessError) as error:
            return error.with_traceback(None)  # it has only frames of the loop
        except BaseException as error:  # test runners have exceptions that are no Exception
            return error
        else:
            return error_of(task)
        finally:
            del task  # the exception may refer to this frame

    async def _settle(self) -> None:
        """Let what is at its end come to it: generators, and tasks that were cancelled."""
        await asyncio.get_running_loop().shutdown_asyncgens()
        for _ in range(5):
            await asyncio.sleep(0)

    def _end_tasks(self, loop: SimulatedLoop) -> BaseException | None:
        """Cancel what is left; give what keeps it from ending."""
        if not asyncio.all_tasks(loop):
            return None
        loop._most_turns = loop._turns + TURNS_TO_END
        try:
            cancel_all_tasks(loop)
        except (DeadlockError, EndlessError) as error:
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            return error.with_traceback(None)
        return None

    def _unexpected(
        self, error: BaseException | None, expected: Expected | None
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
