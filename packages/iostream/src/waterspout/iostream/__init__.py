"""Byte streams over sockets, in which every byte is accounted for.

Rules:

1.  A read that is cancelled, timed out or fails leaves every byte for the next read.
2.  A write is sent whole, in order, also if its future is cancelled.
3.  A reader is told how a stream ended: in good order (`StreamClosedError.real_error` is `None`),
    or by which error.
4.  Memory is bounded: by `READ_AHEAD` without a read, by `max_buffer_size` with one, and by
    `max_write_buffer_size`.
5.  TLS verifies unless told otherwise.
"""

from waterspout.iostream._base import BaseIOStream, CloseCallback
from waterspout.iostream._connect import connect_tcp
from waterspout.iostream._core import READ_AHEAD
from waterspout.iostream._errors import (
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)
from waterspout.iostream._pipe import PipeIOStream
from waterspout.iostream._process import Process, open_process
from waterspout.iostream._reading import StreamCallback
from waterspout.iostream._serve import TCPServer, serve_tcp
from waterspout.iostream._server import StreamServer
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._unix import UnixServer, connect_unix, serve_unix

__all__ = [
    "READ_AHEAD",
    "BaseIOStream",
    "CloseCallback",
    "IOStream",
    "PipeIOStream",
    "Process",
    "SSLIOStream",
    "StreamBufferFullError",
    "StreamCallback",
    "StreamClosedError",
    "StreamServer",
    "TCPServer",
    "UnixServer",
    "UnsatisfiableReadError",
    "connect_tcp",
    "connect_unix",
    "open_process",
    "serve_tcp",
    "serve_unix",
]
