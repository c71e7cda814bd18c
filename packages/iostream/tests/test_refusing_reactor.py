"""A reactor that refuses a call: the operation did nothing, or the stream ends visibly."""

import asyncio
import socket

import pytest

from waterspout.ioloop import READ, WRITE, IOLoop
from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream import IOStream, PipeIOStream, StreamClosedError

LARGE = b"x" * 10_000_000
ERRORS = [OSError, ValueError, KeyError, RuntimeError, TypeError]
EVERY_ERROR = pytest.mark.parametrize("error", ERRORS)
DATA = b"one\ntwo\nthree"


class RefusingReactor(Reactor):
    """Passes calls to the running loop, and refuses some.

    Attributes:
        refused: How many calls were refused.
    """

    def __init__(self):
        self.loop = IOLoop.current()
        self.allow()

    def refuse(self, error, number=1, count=1, names=None):
        """Refuse `count` calls from a number on, of all methods or of some."""
        self.error, self.names = error, names
        self.first, self.end, self.calls, self.refused = number, number + count, 0, 0

    def allow(self):
        self.refuse(None, 0, 0)

    def _pass(self, name, *args, **kwargs):
        if self.names is None or name in self.names:
            self.calls += 1
            if self.first <= self.calls < self.end:
                self.refused += 1
                if name == "remove_handler":  # so that the tests leave none behind
                    self.loop.remove_handler(*args)
                raise self.error(f"{name} is refused")
        return getattr(self.loop, name)(*args, **kwargs)

    def time(self):
        return self.loop.time()

    def add_callback(self, *args, **kwargs):
        self._pass("add_callback", *args, **kwargs)

    def call_at(self, *args, **kwargs):
        return self._pass("call_at", *args, **kwargs)

    def remove_timeout(self, timeout):
        self.loop.remove_timeout(timeout)

    def create_future(self):
        return self._pass("create_future")

    def run_in_executor(self, *args):
        return self.loop.run_in_executor(*args)

    def add_handler(self, *args):
        self._pass("add_handler", *args)

    def update_handler(self, *args):
        self._pass("update_handler", *args)

    def remove_handler(self, *args):
        self._pass("remove_handler", *args)


@pytest.fixture
def reports():
    """What was given to the loop's hook."""
    return []


@pytest.fixture
def refusing_pair(make_pair, reports):
    def make(**kwargs):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context.get("exception")))
        reactor = RefusingReactor()
        return (reactor, *make_pair(io_loop=reactor, **kwargs))

    return make


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def into(stream, **kwargs):
    memory = bytearray(4)
    size = await stream.read_into(memory, **kwargs)
    return bytes(memory[:size])


async def with_callback(start, *args, **kwargs):
    """Read with a callback, and give what it was given."""
    got = asyncio.Queue()
    reading = start(*args, callback=got.put_nowait, **kwargs)
    await reading
    return await got.get()


async def streamed(stream, start, *args):
    chunks = []
    await start(*args, streaming_callback=chunks.append)
    await asyncio.sleep(0.001)
    return b"".join(chunks)


READS = {
    "bytes": lambda stream: stream.read_bytes(4),
    "some": lambda stream: stream.read_bytes(4, partial=True),
    "until": lambda stream: stream.read_until(b"\n"),
    "several": lambda stream: stream.read_until((b"\n", b"!")),
    "regex": lambda stream: stream.read_until_regex(b"\n"),
    "into": into,
    "some into": lambda stream: into(stream, partial=True),
    "line": anext,
    "bytes callback": lambda stream: with_callback(stream.read_bytes, 4),
    "until callback": lambda stream: with_callback(stream.read_until, b"\n"),
    "streamed": lambda stream: streamed(stream, stream.read_bytes, 4),
}


WATCHING = {"add_handler", "update_handler", "remove_handler", "create_future"}
ALL = {kind for kind in READS if "callback" not in kind}  # these refuse add_callback as well


@EVERY_ERROR
@pytest.mark.parametrize("buffered", [False, True], ids=["waits", "buffered"])
@pytest.mark.parametrize("kind", READS)
async def test_refused_read_takes_nothing(refusing_pair, kind, buffered, error):
    """Whichever call of the reactor is refused, every byte comes once, and nothing hangs."""
    for number in range(1, 20):
        # As much as may be buffered is, so that reading has stopped and each read begins it anew.
        reactor, stream, peer = refusing_pair(max_buffer_size=len(DATA))
        peer.send(DATA + b"more")
        if buffered:
            await stream.peek(1)
            await until(lambda stream=stream: not stream._events)
        reactor.refuse(error, number, names=None if kind in ALL else WATCHING)
        got, failed = b"", None
        async with asyncio.timeout(10):
            try:
                got = await READS[kind](stream)
            except (error, StreamClosedError) as raised:
                failed = raised
        refused = reactor.refused
        reactor.allow()
        assert not stream.reading()
        if stream.closed():
            assert isinstance(stream.error, error)
            assert failed is None or isinstance(failed.real_error, error)
            with pytest.raises(StreamClosedError):
                while True:
                    got += await stream.read_bytes(1)
            assert (DATA + b"more").startswith(got)
            assert kind != "bytes" or len(got) >= 4
        else:
            if failed is not None:
                assert type(failed) is error
                assert got == b""
            rest = len(DATA) - len(got)
            assert got + await stream.read_bytes(rest) == DATA
        if not refused:
            assert got == DATA[:4]
            break
    else:
        pytest.fail("it never came to an end")


@EVERY_ERROR
async def test_refused_call_of_a_callback_is_reported(refusing_pair, error, reports):
    reactor, stream, peer = refusing_pair()
    peer.send(b"x")
    reactor.refuse(error, names={"add_callback"})
    assert await stream.read_bytes(1, callback=print) == b"x"
    await until(lambda: reports)
    assert [type(report) for report in reports] == [error]


@EVERY_ERROR
async def test_refused_read_does_not_ask_for_events(refusing_pair, error):
    reactor, stream, peer = refusing_pair()
    await stream.write(b"x")
    reactor.refuse(error)
    with pytest.raises(error):
        stream.read_bytes(4)
    assert not stream._listening
    assert not stream.reading()


@EVERY_ERROR
async def test_bytes_of_a_refused_streaming_callback_are_read_later(refusing_pair, error, reports):
    reactor, stream, peer = refusing_pair()
    peer.send(b"abcd")
    assert await stream.peek(4) == b"abcd"
    chunks = []
    for start in (
        lambda: stream.read_bytes(4, streaming_callback=chunks.append),
        lambda: stream.read_until_close(streaming_callback=chunks.append),
    ):
        reactor.refuse(error, names={"add_callback"})
        with pytest.raises(error, match="add_callback is refused"):
            start()
        assert not stream.reading()
    reactor.allow()
    assert await stream.read_bytes(4) == b"abcd"
    # The same, where the bytes arrive later.
    reactor.refuse(error, names={"add_callback"})
    reading = stream.read_bytes(2, streaming_callback=chunks.append)
    peer.send(b"ef")
    with pytest.raises(error, match="add_callback is refused"):
        await reading
    assert await stream.read_bytes(2) == b"ef"
    assert chunks == []


async def fill(stream):
    """Send behind the stream's back until the kernel takes no more."""
    sent = 0
    try:
        while True:
            sent += stream.socket.send(b"." * 65536)
    except BlockingIOError:
        return sent


@EVERY_ERROR
@pytest.mark.parametrize("size", [3, 10_000])
@pytest.mark.parametrize("begun", [False, True])
async def test_refused_write_is_not_sent(refusing_pair, error, size, begun):
    """If the kernel took nothing of it, the write did nothing, and the next one works."""
    reactor, stream, peer = refusing_pair()
    if begun:
        await stream.write(b"")
    filled = await fill(stream)
    reactor.refuse(error, names={"add_handler"})
    with pytest.raises(error, match="add_handler is refused"):
        stream.write(b"n" * size)
    assert not stream.writing()
    assert stream._write_waiters is None or not stream._write_waiters
    reactor.allow()
    written = stream.write(b"yes")
    assert await peer.receive(filled + 3) == b"." * filled + b"yes"
    await written


@EVERY_ERROR
@pytest.mark.parametrize("size", [0, 3, 10_000])
async def test_refused_write_leaves_those_before_it(refusing_pair, error, size, monkeypatch):
    reactor, stream, peer = refusing_pair()
    filled = await fill(stream)
    first = stream.write(b"1" * (size or 1))

    def refuse():
        raise error("refused")

    with monkeypatch.context() as patch:
        patch.setattr(type(stream), "_update_events", lambda self: refuse())
        with pytest.raises(error, match="refused"):
            stream.write(b"n" * size)
    assert not first.done()
    last = stream.write(b"2" * size)
    expected = b"." * filled + b"1" * (size or 1) + b"2" * size
    assert await peer.receive(len(expected)) == expected
    await asyncio.gather(first, last)


@EVERY_ERROR
@pytest.mark.parametrize("begun", [False, True])
async def test_write_refused_after_a_part_was_sent_fails_both_sides(refusing_pair, error, begun):
    reactor, stream, peer = refusing_pair(tcp=True)
    if begun:
        await stream.write(b"")
    reactor.refuse(error, names={"add_handler"})
    with pytest.raises(StreamClosedError) as caught:
        while True:
            stream.write(b"x" * 1_000_000)
    assert isinstance(caught.value.real_error, error)
    assert not stream.writing()
    reactor.allow()
    with pytest.raises(StreamClosedError):
        stream.write(b"more")
    peer.send(b"can still be read")
    assert await stream.read_bytes(17) == b"can still be read"
    stream.close()
    with pytest.raises(ConnectionResetError):
        await peer.receive_all()


@EVERY_ERROR
async def test_refused_write_of_tls_fails_the_writing_side(
    refusing_pair, error, server_context, client_context
):
    """The engine may hold a record of which the kernel took nothing; it cannot be undone."""
    reactor, stream, peer = refusing_pair()
    client, server = await asyncio.gather(
        stream.start_tls(False, client_context, "localhost"),
        IOStream(peer.give_away()).start_tls(True, server_context),
    )
    async with client, server:
        await client.write(b"x")
        client.write_to_fd = lambda data: 0
        reactor.refuse(error, names={"add_handler", "update_handler"})
        with pytest.raises(StreamClosedError) as caught:
            client.write(b"y")
        assert isinstance(caught.value.real_error, error)
        reactor.allow()
        assert not client.writing()
        with pytest.raises(StreamClosedError):
            client.write(b"z")


async def test_an_interrupted_write_is_not_sent_later(refusing_pair):
    reactor, stream, peer = refusing_pair()
    reactor.refuse(KeyboardInterrupt, names={"add_handler"})
    with pytest.raises(KeyboardInterrupt):
        stream.write(LARGE)
    assert not stream.writing()
    with pytest.raises(StreamClosedError):
        stream.write(b"more")


@EVERY_ERROR
async def test_refused_update_after_a_failed_write_ends_the_stream(refusing_pair, error):
    reactor, stream, peer = refusing_pair()
    await stream.write(b"x")
    peer.close()
    reactor.refuse(error)
    with pytest.raises(StreamClosedError) as caught:
        stream.write(b"y")
    assert isinstance(caught.value.real_error, BrokenPipeError)
    assert stream.closed()


@EVERY_ERROR
@pytest.mark.parametrize("name", ["update_handler", "remove_handler"])
async def test_refused_update_in_a_handler_fails_what_is_pending(refusing_pair, error, name):
    """Nobody called, so nobody can be told but by the stream's end."""
    if name == "remove_handler" and error is KeyError:
        return  # a closed loop has forgotten it
    reactor, stream, peer = refusing_pair(tcp=True)
    reading = stream.read_bytes(1000) if name == "update_handler" else None
    writing = stream.write(LARGE)
    reactor.refuse(error, names={name})
    assert await peer.receive(len(LARGE)) == LARGE
    await writing
    await until(stream.closed)
    assert isinstance(stream.error, error)
    if reading is not None:
        with pytest.raises(StreamClosedError) as caught:
            await reading
        assert isinstance(caught.value.real_error, error)


@EVERY_ERROR
async def test_refused_update_after_a_result_ends_the_stream(refusing_pair, error):
    """The task has its bytes; the read that began meanwhile gets the error."""
    reactor, stream, peer = refusing_pair(tcp=True)
    first = stream.read_bytes(2)
    seconds = []

    def begin(_):
        seconds.append(stream.read_bytes(5))
        stream.write(LARGE)  # and so another event is wanted once it is sent
        reactor.refuse(error, count=100, names={"update_handler", "remove_handler"})
        stream._write_buffer.clear()

    first.add_done_callback(begin)
    peer.send(b"ab")
    assert await first == b"ab"
    with pytest.raises(StreamClosedError) as caught:
        await seconds[0]
    assert isinstance(caught.value.real_error, error)
    assert stream.closed()


@EVERY_ERROR
async def test_refused_close_callback_is_not_called(refusing_pair, error):
    reactor, stream, peer = refusing_pair()
    await stream.write(b"")
    calls = []
    reactor.refuse(error)
    with pytest.raises(error):
        stream.set_close_callback(lambda: calls.append("refused"))
    reactor.allow()
    assert not stream._listening
    stream.close()
    await asyncio.sleep(0.001)
    assert calls == []
    if error is not RuntimeError:  # which says that the loop is closed
        reactor.refuse(error)
        with pytest.raises(error):
            stream.set_close_callback(lambda: calls.append("refused"))
        reactor.allow()
        stream.set_close_callback(lambda: calls.append("called"))
        await until(lambda: calls)
        assert calls == ["called"]


@EVERY_ERROR
async def test_close_closes_whatever_is_refused(refusing_pair, error, reports):
    for names in ({"remove_handler"}, {"add_callback"}, {"remove_handler", "add_callback"}):
        reactor, stream, peer = refusing_pair()
        reading, writing = stream.read_bytes(5), stream.write(LARGE)
        reactor.refuse(error, count=100, names=names)
        stream.close()
        assert stream.closed()
        assert stream.socket.fileno() == -1
        for future in (reading, writing):
            with pytest.raises(StreamClosedError):
                await future
    await asyncio.sleep(0.001)
    expected = [] if error is KeyError else [error]
    assert [type(report) for report in reports] == expected


@EVERY_ERROR
async def test_refused_half_close_ends_the_stream(refusing_pair, error):
    reactor, stream, peer = refusing_pair(tcp=True)
    reading = stream.read_bytes(5)
    stream.write(LARGE)
    stream._write_buffer.clear()  # as if all of it were sent by now
    reactor.refuse(error, names={"update_handler"})
    await stream.write_eof()
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert isinstance(caught.value.real_error, error)


@EVERY_ERROR
async def test_refused_file_is_not_sent(refusing_pair, error, tmp_path):
    (tmp_path / "file").write_bytes(b"file")
    for number in range(1, 20):
        reactor, stream, peer = refusing_pair()
        reactor.refuse(error, number, names={"add_handler", "update_handler", "remove_handler"})
        failed = None
        with (tmp_path / "file").open("rb") as file:
            try:
                await stream.sendfile(file)
            except (error, StreamClosedError) as raised:
                failed = raised
        refused = reactor.refused
        reactor.allow()
        if not stream.closed():
            if failed is None:
                assert await peer.receive(4) == b"file"
            await stream.write(b"next")
            assert await peer.receive(4) == b"next"
        if not refused:
            break
    assert failed is None


@EVERY_ERROR
async def test_refused_use_of_a_loop_leaves_the_stream_free(make_pair, error):
    stream, peer = make_pair(io_loop=(reactor := RefusingReactor()))
    reactor.refuse(error)
    with pytest.raises(error, match="create_future is refused"):
        stream.read_bytes(1)
    peer.send(b"x")
    assert await stream.read_bytes(1) == b"x"


async def test_a_mistake_in_a_handler_ends_the_stream(make_pair):
    """Of a subclass, say."""

    class Mistaken(IOStream):
        def _fill(self):
            raise ZeroDivisionError("in here")

    stream, peer = make_pair(Mistaken)
    reading = stream.read_bytes(100_000)  # which is too large for the fast path
    peer.send(b"x")
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert isinstance(caught.value.real_error, ZeroDivisionError)
    assert "in here" in caught.value.real_error.__notes__[0]


async def test_late_events_of_a_closed_stream_do_nothing(pair):
    """As where the reactor refused to remove the handler."""
    stream, peer = pair
    reading, writing, ending = stream.read_bytes(1), stream.write(LARGE), stream.write_eof()
    stream.close()
    for future in (reading, writing, ending):
        with pytest.raises(StreamClosedError):
            await future
    stream._on_events(0, READ | WRITE)
    assert stream.error is None
    with pytest.raises(StreamClosedError) as caught:
        stream.write(b"x")
    assert isinstance(caught.value.real_error, ConnectionAbortedError)


async def test_late_events_of_an_ended_stream_receive_nothing(make_pair):
    class Counting(IOStream):
        receipts = 0

        def read_from_fd(self, buf):
            self.receipts += 1
            return super().read_from_fd(buf)

    stream, peer = make_pair(Counting, half_open=True)
    reading = stream.read_until_close()
    peer.socket.shutdown(socket.SHUT_WR)
    assert await reading == b""
    before = stream.receipts
    stream._on_events(0, READ)
    assert stream.receipts == before


async def test_late_events_leave_a_clean_end_clean(pair):
    stream, peer = pair

    async def wait(reading):
        return await reading

    first = wait(stream.read_bytes(1))  # driven by hand
    first.send(None)
    peer.send(b"xyz")
    peer.close()
    await until(stream.closed)
    second = stream.read_until(b"\n")
    stream._on_events(0, READ)
    with pytest.raises(StopIteration):
        first.send(None)
    with pytest.raises(StreamClosedError) as caught:
        await second
    assert caught.value.real_error is None


async def test_a_pattern_that_fails_fails_the_read(pair):
    class Pattern:
        pattern = b"x"

        def search(self, *args):
            raise RecursionError("too deep")

    from waterspout.iostream._reads import ReadUntilRegex

    stream, peer = pair
    reading = stream._start_read(ReadUntilRegex(Pattern(), None), None)
    peer.send(b"abc")
    with pytest.raises(RecursionError):
        await reading
    assert await stream.read_bytes(3) == b"abc"


def test_a_write_with_a_callback_after_the_loop(loop_factory):
    left, right = socket.socketpair()

    async def begin():
        stream = IOStream(left)
        await stream.write(b"one")
        return stream

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        stream = runner.run(begin())
    stream.write(b"two", callback=print)
    stream.close()
    with right:
        assert right.recv(10) == b"onetwo"


@EVERY_ERROR
async def test_refused_delayed_attempt_ends_the_stream(refusing_pair, error, monkeypatch):
    from waterspout.iostream import _delayed, _reads

    monkeypatch.setattr(_reads, "FREE_BYTES", -(1 << 30))
    monkeypatch.setattr(_delayed, "QUIET_SECONDS", 0.03)
    monkeypatch.setattr(_delayed, "BUSY_SECONDS", 1000)
    for number in (1, 2):
        reactor, stream, peer = refusing_pair()
        reading = stream.read_until_regex(b"!")
        peer.send(b"x" * 100)
        await until(lambda stream=stream: len(stream._read_buffer) == 100)
        reactor.refuse(error, number, names={"call_at"})
        peer.send(b"y")
        await until(lambda stream=stream: len(stream._read_buffer) == 101)
        if not stream.closed():
            peer.send(b"z")
        with pytest.raises(StreamClosedError) as caught:
            await asyncio.wait_for(reading, 10)
        assert isinstance(caught.value.real_error, error)


async def test_pipes_are_ended_too(reports):
    import os

    reactor = RefusingReactor()
    reading, writing = os.pipe()
    async with PipeIOStream(writing, reactor) as stream:
        reactor.refuse(ValueError, names={"add_handler"})
        with pytest.raises(StreamClosedError):
            stream.write(LARGE)
    os.close(reading)
