"""`open_process`: a child process whose standard streams are `PipeIOStream`s."""

from __future__ import annotations

import asyncio
import contextlib
import signal as _signal
import sys
from collections.abc import Iterable
from functools import partial
from signal import Signals
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling import (
    READ,
    Reactor,
    Timeout,
    current_scheduler,
    time_limit,
    timeout_seconds,
)
from waterspout.iostream._checks import bytes_view
from waterspout.iostream._child import (
    Child,
    Command,
    Redirection,
    Start,
    destroy_later,
    start_child,
)
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._offloop import EXITS, STARTS
from waterspout.iostream._pipe import PipeIOStream

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

    The process is started in a thread of the package's own, which lives as long as this process: a
    death signal (`PR_SET_PDEATHSIG`) comes when this process ends, and not before. No job of the
    loop's default executor is waited for.

    Cancelled before the start has begun, it starts nothing. Cancelled later, it waits until the
    start is over, kills the process and reaps it. If it raises, no process and no descriptor is
    left.

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
        OSError: If it cannot be started, such as `FileNotFoundError`, or its streams cannot be
            made, such as for want of descriptors.
        ValueError: If `subprocess.Popen` refuses an option.
        subprocess.SubprocessError: If `preexec_fn` raises.
        RuntimeError: If the running loop has no `Reactor`, or no thread can be started.
        NotImplementedError: On Windows, whose pipes cannot be watched.
    """
    if sys.platform == "win32":
        raise NotImplementedError("open_process: Windows cannot watch pipes")
    for name in _OURS & options.keys():
        raise TypeError(f"{name} is no option of open_process: streams are of bytes")
    reactor = current_scheduler()
    if not isinstance(reactor, Reactor):
        raise RuntimeError(f"the running loop's {reactor!r} is no Reactor")
    child = await _start(reactor, partial(start_child, command, (stdin, stdout, stderr), options))
    try:
        return Process(child, reactor)
    except BaseException:
        await _destroy(reactor, child)
        raise


async def _start(reactor: Reactor, start_it: "partial[Child]") -> Child:
    """Start a child in a thread, and leave none behind if that fails or is cancelled."""
    start = Start(start_it)
    starting = reactor.run_in_executor(STARTS, start.run)
    # A future of its own is always waited for: that of the executor may be done at once.
    started: asyncio.Future[None] = reactor.create_future()
    starting.add_done_callback(partial(_resolve, started))
    try:
        await started
    except BaseException as error:
        begun, child = start.abandon()
        if isinstance(error, GeneratorExit):  # nothing can be awaited any more
            if child is not None:
                destroy_later(child)
        elif child is not None:
            await _destroy(reactor, child)
        elif begun:
            await _until_done(starting)
        else:
            starting.cancel()
        raise
    try:
        result = starting.result()
    finally:
        del starting  # its exception refers to this frame
    assert result is not None, "it was not abandoned"
    return result


def _resolve(waiting: "asyncio.Future[None]", done: "asyncio.Future[Any]") -> None:
    """Note that a future is done, however it ended."""
    if not done.cancelled():
        done.exception()
    if not waiting.done():
        waiting.set_result(None)


async def _destroy(reactor: Reactor, child: Child) -> None:
    """Kill a child and reap it, off the loop."""
    try:
        destroying = reactor.run_in_executor(EXITS, child.destroy)
    except RuntimeError:  # no thread can be started
        child.destroy()
    else:
        await _until_done(destroying)


class Process:
    """A child process; what `open_process` returns.

    As an async context manager it closes `stdin` at the end and waits for the process; if the block
    raises or is cancelled, it kills the process first. Either way it is reaped, and the streams are
    closed.

    Attributes:
        stdin: A stream to write to, if it was to be one.
        stdout: A stream to read from, if it was to be one.
        stderr: A stream to read from, if it was to be one.
    """

    def __init__(self, child: Child, reactor: Reactor) -> None:
        self._child = child
        self._reactor = reactor
        self._has_input = False  # whether communicate() has given it its input
        self._outputs: list[asyncio.Future[bytes] | None] = [None, None]
        self._exited: asyncio.Future[None] = reactor.create_future()
        streams: list[PipeIOStream | None] = []
        try:
            for index, fd in enumerate(child.pipes):
                streams.append(None if fd < 0 else PipeIOStream(fd, reactor))
                child.pipes[index] = -1
            self._watch_exit()
        except BaseException:
            _close(streams)
            raise
        self.stdin: PipeIOStream | None = streams[0]
        self.stdout: PipeIOStream | None = streams[1]
        self.stderr: PipeIOStream | None = streams[2]

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
            try:
                if self._child.is_ours() and self._child.kill():
                    await _until_done(self._exited)
            finally:
                _close((self.stdin, self.stdout, self.stderr))

    @property
    def pid(self) -> int:
        """The process's number, also after its end."""
        return self._child.pid

    @property
    def args(self) -> Any:
        """The command, as it was given to `open_process`."""
        return self._child.popen.args

    @property
    def returncode(self) -> int | None:
        """Exit status; the negative signal number if killed by a signal; `None` while running.

        255 if the status is unknown, because other code has reaped the process or SIGCHLD is
        ignored. A warning is then logged to `waterspout.iostream`.
        """
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
            ValueError: If there is data and `stdin` is no stream, or was given some before; if
                `timeout` is NaN, or a number of more than ten years.
            StreamBufferFullError: If more comes out than a stream's `max_buffer_size`.
            StreamClosedError: If `stdout` or `stderr` was closed on this side.
            RuntimeError: If another read of `stdout` or `stderr` is pending, or there is data and
                `stdin` is ended or is sending a file.
            TypeError: If an argument is of the wrong kind.
        """
        seconds = timeout_seconds(timeout)
        view = None if data is None else bytes_view("data", data)
        if view is not None and (self.stdin is None or self._has_input):
            raise ValueError("data must be None: stdin is no stream, or was given its data before")
        self._check_can_read()
        if not self._has_input:
            self._give_input(view)
            self._has_input = True
        with time_limit(seconds):
            await self._read_outputs()
            await self.wait()
        output, errors = (None if one is None else one.result() for one in self._outputs)
        return output, errors

    def _check_can_read(self) -> None:
        for stream, output in zip((self.stdout, self.stderr), self._outputs, strict=True):
            if stream is not None and output is None and stream.reading():
                raise RuntimeError("another read of an output is pending")

    def _give_input(self, view: memoryview | None) -> None:
        stdin = self.stdin
        if stdin is not None and not stdin.closed():
            # A process need not read its input to the end.
            with contextlib.suppress(StreamClosedError):
                if view is not None:
                    stdin.write(view)
                stdin.write_eof()

    async def _read_outputs(self) -> None:
        """Read both outputs to their ends, on from where an earlier call was cancelled."""
        for index, stream in enumerate((self.stdout, self.stderr)):
            if stream is not None and self._outputs[index] is None:
                self._outputs[index] = stream.read_until_close()
        if any(self._outputs):
            await asyncio.wait(
                [output for output in self._outputs if output is not None],
                return_when=asyncio.FIRST_EXCEPTION,
            )
        for index, output in enumerate(self._outputs):
            if output is not None and output.done() and output.exception() is not None:
                # Nobody reads on, so the process may never end. The next call begins a new read;
                # a future that was kept would form a cycle with its exception's frames.
                self._outputs[index] = None
                try:
                    output.result()
                finally:
                    del output

    def send_signal(self, signal: "int | Signals") -> None:
        """Send a signal, if it still runs.

        Never signals another process that has got its number. Does nothing in a process that was
        forked from the one that started it.

        Args:
            signal: The number of the signal.

        Raises:
            PermissionError: If the process runs as another user.
            OSError: If there is no such signal.
        """
        self._child.send_signal(signal)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), as `send_signal` does.

        Raises:
            PermissionError: If the process runs as another user.
        """
        self._child.send_signal(_signal.SIGTERM)

    def kill(self) -> None:
        """End it (SIGKILL), as `send_signal` does.

        Raises:
            PermissionError: If the process runs as another user.
        """
        self._child.send_signal(_signal.SIGKILL)

    def _watch_exit(self) -> None:
        """Reap it when it ends, and resolve `_exited`."""
        pidfd = self._child.pidfd
        if pidfd < 0:
            self._wait_in_thread()
            return

        def on_events(_: object, events: int) -> None:
            self._reactor.remove_handler(pidfd)  # reaping closes the descriptor
            if self._child.reap():
                self._exited.set_result(None)
            else:  # a debugger has to reap it first (ptrace(2))
                self._wait_in_thread()

        self._reactor.add_handler(pidfd, on_events, READ)

    def _wait_in_thread(self) -> None:
        waiting = self._reactor.run_in_executor(EXITS, self._child.wait)
        waiting.add_done_callback(partial(_resolve, self._exited))


def _close(streams: Iterable[PipeIOStream | None]) -> None:
    for stream in streams:
        if stream is not None:
            stream.close()


async def _until_done(future: "asyncio.Future[Any]") -> None:
    """Wait for a future although the task is cancelled, and raise the cancellation at the end."""
    cancelled: asyncio.CancelledError | None = None
    try:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
    finally:
        del cancelled  # it refers to this frame
