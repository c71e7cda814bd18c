"""`start`, `stop`, `run_sync`, `close`, and use inside `asyncio.run`."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from waterspout.ioloop import READ, IOLoop, PeriodicCallback

pytestmark = pytest.mark.parametrize("loop_name", ["asyncio", "uvloop", "threaded"])


@pytest.fixture
def io_loop(loop_factory):
    loop = IOLoop(loop_factory())
    yield loop
    loop.close()


def test_start_runs_until_stop(io_loop):
    seen = []
    io_loop.add_callback(seen.append, 1)
    io_loop.add_callback(io_loop.stop)
    io_loop.start()
    assert seen == [1]
    io_loop.add_callback(seen.append, 2)
    io_loop.add_callback(io_loop.stop)
    io_loop.start()
    assert seen == [1, 2]


def test_stop_before_start_ends_it_after_an_iteration(io_loop):
    seen = []
    io_loop.add_callback(seen.append, 1)
    io_loop.stop()
    io_loop.start()
    assert seen == [1]


def test_stop_refuses_a_loop_that_another_runs(io_loop):
    async def main():
        with pytest.raises(RuntimeError, match="only a loop that start"):
            io_loop.stop()

    io_loop.asyncio_loop.run_until_complete(main())


def test_start_and_run_sync_refuse_to_nest(io_loop):
    async def main():
        other = IOLoop()
        for loop in (io_loop, other):
            with pytest.raises(RuntimeError, match=r"start\(\) cannot be called"):
                loop.start()
            with pytest.raises(RuntimeError, match=r"run_sync\(\) cannot be called"):
                loop.run_sync(main)
        other.close()

    io_loop.run_sync(main)


def test_a_loop_that_runs_in_another_thread_is_refused(io_loop):
    started = threading.Event()
    io_loop.add_callback(started.set)
    thread = threading.Thread(target=io_loop.start)
    thread.start()
    started.wait(10)
    with pytest.raises(RuntimeError, match="running in another thread"):
        io_loop.run_sync(lambda: None)
    with pytest.raises(RuntimeError, match="a running loop cannot be closed"):
        io_loop.close()
    io_loop.add_callback(io_loop.stop)
    thread.join(10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["callback", "timer", "task", "run_sync"])
def test_what_ends_the_program_leaves_the_loop_closed(io_loop, error, where):
    ended = []

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    def fail():
        raise error

    async def fail_later():
        await asyncio.sleep(0)
        raise error

    io_loop.spawn_callback(other)
    with pytest.raises(error):
        if where == "callback":
            io_loop.add_callback(io_loop.add_callback, io_loop.add_callback, fail)
            io_loop.start()
        elif where == "timer":
            io_loop.call_later(0.02, fail)
            io_loop.start()
        elif where == "task":
            io_loop.spawn_callback(fail_later)
            io_loop.start()
        else:
            io_loop.run_sync(fail_later)
    assert ended == [True]
    assert io_loop.asyncio_loop.is_closed()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("what", ["handler", "reader", "callback", "timer", "periodic", "task"])
def test_tasks_finish_although_something_ends_the_loop_again_and_again(
    io_loop, loop_name, error, what
):
    """Each of them raises as long as the loop runs."""
    if (what, loop_name) == ("reader", "threaded"):
        pytest.skip("this loop has no readers")
    if (what, loop_name) == ("callback", "uvloop"):
        pytest.skip("over callbacks that raise in every turn, uvloop does not stop at all")
    ended, raised = [], []
    left, right = socket.socketpair()
    right.send(b"x")

    def fail(*args):
        raised.append(error(len(raised)))
        raise raised[-1]

    def fail_again(*args):
        if not ended:
            (io_loop.add_callback if what == "callback" else io_loop.asyncio_loop.call_soon)(
                fail_again
            )
        fail()

    async def cancelled():
        try:
            await asyncio.Event().wait()
        finally:
            fail()

    async def other():
        io_loop.call_later(0.001, begin)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0.002)
            ended.append(True)

    def begin():
        if what == "handler":
            io_loop.add_handler(left, fail, READ)
        elif what == "reader":
            io_loop.asyncio_loop.add_reader(left, fail)
        elif what == "callback":
            fail_again()
        elif what == "timer":
            for delay in range(10):
                io_loop.call_later(delay / 1000, fail)
        elif what == "periodic":
            PeriodicCallback(fail, 1).start()
        else:
            fail()

    if what == "task":
        io_loop.spawn_callback(cancelled)
    io_loop.spawn_callback(other)
    with pytest.raises(error) as caught:
        io_loop.start()
    assert ended == [True]
    assert caught.value in raised
    assert io_loop.asyncio_loop.is_closed()
    left.close()
    right.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_close_lets_tasks_finish_before_it_raises_what_a_callback_did(io_loop, error):
    ended = []

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.002)
            ended.append(True)

    def fail():
        raise error

    async def main():
        io_loop.spawn_callback(other)
        await asyncio.sleep(0.001)

    io_loop.run_sync(main)
    io_loop.add_callback(fail)
    with pytest.raises(error):
        io_loop.close()
    assert ended == [True]
    assert io_loop.asyncio_loop.is_closed()


def test_a_handler_that_ends_the_loop_is_not_called_in_the_last_run_of_another(loop_factory):
    """`asyncio.run` cancels its tasks and waits for them, as an IOLoop does."""
    calls, ended = [], []
    left, right = socket.socketpair()
    right.send(b"x")

    def leave(*args):
        calls.append(args)
        raise SystemExit

    async def main():
        IOLoop.current().add_handler(left, leave, READ)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.002)
            ended.append(True)

    with pytest.raises(SystemExit):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
    assert ended == [True]
    assert calls == [(left, READ)]
    left.close()
    right.close()


def test_a_handler_that_a_ctrl_c_has_met_stays(io_loop):
    """The program may go on with its loop."""
    left, right = socket.socketpair()
    right.send(b"x")
    calls = []

    def handler(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        io_loop.remove_handler(left)
        io_loop.asyncio_loop.stop()

    io_loop.add_handler(left, handler, READ)
    with pytest.raises(KeyboardInterrupt):
        io_loop.asyncio_loop.run_forever()
    io_loop.asyncio_loop.run_forever()
    assert len(calls) == 2
    left.close()
    right.close()


def test_ctrl_c_ends_the_last_run(io_loop):
    left = []

    async def stubborn():
        try:
            await asyncio.Event().wait()
        finally:
            left.append(True)
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(3600)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        io_loop.spawn_callback(stubborn)
        io_loop.run_sync(lambda: asyncio.sleep(0.001))
        tasks = asyncio.all_tasks(io_loop.asyncio_loop)
        with pytest.raises(KeyboardInterrupt):
            io_loop.close()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, old)
    assert left == [True]
    assert io_loop.asyncio_loop.is_closed()
    assert [type(task.exception()) for task in tasks] == [KeyboardInterrupt]


LAST_RUN = """
import asyncio, signal, sys
from waterspout.ioloop import IOLoop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
if sys.argv[1] == "uvloop":
    IOLoop.configure("uvloop")
loop = IOLoop()

async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("stays", flush=True)

loop.spawn_callback(stubborn)
loop.add_callback(loop.add_callback, sys.exit, 7)
try:
    loop.start()
except SystemExit as error:
    print("left", error, loop.asyncio_loop.is_closed(), flush=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
import os
os._exit(0)  # what asyncio has to say about the task is of no interest
"""


@pytest.mark.slow
@pytest.mark.only_on("linux", "darwin")
def test_ctrl_c_ends_the_last_run_of_a_loop_whose_tasks_do_not_end(loop_name):
    process = subprocess.Popen(
        [sys.executable, "-c", LAST_RUN, loop_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "stays\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "left 7 True\n"


SCRIPT = """
import asyncio, signal, sys, time
from waterspout.ioloop import IOLoop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
if sys.argv[1] == "uvloop":
    IOLoop.configure("uvloop")
loop = IOLoop()

async def main():
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        print("ended", flush=True)

async def busy():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)

try:
    if sys.argv[2] == "start":
        loop.spawn_callback(main)
        loop.start()
    else:
        loop.run_sync(busy if sys.argv[2] == "busy" else main)
except KeyboardInterrupt:
    print("interrupted", loop.asyncio_loop.is_closed(), flush=True)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.slow
@pytest.mark.only_on("linux", "darwin")
@pytest.mark.parametrize("how", ["start", "run_sync", "busy"])
def test_ctrl_c(loop_name, how):
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", SCRIPT, loop_name, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    if how == "busy":  # the first is not met, so a second one is not asked
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == ("" if how == "busy" else "ended\n") + "interrupted True\n"
    assert err == ""
    assert process.returncode == 0


def test_a_handler_of_the_programs_own_stays(io_loop):
    seen = []
    old = signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    try:
        io_loop.add_callback(signal.raise_signal, signal.SIGINT)
        io_loop.call_later(0.001, io_loop.stop)
        io_loop.start()
    finally:
        signal.signal(signal.SIGINT, old)
    assert seen == [True]


def test_a_handler_set_while_it_runs_stays(io_loop):
    def handler(*_):
        pass

    old = signal.getsignal(signal.SIGINT)
    try:
        io_loop.run_sync(lambda: signal.signal(signal.SIGINT, handler) and None)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, old)


def test_run_sync_gives_the_result(io_loop):
    async def main():
        await asyncio.sleep(0)
        return IOLoop.current()

    assert io_loop.run_sync(main) is io_loop
    assert io_loop.run_sync(lambda: 5) == 5
    assert io_loop.run_sync(lambda: asyncio.sleep(0, "slept")) == "slept"


def test_run_sync_raises_what_it_ran_raised(io_loop):
    async def main():
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        io_loop.run_sync(main)


def test_run_sync_cancels_what_takes_too_long_and_waits_for_its_end(io_loop):
    ended = []

    async def main():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(TimeoutError):
        io_loop.run_sync(main, timeout=0.01)
    assert ended == [True]


def test_run_sync_that_is_stopped_says_so(io_loop):
    async def main():
        io_loop.stop()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stopped before"):
        io_loop.run_sync(main)


def test_run_sync_refuses_bad_arguments(io_loop):
    with pytest.raises(TypeError, match="func must be callable"):
        io_loop.run_sync(5)
    with pytest.raises(TypeError, match="timeout must be"):
        io_loop.run_sync(lambda: None, timeout="1")
    with pytest.raises(ValueError, match="timeout must not be NaN"):
        io_loop.run_sync(lambda: None, timeout=float("nan"))


def test_close_ends_what_is_left(io_loop):
    ended = []

    async def forever(name):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def generate():
        try:
            while True:
                yield 1
        finally:
            ended.append("generator")

    async def main():
        io_loop.spawn_callback(forever, "task")
        generator = generate()
        await anext(generator)
        await asyncio.sleep(0)
        return generator

    generator = io_loop.run_sync(main)
    io_loop.close()
    assert ended == ["task", "generator"]
    assert generator.ag_frame is None
    io_loop.close()  # twice is harmless


def test_close_ends_tasks_also_when_a_stop_is_pending(io_loop):
    ended = []

    async def slowly():
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append(True)

    async def main():
        io_loop.spawn_callback(slowly)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    io_loop.run_sync(main)
    io_loop.stop()
    io_loop.add_callback(io_loop.add_callback, io_loop.stop)
    io_loop.close()
    assert ended == [True]
    assert io_loop.asyncio_loop.is_closed()


def test_a_loop_with_tasks_is_not_closed_while_another_runs(io_loop):
    async def forever():
        await asyncio.Event().wait()

    task = io_loop.asyncio_loop.create_task(forever())

    async def main():
        with pytest.raises(RuntimeError, match="while another runs"):
            io_loop.close()

    asyncio.run(main())
    io_loop.close()
    assert task.cancelled()


def test_close_reports_what_a_cancelled_task_raises(io_loop, caplog):
    async def stubborn():
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("at the end")

    async def main():
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        return task

    task = io_loop.run_sync(main)
    io_loop.close()
    assert task.done()
    assert "cancelled when the loop was closed" in caplog.text
    caplog.clear()


def test_a_closed_loop_says_so(io_loop):
    io_loop.close()
    assert "closed" in repr(io_loop)
    with pytest.raises(RuntimeError, match="closed"):
        io_loop.start()
    with pytest.raises(RuntimeError, match="closed"):
        io_loop.run_sync(lambda: None)
    with pytest.raises(RuntimeError, match="closed"):
        io_loop.add_callback(print)
    with pytest.raises(RuntimeError, match="closed"):
        io_loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="closed"):
        io_loop.add_handler(0, print, READ)


@pytest.mark.only_on("linux", "darwin")
def test_close_with_all_fds_closes_what_has_handlers(io_loop):
    left, right = socket.socketpair()
    read_end, write_end = os.pipe()
    io_loop.add_handler(left, print, READ)
    io_loop.add_handler(read_end, print, READ)
    io_loop.close(all_fds=True)
    assert left.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_end)
    os.close(write_end)
    right.close()


def test_close_without_all_fds_leaves_them_open(io_loop):
    left, right = socket.socketpair()
    io_loop.add_handler(left, print, READ)
    io_loop.close()
    assert left.fileno() >= 0
    left.close()
    right.close()


def test_it_works_inside_asyncio_run(loop_factory):
    async def main():
        seen = asyncio.Event()
        IOLoop.current().call_later(0.001, seen.set)
        await seen.wait()
        return repr(IOLoop.current())

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert "running" in runner.run(main())


def test_repr_tells_the_state(io_loop):
    assert repr(io_loop).startswith("<IOLoop stopped <")
