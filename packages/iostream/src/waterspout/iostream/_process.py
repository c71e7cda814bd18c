"""`open_process`: a child process whose standard streams are `PipeIOStream`s."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from signal import Signals
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

from waterspout.ioloop.scheduling import (
    READ,
    Reactor,
    Timeout,
    current_scheduler,
    time_limit,
    timeout_seconds,
)
from waterspout.iostream._checks import bytes_view
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._pipe import PipeIOStream

Command: TypeAlias = str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]
Redirection: TypeAlias = int | IO[Any] | None

_OURS = {"bufsize", "close_fds", "encoding", "errors", "pipesize", "text", "universal_newlines"}
"""Arguments of `subprocess.Popen` that would come between the process and its streams."""


async def open_process(
    command: Command,
    *,
    stdin: Redirection = None,
    stdout: Redirection = None,
    stderr: Redirection = None,
    **options: Any,
) -> Process:
    r"""Start a process::

        async with await open_process(["sort"], stdin=PIPE, stdout=PIPE) as process:
            output, _ = await process.communicate(b"b\na\n")

    Cancelled, at any moment, it kills the process if that has started, and reaps it.

    Args:
        command: A program and its arguments; with `shell=True`, a line for the shell.
        stdin: `subprocess.PIPE` for a stream to write to, `DEVNULL`, a file or descriptor, or
            `None` for ours.
        stdout: The same, for a stream to read from.
        stderr: The same; or `subprocess.STDOUT`.
        **options: What else `subprocess.Popen` takes, such as `cwd`, `env` and `shell`; but its
            streams are bytes.

    Returns:
        The process, running.

    Raises:
        TypeError: If an option is of no use here, or unknown.
        OSError: If it cannot be started, such as `FileNotFoundError`.
        RuntimeError: If the running loop has no `Reactor`.
        NotImplementedError: On Windows, whose pipes cannot be watched.
    """
    if sys.platform == "win32":
        raise NotImplementedError("open_process: Windows cannot watch pipes")
    for name in _OURS & options.keys():
        raise TypeError(f"{name} is no option of open_process: streams are of bytes")
    reactor = current_scheduler()
    if not isinstance(reactor, Reactor):
        raise RuntimeError(f"the running loop's {reactor!r} is no Reactor")

    def start() -> subprocess.Popen[bytes]:
        child: Any = subprocess.Popen(  # noqa: S603 (that is what this is for)
            command, bufsize=0, stdin=stdin, stdout=stdout, stderr=stderr, text=False, **options
        )
        given: subprocess.Popen[bytes] = child
        return given

    starting = reactor.run_in_executor(None, start)
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        try:
            await _done_with(starting)
        finally:
            _end_unwanted(starting)
        raise
    return Process(child, reactor)


class Process:
    """A child process; what `open_process` returns.

    As an async context manager it closes `stdin` at the end and waits for the process; if the block
    raises or is cancelled, it kills the process first. Either way it is reaped, and the streams are
    closed.

    Attributes:
        pid: Its number.
        args: What was started.
        stdin: A stream to write to, if it was to be one.
        stdout: A stream to read from, if it was to be one.
        stderr: A stream to read from, if it was to be one.
    """

    def __init__(self, child: "subprocess.Popen[bytes]", reactor: Reactor) -> None:
        self._child = child
        self._reactor = reactor
        self.pid: int = child.pid
        self.args: Any = child.args
        self.stdin: PipeIOStream | None = _stream_over(child.stdin, reactor)
        self.stdout: PipeIOStream | None = _stream_over(child.stdout, reactor)
        self.stderr: PipeIOStream | None = _stream_over(child.stderr, reactor)
        self._outputs: tuple[asyncio.Future[bytes] | None, ...] | None = None
        self._exited: asyncio.Future[None] = reactor.create_future()
        self._watch_exit()

    def __repr__(self) -> str:
        code = self.returncode
        state = "running" if code is None else f"returncode={code}"
        return f"<{type(self).__name__} pid={self.pid} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            if self.stdin is not None and not self.stdin.closed():
                if exc_type is None:
                    with contextlib.suppress(StreamClosedError):
                        await self.stdin.write_eof()
                self.stdin.close()
            if exc_type is None:
                await self.wait()
        finally:
            self.kill()
            await _done_with(self._exited)
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()

    @property
    def returncode(self) -> int | None:
        """How it ended: a status, or minus the number of a signal; `None` while it runs."""
        return self._child.returncode

    async def wait(self, timeout: Timeout = None) -> int:
        """Wait for its end. Cancelling it changes nothing.

        Its end does not wait for bytes to be read: a process that writes more than a pipe holds
        waits for its reader. `communicate` reads.

        Args:
            timeout: Seconds from now, or a `timedelta`.

        Returns:
            How it ended; see `returncode`.

        Raises:
            TimeoutError: If it still runs when time is up.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        with time_limit(timeout_seconds(timeout)):
            await asyncio.shield(self._exited)
        code = self.returncode
        assert code is not None
        return code

    async def communicate(
        self, data: "bytes | bytearray | memoryview | None" = None, timeout: Timeout = None
    ) -> tuple[bytes | None, bytes | None]:
        """Give the process its input, read what it writes to its end, and wait for that.

        All at once, so that neither side waits for the other for ever. Cancelled or timed out, at
        any moment, it loses nothing: called again, without data, it goes on.

        Args:
            data: What to write to `stdin`, which is then closed.
            timeout: Seconds from now, or a `timedelta`.

        Returns:
            What came out of `stdout` and `stderr`; `None` for what is no stream.

        Raises:
            TimeoutError: If it takes longer.
            ValueError: If there is data and `stdin` is no stream, or was given some before.
            StreamBufferFullError: If more comes out than a stream's `max_buffer_size`.
            TypeError: If an argument is of the wrong kind.
        """
        seconds = timeout_seconds(timeout)
        view = None if data is None else bytes_view("data", data)
        if view is not None and (self.stdin is None or self._outputs is not None):
            raise ValueError("data must be None: stdin is no stream, or was given its data before")
        if self._outputs is None:
            self._outputs = tuple(
                None if stream is None else stream.read_until_close()
                for stream in (self.stdout, self.stderr)
            )
            self._give_input(view)
        pending = [output for output in self._outputs if output is not None]
        with time_limit(seconds):
            if pending:
                await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            for one in pending:
                if one.done() and one.exception() is not None:
                    one.result()  # nobody reads on, so the process may never end
            await self.wait()
        output, errors = (None if one is None else one.result() for one in self._outputs)
        return output, errors

    def _give_input(self, view: memoryview | None) -> None:
        stdin = self.stdin
        if stdin is not None and not stdin.closed():
            # A process need not read its input to the end.
            with contextlib.suppress(StreamClosedError):
                if view is not None:
                    stdin.write(view)
                stdin.write_eof()

    def send_signal(self, signal: "int | Signals") -> None:
        """Send a signal, if it still runs."""
        self._child.send_signal(signal)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), if it still runs."""
        self._child.terminate()

    def kill(self) -> None:
        """End it (SIGKILL), if it still runs."""
        self._child.kill()

    def _watch_exit(self) -> None:
        """Reap it when it ends, and tell."""
        try:
            watched = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or an old one
            waiting = self._reactor.run_in_executor(None, self._child.wait)
            waiting.add_done_callback(lambda _: self._exited.set_result(None))
            return
        # If the loop ends before the process, nobody else closes it.
        release = weakref.finalize(self, os.close, watched)

        def on_events(_: object, events: int) -> None:
            self._reactor.remove_handler(watched)
            release()
            self._child.wait()  # at once: it has ended
            self._exited.set_result(None)

        self._reactor.add_handler(watched, on_events, READ)


def _stream_over(pipe: IO[bytes] | None, reactor: Reactor) -> PipeIOStream | None:
    """A stream that takes the descriptor of a file object away from it."""
    if pipe is None:
        return None
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return PipeIOStream(descriptor, reactor)


def _end_unwanted(starting: "asyncio.Future[subprocess.Popen[bytes]]") -> None:
    """Kill and reap a process for which nobody waits any more."""
    if starting.cancelled() or starting.exception() is not None:
        return
    child = starting.result()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    child.kill()
    child.wait()


async def _done_with(future: "asyncio.Future[Any]") -> None:
    """Wait for what takes no time, however often the task is cancelled; that is raised at last."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
