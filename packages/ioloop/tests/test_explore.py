"""`explore`: every order, the shortest that fails, and no growth."""

import asyncio
import gc
import itertools
import math
import tracemalloc

import pytest

from waterspout.ioloop.testing import (
    DeadlockError,
    Exploration,
    NondeterministicError,
    ScheduleError,
    explore,
    simulate,
)


def orders_of(scenario, **kwargs):
    """Explore a scenario that returns what is to be distinguished, and give that of every run."""
    found = []

    async def noting():
        found.append(await scenario())

    result = explore(noting, **kwargs)
    assert result.schedules <= len(found)
    return result, found


def workers(tasks, steps):
    async def scenario():
        seen = []

        async def worker(number):
            seen.append(number)
            for _ in range(steps - 1):
                await asyncio.sleep(0)
                seen.append(number)

        await asyncio.wait([asyncio.ensure_future(worker(number)) for number in range(tasks)])
        return "".join(map(str, seen))

    return scenario


@pytest.mark.parametrize(("tasks", "steps"), [(1, 1), (2, 1), (3, 1), (2, 2), (2, 3), (3, 2)])
def test_every_order_is_run_once(tasks, steps):
    """Of n tasks with k steps each there are (nk)! / (k!)^n."""
    result, found = orders_of(workers(tasks, steps))
    expected = math.factorial(tasks * steps) // math.factorial(steps) ** tasks
    assert result == Exploration(schedules=expected, exhaustive=True)
    assert len(set(found)) == len(found) == expected


def test_many_orders_are_all_run_however_the_search_goes_about_it():
    """With more than it probes first, some are run twice, but counted once."""
    result, found = orders_of(workers(2, 7))
    assert result == Exploration(schedules=math.comb(14, 7), exhaustive=True)
    assert len(set(found)) == math.comb(14, 7)


@pytest.mark.parametrize("bound", [1, 5, 100, 1500])
def test_the_bound_holds(bound):
    result, found = orders_of(workers(3, 4), max_schedules=bound)
    assert result == Exploration(schedules=bound, exhaustive=False)
    assert len(set(found)) >= bound * 0.9


def test_orders_of_few_departures_come_first_where_there_are_many():
    _, found = orders_of(workers(3, 4), max_schedules=1200)
    switches = [
        sum(a != b for a, b in itertools.pairwise(order)) for order in found[1000 : 1000 + 10]
    ]
    assert max(switches) > min(switches) >= 8  # near to the round robin of the default


async def bank():
    """Two deposits; the second reads before the first has written."""
    balance = 0

    async def deposit(amount):
        nonlocal balance
        await asyncio.sleep(0)
        before = balance
        if amount == 2:
            await asyncio.sleep(0)
        balance = before + amount

    first, second = (asyncio.create_task(deposit(amount), name=f"{amount}") for amount in (1, 2))
    await first
    await second
    assert balance == 3


def test_a_race_is_found_shortened_and_replayed():
    with pytest.raises(ScheduleError) as caught:
        explore(bank)
    error = caught.value
    assert isinstance(error.__cause__, AssertionError)
    assert len(error.schedule.split()) == 1
    assert error.schedules >= 1
    assert f"replay={error.schedule!r}" in str(error)
    assert "balance = before + amount" not in error.trace
    assert "await asyncio.sleep(0)" in error.trace
    assert "raised AssertionError" in error.trace
    assert "done" in error.trace
    with pytest.raises(ScheduleError) as again:
        explore(bank, replay=error.schedule)
    assert again.value.trace == error.trace
    assert explore(bank, replay="") == Exploration(schedules=1, exhaustive=False)


def test_the_shortest_schedule_has_the_fewest_departures():
    """One that needs three is found, and none with fewer is taken for it."""

    async def scenario():
        seen = []

        async def worker(number):
            for _ in range(3):
                seen.append(number)
                await asyncio.sleep(0)

        await asyncio.wait([asyncio.ensure_future(worker(number)) for number in range(2)])
        assert seen != [1, 1, 0, 1, 0, 0]

    with pytest.raises(ScheduleError) as caught:
        explore(scenario)
    departures = caught.value.schedule.split()

    assert 1 <= len(departures) <= 3
    for shorter in range(len(departures)):
        for kept in itertools.combinations(departures, shorter):
            try:
                explore(scenario, replay=" ".join(kept))
            except NondeterministicError:
                pass


def test_a_shorter_schedule_is_looked_for():
    """The search comes upon one of two departures first."""

    async def scenario():
        order = await workers(2, 3)()
        assert order[0] != "1"
        assert order[2:] != "1100"

    with pytest.raises(ScheduleError) as caught:
        explore(scenario)
    assert len(caught.value.schedule.split()) == 1


def test_tasks_made_behind_the_loops_back_are_explored():
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []

        async def worker(number):
            await asyncio.sleep(0)
            seen.append(number)

        await asyncio.Task(worker(0), loop=loop)
        await asyncio.wait([asyncio.Task(worker(number), loop=loop) for number in (1, 2)])
        return tuple(seen)

    result, found = orders_of(scenario)
    assert result.exhaustive
    assert set(found) == {(0, 1, 2), (0, 2, 1)}


def test_a_failure_of_many_departures_is_shortened():
    async def scenario():
        switches = []

        async def worker(number):
            for _ in range(4):
                switches.append(number)
                await asyncio.sleep(0)

        await asyncio.wait([asyncio.ensure_future(worker(number)) for number in range(2)])
        assert switches[:3] != [1, 1, 1]

    with pytest.raises(ScheduleError) as caught:
        explore(scenario)
    assert len(caught.value.schedule.split()) == 3


@pytest.mark.parametrize("kind", ["deadlock", "callback", "left", "cancelled"])
def test_what_fails_a_run(kind):
    left = []

    async def scenario():
        loop = asyncio.get_running_loop()
        if kind == "deadlock":
            await loop.create_future()
        elif kind == "callback":
            loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
        elif kind == "left":
            left.append(asyncio.create_task(asyncio.sleep(1), name="the forgotten one"))
        else:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    expected = {
        "deadlock": "DeadlockError: nothing is ready",
        "callback": "ZeroDivisionError",
        "left": "tasks were left running: the forgotten one",
        "cancelled": "cancelled",
    }
    with pytest.raises(ScheduleError, match=expected[kind]):
        explore(scenario)


def test_a_task_that_cannot_be_cancelled_is_given_up():
    left = []

    async def scenario():
        async def stubborn():
            while True:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    pass

        left.append(asyncio.create_task(stubborn()))

    with pytest.raises(ScheduleError, match="DeadlockError"):
        explore(scenario)


def test_an_error_that_the_loop_is_told_without_an_exception():
    async def scenario():
        asyncio.get_running_loop().call_exception_handler({"message": "something is wrong"})

    with pytest.raises(ScheduleError, match="something is wrong"):
        explore(scenario)


def test_an_exception_that_nobody_looks_at_fails_the_run_that_had_it():
    async def scenario():
        async def fail():
            raise ZeroDivisionError

        await asyncio.wait([asyncio.create_task(fail())])

    with pytest.raises(ScheduleError, match="ZeroDivisionError"):
        explore(scenario)


def test_a_task_that_spins_is_explored_up_to_a_bound():
    async def scenario():
        done = False

        async def spin():
            while not done:
                await asyncio.sleep(0)

        async def finish():
            nonlocal done
            done = True

        await asyncio.gather(spin(), finish())

    result = explore(scenario, max_schedules=3000)
    assert not result.exhaustive


def test_each_run_begins_at_time_zero():
    """Whatever was left on the loop of the run before."""
    times = set()

    async def scenario():
        loop = asyncio.get_running_loop()
        times.add(loop.time())
        loop.call_later(1000, print)
        await asyncio.gather(asyncio.sleep(1), asyncio.sleep(1))

    assert explore(scenario).schedules > 1
    assert times == {0.0}


def test_independent_tasks_are_not_interleaved():
    """Sleep sets: two pairs, and only those of a pair touch the same things."""
    seen = []

    def pairs():
        async def scenario():
            found = {"a": [], "b": []}

            async def worker(pair, number):
                await asyncio.sleep(0)
                found[pair].append(number)

            tasks = [
                asyncio.create_task(worker(pair, number), name=f"{pair}{number}")
                for pair in "ab"
                for number in range(2)
            ]
            await asyncio.wait(tasks)
            seen.append(tuple(map(tuple, found.values())))

        return scenario

    def independent(one, other):
        names = {one.get_name()[0], other.get_name()[0]}
        return names == {"a", "b"}

    everything = explore(pairs())
    assert everything == Exploration(schedules=2520, exhaustive=True)
    outcomes = set(seen)
    seen.clear()
    pruned = explore(pairs(), independent=independent)
    assert pruned.exhaustive
    assert pruned.schedules < everything.schedules / 4
    assert set(seen) == outcomes
    assert len(outcomes) == 4


def test_a_scenario_that_does_not_do_the_same_again_is_told():
    runs = itertools.count()

    async def scenario():
        async def worker():
            await asyncio.sleep(0)

        run = next(runs)
        await asyncio.gather(*(worker() for _ in range(3 if run == 0 else 1)))

    with pytest.raises(NondeterministicError, match="does not do the same again"):
        explore(scenario)

    async def once():
        if next(runs) == 2:
            raise ZeroDivisionError

    with pytest.raises(NondeterministicError, match="but not again"):
        explore(once)


def test_bad_arguments_are_refused():
    async def scenario():
        pass

    with pytest.raises(TypeError, match="scenario must be callable, not 5"):
        explore(5)
    with pytest.raises(ValueError, match="max_schedules must be positive, not 0"):
        explore(scenario, max_schedules=0)
    for wrong in ("x", "1", "1:2:3"):
        with pytest.raises(ValueError, match=f"replay must be a schedule .* not '{wrong}'"):
            explore(scenario, replay=wrong)
    with pytest.raises(NondeterministicError, match="or this is no schedule of it"):
        explore(workers(2, 2), replay="0:77")


@pytest.mark.waterspout("simulated")
async def test_inside_a_loop_it_is_refused():
    with pytest.raises(RuntimeError, match=r"explore\(\) cannot be called while an event loop"):
        explore(bank)


def test_timers_and_timeouts_are_part_of_a_schedule():
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []

        async def worker(number):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(5)
            seen.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(worker(number))
        assert loop.time() == 1
        return tuple(seen)

    result, found = orders_of(scenario)
    assert result.exhaustive
    assert set(found) == {(0, 1), (1, 0)}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_schedules():
    runs, samples = itertools.count(), []

    async def scenario():
        lock = asyncio.Lock()

        async def worker():
            async with lock:
                await asyncio.sleep(0)

        await asyncio.gather(*(worker() for _ in range(5)))
        if next(runs) % 500 == 0:
            gc.collect()
            samples.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        assert explore(scenario, max_schedules=4000).schedules == 4000
    finally:
        tracemalloc.stop()
    late = samples[3:]  # the choices of the first thousand are kept
    assert max(late) - min(late) < 100_000


def test_a_deadlock_of_two_locks_is_found():
    """The classic: each has what the other wants."""

    async def scenario():
        one, two = asyncio.Lock(), asyncio.Lock()

        async def worker(first, second):
            async with first:
                await asyncio.sleep(0)
                async with second:
                    pass

        await asyncio.gather(worker(one, two), worker(two, one))

    with pytest.raises(ScheduleError) as caught:
        explore(scenario)
    assert isinstance(caught.value.__cause__, DeadlockError)
    assert simulate(bank, order=lambda tasks: 0) is None


def test_generators_that_are_left_come_to_their_end():
    async def scenario():
        async def numbers():
            yield 1

        async for _ in numbers():
            break
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        async for _ in numbers():
            break

    assert explore(scenario).exhaustive


class Verdict(BaseException):
    """Such as those of test runners."""


def test_exceptions_of_any_kind_are_failures():
    async def scenario():
        raise Verdict("lost")

    with pytest.raises(ScheduleError, match="Verdict: lost"):
        explore(scenario)

    async def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        explore(leave)


def test_nothing_of_a_run_is_there_in_the_next():
    seen = set()

    async def scenario():
        loop = asyncio.get_running_loop()
        seen.add((hasattr(loop, "mark"), loop.get_task_factory(), loop.get_debug()))
        loop.mark = True
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        loop.set_exception_handler(lambda loop, context: None)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    explore(scenario)
    assert len(seen) == 1


def test_a_failure_among_independent_tasks_is_replayed():
    async def scenario():
        log = []

        async def note(name):
            log.append(name)

        tasks = [asyncio.create_task(note(name), name=name) for name in "ABC"]
        for task in tasks:
            await task
        assert "".join(log) != "BCA"

    def independent(one, other):
        return {one.get_name(), other.get_name()} == {"A", "B"}

    with pytest.raises(ScheduleError) as caught:
        explore(scenario, independent=independent)
    with pytest.raises(ScheduleError):
        explore(scenario, replay=caught.value.schedule)

    def confused(one, other):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explore(scenario, independent=confused)


def test_plain_callbacks_wake_those_that_sleep():
    outcomes = set()

    async def scenario():
        seen, value = [], [0]

        async def a():
            seen.append(value[0])

        async def b():
            pass

        async def c():
            seen.append("c")

        first = asyncio.create_task(a(), name="A")
        asyncio.get_running_loop().call_soon(lambda: value.__setitem__(0, 1))
        others = [asyncio.create_task(b(), name="B"), asyncio.create_task(c(), name="C")]
        for task in (first, *others):
            await task
        outcomes.add(tuple(seen))

    explore(scenario)
    everything = set(outcomes)
    outcomes.clear()
    explore(scenario, independent=lambda a, b: {a.get_name(), b.get_name()} == {"A", "B"})
    assert outcomes == everything
    assert len(everything) == 3


def test_few_departures_come_first_within_any_bound():
    async def scenario():
        log = []

        async def note(name):
            log.append(name)

        tasks = [asyncio.create_task(note(name)) for name in "AB"]
        for task in tasks:
            await task

        async def idle():
            for _ in range(3):
                await asyncio.sleep(0)

        await asyncio.gather(*(idle() for _ in range(4)))
        assert log == ["A", "B"]

    with pytest.raises(ScheduleError):
        explore(scenario, max_schedules=1000)


def test_an_endless_run_has_a_short_trace():
    async def scenario():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(ScheduleError, match="EndlessError") as caught:
        explore(scenario, max_turns=5000)
    assert " more)" in caught.value.trace
    assert len(caught.value.trace) < 50_000
    for name, wrong in (("max_turns", 0), ("max_schedules", 0)):
        with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
            explore(scenario, **{name: wrong})
        with pytest.raises(TypeError, match=f"{name} must be an integer, not '5'"):
            explore(scenario, **{name: "5"})
    with pytest.raises(TypeError, match="independent must be callable, not 5"):
        explore(scenario, independent=5)
    with pytest.raises(TypeError, match="replay must be a string, not 5"):
        explore(scenario, replay=5)


def test_a_task_that_spins_against_its_cancellation_is_given_up():
    async def scenario():
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    pass

        asyncio.get_running_loop().stubborn = asyncio.create_task(stubborn())

    with pytest.raises(ScheduleError, match="EndlessError"):
        explore(scenario)
