"""An HTTP/1.1 client on Waterspout streams: one request at a time on each connection.

h11 is the protocol; this is its wire. A connection whose response was read to its end is kept for
the next request to the same origin.
"""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from waterspout.iostream import IOStream, StreamClosedError, connect_tcp

CHUNK = 64 * 1024
"""Bytes asked of a stream at a time."""

_BROKEN = (OSError, h11.ProtocolError)


class FetchError(Exception):
    """A URL gave no response; the text says why."""


@dataclass(frozen=True)
class Response:
    """A response.

    Attributes:
        status: Its status code.
        headers: Its header fields by lower-case name; of several of one name, the last.
        body: The start of its body, at most as long as was asked for.
        complete: Whether that is all of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def is_html(self) -> bool:
        """Whether the body is a page."""
        return self.headers.get("content-type", "").partition(";")[0].strip() == "text/html"

    @property
    def text(self) -> str:
        """The body, decoded as its header says, or as UTF-8."""
        charset = self.headers.get("content-type", "").partition("charset=")[2].strip(" \"'")
        try:
            return self.body.decode(charset or "utf-8", errors="replace")
        except LookupError:
            return self.body.decode("utf-8", errors="replace")


class Client:
    """Fetches URLs, and keeps the connections.

    Args:
        max_body: Bytes of a body that are read.
        ssl_context: For HTTPS; `None` verifies against the system's authorities.
    """

    def __init__(self, max_body: int, ssl_context: ssl.SSLContext | None = None) -> None:
        self._max_body = max_body
        self._ssl = ssl_context
        self._idle: dict[tuple[str, str], list[_Connection]] = {}

    async def get(self, url: str) -> Response:
        """Fetch a URL, without following redirects.

        Cancelled, it closes the connection it used.

        Raises:
            FetchError: If there is no response, or it breaks off.
        """
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        idle = self._idle.setdefault(origin, [])
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        while idle:
            try:
                return await self._exchange(idle.pop(), origin, target)
            except _BROKEN:
                continue  # the server has closed it meanwhile; that tells nothing of the URL
        try:
            return await self._exchange(await self._connect(parts), origin, target)
        except _BROKEN as error:
            raise FetchError(explain(error)) from error

    def close(self) -> None:
        """Close the connections that are kept."""
        for connections in self._idle.values():
            for connection in connections:
                connection.stream.close()
            connections.clear()

    async def _connect(self, parts: Any) -> "_Connection":
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        context = (self._ssl or True) if secure else False
        return _Connection(await connect_tcp(parts.hostname, port, ssl=context))

    async def _exchange(
        self, connection: "_Connection", origin: tuple[str, str], target: str
    ) -> Response:
        try:
            response = await connection.get(origin[1], target, self._max_body)
        except BaseException:
            connection.stream.close()
            raise
        if connection.reusable():
            self._idle[origin].append(connection)
        else:
            connection.stream.close()
        return response


class _Connection:
    def __init__(self, stream: IOStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def get(self, host: str, target: str, max_body: int) -> Response:
        headers = [("Host", host), ("User-Agent", "waterspout-spider"), ("Accept", "*/*")]
        request = h11.Request(method="GET", target=target, headers=headers)
        data = (self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b"")
        await self.stream.write(data)
        head = await self._next_event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._next_event()
        assert isinstance(head, h11.Response), head
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        body = bytearray()
        complete = False
        while not complete and len(body) <= max_body:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                body += event.data
            else:
                complete = True
        return Response(head.status_code, fields, bytes(body[:max_body]), complete)

    def reusable(self) -> bool:
        """Whether another request can follow; it is then made ready for it."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return not self.stream.closed()
        return False

    async def _next_event(self) -> Any:
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            try:
                data = await self.stream.read_bytes(CHUNK, partial=True)
            except StreamClosedError as error:
                if error.real_error is not None:
                    raise
                data = b""  # h11 knows whether that is the end of a body, or too early
            self._h11.receive_data(data)
        if isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the server closed the connection without a response")
        return event


def explain(error: BaseException) -> str:
    """Say in a few words why there was no response."""
    if isinstance(error, StreamClosedError) and error.real_error is not None:
        error = error.real_error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"bad certificate: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
