"""Tornado's own tests of its queues, from its wheel, run against ours."""

import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("tornado")
sys.path.insert(0, str(Path(__file__).parent))

import tornado.test.queues_test as tornado_tests
from adapters import at_once, collect, replaced, seconds, translated

from waterspout import queues

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

LATER = (
    "asks for the outcome inside of the call that brings it about; ours are coroutine functions, "
    "and have it when they resume"
)
AT_ONCE = (
    "counts waiters that have timed out and not been cleared away; ours leave the line at once"
)
NOT_FOLLOWED = {
    "QueueBasicTest.test_maxsize": LATER,
    "QueueBasicTest.test_repr_and_str": "asks for Tornado's representation",
    "QueueGetTest.test_get_clears_timed_out_getters": AT_ONCE,
    "QueueGetTest.test_get_clears_timed_out_putters": AT_ONCE,
    "QueuePutTest.test_put_clears_timed_out_getters": AT_ONCE,
    "QueuePutTest.test_put_clears_timed_out_putters": AT_ONCE,
    "QueueJoinTest.test_task_done_delay": LATER,
    "PriorityQueueJoinTest.test_task_done_delay": LATER,
    "PriorityQueueJoinTest.test_order": LATER,
    "LifoQueueJoinTest.test_task_done_delay": LATER,
    "LifoQueueJoinTest.test_order": LATER,
    "QueuePutTest.test_float_maxsize": "maxsize is an integer, and 1.3 a mistake",
}
SKIPPED = {}


class Adapted:
    def put(self, item, timeout=None):
        return at_once(translated(super().put(item, seconds(timeout))))

    def get(self, timeout=None):
        return at_once(translated(super().get(seconds(timeout))))

    def join(self, timeout=None):
        return at_once(translated(super().join(seconds(timeout))))

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self.get()


class Queue(Adapted, queues.Queue):
    pass


class PriorityQueue(Adapted, queues.PriorityQueue):
    pass


class LifoQueue(Adapted, queues.LifoQueue):
    pass


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    ours = types.SimpleNamespace(
        Queue=Queue,
        PriorityQueue=PriorityQueue,
        LifoQueue=LifoQueue,
        QueueEmpty=queues.QueueEmpty,
        QueueFull=queues.QueueFull,
    )
    classes = [
        (cls, "queue_class", getattr(ours, cls.queue_class.__name__))
        for cls in vars(tornado_tests).values()
        if "queue_class" in vars(cls if isinstance(cls, type) else object)
    ]
    with replaced((tornado_tests, "queues", ours), *classes):
        yield


collect(tornado_tests, globals(), NOT_FOLLOWED, SKIPPED)
