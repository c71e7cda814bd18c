"""Tornado's own tests of what it builds on streams and loop, from its wheel, run on ours.

Its HTTP, web sockets, TCP and processes stay Tornado's; no stream and no loop beneath them is.
"""

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("tornado")
sys.path.insert(0, str(Path(__file__).parent))

from adapted_streams import ours_for_tornados
from adapters import collect, replaced

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # the tests leave some open
    pytest.mark.slow,
]

MODULES = [
    "auth",
    "concurrent",
    "gen",
    "http1connection",
    "httpclient",
    "httpserver",
    "netutil",
    "process",
    "routing",
    "security_corpus",
    "simple_httpclient",
    "tcpclient",
    "tcpserver",
    "testing",
    "web",
    "websocket",
    "wsgi",
]
NOT_FOLLOWED = {
    "gen": {
        "RunnerGCTest.test_gc_infinite_async_await": (
            "a loop that is closed cancels the tasks that are left, so none is destroyed pending"
        ),
    },
}
SKIPPED = {
    "tcpserver": {
        "TestMultiprocess": "runs Tornado in other processes",
    },
}


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    with replaced(*ours_for_tornados()):
        yield


for module in MODULES:
    classes = {}
    tornado_tests = importlib.import_module(f"tornado.test.{module}_test")
    collect(tornado_tests, classes, NOT_FOLLOWED.get(module, {}), SKIPPED.get(module, {}))
    # Two of them may have a class of the same name.
    globals().update({f"{module}_{name}": cls for name, cls in classes.items()})
