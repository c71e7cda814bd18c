"""How a run on a simulated loop comes to nothing."""

from __future__ import annotations

import pickle
from typing import Any, Self

from waterspout.ioloop.testing._steps import AnyTask, describe


class PicklableMixin(BaseException):
    """Makes an exception picklable that is not made from its message alone.

    By default, an exception is unpickled by calling its class with its `args`. Attributes that
    cannot be pickled, such as tasks, become text.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: _picklable(value) for name, value in vars(self).items()}
        return _restore, (type(self), self.args), state

    def __copy__(self) -> Self:
        copied: Self = _restore(type(self), self.args)
        vars(copied).update(vars(self))
        return copied


def _restore(cls: type[BaseException], args: tuple[Any, ...]) -> Any:
    error = cls.__new__(cls)
    error.args = args
    return error


def _picklable(value: Any) -> Any:
    """Give a value, or text that describes it if it does not survive pickling."""
    if isinstance(value, list):
        return [_picklable(one) for one in value]
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 (made here)
    except Exception:
        return repr(value)
    return value


class DeadlockError(PicklableMixin, Exception):
    """Nothing is ready, no timer is left, and so nothing will ever happen.

    The message has every task that is stuck, with its stack and what it waits for.

    Attributes:
        tasks: The tasks that are stuck; when the exception comes from another process, their
            representations, as text.
    """

    def __init__(self, tasks: list[AnyTask]) -> None:
        self.tasks: list[Any] = tasks
        stuck = "\n".join(describe(task) for task in tasks) or "(no task is left)"
        super().__init__(f"nothing is ready and no timer is left; stuck tasks:\n{stuck}")


class EndlessError(Exception):
    """A run takes far longer than it should."""
