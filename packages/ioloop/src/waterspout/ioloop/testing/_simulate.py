"""`simulate`: a coroutine function, run on a simulated loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

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
        RuntimeError: If a loop runs in this thread.
        Exception: What it raised.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("simulate() cannot be called while an event loop runs in this thread")

    def make() -> SimulatedLoop:
        return SimulatedLoop(seed=seed, order=order, real_wait=real_wait)

    with asyncio.Runner(loop_factory=make) as runner:
        try:
            return runner.run(main(*args))
        except BaseException as error:
            if seed is not None:
                error.add_note(f"simulated with seed={seed}")
            raise
