"""`simulate`: a coroutine function, run on a simulated loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from waterspout.ioloop._interrupts import first_interrupt_calls
from waterspout.ioloop._lifecycle import cancel_all_tasks
from waterspout.ioloop._main import error_of, run_until_done
from waterspout.ioloop.testing._handles import Order
from waterspout.ioloop.testing._loop import SimulatedLoop

T = TypeVar("T")


def simulate(
    main: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    seed: int | None = None,
    order: Order | None = None,
    real_wait: float | None = None,
) -> T:
    """Run a coroutine function to its end on a new simulated loop.

    Tasks that are left over are cancelled, as `asyncio.run` does it.

    Args:
        main: The coroutine function.
        *args: Its arguments.
        seed: As for `SimulatedLoop`. An exception gets a note with it.
        order: As for `SimulatedLoop`.
        real_wait: As for `SimulatedLoop`.

    Returns:
        What it returned.

    Raises:
        DeadlockError: If it waits for something that nothing can bring about.
        TypeError: If an argument is of the wrong kind, or both `seed` and `order` are given.
        ValueError: If `SimulatedLoop` refuses `real_wait`.
        RuntimeError: If a loop runs in this thread.
        Exception: What it raised.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("simulate() cannot be called while an event loop runs in this thread")

    loop = SimulatedLoop(seed=seed, order=order, real_wait=real_wait)
    error: BaseException | None = None
    task: asyncio.Task[T] | None = None
    try:
        task = loop.create_task(main(*args))
        with first_interrupt_calls(partial(loop.call_soon_threadsafe, task.cancel)):
            run_until_done(loop, task)
    except BaseException as raised:
        error = raised
    try:
        # Not while the error is handled: what is raised meanwhile would have it as its context,
        # and the tasks that a `DeadlockError` refers to would so refer to it.
        _end(loop, error)
        if error is None:
            assert task is not None
            error = error_of(task)
            if error is None:
                return task.result()
        if seed is not None:
            error.add_note(f"simulated with seed={seed}")
        raise error
    finally:
        del error, task  # the exception refers to this frame


def _end(loop: SimulatedLoop, error: BaseException | None) -> None:
    """End what is left on a loop, and close it."""
    try:
        cancel_all_tasks(loop)
    except BaseException as ending:
        ending.__context__ = ending.__context__ or error
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        raise
    finally:
        loop.close()
        del error  # it may refer to this frame
