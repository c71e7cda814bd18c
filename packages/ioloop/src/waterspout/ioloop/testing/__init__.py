"""Time, order and failure under control: a kit for tests of asynchronous code.

-   `SimulatedLoop` and `simulate`: an event loop whose clock jumps instead of waiting, which
    says so where it would wait for ever, and which runs tasks in any order that a test wants.
-   `explore`: a scenario in every order of its tasks.
-   `cancel_everywhere`: a scenario, cancelled and timed out wherever it waits.
-   `no_reference_cycles`: a block after which nothing waits for the garbage collector.
-   `SchedulerConformance`, `ReactorConformance`: what an implementation of
    `waterspout.ioloop.scheduling` must do.
-   A pytest plugin, `waterspout.ioloop.testing.pytest_plugin`, which is there as soon as
    `waterspout-ioloop` is installed.

::

    async def scenario():
        tickets, sold = 1, []

        async def customer(name):
            nonlocal tickets
            if tickets:
                await asyncio.sleep(0)  # pays
                tickets -= 1
                sold.append(name)

        await asyncio.gather(customer("Ann"), customer("Bob"))
        assert len(sold) <= 1

    explore(scenario)  # raises ScheduleError, with the steps that lead there
"""

from waterspout.ioloop.testing._cancel import (
    Cancellations,
    CancelledRunError,
    cancel_everywhere,
)
from waterspout.ioloop.testing._conformance import SchedulerConformance
from waterspout.ioloop.testing._cycles import no_reference_cycles
from waterspout.ioloop.testing._descriptors import VirtualDescriptor
from waterspout.ioloop.testing._errors import DeadlockError, EndlessError
from waterspout.ioloop.testing._explore import (
    Exploration,
    NondeterministicError,
    ScheduleError,
    explore,
)
from waterspout.ioloop.testing._loop import SimulatedLoop
from waterspout.ioloop.testing._order import SeededOrder
from waterspout.ioloop.testing._reactor_conformance import End, ReactorConformance
from waterspout.ioloop.testing._simulate import simulate

__all__ = [
    "Cancellations",
    "CancelledRunError",
    "DeadlockError",
    "End",
    "EndlessError",
    "Exploration",
    "NondeterministicError",
    "ReactorConformance",
    "ScheduleError",
    "SchedulerConformance",
    "SeededOrder",
    "SimulatedLoop",
    "VirtualDescriptor",
    "cancel_everywhere",
    "explore",
    "no_reference_cycles",
    "simulate",
]
