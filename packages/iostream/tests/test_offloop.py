"""`DaemonExecutor`, in which the package's own blocking work runs."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from waterspout.ioloop.scheduling import current_scheduler
from waterspout.iostream._offloop import DaemonExecutor


def threads_named(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_a_job_runs_in_a_daemon_thread_and_gives_its_result():
    executor = DaemonExecutor("some-threads", 2, 0.05)
    thread = await current_scheduler().run_in_executor(executor, threading.current_thread)
    assert thread.name == "some-threads"
    assert thread.daemon


async def test_a_jobs_exception_arrives():
    executor = DaemonExecutor("failing", 2, 0.05)
    with pytest.raises(ZeroDivisionError):
        await current_scheduler().run_in_executor(executor, lambda: 1 / 0)


def test_jobs_beyond_the_limit_wait_in_order():
    executor = DaemonExecutor("limited", 2, 0.05)
    gate, order = threading.Event(), []
    blocked = [executor.submit(gate.wait, 10) for _ in range(2)]
    later = [executor.submit(order.append, number) for number in range(5)]
    assert len(threads_named("limited")) == 2
    assert order == []
    gate.set()
    for future in (*blocked, *later):
        future.result(10)
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_without_a_limit_no_job_waits_for_another():
    executor = DaemonExecutor("unlimited", None, 0.05)
    barrier = threading.Barrier(40)
    for future in [executor.submit(barrier.wait, 10) for _ in range(40)]:
        future.result(10)


def test_an_idle_thread_is_used_again_and_ends_after_its_time():
    executor = DaemonExecutor("idle", 4, 0.05)
    first = executor.submit(threading.current_thread).result(10)
    assert executor.submit(threading.current_thread).result(10) is first
    first.join(10)
    assert not first.is_alive()
    assert executor.submit(abs, -1).result(10) == 1


def test_a_cancelled_job_that_waits_is_not_run():
    executor = DaemonExecutor("cancelled", 1, 0.05)
    gate, ran = threading.Event(), []
    blocked = executor.submit(gate.wait, 10)
    dropped = executor.submit(ran.append, 1)
    assert dropped.cancel()
    last = executor.submit(abs, -1)
    gate.set()
    assert blocked.result(10)
    assert last.result(10) == 1
    assert ran == []


def test_a_result_is_not_kept_by_the_idle_thread():
    import gc
    import weakref

    class Result:
        pass

    executor = DaemonExecutor("forgetful", 1, 5)
    watched = weakref.ref(executor.submit(Result).result(10))
    executor.submit(abs, -1).result(10)
    gc.collect()
    assert watched() is None


@pytest.mark.slow
def test_a_job_that_never_ends_does_not_keep_the_program_from_exiting():
    program = (
        "import threading\n"
        "from waterspout.iostream._offloop import DaemonExecutor\n"
        "DaemonExecutor('stuck', 1).submit(threading.Event().wait)\n"
        "print('over')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "over", "")


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    executor = DaemonExecutor("forked", 1, 5)
    gate = threading.Event()
    blocked = executor.submit(gate.wait, 10)
    child = os.fork()
    if child == 0:
        os._exit(executor.submit(abs, -7).result(10))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gate.set()
    assert blocked.result(10)


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_no_job(monkeypatch):
    executor = DaemonExecutor("refused", 1, 0.05)
    ran = []

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            executor.submit(ran.append, 1)
    assert executor.submit(abs, -1).result(10) == 1
    assert ran == []


async def test_many_at_once_from_a_loop():
    executor = DaemonExecutor("many", 3, 0.05)
    scheduler = current_scheduler()
    results = await asyncio.gather(
        *(scheduler.run_in_executor(executor, abs, -number) for number in range(100))
    )
    assert results == list(range(100))
