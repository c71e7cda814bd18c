"""What the tasks of a run did, step by step, for people."""

from __future__ import annotations

from waterspout.ioloop.testing._steps import AnyTask, label_of, place_of

MOST_LINES = 100
"""At the beginning and at the end of a trace."""


class Trace:
    """Notes the steps of tasks; it observes a loop."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, str, str, str]] = []
        self._from: dict[AnyTask, str] = {}

    def before_step(self, task: AnyTask) -> None:
        """See `StepObserver`."""
        self._from[task] = _place(task)

    def after_step(self, task: AnyTask) -> None:
        """See `StepObserver`."""
        source = self._from.pop(task, "at once")  # an eager one begins without being asked
        self._steps.append((task.get_loop().time(), label_of(task), source, _outcome(task)))

    def after_callback(self) -> None:
        """See `StepObserver`."""

    def text(self) -> str:
        """Give the steps, one a line; of very many, the first and the last."""
        width = max((len(label) for _, label, _, _ in self._steps), default=0)
        lines = [
            f"{number:4}. {time:8.3f} s  {label:{width}}  {source} -> {target}"
            for number, (time, label, source, target) in enumerate(self._steps, 1)
        ]
        left_out = len(lines) - 2 * MOST_LINES
        if left_out > 0:
            lines[MOST_LINES:-MOST_LINES] = [f"      ({left_out} more)"]
        return "\n".join(lines)


def _place(task: AnyTask) -> str:
    return str(place_of(task) or "?")


def _outcome(task: AnyTask) -> str:
    if not task.done():
        return _place(task)
    if task.cancelled():
        return "cancelled"
    error: object = task._exception  # asking would count as a look
    return "done" if error is None else f"raised {error!r}"
