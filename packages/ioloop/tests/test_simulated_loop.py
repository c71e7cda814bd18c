"""The simulated loop: virtual time, order, deadlocks, descriptors."""

import asyncio
import errno
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop, PeriodicCallback
from waterspout.ioloop.scheduling import time_limit
from waterspout.ioloop.testing import (
    DeadlockError,
    EndlessError,
    SeededOrder,
    SimulatedLoop,
    simulate,
)
from waterspout.ioloop.testing._steps import describe, place_of, places_of

simulated = pytest.mark.waterspout("simulated")


# Time


@simulated
async def test_time_jumps(waterspout_simulated_loop):
    loop = waterspout_simulated_loop
    assert loop.time() == 0
    before = time.perf_counter()
    await asyncio.sleep(365 * 24 * 3600)
    assert loop.time() == 365 * 24 * 3600
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await loop.create_future()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(10), 3)
    assert loop.time() == 365 * 24 * 3600 + 3603
    assert IOLoop.current().time() == loop.time()
    assert time.perf_counter() - before < 10


@simulated
async def test_timers_of_one_time_run_by_age(waterspout_simulated_loop):
    loop, seen = waterspout_simulated_loop, []
    for number in range(100):
        loop.call_later(1, seen.append, number)
    await asyncio.sleep(1)
    assert seen == list(range(100))


@simulated
async def test_timers_need_something_to_call(waterspout_simulated_loop):
    with pytest.raises(TypeError, match="callback must be callable, not 5"):
        waterspout_simulated_loop.call_at(1, 5)


@simulated
async def test_time_passes_at_work(waterspout_simulated_loop):
    loop, seen = waterspout_simulated_loop, []
    loop.call_later(1, lambda: seen.append(loop.time()))
    loop.advance(5)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == [5]
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="seconds must not be negative"):
            loop.advance(wrong)
    assert loop.time() == 5


@simulated
async def test_a_program_that_spins_sees_time_pass(waterspout_simulated_loop):
    """It would wait for ever for a clock that stands still while it is busy."""
    loop = waterspout_simulated_loop
    while loop.time() < 0.0005:
        await asyncio.sleep(0)
    assert loop.time() < 0.001
    await asyncio.sleep(1)
    assert loop.time() < 1.001
    at = loop.time()
    for _ in range(500):
        await asyncio.sleep(0)
    assert loop.time() == at


@simulated
async def test_cancelled_timers_leave_nothing(waterspout_simulated_loop):
    loop = waterspout_simulated_loop
    kept = loop.call_later(5, print)
    for _ in range(10_000):
        loop.call_later(1000, print).cancel()
        if loop.time() == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(loop._scheduled) < 300
    kept.cancel()


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=50))
def test_any_timers_run_in_order_at_their_times(timers):
    async def main():
        loop, seen = asyncio.get_running_loop(), []
        handles = [
            loop.call_later(delay, lambda key: seen.append((loop.time(), key)), number)
            for number, (delay, _) in enumerate(timers)
        ]
        for handle, (_, cancelled) in zip(handles, timers, strict=True):
            if cancelled:
                handle.cancel()
        await asyncio.sleep(100)
        await asyncio.sleep(0)
        expected = sorted(
            (delay, number) for number, (delay, cancelled) in enumerate(timers) if not cancelled
        )
        assert seen == expected

    simulate(main)


@pytest.mark.slow
def test_a_thousand_timeouts_take_no_time():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()

    before = time.perf_counter()
    for _ in range(1000):
        simulate(main)
    assert time.perf_counter() - before < 60  # it takes one; the machine may be busy


# Deadlocks


def test_a_deadlock_is_told_with_every_stuck_task():
    never = []

    async def inner():
        never.append(asyncio.get_running_loop().create_future())
        await never[0]

    async def waiting():
        await inner()

    async def main():
        task = asyncio.create_task(waiting(), name="the waiting one")
        await task

    with pytest.raises(DeadlockError) as caught:
        simulate(main)
    error = caught.value
    assert [type(task) for task in error.tasks] == [asyncio.Task, asyncio.Task]
    text = str(error)
    assert "nothing is ready and no timer is left" in text
    assert "main#1" in text
    assert "waits for the task the waiting one" in text
    assert text.index("in test_a_deadlock_is_told_with_every_stuck_task.<locals>.waiting") < (
        text.index("in test_a_deadlock_is_told_with_every_stuck_task.<locals>.inner")
    )
    assert "await never[0]" in text
    assert "waits for <Future" in text


def test_a_loop_with_nothing_to_do_is_stuck():
    loop = SimulatedLoop()
    with pytest.raises(DeadlockError, match="no task is left"):
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)


def test_generators_and_odd_awaitables_are_described():
    class Awaitable:
        def __await__(self):
            yield from asyncio.get_running_loop().create_future()

    async def generator():
        await Awaitable()
        yield

    async def main():
        async for _ in generator():
            pass

    with pytest.raises(DeadlockError, match="in .*main") as caught:
        simulate(main)
    assert "main#1" in str(caught.value)


def test_tasks_are_described_whatever_is_known_of_them():
    async def main():
        names = {"asyncio": asyncio}
        exec("async def sourceless():\n    await asyncio.sleep(1)", names)
        task = asyncio.create_task(names["sourceless"]())
        assert "waits for" not in describe(task)  # it has not begun
        await asyncio.sleep(0)
        assert "in sourceless" in describe(task)
        await task
        assert places_of(task) == []
        assert place_of(task) is None
        assert describe(task) == "sourceless#2"

    simulate(main)


def test_a_run_that_does_not_end_can_be_given_up():
    loop = SimulatedLoop()
    loop._most_turns = 50

    async def main():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(EndlessError, match="50 turns"):
        loop.run_until_complete(main())
    loop._most_turns = 10_000
    IOLoop(loop).close()


# Order


def run_in_order(seed=None, factory=None, order=None, steps=4, tasks=4):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        seen = []

        async def worker(number):
            for _ in range(steps):
                seen.append(number)
                await asyncio.sleep(0)
            async with asyncio.timeout(number % 2 + 0.1):
                await asyncio.sleep(0.5)
            seen.append((number, loop.time()))

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(tasks):
                    group.create_task(worker(number))
        except* TimeoutError:
            seen.append("timeout")
        return seen

    return simulate(main, seed=seed, order=order)


def python_tasks(loop, coroutine, **kwargs):
    return asyncio.tasks._PyTask(coroutine, loop=loop, **kwargs)


factories = [None, python_tasks]
if sys.version_info >= (3, 12):
    factories.append(asyncio.eager_task_factory)


@pytest.mark.parametrize("factory", factories)
def test_a_seed_gives_an_order(factory):
    runs = [run_in_order(seed, factory) for seed in range(10)]
    assert runs == [run_in_order(seed, factory) for seed in range(10)]
    assert len({str(run) for run in runs}) > 5
    for run in runs:
        counted = [item for item in run if isinstance(item, int)]
        assert sorted(counted) == sorted([0, 1, 2, 3] * 4)


def test_asyncio_knows_tasks_that_are_implemented_in_python():
    seen = {}

    async def work():
        seen["inside"] = asyncio.current_task(), asyncio.all_tasks()
        async with asyncio.timeout(5):
            await asyncio.sleep(1)
        seen["after a wait"] = asyncio.current_task(), asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        with time_limit(5):
            return await asyncio.create_task(nested())

    async def nested():
        return asyncio.current_task()

    async def main():
        loop, main_task = asyncio.get_running_loop(), asyncio.current_task()
        loop.set_task_factory(python_tasks)
        made = asyncio.create_task(work())
        behind_its_back = asyncio.tasks._PyTask(asyncio.sleep(0.5, 1), loop=loop)
        everybody = {main_task, made, behind_its_back}
        loop.call_soon(lambda: seen.update(callback=asyncio.current_task()))
        await asyncio.sleep(0)
        assert asyncio.current_task() is main_task
        assert asyncio.all_tasks() == everybody
        assert await behind_its_back == 1
        assert type(await made) is type(made)
        assert seen.pop("inside") == (made, everybody)
        assert seen.pop("after a wait") == (made, everybody - {behind_its_back})
        assert seen == {"callback": None}

    simulate(main)


def test_tasks_implemented_in_python_are_cancelled_when_a_run_ends():
    ended = []

    async def for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asyncio.current_task())

    async def main():
        asyncio.get_running_loop().set_task_factory(python_tasks)
        task = asyncio.create_task(for_ever())
        await asyncio.sleep(1)
        return task

    assert ended == [simulate(main)]
    assert ended[0].cancelled()


def test_a_deadlock_of_tasks_implemented_in_python_names_them():
    async def main():
        asyncio.get_running_loop().set_task_factory(python_tasks)
        await asyncio.create_task(asyncio.Event().wait(), name="stuck")

    with pytest.raises(DeadlockError, match=r"waits for the task stuck(.|\n)*stuck\n") as caught:
        simulate(main)
    assert len(caught.value.tasks) == 2


def test_without_a_seed_the_order_is_asyncios():
    def first_come(run):
        return [item for item in run if isinstance(item, int)]

    assert first_come(run_in_order()) == [0, 1, 2, 3] * 4


def test_an_order_may_be_any_function():
    counts = []

    def last(tasks):
        counts.append(len(tasks))
        return len(tasks) - 1

    run = run_in_order(order=last)
    assert [item for item in run if isinstance(item, int)][:4] == [3, 3, 3, 3]
    assert all(count > 1 for count in counts)


def test_plain_callbacks_keep_their_order():
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        async def worker(number):
            seen.append(f"task {number}")

        tasks = []
        for number in range(5):
            loop.call_soon(seen.append, number)
            tasks.append(asyncio.create_task(worker(number)))
            loop.call_soon(tasks[0].cancelled)  # a method of a task, but no step
            loop.call_soon(seen.append, "cancelled").cancel()
        await asyncio.wait(tasks)
        return seen

    runs = {tuple(simulate(main, seed=seed)) for seed in range(20)}
    assert len(runs) > 5
    for run in runs:
        assert [item for item in run if isinstance(item, int)] == [0, 1, 2, 3, 4]
        assert [isinstance(item, int) for item in run[:-1:2]] == [True] * 5  # places, too
        assert len(run) == 10


def test_a_task_made_behind_the_loops_back_takes_part():
    async def main():
        loop, seen = asyncio.get_running_loop(), []

        async def worker(number):
            await asyncio.sleep(0)
            seen.append(number)

        tasks = [asyncio.Task(worker(number), loop=loop) for number in range(5)]
        await asyncio.wait(tasks)
        return seen

    assert len({tuple(simulate(main, seed=seed)) for seed in range(10)}) > 3


def test_a_failure_tells_its_seed():
    async def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        simulate(main, seed=42)
    assert caught.value.__notes__ == ["simulated with seed=42"]
    with pytest.raises(ZeroDivisionError) as caught:
        simulate(main)
    assert not hasattr(caught.value, "__notes__")


def test_cancel_scopes_of_anyio_run_in_a_seeds_order():
    anyio = pytest.importorskip("anyio")

    async def main():
        seen = []

        async def worker(number):
            try:
                with anyio.fail_after(10):
                    await anyio.sleep(number % 3 * 10 + 1)
            except TimeoutError:
                seen.append(f"timeout {number}")
            for _ in range(3):
                await anyio.sleep(0)
                seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(worker, number)
            with anyio.move_on_after(5):
                await anyio.sleep_forever()
            await anyio.sleep(6.5)
            group.cancel_scope.cancel()
        return seen

    runs = [simulate(main, seed=seed) for seed in range(6)]
    assert runs == [simulate(main, seed=seed) for seed in range(6)]
    assert len({str(run) for run in runs}) > 3


def test_the_same_seed_gives_the_same_run_in_another_process():
    script = (
        "import asyncio, test_simulated_loop as t; print(t.run_in_order(7));"
        "print([t.run_in_order(s)[:20] for s in range(5)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(__import__("pathlib").Path(__file__).parent)},
        ).stdout
        for _ in range(3)
    }
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"seed": 1, "order": len}, TypeError, "exclude each other"),
        ({"seed": "1"}, TypeError, "seed must be an integer, not '1'"),
        ({"real_wait": -1}, ValueError, "real_wait must not be negative, not -1"),
    ],
)
def test_bad_arguments_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        SimulatedLoop(**kwargs)


@pytest.mark.parametrize("kwargs", [{"seed": "1"}, {"real_wait": -1}, {"seed": 1, "order": len}])
def test_simulate_makes_no_coroutine_for_a_loop_that_is_refused(kwargs):
    with pytest.raises((TypeError, ValueError)):
        simulate(asyncio.sleep, 1, **kwargs)
    gc.collect()  # a coroutine that is never awaited is a warning, and so an error


def test_real_waits_may_be_longer_than_the_kernel_can_count():
    async def main():
        future = asyncio.get_running_loop().create_future()
        thread = threading.Thread(
            target=asyncio.get_running_loop().call_soon_threadsafe, args=(future.set_result, 5)
        )
        thread.start()
        result = await future
        thread.join()
        return result

    for seconds in (9 * 366 * 86400, float("inf")):
        assert simulate(main, real_wait=seconds) == 5


def test_seeds_order_by_number_wherever_tasks_are_queued():
    async def main():
        async def idle():
            pass

        tasks = [asyncio.create_task(idle()) for _ in range(5)]
        chosen = [tasks[SeededOrder(3)(tasks)], tasks[::-1][SeededOrder(3)(tasks[::-1])]]
        assert chosen[0] is chosen[1]
        await asyncio.wait(tasks)

    simulate(main)


def test_the_seed_of_an_order_cannot_be_changed():
    order = SeededOrder(3)
    with pytest.raises(AttributeError):
        order.seed = 4
    assert order.seed == 3


# What is real


def test_what_is_real_is_refused():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="threads and processes unless .*real_wait"):
            await asyncio.to_thread(time.sleep, 0)
        with ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="real_wait"):
            await loop.run_in_executor(pool, time.sleep, 0)
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            with pytest.raises(RuntimeError, match=f"descriptor {left.fileno()} is a real one"):
                await loop.sock_recv(left, 1)
            with pytest.raises(RuntimeError, match="a real one"):
                IOLoop.current().add_handler(left, print, READ)
            with pytest.raises(KeyError):
                IOLoop.current().remove_handler(left)
        with pytest.raises(RuntimeError, match="processes unless"):
            await asyncio.create_subprocess_exec("true")
        with pytest.raises(RuntimeError, match="processes unless"):
            await asyncio.create_subprocess_shell("true")
        with pytest.raises(RuntimeError, match="signals unless"):
            loop.add_signal_handler(signal.SIGUSR1, print)

    simulate(main)


def test_other_threads_are_refused():
    loop = SimulatedLoop()
    raised = []

    def call():
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=call, name="a stranger")
    thread.start()
    thread.join()
    assert "a stranger called a simulated loop" in raised[0]
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    loop.close()


def test_executors_that_complete_in_the_loops_thread_are_welcome():
    class Inline(Executor):
        def submit(self, function, /, *args):
            future = Future()
            future.set_result(function(*args))
            return future

    async def main():
        future = asyncio.get_running_loop().run_in_executor(Inline(), divmod, 7, 2)
        # How often a task waits does not depend on the executor's speed, nor on Python's version.
        assert not future.done()
        return await future

    assert simulate(main) == (3, 1)


def test_an_executor_that_does_not_take_a_job_leaves_nothing_to_wait_for():
    async def main():
        with ThreadPoolExecutor() as pool:
            pass
        with pytest.raises(RuntimeError, match="after shutdown"):
            IOLoop.current().run_in_executor(pool, print)
        await asyncio.sleep(1000)

    before = time.monotonic()
    simulate(main, real_wait=30)
    assert time.monotonic() - before < 20


def test_threads_are_waited_for_if_the_test_says_so():
    async def main():
        loop = asyncio.get_running_loop()
        late = asyncio.create_task(asyncio.sleep(1000))
        assert await asyncio.to_thread(lambda: time.sleep(0.02) or 5) == 5
        assert loop.time() == 0
        await late
        return loop.time()

    assert simulate(main, real_wait=30) == 1000


def test_threads_are_waited_for_no_longer_than_that():
    async def main():
        loop = asyncio.get_running_loop()
        go_on = threading.Event()
        waiting = loop.run_in_executor(None, go_on.wait)
        await asyncio.sleep(1000)
        go_on.set()
        await waiting
        assert loop.time() == 1000

    simulate(main, real_wait=0.01)


def test_a_task_and_its_pool_can_be_stuck_together():
    go_on = threading.Event()

    async def main():
        try:
            await asyncio.get_running_loop().run_in_executor(None, go_on.wait)
        finally:
            go_on.set()

    with pytest.raises(DeadlockError):
        simulate(main, real_wait=0.01)


@pytest.mark.only_on("linux", "darwin")
def test_descriptors_processes_and_signals_are_waited_for_if_the_test_says_so():
    async def main():
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recv(left, 10))
            await asyncio.sleep(0)
            right.send(b"hello")
            assert await receiving == b"hello"
            reader, writer = await asyncio.open_connection(sock=left)
            writer.write(b"x" * 1_000_000)
            right.setblocking(False)
            received = 0
            while received < 1_000_000:
                received += len(await loop.sock_recv(right, 1 << 20))
            writer.close()
            await writer.wait_closed()
        told = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, told.set_result, "signal")
        signal.raise_signal(signal.SIGUSR1)
        assert await told == "signal"
        loop.remove_signal_handler(signal.SIGUSR1)
        if sys.version_info >= (3, 12):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
            assert await process.wait() == 0
            process = await asyncio.create_subprocess_shell("exit 3")
            assert await process.wait() == 3

    simulate(main, real_wait=30)


# Virtual descriptors


@simulated
async def test_virtual_descriptors_are_watched_like_others(waterspout_simulated_loop):
    loop, io_loop, seen = waterspout_simulated_loop, IOLoop.current(), []
    descriptor = loop.new_descriptor()
    assert loop.open_descriptors() == [descriptor.fileno()]
    io_loop.add_handler(descriptor, lambda fd, events: seen.append((fd, events)), READ)
    await asyncio.sleep(1)
    assert seen == []
    descriptor.ready = READ | WRITE
    assert descriptor.ready == READ | WRITE
    assert "ready=0x5" in repr(descriptor)
    for _ in range(3):
        await asyncio.sleep(0)
    assert set(seen) == {(descriptor, READ)}
    assert len(seen) > 1  # level-triggered
    io_loop.update_handler(descriptor, WRITE)
    seen.clear()
    for _ in range(3):
        await asyncio.sleep(0)
    assert set(seen) == {(descriptor, WRITE)}
    descriptor.ready = 0
    await asyncio.sleep(0)
    seen.clear()
    await asyncio.sleep(1)
    assert seen == []
    io_loop.update_handler(descriptor, WRITE | ERROR)
    descriptor.ready = ERROR
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen[0] == (descriptor, WRITE | ERROR)
    io_loop.remove_handler(descriptor)
    loop.close_descriptor(descriptor)
    loop.close_descriptor(descriptor)
    descriptor.ready = READ
    assert loop.open_descriptors() == []


@simulated
async def test_virtual_descriptors_go_by_number_or_object(waterspout_simulated_loop):
    loop, seen = waterspout_simulated_loop, []
    descriptor = loop.new_descriptor()
    loop.add_reader(descriptor, seen.append, "reader")
    loop.add_writer(descriptor.fileno(), seen.append, "writer")
    descriptor.ready = READ | WRITE
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert {"reader", "writer"} == set(seen)
    assert loop.remove_reader(descriptor.fileno())
    assert loop.remove_writer(descriptor)
    assert not loop.remove_writer(descriptor)
    with pytest.raises(KeyError, match="registered already"):
        loop._selector.register(descriptor, 1)
        loop._selector.register(descriptor, 1)
    assert loop._selector.get_key(descriptor).fd == descriptor.fileno()
    assert loop._selector.get_map()[descriptor] is loop._selector.get_map().get(descriptor)
    loop._selector.unregister(descriptor)
    loop.close_descriptor(descriptor)


@simulated
async def test_bad_virtual_descriptors_are_refused(waterspout_simulated_loop):
    loop, io_loop = waterspout_simulated_loop, IOLoop.current()
    descriptor = loop.new_descriptor()
    with pytest.raises(ValueError, match="ready must be a mask .* 0x100"):
        descriptor.ready = 0x100
    assert descriptor.ready == 0
    loop.close_descriptor(descriptor)
    with pytest.raises(OSError, match="virtual descriptor") as caught:
        io_loop.add_handler(descriptor, print, READ)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop._selector.check_open(1023)


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.waterspout("simulated", real_wait=10)
async def test_a_hang_up_of_a_real_descriptor_is_seen():
    io_loop = IOLoop.current()
    left, right = socket.socketpair()
    told = io_loop.create_future()
    virtual = asyncio.get_running_loop().new_descriptor()
    with left:
        io_loop.add_handler(left, lambda fd, events: told.set_result(events), ERROR)
        io_loop.add_handler(virtual, print, READ)
        io_loop.update_handler(virtual, WRITE)
        right.close()
        assert await told == ERROR
        io_loop.remove_handler(left)
    io_loop.remove_handler(virtual)
    asyncio.get_running_loop().close_descriptor(virtual)


# It is an asyncio loop


@simulated
async def test_what_builds_on_a_loop_runs_on_it(waterspout_simulated_loop):
    ticks = []
    periodic = PeriodicCallback(lambda: ticks.append(waterspout_simulated_loop.time()), 100)
    periodic.start()
    await asyncio.sleep(0.35)
    periodic.stop()
    assert ticks == pytest.approx([0.1, 0.2, 0.3])
    results = await asyncio.gather(*(asyncio.sleep(delay, delay) for delay in (3, 1, 2)))
    assert results == [3, 1, 2]


def test_descriptors_may_be_closed_after_the_loop():
    loop = SimulatedLoop()
    descriptor = loop.new_descriptor()
    loop.close()
    loop.close_descriptor(descriptor)


def test_debug_mode_finds_bad_callbacks():
    loop = SimulatedLoop()
    loop.set_debug(True)

    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with call_soon"):
        loop.call_soon(coroutine)
    loop.close()


def test_a_closed_loop_leaves_no_cycle_behind():
    async def main():
        await asyncio.sleep(1)

    simulate(main)
    gc.collect()
    gc.disable()
    try:
        loop = SimulatedLoop()
        loop.run_until_complete(main())
        loop.close()
    finally:
        gc.enable()


def test_it_is_the_main_loop_of_a_runner():
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:

        async def main():
            loop = asyncio.get_running_loop()
            await asyncio.sleep(5)
            return loop.time()

        assert runner.run(main()) == 5
        assert runner.run(main()) == 10


def test_for_ever_is_no_time():
    async def main():
        await asyncio.sleep(float("inf"))

    with pytest.raises(DeadlockError):
        simulate(main)


@simulated
async def test_bad_times_are_refused(waterspout_simulated_loop):
    loop = waterspout_simulated_loop
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match="when must be a number"):
            loop.call_at(wrong, print)
    with pytest.raises(ValueError, match="when must not be NaN"):
        loop.call_at(float("nan"), print)


def test_own_threads_and_signals_are_waited_for():
    async def main():
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        def work():
            time.sleep(0.02)
            loop.call_soon_threadsafe(told.set_result, 1)

        thread = threading.Thread(target=work)
        thread.start()
        assert await told == 1
        thread.join()

    simulate(main, real_wait=30)


def test_a_method_called_step_is_no_step():
    class Walker:
        def __step(self):
            self.done = True

        def start(self):
            asyncio.get_running_loop().call_soon(self.__step)

    async def main():
        walker = Walker()
        walker.start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return walker.done

    assert simulate(main, seed=1)


def test_stacks_go_through_generators_and_wrappers():
    async def numbers():
        yield 1
        await asyncio.Event().wait()

    class Wrapper:
        def __await__(self):
            return self.run().__await__()

        async def run(self):
            async for _ in numbers():
                pass

    async def main():
        await Wrapper()

    with pytest.raises(DeadlockError) as caught:
        simulate(main)
    for function in ("main", "Wrapper.run", "numbers", "Event.wait"):
        assert f"{function}\n" in str(caught.value)


def test_orders_that_give_no_index_are_told():
    async def main():
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    for wrong in (99, None):
        with pytest.raises(ValueError, match=f"order must give an index below 2, not {wrong}"):
            simulate(main, order=lambda tasks, wrong=wrong: wrong)
    with pytest.raises(TypeError, match="order must be callable, not 5"):
        SimulatedLoop(order=5)
    with pytest.raises(TypeError, match="real_wait must be seconds or None, not '1'"):
        SimulatedLoop(real_wait="1")


@simulated
async def test_inside_a_loop_it_cannot_be_run():
    async def main():
        pass

    with pytest.raises(RuntimeError, match=r"simulate\(\) cannot be called while"):
        simulate(main)


def test_transports_over_real_sockets_are_refused_at_the_call():
    async def main():
        left, right = socket.socketpair()
        with left, right:
            with pytest.raises(RuntimeError, match="descriptors unless"):
                await asyncio.open_connection(sock=left)
        with pytest.raises(RuntimeError, match="descriptors unless"):
            await asyncio.start_server(print, "127.0.0.1", 0)

    simulate(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_have_names():
    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def child():
            await asyncio.Event().wait()

        await asyncio.create_task(child())

    with pytest.raises(DeadlockError, match="waits for the task child#2"):
        simulate(main)
