"""How a run on a simulated loop comes to nothing."""

from __future__ import annotations

from waterspout.ioloop.testing._steps import AnyTask, describe


class DeadlockError(Exception):
    """Nothing is ready, no timer is left, and so nothing will ever happen.

    The message has every task that is stuck, with its stack and what it waits for.

    Attributes:
        tasks: The tasks that are stuck.
    """

    def __init__(self, tasks: list[AnyTask]) -> None:
        self.tasks = tasks
        stuck = "\n".join(describe(task) for task in tasks) or "(no task is left)"
        super().__init__(f"nothing is ready and no timer is left; stuck tasks:\n{stuck}")


class EndlessError(Exception):
    """A run takes far longer than it should."""
