"""Orders in which tasks that are ready together go on.

The queue's own order is no ground to stand on: a `TaskGroup` cancels its tasks in the order of a
set, which is that of their addresses. So every order here looks at the tasks' numbers instead.
"""

from __future__ import annotations

import random

from waterspout.ioloop.testing._steps import AnyTask, number_of


class SeededOrder:
    """Any of them, by chance; the same seed, the same choices.

    Args:
        seed: An integer.

    Raises:
        TypeError: If `seed` is no integer.
    """

    def __init__(self, seed: int) -> None:
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, not {seed!r}")
        self._seed = seed
        self._random = random.Random(seed)

    @property
    def seed(self) -> int:
        """The seed."""
        return self._seed

    def __call__(self, tasks: list[AnyTask]) -> int:
        numbers = [number_of(task) for task in tasks]
        return numbers.index(self._random.choice(sorted(numbers)))
