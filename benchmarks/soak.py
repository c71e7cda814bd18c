"""A soak: thousands of connections, most of them idle, and two minutes of what happens to them.

`python benchmarks/soak.py [--seconds 120] [--connections 5000] [--tls]`

Rules:

1.  An echo server and its clients are a process each, over loopback. A tenth of the connections is
    active at any time; which ones, changes all the time.
2.  An active connection sends messages of random size, several at a time, each with the
    connection's number, its own, and a checksum. The server checks these, and the client that
    what returns is the same to the byte, whichever way and however impatiently it reads.
3.  Some are not treated well: reset by either side, closed in the middle of a message by either
    side, closed for sending alone (not with TLS, which has no such thing). What must come after
    that still has to come, and the end has to be told as what it was. Another connection then
    takes the place.
4.  After the first quarter, to which all warming up belongs, and at the end, everybody holds
    still, and the two moments are compared. There must be exactly as many descriptors as
    connections, besides those of an idle process, and in the end none at all. Resident memory may
    grow by `GROWTH_SHARE` and `GROWTH_BYTES` at most, when what the C library only keeps for
    later is given back, and Python's blocks of memory by `BLOCKS_SHARE`.
5.  Whatever is violated is listed, and the exit status is 1.

It also measures what an idle connection costs in memory, beside asyncio's streams and Tornado's:
every server and all its clients are a process each, and what is reported is the growth of its
resident memory divided by the connections, each of which has had one exchange. With a few
hundred connections the figure is too low, as many fit into what the warming up has left.

It needs `rich`, Tornado, and with `--tls` trustme.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from waterspout.ioloop import READ, IOLoop
from waterspout.iostream import IOStream, StreamClosedError, connect_tcp, serve_tcp

LOCAL = "127.0.0.1"
PORTS = 8
"""Ports of the server. A client's port is of no use with one for a minute after each connection."""
ACTIVE = 10
"""One connection in so many is active."""
SETTLE = 15.0
"""Seconds that the last of the closed connections may take to be gone, on both sides."""
SESSION = 60.0
"""Seconds in which something must have come of what a client does with a connection."""
GROWTH_SHARE, GROWTH_BYTES = 0.05, 8 * 1024 * 1024
"""How much resident memory may grow from the first quarter to the end: a share of it, and bytes."""
BLOCKS_SHARE = 0.01
"""The same for the blocks of memory that Python has allocated, which do not depend on how full the
pages are; one lost with each connection would be more."""

HEADER = struct.Struct("!cIIII")  # what to do, the connection, the number, the size, the checksum
ECHO, LAST, CUT, RESET = b"E", b"L", b"C", b"R"

GREETING = 100
"""Bytes that are exchanged on a connection before it is idle, where that is measured."""
PEERS = ("waterspout", "asyncio", "tornado")

Method: TypeAlias = Callable[..., Awaitable[Any]]


# What a process knows of itself


def resident(pid: "int | str" = "self") -> int:
    """Bytes of memory that a process has."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except FileNotFoundError:  # not Linux
        number = os.getpid() if pid == "self" else pid
        command = ["ps", "-o", "rss=", "-p", str(number)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout) * 1024
    return pages * resource.getpagesize()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/dev/fd")) - 1  # noqa: PTH208 (its entries are no files to look at)


def trim() -> None:
    """Have the C library give back what it only keeps for later, if it can do that."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def allow_descriptors(count: int) -> None:
    """Raise the limit for this process to so many, if it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    highest = count if hard == resource.RLIM_INFINITY else max(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, highest))
    except (ValueError, OSError) as error:
        sys.exit(f"{count} descriptors are needed, and {hard} is the limit: {error}")


def server_context(settings: dict[str, Any]) -> ssl.SSLContext | None:
    if not settings["folder"]:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(settings["folder"]) / "server.pem")
    return context


def client_context(settings: dict[str, Any]) -> ssl.SSLContext | None:
    if not settings["folder"]:
        return None
    return ssl.create_default_context(cafile=str(Path(settings["folder"]) / "ca.pem"))


async def settled(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, or `SETTLE` seconds."""
    end = time.monotonic() + SETTLE
    while True:
        gc.collect()
        if is_so() or time.monotonic() > end:
            break
        await asyncio.sleep(0.05)
    trim()


def reset(stream: IOStream) -> None:
    """Close with a reset instead of an end."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close(ConnectionResetError("on purpose"))


class _Role:
    """What is the same for the two processes of the soak."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()  # what must not happen
        self.idle_descriptors = 0
        allow_descriptors(2 * settings["connections"] + 1000)

    def start(self) -> None:
        """Note how things are before there are connections.

        Something is watched from now on, since the loop has descriptors of its own while it
        watches any.
        """
        asyncio.get_running_loop().set_exception_handler(self._report)
        self.watched = socket.socketpair()
        IOLoop.current().add_handler(self.watched[0], lambda *_: None, READ)
        self.idle_descriptors = descriptors()

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.wrong[f"{context['message']}: {context.get('exception')!r}"] += 1

    def connections(self) -> int:
        """How many connections are open on this side."""
        raise NotImplementedError

    async def measure(self, connections: int) -> dict[str, Any]:
        """Say how things are, once there are so many connections; or when they should be."""
        expected = self.idle_descriptors + connections
        await settled(
            lambda: self.connections() == connections and descriptors() == expected,
        )
        return {
            "connections": self.connections(),
            "descriptors": descriptors() - self.idle_descriptors,
            "resident": resident(),
            "blocks": sys.getallocatedblocks(),
            "counts": self.counts,
            "wrong": self.wrong,
        }


class _Server(_Role):
    """Echoes messages, and does what these ask for."""

    async def open(self) -> list[int]:
        """Listen, and give the ports."""
        context = server_context(self.settings)
        self.servers = [
            await serve_tcp(self.serve, LOCAL, ssl=context, backlog=1024, half_open=True)
            for _ in range(PORTS)
        ]
        self.start()
        return [server.port for server in self.servers]

    def connections(self) -> int:
        return sum(server.connections for server in self.servers)

    async def serve(self, stream: IOStream) -> None:
        try:
            expected = 0, 0  # the connection, which the first message tells, and the message
            while expected := await self.answer(stream, expected):
                pass
        except StreamClosedError as error:
            how = repr(error.real_error) if error.real_error else "an end in good order"
            self.counts[f"the server met {how}"] += 1

    async def answer(self, stream: IOStream, expected: tuple[int, int]) -> tuple[int, int] | None:
        """Answer one message, of which nothing is kept while the connection is idle.

        Returns:
            What the next message will be; `None` if there is to be none.
        """
        header = await stream.read_bytes(HEADER.size)
        order, connection, number, size, checksum = HEADER.unpack(header)
        payload = await stream.read_bytes(size)
        if (connection, number) != (expected[0] or connection, expected[1]):
            self.wrong["the server got a message that was not the next one"] += 1
        if zlib.crc32(payload) != checksum:
            self.wrong["the server got altered bytes"] += 1
        self.counts["messages"] += 1
        message = header + payload
        if order == ECHO:
            await stream.write(message)
            return connection, number + 1
        stream.write(message if order == LAST else message[: len(message) // 2])
        if order == RESET:
            reset(stream)
        return None


class _Connection:
    """A client's connection."""

    def __init__(self, stream: IOStream, name: int) -> None:
        self.stream = stream
        self.name = name
        self.number = 0


class _Clients(_Role):
    """All the clients."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.dice = random.Random(settings["seed"])
        self.noise = self.dice.randbytes(4 * 1024 * 1024)
        self.idle: list[_Connection] = []
        self.active = 0
        self.made = 0
        self.ways: dict[str, tuple[int, Callable[[_Connection], Coroutine[Any, Any, None]]]] = {
            "talk": (80, self.talk),
            "reset": (4, self.reset),
            "cut": (4, self.cut),
            "end": (4, self.end),
            "server cuts": (4, self.server_cuts),
            "server resets": (4, self.server_resets),
        }
        if not settings["folder"]:
            self.ways["half-close"] = (4, self.half_close)

    def connections(self) -> int:
        return len(self.idle) + self.active

    async def open(self, ports: list[int]) -> None:
        """Open all connections."""
        self.ports = ports
        self.context = client_context(self.settings)
        self.start()

        async def work() -> None:
            while self.made < self.settings["connections"]:
                self.idle.append(await self.connect())

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(work())

    async def connect(self) -> _Connection:
        self.made += 1
        name = self.made
        stream = await connect_tcp(
            LOCAL,
            self.ports[name % len(self.ports)],
            ssl=self.context,
            server_hostname="localhost" if self.context else None,
            timeout=SESSION,
        )
        return _Connection(stream, name)

    async def run(self, seconds: float) -> None:
        """Have the tenth of the connections active for so long."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, self.settings["connections"] // ACTIVE)):
                group.create_task(self.work(end))

    async def work(self, end: float) -> None:
        names = list(self.ways)
        weights = [weight for weight, _ in self.ways.values()]
        self.active += 1
        while time.monotonic() < end:
            chosen = self.dice.randrange(len(self.idle))
            self.idle[chosen], self.idle[-1] = self.idle[-1], self.idle[chosen]
            connection = self.idle.pop()
            [way] = self.dice.choices(names, weights)
            self.counts[way] += 1
            try:
                async with asyncio.timeout(SESSION):
                    await self.ways[way][1](connection)
                done = way == "talk"
            except (OSError, ValueError) as error:  # also StreamClosedError and TimeoutError
                self.wrong[f"{way}: {error!r}, {getattr(error, 'real_error', None)!r}"] += 1
                done = False
            if not done:
                connection.stream.close()
                connection = await self.connect()
            self.idle.append(connection)
        self.active -= 1

    async def close(self) -> None:
        """Close all connections."""
        while self.idle:
            self.idle.pop().stream.close()

    # Messages

    def message(self, connection: _Connection, order: bytes = ECHO) -> bytes:
        """The connection's next message."""
        bits = self.dice.uniform(17, 21) if self.dice.random() < 0.002 else self.dice.uniform(0, 17)
        size = int(2**bits)
        start = self.dice.randrange(len(self.noise) - size)
        payload = self.noise[start : start + size]
        checksum = zlib.crc32(payload)
        header = HEADER.pack(order, connection.name, connection.number, size, checksum)
        connection.number += 1
        self.counts["messages"] += 1
        self.counts["bytes"] += len(header) + size
        return header + payload

    def send(self, connection: _Connection, last: bytes | None = None) -> list[bytes]:
        """Send some messages at once, and perhaps one that asks for something."""
        messages = [self.message(connection) for _ in range(self.dice.randint(1, 4))]
        if last is not None:
            messages.append(self.message(connection, last))
        for message in messages:
            connection.stream.write(message)
        return messages

    async def read(self, stream: IOStream, size: int) -> bytes:
        """Read so many bytes, in one of many ways."""
        way = self.dice.randrange(4)
        if way == 0:
            return await stream.read_bytes(size)
        if way == 1:
            memory = bytearray(size)
            await stream.read_into(memory)
            return bytes(memory)
        if way == 2:
            pieces, left = [], size
            while left:
                pieces.append(await stream.read_bytes(self.dice.randint(1, left), partial=True))
                left -= len(pieces[-1])
            return b"".join(pieces)
        patience = self.dice.random() * 0.005
        while True:
            try:
                async with asyncio.timeout(patience):
                    return await stream.read_bytes(size)
            except TimeoutError:
                self.counts["reads given up"] += 1
                patience *= 2

    async def rest(self, stream: IOStream) -> tuple[bytes, BaseException | None]:
        """Read to the end, and tell how that came."""
        pieces = []
        try:
            while True:
                pieces.append(await stream.read_bytes(65536, partial=True))
        except StreamClosedError as error:
            return b"".join(pieces), error.real_error

    async def expect(self, connection: _Connection, messages: list[bytes]) -> None:
        for message in messages:
            if await self.read(connection.stream, len(message)) != message:
                raise ValueError("other bytes came back")

    # What is done with a connection

    async def talk(self, connection: _Connection) -> None:
        for _ in range(self.dice.randint(1, 4)):
            await self.expect(connection, self.send(connection))

    async def reset(self, connection: _Connection) -> None:
        messages = self.send(connection)
        await self.expect(connection, messages[: self.dice.randrange(len(messages) + 1)])
        reset(connection.stream)

    async def cut(self, connection: _Connection) -> None:
        messages = self.send(connection)
        message = self.message(connection)
        connection.stream.write(message[: self.dice.randrange(len(message))])
        await self.expect(connection, messages[: self.dice.randrange(len(messages) + 1)])
        connection.stream.close()

    async def half_close(self, connection: _Connection) -> None:
        messages = self.send(connection)
        await connection.stream.write_eof()
        await self.expect_end(connection, messages)

    async def end(self, connection: _Connection) -> None:
        await self.expect_end(connection, self.send(connection, LAST))

    async def server_cuts(self, connection: _Connection) -> None:
        messages = self.send(connection, CUT)
        messages[-1] = messages[-1][: len(messages[-1]) // 2]
        await self.expect_end(connection, messages)

    async def expect_end(self, connection: _Connection, messages: list[bytes]) -> None:
        """Expect messages and then an end in good order."""
        received, error = await self.rest(connection.stream)
        if received != b"".join(messages) or error is not None:
            raise ValueError(f"not all that was to come came before the end, {error!r}")

    async def server_resets(self, connection: _Connection) -> None:
        messages = self.send(connection, RESET)
        received, error = await self.rest(connection.stream)
        if not b"".join(messages).startswith(received) or error is None:
            raise ValueError(f"a reset was taken for something else, {error!r}")


# Idle connections


async def _echo(read: Callable[[int], Awaitable[Any]], write: Callable[[Any], Any]) -> None:
    while True:
        write(await read(GREETING))


class _IdleServer:
    """A server of one of the libraries, whose connections are idle soon."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.open_now = 0
        allow_descriptors(settings["connections"] + 500)

    async def open(self) -> int:
        """Listen, and give the port."""
        context = server_context(self.settings)
        port: int = await getattr(self, self.settings["peer"])(context)
        return port

    async def count(self, serving: Coroutine[Any, Any, None]) -> None:
        self.open_now += 1
        try:
            await serving
        except (OSError, EOFError):
            pass  # closed
        finally:
            self.open_now -= 1

    async def waterspout(self, context: ssl.SSLContext | None) -> int:
        async def handler(stream: IOStream) -> None:
            await self.count(_echo(stream.read_bytes, stream.write))

        self.server: Any = await serve_tcp(handler, LOCAL, ssl=context, backlog=1024)
        return int(self.server.port)

    async def asyncio(self, context: ssl.SSLContext | None) -> int:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.count(_echo(reader.readexactly, writer.write))
            writer.close()

        self.server = await asyncio.start_server(handler, LOCAL, 0, ssl=context, backlog=1024)
        return int(self.server.sockets[0].getsockname()[1])

    async def tornado(self, context: ssl.SSLContext | None) -> int:
        from tornado.iostream import IOStream as TornadoStream
        from tornado.netutil import bind_sockets
        from tornado.tcpserver import TCPServer

        count = self.count

        class EchoServer(TCPServer):
            async def handle_stream(self, stream: TornadoStream, address: tuple[Any, ...]) -> None:
                await count(_echo(stream.read_bytes, stream.write))

        self.server = EchoServer(ssl_options=context)
        sockets = bind_sockets(0, LOCAL, backlog=1024)
        self.server.add_sockets(sockets)
        return int(sockets[0].getsockname()[1])

    async def measure(self, connections: int) -> int:
        """Give the resident memory with so many connections, in bytes."""
        await settled(lambda: self.open_now == connections)
        if self.open_now != connections:
            raise RuntimeError(f"{self.open_now} connections are open, not {connections}")
        return resident()


class _IdleClients:
    """Clients of one of the libraries."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.kept: list[Any] = []
        self.context = client_context(settings)
        self.name = "localhost" if self.context else None
        allow_descriptors(settings["connections"] + 500)

    async def open(self, port: int, count: int) -> None:
        """Open connections, have an exchange on each, and keep them."""
        connect = getattr(self, self.settings["peer"])
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                self.kept.append(await connect(port))

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(work())

    async def waterspout(self, port: int) -> Any:
        stream = await connect_tcp(LOCAL, port, ssl=self.context, server_hostname=self.name)
        await stream.write(bytes(GREETING))
        await stream.read_bytes(GREETING)
        return stream

    async def asyncio(self, port: int) -> Any:
        reader, writer = await asyncio.open_connection(
            LOCAL, port, ssl=self.context, server_hostname=self.name
        )
        writer.write(bytes(GREETING))
        await reader.readexactly(GREETING)
        return writer

    async def tornado(self, port: int) -> Any:
        from tornado.tcpclient import TCPClient

        host = self.name or LOCAL  # it is the name to be proved, too
        stream = await TCPClient().connect(host, port, ssl_options=self.context, af=socket.AF_INET)
        await stream.write(bytes(GREETING))
        await stream.read_bytes(GREETING)
        return stream

    async def close(self) -> None:
        """Close them all."""
        while self.kept:
            self.kept.pop().close()
        await asyncio.sleep(0.5)  # for what is done in the background

    async def measure(self) -> int:
        """Give the resident memory, in bytes."""
        gc.collect()
        trim()
        return resident()


# Processes that are told what to do

ROLES: dict[str, Any] = {
    "server": _Server,
    "clients": _Clients,
    "idle server": _IdleServer,
    "idle clients": _IdleClients,
}


async def _do_as_told(role: str, settings: dict[str, Any]) -> None:
    actor = ROLES[role](settings)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        print(json.dumps(await getattr(actor, name)(**arguments)), flush=True)
    os._exit(0)  # nothing is left to be seen from its end


class _Child:
    """A process of this file in one of its roles. It ends with the block."""

    def __init__(self, role: str, **settings: Any) -> None:
        self.role = role
        command = [sys.executable, __file__, "--role", role, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def tell(self, name: str, **arguments: Any) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        print(json.dumps([name, arguments]), file=self.process.stdin, flush=True)

    def answer(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> Any:
        """What came of that; meanwhile, look around now and then."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while not select.select([self.process.stdout], [], [], 0.25)[0]:
            meanwhile()
            if time.monotonic() > end:
                raise RuntimeError(f"the {self.role} gave no answer for {seconds} seconds")
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"the {self.role} broke down")

    def ask(self, name: str, **arguments: Any) -> Any:
        """Have it done."""
        self.tell(name, **arguments)
        return self.answer(300)


# The whole


class _Soak:
    """The two processes, watched."""

    def __init__(self, console: Console, options: argparse.Namespace, folder: str) -> None:
        self.console = console
        self.seconds: float = options.seconds
        self.connections: int = options.connections
        self.settings = {
            "connections": options.connections,
            "folder": folder,
            "seed": options.seed,
        }
        self.peaks: Counter[str] = Counter()
        self.violations: list[str] = []

    def run(self) -> None:
        """Run it, and print what it was like."""
        with (
            _Child("server", **self.settings) as server,
            _Child("clients", **self.settings) as some,
        ):
            self.children = {"server": server, "clients": some}
            started = time.monotonic()
            some.ask("open", ports=server.ask("open"))
            opened = time.monotonic() - started
            self.console.print(f"{self.connections:,} connections opened in {opened:.1f} s")
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.console, transient=True) as self.progress:
                self.task = self.progress.add_task("", total=self.seconds)
                self.began = time.monotonic()
                quarter = self.phase(self.seconds / 4)
                end = self.phase(self.seconds * 3 / 4)
            some.ask("close")
            closed = self.measure(0)
        self.compare(quarter, end, closed)
        self.console.print(self.counts(end))
        self.console.print(self.table(quarter, end, closed))

    def phase(self, seconds: float) -> dict[str, Any]:
        """Let them run for so long; give how things are after it."""
        clients = self.children["clients"]
        clients.tell("run", seconds=seconds)
        clients.answer(seconds + 2 * SESSION, self.look)
        return self.measure(self.connections)

    def look(self) -> None:
        """See how far they are, and how large."""
        sizes = []
        for name, child in self.children.items():
            size = resident(child.process.pid)
            self.peaks[name] = max(self.peaks[name], size)
            sizes.append(f"{name} {_mebibytes(size)}")
        done = min(time.monotonic() - self.began, self.seconds)
        self.progress.update(self.task, completed=done, description=", ".join(sizes))

    def measure(self, connections: int) -> dict[str, Any]:
        for child in self.children.values():
            child.tell("measure", connections=connections)
        return {name: child.answer(2 * SETTLE) for name, child in self.children.items()}

    def compare(self, quarter: Any, end: Any, closed: Any) -> None:
        """Find what must not be."""
        for name in self.children:
            for when, found, expected in [
                ("after the first quarter", quarter[name], self.connections),
                ("at the end", end[name], self.connections),
                ("after everything was closed", closed[name], 0),
            ]:
                for what in ("connections", "descriptors"):
                    if found[what] != expected:
                        text = f"{name}: {found[what]} {what} {when}, not {expected}"
                        self.violations.append(text)
            bound = self.bound(quarter[name])
            if end[name]["resident"] > bound:
                size = _mebibytes(end[name]["resident"])
                self.violations.append(f"{name}: {size} at the end, over {_mebibytes(bound)}")
            early, late = quarter[name]["blocks"], end[name]["blocks"]
            if late > early * (1 + BLOCKS_SHARE):
                self.violations.append(f"{name}: {early:,} blocks became {late:,}")
            for what, count in closed[name]["wrong"].items():
                self.violations.append(f"{name}: {what} ({count} times)")
        if not end["clients"]["counts"].get("messages"):
            self.violations.append("not one message was exchanged")

    def bound(self, measured: dict[str, Any]) -> float:
        """Bytes that a process may have at the end."""
        return float(measured["resident"] * (1 + GROWTH_SHARE) + GROWTH_BYTES)

    def counts(self, end: Any) -> Table:
        table = _table("what was done", "", "times")
        counts = end["clients"]["counts"] | {
            what: count for what, count in end["server"]["counts"].items() if what != "messages"
        }
        for what, count in counts.items():
            table.add_row(what, f"{count:,}")
        return table

    def table(self, quarter: Any, end: Any, closed: Any) -> Table:
        growth = f"{GROWTH_SHARE:.0%} and {_mebibytes(GROWTH_BYTES)}"
        title = f"after the first quarter and at the end (bounds: {growth}; {BLOCKS_SHARE:.0%}; 0)"
        table = _table(title, "", "quarter", "end", "bound", "peak", "closed")
        for name in self.children:
            moments = quarter[name], end[name]
            sizes = [*(at["resident"] for at in moments), self.bound(quarter[name])]
            sizes += [self.peaks[name], closed[name]["resident"]]
            table.add_row(f"{name}: resident", *map(_mebibytes, sizes))
            blocks = [f"{at['blocks']:,}" for at in moments]
            most = f"{int(quarter[name]['blocks'] * (1 + BLOCKS_SHARE)):,}"
            table.add_row("blocks", *blocks, most, "", f"{closed[name]['blocks']:,}")
            open_now = [f"{at['descriptors']:,}" for at in moments]
            most = f"{self.connections:,}"
            table.add_row("descriptors", *open_now, most, "", f"{closed[name]['descriptors']:,}")
        return table


def idle_costs(console: Console, connections: int, folder: str) -> Table:
    """Measure what an idle connection costs with each of the libraries."""
    kind = "TLS" if folder else "plain"
    title = f"KiB of resident memory of each of {connections:,} idle connections, {kind}"
    table = _table(title, "", "server's side", "ratio", "client's side", "ratio")
    first: tuple[float, float] | None = None
    with Progress(console=console, transient=True) as progress:
        for peer in progress.track(PEERS, description="idle connections"):
            costs = _idle_cost(peer, connections, folder)
            first = first or costs
            cells = [
                (f"{cost:.2f}", f"{cost / one:.2f}" if one else "")
                for cost, one in zip(costs, first, strict=True)
            ]
            table.add_row(peer, *cells[0], *cells[1])
    return table


def _idle_cost(peer: str, connections: int, folder: str) -> tuple[float, float]:
    settings = {"peer": peer, "connections": connections, "folder": folder}
    with _Child("idle server", **settings) as server, _Child("idle clients", **settings) as clients:
        port = server.ask("open")
        clients.ask("open", port=port, count=200)  # to warm up
        clients.ask("close")
        before = server.ask("measure", connections=0), clients.ask("measure")
        clients.ask("open", port=port, count=connections)
        after = server.ask("measure", connections=connections), clients.ask("measure")
    server_side, client_side = (
        (late - early) / connections / 1024 for early, late in zip(before, after, strict=True)
    )
    return server_side, client_side


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    return table


def _mebibytes(size: float) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"


def _make_certificates(folder: str) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(Path(folder) / "ca.pem"))
    certificate = authority.issue_cert("localhost", LOCAL)
    certificate.private_key_and_cert_chain_pem.write_to_path(str(Path(folder) / "server.pem"))


def main(arguments: list[str]) -> int:
    """Run the soak and measure idle connections; give the exit status."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument(
        "--seconds", type=float, default=120, help="four times what all connections' turns take"
    )
    parser.add_argument("--connections", type=int, default=5000, help="at least 20")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        role, settings = options.role
        asyncio.run(_do_as_told(role, json.loads(settings)))
    if options.seconds <= 0 or options.connections < 20:
        parser.error("there must be some seconds, and 20 connections")

    console = Console()
    version = ".".join(map(str, sys.version_info[:3]))
    kind = "TLS" if options.tls else "plain"
    console.print(f"soak, {kind}, {options.seconds:g} s, seed {options.seed}, CPython {version}")
    with tempfile.TemporaryDirectory() as folder:
        if options.tls:
            _make_certificates(folder)
        soak = _Soak(console, options, folder if options.tls else "")
        soak.run()
        for violation in soak.violations:
            console.print(f"[red]violated:[/red] {violation}")
        if not soak.violations:
            console.print("nothing was lost or altered, and nothing grew")
        console.print(idle_costs(console, options.connections, folder if options.tls else ""))
    return 1 if soak.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
