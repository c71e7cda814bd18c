"""Our streams and our loop as Tornado's code and tests use theirs: thin, like `adapters`.

Tornado's `connect` and its handshakes begin unasked, connecting fails with `StreamClosedError`, and
a read that cannot be satisfied closes the stream. It tells its log why, where ours tells nobody
but the caller.
"""

import ssl

import tornado.ioloop
import tornado.iostream
import tornado.log
from adapters import AdaptedLoop, AdaptedPeriodicCallback, at_once, everywhere

from waterspout import iostream
from waterspout.iostream import _tls

gen_log = tornado.log.gen_log


class Adapted:
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.io_loop = AdaptedLoop.current()

    @property
    def max_buffer_size(self):
        return self._max_buffer_size

    def read_until(self, delimiter, max_bytes=None):
        return at_once(self._or_closed(super().read_until, delimiter, max_bytes=max_bytes))

    def read_until_regex(self, regex, max_bytes=None):
        return at_once(self._or_closed(super().read_until_regex, regex, max_bytes=max_bytes))

    def read_until_close(self):
        return at_once(self._or_closed(super().read_until_close))

    async def _or_closed(self, read, *args, **kwargs):
        try:
            return await read(*args, **kwargs)
        except iostream.UnsatisfiableReadError as error:
            gen_log.info("Unsatisfiable read, closing connection: %s", error)
            reason = error
        except iostream.StreamBufferFullError as error:
            gen_log.error("Reached maximum read buffer size")
            gen_log.warning("error on read: %s", error)
            reason = error
        self.close(reason)
        raise iostream.StreamClosedError(reason)


class Connecting(Adapted):
    def connect(self, address, server_hostname=None):
        return at_once(self._connected_to(super().connect(address, None, server_hostname)))

    async def _connected_to(self, connecting):
        try:
            return await connecting
        except (iostream.StreamClosedError, ssl.SSLError):
            raise
        except OSError as error:
            raise iostream.StreamClosedError(error) from error


class PipeIOStream(Adapted, iostream.PipeIOStream):
    pass


class IOStream(Connecting, iostream.IOStream):
    pass


class SSLIOStream(Connecting, iostream.SSLIOStream):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self._has_peer:
            self.io_loop.add_callback(self._open)

    def _fail_opening(self, error):
        if isinstance(error, ssl.SSLError) and not self.closed():
            gen_log.warning("SSL Error on %s: %s", self.fileno(), error)
        super()._fail_opening(error)


def ours_for_tornados():
    """The places for `replaced` that put our streams and loop into all of Tornado."""
    return [
        *everywhere(tornado.ioloop.IOLoop, AdaptedLoop),
        *everywhere(tornado.ioloop.PeriodicCallback, AdaptedPeriodicCallback),
        *everywhere(tornado.iostream.IOStream, IOStream),
        *everywhere(tornado.iostream.SSLIOStream, SSLIOStream),
        *everywhere(tornado.iostream.PipeIOStream, PipeIOStream),
        *everywhere(tornado.iostream.StreamClosedError, iostream.StreamClosedError),
        *everywhere(tornado.iostream.StreamBufferFullError, iostream.StreamBufferFullError),
        *everywhere(tornado.iostream.UnsatisfiableReadError, iostream.UnsatisfiableReadError),
        (_tls, "SSLIOStream", SSLIOStream),  # what start_tls() makes
        (tornado.log.access_log, "disabled", True),  # as Tornado's own runner has it
    ]
