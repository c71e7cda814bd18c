"""What happens rarely: at the wrong moment, or where something is missing."""

import asyncio
import contextlib
import datetime as dt
import errno
import io
import os
import re
import socket
import ssl
from subprocess import PIPE

import pytest
import trustme

import waterspout.iostream._receiving as receiving
from waterspout.ioloop.scheduling import READ, Scheduler, register_scheduler
from waterspout.iostream import (
    IOStream,
    PipeIOStream,
    SSLIOStream,
    StreamClosedError,
    connect_tcp,
    open_process,
    serve_tcp,
)

NOW = dt.datetime.now(dt.UTC)
LONG_AGO, LATER = NOW - dt.timedelta(days=1), NOW + dt.timedelta(days=10)


async def ignore(stream):
    pass


async def test_a_small_write_that_fails_when_others_had_not(make_pair):
    class Breaking(IOStream):
        broken = False

        def write_to_fd(self, data):
            if self.broken:
                raise OSError(errno.EPIPE, "broken")
            return super().write_to_fd(data)

    stream, peer = make_pair(Breaking)
    await stream.write(b"one")
    await stream.write(b"two")
    stream.broken = True
    with pytest.raises(StreamClosedError, match="broken"):
        stream.write(b"three")
    assert await peer.receive(6) == b"onetwo"


async def test_what_is_written_and_ended_while_connecting_is_sent_after():
    async def handle(stream):
        received.append(await stream.read_until_close())

    received = []
    async with await serve_tcp(handle, "127.0.0.1") as server:
        async with IOStream(socket.socket()) as stream:
            connecting = asyncio.ensure_future(stream.connect(("127.0.0.1", server.port)))
            await asyncio.sleep(0)
            written, eof = stream.write(b"early"), stream.write_eof()
            await connecting
            await written
            await eof
            assert await stream.read_until_close() == b""
    assert received == [b"early"]


async def test_cancelled_while_the_name_is_looked_up():
    stream = IOStream(socket.socket())
    connecting = asyncio.ensure_future(stream.connect(("localhost", 1)))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert stream.closed()


async def test_closed_while_the_name_is_looked_up():
    stream = IOStream(socket.socket())
    connecting = asyncio.ensure_future(stream.connect(("localhost", 1)))
    await asyncio.sleep(0)
    stream.close()
    with pytest.raises(StreamClosedError):
        await connecting


async def test_an_empty_host_is_no_name():
    with pytest.raises(OSError):
        await IOStream(socket.socket()).connect(("", 1))


async def test_closed_on_this_side_while_a_file_is_sent(make_pair, tmp_path):
    stream, _ = make_pair()
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(50_000_000)
        sending = asyncio.create_task(stream.sendfile(file))
        await asyncio.sleep(0)
        # When there is room, and before the task that sends has resumed.
        stream._room.add_done_callback(lambda _: stream.close())
        with pytest.raises(StreamClosedError):
            await sending
    stream, _ = make_pair()
    with (tmp_path / "sparse").open("rb") as file:
        sending = asyncio.create_task(stream.sendfile(file))
        await asyncio.sleep(0)
        stream.close()
        with pytest.raises(StreamClosedError):
            await sending


async def test_a_pattern_lets_others_have_their_turn(make_pair, monkeypatch):
    monkeypatch.setattr(receiving, "FILL_AT_MOST", 10_000)
    stream, peer = make_pair(read_chunk_size=1000)
    peer.send(b"x" * 1000)
    reading = stream.read_until_regex(re.compile(b"!"))
    while len(stream._read_buffer) < 1000:
        await asyncio.sleep(0)
    for _ in range(3):
        peer.send(b"x" * 50_000)
        await asyncio.sleep(0.001)
    peer.send(b"!")
    assert len(await reading) == 151_001
    reading = stream.read_until_regex(re.compile(b"!"))
    stream.close()
    with pytest.raises(StreamClosedError):
        await reading
    stream._fill_on()  # which may have been under way
    assert len(stream._read_buffer) == 0


async def test_a_pattern_read_that_is_cancelled_in_the_gap(pair):
    stream, peer = pair
    reading = stream.read_until_regex(b"!")
    reading.add_done_callback(lambda _: task.cancel())
    task = asyncio.create_task(awaited(reading))
    await asyncio.sleep(0)
    peer.send(b"abc!")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stream.read_bytes(4) == b"abc!"


async def test_streamed_bytes_do_not_come_twice(pair):
    stream, peer = pair
    got = []
    reading = stream.read_bytes(4, streaming_callback=got.append)
    reading.add_done_callback(lambda _: task.cancel())
    task = asyncio.create_task(awaited(reading))
    await asyncio.sleep(0)
    peer.send(b"abcde")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stream.read_bytes(1) == b"e"
    assert b"".join(got) == b"abcd"


async def awaited(future):
    return await future


class OnlyScheduler(Scheduler):
    """One that watches no descriptors."""

    def __init__(self, loop):
        self.loop = loop

    def time(self):
        return self.loop.time()

    def add_callback(self, callback, *args, **kwargs):
        self.loop.call_soon(lambda: callback(*args, **kwargs))

    def call_at(self, when, callback, *args, **kwargs):
        return self.loop.call_at(when, lambda: callback(*args, **kwargs))

    def remove_timeout(self, timeout):
        timeout.cancel()

    def create_future(self):
        return self.loop.create_future()

    def run_in_executor(self, executor, func, *args):
        return self.loop.run_in_executor(executor, func, *args)


def test_a_scheduler_that_watches_nothing_is_told():
    async def main():
        loop = asyncio.get_running_loop()
        register_scheduler(loop, OnlyScheduler(loop))
        left, right = socket.socketpair()
        stream = IOStream(left)
        with pytest.raises(RuntimeError, match="is no Reactor"):
            stream.read_bytes(1)
        with pytest.raises(RuntimeError, match="is no Reactor"):
            await open_process(["true"])
        with pytest.raises(RuntimeError, match="is no Reactor"):
            await serve_tcp(ignore)
        stream.close()
        right.close()

    asyncio.run(main())


async def test_a_process_whose_input_was_closed_before():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        process.stdin.close()
        assert await process.communicate() == (b"", None)


async def test_last_words_of_tls_that_cannot_be_watched(server_context, client_context):
    reports = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.put_nowait(context["exception"]))
    over = asyncio.Event()

    async def handle(stream):
        await over.wait()

    def refuse(*args):
        raise OSError(errno.ENOSPC, "no more watches")

    async with await serve_tcp(handle, "localhost", ssl=server_context) as server:
        stream = await connect_tcp("localhost", server.port, ssl=client_context)
        assert isinstance(stream, SSLIOStream)
        reactor = stream._use_reactor()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reactor, "add_handler", refuse, raising=False)
            stream.close()
        assert stream.closed()
        assert stream.socket.fileno() == -1
        second = await connect_tcp("localhost", server.port, ssl=client_context)
        raw = second.socket.raw
        methods = {"send": raw.send, "fileno": raw.fileno, "close": raw.close}
        second.socket.raw = type("Raw", (), {**methods, "shutdown": refuse})
        second.close()
        assert second.socket.fileno() == -1
        over.set()
        assert (await reports.get()).errno == errno.ENOSPC
    assert reports.empty()


class Engine:
    """A TLS engine whose methods raise what they are told to."""

    def __init__(self, engine):
        self.engine, self.script = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def _run(self, operation, data):
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        return operation(data)

    def send(self, data):
        return self._run(self.engine.send, data[:5])

    def read_into(self, buffer):
        return self._run(self.engine.read_into, buffer)


async def test_what_tls_wants_of_its_own_accord(server_context, client_context):
    want_read = ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "wants to read")
    want_write = ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "wants to write")
    left, right = map(IOStream, socket.socketpair())
    client, server = await asyncio.gather(
        left.start_tls(False, client_context, "localhost"), right.start_tls(True, server_context)
    )
    async with client, server:
        engine = client._engine = Engine(client._engine)
        engine.script = [want_write]
        reading = client.read_bytes(5)
        await server.write(b"hello")
        assert await reading == b"hello"
        engine.script = [None, want_read]
        written = client.write(b"0123456789")
        await server.write(b"!")
        assert await server.read_bytes(10) == b"0123456789"
        await written
        assert await client.read_bytes(1) == b"!"
        # What the write waits for may be received by the read that comes after it.
        engine.script = [None, want_read, want_read]
        written = client.write(b"0123456789")
        await server.write(b"!")
        assert await server.read_bytes(10) == b"0123456789"
        await written
        assert await client.read_bytes(1) == b"!"
        engine.script = [None, OSError(errno.ENOBUFS, "no buffers")]
        client.write(b"0123456789")  # the first part is sent, so the error comes the next time
        assert await server.read_bytes(10) == b"0123456789"
        engine.script = [None, OSError(errno.ENOBUFS, "no buffers"), OSError(errno.EPIPE, "gone")]
        with pytest.raises(StreamClosedError):
            await client.write(b"0123456789")


async def test_a_file_whose_stream_closes_as_there_is_room(make_pair, tmp_path):
    class Closing(IOStream):
        def _flush(self):
            super()._flush()
            self.close()

    stream, _ = make_pair(Closing)
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb") as file, pytest.raises(StreamClosedError):
        await stream.sendfile(file)


async def test_a_file_that_cannot_be_waited_for_after_a_failed_write(make_pair):
    class Breaking(IOStream):
        def write_to_fd(self, data):
            raise OSError(errno.EPIPE, "broken")

    stream, _ = make_pair(Breaking)
    with pytest.raises(StreamClosedError):
        stream.write(b"x")
    with pytest.raises(StreamClosedError):
        await stream.sendfile(io.BytesIO(b"y"))


async def test_no_address_that_can_be_listened_on(monkeypatch):
    from waterspout.iostream import _serve

    def refuse(*args):
        raise OSError(errno.EADDRNOTAVAIL, "not here")

    monkeypatch.setattr(_serve, "_listen_on", refuse)
    with pytest.raises(OSError, match="not here"):
        await serve_tcp(ignore)
    with pytest.raises(OSError, match="not here"):
        await serve_tcp(ignore, "127.0.0.1")


async def test_a_reader_that_is_alive_does_not_end_who_writes():
    reading, writing = (PipeIOStream(end) for end in os.pipe())
    async with reading, writing:
        writing.set_close_callback(print)
        writing._on_events(writing.fileno(), READ)  # as some loops tell for no reason
        await writing.write(b"x")
        assert await reading.read_bytes(1) == b"x"


async def test_a_read_interrupted_by_a_signal_goes_on(monkeypatch):
    reading, writing = (PipeIOStream(end) for end in os.pipe())
    errors, real = [InterruptedError()], os.readv

    def readv(*args):
        if errors:
            raise errors.pop()
        return real(*args)

    async with reading, writing:
        monkeypatch.setattr(os, "readv", readv)
        waiting = reading.read_bytes(1)
        await writing.write(b"x")
        assert await waiting == b"x"
    assert errors == []


@pytest.mark.parametrize(
    ("issue", "says"),
    [
        (lambda ca: ca.issue_cert("localhost", not_after=LONG_AGO), "certificate has expired"),
        (lambda ca: ca.issue_cert("localhost", not_before=LATER), "certificate is not yet valid"),
        (lambda ca: ca.issue_cert("elsewhere.example"), "not valid for 'localhost'"),
        (lambda ca: trustme.CA().issue_cert("localhost"), "unable to get local issuer"),
    ],
    ids=["expired", "not yet valid", "wrong host", "unknown authority"],
)
async def test_certificates_of_each_bad_kind(authority, client_context, issue, says):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issue(authority).configure_cert(context)
    async with await serve_tcp(ignore, "localhost", ssl=context) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match=says):
            await connect_tcp("localhost", server.port, ssl=client_context)


async def test_a_certificate_that_signed_itself(tmp_path, client_context):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "cert")
    authority.private_key_pem.write_to_path(tmp_path / "key")
    options = {"certfile": tmp_path / "cert", "keyfile": tmp_path / "key"}
    async with await serve_tcp(ignore, "localhost", ssl=options) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="self[- ]signed"):
            await connect_tcp("localhost", server.port, ssl=client_context)


async def test_no_bytes_at_all(pair):
    stream, _ = pair
    got = []
    assert await stream.read_bytes(0, streaming_callback=got.append) == b""
    assert await stream.read_into(bytearray()) == 0
    assert await stream.peek(0) == b""
    assert got == []


async def test_bytes_streamed_to_the_end_do_not_come_twice(pair):
    stream, peer = pair
    got = []
    reading = stream.read_until_close(streaming_callback=got.append)
    reading.add_done_callback(lambda _: task.cancel())
    task = asyncio.create_task(awaited(reading))
    await asyncio.sleep(0)
    peer.send(b"abc")
    peer.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stream.read_until_close() == b""
    assert b"".join(got) == b"abc"


async def test_one_address_of_several_that_cannot_be_listened_on():
    with pytest.raises(OSError):
        await serve_tcp(ignore, ["127.0.0.1", "192.0.2.1"])


async def test_a_server_that_is_closed_while_it_accepts(monkeypatch):
    server = await serve_tcp(ignore, "127.0.0.1")
    make = server._new_stream

    def close_and_make(sock):
        server._stop_listening()
        return make(sock)

    monkeypatch.setattr(server, "_new_stream", close_and_make)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        while server.sockets[0].fileno() >= 0:
            await asyncio.sleep(0)
    await server.close()


async def test_more_connections_than_are_accepted_at_once(monkeypatch):
    from waterspout.iostream import _server

    monkeypatch.setattr(_server, "ACCEPT_AT_ONCE", 2)
    counted, over = [], asyncio.Event()

    async def handle(stream):
        counted.append(stream)
        if len(counted) == 5:
            over.set()

    async with await serve_tcp(handle, "127.0.0.1") as server:
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            await over.wait()


async def test_a_tls_client_whose_server_is_gone_at_once(client_context, monkeypatch):
    def refuse(self, context):
        raise OSError(errno.ENOTCONN, "gone")

    monkeypatch.setattr(SSLIOStream, "_wrap", refuse)
    async with await serve_tcp(ignore, "localhost") as server:
        with pytest.raises(OSError, match="gone"):
            await connect_tcp("localhost", server.port, ssl=client_context)


async def test_cancelled_while_it_fails_to_start():
    starting = asyncio.create_task(open_process(["no such program"]))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_a_process_that_is_given_nothing():
    async with await open_process(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert await process.communicate() == (b"", None)
