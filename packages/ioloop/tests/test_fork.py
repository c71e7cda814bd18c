"""A forked child does not touch its parent's loop."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

SCRIPT = """
import asyncio, gc, os, socket, sys, warnings
from waterspout.ioloop import IOLoop, READ

warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
if sys.argv[1] == "uvloop":
    IOLoop.configure("uvloop")
loop = IOLoop()
IOLoop.install()
left, right = socket.socketpair()
seen = []
loop.add_handler(left, lambda *call: (seen.append(left.recv(1)), loop.stop()), READ)
loop.call_later(3600, print)
own = IOLoop(make_current=False)
own.close()

def child():
    async def main():
        pass

    for use in (
        lambda: loop.add_callback(print),
        lambda: loop.add_callback_from_signal(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(loop.time(), print),
        lambda: loop.add_handler(right, print, READ),
        lambda: loop.update_handler(left, READ),
        lambda: loop.remove_handler(left),
        lambda: loop.run_in_executor(None, print),
        loop.start,
        loop.stop,
        lambda: loop.run_sync(main),
        loop.close,
        loop.make_current,
    ):
        try:
            use()
        except RuntimeError as error:
            assert "made in the parent process" in str(error), error
        else:
            raise AssertionError(use)
    assert IOLoop.current(instance=False) is None
    mine = IOLoop.current()
    assert mine is not loop and IOLoop.instance() is mine
    assert mine.run_sync(lambda: asyncio.sleep(0, "mine")) == "mine"
    mine.close()

pid = os.fork()
if pid == 0:
    status = 1
    try:
        child()
        loop = None
        gc.collect()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
_, status = os.waitpid(pid, 0)
assert status == 0, status
# The parent's loop is as it was: descriptors are watched, other threads wake it.
import threading
right.send(b"x")
loop.start()
assert seen == [b"x"]
threading.Thread(target=loop.add_callback, args=(loop.stop,)).start()
loop.start()
loop.close()
left.close()
right.close()
"""


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_a_child_is_told_and_the_parent_is_left_alone(loop_name):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, loop_name],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.returncode == 0


LEAVING = """
import asyncio, gc, os, socket, sys, threading, warnings
from waterspout.ioloop import IOLoop, READ

warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
kind, how = sys.argv[1:]

class Threaded(asyncio.SelectorEventLoop):
    def add_reader(self, *args):
        raise NotImplementedError

    add_writer = add_reader

if kind == "uvloop":
    IOLoop.configure("uvloop")
elif kind == "threaded":
    IOLoop.configure(Threaded)

last_resort = threading.Timer(20, os._exit, [1])
last_resort.daemon = True
last_resort.start()
left, right = socket.socketpair()
seen = []

def add():
    loop.add_handler(left, lambda *call: (seen.append(left.recv(1)), stop()), READ)

def fork():
    lock = loop._handlers._table.lock
    holding, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            holding.set()
            done.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    holding.wait()
    pid = os.fork()
    if pid == 0:
        if how == "close":
            loop.asyncio_loop.close()
        elif how == "drop":
            globals().pop("loop")
            gc.collect()
        sys.exit(5)
    done.set()
    holder.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5, status

def use():
    # From other threads, and by descriptors: the loop's waker and its epoll are as they were.
    threading.Thread(target=loop.add_callback, args=(right.send, b"x")).start()

if how in ("close", "drop"):
    loop = IOLoop()
    stop = loop.stop
    add()
    loop.add_callback(loop.stop)
    loop.start()
    fork()
    use()
    loop.start()
    loop.close()
elif how == "start":
    loop = IOLoop()
    stop = loop.stop
    add()
    loop.call_later(0.01, lambda: (fork(), loop.call_later(0.01, use)))
    loop.start()
    loop.close()
else:
    async def main():
        global loop, stop
        loop = IOLoop.current()
        end = asyncio.Event()
        stop = end.set
        add()
        loop.call_later(0.01, lambda: (fork(), loop.call_later(0.01, use)))
        await end.wait()

    with asyncio.Runner(loop_factory=lambda: IOLoop(make_current=False).asyncio_loop) as runner:
        runner.run(main())
assert seen == [b"x"], seen
left.close()
right.close()
"""


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop", "threaded"])
@pytest.mark.parametrize("how", ["close", "drop", "start", "asyncio.run"])
def test_a_child_that_leaves_does_nothing_to_the_parents_loop(loop_name, how):
    """It closes the asyncio loop, drops it, or leaves its run by `sys.exit`."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, loop_name, how],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.returncode == 0
