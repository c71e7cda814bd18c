"""What every `Reactor` must do, besides what a `Scheduler` does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from waterspout.ioloop.scheduling import ERROR, READ, WRITE, Reactor
from waterspout.ioloop.testing._conformance import (
    SOON,
    SchedulerConformance,
    later,
    raises,
    turns,
    until,
)


class End(Protocol):
    """One end of a connection, for `ReactorConformance`."""

    def fileno(self) -> int:
        """Give the descriptor."""
        ...

    def send(self, data: bytes, /) -> int:
        """Send some bytes without blocking."""
        ...

    def recv(self, size: int, /) -> bytes:
        """Receive without blocking; nothing at the end."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class ReactorConformance(SchedulerConformance):
    """Tests that a third party's `Reactor` must pass, besides those of `SchedulerConformance`."""

    def new_pair(self, reactor: Reactor) -> tuple[End, End]:
        """Make two ends that are connected to each other. Override it."""
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        return left, right

    def run_with_pair(self, test: Callable[[Any, End, End], Coroutine[Any, Any, None]]) -> Any:
        """Run a test with a new reactor and a new pair."""

        async def main(reactor: Reactor) -> None:
            assert isinstance(reactor, Reactor)
            left, right = self.new_pair(reactor)
            try:
                await test(reactor, left, right)
            finally:
                left.close()
                right.close()

        return self.run(main)

    def test_a_handler_is_called_as_long_as_there_is_something(self) -> None:
        """Level-triggered: one that leaves bytes is called again."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            seen: list[tuple[object, int]] = []
            done = reactor.create_future()

            def handler(fd: object, events: int) -> None:
                seen.append((fd, events))
                if not left.recv(1).strip(b"ab"):
                    return
                done.set_result(None)

            reactor.add_handler(left, handler, READ)
            right.send(b"abc")
            await done
            reactor.remove_handler(left)
            assert seen == [(left, READ)] * 3

        self.run_with_pair(test)

    def test_a_writable_descriptor_is_told_of(self) -> None:
        """And only of what was asked for."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            seen: list[int] = []
            right.send(b"x")
            reactor.add_handler(left.fileno(), lambda fd, events: seen.append(events), WRITE)
            await until(reactor, lambda: bool(seen))
            reactor.update_handler(left.fileno(), READ)
            await turns(reactor)
            seen.clear()
            await until(reactor, lambda: bool(seen))
            reactor.remove_handler(left.fileno())
            assert set(seen) == {READ}

        self.run_with_pair(test)

    def test_a_removed_handler_is_not_called(self) -> None:
        """Not even if it is removed while the event is on its way."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            seen: list[int] = []
            reactor.add_handler(left, lambda fd, events: seen.append(events), READ)
            right.send(b"x")
            reactor.remove_handler(left)
            await later(reactor, SOON)
            assert seen == []
            reactor.add_handler(left, lambda fd, events: seen.append(events), READ)
            await until(reactor, lambda: bool(seen))
            reactor.remove_handler(left)

        self.run_with_pair(test)

    def test_a_hang_up_is_told_to_whom_asks(self) -> None:
        """As `ERROR`; to the others the end can be read."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            seen: list[int] = []
            reactor.add_handler(left, lambda fd, events: seen.append(events), READ | ERROR)
            right.close()
            await until(reactor, lambda: bool(seen))
            reactor.remove_handler(left)
            assert seen[0] & ERROR

        self.run_with_pair(test)

    def test_a_handler_that_raises_stays(self) -> None:
        """It is reported, and called again."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            calls: list[int] = []

            def handler(fd: object, events: int) -> None:
                calls.append(events)
                raise ZeroDivisionError

            reactor.add_handler(left, handler, READ)
            right.send(b"x")
            await until(reactor, lambda: len(calls) > 1)
            reactor.remove_handler(left)

        reported = self.run_with_pair(test)
        assert len(reported) > 1
        assert all(isinstance(c["exception"], ZeroDivisionError) for c in reported)

    def test_bad_handlers_are_refused_at_the_call(self) -> None:
        """And nothing is watched."""

        async def test(reactor: Reactor, left: End, right: End) -> None:
            calls: list[object] = []
            handler = lambda fd, events: calls.append(events)  # noqa: E731
            raises(TypeError, reactor.add_handler, left, 5, READ)
            raises(TypeError, reactor.add_handler, "left", handler, READ)
            raises(TypeError, reactor.add_handler, left, handler, "r")
            raises(ValueError, reactor.add_handler, left, handler, 0)
            raises(ValueError, reactor.add_handler, left, handler, 0x100)
            raises(ValueError, reactor.add_handler, -1, handler, READ)
            raises(KeyError, reactor.update_handler, left, READ)
            raises(KeyError, reactor.remove_handler, left)
            reactor.add_handler(left, handler, READ)
            raises(ValueError, reactor.add_handler, left, handler, WRITE)
            raises(ValueError, reactor.update_handler, left, 0)
            reactor.remove_handler(left)
            number = left.fileno()
            left.close()
            raises(OSError, reactor.add_handler, number, handler, READ)
            assert calls == []

        self.run_with_pair(test)
