"""`cancel_everywhere`: a scenario, cancelled at each point at which it can be.

A task can be cancelled only while it is suspended, and at each suspension there are two moments
that matter: as soon as it waits, when what it waits for has not happened; and just before it goes
on, when that has happened and it does not know it yet. The second is the gap in which hand-offs
get lost. A task that has not begun has only the second.

A timeout is a cancellation that comes from within: `asyncio.timeout` around what the task does
cancels it, and makes the `CancelledError` that comes out a `TimeoutError`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from waterspout.ioloop.testing._errors import PicklableMixin
from waterspout.ioloop.testing._order import SeededOrder
from waterspout.ioloop.testing._runs import MAX_TURNS, Run, check_no_loop_runs, check_positive
from waterspout.ioloop.testing._steps import AnyTask, label_of, number_of, place_of

S = TypeVar("S")


@dataclass(frozen=True)
class Cancellations:
    """What `cancel_everywhere` did.

    Attributes:
        points: At how many points a task was cancelled or timed out: tasks, times their
            suspensions, times the two moments of each.
        runs: How often the scenario was run.
    """

    points: int
    runs: int


class CancelledRunError(PicklableMixin, AssertionError):
    """A scenario does not bear to be cancelled somewhere. Its cause is what went wrong.

    Python does not pickle the causes of exceptions: in another process, only the message has it.

    Attributes:
        task: The name of the task that was cancelled or timed out.
        point: Where it was, as text.
    """

    def __init__(self, error: BaseException, task: str, point: str) -> None:
        self.task = task
        self.point = point
        super().__init__(f"when {task} {point}\n{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Point:
    """Where to cancel: which task, after how many of its steps, and at which moment."""

    task: int
    steps: int
    waits: bool  # as soon as it waits; else just before it goes on


def cancel_everywhere(
    scenario: Callable[[S], Coroutine[Any, Any, object]],
    check: Callable[[S], object],
    *,
    state: Callable[[], S] = cast("Any", SimpleNamespace),  # noqa: B008
    seeds: Iterable[int] = (),
    max_turns: int = MAX_TURNS,
    real_wait: float | None = None,
) -> Cancellations:
    """Run a scenario once for each point at which each task can be cancelled::

        async def scenario(queue):
            await asyncio.gather(queue.get(), queue.put(1))

        def check(queue):
            assert ...

        cancel_everywhere(scenario, check, state=Queue)

    Each run is on a simulated loop, with time from zero. In one run a task is cancelled at one
    point, in another it times out there. Then all tasks are let come to their ends (those that
    are left when the scenario has ended are cancelled), and `check` is called.

    That the scenario raises `CancelledError` or `TimeoutError` then is expected. Anything else is
    a failure, and so is waiting for ever (`DeadlockError`) or an error in a callback.

    Args:
        scenario: A coroutine function that takes what `state` made. It must do the same whenever
            it is run.
        check: Takes the same, after each run, and raises if anything was lost. May be a coroutine
            function, which runs on the same loop.
        state: Makes what both work on, anew for each run, inside the loop; by default, an empty
            `types.SimpleNamespace`.
        seeds: Of orders of the tasks, in which all of this is done as well.
        max_turns: Turns of the loop after which a run fails as endless (`EndlessError`).
        real_wait: Real seconds to wait for descriptors, threads and processes whenever nothing is
            ready, as of `SimulatedLoop`; `None` refuses them. Where these are, that the scenario
            does the same whenever it is run is up to it: each of its tasks must wait as often,
            however long they take. Threads are waited for to their ends, so they must come to
            these also when the tasks that wait for them are cancelled.

    Returns:
        At how many points, and in how many runs.

    Raises:
        CancelledRunError: If a run or a check fails.
        Exception: What the scenario or the check raises even without a cancellation.
        TypeError: If an argument is of the wrong kind.
        ValueError: If `max_turns` is not positive, or `real_wait` no real time to wait.
        RuntimeError: If a loop runs in this thread.
    """
    check_no_loop_runs("cancel_everywhere")
    for name, value in (("scenario", scenario), ("check", check), ("state", state)):
        if not callable(value):
            raise TypeError(f"{name} must be callable, not {value!r}")
    orders = [None, *(SeededOrder(seed).seed for seed in seeds)]
    check_positive("max_turns", max_turns)
    points = runs = 0
    for seed in orders:
        campaign = _Campaign(scenario, check, state, seed, max_turns, real_wait)
        campaign.run()
        points += campaign.points
        runs += campaign.runs
    return Cancellations(points, runs)


class _Injector:
    """Observes the steps of tasks, and cancels one of them at a point."""

    def __init__(self, point: _Point | None, timeout: bool) -> None:
        self.steps: dict[int, int] = {}
        self.points: list[_Point] = []
        self.place = ""
        self.label = ""
        self._point = point
        self._timeout = timeout
        self._timed_out = False

    @property
    def injected(self) -> bool:
        """Whether the point was reached."""
        return bool(self.label)

    def before_step(self, task: AnyTask) -> None:
        self._reach(task, waits=False)

    def after_step(self, task: AnyTask) -> None:
        number = number_of(task)
        self.steps[number] = self.steps.get(number, 0) + 1
        if not task.done():
            self._reach(task, waits=True)

    def after_callback(self) -> None:
        """Nothing."""

    def _reach(self, task: AnyTask, waits: bool) -> None:
        number = number_of(task)
        point = _Point(number, self.steps.get(number, 0), waits)
        if self._point is None:
            self.points.append(point)
        elif point == self._point and not self.injected:
            moment = "as soon as it waits" if waits else "just before it goes on"
            what = "times out" if self._timeout else "is cancelled"
            self.place = f"{what} {moment}, at {place_of(task)}"
            self.label = label_of(task)
            self._timed_out = self._timeout
            task.cancel()

    def wrap(self, number: int, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Put a timeout around a task's coroutine, if this is the task that is to time out."""
        if self._timeout and self._point is not None and self._point.task == number:
            return cast("Coroutine[Any, Any, Any]", _TimedCoroutine(coroutine, self))
        return coroutine

    def timed_out(self) -> bool:
        """Whether the cancellation that comes out of the running task is the timeout's."""
        task = asyncio.current_task()
        return self._timed_out and task is not None and task.uncancel() <= 0


class _TimedCoroutine:
    """A task's coroutine, with a timeout around it that the injector decides upon.

    A coroutine function around it would leave it unawaited where the task never begins.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], injector: _Injector) -> None:
        self._coroutine = coroutine
        self._injector = injector

    def send(self, value: Any) -> Any:
        return self._resume(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        try:
            return self._resume(self._coroutine.throw, *error)
        finally:
            del error  # its traceback refers to this frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def _resume(self, how: Callable[..., Any], *what: Any) -> Any:
        try:
            return how(*what)
        except asyncio.CancelledError as error:
            if self._injector.timed_out():
                raise TimeoutError from error
            raise
        finally:
            del what  # as above


cast("Any", Coroutine).register(_TimedCoroutine)


class _Campaign:
    """All points of a scenario in one order."""

    def __init__(
        self,
        scenario: Callable[[Any], Coroutine[Any, Any, object]],
        check: Callable[[Any], object],
        state: Callable[[], Any],
        seed: int | None,
        max_turns: int,
        real_wait: float | None,
    ) -> None:
        self._max_turns = max_turns
        self._real_wait = real_wait
        self._scenario = scenario
        self._check = check
        self._state = state
        self._seed = seed
        self.points = 0
        self.runs = 0

    def run(self) -> None:
        scout = _Injector(None, timeout=False)
        error = self._run(scout)
        try:
            if error is not None:
                raise error
            self.points = len(scout.points)
            for point in scout.points:
                for timeout in (False, True):
                    injector = _Injector(point, timeout)
                    error = self._run(injector)
                    if not injector.injected:
                        raise RuntimeError(f"the scenario did not do the same again: no {point}")
                    if error is not None:
                        where = injector.place
                        if self._seed is not None:
                            where += f" (with seed {self._seed})"
                        raise CancelledRunError(error, injector.label, where) from error
        finally:
            del error  # its traceback may refer to this frame

    def _run(self, injector: _Injector) -> BaseException | None:
        """Run the scenario, and the check, and give what went wrong."""
        self.runs += 1
        states: list[Any] = []

        async def main() -> None:
            states.append(self._state())
            await self._scenario(states[0])

        async def check() -> None:
            result = self._check(states[0]) if states else None
            if inspect.isawaitable(result):
                await result

        main.__qualname__ = getattr(self._scenario, "__qualname__", "scenario")
        run = Run(
            None if self._seed is None else SeededOrder(self._seed),
            injector,
            wrap=injector.wrap,
            expected=lambda error: injector.injected and is_end(error),
            max_turns=self._max_turns,
            real_wait=self._real_wait,
        )
        return run.of(main, after=check)


def is_end(error: BaseException) -> bool:
    """Whether an exception says no more than that something was cancelled or timed out."""
    if isinstance(error, BaseExceptionGroup):
        errors = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(is_end(one) for one in errors)
    return isinstance(error, asyncio.CancelledError | TimeoutError)
