"""No test depends on how the tests are started: `conftest.py` sets what a process inherits."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.only_on("linux", "darwin")


def test_what_this_process_inherited_is_set():
    umask = os.umask(0)
    os.umask(umask)
    assert umask == 0o022
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        assert signal.getsignal(signum) is signal.SIG_DFL
    assert len(tempfile.gettempdir()) < 40


def start_badly():
    """Be started as a background job with a strange past."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGINT})
    os.umask(0o077)
    os.close(0)


@pytest.mark.slow
def test_a_background_job_of_a_shell_runs_tests_all_the_same(tmp_path):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    test = f"{Path(__file__)}::{test_what_this_process_inherited_is_set.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", test],
        env={**os.environ, "TMPDIR": str(folder)},
        preexec_fn=start_badly,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
