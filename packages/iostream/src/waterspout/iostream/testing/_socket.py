"""Sockets that exist only in a simulated network.

They have the methods of a non-blocking TCP socket that streams use, with Linux's meanings: what
arrived before a reset can still be received; a socket that is closed with unread bytes resets the
connection; the first send after the other end's close succeeds and brings the reset back.
"""

from __future__ import annotations

import errno
import os
import socket as _socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from waterspout.ioloop.scheduling import ERROR, READ, WRITE
from waterspout.iostream.testing._link import Lane, Link

if TYPE_CHECKING:
    from waterspout.iostream.testing._network import SimulatedNetwork

_NO_LINGER = struct.pack("ii", 1, 0)


def os_error(code: int) -> OSError:
    """Make the error of a number."""
    return OSError(code, os.strerror(code))


class SimulatedSocket(_socket.socket):
    """A TCP socket of a `SimulatedNetwork`, which makes it.

    Its methods raise `OSError` where those of a non-blocking socket do on Linux, also once it is
    closed.
    """

    _is_plain = True  # whichever method moves bytes, they are the same

    network: SimulatedNetwork

    def __new__(cls, network: SimulatedNetwork, family: int) -> Self:
        return super().__new__(cls)

    def __init__(self, network: SimulatedNetwork, family: int) -> None:
        # The base class is for `isinstance` alone: it never gets a descriptor of the kernel's.
        self.network = network
        self._family = _socket.AddressFamily(family)
        self._descriptor = network.loop.new_descriptor()
        self._open = True
        self._listening = False
        self._backlog: deque[SimulatedSocket] = deque()
        self._name: Any = None
        self._peer_name: Any = None
        self.peer: SimulatedSocket | None = None
        self.incoming: Lane | None = None
        self.outgoing: Lane | None = None
        self._connecting = False
        self._error = 0  # that the next call tells of
        self._broken = False
        self._shut = False  # whether sending was
        self._shut_in = False  # whether receiving was
        self._gone = False  # closed, and to say so to who sends
        self._options: dict[tuple[int, int], Any] = {}

    def __repr__(self) -> str:
        state = "listening" if self._listening else "connected" if self.peer else "open"
        state = state if self._open else "closed"
        return f"<{type(self).__name__} {state} {self._name} -> {self._peer_name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    @property
    def family(self) -> int:  # type: ignore[override]
        """Its address family."""
        return self._family

    @property
    def type(self) -> int:  # type: ignore[override]
        """That it carries a stream."""
        return _socket.SOCK_STREAM

    def fileno(self) -> int:
        """Give its virtual descriptor."""
        return self._descriptor.fileno() if self._open else -1

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing, since it never blocks.

        Raises:
            ValueError: If `flag` is true.
        """
        if flag:
            raise ValueError("flag must be False: a simulated socket cannot block")

    def setsockopt(self, level: int, option: int, value: Any, *args: Any) -> None:
        """Note an option; a lingering time of zero makes `close` reset the connection."""
        self._check_open()
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, *args: Any) -> Any:
        """Give an option, or take the error of the connection."""
        self._check_open()
        if (level, option) == (_socket.SOL_SOCKET, _socket.SO_TYPE):
            return int(_socket.SOCK_STREAM)
        if (level, option) == (_socket.SOL_SOCKET, _socket.SO_ERROR):
            code, self._error = self._error, 0
            self.update()
            return code
        return self._options.get((level, option), 0)

    def getsockname(self) -> Any:
        """Give its own address."""
        self._check_open()
        return self._name or self.network.any_name(self._family)

    def getpeername(self) -> Any:
        """Give the address of the other end."""
        self._check_open()
        if self.peer is None or self._connecting or self._broken:
            raise os_error(errno.ENOTCONN)
        return self._peer_name

    def getblocking(self) -> bool:
        """Never."""
        return False

    def settimeout(self, value: float | None, /) -> None:
        """Do nothing, since it never blocks.

        Raises:
            ValueError: If `value` is not 0.
        """
        if value != 0:
            raise ValueError(f"value must be 0, not {value!r}: a simulated socket cannot block")

    def gettimeout(self) -> float:
        """Give 0.0, which means that it never blocks."""
        return 0.0

    # The ends of a connection

    def bind(self, address: Any, /) -> None:
        """Take an address; port 0 takes a free one."""
        self._check_open()
        self._name = self.network.bind(self, address)

    def listen(self, backlog: int = 128, /) -> None:
        """Be connected to."""
        self._check_open()
        self._listening = True

    def accept(self) -> tuple[SimulatedSocket, Any]:
        """Take a connection."""
        self._check_open()
        if not self._backlog:
            raise BlockingIOError(errno.EAGAIN, "no connection has come")
        accepted = self._backlog.popleft()
        self.update()
        return accepted, accepted._peer_name

    def connect_ex(self, address: Any, /) -> int:
        """Begin to connect."""
        self._check_open()
        if self.peer is not None or self._connecting:
            return errno.EISCONN
        self._connecting = True
        self._peer_name = address
        if self._name is None:
            self._name = self.network.bind(self, None)
        self.network.connect_soon(self, address)
        return errno.EINPROGRESS

    def join(self, other: SimulatedSocket, link: Link) -> None:
        """Become one end of a connection, and make `other` the other one."""
        network = self.network
        for one, two in ((self, other), (other, self)):
            one.peer = two
            one.outgoing = two.incoming = Lane(
                network.loop.time,
                network.at,
                link,
                network.dice,
                network.updater(self, other),
                self.lose,
            )
        self._peer_name = other._name

    def be_connected(self) -> None:
        """Know that the connection stands."""
        self._connecting = False
        self.update()

    def be_refused(self, code: int) -> None:
        """Know that it does not."""
        self._error = code
        self.update()

    def queue(self, accepted: SimulatedSocket) -> None:
        """Hold a connection ready for `accept`."""
        self._backlog.append(accepted)
        self.update()

    def waits(self) -> bool:
        """Whether a connection waits to be accepted."""
        return bool(self._backlog)

    @property
    def listens(self) -> bool:
        """Whether it can be connected to."""
        return self._open and self._listening

    # Bytes

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive what there is, up to so many bytes; none at the end."""
        lane = self._connected(self.incoming)
        if flags:
            raise os_error(errno.EOPNOTSUPP)
        if size < 0:
            raise ValueError(f"size must not be negative, not {size!r}")
        if lane.unread == 0 and not (lane.at_end or self._shut_in):
            self._raise_error()
            if not self._broken:
                raise BlockingIOError(errno.EAGAIN, "nothing has come")
        return lane.receive(size)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into memory what there is, and give how much; nothing at the end."""
        view = memoryview(buffer).cast("B")
        if nbytes > len(view):
            raise ValueError(f"buffer has no room for {nbytes} bytes")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Any, *args: Any) -> int:
        """Send what there is room for."""
        lane = self._connected(self.outgoing)
        self._raise_error()
        if self._broken or self._shut:
            raise os_error(errno.EPIPE)
        view = memoryview(data).cast("B")
        sent = lane.send(view)
        if not sent and len(view):
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        self.update()
        return sent

    def shutdown(self, how: int, /) -> None:
        """End a side, or both."""
        lane = self._connected(self.outgoing)
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        if self._broken:
            raise os_error(errno.ENOTCONN)
        if how != _socket.SHUT_WR:
            self._shut_in = True
        if how != _socket.SHUT_RD:
            self._shut = True
            lane.end()
        self.update()

    def stall(self) -> None:
        """Let nothing arrive at this end until `resume`."""
        if self.incoming is not None:
            self.incoming.stall()

    def resume(self) -> None:
        """Let what was kept back by `stall` arrive, and what comes."""
        if self.incoming is not None:
            self.incoming.resume()

    def reset(self) -> None:
        """Break the connection: both ends are told, as soon as they look."""
        if self.peer is not None:
            self.lose()

    def lose(self) -> None:
        """The connection is gone, for both ends."""
        assert self.peer is not None
        self.be_reset()
        self.peer.be_reset()

    def be_reset(self) -> None:
        """Know of a reset; once the other end has ended, it is only sending that fails."""
        if not self._broken:
            assert self.outgoing is not None
            assert self.incoming is not None
            self._broken = True
            self._error = errno.EPIPE if self.incoming.at_end else errno.ECONNRESET
            self.outgoing.drop()
            self.update()

    def close(self) -> None:
        """Close it; the other end sees an end, or a reset if there is something unread here."""
        if not self._open:
            return
        self._open = False
        self.network.forget(self)
        self.network.loop.close_descriptor(self._descriptor)
        while self._backlog:
            waiting = self._backlog.popleft()
            waiting.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _NO_LINGER)
            waiting.close()
        if self.peer is None or self.incoming is None or self.outgoing is None:
            return
        hard = self._options.get((_socket.SOL_SOCKET, _socket.SO_LINGER)) == _NO_LINGER
        if hard or self.incoming.unread:
            self.outgoing.travel(self.peer.be_reset)
        else:
            self.outgoing.end()
        self._gone = True

    def detach(self) -> int:
        """It has no descriptor that anybody else could use."""
        raise OSError(errno.EOPNOTSUPP, "a simulated socket cannot be detached")

    def update(self) -> None:
        """Tell the loop what is ready."""
        if not self._open:
            if self._gone and self.incoming is not None and self.incoming.unread:
                assert self.peer is not None
                assert self.outgoing is not None
                self._gone = False  # nobody is here to receive it, and that is said once
                self.outgoing.travel(self.peer.be_reset)
            return
        events = 0
        if self._listening:
            events = READ if self._backlog else 0
        elif self._connecting:
            events = WRITE | READ | ERROR if self._error else 0
        elif self.incoming is not None and self.outgoing is not None:
            if self.incoming.readable or self._broken or self._shut_in:
                events |= READ
            if self.outgoing.room or self._broken or self._shut:
                events |= WRITE
            if self._broken or (self._shut and (self.incoming.at_end or self._shut_in)):
                events |= ERROR
        self._descriptor.ready = events

    def _connected(self, lane: Lane | None) -> Lane:
        self._check_open()
        if lane is None or self._connecting:
            raise os_error(errno.ENOTCONN)
        return lane

    def _raise_error(self) -> None:
        code, self._error = self._error, 0
        if code:
            raise os_error(code)

    def _check_open(self) -> None:
        if not self._open:
            raise os_error(errno.EBADF)
