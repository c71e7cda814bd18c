"""`cancel_everywhere`: each point once, at both moments, by cancellation and by timeout."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from waterspout.ioloop.testing import Cancellations, CancelledRunError, cancel_everywhere


class LossyLock:
    """A lock that forgets about a waiter that is cancelled after it was given the lock."""

    def __init__(self):
        self.held = False
        self.waiters = []

    async def acquire(self):
        if not self.held:
            self.held = True
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        await waiter

    def release(self):
        while self.waiters:
            waiter = self.waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
        self.held = False


async def hold(lock):
    await lock.acquire()
    try:
        await asyncio.sleep(0)
    finally:
        lock.release()


async def three_holders(lock):
    await asyncio.wait([asyncio.create_task(hold(lock)) for _ in range(3)])


def check_free(lock):
    assert not lock.held, "the lock is held by nobody"


def test_what_gets_lost_in_the_gap_is_found():
    with pytest.raises(CancelledRunError) as caught:
        cancel_everywhere(three_holders, check_free, state=LossyLock)
    error = caught.value
    assert "AssertionError: the lock is held by nobody" in str(error)
    assert str(error).startswith(f"when {error.task} {error.point}")
    assert "is cancelled as soon as it waits, at test_cancel_everywhere.py:" in error.point


def test_what_gets_lost_in_the_gap_is_found_there():
    async def scenario(lock):
        lock.held = True
        asyncio.get_running_loop().call_later(1, lock.release)
        await asyncio.wait([asyncio.create_task(hold(lock))])

    async def check(lock):
        await asyncio.sleep(2)
        check_free(lock)

    with pytest.raises(CancelledRunError) as caught:
        cancel_everywhere(scenario, check, state=LossyLock)
    assert caught.value.task == "hold#2"
    assert "just before it goes on, at" in caught.value.point
    assert "await waiter" in caught.value.point


def test_what_loses_nothing_passes_and_every_point_is_counted():
    points = []

    class Lock:
        """asyncio's, with the name of the state that is checked."""

        def __init__(self):
            points.append(self)
            self.lock = asyncio.Lock()
            self.acquire, self.release = self.lock.acquire, self.lock.release

        @property
        def held(self):
            return self.lock.locked()

    result = cancel_everywhere(three_holders, check_free, state=Lock)
    # Two moments for each of the scenario's own wait, the sleeps of the holders (3), and the
    # waits of the later two (2); and the one moment before each of four tasks begins.
    assert result == Cancellations(points=2 * (1 + 3 + 2) + 4, runs=2 * 16 + 1)
    assert len(points) == result.runs - 2  # a scenario that never began made none
    seeded = cancel_everywhere(three_holders, check_free, state=Lock, seeds=range(3))
    assert seeded.runs > 3 * result.runs
    assert cancel_everywhere(three_holders, check_free, state=Lock, seeds=[5, 6]).points > 16


def test_both_moments_of_a_point():
    """As soon as it waits, and just before it goes on: only the latter has seen the other."""
    seen = set()

    async def scenario(state):
        future = asyncio.get_running_loop().create_future()

        async def waiting():
            try:
                await future
            except asyncio.CancelledError:
                seen.add(future.done() and not future.cancelled())
                raise

        asyncio.get_running_loop().call_later(1, lambda: future.done() or future.set_result(None))
        await asyncio.wait([asyncio.create_task(waiting())])

    cancel_everywhere(scenario, lambda state: None)
    assert seen == {True, False}


def test_a_timeout_makes_the_task_raise_timeout_error():
    outcomes = []

    async def scenario(state):
        async def inner():
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                state.cleaned = True
                raise

        state.task = asyncio.create_task(inner())
        await asyncio.wait([state.task])

    def check(state):
        task = state.task
        if task.cancelled():
            outcomes.append("cancelled")
        elif task.exception() is not None:
            outcomes.append(type(task.exception()).__name__)

    cancel_everywhere(scenario, check)
    assert {"cancelled", "TimeoutError"} <= set(outcomes)


def test_a_task_may_go_on_after_it_was_cancelled():
    async def scenario(state):
        for _ in range(3):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                state.survived = True

    def check(state):
        assert isinstance(state, SimpleNamespace)

    assert cancel_everywhere(scenario, check).points == 7


def test_a_cancellation_of_its_own_is_no_timeout():
    """A task that is cancelled from two sides ends cancelled."""

    async def scenario(state):
        async def inner():
            await asyncio.sleep(1)

        state.task = asyncio.create_task(inner())
        await asyncio.sleep(0)
        state.task.cancel()
        await asyncio.wait([state.task])

    def check(state):
        task = getattr(state, "task", None)
        assert task is None or task.cancelled() or isinstance(task.exception(), TimeoutError)

    cancel_everywhere(scenario, check)


def test_task_groups_and_their_errors_are_expected_ends():
    async def scenario(state):
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(asyncio.sleep(1))

    cancel_everywhere(scenario, lambda state: None, seeds=range(2))


def test_what_a_cancellation_makes_it_raise_else_is_a_failure():
    async def scenario(state):
        try:
            await asyncio.sleep(1)
        finally:
            if asyncio.current_task().cancelling():
                raise ZeroDivisionError

    with pytest.raises(CancelledRunError, match="ZeroDivisionError") as caught:
        cancel_everywhere(scenario, lambda state: None)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.task == "scenario#1"
    assert "is cancelled as soon as it waits, at" in caught.value.point


def test_waiting_for_ever_is_a_failure():
    async def scenario(state):
        told = asyncio.Event()

        async def tell():
            await asyncio.sleep(1)
            told.set()

        telling = asyncio.create_task(tell())
        await told.wait()
        await telling

    with pytest.raises(CancelledRunError, match="DeadlockError.*stuck tasks(.|\n)*told.wait"):
        cancel_everywhere(scenario, lambda state: None)


def test_errors_of_callbacks_are_failures():
    async def scenario(state):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            raise

    with pytest.raises(CancelledRunError, match="ZeroDivisionError"):
        cancel_everywhere(scenario, lambda state: None)


def test_what_fails_without_a_cancellation_is_raised_as_it_is():
    async def scenario(state):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cancel_everywhere(scenario, lambda state: None)

    async def good(state):
        pass

    with pytest.raises(KeyError):
        cancel_everywhere(good, lambda state: {}["x"])


def test_the_check_may_be_a_coroutine_function():
    checked = []

    async def scenario(event):
        await asyncio.sleep(0)
        event.set()

    async def check(event):
        await asyncio.sleep(10)
        checked.append(event.is_set())

    result = cancel_everywhere(scenario, check, state=asyncio.Event)
    assert len(checked) >= result.runs - 2
    assert set(checked) == {True, False}


def test_tasks_that_are_left_are_ended_before_the_check():
    async def scenario(state):
        state.left = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.sleep(1)

    def check(state):
        assert state.left.done()

    cancel_everywhere(scenario, check)


def test_seeds_are_told():
    async def scenario(state):
        async def first():
            await asyncio.sleep(0)
            state.first = True

        async def second():
            await asyncio.sleep(0)
            if not hasattr(state, "first"):
                state.lost = asyncio.current_task().cancelling()
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    state.lost = True

        await asyncio.gather(first(), second())

    def check(state):
        assert not getattr(state, "lost", False)

    with pytest.raises(CancelledRunError, match=r"\(with seed \d+\)"):
        cancel_everywhere(scenario, check, seeds=range(10))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_the_first_suspension_of_an_eager_task_counts():
    seen = []

    async def scenario(state):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def at_once():
            pass

        async def waiting():
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                seen.append(asyncio.get_running_loop().time())
                raise

        await asyncio.create_task(at_once())
        await asyncio.wait([asyncio.create_task(waiting())])

    cancel_everywhere(scenario, lambda state: None)
    assert set(seen) == {0.0, 1.0}


def test_a_scenario_that_does_something_else_each_time_is_told():
    runs = []

    async def scenario(state):
        runs.append(state)
        if len(runs) == 1:
            await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="did not do the same again"):
        cancel_everywhere(scenario, lambda state: None)


def test_bad_arguments_are_refused():
    async def scenario(state):
        pass

    for kwargs in ({"scenario": 5}, {"check": 5}, {"state": 5}):
        [name] = kwargs
        arguments = {"scenario": scenario, "check": print, **kwargs}
        with pytest.raises(TypeError, match=f"{name} must be callable, not 5"):
            cancel_everywhere(**arguments)


@pytest.mark.waterspout("simulated")
async def test_inside_a_loop_it_is_refused():
    with pytest.raises(RuntimeError, match="cannot be called while an event loop"):
        cancel_everywhere(three_holders, check_free, state=LossyLock)


def test_generators_are_ended_before_the_check():
    async def scenario(state):
        state.lock = asyncio.Lock()

        async def numbers():
            async with state.lock:
                yield 1

        state.numbers = numbers()
        await anext(state.numbers)

    def check(state):
        assert not (hasattr(state, "lock") and state.lock.locked())

    cancel_everywhere(scenario, check)

    async def abandon(state):
        async def numbers():
            yield 1

        async for _ in numbers():
            break
        await asyncio.sleep(0)

    cancel_everywhere(abandon, lambda state: None)


def test_tasks_that_a_check_leaves_are_ended():
    seen, left = [], []

    async def scenario(state):
        seen.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0)

    async def check(state):
        left.append(asyncio.create_task(asyncio.Event().wait()))
        await asyncio.sleep(0)

    cancel_everywhere(scenario, check)
    assert set(seen) == {1}
    assert all(task.cancelled() for task in left)


def test_one_who_swallows_its_cancellation_and_spins_is_found():
    async def scenario(state):
        done = []

        async def work():
            await asyncio.sleep(0)
            done.append(1)

        async def wait():
            while not done:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    pass

        await asyncio.gather(work(), wait(), return_exceptions=True)

    with pytest.raises(CancelledRunError, match="EndlessError"):
        cancel_everywhere(scenario, lambda state: None, max_turns=1000)
    for wrong, error in ((0, ValueError), ("5", TypeError)):
        with pytest.raises(error, match="max_turns must be"):
            cancel_everywhere(scenario, print, max_turns=wrong)
    with pytest.raises(TypeError, match="seed must be an integer"):
        cancel_everywhere(scenario, print, seeds=["a"])


def test_threads_are_waited_for_if_it_is_said_how_long():
    async def scenario(state):
        state.results = [await asyncio.to_thread(abs, -1)]
        state.results.append(await asyncio.to_thread(abs, -2))

    def check(state):
        assert getattr(state, "results", []) in ([], [1], [1, 2])

    with pytest.raises(RuntimeError, match="does not wait for threads"):
        cancel_everywhere(scenario, check)
    before = threading.enumerate()
    # Before it begins; as soon as it waits for either thread, and just before it goes on.
    assert cancel_everywhere(scenario, check, real_wait=5) == Cancellations(points=5, runs=11)
    assert threading.enumerate() == before
    with pytest.raises(ValueError, match="real_wait must not be negative"):
        cancel_everywhere(scenario, check, real_wait=-1)
