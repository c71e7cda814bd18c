"""What a task does next, and how to speak of it.

A task runs in steps, from one suspension to the next. asyncio queues each as a handle whose
callback is the task's own; nothing says so but the callback's type, which differs between the
versions and between the two implementations of tasks.

Tasks are known by number, in the order of their creation on their loop. Neither their names (a
counter of the process) nor their places in sets (their addresses) are the same in the next run.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FrameType, MethodType
from typing import Any

AnyTask = asyncio.Task[Any]

# The implementation in Python is there beside that in C, and no subclass of it.
_PY_TASK: Any = getattr(asyncio.tasks, "_PyTask", asyncio.Task)
_TASKS = (asyncio.Task, _PY_TASK)
# From Python 3.14 on, each implementation has a registry of its own, and asyncio asks that in C.
_TWO_REGISTRIES = sys.version_info >= (3, 14) and hasattr(asyncio.tasks, "_c_register_task")
_WRAPPERS = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
_HERE = Path(__file__).parent
_SHIFT = 32
_MASK = (1 << _SHIFT) - 1


def task_of(callback: Any) -> AnyTask | None:
    """Give the task of which a callback is the next step, if it is one."""
    kind = type(callback)
    if kind is BuiltinFunctionType:
        return callback.__self__ if callback.__name__ == "task_wakeup" else None
    if kind.__name__ == "TaskStepMethWrapper":
        return callback.__self__  # type: ignore[no-any-return]
    if kind is MethodType and callback.__name__ in ("__step", "__wakeup"):
        owner: Any = callback.__self__
        return owner if isinstance(owner, _TASKS) else None
    return None


def is_unknown(task: AnyTask) -> bool:
    """Whether `asyncio.current_task` and `asyncio.all_tasks` do not know a task by themselves."""
    return _TWO_REGISTRIES and isinstance(task, _PY_TASK)


def register(task: AnyTask) -> None:  # pragma: no cover (the versions do not share a run)
    """Have `asyncio.all_tasks` give an unknown task. It is held weakly."""
    vars(asyncio.tasks)["_c_register_task"](task)


def as_current(  # pragma: no cover (as above)
    task: AnyTask, step: Callable[..., object]
) -> Callable[..., object]:
    """Give a step of an unknown task during which `asyncio.current_task` gives that task."""
    return partial(_run_as_current, task, step)


def _run_as_current(  # pragma: no cover (as above)
    task: AnyTask, step: Callable[..., object], *args: Any
) -> None:
    swap: Callable[[Any, Any], Any] = vars(asyncio.tasks)["_c_swap_current_task"]
    loop = task.get_loop()
    previous = swap(loop, task)
    try:
        step(*args)
    finally:
        swap(loop, previous)


def has_begun(coroutine: Any) -> bool:
    """Whether a coroutine has run up to a suspension; not known of what is only like one."""
    try:
        return inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
    except AttributeError:
        return False


def give_number(task: AnyTask, number: int) -> None:
    """Number a task that has had no step."""
    task._waterspout_rank = number  # type: ignore[attr-defined]


def rank_of(task: AnyTask) -> int:
    """Give a number by which tasks are ranked: when it had its last step, and then its number.

    It is kept on the task. One that was made behind its loop's back has none yet, and gets it.
    """
    try:
        return task._waterspout_rank  # type: ignore[attr-defined,no-any-return]
    except AttributeError:
        rank: int = task.get_loop()._next_number()  # type: ignore[attr-defined]
        task._waterspout_rank = rank  # type: ignore[attr-defined]
        return rank


def note_step(task: AnyTask, count: int) -> None:
    """Rank a task behind those that had their last step earlier, or never had one.

    Args:
        task: A task that is about to have a step.
        count: Which one it is, of the steps of all tasks.
    """
    try:
        number = task._waterspout_rank & _MASK  # type: ignore[attr-defined]
    except AttributeError:
        number = rank_of(task)
    task._waterspout_rank = (count << _SHIFT) | number  # type: ignore[attr-defined]


def ranks_of(tasks: list[AnyTask]) -> list[int]:
    """Give the ranks of several tasks."""
    try:
        return [task._waterspout_rank for task in tasks]  # type: ignore[attr-defined]
    except AttributeError:
        return [rank_of(task) for task in tasks]


def number_of(task: AnyTask) -> int:
    """Give the number of a task."""
    return rank_of(task) & _MASK


def number_in(rank: int) -> int:
    """Give the number of the task that has a rank."""
    return rank & _MASK


def label_of(task: AnyTask) -> str:
    """Give a task's name for people: its own, or its function's with its number."""
    name = task.get_name()
    if name != "None" and not name.startswith("Task-"):  # eager tasks without a name are "None"
        return name
    function = getattr(task.get_coro(), "__qualname__", "task").rpartition(".")[2]
    return f"{function}#{number_of(task)}"


@dataclass(frozen=True)
class Place:
    """A line at which a coroutine is suspended.

    Attributes:
        file: The path of its source.
        line: The number of the line.
        function: The qualified name of the function.
    """

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, if there is one."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.source or f'in {self.function}'}"


def places_of(task: AnyTask) -> list[Place]:
    """Give where a suspended task is, the outermost coroutine first, but for the kit's own.

    Empty for one that is done.
    """
    found: list[Place] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        for prefix in ("cr", "gi", "ag"):
            if hasattr(waiting, f"{prefix}_frame"):
                break
        else:
            waiting = _inside(waiting)
            continue
        frame: FrameType | None = getattr(waiting, f"{prefix}_frame")
        if frame is not None and Path(frame.f_code.co_filename).parent != _HERE:
            name = frame.f_code.co_qualname
            found.append(Place(frame.f_code.co_filename, frame.f_lineno, name))
        waiting = getattr(waiting, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
    return found


def _inside(wrapper: Any) -> Any:
    """Give what an awaitable of the interpreter's own wraps: it does not say, but refers to it."""
    if type(wrapper).__name__ not in _WRAPPERS:
        return None
    inner = [one for one in gc.get_referents(wrapper) if hasattr(type(one), "__await__")]
    inner += [one for one in gc.get_referents(wrapper) if hasattr(one, "ag_frame")]
    return inner[0] if inner else None


def place_of(task: AnyTask) -> Place | None:
    """Give where a suspended task is, as far as it is not inside of asyncio."""
    places = places_of(task)
    ours = [place for place in places if Path(place.file).parent.name != "asyncio"]
    found = ours or places
    return found[-1] if found else None


def describe(task: AnyTask) -> str:
    """Give a task's name, its stack and what it waits for, as text of several lines."""
    lines = [label_of(task)]
    for place in places_of(task):
        lines.append(f'  File "{place.file}", line {place.line}, in {place.function}')
        if place.source:
            lines.append(f"    {place.source}")
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is not None:
        what = f"the task {label_of(waiter)}" if isinstance(waiter, _TASKS) else repr(waiter)
        lines.append(f"  waits for {what}")
    return "\n".join(lines)
