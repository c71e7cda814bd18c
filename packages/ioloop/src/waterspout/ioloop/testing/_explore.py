"""`explore`: a scenario in every order of its tasks.

The theory. At each moment at which the next steps of two or more tasks are ready, a schedule
chooses one. By default that is the task which has waited longest since its last step (the lowest
number, of those that never ran); so a schedule is given by its *departures* from that: at which
choice, which task instead. The schedules form a tree: the root departs nowhere, and the children
of a schedule depart once more, after its last departure. Each is a run from the start, so the
search keeps only the choices of the schedules on its way from the root, and its memory does not
grow with their number.

Where there are too many to run them all at once, those of up to two departures, which find most
races, come first. When one fails, schedules with fewer departures are tried until none of these
fails: the shortest one is easiest to read.

Nothing says what a step of a Python task touches, so by default no order is taken to be the same
as another. Where the caller knows that the steps of some tasks never touch the same things, one
order of two such neighbours does for both (sleep sets: Godefroid, "Partial-Order Methods for the
Verification of Concurrent Systems", 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from waterspout.ioloop.testing._runs import Main, Runs
from waterspout.ioloop.testing._steps import AnyTask, number_in, number_of, ranks_of
from waterspout.ioloop.testing._trace import Trace

Scenario: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
Departures: TypeAlias = dict[int, int]
"""The number of a task by the number of the choice at which it is taken."""
Independent: TypeAlias = Callable[[AnyTask, AnyTask], bool]

DEFAULT_SCHEDULES = 10_000
PROBE = 1000
"""Schedules to run before it is decided that they are many."""
FEW = 2
"""Departures of the schedules that are tried first."""


@dataclass(frozen=True)
class Exploration:
    """What `explore` did.

    Attributes:
        schedules: How many different schedules it ran.
        exhaustive: Whether these were all that there are.
    """

    schedules: int
    exhaustive: bool


class ScheduleError(AssertionError):
    """A scenario fails in some order of its tasks. Its cause is what the scenario raised.

    Attributes:
        schedule: The order, for `explore(scenario, replay=...)`.
        schedules: How many different schedules were run until it was found.
        trace: The steps that the tasks took, as text.
    """

    def __init__(self, error: BaseException, schedule: str, schedules: int, trace: str) -> None:
        self.schedule = schedule
        self.schedules = schedules
        self.trace = trace
        super().__init__(
            f"{type(error).__name__}: {error}\n"
            f"in schedule {schedules}; the shortest that fails is replay={schedule!r}:\n{trace}"
        )


class NondeterministicError(RuntimeError):
    """A scenario did not do the same when it was run again in the same order."""


def explore(
    scenario: Scenario,
    *,
    max_schedules: int = DEFAULT_SCHEDULES,
    independent: Independent | None = None,
    replay: str | None = None,
) -> Exploration:
    """Run a scenario in every order of the tasks that are ready together::

        async def scenario():
            lock = Lock()
            ...
            assert not lock.locked()

        explore(scenario)

    Each run is on a simulated loop, with time from zero. A run fails if the scenario raises, if
    it waits for ever (`DeadlockError`), if a callback raises, or if tasks are left running.

    Args:
        scenario: A coroutine function without arguments that makes all that it needs, and does
            the same whenever it is run in the same order.
        max_schedules: How many to run at most.
        independent: Takes two tasks, and tells whether their steps never touch the same things,
            so that it makes no difference which of the two is first.
        replay: Run only this schedule, as a `ScheduleError` gave it.

    Returns:
        How many schedules were run, and whether these were all.

    Raises:
        ScheduleError: If a run fails, with the shortest schedule that does.
        NondeterministicError: If the scenario does not do the same again.
        TypeError: If `scenario` cannot be called.
        ValueError: If `max_schedules` is not positive, or `replay` is no schedule.
        RuntimeError: If a loop runs in this thread.
    """
    if not callable(scenario):
        raise TypeError(f"scenario must be a coroutine function, not {scenario!r}")
    if max_schedules < 1:
        raise ValueError(f"max_schedules must be positive, not {max_schedules!r}")
    departures = None if replay is None else parse(replay)
    with Runs("explore") as runs:
        search = _Search(runs, scenario, independent, max_schedules)
        if departures is not None:
            search.replay(departures)
            return Exploration(schedules=1, exhaustive=False)
        return search.search()


def parse(schedule: str) -> Departures:
    """Give the departures that a text stands for, such as `3:2 7:1`."""
    try:
        return {int(choice): int(task) for choice, task in (p.split(":") for p in schedule.split())}
    except ValueError:
        raise ValueError(f"replay must be a schedule such as '3:2 7:1', not {schedule!r}") from None


def unparse(departures: Departures) -> str:
    """Give the text of departures."""
    return " ".join(f"{choice}:{task}" for choice, task in sorted(departures.items()))


class _PrunedError(Exception):
    """All that could go on was tried in another order."""


class _Script:
    """The order of one run: its departures, and the choices that it had.

    Attributes:
        choices: The ranks of the tasks that could be chosen, at each choice.
        departures: Those that are to come.
    """

    def __init__(self, departures: Departures, independent: Independent | None) -> None:
        self.choices: list[list[int]] = []
        self.departures = departures.copy()
        self._independent = independent
        self._asleep: dict[int, AnyTask] = {}

    def __call__(self, tasks: list[AnyTask]) -> int:
        ranks = ranks_of(tasks)
        if not self.departures and self._independent is None:
            self.choices.append(ranks)
            return ranks.index(min(ranks))
        awake = [rank for rank in ranks if number_in(rank) not in self._asleep]
        if not awake:
            raise _PrunedError
        numbers = [number_in(rank) for rank in sorted(awake)]
        chosen = self.departures.pop(len(self.choices), numbers[0])
        self.choices.append(awake)
        if chosen not in numbers:
            raise NondeterministicError(
                f"task {chosen} cannot go on at choice {len(self.choices) - 1}: of the tasks "
                f"{numbers} one can. The scenario does not do the same again, or this is no "
                "schedule of it"
            )
        if self._independent is not None:
            for number in numbers[: numbers.index(chosen)]:
                [self._asleep[number]] = [task for task in tasks if number_of(task) == number]
        return [number_in(rank) for rank in ranks].index(chosen)

    def before_step(self, task: AnyTask) -> None:
        """Wake those to whom this step may make a difference."""
        assert self._independent is not None
        for number, other in list(self._asleep.items()):
            if other is task or not self._independent(other, task):
                del self._asleep[number]

    def after_step(self, task: AnyTask) -> None:
        """Nothing."""


class _Search:
    def __init__(
        self, runs: Runs, scenario: Main, independent: Independent | None, max_schedules: int
    ) -> None:
        self._runs = runs
        self._scenario = scenario
        self._independent = independent
        self._max_schedules = max_schedules
        self._schedules = 0
        self._cut = False  # whether there was more to run

    def search(self) -> Exploration:
        """Run all schedules, up to the bound, or up to the first that fails."""
        whole, self._max_schedules = self._max_schedules, min(PROBE, self._max_schedules)
        for least, most in ((0, None), (0, FEW), (FEW + 1, None)):
            self._cut = False
            failed = self._pass(least, most)
            if failed is not None:
                self._report(*self._shorten(*failed))
            if not self._cut or self._schedules >= whole:
                break
            if self._max_schedules < whole:  # there are many, so begin with the likely ones
                self._max_schedules, self._schedules = whole, 0
        return Exploration(self._schedules, exhaustive=not self._cut)

    def replay(self, departures: Departures) -> None:
        """Run one schedule."""
        self._schedules = 1
        error, _ = self._run(departures)
        if error is not None:
            self._report(error, departures)

    def _pass(self, least: int, most: int | None) -> "tuple[BaseException, Departures] | None":
        """Run the schedules of so many departures, and what leads to them; give one that fails."""
        stack: list[Iterator[Departures]] = [iter([{}])]
        longest = 0
        while stack:
            departures = next(stack[-1], None)
            if departures is None:
                stack.pop()
                continue
            if len(departures) >= least:
                if self._schedules == self._max_schedules:
                    self._cut = True
                    return None
                self._schedules += 1
            error, choices = self._run(departures)
            if error is not None:
                return error, departures
            # A task that waits in a loop for others gives a run of any length.
            longest = longest or 10 * len(choices) + 100
            if len(choices) > longest:
                self._cut = True
            children = _children(departures, choices[:longest])
            if most is None or len(departures) < most:
                stack.append(children)
            elif next(children, None) is not None:
                self._cut = True
        return None

    def _run(self, departures: Departures) -> "tuple[BaseException | None, list[list[int]]]":
        script = _Script(departures, self._independent)
        observer = None if self._independent is None else script
        error = self._runs.run(self._scenario, script, observer)
        if isinstance(error, NondeterministicError):
            raise error
        if error is None and script.departures:
            raise NondeterministicError(
                f"there was no choice {min(script.departures)}: the scenario does not do the same "
                "again, or this is no schedule of it"
            )
        return None if isinstance(error, _PrunedError) else error, script.choices

    def _shorten(
        self, error: BaseException, departures: Departures
    ) -> "tuple[BaseException, Departures]":
        """Find a schedule with fewer departures that fails, within as many runs as the bound."""
        found, self._max_schedules = self._schedules, self._schedules + self._max_schedules
        for most in range(1, len(departures)):
            failed = self._pass(most, most)
            if failed is not None:
                error, departures = failed
                break
        self._schedules = found
        return error, departures

    def _report(self, error: BaseException, departures: Departures) -> None:
        trace = Trace()
        again = self._runs.run(self._scenario, _Script(departures, None), trace)
        if again is None:
            raise NondeterministicError(
                f"the scenario failed in schedule {unparse(departures)!r}, but not again"
            ) from error
        raise ScheduleError(again, unparse(departures), self._schedules, trace.text()) from again


def _children(departures: Departures, choices: list[list[int]]) -> Iterator[Departures]:
    """Give the schedules with one departure more, the last choice first."""
    first = max(departures, default=-1) + 1
    for choice in range(len(choices) - 1, first - 1, -1):
        for rank in sorted(choices[choice])[1:]:
            yield {**departures, choice: number_in(rank)}
