"""`ScriptedPeer`: it does what it says, and sees every deviation."""

import asyncio

import pytest

from waterspout.iostream import StreamClosedError, connect_tcp
from waterspout.iostream.testing import Link, ScriptedPeer, ScriptError, SimulatedNetwork

pytestmark = pytest.mark.waterspout


@pytest.fixture
def network(waterspout_simulated_loop):
    """Entered by the test: it needs the loop to be running."""
    return SimulatedNetwork


async def test_a_script_is_played(network):
    loop = asyncio.get_running_loop()
    with network(Link(latency=0.5, chunk=1)) as simulated:
        peer = (
            ScriptedPeer(simulated)
            .expect(b"PING\n")
            .wait(3600)
            .send(b"PONG\n")
            .expect(bytearray(b"BYE"))
            .end()
            .expect_end()
        )
        async with peer as stream:
            await stream.write(b"PING\nBYE")
            assert await stream.read_until(b"\n") == b"PONG\n"
            assert loop.time() == 3601
            assert await stream.read_until_close() == b""


async def test_a_server_may_have_a_script(network):
    with network() as simulated:
        peer = ScriptedPeer(simulated, "server", 80).expect(b"GET\n").send(b"page").end()
        async with peer as (host, port):
            stream = await connect_tcp("server", port)
            assert stream.socket.getpeername() == (host, port)
            await stream.write(b"GET\n")
            assert await stream.read_until_close() == b"page"


async def test_large_amounts_wait_for_room(network):
    with network(Link(room=1000)) as simulated:
        async with ScriptedPeer(simulated).send(b"x" * 100_000) as stream:
            assert await stream.read_bytes(100_000) == b"x" * 100_000


async def test_a_reset_is_part_of_a_script(network):
    with network() as simulated:
        async with ScriptedPeer(simulated).send(b"half").reset() as stream:
            with pytest.raises(StreamClosedError) as caught:
                await stream.read_until(b"\n")
            assert isinstance(caught.value.real_error, ConnectionResetError)
            assert caught.value.partial == b"half"


async def _deviate(simulated, script, words=b"", end=True, link=None):
    async with script(ScriptedPeer(simulated, link=link)) as stream:
        if words:
            await stream.write(words)
        if end:
            stream.close()
        else:
            await stream.read_until_close()


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (
            lambda peer: peer.wait(1).expect(b"hello\n"),
            b"help!\n",
            """in step 2 of 2, expect b'hello\\n': after 3 bytes that are the same,
  expected b'lo\\n'
  received b'p!\\n'""",
        ),
        (
            lambda peer: peer.expect(b"hello"),
            b"hel",
            """the other end ended; after 3 bytes that are the same,
  expected b'lo'
  received b''""",
        ),
        (lambda peer: peer.expect(b"hello world"), b"help", "expected b'lo world'"),
        (
            lambda peer: peer.expect(b"hello"),
            b"hello world",
            "after the script of 1 steps: the other end sent b' world'",
        ),
        (
            lambda peer: peer.expect_end(),
            b"x",
            "in step 1 of 1, expect the end: the other end",
        ),
        (lambda peer: peer, b"x", "after the script of 0 steps: the other end sent b'x'"),
        (
            lambda peer: peer.wait(1).send(b"x" * 10).wait(1).send(b"y"),
            b"",
            "in step 4 of 4, send b'y': the other end is gone",
        ),
    ],
)
async def test_deviations_are_told_with_the_difference(network, script, words, message):
    with network() as simulated:
        with pytest.raises(ScriptError) as caught:
            await _deviate(simulated, script, words)
        assert message in str(caught.value)


async def test_a_deviation_is_why_the_code_under_test_failed(network):
    with network() as simulated:
        with pytest.raises(ScriptError, match="expected b'ING'") as caught:
            async with ScriptedPeer(simulated).expect(b"PING").send(b"PONG") as stream:
                await stream.write(b"PANG")
                await stream.read_bytes(4)
        assert isinstance(caught.value.__context__, StreamClosedError)


async def test_an_error_of_the_code_under_test_ends_the_play(network):
    with network() as simulated:
        with pytest.raises(ZeroDivisionError):
            async with ScriptedPeer(simulated).expect(b"never").send(b"x"):
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with ScriptedPeer(simulated, "server").expect(b"never"):
                raise ZeroDivisionError


async def test_a_peer_that_resets_after_the_script_is_an_end(network):
    with network() as simulated:
        async with ScriptedPeer(simulated).send(b"unread") as stream:
            await asyncio.sleep(1)
            simulated.connections[0][0].reset()
            stream.close()


async def test_mistakes_are_told(network):
    with network() as simulated:
        with pytest.raises(TypeError, match="network must be a SimulatedNetwork, not 5"):
            ScriptedPeer(5)
        peer = ScriptedPeer(simulated)
        with pytest.raises(TypeError, match="data must be"):
            peer.expect("text")
        async with peer:
            with pytest.raises(RuntimeError, match="being played already"):
                peer.send(b"x")
        with pytest.raises(RuntimeError, match="only once"):
            async with peer:
                raise AssertionError


async def test_a_reset_by_the_other_end_is_a_deviation(network):
    with network() as simulated:
        with pytest.raises(ScriptError, match="in step 2 of 2(.|\n)*expected b'llo'"):
            async with ScriptedPeer(simulated).send(b"unread").expect(b"hello") as stream:
                await stream.write(b"he")
                await asyncio.sleep(1)
                stream.close()
        with pytest.raises(ScriptError, match="in step 2 of 2, expect the end: the other end is"):
            async with ScriptedPeer(simulated).send(b"unread").expect_end() as stream:
                await asyncio.sleep(1)
                stream.close()


async def test_a_server_that_nobody_connects_to_does_not_wait(network):
    with network() as simulated:
        with pytest.raises(ScriptError, match="nobody connected to"):
            async with ScriptedPeer(simulated, "server").send(b"x"):
                pass


async def test_a_second_connection_is_a_deviation(network):
    with network() as simulated:
        with pytest.raises(ScriptError, match="there was a second connection"):
            async with ScriptedPeer(simulated, "server", 80):
                for _ in range(2):
                    (await connect_tcp("server", 80)).close()


async def test_a_play_that_is_not_ended_tells_where_it_is(network):
    with network() as simulated:
        stream = None
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(60):
                async with ScriptedPeer(simulated, "server", 80).expect(b"never"):
                    stream = await connect_tcp("server", 80)
        stream.close()
        notes = caught.value.__cause__.__notes__
        assert notes == ["in step 1 of 1, expect b'never': waiting for the other end"]


async def test_bad_scripts_are_refused(network):
    with network() as simulated:
        with pytest.raises(TypeError, match="host must be a string or None, not 5"):
            ScriptedPeer(simulated, 5)
        with pytest.raises(TypeError, match="port must be an integer"):
            ScriptedPeer(simulated, "server", "80")
        peer = ScriptedPeer(simulated)
        with pytest.raises(TypeError, match="seconds must be a number, not 'x'"):
            peer.wait("x")
        with pytest.raises(ValueError, match="seconds must not be negative, not -1"):
            peer.wait(-1)
