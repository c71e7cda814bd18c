"""`Condition`: notified, timed out, cancelled, with the lock and without."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop.testing import cancel_everywhere, explore, simulate
from waterspout.locks import Condition, ConditionStatistics, Lock, LockStatistics

virtual = pytest.mark.waterspout("simulated")


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def park(condition, count, timeout=None):
    async def wait():
        async with condition:
            return await condition.wait(timeout)

    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(wait()))
        await settle()
    return tasks


async def test_who_waits_longest_is_notified_first():
    condition = Condition()
    tasks = await park(condition, 4)
    condition.notify()
    await settle()
    assert [task.done() for task in tasks] == [True, False, False, False]
    condition.notify(2)
    condition.notify(0)
    await settle()
    assert [task.done() for task in tasks] == [True, True, True, False]
    condition.notify_all()
    assert await asyncio.gather(*tasks) == [True] * 4
    condition.notify()
    condition.notify_all()


async def test_the_lock_is_released_for_the_wait_and_held_after_it():
    condition = Condition()
    async with condition as entered:
        assert entered is condition
        waiting = asyncio.create_task(_held_after(condition))
        await settle()
        assert condition.locked()
    await settle()
    assert not condition.locked()
    async with condition:
        condition.notify()
        await settle()
        assert not waiting.done()
    assert await waiting is True
    assert not condition.locked()


async def _held_after(condition):
    async with condition:
        notified = await condition.wait()
        assert condition.locked()
        assert condition.statistics().lock.holder == asyncio.current_task().get_name()
        return notified


@virtual
async def test_a_timeout_bounds_the_wait_and_not_the_lock(waterspout_simulated_loop):
    loop = waterspout_simulated_loop
    condition = Condition()

    async def hold(seconds):
        async with condition:
            await asyncio.sleep(seconds)

    async with condition:
        assert await condition.wait(1) is False
        assert condition.locked()
        assert loop.time() == 1
        assert await condition.wait(0) is False
        assert await condition.wait(-1) is False
    [waiting] = await park(condition, 1, timeout=5)
    holding = asyncio.create_task(hold(100))
    assert await waiting is False
    assert loop.time() == 101
    await holding


async def test_without_the_lock_it_waits_alone():
    condition = Condition()
    waiting = asyncio.create_task(condition.wait())
    await settle()
    assert not condition.locked()
    condition.notify()
    assert await waiting is True
    assert not condition.locked()
    assert await condition.wait(0.001) is False


async def test_with_anothers_lock_it_is_a_mistake():
    condition = Condition()

    async def intrude():
        with pytest.raises(RuntimeError, match="whose lock another task holds"):
            await condition.wait()

    async with condition:
        await asyncio.create_task(intrude())
        next_one = asyncio.create_task(_held_after(condition))
        await settle()
    await intrude()  # it was handed over, and the new holder has not resumed
    await settle()
    condition.notify()
    await next_one


@pytest.mark.parametrize("how", ["block", "lock's block", "acquire", "lock's acquire"])
@pytest.mark.parametrize("had_waited", [False, True])
async def test_the_holder_of_its_lock_is_known_however_it_was_taken(how, had_waited):
    lock = Lock()
    condition = Condition(lock)
    me = asyncio.current_task().get_name()

    async def intrude():
        assert condition.statistics().lock.holder == me
        with pytest.raises(RuntimeError, match="whose lock another task holds"):
            await condition.wait()
        assert condition.locked()

    async def hold():
        async with lock:
            await asyncio.sleep(0)

    holding = asyncio.create_task(hold()) if had_waited else None
    await asyncio.sleep(0)
    if "block" in how:
        async with lock if "lock's" in how else condition:
            await asyncio.create_task(intrude())
    else:
        await (lock if "lock's" in how else condition).acquire()
        await asyncio.create_task(intrude())
        condition.release()
    assert condition.statistics().lock == LockStatistics(False, None, 0)
    if holding is not None:
        await holding


async def test_a_holder_from_before_is_given_the_benefit():
    lock = Lock()
    async with lock:
        condition = Condition(lock)
        assert await condition.wait(0.001) is False
        assert lock.locked()


async def test_conditions_may_share_a_lock():
    lock = Lock()
    one, other = Condition(lock), Condition(lock)
    [first] = await park(one, 1)
    [second] = await park(other, 1)
    async with lock:
        one.notify()
        await settle()
        assert not first.done()
    assert await first
    assert not second.done()
    other.notify_all()
    assert await second


async def test_a_cancelled_waiter_holds_the_lock_when_it_is_told():
    condition = Condition()
    seen = []

    async def wait():
        async with condition:
            try:
                await condition.wait()
            finally:
                seen.append(condition.statistics().lock.holder == "waiter")

    waiting = asyncio.create_task(wait(), name="waiter")
    await settle()
    async with condition:
        for _ in range(3):
            waiting.cancel()
            await settle()
        assert not waiting.done()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen == [True]
    assert not condition.locked()


async def test_a_notification_passes_on_in_the_gap():
    """In the gap before the waiter resumes."""
    condition = Condition()
    first, second, third = await park(condition, 3)
    condition.notify()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert await second
    assert not third.done()
    condition.notify()
    assert await third


async def test_while_it_waits_for_the_lock_a_notification_passes_on():
    condition = Condition()
    first, second = await park(condition, 2)
    async with condition:
        condition.notify()
        await settle()
        first.cancel()
        await settle()
        assert not first.done()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second


@virtual
async def test_who_timed_out_and_is_cancelled_then_has_no_notification_to_pass_on():
    condition = Condition()
    [first] = await park(condition, 1, timeout=1)
    [second] = await park(condition, 1)
    async with condition:
        await asyncio.sleep(2)
        first.cancel()
        await settle()
    await settle()
    assert first.cancelled()
    assert not second.done()
    condition.notify()
    assert await second


@pytest.mark.parametrize("timeout", [0, -1])
async def test_wait_of_no_time_lets_others_have_the_lock(timeout):
    condition, seen = Condition(), []

    async def hold(name):
        async with condition:
            seen.append(name)
            await asyncio.sleep(0)

    async with condition:
        tasks = [asyncio.create_task(hold(name)) for name in "ab"]
        await settle()
        assert await condition.wait(timeout) is False
        assert seen == ["a", "b"]
        assert condition.statistics().lock.holder == asyncio.current_task().get_name()
        yielded = []
        asyncio.get_running_loop().call_soon(yielded.append, True)
        assert await condition.wait(timeout) is False
        assert yielded == []  # nobody wanted it
        assert condition.locked()
    await asyncio.wait(tasks)
    assert await condition.wait(timeout) is False
    assert not condition.locked()


async def test_wait_for_in_no_time_looks_again_after_others_had_the_lock():
    condition, stock = Condition(), []

    async def fill():
        async with condition:
            stock.append(1)

    async with condition:
        task = asyncio.create_task(fill())
        await settle()
        assert await condition.wait_for(lambda: list(stock), 0) == [1]
    await task


@virtual
async def test_wait_for_a_predicate(waterspout_simulated_loop):
    loop = waterspout_simulated_loop
    condition, stock = Condition(), []

    async def take(timeout=None):
        async with condition:
            found = await condition.wait_for(lambda: list(stock), timeout)
            assert condition.locked()
            return found

    stock.append(1)
    assert await take() == [1]
    stock.clear()
    assert await take(3) == []
    assert loop.time() == 3
    for timeout in (None, 100):
        waiting = asyncio.create_task(take(timeout))
        await settle()
        condition.notify()
        await settle()
        stock.append(2)
        condition.notify()
        assert await waiting == [2]
        assert loop.time() < 4  # at once, and not when time is up
        stock.clear()
    unnoticed = asyncio.create_task(take(5))
    await settle()
    stock.append(3)
    assert await unnoticed == [3]  # it is looked at once more when time is up

    def broken():
        raise ZeroDivisionError

    async with condition:
        with pytest.raises(ZeroDivisionError):
            await condition.wait_for(broken)
        assert condition.locked()


async def test_mistakes_are_told_and_change_nothing():
    condition = Condition()
    with pytest.raises(TypeError, match="lock must be a Lock, not 5"):
        Condition(5)
    for wrong, error in (("1", TypeError), (1.5, TypeError), (-1, ValueError)):
        with pytest.raises(error, match=f"n must .*{wrong!r}"):
            condition.notify(wrong)
    with pytest.raises(TypeError, match="predicate must be callable, not 5"):
        await condition.wait_for(5)
    async with condition:
        for wrong, error in (("1", TypeError), (float("nan"), ValueError)):
            with pytest.raises(error, match="timeout must"):
                await condition.wait(wrong)
            with pytest.raises(error, match="timeout must"):
                await condition.wait_for(bool, wrong)
        assert condition.locked()
    with pytest.raises(RuntimeError, match="not locked"):
        condition.release()
    assert await condition.acquire(1)
    condition.release()


def test_two_loops_never_wait_together():
    condition = Condition()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(condition.wait())
    loop.run_until_complete(settle())

    async def intrude():
        for call in (condition.notify, condition.notify_all):
            with pytest.raises(RuntimeError, match="another event loop"):
                call()
        async with condition:
            following = asyncio.create_task(condition.acquire())
            await settle()
            with pytest.raises(RuntimeError, match="another event loop"):
                await condition.wait()
            assert condition.statistics().lock.waiters == 1  # it was not let go
        await following
        condition.release()

    asyncio.run(intrude())
    condition.notify()
    assert loop.run_until_complete(waiting)
    loop.close()


async def test_a_coroutine_that_is_closed_takes_the_lock_if_it_can():
    """Nobody runs it any more, so it cannot wait; its block gives the lock back."""
    condition = Condition()

    async def wait():
        async with condition:
            await condition.wait()

    waiting = wait()
    waiting.send(None)
    waiting.close()
    assert not condition.locked()


async def test_what_it_shows():
    condition = Condition()
    assert repr(condition) == "<Condition waiters=0 <Lock unlocked waiters=0>>"
    assert condition.statistics() == ConditionStatistics(0, LockStatistics(False, None, 0))
    [waiting] = await park(condition, 1)
    async with condition:
        name = asyncio.current_task().get_name()
        assert repr(condition) == (f"<Condition waiters=1 <Lock locked holder={name!r} waiters=0>>")
        assert condition.statistics() == ConditionStatistics(1, LockStatistics(True, name, 0))
        condition.notify()
    await waiting


def test_a_coroutine_that_is_closed_leaves_the_lock_to_who_holds_it():
    condition = Condition()

    async def wait():
        async with condition:
            await condition.wait()

    waiting, holding = wait(), wait()

    async def begin():
        waiting.send(None)
        async with condition:
            condition.notify()
            waiting.close()  # as the garbage collector may do it
            assert condition.locked()
            holding.close()
        assert not condition.locked()

    asyncio.run(begin())


def test_a_coroutine_that_is_closed_where_no_loop_runs_needs_none():
    condition = Condition()

    async def wait():
        async with condition:
            await condition.wait()

    waiting = wait()

    async def begin():
        waiting.send(None)

    asyncio.run(begin())
    waiting.close()
    assert not condition.locked()


# Proofs


class State:
    """A condition, and a plain model of who should be woken."""

    def __init__(self, timeout=None):
        self.condition, self.timeout = Condition(), timeout
        self.line, self.notified = [], set()
        self.woken = 0

    def notify(self):
        self.condition.notify()
        self._notify_first()

    async def wait(self):
        me = asyncio.current_task()
        self.line.append(me)
        try:
            woken = await self.condition.wait(self.timeout)
        except asyncio.CancelledError:
            if me in self.line:
                self.line.remove(me)
            if me in self.notified:
                self.notified.remove(me)
                self._notify_first()
            raise
        if woken:
            self.woken += 1
        else:
            self.line.remove(me)

    def _notify_first(self):
        while self.line:
            task = self.line.pop(0)
            if not task.cancelling():
                self.notified.add(task)
                break


async def wait_under_lock(state):
    async with state.condition:
        await state.wait()


async def notify_under_lock(state):
    async with state.condition:
        state.notify()


async def wait_alone(state):
    await state.wait()


async def notify_alone(state):
    state.notify()


async def hold(state):
    async with state.condition:
        await asyncio.sleep(0)


OPERATIONS = [wait_under_lock, notify_under_lock, hold]


@pytest.mark.proof
@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize(
    "operations",
    [*itertools.product(OPERATIONS, repeat=2), *itertools.product(OPERATIONS, repeat=3)],
    ids=lambda names: "-".join(name.__name__ for name in names),
)
def test_cancelled_anywhere_no_notification_is_lost_and_the_lock_is_free(operations, timeout):
    async def scenario(state):
        state.waiters = [asyncio.create_task(wait_under_lock(state)) for _ in range(2)]
        await asyncio.sleep(1)
        tasks = [asyncio.create_task(operation(state)) for operation in operations]
        await asyncio.sleep(1)
        await asyncio.sleep(10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def check(state):
        assert not state.condition.locked()
        assert state.condition.statistics().waiters == 0
        assert state.woken == len(state.notified)

    cancel_everywhere(scenario, check, state=lambda: State(timeout))


@pytest.mark.proof
@pytest.mark.parametrize(
    "operations",
    [
        operations
        for count in (2, 3)
        for operations in itertools.combinations_with_replacement(
            [*OPERATIONS, wait_alone, notify_alone], count
        )
    ],
    ids=lambda names: "-".join(name.__name__ for name in names),
)
def test_in_every_order_with_a_cancellation_no_notification_is_lost(operations):
    async def scenario():
        state = State()
        first = asyncio.create_task(wait_under_lock(state))
        second = asyncio.create_task(wait_under_lock(state))
        await asyncio.sleep(1)
        others = [asyncio.create_task(operation(state)) for operation in operations]

        async def cancel():
            first.cancel()

        tasks = [first, second, asyncio.create_task(cancel()), *others]
        await asyncio.sleep(1)
        waiting = state.condition.statistics().waiters
        left = [task for task in tasks if not task.done()]
        assert len(left) == waiting
        assert not state.condition.locked()
        assert state.woken == len(state.notified)
        for task in left:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in filter(None, errors):  # alone, while the lock was held
            assert "another task holds" in str(error)

    explore(scenario, max_schedules=1500 if len(operations) == 2 else 200)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([None, 1.0, 2.0])),
        st.tuples(st.just("notify"), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.5, 1.0])),
    ),
    max_size=30,
)


@given(STEPS)
def test_any_program_wakes_as_many_as_it_notifies(steps):
    """Against a count: whoever is notified returns True, unless its place was taken by the next."""

    async def main():
        condition, tasks, given_out = Condition(), [], 0

        async def wait(timeout):
            async with condition:
                return await condition.wait(timeout)

        for step, argument in steps:
            if step == "wait":
                tasks.append(asyncio.create_task(wait(argument)))
            elif step == "notify":
                async with condition:
                    before = condition.statistics().waiters
                    condition.notify(argument)
                    given_out += before - condition.statistics().waiters
            elif step == "cancel" and tasks:
                tasks[argument % len(tasks)].cancel()
            elif step == "settle":
                await settle()
            elif step == "sleep":
                await asyncio.sleep(argument)
        await settle()
        woken = sum(task.done() and not task.cancelled() and task.result() for task in tasks)
        waiting = condition.statistics().waiters
        assert woken <= given_out + sum(task.cancelled() for task in tasks)
        assert waiting == sum(not task.done() for task in tasks)
        if waiting:
            assert woken == given_out or any(task.cancelled() for task in tasks)
        for task in tasks:
            task.cancel()
        await settle()
        assert not condition.locked()

    simulate(main)


@pytest.mark.slow
def test_many_short_waits_leave_nothing():
    import tracemalloc

    async def main():
        condition = Condition()

        async def rounds(count):
            async with condition:
                for _ in range(count):
                    assert not await condition.wait(0.001)

        await rounds(1000)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await rounds(10_000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 20_000

    simulate(main)
