"""`PriorityQueue`, `LifoQueue`, `get_many`, and subclasses of one's own."""

import asyncio
import heapq
import queue as threaded
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop.testing import simulate
from waterspout.queues import LifoQueue, PriorityQueue, Queue, QueueEmpty, QueueFull, QueueShutDown


def drain(queue):
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


async def test_the_smallest_comes_first_and_of_equals_the_oldest():
    queue = PriorityQueue(key=lambda item: item[0])
    for item in [(3, "a"), (1, "b"), (2, "c"), (1, "d"), (3, {}), (1, None)]:
        await queue.put(item)
    assert drain(queue) == [(1, "b"), (1, "d"), (1, None), (2, "c"), (3, "a"), (3, {})]
    plain = PriorityQueue()
    for item in (3, 1, 2):
        plain.put_nowait(item)
    assert [await plain.get() for _ in range(3)] == [1, 2, 3]


async def test_the_last_comes_first():
    queue = LifoQueue(3)
    for item in "abc":
        await queue.put(item)
    with pytest.raises(QueueFull):
        queue.put_nowait("d")
    assert [await queue.get() for _ in range(3)] == ["c", "b", "a"]
    with pytest.raises(QueueEmpty):
        queue.get_nowait()


async def test_a_woken_getter_takes_the_best_item_when_it_resumes():
    queue = PriorityQueue()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait(5)
    queue.put_nowait(1)
    assert await getting == 1
    assert queue.get_nowait() == 5


class Incomparable:
    def __lt__(self, other):
        raise ZeroDivisionError

    __gt__ = __lt__


@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_what_cannot_be_compared_is_refused_and_changes_nothing(items, data):
    queue = PriorityQueue()
    for item in items:
        queue.put_nowait(item)
    before = list(queue._queue)
    bad = data.draw(st.sampled_from([Incomparable(), "text", None]))
    if items:
        with pytest.raises((TypeError, ZeroDivisionError)):
            queue.put_nowait(bad)
        assert queue._queue == before
    else:
        queue.put_nowait(bad)
        assert queue.get_nowait() is bad
    assert drain(queue) == sorted(items)


class Moody:
    """Can be compared so many times."""

    left = 0

    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        Moody.left -= 1
        if Moody.left < 0:
            raise ZeroDivisionError
        return self.value < other.value


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(0, 6), st.integers(0, 20))
def test_a_put_that_is_broken_off_anywhere_is_undone(values, comparisons, last):
    queue = PriorityQueue()
    Moody.left = 10**6
    for value in values:
        queue.put_nowait(Moody(value))
    before = list(queue._queue)
    Moody.left = comparisons
    try:
        queue.put_nowait(Moody(last))
    except ZeroDivisionError:
        assert queue._queue == before
    else:
        values = [*values, last]
    Moody.left = 10**6
    assert [item.value for item in drain(queue)] == sorted(values)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=40), st.integers(0, 20))
def test_a_get_that_is_broken_off_anywhere_is_undone(values, comparisons):
    queue = PriorityQueue()
    Moody.left = 10**6
    for value in values:
        queue.put_nowait(Moody(value))
    before = list(queue._queue)
    Moody.left = comparisons
    try:
        assert queue.get_nowait().value == min(values)
    except ZeroDivisionError:
        assert queue._queue == before
    else:
        values = sorted(values)[1:]
    Moody.left = 10**6
    assert [item.value for item in drain(queue)] == sorted(values)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="key must be callable or None, not 5"):
        PriorityQueue(key=5)
    for kind in (PriorityQueue, LifoQueue):
        with pytest.raises(ValueError, match="maxsize must not be negative, not -1"):
            kind(-1)
        with pytest.raises(TypeError, match="maxsize must be an integer, not None"):
            kind(None)


MODELS = [
    (Queue, threaded.Queue),
    (LifoQueue, threaded.LifoQueue),
    (PriorityQueue, threaded.PriorityQueue),
]


@pytest.mark.parametrize(("kind", "model"), MODELS, ids=lambda kind: kind.__module__)
@given(st.integers(0, 4), st.lists(st.one_of(st.integers(0, 9), st.just("get")), max_size=40))
def test_they_do_what_those_for_threads_do(kind, model, maxsize, steps):
    ours, theirs = kind(maxsize), model(maxsize)
    for step in steps:
        for queue in (ours, theirs):
            try:
                outcome = queue.get_nowait() if step == "get" else queue.put_nowait(step)
            except (QueueEmpty, threaded.Empty):
                outcome = "empty"
            except (QueueFull, threaded.Full):
                outcome = "full"
            if queue is ours:
                expected = outcome
        assert outcome == expected
        assert ours.qsize() == theirs.qsize()
        assert ours.full() == theirs.full()
        assert ours.empty() == theirs.empty()


# get_many


async def test_many_are_taken_at_once():
    queue = Queue()
    for number in range(10):
        queue.put_nowait(number)
    assert await queue.get_many(3) == [0, 1, 2]
    assert await queue.get_many() == [3, 4, 5, 6, 7, 8, 9]
    waiting = asyncio.create_task(queue.get_many(5))
    await asyncio.sleep(0)
    queue.put_nowait("a")
    queue.put_nowait("b")
    assert await waiting == ["a", "b"]
    with pytest.raises(TimeoutError):
        await queue.get_many(timeout=0)
    for wrong, error in ((0, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="max_items must be"):
            await queue.get_many(wrong)
    queue.put_nowait("last")
    queue.shutdown()
    assert await queue.get_many() == ["last"]
    with pytest.raises(QueueShutDown):
        await queue.get_many()


async def test_putters_get_the_places_of_many():
    queue = Queue(2)
    putting = [asyncio.create_task(queue.put(number)) for number in range(6)]
    await asyncio.sleep(0)
    taken = []
    while len(taken) < 6:
        taken += await queue.get_many()
    assert taken == list(range(6))
    await asyncio.gather(*putting)


async def test_what_others_have_reserved_is_not_taken():
    queue = Queue()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get_many())
    await asyncio.sleep(0)
    for number in range(3):
        queue.put_nowait(number)
    assert await first == 0
    assert await second == [1, 2]


class Fussy(Queue):
    def _get(self):
        if self._queue[0] == "bad":
            raise ZeroDivisionError
        return super()._get()


async def test_an_error_in_the_middle_loses_nothing():
    queue = Fussy()
    for item in ("a", "b", "bad"):
        queue.put_nowait(item)
    assert await queue.get_many() == ["a", "b"]
    with pytest.raises(ZeroDivisionError):
        await queue.get_many()
    assert queue.qsize() == 1


# Subclasses


class Once(Queue):
    """Drops what it has already; `_queue` need not grow with a put."""

    def _init(self, maxsize):
        self._queue = {}

    def _put(self, item):
        self._queue[item] = None

    def _get(self):
        item = next(iter(self._queue))
        del self._queue[item]
        return item


async def test_a_subclass_may_keep_its_items_as_it_likes():
    queue = Once(2)
    for item in "aab":
        await queue.put(item)
    assert queue.full()
    assert [await queue.get() for _ in range(2)] == ["a", "b"]
    assert queue.empty()
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)


def test_a_heap_is_what_it_is():
    async def main():
        queue = PriorityQueue()
        for item in (5, 3, 4):
            await queue.put(item)
        assert heapq.nsmallest(1, queue._queue)[0][0] == 3

    simulate(main)


class Job:
    """It has an order, and no equality to go with it."""

    def __init__(self, priority, number):
        self.priority, self.number = priority, number

    def __lt__(self, other):
        return self.priority < other.priority


def test_equals_are_what_neither_is_less():
    queue = PriorityQueue()
    for number in range(12):
        queue.put_nowait(Job(number % 2, number))
    order = [queue.get_nowait().number for _ in range(12)]
    assert order == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


def test_plain_priorities_and_others_can_be_mixed():
    queue = PriorityQueue()
    for item in (2, Fraction(3, 2), 1, Fraction(1), 0.5):
        queue.put_nowait(item)
    assert [queue.get_nowait() for _ in range(5)] == [0.5, 1, 1, Fraction(3, 2), 2]
