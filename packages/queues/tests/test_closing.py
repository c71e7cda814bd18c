"""Coroutines that are closed while they wait: no item and no place is lost, in any thread."""

import asyncio
import threading

import pytest

from waterspout.queues import Queue


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


def close(coroutine):
    coroutine.close()


def close_in_thread(coroutine):
    """As the garbage collector may do it: in a thread that knows nothing of its loop."""
    call_in_thread(coroutine.close)


def close_in_another_loop(coroutine):
    async def close():
        coroutine.close()

    call_in_thread(lambda: asyncio.run(close()))


def call_in_thread(function):
    errors = []

    def call():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert errors == []


CLOSERS = pytest.mark.parametrize("close", [close, close_in_thread, close_in_another_loop])
GUARDED = pytest.mark.parametrize("guarded", [False, True])
GRANTED = pytest.mark.parametrize("granted", [False, True])
TIMEOUTS = pytest.mark.parametrize("timeout", [None, 30])


def new_queue(maxsize, guarded):
    queue = Queue(maxsize)
    queue.kept_side = queue.threadside if guarded else None
    return queue


def is_free(queue):
    """Whether the guard, if there is one, is not held by another thread than this."""
    free = []
    if queue.kept_side is not None:

        def look():
            free.append(queue._guard.acquire(blocking=False))
            if free[0]:
                queue._guard.release()

        call_in_thread(look)
    return all(free)


@CLOSERS
@GUARDED
@GRANTED
@TIMEOUTS
async def test_a_getter(close, guarded, granted, timeout):
    queue = new_queue(0, guarded)
    waiting = queue.get(timeout)
    waiting.send(None)
    following = asyncio.create_task(queue.get())
    await settle()
    if granted:
        queue.put_nowait("x")
        queue.put_nowait("y")
    close(waiting)
    await settle()
    assert is_free(queue)
    if not granted:
        assert len(queue._getters) == 1
        queue.put_nowait("x")
        queue.put_nowait("y")
    assert {await following, queue.get_nowait()} == {"x", "y"}
    assert queue.empty()
    assert queue._reserved_items == 0


@CLOSERS
@GUARDED
async def test_a_getter_that_nobody_follows(close, guarded):
    queue = new_queue(0, guarded)
    waiting = queue.get_many(2)
    waiting.send(None)
    queue.put_nowait("x")
    assert queue.empty()  # it is reserved
    close(waiting)
    await settle()
    assert queue.get_nowait() == "x"
    assert is_free(queue)


@CLOSERS
@GUARDED
@GRANTED
@TIMEOUTS
async def test_a_putter(close, guarded, granted, timeout):
    queue = new_queue(1, guarded)
    queue.put_nowait("x")
    waiting = queue.put("closed", timeout)
    waiting.send(None)
    following = asyncio.create_task(queue.put("y"))
    await settle()
    if granted:
        assert queue.get_nowait() == "x"
    close(waiting)
    await settle()
    assert is_free(queue)
    if not granted:
        assert len(queue._putters) == 1
        assert queue.get_nowait() == "x"
    await following
    assert queue.full()
    assert queue.get_nowait() == "y"
    assert queue._reserved_places == 0


@CLOSERS
@GUARDED
@GRANTED
async def test_who_waits_in_join(close, guarded, granted):
    queue = new_queue(0, guarded)
    queue.put_nowait("x")
    waiting = queue.join()
    waiting.send(None)
    following = asyncio.create_task(queue.join())
    await settle()
    queue.get_nowait()
    if granted:
        queue.task_done()
    close(waiting)
    await settle()
    assert is_free(queue)
    if not granted:
        queue.task_done()
    await following
    assert len(queue._joiners) == 0
    assert not queue._joiners.served


@GUARDED
def test_closed_in_another_thread_when_the_loop_closes_nothing_is_lost(guarded):
    loop = asyncio.new_event_loop()
    queue = Queue()
    waiting, following = queue.get(), queue.get()

    async def begin():
        queue.kept_side = queue.threadside if guarded else None
        waiting.send(None)
        following.send(None)
        queue.put_nowait("x")
        close_in_thread(waiting)

    loop.run_until_complete(begin())
    loop.close()
    following.close()

    async def take():
        assert await queue.get(0) == "x"
        with pytest.raises(TimeoutError):
            await queue.get(0)

    asyncio.run(take())
