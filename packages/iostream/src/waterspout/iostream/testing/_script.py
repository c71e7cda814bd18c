"""`ScriptedPeer`: the other end of a connection, which does and expects exactly what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling import (
    READ,
    WRITE,
    Reactor,
    current_scheduler,
    settle,
    timeout_seconds,
)
from waterspout.iostream._buffer import BytesLike
from waterspout.iostream._checks import bytes_view
from waterspout.iostream._connect import check_port
from waterspout.iostream._socket import IOStream
from waterspout.iostream.testing._link import Link
from waterspout.iostream.testing._network import SimulatedNetwork
from waterspout.iostream.testing._socket import SimulatedSocket

CHUNK = 64 * 1024


class ScriptError(AssertionError):
    """The code under test did not do what the script expects; the message has the difference."""


@dataclass(frozen=True)
class _Step:
    text: str
    play: Callable[[SimulatedSocket], Awaitable[object]]


class ScriptedPeer:
    r"""One end of a simulated connection that plays a script; the code under test has the other::

        peer = ScriptedPeer(network).expect(b"PING\n").wait(0.5).send(b"PONG\n").end()
        async with peer as stream:
            await stream.write(b"PING\n")
            assert await stream.read_until(b"\n") == b"PONG\n"

    The block gets the stream of the code under test. With a host and port, the peer is a server
    instead, to which the code under test connects itself; the block gets its address. The end of
    the block closes the stream and waits for the end of the script.

    Args:
        network: Where the connection is.
        host: The name or address to listen on.
        port: The port.
        link: How well the connection carries bytes; by default as the network does. Not for a
            server, whose `network.links` say it.

    Raises:
        ScriptError: At the end of the block, if the other end did anything else than the script
            expects: other bytes, more of them, fewer, or an end.
        TypeError: If an argument is of the wrong kind.
        ValueError: If `port` is no port.
        RuntimeError: If the block is entered twice, or a step is added once it was entered.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        host: str | None = None,
        port: int = 80,
        *,
        link: Link | None = None,
    ) -> None:
        if not isinstance(network, SimulatedNetwork):
            raise TypeError(f"network must be a SimulatedNetwork, not {network!r}")
        if host is not None and not isinstance(host, str):
            raise TypeError(f"host must be a string or None, not {host!r}")
        check_port(port)
        self._network = network
        self._host = host
        self._port = port
        self._link = link
        self._steps: list[_Step] = []
        self._sockets: list[SimulatedSocket] = []
        self._stream: IOStream | None = None
        self._player: asyncio.Task[None] | None = None
        self._listener: SimulatedSocket | None = None
        self._begun = False
        self._at = 0
        self._received = b""  # and not yet expected

    # The script

    def expect(self, data: BytesLike) -> Self:
        """Wait for exactly these bytes.

        Raises:
            TypeError: If `data` is not bytes-like.
        """
        expected = bytes(bytes_view("data", data))
        return self._add(f"expect {expected!r}", lambda socket: self._expect(socket, expected))

    def expect_end(self) -> Self:
        """Wait for the other end's end, with nothing before it."""
        return self._add("expect the end", self._expect_end)

    def send(self, data: BytesLike) -> Self:
        """Send these bytes.

        Raises:
            TypeError: If `data` is not bytes-like.
        """
        sent = bytes(bytes_view("data", data))
        return self._add(f"send {sent!r}", lambda socket: self._send(socket, sent))

    def wait(self, seconds: float) -> Self:
        """Do nothing for so many seconds.

        Raises:
            TypeError: If `seconds` is no number.
            ValueError: If it is negative, NaN, or more than ten years and not infinity.
        """
        if not isinstance(seconds, int | float):
            raise TypeError(f"seconds must be a number, not {seconds!r}")
        if not seconds >= 0:
            raise ValueError(f"seconds must not be negative, not {seconds!r}")
        timeout_seconds(seconds, "seconds")
        return self._add(f"wait {seconds} s", lambda socket: asyncio.sleep(seconds))

    def end(self) -> Self:
        """End the sending side; receiving goes on."""
        return self._add("end", self._end)

    def reset(self) -> Self:
        """Break the connection."""
        return self._add("reset", self._reset)

    def _add(self, text: str, play: Callable[[SimulatedSocket], Awaitable[object]]) -> Self:
        if self._player is not None:
            raise RuntimeError("the script is being played already")
        self._steps.append(_Step(text, play))
        return self

    # The play

    async def __aenter__(self) -> Any:
        if self._player is not None:
            raise RuntimeError("a script can be played only once")
        if self._host is None:
            left, right = self._network.socketpair(self._link)
            self._stream = IOStream(left)
            self._sockets.append(right)
            self._player = asyncio.create_task(self._play(right))
            return self._stream
        scheduler = current_scheduler()
        [(family, address), *_] = await self._network.resolve(
            scheduler, self._host, self._port, passive=True
        )
        listener = self._network.new_socket(family)
        self._sockets.append(listener)
        listener.bind(address)
        listener.listen()
        self._listener = listener
        self._player = asyncio.create_task(self._accept(listener))
        return listener.getsockname()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        player = self._player
        assert player is not None
        try:
            if exc_val is not None:
                player.cancel()
            if self._stream is not None:
                self._stream.close()
            await self._finish(player)
            if not player.cancelled():
                player.result()  # what went wrong there is why it went wrong here
        finally:
            player.cancel()
            for socket in self._sockets:
                socket.close()

    async def _finish(self, player: "asyncio.Task[None]") -> None:
        """Wait for the end of the play, but not for what cannot come any more."""
        if self._listener is not None:
            await asyncio.sleep(0)
            if self._at == 0 and not self._begun and not player.done():
                player.cancel()
                raise ScriptError(f"nobody connected to {self._listener.getsockname()}")
            if self._listener.waits():
                raise ScriptError("there was a second connection")
        try:
            await asyncio.wait([player])
        except asyncio.CancelledError as error:
            error.add_note(f"{self._where()}: waiting for the other end")
            raise

    async def _accept(self, listener: SimulatedSocket) -> None:
        while True:
            try:
                socket, _ = listener.accept()
            except BlockingIOError:
                await _ready(listener, READ)
            else:
                self._begun = True
                self._sockets.append(socket)
                await self._play(socket)
                return

    async def _play(self, socket: SimulatedSocket) -> None:
        try:
            for step in self._steps:
                self._at += 1
                await step.play(socket)
            await self._expect_nothing(socket)
        except ScriptError:
            socket.reset()
            raise

    async def _expect(self, socket: SimulatedSocket, expected: bytes) -> None:
        while len(self._received) < len(expected) and expected.startswith(self._received):
            try:
                more = await self._receive(socket)
            except ConnectionError as error:
                difference = _difference(expected, self._received)
                raise self._error(f"the other end is gone ({error}); {difference}") from error
            if not more:
                raise self._error(f"the other end ended; {_difference(expected, self._received)}")
            self._received += more
        received = self._received[: len(expected)]
        if received != expected:
            raise self._error(_difference(expected, self._received))
        self._received = self._received[len(expected) :]

    async def _expect_end(self, socket: SimulatedSocket) -> None:
        try:
            more = self._received or await self._receive(socket)
        except ConnectionError as error:
            raise self._error(f"the other end is gone: {error}") from error
        if more:
            raise self._error(f"the other end sent {more!r}")

    async def _expect_nothing(self, socket: SimulatedSocket) -> None:
        """See that nothing comes after the script, up to the end."""
        self._at += 1
        try:
            more = self._received or await self._receive(socket)
        except ConnectionError:
            return
        if more:
            raise self._error(f"the other end sent {more!r}")

    async def _send(self, socket: SimulatedSocket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[socket.send(view) :]
            except BlockingIOError:
                await _ready(socket, WRITE)
            except ConnectionError as error:
                raise self._error(f"the other end is gone: {error}") from error

    async def _receive(self, socket: SimulatedSocket) -> bytes:
        while True:
            try:
                return socket.recv(CHUNK)
            except BlockingIOError:
                await _ready(socket, READ)

    async def _end(self, socket: SimulatedSocket) -> None:
        socket.shutdown(1)

    async def _reset(self, socket: SimulatedSocket) -> None:
        socket.reset()

    def _error(self, what: str) -> ScriptError:
        return ScriptError(f"{self._where()}: {what}")

    def _where(self) -> str:
        steps = self._steps
        if self._at > len(steps):
            return f"after the script of {len(steps)} steps"
        text = steps[self._at - 1].text if self._at else "before the first"
        return f"in step {self._at} of {len(steps)}, {text}"


async def _ready(socket: SimulatedSocket, events: int) -> None:
    """Wait until something can be done with a socket."""
    reactor = current_scheduler()
    assert isinstance(reactor, Reactor)
    future: asyncio.Future[None] = reactor.create_future()

    reactor.add_handler(socket, lambda _, what: settle(future, None), events)
    try:
        await future
    finally:
        reactor.remove_handler(socket)


def _difference(expected: bytes, received: bytes) -> str:
    same = 0
    while same < min(len(expected), len(received)) and expected[same] == received[same]:
        same += 1
    return (
        f"after {same} bytes that are the same,\n"
        f"  expected {expected[same:]!r}\n"
        f"  received {received[same:]!r}"
    )
