"""A small file server: a folder over HTTP/1.1, on a Waterspout stream."""

import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import h11

from waterspout.concurrent import run_on_executor
from waterspout.iostream import IOStream, StreamClosedError

CHUNK = 64 * 1024
"""Bytes asked of a stream at a time."""


class FileServer:
    """Serves the files below a folder; `handle` is what `serve_tcp` takes.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def handle(self, stream: IOStream) -> None:
        """Answer the requests of one connection."""
        protocol = h11.Connection(h11.SERVER)
        try:
            while protocol.our_state is not h11.MUST_CLOSE:
                request = await self._next_request(protocol, stream)
                if request is None:
                    return
                await self._answer(protocol, stream, request)
                if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
                    protocol.start_next_cycle()
        except h11.RemoteProtocolError:
            return  # it speaks no HTTP; there is nobody to tell

    async def _next_request(self, protocol: h11.Connection, stream: IOStream) -> h11.Request | None:
        request: h11.Request | None = None
        while True:
            event: Any = protocol.next_event()
            if event is h11.NEED_DATA:
                try:
                    protocol.receive_data(await stream.read_bytes(CHUNK, partial=True))
                except StreamClosedError:
                    return None
            elif isinstance(event, h11.Request):
                request = event
            elif not isinstance(event, h11.Data):
                return request

    async def _answer(
        self, protocol: h11.Connection, stream: IOStream, request: h11.Request
    ) -> None:
        status, headers, body = await self.load(request.target.decode("latin-1"))
        if request.method not in (b"GET", b"HEAD"):
            status, headers, body = 405, [("Allow", "GET, HEAD")], b""
        headers = [*headers, ("Content-Length", str(len(body)))]
        head = protocol.send(h11.Response(status_code=status, headers=headers)) or b""
        if request.method == b"HEAD":
            body = b""
        data = protocol.send(h11.Data(data=body)) or b""
        end = protocol.send(h11.EndOfMessage()) or b""
        await stream.write(head + data + end)

    @run_on_executor
    def load(self, target: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """Read what a request asks for, in a thread: status, headers, body."""
        path = unquote(urlsplit(target).path)
        file = (self._root / path.lstrip("/")).resolve()
        if not file.is_relative_to(self._root):
            return 404, [], b"not found\n"
        if file.is_dir():
            if not path.endswith("/"):
                return 301, [("Location", f"{urlsplit(target).path}/")], b""
            file /= "index.html"
        try:
            body = file.read_bytes()
        except OSError:
            return 404, [], b"not found\n"
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return 200, [("Content-Type", kind)], body
