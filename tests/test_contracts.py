"""A breach of the import contracts is noticed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import contracts  # noqa: E402


@pytest.fixture
def check(tmp_path):
    """Checks the contracts with a line added to one module of a copy of the packages."""
    installed = Path(importlib.util.find_spec("waterspout").submodule_search_locations[0])
    shutil.copytree(installed, tmp_path / "waterspout")
    (tmp_path / "contracts.ini").write_text(contracts.configuration())

    def check(module, line):
        with (tmp_path / "waterspout" / module).open("a") as file:
            file.write(f"\n{line}\n")
        return subprocess.run(
            ["lint-imports", "--no-cache", "--config", "contracts.ini"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": ""},
            capture_output=True,
            text=True,
        )

    return check


def test_they_hold(check):
    done = check("locks/_lock.py", "import asyncio")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("locks/_lock.py", "import waterspout.queues"),
        ("queues/_queue.py", "from waterspout.locks._lock import Lock"),
        ("locks/__init__.py", "from waterspout.ioloop import IOLoop"),
        ("iostream/_core.py", "from waterspout.ioloop._ioloop import IOLoop"),
        ("concurrent/_timeout.py", "import waterspout.ioloop._timers"),
        ("iostream/_core.py", "import waterspout.ioloop.testing"),
        ("iostream/testing/_link.py", "from waterspout.ioloop._ioloop import IOLoop"),
        ("locks/_lock.py", "from waterspout.ioloop.testing import simulate"),
        ("ioloop/_timers.py", "import waterspout.locks"),
        ("ioloop/scheduling/_waitqueue.py", "from waterspout.ioloop._ioloop import IOLoop"),
    ],
)
def test_a_breach_is_noticed(check, module, line):
    done = check(module, line)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
