"""Our own schedulers and reactors conform; and the classes find it where one does not."""

import asyncio

import pytest

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop
from waterspout.ioloop.testing import ReactorConformance, SchedulerConformance, SimulatedLoop

KINDS = ["asyncio", "uvloop", "threaded", "asyncio-readers", "uvloop-readers"]


class TestRealLoops(ReactorConformance):
    @pytest.fixture(autouse=True, params=KINDS)
    def kind(self, request, waterspout_loops):
        if request.param not in waterspout_loops:
            pytest.skip("there is no uvloop here")
        self.new_loop = waterspout_loops[request.param]


class VirtualEnd:
    """One end of a connection between two virtual descriptors."""

    def __init__(self, loop):
        self.loop = loop
        self.descriptor = loop.new_descriptor()
        self.descriptor.ready = WRITE
        self.received = b""
        self.other = None

    def fileno(self):
        return self.descriptor.fileno()

    def send(self, data):
        self.other.received += data
        self.other.descriptor.ready |= READ
        return len(data)

    def recv(self, size):
        data, self.received = self.received[:size], self.received[size:]
        if not self.received:
            self.descriptor.ready &= ~READ
        return data

    def close(self):
        self.loop.close_descriptor(self.descriptor)
        self.other.descriptor.ready |= READ | ERROR


class TestSimulatedLoop(ReactorConformance):
    def new_loop(self):
        return SimulatedLoop(real_wait=30)

    def new_pair(self, reactor):
        loop = asyncio.get_running_loop()
        ends = VirtualEnd(loop), VirtualEnd(loop)
        ends[0].other, ends[1].other = ends[1], ends[0]
        return ends


class TestSimulatedLoopOverTheKernel(ReactorConformance):
    def new_loop(self):
        return SimulatedLoop(real_wait=30)


def test_asyncios_own_loop_is_the_default():
    SchedulerConformance().test_callbacks_run_in_order()


class TestWithoutThreads(SchedulerConformance):
    has_threads = False

    def new_loop(self):
        return SimulatedLoop(seed=1)

    def executor(self):
        from concurrent.futures import Executor, Future

        class Inline(Executor):
            def submit(self, function, /, *args):
                future = Future()
                try:
                    future.set_result(function(*args))
                except Exception as error:
                    future.set_exception(error)
                return future

        return Inline()


class Careless(IOLoop):
    """A reactor that gets everything wrong that can be, one thing at a time."""

    fault = ""

    def add_callback(self, callback, *args, **kwargs):
        if self.fault == "at once":
            callback(*args, **kwargs)
        elif self.fault != "forgets":
            super().add_callback(callback, *args, **kwargs)

    def call_later(self, delay, callback, *args, **kwargs):
        factor = {"early": 0.1}.get(self.fault, 1)
        return super().call_later(delay * factor, callback, *args, **kwargs)

    def call_at(self, when, callback, *args, **kwargs):
        if self.fault == "unchecked" and when != when:
            when = self.time()
        when -= 0.01 if self.fault == "early" else 0
        return super().call_at(when, callback, *args, **kwargs)

    def remove_timeout(self, timeout):
        if self.fault != "keeps":
            super().remove_timeout(timeout)

    def run_in_executor(self, executor, func, *args):
        if self.fault == "swallows":

            async def swallow():
                try:
                    return func(*args)
                except Exception:
                    return None

            return asyncio.ensure_future(swallow())
        return super().run_in_executor(executor, func, *args)

    def handle_callback_exception(self, callback):
        if self.fault != "silent":
            super().handle_callback_exception(callback)

    def add_handler(self, fd, handler, events):
        if self.fault == "deaf":
            events &= ~ERROR
        super().add_handler(fd, handler, events)


def careless(fault, kind=ReactorConformance):
    class Conformance(kind):
        def new_loop(self):
            return SimulatedLoop(real_wait=0.2)

        def new_scheduler(self, loop):
            scheduler = Careless(loop)
            scheduler.fault = fault
            return scheduler

    return Conformance()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("at once", "test_callbacks_run_in_order"),
        ("at once", "test_a_callback_that_a_callback_adds_waits_for_the_next_turn"),
        ("early", "test_timers_are_never_early"),
        ("keeps", "test_a_removed_timer_does_not_run"),
        ("keeps", "test_a_timer_can_remove_one_of_its_own_time"),
        ("swallows", "test_functions_run_in_an_executor"),
        ("silent", "test_a_callback_that_raises_is_reported"),
        ("unchecked", "test_bad_arguments_are_refused_at_the_call"),
        ("deaf", "test_a_hang_up_is_told_to_whom_asks"),
        ("early", "test_the_clock_goes_forward"),
    ],
)
def test_what_does_not_conform_is_found(fault, test):
    with pytest.raises(AssertionError):
        getattr(careless(fault), test)()
    getattr(careless(""), test)()


def test_a_loop_that_forgets_is_found_as_well():
    with pytest.raises(TimeoutError):
        careless("forgets").test_callbacks_run_in_order()


def test_a_scheduler_that_is_no_reactor_is_found():
    class Conformance(ReactorConformance):
        def new_pair(self, reactor):
            raise NotImplementedError

    class Hidden(Conformance):
        def run(self, test):
            async def main():
                await test(object())

            asyncio.run(main())

    with pytest.raises(AssertionError):
        Hidden().test_a_removed_handler_is_not_called()
