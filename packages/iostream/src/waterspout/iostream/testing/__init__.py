r"""A network under control: for tests of code that uses streams.

-   `SimulatedNetwork`: hosts and connections on a simulated loop, as slow, choppy and faulty as a
    `Link` says. Inside it, `connect_tcp`, `serve_tcp` and the streams are the real code.
-   `ScriptedPeer`: the other end of a connection, which does and expects exactly what is written.
-   `StreamConformance`: what a stream class must do.

::

    async def main():
        with SimulatedNetwork(Link(latency=0.2, chunk=1)) as network:
            peer = ScriptedPeer(network).expect(b"PING\n").wait(3600).send(b"PONG\n")
            async with peer as stream:
                await stream.write(b"PING\n")
                assert await stream.read_until(b"\n") == b"PONG\n"

    waterspout.ioloop.testing.simulate(main)  # takes no time
"""

from waterspout.iostream.testing._conformance import StreamConformance
from waterspout.iostream.testing._link import Link
from waterspout.iostream.testing._network import SimulatedNetwork
from waterspout.iostream.testing._script import ScriptedPeer, ScriptError
from waterspout.iostream.testing._socket import SimulatedSocket

__all__ = [
    "Link",
    "ScriptError",
    "ScriptedPeer",
    "SimulatedNetwork",
    "SimulatedSocket",
    "StreamConformance",
]
