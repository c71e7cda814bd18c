"""What lies in a simulated loop's queues, and the order in which it is taken out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from waterspout.ioloop.testing._steps import AnyTask

Order: TypeAlias = Callable[[list[AnyTask]], int]
"""Takes the tasks whose next steps are ready, two or more, those queued earlier first; gives the
index of the one that is to go on."""


class StepObserver(Protocol):
    """Is told of every step of a task that the loop runs."""

    def before_step(self, task: AnyTask) -> None:
        """The next step of a task is about to run."""

    def after_step(self, task: AnyTask) -> None:
        """A step of a task has run: it is suspended again, or done."""

    def after_callback(self) -> None:
        """A plain callback has run."""


class Timer(asyncio.TimerHandle):
    """A timer of a clock that stands still: many are of the same deadline, and go by age."""

    __slots__ = ("number",)
    number: int
    _scheduled: bool
    _when: float

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        assert isinstance(other, Timer)
        return (self._when, self.number) < (other._when, other.number)


class Step(asyncio.Handle):
    """The next step of a task, in the queue."""

    __slots__ = ("task",)
    task: AnyTask


def bring_to_head(ready: "deque[asyncio.Handle]", order: Order) -> Step:
    """Bring the step that an order chooses to the head of a queue; one is there already."""
    steps = [handle for handle in ready if type(handle) is Step]
    if len(steps) == 1:
        return steps[0]
    chosen = order([step.task for step in steps])
    try:
        head = steps[chosen]
    except (IndexError, TypeError):
        message = f"order must give an index below {len(steps)}, not {chosen!r}"
        raise ValueError(message) from None
    if chosen:
        steps.insert(0, steps.pop(chosen))
        in_turn = iter(steps)
        for place, handle in enumerate(ready):
            if type(handle) is Step:
                ready[place] = next(in_turn)
    return head
