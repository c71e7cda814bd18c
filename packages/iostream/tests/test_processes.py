"""`open_process`: children, their streams, and their end."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.testing import cancel_everywhere
from waterspout.iostream import StreamBufferFullError, _child, open_process
from waterspout.iostream._offloop import EXITS, STARTS, DaemonExecutor

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


@pytest.fixture
def slow_popen(monkeypatch):
    """Starts that wait for `go`; with the processes that were started."""

    class Slow:
        def __init__(self):
            self.begun, self.go, self.children = threading.Event(), threading.Event(), []

        def popen(self, *args, **kwargs):
            self.begun.set()
            assert self.go.wait(10)
            self.children.append(original(*args, **kwargs))
            return self.children[-1]

    original, slow = subprocess.Popen, Slow()
    monkeypatch.setattr(subprocess, "Popen", slow.popen)
    yield slow
    slow.go.set()


async def has_begun(event):
    while not event.is_set():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_cancelled_while_it_starts_it_is_killed_and_reaped(turns, slow_popen):
    descriptors = open_descriptors()
    starting = asyncio.create_task(open_process(["sleep", "100"], stdin=PIPE, stdout=PIPE))
    await has_begun(slow_popen.begun)
    starting.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
        starting.cancel()  # again, while it waits for the start
    slow_popen.go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (child,) = slow_popen.children
    assert child.returncode == -signal.SIGKILL
    assert not is_alive(child.pid)
    assert open_descriptors() == descriptors


async def test_cancelled_while_a_start_that_fails_runs(slow_popen):
    descriptors = open_descriptors()
    starting = asyncio.create_task(open_process(["no such program"], stdout=PIPE))
    await has_begun(slow_popen.begun)
    starting.cancel()
    await asyncio.sleep(0)
    slow_popen.go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert open_descriptors() == descriptors


async def test_cancelled_when_it_has_started_it_is_killed_and_reaped(slow_popen, monkeypatch):
    """The process runs, and the task does not know it yet."""
    descriptors = open_descriptors()
    started, original = threading.Event(), _child.Start.run

    def run(start):
        child = original(start)
        started.set()
        return child

    monkeypatch.setattr(_child.Start, "run", run)
    starting = asyncio.create_task(open_process(["sleep", "100"], stdin=PIPE, stdout=PIPE))
    await has_begun(slow_popen.begun)
    slow_popen.go.set()
    assert started.wait(10)  # without a turn of the loop
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    (child,) = slow_popen.children
    assert child.returncode == -signal.SIGKILL
    assert open_descriptors() == descriptors


def no_thread(*args):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("stage", ["queued", "starting", "started"])
@pytest.mark.parametrize("threads", [True, False])
def test_a_loop_that_ends_while_a_process_starts_leaves_none(
    stage, threads, slow_popen, monkeypatch
):
    if not threads:  # none can be started to clear up in
        monkeypatch.setattr(EXITS, "submit", no_thread)
    executor = DaemonExecutor("starts", 1, 0.05)
    monkeypatch.setattr("waterspout.iostream._process.STARTS", executor)
    descriptors, gate = open_descriptors(), threading.Event()
    if stage == "queued":
        executor.submit(gate.wait, 10)
    loop = asyncio.new_event_loop()
    task = loop.create_task(open_process(["sleep", "100"], stdin=PIPE))
    loop.run_until_complete(asyncio.sleep(0))
    loop.call_soon(loop.stop)
    if stage != "queued":
        assert slow_popen.begun.wait(10)
    if stage == "started":
        slow_popen.go.set()
        assert executor.submit(lambda: True).result(10)
    coroutine = task.get_coro()
    loop.close()
    coroutine.close()
    task._log_destroy_pending = False
    slow_popen.go.set()
    gate.set()
    assert executor.submit(lambda: True).result(10)
    wait_until(lambda: open_descriptors() == descriptors)
    assert len(slow_popen.children) == (stage != "queued")
    wait_until(lambda: all(child.returncode is not None for child in slow_popen.children))
    assert all(child.returncode == -signal.SIGKILL for child in slow_popen.children)


async def test_cancelled_before_it_starts_it_returns_at_once_and_starts_nothing(monkeypatch):
    executor, gate, started = DaemonExecutor("starts", 1, 0.05), threading.Event(), []
    monkeypatch.setattr("waterspout.iostream._process.STARTS", executor)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(1))
    blocked = executor.submit(gate.wait, 10)
    starting = asyncio.create_task(open_process(["true"]))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not blocked.done()
    gate.set()
    assert executor.submit(lambda: True).result(10)
    assert started == []


async def test_a_start_that_was_abandoned_in_the_queue_starts_nothing():
    start = _child.Start(lambda: pytest.fail("it was started"))
    assert start.abandon() == (False, None)
    assert start.run() is None


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("way", ["busy", "processes"])
async def test_the_default_executor_is_left_alone(way):
    if way == "busy":
        pool, gate = futures.ThreadPoolExecutor(1), threading.Event()
        IOLoop.current().set_default_executor(pool)
        pool.submit(gate.wait)
        async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert await process.communicate(b"x") == (b"x", None)
        gate.set()
    else:
        pool = NoExecutor()
        IOLoop.current().set_default_executor(pool)
        async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert await process.communicate(b"x") == (b"x", None)
    pool.shutdown()


class NoExecutor(futures.Executor):
    def submit(self, *args, **kwargs):
        pytest.fail("it was used")


@pytest.mark.filterwarnings("ignore:.*preexec_fn:DeprecationWarning")
async def test_a_start_that_blocks_holds_up_no_other_start(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def block():
        os.close(os.open(fifo, os.O_RDONLY))

    blocked = asyncio.create_task(open_process(["true"], preexec_fn=block))
    others = [await open_process(["true"]) for _ in range(3)]
    assert [await other.wait() for other in others] == [0, 0, 0]
    assert not blocked.done()
    with fifo.open("wb"):
        pass
    async with await blocked as process:
        assert await process.wait() == 0


async def test_a_start_that_hangs_holds_up_no_other_start(slow_popen, monkeypatch):
    slow = subprocess.Popen
    blocked = asyncio.create_task(open_process(["true"]))
    await has_begun(slow_popen.begun)
    monkeypatch.undo()
    assert subprocess.Popen is not slow
    async with await open_process(["true"]) as process:
        assert await process.wait() == 0
    assert not blocked.done()
    slow_popen.go.set()
    async with await blocked as process:
        assert await process.wait() == 0


@pytest.mark.only_on("linux")
@pytest.mark.filterwarnings("ignore:.*preexec_fn:DeprecationWarning")
async def test_a_death_signal_does_not_come_while_the_program_lives(monkeypatch):
    import ctypes

    libc = ctypes.CDLL(None)
    # Threads of other executors end after a while; that of starts must not.
    ours = DaemonExecutor("starts", STARTS._max_workers, STARTS._idle_seconds)
    assert STARTS._idle_seconds is None
    monkeypatch.setattr("waterspout.iostream._process.STARTS", ours)

    def die_with_the_parent():
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)

    pool = futures.ThreadPoolExecutor(1)
    IOLoop.current().set_default_executor(pool)
    async with await open_process(["cat"], stdin=PIPE, preexec_fn=die_with_the_parent) as process:
        pool.shutdown()
        process.stdin.close()
        assert await process.wait() == 0


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
