"""`explore`: a scenario in every order of its tasks.

The theory. At each moment at which the next steps of two or more tasks are ready, a schedule
chooses one. By default that is the task which has waited longest since its last step (the lowest
number, of those that never ran); so a schedule is given by its *departures* from that: at which
choice, which task instead. The schedules form a tree: the root departs nowhere, and the children
of a schedule depart once more, after its last departure. Each is a run from the start, so the
search keeps only the choices of the schedules on its way from the root, and its memory does not
grow with their number.

Schedules of up to two departures, which find most races, come first. The choices of the first
thousand are kept, so that the search goes on from there without running them again. When a schedule
fails, schedules with fewer departures are tried until none of these fails: the shortest one is
easiest to read.

Nothing says what a step of a Python task touches, so by default no order is taken to be the same
as another. Where the caller knows that the steps of some tasks never touch the same things, one
order of two such neighbours does for both (sleep sets: Godefroid, "Partial-Order Methods for the
Verification of Concurrent Systems", 1996).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from waterspout.ioloop.testing._errors import PicklableMixin
from waterspout.ioloop.testing._runs import MAX_TURNS, Main, Run, check_no_loop_runs, check_positive
from waterspout.ioloop.testing._steps import AnyTask, number_in, ranks_of
from waterspout.ioloop.testing._trace import Trace

Scenario: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
Departures: TypeAlias = dict[int, int]
"""The number of a task by the number of the choice at which it is taken."""
Independent: TypeAlias = Callable[[AnyTask, AnyTask], bool]

_DEPARTURE = re.compile(r"(\d+):(\d+)")

DEFAULT_SCHEDULES = 10_000
KEPT = 1000
"""Schedules whose choices are kept."""
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


class ScheduleError(PicklableMixin, AssertionError):
    """A scenario fails in some order of its tasks. Its cause is what the scenario raised.

    Python does not pickle the causes of exceptions: in another process, only the message has it.

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
            f"in schedule {schedules}; the shortest found that fails is replay={schedule!r}:\n"
            f"{trace}"
        )


class NondeterministicError(RuntimeError):
    """A scenario did not do the same when it was run again in the same order."""


_OTHERWISE = "The scenario does not do the same again, or this is no schedule of it"


def explore(
    scenario: Scenario,
    *,
    max_schedules: int = DEFAULT_SCHEDULES,
    max_turns: int = MAX_TURNS,
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
        max_schedules: How many different ones to run at most. When one fails, up to as many
            again are run to find the shortest that does.
        max_turns: Turns of the loop after which a run fails as endless (`EndlessError`).
        independent: Takes two tasks, and tells whether their steps never touch the same things,
            so that it makes no difference which of the two is first.
        replay: Run only this schedule, as a `ScheduleError` gave it.

    Returns:
        How many schedules were run, and whether these were all.

    Raises:
        ScheduleError: If a run fails, with the shortest schedule that does.
        NondeterministicError: If the scenario does not do the same again.
        TypeError: If an argument is of the wrong kind, or `scenario` gives no coroutine.
        ValueError: If `max_schedules` or `max_turns` is not positive, or `replay` is no schedule.
        RuntimeError: If a loop runs in this thread.
    """
    check_no_loop_runs("explore")
    for name, value in (("scenario", scenario), ("independent", independent)):
        if not callable(value) and not (name == "independent" and value is None):
            raise TypeError(f"{name} must be callable, not {value!r}")
    check_positive("max_schedules", max_schedules)
    check_positive("max_turns", max_turns)
    search = _Search(scenario, independent, max_schedules, max_turns)
    if replay is None:
        return search.search()
    search.replay(parse(replay))
    return Exploration(schedules=1, exhaustive=False)


def parse(schedule: str) -> Departures:
    """Give the departures that a text stands for, such as `3:2 7:1`."""
    if not isinstance(schedule, str):
        raise TypeError(f"replay must be a string, not {schedule!r}")
    pairs = [_DEPARTURE.fullmatch(part) for part in schedule.split()]
    departures = {int(pair[1]): int(pair[2]) for pair in pairs if pair is not None}
    if len(departures) < len(pairs):
        raise ValueError(f"replay must be a schedule such as '3:2 7:1', not {schedule!r}")
    return departures


def unparse(departures: Departures) -> str:
    """Give the text of departures."""
    return " ".join(f"{choice}:{task}" for choice, task in sorted(departures.items()))


class _PrunedError(Exception):
    """All that could go on was tried in another order."""


class _PredicateError(Exception):
    """The caller's `independent` raised; its cause is what."""


class _Script:
    """The order of one run: its departures, and the choices that it had.

    Attributes:
        choices: The ranks of the tasks that could be chosen, at each choice.
        departures: Those that are to come.
        plain: The departures of the same order from the default where nobody sleeps.
        failed: Whether the run failed. Not how: the exception may refer to a frame that has this.
        pruned: Whether it was given up, since what followed was tried in another order.
    """

    def __init__(self, departures: Departures, independent: Independent | None) -> None:
        self.choices: list[list[int]] = []
        self.departures = departures.copy()
        self.plain: Departures = {}
        self.failed = False
        self.pruned = False
        self._independent = independent
        self._asleep: dict[int, AnyTask] = {}

    def __call__(self, tasks: list[AnyTask]) -> int:
        ranks = ranks_of(tasks)
        if self._independent is not None:
            return self._choose_awake(tasks, ranks)
        choice = len(self.choices)
        self.choices.append(ranks)
        chosen = self.departures.pop(choice, None) if self.departures else None
        if chosen is None:
            return ranks.index(min(ranks))
        self.plain[choice] = chosen
        return self._place(chosen, ranks)

    def _choose_awake(self, tasks: list[AnyTask], ranks: list[int]) -> int:
        """Choose one that is not asleep, and let those before it sleep from now on."""
        awake = sorted(rank for rank in ranks if number_in(rank) not in self._asleep)
        if not awake:
            raise _PrunedError
        choice = len(self.choices)
        self.choices.append(awake)
        chosen = self.departures.pop(choice, number_in(awake[0]))
        place = self._place(chosen, ranks)
        if chosen != number_in(min(ranks)):
            self.plain[choice] = chosen
        for task, rank in zip(tasks, ranks, strict=True):
            if rank in awake and rank < ranks[place]:
                self._asleep[number_in(rank)] = task
        return place

    def _place(self, chosen: int, ranks: list[int]) -> int:
        numbers = [number_in(rank) for rank in ranks]
        if chosen not in numbers:
            raise NondeterministicError(
                f"task {chosen} cannot go on at choice {len(self.choices) - 1}: of the tasks "
                f"{numbers} one can. {_OTHERWISE}"
            )
        return numbers.index(chosen)

    def before_step(self, task: AnyTask) -> None:
        """Wake those to whom this step may make a difference."""
        assert self._independent is not None
        for number, other in list(self._asleep.items()):
            try:
                independent = other is not task and self._independent(other, task)
            except Exception as error:
                raise _PredicateError from error
            if not independent:
                del self._asleep[number]

    def after_step(self, task: AnyTask) -> None:
        """Nothing."""

    def after_callback(self) -> None:
        """Wake all: it may make a difference to any of them."""
        self._asleep.clear()


class _Search:
    def __init__(
        self, scenario: Main, independent: Independent | None, max_schedules: int, max_turns: int
    ) -> None:
        self._scenario = scenario
        self._independent = independent
        self._max_schedules = max_schedules
        self._max_turns = max_turns
        self._schedules = 0
        self._cut = False  # whether there was more to run
        self._kept: dict[tuple[tuple[int, int], ...], list[list[int]]] = {}

    def search(self) -> Exploration:
        """Run all schedules, up to the bound, or up to the first that fails."""
        for least, most in ((0, FEW), (FEW + 1, None)):
            self._cut = False
            failed = self._pass(least, most)
            if failed is not None:
                self._report(self._shorten(failed))
            if not self._cut or self._schedules >= self._max_schedules:
                break
        return Exploration(self._schedules, exhaustive=not self._cut)

    def replay(self, departures: Departures) -> None:
        """Run one schedule."""
        self._schedules = 1
        script = self._run(departures)
        if script.failed or script.pruned:
            self._report(script.plain)

    def _pass(self, least: int, most: int | None) -> Departures | None:
        """Run the schedules of so many departures, and what leads to them; give one that fails."""
        stack: list[Iterator[Departures]] = [iter([{}])]
        longest = 0
        while stack:
            departures = next(stack[-1], None)
            if departures is None:
                stack.pop()
                continue
            is_new = len(departures) >= least
            if is_new and self._schedules == self._max_schedules:
                self._cut = True
                return None
            choices = self._kept.get(tuple(departures.items())) if self._kept else None
            if choices is None:
                script = self._run(departures)
                is_new = is_new and not script.pruned
                if script.failed:
                    self._schedules += is_new
                    return script.plain
                choices = script.choices
            self._schedules += is_new
            if is_new and len(self._kept) < KEPT:
                self._kept[tuple(departures.items())] = choices
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

    def _run(self, departures: Departures) -> "_Script":
        script = _Script(departures, self._independent)
        observer = None if self._independent is None else script
        error = Run(script, observer, max_turns=self._max_turns).of(self._scenario)
        try:
            if isinstance(error, NondeterministicError):
                raise error
            if isinstance(error, _PredicateError):
                raise error.__cause__ or error
            if error is None and script.departures:
                choice = min(script.departures)
                raise NondeterministicError(f"there was no choice {choice}. {_OTHERWISE}")
            script.pruned = isinstance(error, _PrunedError)
            script.failed = error is not None and not script.pruned
            return script
        finally:
            del error  # it refers to this frame

    def _shorten(self, departures: Departures) -> Departures:
        """Find a schedule with fewer departures that fails, within as many runs as the bound."""
        found, self._max_schedules = self._schedules, self._schedules + self._max_schedules
        self._independent = None  # a bound on departures might cut what stands for another
        self._kept.clear()
        for most in range(1, len(departures)):
            failed = self._pass(most, most)
            if failed is not None:
                departures = failed
                break
        self._schedules = found
        return departures

    def _report(self, departures: Departures) -> None:
        trace = Trace()
        schedule = unparse(departures)
        again = Run(_Script(departures, None), trace, max_turns=self._max_turns).of(self._scenario)
        try:
            if again is None:
                raise NondeterministicError(
                    f"the scenario failed in schedule {schedule!r}, but not again"
                )
            raise ScheduleError(again, schedule, self._schedules, trace.text()) from again
        finally:
            del again  # it may refer to this frame


def _children(departures: Departures, choices: list[list[int]]) -> Iterator[Departures]:
    """Give the schedules with one departure more, the last choice first."""
    first = max(departures, default=-1) + 1
    for choice in range(len(choices) - 1, first - 1, -1):
        for rank in sorted(choices[choice])[1:]:
            yield {**departures, choice: number_in(rank)}
