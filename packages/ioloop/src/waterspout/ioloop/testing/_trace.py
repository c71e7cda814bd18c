"""What the tasks of a run did, step by step, for people."""

from __future__ import annotations

from waterspout.ioloop.testing._steps import AnyTask, label_of, place_of


class Trace:
    """Notes the steps of tasks; it observes a loop."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, str, str, str]] = []
        self._from = ""

    def before_step(self, task: AnyTask) -> None:
        """See `StepObserver`."""
        self._from = _place(task)

    def after_step(self, task: AnyTask) -> None:
        """See `StepObserver`."""
        self._steps.append((task.get_loop().time(), label_of(task), self._from, _outcome(task)))

    def text(self) -> str:
        """Give all steps, one a line."""
        width = max((len(label) for _, label, _, _ in self._steps), default=0)
        return "\n".join(
            f"{number:4}. {time:8.3f} s  {label:{width}}  {source} -> {target}"
            for number, (time, label, source, target) in enumerate(self._steps, 1)
        )


def _place(task: AnyTask) -> str:
    return str(place_of(task) or "?")


def _outcome(task: AnyTask) -> str:
    if not task.done():
        return _place(task)
    if task.cancelled():
        return "cancelled"
    error: object = task._exception  # asking would count as a look
    return "done" if error is None else f"raised {error!r}"
