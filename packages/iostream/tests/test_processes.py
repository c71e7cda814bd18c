"""`open_process`: children, their streams, and their end."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import pytest

from waterspout.ioloop.testing import cancel_everywhere
from waterspout.iostream import StreamBufferFullError, open_process

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows watches no pipes"),
    pytest.mark.slow,
]

LARGE = b"0123456789" * 200_000


def python(code):
    return [sys.executable, "-S", "-c", code]


SWAP = python(
    "import sys; data = sys.stdin.buffer.read();"
    "sys.stderr.buffer.write(data); sys.stdout.buffer.write(data[::-1])"
)


def is_alive(pid):
    """Whether a process runs, or was not reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_neither_side_waits_for_the_other_for_ever():
    async with await open_process(SWAP, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        output, errors = await process.communicate(LARGE)
    assert errors == LARGE
    assert output == LARGE[::-1]
    assert process.returncode == 0
    assert not is_alive(process.pid)


async def test_a_conversation():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stderr is None
        for line in (b"one\n", b"two\n"):
            await process.stdin.write(line)
            assert await process.stdout.read_until(b"\n") == line
        assert repr(process) == f"<Process pid={process.pid} running>"
        await process.stdin.write_eof()
        assert await process.wait() == 0
        assert repr(process) == f"<Process pid={process.pid} returncode=0>"
        assert [line async for line in process.stdout] == []


async def test_redirections():
    async with await open_process(
        "echo out; echo err >&2; exit 3", shell=True, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    ) as process:
        assert process.stdin is None
        assert await process.communicate() == (b"out\nerr\n", None)
        assert await process.wait() == 3


async def test_the_end_of_the_block_waits():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        await process.stdin.write(b"not read")
    assert process.returncode == 0
    assert process.stdout.closed()


async def test_signals():
    async with await open_process(["sleep", "100"]) as process:
        process.terminate()
        assert await process.wait() == -signal.SIGTERM
        process.terminate()  # does nothing any more
    async with await open_process(["sleep", "100"]) as process:
        process.send_signal(signal.SIGUSR1)
        assert await process.wait(10) == -signal.SIGUSR1


async def test_a_wait_that_times_out_changes_nothing():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        with pytest.raises(TimeoutError):
            await process.wait(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        assert await process.communicate(b"x") == (b"x", None)


async def test_a_communicate_that_is_cancelled_loses_nothing():
    code = "import sys; print('first', flush=True); sys.stdin.read(); print('last')"
    async with await open_process(python(code), stdin=PIPE, stdout=PIPE) as process:
        talking = asyncio.create_task(process.communicate(LARGE))
        await asyncio.sleep(0)
        talking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talking
        with pytest.raises(ValueError, match="data must be None"):
            await process.communicate(b"again")
        assert await process.communicate() == (b"first\nlast\n", None)
        assert await process.communicate() == (b"first\nlast\n", None)


@pytest.mark.parametrize("moment", ["cancelled", "raises"])
async def test_left_by_an_exception_the_block_kills(moment):
    started = asyncio.Event()

    async def work():
        async with await open_process(["sleep", "100"], stdin=PIPE) as process:
            work.process = process
            started.set()
            if moment == "raises":
                raise ZeroDivisionError
            await process.wait()

    task = asyncio.create_task(work())
    await started.wait()
    if moment == "cancelled":
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises((asyncio.CancelledError, ZeroDivisionError)):
        await task
    assert work.process.returncode == -signal.SIGKILL
    assert work.process.stdin.closed()


async def test_cancelled_again_and_again_it_is_reaped_all_the_same():
    async def work():
        async with await open_process(["sleep", "100"]) as process:
            work.process = process
            await process.wait()

    task = asyncio.create_task(work())
    while not hasattr(work, "process"):
        await asyncio.sleep(0.001)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert work.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_cancelled_while_it_starts_it_is_killed_and_reaped(turns, monkeypatch):
    children, cancelled = [], threading.Event()
    original = subprocess.Popen

    def popen(*args, **kwargs):
        cancelled.wait(10)
        children.append(original(*args, **kwargs))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    starting = asyncio.create_task(open_process(["sleep", "100"], stdin=PIPE, stdout=PIPE))
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert children or not turns
    for child in children:
        assert child.returncode == -signal.SIGKILL
        assert child.stdin.closed
        assert not is_alive(child.pid)


class Children:
    """The processes of a run, and how many descriptors there were before."""

    def __init__(self):
        self.started, self.outputs = [], []
        self.descriptors = open_descriptors()


def open_descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def kill_later(process, turns=20):
    """When whoever waited for its output waits for its end."""
    if turns:
        asyncio.get_running_loop().call_soon(kill_later, process, turns - 1)
    else:
        process.kill()


async def talks(children):
    """Waits for a result before the process ends, and then for its end."""
    code = "cat; exec >&-; exec sleep 100"
    options = {"stdin": PIPE, "stdout": PIPE, "shell": True}
    async with await open_process(code, **options) as process:
        process.stdout.set_close_callback(lambda: kill_later(process))
        children.outputs.append(await process.communicate(b"x" * 100_000))


async def is_left(children):
    """The block's end has the process end, which has to be waited for."""
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        await process.stdin.write(b"x")
        children.outputs.append((await process.stdout.read_bytes(1), None))


async def waits(children):
    async with await open_process(["sleep", "0.01"], stderr=PIPE) as process:
        await process.wait()


@pytest.mark.proof
@pytest.mark.parametrize("scenario", [talks, is_left, waits], ids=lambda f: f.__name__)
def test_cancelled_anywhere_no_process_is_left(scenario, monkeypatch):
    original, started = subprocess.Popen, []

    def popen(*args, **kwargs):
        started.append(original(*args, **kwargs))
        return started[-1]

    def check(children):
        for child in started:
            assert child.returncode is not None
            assert not is_alive(child.pid)
        started.clear()
        assert children.outputs in ([], [(b"x" * 100_000, None)], [(b"x", None)])
        assert open_descriptors() == children.descriptors

    monkeypatch.setattr(subprocess, "Popen", popen)
    done = cancel_everywhere(scenario, check, state=Children, real_wait=10)
    assert done.points >= 5


async def test_cancelled_again_while_it_starts():
    starting = asyncio.create_task(open_process(["sleep", "100"]))
    while not starting.done():
        await asyncio.sleep(0)
        starting.cancel()
    assert starting.cancelled()


async def test_what_cannot_be_started():
    with pytest.raises(FileNotFoundError):
        await open_process(["no such program"])
    with pytest.raises(TypeError, match="text is no option of open_process"):
        await open_process(["cat"], text=True)
    with pytest.raises(TypeError):
        await open_process(["cat"], nonsense=1)
    async with await open_process(["cat"], stdin=DEVNULL, stdout=PIPE) as process:
        with pytest.raises(ValueError, match="stdin is no stream"):
            await process.communicate(b"x")
        with pytest.raises(TypeError, match="data must be contiguous"):
            await process.communicate("text")


async def test_output_without_end_is_an_error():
    code = "import os\nwhile True: os.write(1, b'x' * 65536)"
    async with await open_process(python(code), stdout=PIPE) as process:
        process.stdout._max_buffer_size = 1_000_000
        with pytest.raises(StreamBufferFullError):
            await process.communicate()
        process.kill()


async def test_a_process_that_does_not_read_its_input():
    async with await open_process(["true"], stdin=PIPE) as process:
        assert await process.communicate(LARGE) == (None, None)
    async with await open_process(["true"], stdin=PIPE) as process:
        await process.wait()
        assert await process.communicate(b"x") == (None, None)


async def test_without_descriptors_of_processes_a_thread_waits(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert await process.communicate(b"x") == (b"x", None)
        assert await process.wait() == 0


def test_a_loop_that_ends_before_the_process():
    async def main():
        return await open_process(["sleep", "100"])

    process = asyncio.run(main())
    process.kill()
    assert process._child.wait() == -signal.SIGKILL


def test_windows_has_none(monkeypatch):
    async def main():
        with pytest.raises(NotImplementedError, match="Windows cannot watch pipes"):
            await open_process(["cmd"])

    monkeypatch.setattr("waterspout.iostream._process.sys.platform", "win32")
    coroutine = main()
    with pytest.raises(StopIteration):
        coroutine.send(None)
