"""A forked child does not touch its parent's loop."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"]),
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


def test_a_child_is_told_and_the_parent_is_left_alone(loop_name):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, loop_name],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.returncode == 0
