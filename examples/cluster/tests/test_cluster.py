"""The same words from every executor; and what happens when one dies."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TREE = Path(__file__).parents[3] / "packages"


def words_by(*options):
    """What the command prints for the project's own sources."""
    command = [sys.executable, "-m", "waterspout_cluster", str(TREE), "--pattern", "*.py"]
    done = subprocess.run(
        [*command, "--json", "--workers", "2", *options],
        check=True,
        stdout=subprocess.PIPE,
        timeout=120,
    )
    return Counter(json.loads(done.stdout))


@pytest.fixture(scope="module")
def expected():
    words = Counter()
    for path in filter(Path.is_file, TREE.rglob("*.py")):
        words.update(re.findall(r"\w+", path.read_text("utf-8")))
    assert words["waterspout"] > 100
    return words


@pytest.mark.parametrize("where", ["threads", "processes", "interpreters", "dask"])
def test_every_executor_gives_the_same_answer(where, expected):
    if where == "interpreters" and sys.version_info < (3, 14):
        pytest.skip("pools of interpreters came with Python 3.14")
    if where == "dask":
        pytest.importorskip("distributed")
    assert words_by(*([] if where == "threads" else [f"--{where}"])) == expected


def test_a_table_for_people(tmp_path):
    (tmp_path / "file").write_text("one two two")
    command = [sys.executable, "-m", "waterspout_cluster", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "3 words in 1 files" in " ".join(done.stdout.split())
    assert re.search(r"two\W+2", done.stdout)
    failed = subprocess.run([*command[:-1], "no such folder"], capture_output=True, timeout=60)
    assert failed.returncode == 2


WORKER = """
import asyncio, concurrent.futures, multiprocessing, os, time
from waterspout.concurrent import run_on_executor, with_timeout

class Worker:
    def __init__(self, executor):
        self.executor = executor
    def __reduce__(self):
        return Worker, (None,)
    @run_on_executor
    def pid(self):
        return os.getpid()
    @run_on_executor
    def wait(self, seconds):
        time.sleep(seconds)
    @run_on_executor
    def die(self):
        os._exit(1)

async def dies(worker):
    try:
        await with_timeout(60, worker.die())
    except Exception as error:
        return type(error).__name__
"""

PROCESSES = """
async def main():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        worker = Worker(pool)
        assert await worker.pid() != os.getpid()
        assert await dies(worker) == "BrokenProcessPool"

if __name__ == "__main__":
    asyncio.run(main())
    print("all is well")
"""

DASK = """
import dask, distributed

async def main(executor):
    worker = Worker(executor)
    assert await worker.pid() != os.getpid()
    busy = [worker.wait(1) for _ in range(2)]
    begun = time.monotonic()
    waiting = worker.wait(60)  # both workers are at work, so it has not started
    try:
        await with_timeout(0.1, waiting)
    except TimeoutError:
        assert waiting.cancelled()
    await asyncio.gather(*busy)
    assert time.monotonic() - begun < 30
    assert await dies(worker) == "KilledWorker"
    assert await worker.pid() != os.getpid()

if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster, distributed.Client(cluster) as client:
        asyncio.run(main(client.get_executor(pure=False, retries=0)))
    print("all is well")
"""


@pytest.mark.parametrize("script", [PROCESSES, DASK], ids=["processes", "dask"])
def test_a_worker_that_dies_is_an_error_and_no_hang(script, tmp_path):
    """And, on the cluster, work that has not started is cancelled."""
    if script is DASK:
        pytest.importorskip("distributed")
    path = tmp_path / "script.py"
    path.write_text(WORKER + script)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=50, cwd=tmp_path
    )
    assert "all is well" in done.stdout, done.stderr
