"""Streams over loopback: echoes, lines, frames, large reads and writes, plain and TLS.

The other end is always the same process (`peer_process`), so that only one end differs.
"""

import asyncio
import contextlib
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from harness import case

OTHER_END = str(Path(__file__).with_name("peer_process.py"))
MIB = 1 << 20


async def _other_end(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, OTHER_END, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )


# 64 connections, each a line of 100 bytes that comes back.

CONNECTIONS, SIZE = 64, 100
echo = case("echo of 100 bytes, 64 connections", 100_000)


async def _load(port: int, count: int) -> float:
    process = await _other_end("echo", port, CONNECTIONS, count, SIZE)
    output, _ = await process.communicate()
    return float(output)


@echo.row("asyncio streams")
async def _(count: int) -> float:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                writer.write(await reader.readuntil(b"\n"))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        return await _load(server.sockets[0].getsockname()[1], count)
    finally:
        server.close()


@echo.row("waterspout")
async def _(count: int) -> float:
    from waterspout.iostream import serve_tcp

    async def handle(stream: Any) -> None:
        while True:
            stream.write(await stream.read_until(b"\n"))

    async with await serve_tcp(handle, "127.0.0.1") as server:
        return await _load(server.port, count)


@echo.row("tornado")
async def _(count: int) -> float:
    from tornado.iostream import StreamClosedError
    from tornado.tcpserver import TCPServer

    class Server(TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            with contextlib.suppress(StreamClosedError):
                while True:
                    stream.write(await stream.read_until(b"\n"))

    server = Server()
    server.listen(0, "127.0.0.1")
    [listener] = server._sockets.values()
    try:
        return await _load(listener.getsockname()[1], count)
    finally:
        server.stop()


@echo.row("bare epoll")
async def _(count: int) -> float:
    with socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as listener:
        process = await _other_end("echo", listener.getsockname()[1], CONNECTIONS, count, SIZE)
        poll, socks = select.epoll(), {}
        for _ in range(CONNECTIONS):
            sock, _address = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            socks[sock.fileno()] = sock
            poll.register(sock.fileno(), select.EPOLLIN)
        while socks:
            for fd, _ in poll.poll():
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = socks[fd].recv(4096)
                if data:
                    with contextlib.suppress(ConnectionError):
                        socks[fd].send(data)
                else:
                    poll.unregister(fd)
                    socks.pop(fd).close()
        output, _ = await process.communicate()
        return float(output)


# What arrives at one connection: a context manager each that gives the reading side.


class Certificates:
    """A small authority, in files."""

    def __init__(self, folder: Path) -> None:
        import trustme

        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self.context)


@contextlib.contextmanager
def _certificates(tls: bool) -> Any:
    if not tls:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Certificates(Path(folder))


Receiver = Callable[[Any, int], Awaitable[None]]
Accept = Callable[[ssl.SSLContext | None], Any]


@contextlib.asynccontextmanager
async def _asyncio_end(context: ssl.SSLContext | None) -> AsyncIterator[Any]:
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)),
        "127.0.0.1",
        0,
        ssl=context,
        limit=MIB,
    )

    async def get() -> Any:
        return await accepted

    yield server.sockets[0].getsockname()[1], get
    (await accepted)[1].close()
    server.close()


@contextlib.asynccontextmanager
async def _waterspout_end(context: ssl.SSLContext | None) -> AsyncIterator[Any]:
    from waterspout.iostream import serve_tcp

    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def handle(stream: Any) -> None:
        accepted.set_result(stream)
        await over.wait()

    async with await serve_tcp(handle, "127.0.0.1", ssl=context) as server:

        async def get() -> Any:
            return await accepted

        yield server.port, get
        over.set()


@contextlib.asynccontextmanager
async def _tornado_end(context: ssl.SSLContext | None) -> AsyncIterator[Any]:
    from tornado.tcpserver import TCPServer

    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Server(TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            accepted.set_result(stream)

    server = Server(ssl_options=context)
    server.listen(0, "127.0.0.1")
    [listener] = server._sockets.values()

    async def get() -> Any:
        return await accepted

    yield listener.getsockname()[1], get
    (await accepted).close()
    server.stop()


@contextlib.asynccontextmanager
async def _blocking_end(context: ssl.SSLContext | None) -> AsyncIterator[Any]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socks = []

        async def get() -> Any:
            sock, _ = listener.accept()
            sock.setblocking(True)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            socks.append(sock)
            return sock

        yield listener.getsockname()[1], get
        for sock in socks:
            sock.close()


def _receiving(
    name: str,
    operations: int,
    size: int,
    rows: dict[str, tuple[Accept, Receiver]],
    *,
    tls: bool = False,
) -> None:
    """A case in which so many pieces of a size are received."""
    chosen = case(name, operations)
    for row, (accept, receive) in rows.items():
        chosen.row(row)(_receiver(accept, receive, size, tls))


def _receiver(accept: Accept, receive: Receiver, size: int, tls: bool) -> Any:
    async def run(count: int) -> float:
        chunk = max(65536, size)
        with _certificates(tls) as certificates:
            context = certificates and certificates.context
            authority = [certificates.authority] if certificates else []
            async with accept(context) as (port, get):
                process = await _other_end(
                    "send", port, chunk, count * size // chunk + 1, *authority
                )
                end = await get()
                started = time.perf_counter()
                await receive(end, count)
                elapsed = time.perf_counter() - started
                process.kill()
                await process.wait()
                return elapsed

    return run


async def _asyncio_until(end: Any, count: int) -> None:
    readuntil = end[0].readuntil
    for _ in range(count):
        await readuntil(b"\n")


async def _asyncio_lines(end: Any, count: int) -> None:
    async for _ in end[0]:
        count -= 1
        if not count:
            return


async def _asyncio_frames(end: Any, count: int) -> None:
    readexactly = end[0].readexactly
    for _ in range(count):
        await readexactly(64)


async def _asyncio_large(end: Any, count: int) -> None:
    for _ in range(count):
        await end[0].readexactly(MIB)


async def _until(end: Any, count: int) -> None:
    read_until = end.read_until
    for _ in range(count):
        await read_until(b"\n")


async def _lines(end: Any, count: int) -> None:
    async for _ in end:
        count -= 1
        if not count:
            return


async def _frames(end: Any, count: int) -> None:
    read_bytes = end.read_bytes
    for _ in range(count):
        await read_bytes(64)


async def _large(end: Any, count: int) -> None:
    for _ in range(count):
        await end.read_bytes(MIB)


async def _large_into(end: Any, count: int) -> None:
    memory = bytearray(MIB)
    for _ in range(count):
        await end.read_into(memory)


async def _blocking_large(end: socket.socket, count: int) -> None:
    memory = memoryview(bytearray(MIB))
    for _ in range(count):
        got = 0
        while got < MIB:
            got += end.recv_into(memory[got:])


_receiving(
    "lines of 64 bytes, read_until",
    200_000,
    64,
    {
        "asyncio readuntil": (_asyncio_end, _asyncio_until),
        "waterspout": (_waterspout_end, _until),
        "tornado": (_tornado_end, _until),
    },
)
_receiving(
    "lines of 64 bytes, async for",
    200_000,
    64,
    {"asyncio": (_asyncio_end, _asyncio_lines), "waterspout": (_waterspout_end, _lines)},
)
_receiving(
    "frames of 64 bytes",
    200_000,
    64,
    {
        "asyncio readexactly": (_asyncio_end, _asyncio_frames),
        "waterspout": (_waterspout_end, _frames),
        "tornado": (_tornado_end, _frames),
    },
)
for _tls in (False, True):
    _receiving(
        "1 MiB at a time" + (" over TLS" if _tls else ""),
        200 if _tls else 600,
        MIB,
        {
            "blocking socket": (_blocking_end, _blocking_large),
            "waterspout read_into": (_waterspout_end, _large_into),
            "waterspout read_bytes": (_waterspout_end, _large),
            "tornado read_into": (_tornado_end, _large_into),
            "tornado": (_tornado_end, _large),
            "asyncio": (_asyncio_end, _asyncio_large),
        },
        tls=_tls,
    )


# Writing.


def _writing(name: str, operations: int, data: bytes, flush_every: int) -> None:
    chosen = case(name, operations)

    async def asyncio_writes(end: Any, count: int) -> None:
        writer = end[1]
        for number in range(count):
            writer.write(data)
            if number % flush_every == 0:
                await writer.drain()
        writer.transport.set_write_buffer_limits(0)
        await writer.drain()

    async def stream_writes(end: Any, count: int) -> None:
        future = None
        for number in range(count):
            future = end.write(data)
            if number % flush_every == 0:
                await future
        await future

    async def blocking_writes(end: socket.socket, count: int) -> None:
        for _ in range(count):
            end.sendall(data)

    rows: dict[str, tuple[Accept, Receiver]] = {
        "asyncio": (_asyncio_end, asyncio_writes),
        "waterspout": (_waterspout_end, stream_writes),
        "tornado": (_tornado_end, stream_writes),
        "blocking socket": (_blocking_end, blocking_writes),
    }
    for row, (accept, write) in rows.items():
        chosen.row(row)(_writer(accept, write))


def _writer(accept: Accept, write: Receiver) -> Any:
    async def run(count: int) -> float:
        async with accept(None) as (port, get):
            process = await _other_end("drain", port)
            end = await get()
            started = time.perf_counter()
            await write(end, count)
            elapsed = time.perf_counter() - started
            process.kill()
            await process.wait()
            return elapsed

    return run


_writing("a million writes of 64 bytes", 1_000_000, b"x" * 64, 1000)
_writing("1 GiB in writes of 1 MiB", 1024, b"x" * MIB, 1)
