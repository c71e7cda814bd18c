"""Tornado's own tests of its streams, from its wheel, run against ours."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("tornado")
sys.path.insert(0, str(Path(__file__).parent))

import tornado.test.iostream_test as tornado_tests
from adapted_streams import ours_for_tornados
from adapters import collect, replaced

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # the tests leave some open
    pytest.mark.slow,
]

CLASSES = ["TestIOStream", "TestIOStreamSSL", "TestIOStreamSSLContext"]
TLS = CLASSES[1:]
PIPE = "TestPipeIOStream"
NOT_FOLLOWED = {
    **dict.fromkeys(
        [f"TestIOStreamWeb{kind}.test_write_while_connecting" for kind in ("HTTP", "HTTPS")],
        "connect is a coroutine function, and its task resumes after the write is done",
    ),
    **dict.fromkeys(
        [f"{name}.test_gaierror" for name in CLASSES],
        "replaces the socket's connect; ours has the name looked up off the loop before",
    ),
    **dict.fromkeys(
        [f"{name}.test_read_until_close_with_error" for name in CLASSES],
        "replaces a private method of Tornado's class",
    ),
    **dict.fromkeys(
        [f"{name}.test_read_until_close_after_connection_reset" for name in CLASSES],
        "a reset is an error, since bytes may be missing; Tornado takes it for a clean end",
    ),
    **dict.fromkeys(
        [f"{name}.test_inline_read_error" for name in CLASSES],
        "closes the descriptor behind the stream's back",
    ),
    **dict.fromkeys(
        [f"{name}.test_read_into_resizable_after_close" for name in [*CLASSES, PIPE]],
        "looks into the memory before the read is done; ours fills it when it has all",
    ),
    **dict.fromkeys(
        [f"{name}.test_write_bytearray_resizable_after_error" for name in TLS],
        "a TLS stream that is closed goes on receiving for a while, to be told of the end; so "
        "what is written meanwhile is taken",
    ),
}
SKIPPED = {
    **dict.fromkeys(
        [f"{name}.test_async_read_error_logging" for name in CLASSES],
        "replaces read_from_fd by a function that takes no arguments, and asks for a log record",
    ),
    "WaitForHandshakeTest.test_wait_for_handshake_already_waiting_error": (
        "any number may wait for the handshake; the test gives up after five seconds"
    ),
    "TestStreamBuffer": "is about Tornado's private buffer",
}


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    with replaced(*ours_for_tornados()):
        yield


collect(tornado_tests, globals(), NOT_FOLLOWED, SKIPPED)
