"""The exceptions of the testing kit: what becomes of them in other processes."""

import asyncio
import copy
import pickle

import pytest

from waterspout.ioloop.testing import CancelledRunError, DeadlockError, ScheduleError, simulate


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (ScheduleError(ValueError("why"), "3:2", 12, "1. first"), ("schedule", "schedules")),
        (CancelledRunError(ValueError("why"), "task#1", "times out"), ("task", "point")),
        (DeadlockError([]), ("tasks",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_is_pickled_and_copied_with_its_message_attributes_and_notes(
    error, attributes
):
    error.add_note("simulated with seed=5")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__notes__ == error.__notes__
        for name in attributes:
            assert getattr(again, name) == getattr(error, name)


def test_pickling_makes_text_of_tasks_and_copying_keeps_them():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError) as caught:
        simulate(main)
    (task,) = caught.value.tasks
    assert pickle.loads(pickle.dumps(caught.value)).tasks == [repr(task)]
    assert copy.copy(caught.value).tasks == [task]
