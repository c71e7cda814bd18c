"""`open_process` when one of its steps fails, and exit statuses that are lost."""

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from subprocess import PIPE

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.scheduling import Reactor, current_scheduler
from waterspout.ioloop.testing import no_reference_cycles
from waterspout.iostream import PipeIOStream, StreamBufferFullError, _child, _process, open_process
from waterspout.iostream._offloop import EXITS, STARTS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows watches no pipes"),
    pytest.mark.slow,
]

SLEEP = ["sleep", "100"]
COMBINATIONS = [
    dict(zip(("stdin", "stdout", "stderr"), given, strict=True))
    for given in itertools.product((None, PIPE), repeat=3)
]


class Broken(Exception):
    """What a step raises."""


def descriptors():
    """What is open, besides what is used to look."""
    found = []
    for fd in range(1024):
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            found.append((fd, status.st_dev, status.st_ino, status.st_rdev))
    return found


@pytest.fixture
def children(monkeypatch):
    """The processes that were started."""
    started, original = [], subprocess.Popen

    def popen(*args, **kwargs):
        started.append(original(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return started


def nth_call_fails(original, number, error):
    """A function that fails when it is called for the nth time."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) == number:
            raise error
        return original(*args, **kwargs)

    return call


async def fails_and_leaves_nothing(children, error, options):
    before = descriptors()
    with pytest.raises(type(error)) as raised:
        await open_process(SLEEP, **options)
    assert raised.value is error
    assert descriptors() == before
    for child in children:
        assert child.returncode == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)
    children.clear()


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "none left"), Broken()], ids=str)
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "+".join(filter(o.get, o)) or "no")
async def test_when_a_stream_cannot_be_made_nothing_is_left(options, error, children, monkeypatch):
    for number in range(1, 1 + sum(given is not None for given in options.values())):
        failing = nth_call_fails(PipeIOStream, number, error)
        with monkeypatch.context() as patch:
            patch.setattr(_process, "PipeIOStream", failing)
            await fails_and_leaves_nothing(children, error, options)
        failing = nth_call_fails(os.pipe, number, error)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", failing)
            await fails_and_leaves_nothing(children, error, options)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no more"), Broken()], ids=str)
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "+".join(filter(o.get, o)) or "no")
@pytest.mark.parametrize("step", ["add_handler", "create_future", "pidfd_open"])
async def test_when_it_cannot_be_watched_nothing_is_left(
    step, options, error, children, monkeypatch
):
    def fail(*args):
        raise error

    if step == "pidfd_open":
        error = Broken()  # after an OSError, a thread waits
        monkeypatch.setattr(os, "pidfd_open", fail, raising=False)
    elif step == "add_handler":
        monkeypatch.setattr(current_scheduler(), "add_handler", fail)
    else:
        failing = nth_call_fails(current_scheduler().create_future, 2, error)
        monkeypatch.setattr(current_scheduler(), "create_future", failing)
    await fails_and_leaves_nothing(children, error, options)


async def test_cancelled_while_a_failure_is_cleared_away(children, monkeypatch):
    """However often, it is killed and reaped first."""
    killing, may_kill = threading.Event(), threading.Event()
    original = _child.Child.destroy

    def destroy(child):
        killing.set()
        assert may_kill.wait(10)
        original(child)

    def fail(*args):
        raise Broken

    monkeypatch.setattr(_child.Child, "destroy", destroy)
    monkeypatch.setattr(_process, "PipeIOStream", fail)
    starting = asyncio.create_task(open_process(SLEEP, stdin=PIPE))
    while not killing.is_set():
        await asyncio.sleep(0.001)
    for _ in range(3):
        starting.cancel()
        await asyncio.sleep(0)
    may_kill.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert children[0].returncode == -signal.SIGKILL


async def test_without_a_thread_to_kill_in_it_is_killed_all_the_same(children, monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    error = Broken()

    def fail(*args):
        raise error

    monkeypatch.setattr(EXITS, "submit", refuse)
    monkeypatch.setattr(_process, "PipeIOStream", fail)
    await fails_and_leaves_nothing(children, error, {"stdin": PIPE})


async def test_without_a_thread_to_start_in_nothing_is_started(children, monkeypatch):
    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(STARTS, "submit", refuse)
    with pytest.raises(RuntimeError, match="start new thread"):
        await open_process(SLEEP)
    assert children == []


PROGRAM = """
    import asyncio, gc, os, resource, signal, subprocess, sys, warnings
    import uvloop
    from waterspout.iostream import open_process
    warnings.simplefilter("error")
    hooked = []
    sys.unraisablehook = hooked.append

    async def main():
        async with await open_process(["true"]):
            pass  # threads, modules and the loop's descriptors are there
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        outcomes = set()
        for free in range(18):
            before = sorted(os.listdir("/proc/self/fd"))
            top = len(before) - 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + free, hard))
            process = None
            try:
                process = await open_process(["sleep", "1000"], stdin=-1, stdout=-1, stderr=-1)
            except OSError as error:
                outcomes.add(error.errno)
            else:
                outcomes.add(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if process is not None:
                async with process:
                    process.kill()
            del process
            gc.collect()
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
            else:
                sys.exit(f"a child was left with {free} free descriptors")
            if sorted(os.listdir("/proc/self/fd")) != before:
                sys.exit(f"descriptors were left with {free} free ones")
        if hooked or outcomes != {0, 24}:
            sys.exit(f"{hooked} {outcomes}")

    with asyncio.Runner(loop_factory=LOOP) as runner:
        runner.run(main())
"""


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("loop", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_with_any_number_of_free_descriptors_it_is_all_or_nothing(loop):
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).replace("LOOP", loop)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The end


@pytest.fixture(params=["pidfd", "thread", "waitpid"])
def way(request, monkeypatch):
    """How the end of a process is waited for."""
    if request.param == "pidfd":
        if not hasattr(os, "pidfd_open"):
            pytest.skip("only on Linux")
        return request.param
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    if request.param == "waitpid":
        monkeypatch.setattr(_child, "_HAS_WAITID", False)
    return request.param


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("exit 255", 255)]
)
async def test_the_exit_status(way, command, code):
    async with await open_process(["sh", "-c", command]) as process:
        assert await process.wait(10) == code
        process.kill()  # does nothing any more
    assert process.returncode == code


@pytest.mark.only_on("linux")
async def test_an_exit_status_that_another_has_taken_is_unknown(caplog):
    async with await open_process(["sh", "-c", "read line; exit 3"], stdin=PIPE) as process:
        process.stdin.close()
        reap(process.pid)
        assert await process.wait(10) == 255
    assert process.returncode == 255
    assert is_unknown(caplog, process.pid)


def reap(pid):
    assert os.waitpid(pid, 0)[0] == pid


def is_unknown(caplog, pid):
    """Whether it was logged that an exit status is."""
    records = [record for record in caplog.records if record.name == "waterspout.iostream"]
    messages = [record.getMessage() for record in records]
    caplog.clear()
    return len(messages) == 1 and messages[0].startswith(f"process {pid}: its exit status is unkn")


@pytest.fixture
def ignored_children():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_with_sigchld_ignored_it_is_unknown(way, caplog, ignored_children):
    async def main():
        async with await open_process(["sh", "-c", "exit 3"], stdout=PIPE) as process:
            assert await process.communicate() == (b"", None)
            return process.pid, await process.wait(10)

    pid, code = asyncio.run(main())
    assert code == 255
    assert is_unknown(caplog, pid)


async def test_a_process_that_was_reaped_is_not_signalled(way, caplog, monkeypatch):
    """Its number may be another's by now: here it is one of a process that must not die."""
    async with await open_process(["cat"], stdin=PIPE) as other:
        process = await open_process(["true"])
        if way != "pidfd":
            await process.wait()
        else:
            reap(process.pid)  # and the loop does not know it yet
        process._child.pid = other.pid
        for signum in (signal.SIGTERM, signal.SIGKILL):
            process.send_signal(signum)
        await process.wait(10)
        if way == "pidfd":
            assert is_unknown(caplog, other.pid)
        await other.stdin.write_eof()
        assert await other.wait(10) == 0


@pytest.mark.only_on("linux")
async def test_without_a_pidfd_only_a_child_is_signalled(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    command = ["sh", "-c", "sleep 100 & echo $!; wait $!"]
    async with await open_process(command, stdout=PIPE) as shell:
        grandchild = int(await shell.stdout.read_until(b"\n"))
        async with await open_process(["cat"], stdin=PIPE) as process:
            with monkeypatch.context() as patch:
                patch.setattr(process._child, "pid", grandchild)
                process.kill()  # it is no child of ours
            process.stdin.close()
            assert await process.wait(10) == 0
        os.kill(grandchild, signal.SIGTERM)
        assert await shell.wait(10) == 128 + signal.SIGTERM


async def test_a_pidfd_of_a_stranger_is_not_used(monkeypatch):
    """The process was reaped, and its number given away, before it had a pidfd."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("only on Linux")
    original, before = os.pidfd_open, descriptors()
    monkeypatch.setattr(os, "pidfd_open", lambda pid: original(os.getppid()))
    async with await open_process(["cat"], stdin=PIPE) as process:
        assert process._child.pidfd == -1
        process.kill()
        assert await process.wait(10) == -signal.SIGKILL
    assert descriptors() == before


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOSYS, errno.EPERM])
async def test_where_there_is_no_pidfd_a_thread_waits(error, monkeypatch):
    def fail(pid):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", fail, raising=False)
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert await process.communicate(b"x") == (b"x", None)
        assert process.returncode == 0


@pytest.mark.only_on("linux")
async def test_what_a_debugger_has_to_reap_first_is_waited_for_by_a_thread(monkeypatch):
    """The pidfd is readable, and there is no status yet."""
    original, answers = os.waitid, [None]

    def waitid(kind, number, flags):
        if flags == os.WEXITED | os.WNOHANG and answers:
            return answers.pop()
        return original(kind, number, flags)

    monkeypatch.setattr(os, "waitid", waitid)
    async with await open_process(["sh", "-c", "exit 7"]) as process:
        assert await process.wait(10) == 7
    assert answers == []


async def test_a_process_that_may_not_be_killed_is_left(way, monkeypatch, caplog):
    """As one that has changed its user has to be."""

    def refuse(*args):
        raise PermissionError(errno.EPERM, "not yours")

    with pytest.raises(ZeroDivisionError):
        async with await open_process(["sleep", "60"], stdin=PIPE, stdout=PIPE) as process:
            with monkeypatch.context() as patch:
                patch.setattr(signal, "pidfd_send_signal", refuse, raising=False)
                patch.setattr(os, "kill", refuse)
                for send in (process.kill, process.terminate, lambda: process.send_signal(1)):
                    with pytest.raises(PermissionError):
                        send()
                caplog.clear()
                patch.setattr(process._child, "kill", process._child.kill)
                try:
                    raise ZeroDivisionError
                finally:
                    await process.__aexit__(*sys.exc_info())
                    assert process.stdin.closed()
                    assert process.stdout.closed()
                    assert f"process {process.pid} may not be killed" in caplog.text
                    caplog.clear()
    assert process.returncode == -signal.SIGKILL  # by the end of the block


async def test_a_start_that_is_cancelled_waits_for_none_that_may_not_be_killed(
    children, monkeypatch, caplog
):
    def refuse(*args):
        raise PermissionError(errno.EPERM, "not yours")

    def fail(*args):
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", refuse, raising=False)
        patch.setattr(os, "kill", refuse)
        patch.setattr(_process, "PipeIOStream", fail)
        with pytest.raises(Broken):
            await open_process(SLEEP, stdin=PIPE)
    assert "may not be killed" in caplog.text
    caplog.clear()
    os.kill(children[0].pid, signal.SIGKILL)
    while children[0].returncode is None:
        await asyncio.sleep(0.001)
    assert children[0].returncode == -signal.SIGKILL


async def wait_for(pid):
    return await IOLoop.current().run_in_executor(EXITS, lambda: os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
async def test_a_forked_child_does_not_kill_its_parents_process(way):
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        child = os.fork()
        if child == 0:
            try:
                process.kill()
                process.send_signal(signal.SIGTERM)
                leaving = process.__aexit__(ValueError, ValueError(), None)
                try:
                    leaving.send(None)
                except StopIteration:
                    os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(await wait_for(child)) == 7
        assert await process.communicate(b"x") == (b"x", None)
        assert process.returncode == 0


def test_a_loop_that_ends_before_the_process_leaves_no_descriptor(way):
    async def main():
        return await open_process(SLEEP, stdout=PIPE)

    asyncio.run(open_and_end())  # modules and threads are there then
    gc.collect()
    before = descriptors()
    process = asyncio.run(main())
    process.stdout.close()
    process.kill()
    assert process._child.wait() == -signal.SIGKILL
    del process
    gc.collect()
    assert descriptors() == before


async def open_and_end():
    async with await open_process(["true"]):
        pass


@pytest.mark.only_on("linux")
def test_what_is_dropped_with_its_loop_is_warned_of():
    async def main():
        await open_process(["cat"], stdin=PIPE, stdout=PIPE)

    def drop():
        asyncio.run(main())
        gc.collect()

    asyncio.run(open_and_end())
    gc.collect()
    before = descriptors()
    with pytest.warns(ResourceWarning) as warned:
        drop()
    texts = sorted(str(one.message) for one in warned)
    assert [text.split(" ")[0] for text in texts] == ["subprocess", "unclosed", "unclosed"]
    del warned  # it refers to the streams, and they to their loop
    gc.collect()
    assert descriptors() == before


# Talking


async def test_a_read_of_ones_own_refuses_communicate_and_nothing_changes():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        reading = process.stdout.read_bytes(1)
        with pytest.raises(RuntimeError, match="another read of an output is pending"):
            await process.communicate(b"lost")
        await process.stdin.write(b"x")
        assert await reading == b"x"
        assert await process.communicate(b"y") == (b"y", None)


async def test_after_too_much_output_communicate_raises_again():
    code = "while True: print('x' * 65536)"
    command = [sys.executable, "-S", "-c", code]
    async with await open_process(command, stdout=PIPE, stderr=PIPE) as process:
        process.stdout._max_buffer_size = 100_000
        for _ in range(2):
            with pytest.raises(StreamBufferFullError):
                await process.communicate()
        process.kill()
        assert len(await process.stdout.read_bytes(1000)) == 1000


# Cycles


async def test_failures_leave_no_reference_cycles(monkeypatch):
    def fail(*args):
        raise Broken

    async def failing(expected, *args, **options):
        try:
            async with await open_process(*args, **options):
                pass
        except expected:
            pass

    async def scenarios():
        await failing(FileNotFoundError, ["no such program"], stdin=PIPE, stdout=PIPE)
        with monkeypatch.context() as patch:
            patch.setattr(_process, "PipeIOStream", fail)
            await failing(Broken, SLEEP, stdin=PIPE)
        with monkeypatch.context() as patch:
            patch.setattr(current_scheduler(), "add_handler", fail)
            await failing(Broken, SLEEP, stdin=PIPE)
        starting = asyncio.ensure_future(open_process(SLEEP, stdin=PIPE))
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
            try:
                await process.wait(0.001)
            except TimeoutError:
                pass
            try:
                await process.communicate(b"x", 0)
            except TimeoutError:
                pass
            await process.communicate()

    assert isinstance(current_scheduler(), Reactor)
    await scenarios()
    with no_reference_cycles():
        await scenarios()
        await asyncio.sleep(0)
    assert IOLoop.current() is not None
