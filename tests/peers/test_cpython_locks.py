"""CPython's own tests of asyncio's locks and queues, from the interpreter, run against ours."""

import asyncio
import sys
import types
from pathlib import Path

import pytest

theirs_locks = pytest.importorskip("test.test_asyncio.test_locks")
theirs_queues = pytest.importorskip("test.test_asyncio.test_queues")
sys.path.insert(0, str(Path(__file__).parent))

from adapters import collect, replaced  # noqa: E402

from waterspout import locks, queues  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

SHOWN = "asks for asyncio's representation"
PRIVATE = "touches private attributes of asyncio's class"
NO_LOCK = "wait and notify do without the lock where it is free, as Tornado's do"
ANOTHERS = "wait by another task than the one that holds the lock is a mistake, and told"
NOT_FOLLOWED = {
    "LockTests.test_cancel_race": PRIVATE,
    "LockTests.test_repr": SHOWN,
    "EventTests.test_clear_with_waiters": PRIVATE,
    "EventTests.test_repr": SHOWN,
    "ConditionTests.test_ambiguous_loops": PRIVATE,
    "ConditionTests.test_notify_all_unacquired": NO_LOCK,
    "ConditionTests.test_notify_unacquired": NO_LOCK,
    "ConditionTests.test_repr": SHOWN,
    "SemaphoreTests.test_acquire_fifo_order_2": (
        "a permit is handed over by release, not taken by who resumes, so that the order is that "
        "of the line also where asyncio's is not"
    ),
    "SemaphoreTests.test_repr": SHOWN,
    "QueueBasicTests.test_generic_alias": "Queue[int] is an alias of typing's",
    "QueueBasicTests.test_repr": SHOWN,
    "QueueBasicTests.test_str": SHOWN,
    "QueueGetTests.test_get_with_putters": PRIVATE,
    "QueuePutTests.test_float_maxsize": "maxsize is an integer, and 1.3 a mistake",
}
if sys.version_info < (3, 12):
    NOT_FOLLOWED["ConditionTests.test_timeout_in_block"] = (
        ANOTHERS + "; before Python 3.12 asyncio.wait_for makes a task of its own, so use timeout="
    )
NOT_FOLLOWED |= {
    f"{kind}Queue{what}Tests.test_format": PRIVATE
    for kind in ("", "Lifo", "Priority")
    for what in ("Join", "Shutdown")
}
SKIPPED = {  # they wait for ever, or leave an error behind
    "BarrierTests": "is about a class of asyncio's that we have no other of",
    "ConditionTests.test_wait_cancel": ANOTHERS,
    "ConditionTests.test_wait_cancel_contested": PRIVATE + ": it waits for one of its waiters",
    "ConditionTests.test_wait_for_unacquired": NO_LOCK,
    "ConditionTests.test_wait_unacquired": NO_LOCK,
    "SemaphoreTests.test_acquire_fifo_order_4": PRIVATE,
}


class Ours(types.ModuleType):
    """asyncio, with our locks and queues in it."""

    def __getattr__(self, name):
        return getattr(asyncio, name)


ours = Ours("asyncio")
for module in (locks, queues):
    for name in module.__all__:
        if hasattr(asyncio, name):
            setattr(ours, name, getattr(module, name))


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    classes = [
        (cls, "q_class", getattr(ours, cls.q_class.__name__))
        for cls in vars(theirs_queues).values()
        if isinstance(cls, type) and vars(cls).get("q_class") is not None
    ]
    with replaced((theirs_locks, "asyncio", ours), (theirs_queues, "asyncio", ours), *classes):
        yield


def _of(module, reasons):
    """The reasons that are about tests of a module, as it is in this version of Python."""
    return {
        key: reason
        for key, reason in reasons.items()
        if hasattr(getattr(module, key.partition(".")[0], None), key.partition(".")[2] or "run")
    }


for _module in (theirs_locks, theirs_queues):
    collect(_module, globals(), _of(_module, NOT_FOLLOWED), _of(_module, SKIPPED))
