"""`WaitQueue`: in line, cancelled at every moment, timed out, and across loops."""

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop import IOLoop
from waterspout.ioloop.scheduling import WaitQueue
from waterspout.ioloop.scheduling._waiters import ThreadWaiter
from waterspout.ioloop.testing import simulate


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def park(queue, count, timeout=None):
    """Start tasks that wait in a queue, in order."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(queue.wait(timeout)))
        await asyncio.sleep(0)
    return tasks


async def test_first_come_first_served():
    queue = WaitQueue()
    tasks = await park(queue, 3)
    assert len(queue) == 3
    assert repr(queue) == "<WaitQueue waiters=3>"
    assert [queue.wake(number) for number in range(4)] == [True, True, True, False]
    assert await asyncio.gather(*tasks) == [0, 1, 2]
    assert len(queue) == 0


async def test_wake_all_serves_those_who_wait_now():
    queue = WaitQueue()
    tasks = await park(queue, 3)
    assert queue.wake_all("now") == 3
    late = await park(queue, 1)
    assert await asyncio.gather(*tasks) == ["now"] * 3
    assert not late[0].done()
    assert queue.wake("late")
    assert await late[0] == "late"
    assert queue.wake_all("nobody") == 0


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_who_is_cancelled_leaves_the_line(position):
    queue = WaitQueue()
    tasks = await park(queue, 3)
    cancelled = tasks.pop(position)
    cancelled.cancel()
    # Before its task resumes and after, it is passed over.
    assert queue.wake("a")
    await settle()
    assert cancelled.cancelled()
    assert queue.wake("b")
    assert not queue.wake("c")
    assert await asyncio.gather(*tasks) == ["a", "b"]


async def test_those_who_are_being_cancelled_are_nobody():
    queue = WaitQueue()
    tasks = await park(queue, 3)
    for task in tasks:
        task.cancel()
    assert not queue.wake("x")
    assert len(queue) == 0
    await settle()
    assert all(task.cancelled() for task in tasks)
    assert len(queue) == 0
    [next_one] = await park(queue, 1)
    assert len(queue) == 1
    assert queue.wake("x")
    assert await next_one == "x"


async def test_who_was_passed_over_is_not_counted_again_when_it_resumes():
    queue = WaitQueue()
    first, *others = await park(queue, 6)
    first.cancel()
    assert queue.wake("x")
    assert len(queue) == 4
    await settle()
    assert len(queue) == 4
    assert queue.wake_all("x") == 4
    assert await asyncio.gather(*others) == ["x"] * 5


async def test_what_is_handed_to_a_cancelled_task_is_reclaimed_at_once():
    handed_on = []

    def reclaim(value):
        handed_on.append(value)
        assert queue.wake(value)

    queue = WaitQueue(reclaim)
    first, second = await park(queue, 2)
    assert queue.wake("permit")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert handed_on == ["permit"]
    assert await second == "permit"


async def test_without_reclaim_it_is_dropped():
    queue = WaitQueue()
    first, second = await park(queue, 2)
    queue.wake("note")
    first.cancel()
    await settle()
    assert first.cancelled()
    assert not second.done()
    queue.wake("other")
    assert await second == "other"


async def test_a_coroutine_that_is_closed_gives_back_what_it_was_handed():
    back = []
    queue = WaitQueue(back.append)
    waiting = queue.wait()
    waiting.send(None)
    assert queue.wake("permit")
    waiting.close()
    assert back == ["permit"]
    waiting = queue.wait()
    waiting.send(None)
    waiting.close()
    assert len(queue) == 0
    assert back == ["permit"]


@pytest.mark.waterspout("simulated")
async def test_timeouts():
    back = []
    queue = WaitQueue(back.append)
    tasks = await park(queue, 2, timeout=10)
    patient = (await park(queue, 1))[0]
    await asyncio.sleep(11)
    for task in tasks:
        assert isinstance(task.exception(), TimeoutError)
    assert len(queue) == 1
    assert queue.wake("x")
    assert await patient == "x"
    assert back == []
    [in_time] = await park(queue, 1, timeout=10)
    queue.wake("y")
    assert await in_time == "y"
    assert not queue.served


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("hand_off_first", [True, False])
async def test_a_hand_off_and_a_timeout_in_the_same_tick(hand_off_first):
    back = []
    queue = WaitQueue(back.append)
    loop = asyncio.get_running_loop()
    if hand_off_first:
        loop.call_later(10, queue.wake, "x")
    task = (await park(queue, 1, timeout=10))[0]
    if not hand_off_first:
        loop.call_at(loop.time() + 10, queue.wake, "x")
    await asyncio.sleep(10.1)
    if hand_off_first:
        assert await task == "x"
    else:
        with pytest.raises(TimeoutError):
            await task
    assert back == []


@pytest.mark.waterspout("simulated")
async def test_expired_and_cancelled_before_it_resumes_has_nothing():
    back = []
    queue = WaitQueue(back.append)
    tasks = await park(queue, 6, timeout=10)
    others = await park(queue, 5)
    asyncio.get_running_loop().call_later(10, tasks[0].cancel)
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert all(isinstance(task.exception(), TimeoutError) for task in tasks[1:])
    assert back == []
    assert len(queue) == 5
    assert queue.wake_all("x") == 5
    assert await asyncio.gather(*others) == ["x"] * 5


@pytest.mark.parametrize("leavers", [(3,), (0, 2), (2, 0), (1, 2, 3), (4, 3, 2, 1, 0)])
async def test_who_left_is_not_counted_and_does_not_keep_the_line_for_its_loop(leavers):
    queue = WaitQueue()
    tasks = await park(queue, 5)
    for number in leavers:
        tasks[number].cancel()
        await settle()
    assert len(queue) == 5 - len(leavers)
    staying = [task for number, task in enumerate(tasks) if number not in leavers]
    for number in range(len(staying)):
        assert queue.wake(number)
    assert len(queue) == 0
    assert await asyncio.gather(*staying) == list(range(len(staying)))
    assert len(queue) == 0
    await asyncio.to_thread(asyncio.run, _served(queue))


async def test_zero_timeout_does_not_wait():
    queue, yielded = WaitQueue(), []
    asyncio.get_running_loop().call_soon(yielded.append, True)
    for timeout in (0, -1):
        with pytest.raises(TimeoutError):
            await queue.wait(timeout)
    with pytest.raises(TypeError, match="timeout must be"):
        await queue.wait("1")
    with pytest.raises(ValueError, match="timeout must not be NaN"):
        await queue.wait(float("nan"))
    assert len(queue) == 0
    assert yielded == []


def test_two_open_loops_never_wait_together():
    queue = WaitQueue()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    task = first.create_task(queue.wait())
    first.run_until_complete(settle())

    async def intrude():
        with pytest.raises(RuntimeError, match="another event loop"):
            await queue.wait()
        with pytest.raises(RuntimeError, match="another event loop"):
            queue.wake("x")
        with pytest.raises(RuntimeError, match="another event loop"):
            queue.wake_all("x")
        with pytest.raises(RuntimeError, match="another event loop"):
            queue.check_loop()

    second.run_until_complete(intrude())
    assert len(queue) == 1
    # Between runs of its loop, its own thread may wake it.
    assert queue.wake("mine")
    assert first.run_until_complete(task) == "mine"
    second.run_until_complete(asyncio.wait_for(_served(queue), 1))
    first.close()
    second.close()


async def _served(queue):
    queue.check_loop()
    task = (await park(queue, 1))[0]
    queue.wake("x")
    assert await task == "x"


async def test_a_thread_without_a_loop_is_refused():
    queue = WaitQueue()
    task = (await park(queue, 1))[0]
    errors = []

    def intrude():
        try:
            queue.wake("x")
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert "another event loop" in errors[0]
    queue.wake("y")
    assert await task == "y"


def test_waiters_of_a_closed_loop_are_dropped():
    queue = WaitQueue()
    loop = asyncio.new_event_loop()
    waiting = queue.wait()

    async def begin():
        waiting.send(None)

    loop.run_until_complete(begin())
    loop.close()
    assert len(queue) == 1
    asyncio.run(_served(queue))
    assert not queue.wake("x")
    waiting.close()
    gc.collect()
    assert len(queue) == 0


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.waterspout("simulated")
async def test_the_memory_of_a_crowd_is_given_back(all_at_once):
    queue = WaitQueue()
    before = sys.getsizeof(queue.served)
    tasks = [asyncio.create_task(queue.wait()) for _ in range(2000)]
    await asyncio.sleep(0)
    if all_at_once:
        queue.wake_all("x")
    else:
        while queue.wake("x"):
            pass
    queue._forget()  # too early: they have not resumed
    assert await asyncio.gather(*tasks) == ["x"] * 2000
    assert sys.getsizeof(queue.served) > before
    await asyncio.sleep(1)
    assert sys.getsizeof(queue.served) == sys.getsizeof({})


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.waterspout("simulated")
async def test_so_it_is_although_nobody_asks_for_it(all_at_once):
    queue = WaitQueue()
    tasks = [asyncio.create_task(queue.wait()) for _ in range(1000)]
    await asyncio.sleep(0)
    if all_at_once:
        queue.wake_all("x")
    else:
        while queue.wake("x"):
            pass
    await asyncio.wait(tasks)
    await asyncio.sleep(1)
    assert sys.getsizeof(queue.served) == sys.getsizeof({})


@pytest.mark.waterspout("simulated")
async def test_so_it_is_if_they_take_long_to_resume():
    queue = WaitQueue()
    waiting = [queue.wait() for _ in range(1000)]
    for one in waiting:
        one.send(None)
    queue.wake_all("x")
    await asyncio.sleep(1)
    assert len(queue.served) == 1000
    for one in waiting:
        with pytest.raises(StopIteration):
            one.send(None)
    await asyncio.sleep(1)
    assert sys.getsizeof(queue.served) == sys.getsizeof({})


async def test_who_is_served_in_its_own_loop_has_it_at_once():
    queue = WaitQueue()
    waiters = [queue.join() for _ in range(3)]
    assert queue.hand_over("x", queue.check_loop())
    queue.wake_all("y")
    assert [waiter.result() for waiter in waiters] == ["x", "y", "y"]


def test_who_was_cancelled_in_a_loop_that_closed_is_forgotten():
    queue = WaitQueue()
    loop = asyncio.new_event_loop()
    waiting = queue.wait()

    async def begin():
        waiting.send(None).cancel()
        assert not queue.wake("x")

    loop.run_until_complete(begin())
    loop.close()
    asyncio.run(_served(queue))
    assert not queue._passed
    waiting.close()
    assert len(queue) == 0


def serve_in_another_loop(queue, value):
    """Hand a value to a coroutine that does not resume; give its loop and the coroutine."""
    loop = asyncio.new_event_loop()
    waiting = queue.wait()

    async def begin():
        waiting.send(None)
        assert queue.wake(value)

    loop.run_until_complete(begin())
    return loop, waiting


def serve_in_a_loop_that_closes(queue, value):
    """Hand a value to a coroutine whose loop closes before it can resume; give the coroutine."""
    loop, waiting = serve_in_another_loop(queue, value)
    loop.close()
    return waiting


def test_what_was_handed_to_a_task_of_a_closed_loop_is_recovered_once():
    back = []
    queue = WaitQueue(back.append)
    waiting = serve_in_a_loop_that_closes(queue, "permit")
    queue.recover()
    queue.recover()
    waiting.close()
    assert back == ["permit"]


def test_it_is_recovered_also_if_the_garbage_collector_was_faster():
    back = []
    queue = WaitQueue(back.append)
    serve_in_a_loop_that_closes(queue, "permit").close()
    assert back == []  # it may have been any thread
    queue.recover()
    assert back == ["permit"]


async def test_who_comes_to_a_line_is_served_what_is_recovered():
    queue = WaitQueue(lambda value: queue.wake(value))
    waiting = await asyncio.to_thread(serve_in_a_loop_that_closes, queue, "permit")
    assert await queue.wait() == "permit"
    waiting.close()
    assert len(queue) == 0


async def test_nobody_waits_while_a_task_of_another_open_loop_was_served():
    queue = WaitQueue(lambda value: queue.wake(value))
    loop, waiting = await asyncio.to_thread(serve_in_another_loop, queue, "permit")
    with pytest.raises(RuntimeError, match="another event loop"):
        await queue.wait()
    assert len(queue) == 0
    loop.close()
    assert await queue.wait() == "permit"
    waiting.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from([None, 1.0, 2.0])),
        st.tuples(st.just("wake"), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.5, 1.0])),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_program_hands_each_value_to_one_task_in_order(steps):
    """Whatever is cancelled, timed out and woken when: nothing is lost, doubled or overtaken."""

    async def main():
        stock, given_out = [], []
        queue = WaitQueue(lambda value: queue.wake(value) or stock.append(value))
        tasks, number = [], 0
        for step, argument in steps:
            if step == "join":
                tasks.append(asyncio.create_task(queue.wait(argument)))
                await asyncio.sleep(0)
            elif step == "wake":
                if queue.wake(number):
                    given_out.append(number)
                    number += 1
            elif step == "cancel" and tasks:
                tasks[argument % len(tasks)].cancel()
            elif step == "settle":
                await settle()
            elif step == "sleep":
                await asyncio.sleep(argument)
        await settle()
        got = [task.result() for task in tasks if _has_result(task)]
        assert sorted(got + stock) == given_out
        if not any(task.cancelled() for task in tasks):
            assert got == given_out
        waiting = [task for task in tasks if not task.done()]
        assert len(queue) == len(waiting)
        for task in waiting:
            task.cancel()
        await settle()
        assert len(queue) == 0

    simulate(main)


def _has_result(task):
    return task.done() and not task.cancelled() and task.exception() is None


async def test_who_waits_through_keeps_the_place_however_often_it_is_cancelled():
    queue = WaitQueue()
    task = asyncio.create_task(queue.wait_through())
    await asyncio.sleep(0)
    [later] = await park(queue, 1)
    for _ in range(3):
        task.cancel()
        await settle()
    assert not task.done()
    assert queue.wake("first")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.wake("second")
    assert await later == "second"
    assert not queue.served
    calm = asyncio.create_task(queue.wait_through())
    await asyncio.sleep(0)
    queue.wake("calm")
    assert await calm == "calm"


async def test_who_waits_through_and_is_closed_gives_back():
    back = []
    queue = WaitQueue(back.append)
    for served in (False, True):
        waiting = queue.wait_through()
        waiting.send(None)
        if served:
            assert queue.wake("permit")
        waiting.close()
    assert back == ["permit"]
    assert len(queue) == 0


async def test_a_timeout_of_none_in_another_guise():
    queue = WaitQueue()
    task = asyncio.create_task(queue.wait(float("inf")))
    await asyncio.sleep(0)
    queue.wake("x")
    assert await task == "x"


# Threads


class Room:
    """A guarded queue, and what is done with it."""

    def __init__(self, reclaim=None):
        self.guard = threading.RLock()
        self.queue = WaitQueue(reclaim, self.guard)

    async def wait(self, timeout=None):
        with self.guard:
            return await self.queue.wait(timeout)

    def wait_in_thread(self, timeout=None):
        with self.guard:
            return self.queue.wait_in_thread(timeout)

    def wake(self, value):
        with self.guard:
            return self.queue.wake(value)

    async def has(self, count):
        while len(self.queue) != count:
            await asyncio.sleep(0.001)


async def test_threads_and_tasks_stand_in_one_line():
    room = Room()
    waiting = []
    for number in range(4):
        make = asyncio.to_thread(room.wait_in_thread) if number % 2 else room.wait()
        waiting.append(asyncio.create_task(make))
        await room.has(number + 1)
    for number in range(4):
        wake = asyncio.to_thread(room.wake, number) if number < 2 else None
        assert await wake if wake else room.wake(number)
    assert await asyncio.gather(*waiting) == [0, 1, 2, 3]
    assert not room.wake("nobody")
    with room.guard:
        assert room.queue.wake_all("nobody") == 0
    assert not room.queue.served


async def test_a_thread_waits_so_long():
    room = Room()
    for timeout in (0.01, 0, -1):
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(room.wait_in_thread, timeout)
    assert len(room.queue) == 0
    with pytest.raises(TypeError, match="timeout must be"):
        room.wait_in_thread("1")
    waiting = asyncio.create_task(asyncio.to_thread(room.wait_in_thread, 30))
    await room.has(1)
    assert room.wake("in time")
    assert await waiting == "in time"


def test_a_thread_without_time_does_not_wait(monkeypatch):
    room = Room()

    def wait(self, seconds):
        raise AssertionError("it waits")

    monkeypatch.setattr("waterspout.ioloop.scheduling._waiters.ThreadWaiter.wait", wait)
    for timeout in (0, -1):
        with pytest.raises(TimeoutError):
            room.wait_in_thread(timeout)
    assert len(room.queue) == 0


async def test_a_guarded_task_waits_so_long():
    room = Room()
    with pytest.raises(TimeoutError):
        await room.wait(0.01)
    task = asyncio.create_task(room.wait(30))
    await room.has(1)
    assert await asyncio.to_thread(room.wake, "x")
    assert await task == "x"


async def test_what_a_thread_hands_to_a_task_that_is_cancelled_comes_back():
    back = []
    room = Room(back.append)
    task = asyncio.create_task(room.wait())
    await room.has(1)
    thread = threading.Thread(target=room.wake, args=("permit",))
    thread.start()
    thread.join()  # and the loop has not heard of it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert back == ["permit"]
    await settle()


async def test_a_thread_that_is_interrupted_gives_back(monkeypatch):
    back = []
    room = Room(back.append)

    hand_over = []

    def interrupted(self, seconds):
        if hand_over:
            room.wake("permit")
        raise KeyboardInterrupt

    monkeypatch.setattr("waterspout.ioloop.scheduling._waiters.ThreadWaiter.wait", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            room.wait_in_thread()
        hand_over.append(True)
    assert back == ["permit"]
    assert len(room.queue) == 0


async def test_a_hand_over_at_the_last_moment_counts(monkeypatch):
    room = Room()

    def wait(self, seconds):
        room.wake("just in time")

    monkeypatch.setattr("waterspout.ioloop.scheduling._waiters.ThreadWaiter.wait", wait)
    assert room.wait_in_thread(0.01) == "just in time"


def test_a_thread_stays_in_line_when_a_loop_has_closed():
    room = Room()
    loop = asyncio.new_event_loop()
    waiting = room.wait()

    async def begin():
        waiting.send(None)

    loop.run_until_complete(begin())
    result = []
    thread = threading.Thread(target=lambda: result.append(room.wait_in_thread(30)))
    thread.start()
    asyncio.run(room.has(2))
    loop.close()
    assert room.wake("x")
    thread.join()
    assert result == ["x"]
    waiting.close()


def test_a_thread_wakes_a_loop_that_may_begin_to_run_meanwhile():
    loop, room = asyncio.new_event_loop(), Room()
    task = loop.create_task(room.wait())
    loop.run_until_complete(settle())
    task.add_done_callback(lambda _: loop.stop())
    with room.guard:
        here = room.queue.check_loop()
        assert not here
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert room.queue.hand_over("x", here)
    thread.join()
    assert task.result() == "x"
    loop.close()


def test_a_thread_passes_over_a_loop_that_closes_meanwhile():
    loop, room = asyncio.new_event_loop(), Room()
    waiting = room.wait()

    async def begin():
        waiting.send(None)

    loop.run_until_complete(begin())
    with room.guard:
        here = room.queue.check_loop()
        loop.close()
        assert not room.queue.hand_over("x", here)
        assert not room.queue.served
        with pytest.raises(RuntimeError):  # whoever closes the coroutine
            waiting.throw(RuntimeError)
    assert len(room.queue) == 0


async def test_threads_that_were_served_are_not_recovered():
    room = Room()
    waiting = asyncio.create_task(asyncio.to_thread(room.wait_in_thread))
    await room.has(1)
    with room.guard:
        room.queue.wake("x")
        room.queue.recover()
        assert room.queue.check_loop()
    assert await waiting == "x"


async def test_a_guard_may_come_while_tasks_wait():
    queue, guard = WaitQueue(), threading.RLock()

    async def wait(timeout, ends):
        """As an owner does it: with the guard held at the end, whenever it came."""
        try:
            return await queue.wait(timeout)
        finally:
            ends.append(True)
            guard.release()

    ends = []
    tasks = [asyncio.create_task(wait(timeout, ends)) for timeout in (None, 30, None, 30)]
    await settle()
    queue.set_guard(guard)
    tasks[2].cancel()
    tasks[3].cancel()
    await settle()
    with guard:
        assert queue.wake_all("x") == 2
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[:2] == ["x", "x"]
    assert [type(outcome) for outcome in outcomes[2:]] == [asyncio.CancelledError] * 2
    assert ends == [True] * 4


async def test_threads_look_whether_it_still_makes_sense_to_wait():
    room, over = Room(), []

    def check():
        if over:
            raise ZeroDivisionError("over")

    def wait():
        with room.guard:
            return room.queue.wait_in_thread(check=check)

    threads = [asyncio.create_task(asyncio.to_thread(wait)) for _ in range(2)]
    await room.has(2)
    task = asyncio.create_task(room.wait())
    await room.has(3)
    with room.guard:
        room.queue.check_threads()  # and they wait on, at their places
        room.queue.check_threads()
    over.append(True)
    with room.guard:
        room.queue.check_threads()
        assert room.queue.wake("x")  # who is served has that, whatever the check would say
    outcomes = await asyncio.gather(*threads, return_exceptions=True)
    assert sorted(map(str, outcomes)) == ["over", "x"]
    assert len(room.queue) == 1
    room.wake("y")
    assert await task == "y"


async def test_a_guarded_task_that_is_cancelled_leaves_the_line():
    room = Room()
    task = asyncio.create_task(room.wait())
    await room.has(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(room.queue) == 0


class Owner:
    """Has a queue, and takes back what that reclaims."""

    def __init__(self):
        self.back = []
        self.queue = WaitQueue(Owner.reclaim, owner=self)

    def reclaim(self, value):
        self.back.append(value)


def test_an_owner_is_no_reference_cycle():
    gc.disable()
    try:
        owner = Owner()
        watch = weakref.ref(owner)
        del owner
        assert watch() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("gone", [False, True])
async def test_an_owner_reclaims_as_long_as_it_is_there(gone):
    owner = Owner()
    queue, back = owner.queue, owner.back
    waiting = queue.wait()
    waiting.send(None)
    queue.wake("permit")
    if gone:
        del owner
    waiting.close()
    assert back == ([] if gone else ["permit"])
    assert not queue.served


def close_in_thread(coroutine):
    """Close it as the garbage collector may do it: in a thread that knows nothing of its loop."""
    thread = threading.Thread(target=coroutine.close)
    thread.start()
    thread.join()


@pytest.mark.parametrize("served", [False, True])
async def test_what_is_closed_in_another_thread_leaves_the_line_in_its_own(served):
    owner = Owner()
    waiting = owner.queue.wait()
    waiting.send(None)
    if served:
        owner.queue.wake("permit")
    close_in_thread(waiting)
    assert owner.back == []
    assert len(owner.queue) == (not served)
    await settle()
    assert owner.back == (["permit"] if served else [])
    assert len(owner.queue) == 0


@pytest.mark.parametrize("loop_closes", [False, True])
def test_a_value_that_a_closed_coroutine_hands_over_in_another_thread(loop_closes):
    owner, loop = Owner(), asyncio.new_event_loop()

    async def hold():
        try:
            await asyncio.sleep(30)
        finally:
            assert owner.queue.wake("permit")

    async def begin():
        waiting.send(None)
        holding.send(None)
        close_in_thread(holding)
        assert owner.back == []

    waiting, holding = owner.queue.wait(), hold()
    loop.run_until_complete(begin())
    if loop_closes:
        loop.close()
        owner.queue.recover()
    else:
        loop.run_until_complete(settle())
        loop.close()
    assert owner.back == ["permit"]
    waiting.close()


@pytest.mark.parametrize("when", ["left", "served"])
async def test_a_loop_that_closes_before_it_hears_of_that(when):
    """Whatever it has not heard of is recovered."""
    owner = Owner()

    def in_another_loop():
        loop = asyncio.new_event_loop()
        waiting = owner.queue.wait()

        async def begin():
            waiting.send(None)
            if when == "served":
                owner.queue.wake("permit")
            closing = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = closes
            close_in_thread(waiting)
            loop.call_soon_threadsafe = closing

        def closes(*args):
            raise RuntimeError("Event loop is closed")

        loop.run_until_complete(begin())
        loop.close()

    await asyncio.to_thread(in_another_loop)
    owner.queue.recover()
    assert owner.back == (["permit"] if when == "served" else [])
    assert await asyncio.wait_for(_served_soon(owner.queue), 1) == "x"


async def _served_soon(queue):
    asyncio.get_running_loop().call_soon(queue.wake, "x")
    return await queue.wait()


async def test_a_wait_that_cannot_begin_leaves_no_timer():
    queue = WaitQueue()
    loop = asyncio.new_event_loop()
    waiting = queue.wait()

    async def begin():
        waiting.send(None)

    await asyncio.to_thread(loop.run_until_complete, begin())
    timers = IOLoop.current()._alarm.timers
    before = len(timers)
    with pytest.raises(RuntimeError, match="another event loop"):
        await queue.wait(30)
    assert len(timers) == before
    assert len(queue) == 1
    loop.close()
    waiting.close()


async def test_a_task_whose_coroutine_was_closed_while_it_waited_through_can_be_ended():
    queue = WaitQueue()
    waiting = queue.wait_through()
    task = asyncio.create_task(waiting)
    await settle()
    waiting.close()
    assert len(queue) == 0
    task.cancel()
    await asyncio.wait([task])
    assert "already awaited" in str(task.exception())


def test_a_thread_that_looks_lets_go_of_a_loop_of_which_nobody_waits(monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.scheduling._threadline.CHECK_INTERVAL", 0.001)
    room, looked = Room(), threading.Event()

    def wait():
        with room.guard:
            return room.queue.wait_in_thread(check=looked.set)

    async def main():
        staying = asyncio.create_task(room.wait())
        await room.has(1)
        thread = asyncio.create_task(asyncio.to_thread(wait))
        await asyncio.to_thread(looked.wait, 10)
        assert room.queue._loop is asyncio.get_running_loop()
        room.wake("x")
        assert await staying == "x"
        while room.queue._loop is not None:
            await asyncio.sleep(0.001)
        room.wake("y")
        assert await thread == "y"

    asyncio.run(main())


def test_a_thread_that_finds_nothing_waits_on(monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.scheduling._threadline.CHECK_INTERVAL", 0.001)
    room, waits, result = Room(), [], []
    wait = ThreadWaiter.wait

    def count(self, seconds):
        waits.append(seconds)
        wait(self, seconds)

    monkeypatch.setattr(ThreadWaiter, "wait", count)
    thread = threading.Thread(target=lambda: result.append(room.wait_in_thread()))
    thread.start()

    async def wake():
        while len(waits) < 4:
            await asyncio.sleep(0.001)
        assert len(room.queue) == 1
        room.wake("x")

    asyncio.run(wake())
    thread.join()
    assert result == ["x"]
    assert set(waits) == {0.001}
