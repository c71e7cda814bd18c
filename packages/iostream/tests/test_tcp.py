"""`connect`, `connect_tcp` and `serve_tcp` on real sockets."""

import asyncio
import contextlib
import errno
import gc
import socket

import pytest

from waterspout.iostream import IOStream, StreamClosedError, connect_tcp, serve_tcp
from waterspout.iostream._connect import interleave

LOCAL = "127.0.0.1"


async def echo(stream):
    while True:
        await stream.write(await stream.read_until(b"\n"))


def unused_port():
    with socket.create_server((LOCAL, 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def addresses(monkeypatch):
    """What names resolve to: lists of (family, address) by name."""
    table = {}
    real = socket.getaddrinfo

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if host not in table:
            return real(host, port, family, type, proto, flags)
        found = table[host]
        if isinstance(found, Exception):
            raise found
        return [(f, socket.SOCK_STREAM, 6, "", a) for f, a in found if family in (0, f)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


async def test_a_round_trip():
    async with await serve_tcp(echo, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"hello\n")
            assert await stream.read_until(b"\n") == b"hello\n"
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert server.connections == 1
            assert f"port={server.port}" in repr(server)
    assert "closed" in repr(server)
    assert server.connections == 0


async def test_many_clients():
    async def client(port, number):
        async with await connect_tcp(LOCAL, port) as stream:
            for count in range(20):
                await stream.write(b"%d %d\n" % (number, count))
                assert await stream.read_until(b"\n") == b"%d %d\n" % (number, count)

    async with await serve_tcp(echo, LOCAL) as server:
        await asyncio.gather(*(client(server.port, number) for number in range(30)))


async def test_what_a_handler_wrote_is_sent_before_the_close():
    async def handler(stream):
        stream.write(b"x" * 5_000_000)

    async with await serve_tcp(handler, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            assert len(await stream.read_until_close()) == 5_000_000


async def test_a_handlers_error_is_reported_and_closes_its_stream():
    reports = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.put_nowait(c))

    async def handler(stream):
        if await stream.read_bytes(1) == b"f":
            raise LookupError("lost")
        await stream.read_bytes(1)

    async with await serve_tcp(handler, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"f")
            assert await stream.read_until_close() == b""
        assert isinstance((await reports.get())["exception"], LookupError)
        # That a client went away is not worth a report.
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"x")
    assert reports.empty()


async def test_closing_lets_handlers_finish():
    finished = []

    async def handler(stream):
        await stream.read_until_close()
        await asyncio.sleep(0.01)
        finished.append(True)

    server = await serve_tcp(handler, LOCAL)
    stream = await connect_tcp(LOCAL, server.port)
    while not server.connections:
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp(LOCAL, stream.socket.getpeername()[1])
    stream.close()
    await closing
    assert finished == [True]
    await server.close()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_closing_cancels_handlers_that_do_not(how):
    ended = []

    async def handler(stream):
        try:
            await stream.read_bytes(1)
        finally:
            ended.append(True)

    server = await serve_tcp(handler, LOCAL)
    async with await connect_tcp(LOCAL, server.port) as stream:
        while not server.connections:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(server.close(timeout=0.01 if how == "timeout" else None))
        await asyncio.sleep(0)
        if how == "cancel":
            closing.cancel()
        await asyncio.wait([closing])
        assert await stream.read_until_close() == b""
    await server.close()
    assert ended == [True]


@pytest.mark.only_on("linux")
async def test_several_addresses_and_ports():
    async with await serve_tcp(echo, [LOCAL, "::1"]) as server:
        ports = {listener.getsockname()[1] for listener in server.sockets}
        assert ports == {server.port}
        for host in (LOCAL, "::1", "localhost"):
            async with await connect_tcp(host, server.port) as stream:
                await stream.write(b"x\n")
                assert await stream.read_until(b"\n") == b"x\n"
        with pytest.raises(OSError, match="in use"):
            await serve_tcp(echo, [LOCAL], server.port)
    async with await serve_tcp(echo, None, reuse_port=True) as server:
        async with await serve_tcp(echo, None, server.port, reuse_port=True) as twin:
            assert twin.port == server.port


async def test_a_name_that_cannot_be_resolved_leaves_nothing(addresses):
    addresses["nowhere"] = socket.gaierror(socket.EAI_NONAME, "no such name")
    for call in (connect_tcp("nowhere", 80), serve_tcp(echo, [LOCAL, "nowhere"])):
        with pytest.raises(socket.gaierror):
            await call


async def test_refused():
    with pytest.raises(ConnectionRefusedError, match="127.0.0.1"):
        await connect_tcp(LOCAL, unused_port())
    stream = IOStream(socket.socket())
    with pytest.raises(ConnectionRefusedError):
        await stream.connect((LOCAL, unused_port()))
    assert stream.closed()
    assert isinstance(stream.error, ConnectionRefusedError)
    with pytest.raises(StreamClosedError):
        await stream.connect((LOCAL, unused_port()))


async def test_the_second_address_is_tried_at_once_when_the_first_fails(addresses):
    async with await serve_tcp(echo, LOCAL) as server:
        addresses["host"] = [
            (socket.AF_INET, (LOCAL, unused_port())),
            (socket.AF_INET, (LOCAL, server.port)),
        ]
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with await connect_tcp("host", server.port):
            assert loop.time() - started < 0.2


@pytest.fixture
def black_hole():
    """The port of a listener whose queue is full: attempts to connect to it get no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOCAL, 0))
        listener.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.only_on("linux")
@pytest.mark.slow
async def test_an_address_that_is_silent_is_overtaken(addresses, black_hole):
    async with await serve_tcp(echo, LOCAL) as server:
        addresses["host"] = [
            (socket.AF_INET, (LOCAL, black_hole)),
            (socket.AF_INET, (LOCAL, server.port)),
        ]
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with await connect_tcp("host", server.port) as stream:
            assert stream.socket.getpeername()[1] == server.port
            assert loop.time() - started > 0.2
    gc.collect()


async def test_all_addresses_refused_says_what_each_did(addresses):
    addresses["host"] = [(socket.AF_INET, (LOCAL, unused_port())) for _ in range(2)]
    with pytest.raises(ConnectionRefusedError) as caught:
        await connect_tcp("host", 80)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 2


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_connect_that_is_given_up_leaves_nothing(addresses, black_hole, how):
    addresses["host"] = [(socket.AF_INET, (LOCAL, black_hole))] * 2
    connecting = asyncio.create_task(
        connect_tcp("host", 1, timeout=0.005 if how == "timeout" else None)
    )
    await asyncio.sleep(0.02)
    if how == "cancel":
        connecting.cancel()
    await asyncio.wait([connecting])
    if how == "cancel":
        assert connecting.cancelled()
    else:
        assert isinstance(connecting.exception(), TimeoutError)
    gc.collect()  # a socket left open would complain


async def test_cancelled_at_every_moment():
    """At each iteration of the loop: either it is cancelled and nothing is left, or it is there."""
    async with await serve_tcp(echo, LOCAL) as server:
        for moment in range(200):
            connecting = asyncio.create_task(connect_tcp(LOCAL, server.port))
            for _ in range(moment):
                await asyncio.sleep(0)
            if connecting.done():
                connecting.result().close()
                break
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
            gc.collect()


@pytest.mark.only_on("linux")
async def test_local_addr():
    async with await serve_tcp(echo, [LOCAL, "::1"]) as server:
        async with await connect_tcp(
            "localhost", server.port, local_addr=("127.0.0.2", 0)
        ) as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.2"
        with pytest.raises(OSError, match="another family"):
            await connect_tcp("::1", server.port, local_addr=(LOCAL, 0))


async def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="host must be a string"):
        await connect_tcp(5, 80)
    for bad in (-1, 65536):
        with pytest.raises(ValueError, match="port must be from 0 to 65535"):
            await connect_tcp(LOCAL, bad)
        with pytest.raises(ValueError, match="port must be from 0 to 65535"):
            await serve_tcp(echo, LOCAL, bad)
    with pytest.raises(TypeError, match="port must be an integer"):
        await connect_tcp(LOCAL, "80")
    with pytest.raises(TypeError, match="timeout must be seconds"):
        await connect_tcp(LOCAL, 80, timeout="1")
    with pytest.raises(TypeError, match="handler must be callable"):
        await serve_tcp(None, LOCAL)
    async with await serve_tcp(echo, LOCAL) as server:
        with pytest.raises(TypeError, match="unexpected keyword"):
            await connect_tcp(LOCAL, server.port, no_such_option=1)


async def test_connect_of_a_stream():
    async with await serve_tcp(echo, LOCAL) as server:
        stream = IOStream(socket.socket())
        writing = None
        connecting = asyncio.create_task(stream.connect((LOCAL, server.port)))
        await asyncio.sleep(0)
        writing, reading = stream.write(b"early\n"), stream.read_until(b"\n")
        assert await connecting is stream
        await writing
        assert await reading == b"early\n"
        with pytest.raises(RuntimeError, match="connecting or connected"):
            await stream.connect((LOCAL, server.port))
        await stream.write(b"still\n")
        assert await stream.read_until(b"\n") == b"still\n"
        with pytest.raises(RuntimeError, match="connecting or connected"):
            async with IOStream(socket.socket()) as other:
                first = asyncio.create_task(other.connect((LOCAL, server.port)))
                await asyncio.sleep(0)
                second = other.connect((LOCAL, server.port))
                try:
                    await second
                finally:
                    await first
        stream.close()


async def test_connect_with_a_callback_starts_at_once():
    connected = asyncio.Queue()
    async with await serve_tcp(echo, LOCAL) as server:
        stream = IOStream(socket.socket())
        task = stream.connect((LOCAL, server.port), connected.put_nowait)
        assert isinstance(task, asyncio.Task)
        assert await connected.get() is stream
        stream.close()
    reports = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.put_nowait(c))
    stream = IOStream(socket.socket())
    stream.connect((LOCAL, unused_port()), connected.put_nowait)
    assert isinstance((await reports.get())["exception"], ConnectionRefusedError)


async def test_connect_resolves_names_off_the_loop(addresses):
    async with await serve_tcp(echo, LOCAL) as server:
        addresses["host"] = [(socket.AF_INET, (LOCAL, server.port))]
        async with IOStream(socket.socket()) as stream:
            await stream.connect(("host", server.port))
        addresses["host"] = socket.gaierror(socket.EAI_NONAME, "no such name")
        stream = IOStream(socket.socket())
        with pytest.raises(socket.gaierror):
            await stream.connect(("host", server.port))
        assert stream.closed()


@pytest.mark.only_on("linux")
async def test_closing_while_it_connects(black_hole):
    stream = IOStream(socket.socket())
    connecting = asyncio.create_task(stream.connect((LOCAL, black_hole)))
    await asyncio.sleep(0.005)
    reading = stream.read_bytes(1)
    stream.close()
    with pytest.raises(StreamClosedError):
        await connecting
    with pytest.raises(StreamClosedError):
        await reading


@pytest.mark.only_on("linux", "darwin")
async def test_unix_sockets_too(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        async with IOStream(socket.socket(socket.AF_UNIX)) as stream:
            assert await stream.connect(str(tmp_path / "socket")) is stream
        with pytest.raises(FileNotFoundError):
            await IOStream(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "none"))


async def test_without_descriptors_accepting_pauses(monkeypatch):
    import waterspout.iostream._server as module

    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.02)
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c["exception"]))
    errors = iter([errno.ECONNABORTED, errno.EMFILE, errno.ENFILE])
    real = socket.socket.accept

    def accept(listener):
        for error in errors:
            raise OSError(error, "not now")
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with await serve_tcp(echo, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"patience\n")
            assert await stream.read_until(b"\n") == b"patience\n"
    assert [error.errno for error in reports] == [errno.EMFILE, errno.ENFILE]


async def test_closing_while_accepting_pauses(monkeypatch):
    reports = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.put_nowait(c))

    def accept(listener):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(socket.socket, "accept", accept)
    server = await serve_tcp(echo, LOCAL)
    async with await connect_tcp(LOCAL, server.port):
        await reports.get()
        await server.close()


def test_families_take_turns():
    four, six = socket.AF_INET, socket.AF_INET6
    found = [(six, 1), (six, 2), (six, 3), (four, 4), (four, 5)]
    assert interleave(found) == [(six, 1), (four, 4), (six, 2), (four, 5), (six, 3)]
    assert interleave([]) == []


async def test_what_is_done_before_it_connects_waits(addresses):
    async with await serve_tcp(echo, LOCAL) as server:
        addresses["host"] = [(socket.AF_INET, (LOCAL, server.port))]
        stream = IOStream(socket.socket())
        closed = asyncio.Event()
        stream.set_close_callback(closed.set)
        reading, writing = stream.read_until(b"\n"), stream.write(b"early\n")
        await asyncio.sleep(0.01)
        assert not stream.closed()
        task = stream.connect(("host", server.port), lambda _: None)
        later = stream.write(b"later\n")
        await asyncio.gather(task, writing, later)
        assert await reading == b"early\n"
        assert await stream.read_until(b"\n") == b"later\n"
        with pytest.raises(TypeError, match="callback must be callable"):
            stream.connect((LOCAL, 1), 5)
        with pytest.raises(RuntimeError, match="connected already"):
            stream.connect((LOCAL, 1), print)
        stream.close()
        await asyncio.wait_for(closed.wait(), 10)
        stream.set_nodelay(True)  # of no use any more, and no error


@pytest.mark.only_on("linux")
async def test_a_unix_socket_whose_queue_is_full(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            for _ in range(10):
                stream = IOStream(socket.socket(socket.AF_UNIX))
                stack.callback(stream.close)
                await stream.connect(path)
                assert stream.socket.getpeername() == path


@pytest.mark.only_on("linux", "darwin")
async def test_a_connection_that_is_gone_already():
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            IOStream(accepted)
    async with await serve_tcp(echo, LOCAL) as server:
        client = socket.create_connection((LOCAL, server.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"next\n")
            assert await stream.read_until(b"\n") == b"next\n"


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("steps", range(10))
async def test_the_winner_is_closed_when_cancelled_while_losers_end(
    addresses, black_hole, steps, monkeypatch
):
    monkeypatch.setattr("waterspout.iostream._connect.ATTEMPT_DELAY", 0.01)
    async with await serve_tcp(echo, LOCAL) as server:
        addresses["host"] = [
            (socket.AF_INET, (LOCAL, black_hole)),
            (socket.AF_INET, (LOCAL, server.port)),
        ]
        connecting = asyncio.create_task(connect_tcp("host", server.port))
        while not server.connections and not connecting.done():
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        if not connecting.cancelled():
            connecting.result().close()
    gc.collect()


async def test_a_handler_may_close_its_server():
    closed = asyncio.Event()

    async def handler(stream):
        await server.close()
        closed.set()

    server = await serve_tcp(handler, LOCAL)
    async with await connect_tcp(LOCAL, server.port) as stream:
        assert await stream.read_until_close() == b""
    await asyncio.wait_for(closed.wait(), 10)
    await server.close()
    assert server.port > 0


async def test_a_block_that_raises_does_not_wait_for_handlers():
    async def handler(stream):
        await stream.read_until_close()

    with pytest.raises(LookupError):
        async with await serve_tcp(handler, LOCAL) as server:
            stream = await connect_tcp(LOCAL, server.port)
            while not server.connections:
                await asyncio.sleep(0.001)
            raise LookupError
    assert await stream.read_until_close() == b""
    stream.close()


async def test_bad_arguments_of_streams_raise_at_once():
    with pytest.raises(TypeError, match="max_bufer_size"):
        await serve_tcp(echo, LOCAL, max_bufer_size=3)
    with pytest.raises(ValueError, match="host must name at least one address"):
        await serve_tcp(echo, [])
    async with await serve_tcp(echo, LOCAL, ssl=False) as server:
        async with await connect_tcp(LOCAL, server.port, ssl=False) as stream:
            assert type(stream) is IOStream


async def test_a_system_without_a_family_serves_the_other(monkeypatch, addresses):
    class NoIPv6(socket.socket):
        def bind(self, address):
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "no such address")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", NoIPv6)
    async with await serve_tcp(echo) as server:
        async with await connect_tcp(LOCAL, server.port):
            assert len(server.sockets) == 1
    with pytest.raises(OSError, match="no such address"):
        await serve_tcp(echo, "::1")


async def test_a_group_that_only_tells_of_a_close_is_not_reported():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c["exception"]))

    async def handler(stream):
        async with asyncio.TaskGroup() as group:
            group.create_task(echo(stream))

    async with await serve_tcp(handler, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"x\n")
            assert await stream.read_until(b"\n") == b"x\n"
    assert reports == []


@pytest.mark.parametrize("size", [100, 8_000_000])
@pytest.mark.parametrize("awaits", [False, True])
async def test_a_handler_that_ends_its_writing_side_sends_everything(size, awaits, caplog):
    async def handler(stream):
        await stream.read_until(b"\n")
        written, ended = stream.write(b"x" * size), stream.write_eof()
        if awaits:
            await written
            await ended

    async with await serve_tcp(handler, "127.0.0.1") as server:
        async with await connect_tcp("127.0.0.1", server.port) as stream:
            await stream.write(b"go\n")
            assert len(await stream.read_until_close()) == size
    assert caplog.records == []
