"""What every `Scheduler` and `Reactor` must do, as tests that anybody can run on their own.

They are methods called `test_...` that use nothing but `assert`, so any test runner can collect a
subclass of the classes here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from waterspout.ioloop.scheduling import (
    Scheduler,
    current_scheduler,
    register_scheduler,
)

SOON = 0.01
"""Seconds that a timer here takes."""


def raises(error: type[BaseException], call: Callable[..., object], *args: Any) -> str:
    """Assert that a call raises, and give the message."""
    try:
        call(*args)
    except error as raised:
        return str(raised)
    raise AssertionError(f"{call!r} with {args!r} did not raise {error.__name__}")


async def later(scheduler: Scheduler, seconds: float) -> None:
    future = scheduler.create_future()
    scheduler.call_later(seconds, future.set_result, None)
    await future


async def turns(scheduler: Scheduler, count: int = 5) -> None:
    """Let the loop have some turns."""
    for _ in range(count):
        future = scheduler.create_future()
        scheduler.add_callback(future.set_result, None)
        await future


async def until(scheduler: Scheduler, condition: Callable[[], bool]) -> None:
    """Let the loop have turns until something has come about."""
    while not condition():
        await later(scheduler, 0.001)


class SchedulerConformance:
    """Tests that a third party's `Scheduler` must pass::

        class TestMine(SchedulerConformance):
            def new_loop(self):
                return MyLoop()

            def new_scheduler(self, loop):
                return MyScheduler(loop)

    Whatever test runner collects the class runs the tests on what these make.
    """

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Make the asyncio loop that the scheduler runs on. Override it."""
        return asyncio.new_event_loop()

    def new_scheduler(self, loop: asyncio.AbstractEventLoop) -> Scheduler:
        """Make the scheduler of a new loop, which runs. Override it.

        By default it is what `current_scheduler` gives.
        """
        return current_scheduler()

    def executor(self) -> concurrent.futures.Executor | None:
        """Give an executor for `run_in_executor`; `None` stands for the loop's default."""
        return None

    has_threads = True
    """Whether other threads may call `add_callback`."""

    def run(self, test: Callable[[Any], Coroutine[Any, Any, None]]) -> list[dict[str, Any]]:
        """Run a test on a new scheduler, and give what the loop was told of."""
        reported: list[dict[str, Any]] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reported.append(context))
            scheduler = self.new_scheduler(loop)
            register_scheduler(loop, scheduler)
            assert current_scheduler() is scheduler
            async with asyncio.timeout(30):
                await test(scheduler)

        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main())
        return reported

    def test_the_clock_goes_forward(self) -> None:
        """It does not stand still while there is something to wait for."""

        async def test(scheduler: Scheduler) -> None:
            before = scheduler.time()
            await later(scheduler, SOON)
            assert scheduler.time() >= before + SOON * 0.9

        self.run(test)

    def test_callbacks_run_in_order(self) -> None:
        """Later than the call, in the order of the calls, with their arguments."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[Any] = []
            for number in range(5):
                scheduler.add_callback(seen.append, number)
            scheduler.add_callback(lambda *args, **kwargs: seen.append((args, kwargs)), 1, key=2)
            assert seen == []
            await turns(scheduler)
            assert seen == [0, 1, 2, 3, 4, ((1,), {"key": 2})]

        self.run(test)

    def test_a_callback_that_a_callback_adds_waits_for_the_next_turn(self) -> None:
        """So no callback can keep the loop."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[str] = []

            def first() -> None:
                seen.append("first")
                scheduler.add_callback(seen.append, "third")

            scheduler.add_callback(first)
            scheduler.add_callback(seen.append, "second")
            await turns(scheduler)
            assert seen == ["first", "second", "third"]

        self.run(test)

    def test_callbacks_run_in_the_context_of_the_call(self) -> None:
        """PEP 567; and what they change there, others do not see."""

        async def test(scheduler: Scheduler) -> None:
            variable = contextvars.ContextVar("variable", default=0)
            seen: list[int] = []

            def callback() -> None:
                seen.append(variable.get())
                variable.set(9)

            for number in (1, 2):
                variable.set(number)
                scheduler.add_callback(callback)
                scheduler.call_later(SOON, callback)
            variable.set(3)
            await later(scheduler, SOON * 2)
            assert sorted(seen) == [1, 1, 2, 2]
            assert variable.get() == 3

        self.run(test)

    def test_what_a_callback_returns_is_awaited(self) -> None:
        """Coroutine functions are callbacks, of `add_callback`, `call_later` and the others."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[int] = []

            async def callback(number: int) -> None:
                await asyncio.sleep(0)
                seen.append(number)

            scheduler.add_callback(callback, 1)
            scheduler.spawn_callback(callback, 2)
            scheduler.call_later(0, callback, 3)
            await later(scheduler, SOON)
            await turns(scheduler)
            assert sorted(seen) == [1, 2, 3]

        self.run(test)

    def test_a_callback_that_raises_is_reported(self) -> None:
        """And stops nothing."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[int] = []

            async def coroutine() -> None:
                raise ZeroDivisionError

            scheduler.add_callback(lambda: 1 / 0)
            scheduler.add_callback(coroutine)
            scheduler.call_later(0, lambda: 1 / 0)
            scheduler.add_callback(seen.append, 1)
            await later(scheduler, SOON)
            await turns(scheduler)
            assert seen == [1]

        reported = self.run(test)
        assert [type(context.get("exception")) for context in reported] == [ZeroDivisionError] * 3

    def test_callbacks_from_another_thread_wake_the_loop(self) -> None:
        """`add_callback` is safe from any thread."""
        if not self.has_threads:
            return

        async def test(scheduler: Scheduler) -> None:
            woken = scheduler.create_future()
            thread = threading.Thread(target=scheduler.add_callback, args=(woken.set_result, 1))
            thread.start()
            assert await woken == 1
            thread.join()

        self.run(test)

    def test_timers_run_by_deadline_and_age(self) -> None:
        """Those of one deadline in the order in which they were made."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[int] = []
            when = scheduler.time() + SOON
            scheduler.call_at(when + SOON, seen.append, 4)
            for number in (1, 2):
                scheduler.call_at(when, seen.append, number)
            scheduler.add_timeout(when, seen.append, 3)
            scheduler.add_timeout(timedelta(seconds=-1), seen.append, 0)
            assert seen == []
            await later(scheduler, 3 * SOON)
            assert seen == [0, 1, 2, 3, 4]

        self.run(test)

    def test_timers_are_never_early(self) -> None:
        """By the scheduler's own clock, but for its resolution."""

        async def test(scheduler: Scheduler) -> None:
            times: list[tuple[float, float]] = []
            for delay in (0.0, 0.001, 0.0025, 0.01):
                when = scheduler.time() + delay
                note = lambda when=when: times.append((scheduler.time(), when))  # noqa: E731
                scheduler.call_at(when, note)
            await later(scheduler, 2 * SOON)
            assert len(times) == 4
            assert all(now >= when - 1e-6 for now, when in times)

        self.run(test)

    def test_a_removed_timer_does_not_run(self) -> None:
        """Removing one that ran, or removing it twice, does nothing."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[int] = []
            removed = scheduler.call_later(SOON / 2, seen.append, 1)
            ran = scheduler.call_later(SOON / 2, seen.append, 2)
            scheduler.remove_timeout(removed)
            scheduler.remove_timeout(removed)
            await later(scheduler, SOON)
            scheduler.remove_timeout(ran)
            assert seen == [2]

        self.run(test)

    def test_a_timer_can_remove_one_of_its_own_time(self) -> None:
        """Which is due as well, and must not run."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[int] = []
            when = scheduler.time() + SOON / 2
            others: list[object] = []
            scheduler.call_at(when, lambda: scheduler.remove_timeout(others[0]))
            others.append(scheduler.call_at(when, seen.append, 1))
            await later(scheduler, SOON)
            assert seen == []

        self.run(test)

    def test_futures_are_of_the_running_loop(self) -> None:
        """So tasks can await them."""

        async def test(scheduler: Scheduler) -> None:
            future = scheduler.create_future()
            assert isinstance(future, asyncio.Future)
            assert future.get_loop() is asyncio.get_running_loop()
            scheduler.call_later(0, future.set_result, 1)
            assert await future == 1

        self.run(test)

    def test_add_future_calls_back_later_however_it_ends(self) -> None:
        """On the loop, with the future; for done ones, too."""

        async def test(scheduler: Scheduler) -> None:
            seen: list[object] = []
            done, failed, cancelled = (scheduler.create_future() for _ in range(3))
            done.set_result(1)
            foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
            for future in (done, failed, cancelled, foreign):
                scheduler.add_future(future, seen.append)
            assert seen == []
            failed.set_exception(ZeroDivisionError())
            cancelled.cancel()
            foreign.set_result(2)
            await turns(scheduler)
            assert set(seen) == {done, failed, cancelled, foreign}
            assert isinstance(failed.exception(), ZeroDivisionError)

        self.run(test)

    def test_functions_run_in_an_executor(self) -> None:
        """And what they raise comes through the future."""

        async def test(scheduler: Scheduler) -> None:
            executor = self.executor()
            assert await scheduler.run_in_executor(executor, divmod, 7, 2) == (3, 1)
            try:
                await scheduler.run_in_executor(executor, divmod, 7, 0)
            except ZeroDivisionError:
                return
            raise AssertionError("the exception did not come through")

        self.run(test)

    def test_bad_arguments_are_refused_at_the_call(self) -> None:
        """With an error that says which and what; nothing is scheduled."""

        async def test(scheduler: Scheduler) -> None:
            nan, far = float("nan"), scheduler.time() + 1e10
            seen: list[int] = []
            for callback in (None, 5, "name"):
                raises(TypeError, scheduler.add_callback, callback)
                raises(TypeError, scheduler.call_later, 0, callback)
                raises(TypeError, scheduler.add_future, scheduler.create_future(), callback)
            for deadline, error in ((nan, ValueError), (far, ValueError), ("soon", TypeError)):
                raises(error, scheduler.call_at, deadline, seen.append, 1)
                raises(error, scheduler.add_timeout, deadline, seen.append, 1)
            for delay in (nan, 1e10):
                raises(ValueError, scheduler.call_later, delay, seen.append, 1)
            raises(TypeError, scheduler.call_later, None, seen.append, 1)
            raises(TypeError, scheduler.add_future, 5, seen.append)
            raises(TypeError, scheduler.remove_timeout, 5)
            await later(scheduler, SOON)
            assert seen == []

        self.run(test)

    def test_a_closed_loop_refuses(self) -> None:
        """Rather than forget what it was asked for."""
        kept: list[Scheduler] = []

        async def test(scheduler: Scheduler) -> None:
            kept.append(scheduler)

        self.run(test)
        for call in (kept[0].add_callback, kept[0].spawn_callback):
            raises(RuntimeError, call, print)
        raises(RuntimeError, kept[0].call_later, 0, print)
