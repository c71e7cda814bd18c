"""What every stream must do, as tests that anybody can run on a stream class of their own.

They are methods called `test_...` that use nothing but `assert`, so any test runner can collect a
subclass of `StreamConformance`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from waterspout.ioloop.testing import SimulatedLoop
from waterspout.iostream._base import BaseIOStream
from waterspout.iostream._errors import StreamClosedError, UnsatisfiableReadError
from waterspout.iostream.testing._network import SimulatedNetwork

LARGE = 1_000_003
"""Bytes, more than are received at a time."""

Test = Callable[[Any, Any], Coroutine[Any, Any, object]]


async def raises(error: type[BaseException], awaitable: Awaitable[object]) -> Any:
    """Assert that something awaited raises, and give the exception."""
    try:
        await awaitable
    except error as raised:
        return raised
    raise AssertionError(f"{awaitable!r} did not raise {error.__name__}")


class StreamConformance:
    """Tests that a stream class must pass::

        class TestMine(StreamConformance):
            def new_loop(self):
                return asyncio.new_event_loop()

            @contextlib.asynccontextmanager
            async def new_pair(self):
                left, right = socket.socketpair()
                yield MyStream(left), MyStream(right)

    By default it tests `IOStream` on a simulated network.
    """

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Make the loop that a test runs on. Override it."""
        return SimulatedLoop()

    @contextlib.asynccontextmanager
    async def new_pair(self) -> AsyncGenerator[tuple[BaseIOStream, BaseIOStream], None]:
        """Make two streams that are connected to each other. Override it."""
        with SimulatedNetwork() as network:
            yield network.pair()

    def run(self, test: Test) -> None:
        """Run a test with a new pair, and close what it leaves open."""

        async def main() -> None:
            async with asyncio.timeout(60), self.new_pair() as (left, right):
                try:
                    await test(left, right)
                finally:
                    left.close()
                    right.close()

        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(main())

    def test_bytes_arrive_in_order_both_ways(self) -> None:
        """However they were divided when they were written."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            for stream, other in ((left, right), (right, left)):
                for size in range(1, 30):
                    await stream.write(bytes(range(size)))
                expected = b"".join(bytes(range(size)) for size in range(1, 30))
                assert await other.read_bytes(len(expected)) == expected

        self.run(test)

    def test_large_amounts_cross(self) -> None:
        """Both ways at once, with more under way than any buffer holds."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            data = bytes(range(251)) * (LARGE // 251)

            async def exchange(stream: BaseIOStream, other: BaseIOStream) -> None:
                written = stream.write(data)
                assert await other.read_bytes(len(data)) == data
                await written

            await asyncio.gather(exchange(left, right), exchange(right, left))

        self.run(test)

    def test_reads_take_what_they_ask_for(self) -> None:
        """And leave the rest to the next."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"one\ntwo;three\r\nfour")
            assert await right.read_until(b"\n") == b"one\n"
            assert await right.read_until((b"\r\n", b";")) == b"two;"
            assert await right.read_bytes(2) == b"th"
            memory = bytearray(3)
            assert await right.read_into(memory) == 3
            assert memory == b"ree"
            assert await right.read_bytes(0) == b""
            some = await right.read_bytes(100, partial=True)
            left.close()
            assert some + await right.read_until_close() == b"\r\nfour"

        self.run(test)

    def test_reads_wait_for_what_comes_later(self) -> None:
        """Piece by piece."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            reading = right.read_until(b"END")
            assert right.reading()
            for piece in (b"a", b"E", b"N", b"EN", b"D!"):
                await asyncio.sleep(0)
                await left.write(piece)
            assert await reading == b"aENEND"
            assert not right.reading()
            assert await right.read_bytes(1) == b"!"

        self.run(test)

    def test_partial_reads_take_what_there_is(self) -> None:
        """Up to what was asked for, and never more."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"0123456789")
            assert await right.read_bytes(1) == b"0"
            some = await right.read_bytes(3, partial=True)
            assert b"123".startswith(some)
            assert some
            memory = bytearray(100)
            size = await right.read_into(memory, partial=True)
            assert size > 0
            rest = await right.read_bytes(9 - len(some) - size)
            assert some + bytes(memory[:size]) + rest == b"123456789"

        self.run(test)

    def test_streaming_stops_where_it_is_to(self) -> None:
        """At the number of bytes that were asked for."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            pieces: list[bytes] = []
            await left.write(b"0123456789")
            assert await right.read_bytes(4, streaming_callback=pieces.append) == b""
            await asyncio.sleep(0.01)
            assert b"".join(pieces) == b"0123"
            assert await right.read_bytes(6) == b"456789"

        self.run(test)

    def test_a_block_closes_the_stream(self) -> None:
        """Also one that raises."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            async with left as entered:
                assert entered is left
                assert not left.closed()
            assert left.closed()
            with contextlib.suppress(ZeroDivisionError):
                async with right:
                    raise ZeroDivisionError
            assert right.closed()

        self.run(test)

    def test_one_read_at_a_time(self) -> None:
        """A second is a mistake, and harms nothing."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            reading = right.read_bytes(2)
            await raises(RuntimeError, _call(right.read_bytes, 1))
            await left.write(b"ab")
            assert await reading == b"ab"

        self.run(test)

    def test_a_cancelled_read_leaves_every_byte(self) -> None:
        """Whether it was cancelled while it waited, or in the gap before its task resumes."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"abc")

            async def read(gap: bool) -> bytes:
                reading = right.read_bytes(6)
                if gap:  # called before the task that waits for it is woken
                    reading.add_done_callback(lambda _: task.cancel())
                return await reading

            for gap in (False, True):
                task = asyncio.create_task(read(gap))
                await _until(right.reading)
                if gap:
                    await left.write(b"def")
                else:
                    task.cancel()
                await raises(asyncio.CancelledError, task)
            assert await right.read_bytes(6) == b"abcdef"

        self.run(test)

    def test_cancelled_reads_of_other_kinds_leave_every_byte(self) -> None:
        """What was placed in the caller's memory, or would have been read to the end."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            async def fill(memory: bytearray) -> int:
                return await right.read_into(memory)

            async def drain() -> bytes:
                return await right.read_until_close()

            await left.write(b"abc")
            for read in (fill(bytearray(10)), drain()):
                task = asyncio.create_task(read)
                await _until(right.reading)
                await left.write(b"d")
                await asyncio.sleep(0.01)
                task.cancel()
                await raises(asyncio.CancelledError, task)
            assert await right.read_bytes(5) == b"abcdd"

        self.run(test)

    def test_a_read_that_times_out_leaves_every_byte(self) -> None:
        """As a cancelled one does."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"abc")

            async def read() -> bytes:
                return await right.read_until(b"\n")

            await raises(TimeoutError, asyncio.wait_for(read(), 0.05))
            await left.write(b"d\n")
            assert await right.read_until(b"\n") == b"abcd\n"

        self.run(test)

    def test_a_limit_keeps_the_bytes(self) -> None:
        """`max_bytes` passed without a match is an error that takes nothing."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"abcdef\n")
            await raises(UnsatisfiableReadError, _call(right.read_until, b"\n", max_bytes=4))
            assert not right.closed()
            assert await right.read_until(b"\n", max_bytes=7) == b"abcdef\n"

        self.run(test)

    def test_streamed_bytes_are_all_of_them(self) -> None:
        """`streaming_callback` gets them in order; the result is then empty."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            pieces: list[bytes] = []
            reading = right.read_until_close(streaming_callback=pieces.append)
            for _ in range(10):
                await left.write(b"0123456789" * 100)
            left.close()
            assert await reading == b""
            await asyncio.sleep(0)
            assert b"".join(pieces) == b"0123456789" * 1000

        self.run(test)

    def test_writes_are_taken_while_others_wait(self) -> None:
        """In order; `writing` tells that some wait."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            writes = [left.write(b"0" * LARGE)]
            while not left.writing():  # until the connection holds no more
                writes.append(left.write(b"0" * LARGE))
            writes += [left.write(bytes([number]) * 10) for number in range(5)]
            zeros = LARGE * (len(writes) - 5)
            assert await right.read_bytes(zeros) == b"0" * zeros
            for number in range(5):
                assert await right.read_bytes(10) == bytes([number]) * 10
            await asyncio.gather(*writes)
            assert not left.writing()

        self.run(test)

    def test_a_cancelled_write_is_sent_whole(self) -> None:
        """And those behind it."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            first = left.write(b"1" * LARGE)
            second = left.write(b"2" * 10)
            first.cancel()
            assert await right.read_bytes(LARGE + 10) == b"1" * LARGE + b"2" * 10
            await second

        self.run(test)

    def test_the_end_of_the_other_side_is_clean(self) -> None:
        """What came before it can be read; then reads say so, with what they had."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            await left.write(b"last words")
            left.close()
            assert await right.read_bytes(5) == b"last "
            error = await raises(StreamClosedError, _call(right.read_until, b"\n"))
            assert error.real_error is None
            assert error.partial == b"words"
            assert await right.read_until_close() == b"words"
            await raises(StreamClosedError, _call(right.read_bytes, 1))

        self.run(test)

    def test_a_local_close_fails_what_is_pending(self) -> None:
        """Reads and writes; and what comes after."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            reading, writing = right.read_bytes(1), right.write(b"x" * LARGE)
            while not right.writing():
                writing = right.write(b"x" * LARGE)
            right.close()
            for pending in (reading, writing):
                error = await raises(StreamClosedError, pending)
                assert isinstance(error.real_error, ConnectionAbortedError)
            assert right.closed()
            right.close()
            await raises(StreamClosedError, _call(right.write, b"x"))
            await raises(StreamClosedError, _call(right.read_bytes, 1))

        self.run(test)

    def test_the_close_callback_runs_once(self) -> None:
        """When either side has closed."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            told: list[str] = []
            closed = asyncio.Event()
            left.set_close_callback(lambda: told.append("left"))

            def tell() -> None:
                told.append("right")
                closed.set()

            right.set_close_callback(tell)
            left.close()
            await closed.wait()
            left.close()
            right.close()
            await asyncio.sleep(0.01)
            assert sorted(told) == ["left", "right"]

        self.run(test)

    def test_callbacks_get_the_results(self) -> None:
        """On the loop, not inside the call."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            seen: list[object] = []
            written = left.write(b"ab", callback=lambda: seen.append("written"))
            read = right.read_bytes(2, callback=seen.append)
            assert seen == []
            await asyncio.gather(written, read)
            await asyncio.sleep(0.01)
            assert sorted(map(str, seen)) == ["b'ab'", "written"]

        self.run(test)

    def test_bad_arguments_are_refused_at_the_call(self) -> None:
        """And nothing is changed by them."""

        async def test(left: BaseIOStream, right: BaseIOStream) -> None:
            bad: Any = "text"
            await raises(TypeError, _call(left.write, bad))
            await raises(TypeError, _call(left.write, b"", callback=bad))
            await raises(TypeError, _call(right.read_until, bad))
            await raises(ValueError, _call(right.read_until, b""))
            await raises(TypeError, _call(right.read_bytes, bad))
            await raises(ValueError, _call(right.read_bytes, -1))
            await raises(TypeError, _call(right.read_into, b"read only"))
            await raises(TypeError, _call(right.set_close_callback, bad))
            await left.write(b"ok")
            assert await right.read_bytes(2) == b"ok"

        self.run(test)


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function and await what it returns, so that it may raise in either way."""
    result = function(*args, **kwargs)
    return await result if result is not None else None


async def _until(condition: Callable[[], bool]) -> None:
    """Let the loop have turns until something has come about."""
    while not condition():  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0)
