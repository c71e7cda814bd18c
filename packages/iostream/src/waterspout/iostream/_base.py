"""`BaseIOStream`: reads and writes over anything that is a descriptor.

A subclass says how bytes are moved, by four methods: `fileno`, `close_fd`, `read_from_fd` and
`write_to_fd`. When they are called is the business of `_receiving` and `_writing`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream._checks import check_callback, exception_of
from waterspout.iostream._core import bind_context
from waterspout.iostream._errors import reason_of
from waterspout.iostream._reading import ReadingStream
from waterspout.iostream._sendfile import File, FileSender

CloseCallback: TypeAlias = Callable[[], object]
"""Takes nothing."""


class BaseIOStream(ReadingStream):
    """A stream of bytes over a descriptor; see its subclasses.

    Args:
        io_loop: The reactor to run on; `None` takes the current one at the first operation.
        max_buffer_size: Bytes that one pending read may gather; by default 100 MiB.
        read_chunk_size: Bytes that are received in one go; by default 64 KiB.
        max_write_buffer_size: Bytes of writes that may wait for the kernel; by default 100 MiB.
        half_open: Whether the stream stays open for writing after the other end has closed
            its side.

    Attributes:
        error: What closed the stream, if that was an error.
        can_write_eof: Whether this kind of stream can be closed for writing alone.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a size is not positive.
    """

    __slots__ = ()

    def __init__(
        self,
        io_loop: Reactor | None = None,
        max_buffer_size: int | None = None,
        read_chunk_size: int | None = None,
        max_write_buffer_size: int | None = None,
        *,
        half_open: bool = False,
    ) -> None:
        super().__init__(
            io_loop, max_buffer_size, read_chunk_size, max_write_buffer_size, half_open
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self._ended else "open"
        return (
            f"<{type(self).__name__} {state} buffered={len(self._read_buffer)} "
            f"unsent={self._write_buffer.size}>"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    async def sendfile(self, file: File, offset: int = 0, count: int | None = None) -> int:
        """Send a file, after what was written before.

        What is sent is what the file object's `read()` gives: of a compressed file, its contents.
        For a file on disk as `open` returns it, the kernel does it alone where it can
        (`os.sendfile`), after the file was flushed. Else the file is read piece by piece in a
        thread of the package's own. Until it is done, nothing else can be written. If it is
        cancelled or fails when a part has been sent, the stream is closed. A piece that is being
        read at that moment is read to its end.

        Args:
            file: A binary file, or any object whose `read(size)` returns bytes. Its position
                afterwards does not matter.
            offset: Where in the file to begin, in bytes. With 0, a file that cannot seek is sent
                from where it is.
            count: How many bytes to send at most; `None` sends all to the end.

        Returns:
            How many bytes were sent.

        Raises:
            TypeError: If an argument is of the wrong kind, or the file's `read` returns something
                other than bytes.
            ValueError: If `offset` or `count` is negative, `offset` is not 0 for a file that
                cannot seek, or the file is closed.
            OSError: If the file cannot be read, or the event loop cannot register the descriptor.
            Exception: What else the file object's methods raise.
            StreamClosedError: If the stream is closed, or is closed meanwhile.
            RuntimeError: If another file is being sent, `write_eof` was called, or no loop is
                running.
            io.UnsupportedOperation: If the stream cannot write.
        """
        sender = FileSender(self, file, offset, count)
        if self._sending_file:
            raise RuntimeError("another file is being sent")
        self._check_can_write()
        self._sending_file = True
        try:
            return await sender.send()
        except BaseException as error:
            if sender.sent:  # the peer must not take the part for the whole
                self._reset_on_close()
                self.close(reason_of(error) or ConnectionAbortedError("sendfile() was cancelled"))
            raise
        finally:
            self._sending_file = False

    def set_nodelay(self, value: bool) -> None:
        """Send small writes at once (True) or gather them (False), where the stream has a say.

        Args:
            value: Whether to send at once.
        """

    # State and end

    def closed(self) -> bool:
        """Whether the descriptor is closed. What was read before may still be in the buffer."""
        return self._closed

    def set_close_callback(self, callback: CloseCallback | None) -> None:
        """Say what to call once the stream is closed, by whichever side.

        It is called on the loop, once, after a pending read is done; at once for a stream that
        is closed. It does not wait for unread bytes.

        Args:
            callback: A function without arguments; `None` for none. It runs in the context of
                this call.

        Raises:
            TypeError: If it cannot be called.
            RuntimeError: If no loop is running.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. The callback set before, if any, stays.
        """
        check_callback("callback", callback)
        reactor = self._use_reactor()
        if callback is None:
            self._close_callback = None
            return
        before = self._close_callback, self._listening
        # The code that closes the stream runs in another context than the caller.
        self._close_callback = bind_context(reactor.add_callback, callback)
        self._listening = True
        try:
            self._update_events()
            self._maybe_run_close_callback()
        except BaseException:
            self._close_callback, self._listening = before
            raise

    def close(
        self,
        exc_info: "bool | BaseException | tuple[Any, BaseException | None, Any]" = False,
    ) -> None:
        """Close the stream, and drop what was not read or sent. Closing twice does nothing.

        A pending read and pending writes get `StreamClosedError`.

        Args:
            exc_info: What becomes `error`: an exception, a tuple as of `sys.exc_info`, or True
                for the exception being handled. The stream keeps it as it is, with its traceback.
        """
        if not self._closed:
            error = exception_of(exc_info)
            self.error = error
            self._reason = error or ConnectionAbortedError("the stream was closed on this side")
            self._ended = True
            self._recall()
            self._try_read()
        self._dropped = True
        self._read_buffer.clear()
        self._close_now()
