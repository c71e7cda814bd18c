"""Tornado's own tests of futures, executors and time limits, from its wheel, run against ours."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("tornado")
sys.path.insert(0, str(Path(__file__).parent))

import tornado.concurrent
import tornado.gen
import tornado.ioloop
import tornado.test.concurrent_test as concurrent_tests
import tornado.test.gen_test as gen_tests
from adapters import at_once, collect, everywhere, replaced

from waterspout import concurrent

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

SAME = [
    "DummyExecutor",
    "chain_future",
    "dummy_executor",
    "future_add_done_callback",
    "future_set_exc_info",
    "future_set_exception_unless_cancelled",
    "future_set_result_unless_cancelled",
    "run_on_executor",
]
GEN_CLASSES = ["GenCoroutineTest", "WithTimeoutTest"]


def with_timeout(timeout, future, quiet_exceptions=(), message=None):
    """Tornado's leaves what takes too long running, and says so in words of the caller's."""
    if not concurrent.is_future(future):
        future = tornado.gen.convert_yielded(future)
    if isinstance(timeout, int | float):  # a point in time of Tornado's own loop, which it runs on
        timeout -= tornado.ioloop.IOLoop.current().time()
    return at_once(_in_words(message, timeout, future))


async def _in_words(message, timeout, future):
    try:
        return await concurrent.with_timeout(timeout, future, cancel=False)
    except TimeoutError as error:
        words = message() if callable(message) else message
        raise tornado.gen.TimeoutError(words or "Timeout") from error


def sleep(duration):
    return at_once(concurrent.sleep(duration))


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    places = [
        place
        for name in SAME
        for place in everywhere(getattr(tornado.concurrent, name), getattr(concurrent, name))
    ]
    places += everywhere(tornado.gen.with_timeout, with_timeout)
    places += everywhere(tornado.gen.sleep, sleep)
    with replaced(*places):
        yield


collect(concurrent_tests, globals(), {})
classes = {}
collect(gen_tests, classes, {})
globals().update({name: classes[name] for name in GEN_CLASSES})
