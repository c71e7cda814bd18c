"""Real programs, and the standard library's blocking sockets, at the other end of our streams.

The programs are started by `open_process`, which is so proved as well. Those that are not
installed skip their tests.
"""

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
from subprocess import DEVNULL, PIPE

import pytest
import trustme

from waterspout.iostream import (
    StreamClosedError,
    connect_tcp,
    open_process,
    serve_tcp,
    serve_unix,
)

pytestmark = pytest.mark.only_on("linux", "darwin")

LOCAL = "127.0.0.1"
LIMIT = 20
"""Seconds that anything outside of this process may take; nothing here comes near."""
DATA = bytes((number * number >> 8) & 0xFF for number in range(1_000_000))
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)


# What the tests are made of


def program(name):
    """The path of a program; without it, the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@contextlib.asynccontextmanager
async def running(*command, **options):
    """A process with three pipes, that has an end with the block."""
    pipes = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    async with asyncio.timeout(LIMIT):
        async with await open_process(list(map(str, command)), **(pipes | options)) as process:
            try:
                yield process
            finally:
                process.kill()


async def output_of(*command, data=b"", code=0):
    """What a program makes of its input, in good order."""
    async with running(*command) as process:
        output, errors = await process.communicate(data)
        assert process.returncode == code, errors.decode()
    return output


async def port_in(lines):
    """The port that a program says it listens on."""
    async for line in lines:
        if found := re.search(rb"(?i)listening on .*\b(\d+)\s*$", line):
            return int(found[1])
    raise EOFError("the program has ended")


def unused_port():
    with socket.create_server((LOCAL, 0)) as listener:
        return listener.getsockname()[1]


async def connect_when_up(port, **kwargs):
    """Connect to a program that does not say when it has begun to listen."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await connect_tcp(LOCAL, port, **kwargs)
            except ConnectionRefusedError:
                await asyncio.sleep(0.001)


async def echo(stream):
    """Sends a piece back as soon as it is there."""
    while True:
        await stream.write(await stream.read_bytes(1 << 16, partial=True))


async def echo_once(stream):
    """Sends a megabyte back, piece by piece, and is done."""
    await pass_on(stream, stream)


async def pass_on(source, target):
    """Pass a megabyte on. Who sends it need not read before all of it is sent."""
    left = len(DATA)
    while left:
        piece = await source.read_bytes(min(left, 1 << 16), partial=True)
        writing = target.write(piece)
        left -= len(piece)
    await writing


async def echo_the_whole(stream):
    """Sends everything back when there is no more; needs `half_open`."""
    await stream.write(await stream.read_until_close())


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """A folder with ca.pem, and a server's certificate and key: server.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("localhost", LOCAL)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    return folder


@pytest.fixture
def server_context(files):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "server.pem")
    return context


@pytest.fixture
def client_context(files):
    return ssl.create_default_context(cafile=files / "ca.pem")


def only(context, version):
    context.minimum_version = context.maximum_version = version
    return context


def name_of(version):
    return version.name.replace("_", ".")


# openssl


def s_client(port, ca, *arguments):
    command = ["s_client", "-connect", f"{LOCAL}:{port}", "-servername", "localhost", "-CAfile", ca]
    verified = ["-verify_return_error", "-verify_hostname", "localhost"]
    return (program("openssl"), *command, *verified, *arguments)


@VERSIONS
async def test_openssl_s_client(server_context, files, version):
    versions = []

    async def handler(stream):
        versions.append(stream.socket.version())
        await echo_once(stream)

    async with await serve_tcp(handler, LOCAL, ssl=only(server_context, version)) as server:
        command = s_client(server.port, files / "ca.pem", "-quiet")
        assert await output_of(*command, data=DATA) == DATA
    assert versions == [name_of(version)]


async def test_openssl_s_client_decides_the_version(server_context, files):
    """The server takes both, and goes on after clients that do not want it."""
    versions = []

    async def handler(stream):
        versions.append(stream.socket.version())
        await stream.write(b"hello\n")

    server_context.minimum_version = ssl.TLSVersion.TLSv1_2
    async with await serve_tcp(handler, LOCAL, ssl=server_context) as server:
        for option in ("-tls1_2", "-tls1_3"):
            await output_of(*s_client(server.port, files / "stranger.pem", option), code=1)
            command = s_client(server.port, files / "ca.pem", "-quiet", option)
            assert await output_of(*command) == b"hello\n"
    # With TLS 1.3 a client has sent its last word before it says no; the handshake is done.
    assert versions[0] == "TLSv1.2"
    assert versions[-1] == "TLSv1.3"


async def test_openssl_s_client_starts_tls(server_context, files):
    """As SMTP does: plain at first."""
    said = []

    async def handler(stream):
        for answer in (b"220 ready\r\n", b"250-localhost\r\n250 STARTTLS\r\n", b"220 go on\r\n"):
            await stream.write(answer)
            if not answer.startswith(b"220 go"):
                said.append(await stream.read_until(b"\r\n"))
        async with await stream.start_tls(True, server_context) as encrypted:
            await echo_once(encrypted)

    async with await serve_tcp(handler, LOCAL) as server:
        command = s_client(server.port, files / "ca.pem", "-quiet", "-starttls", "smtp")
        assert await output_of(*command, data=DATA) == DATA
    assert said[0].startswith(b"EHLO ")
    assert said[1] == b"STARTTLS\r\n"


def s_server(port, files, *arguments):
    command = ["s_server", "-accept", f"{LOCAL}:{port}", "-cert", files / "server.pem"]
    return (program("openssl"), *command, *arguments)


@VERSIONS
async def test_openssl_s_server(client_context, files, version):
    """It prints what it receives, and that is given back to it to send."""

    port = unused_port()
    option = "-tls1_2" if version is ssl.TLSVersion.TLSv1_2 else "-tls1_3"
    async with running(*s_server(port, files, "-quiet", option)) as process:
        async with await connect_when_up(port, ssl=client_context) as stream:
            assert stream.socket.version() == name_of(version)
            stream.write(DATA)
            passing = asyncio.create_task(pass_on(process.stdout, process.stdin))
            assert await stream.read_bytes(len(DATA)) == DATA
            await passing


async def test_openssl_s_server_gives_pages(client_context, files):
    """HTTP to the end of the connection, which is told from a connection cut off."""
    port = unused_port()
    async with running(*s_server(port, files, "-www"), stdout=DEVNULL):
        for _ in range(2):
            async with await connect_when_up(port, ssl=client_context) as stream:
                await stream.write(b"GET / HTTP/1.0\r\n\r\n")
                assert await stream.read_until(b"\r\n") == b"HTTP/1.0 200 ok\r\n"
                assert (await stream.read_until_close()).endswith(b"</HTML>\r\n\r\n")
                assert stream.error is None


async def test_openssl_s_server_of_a_stranger(files):
    port = unused_port()
    stranger = ssl.create_default_context(cafile=files / "stranger.pem")
    async with running(*s_server(port, files), stdout=DEVNULL):
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect_when_up(port, ssl=stranger)


# curl


async def http(stream):
    """As little HTTP as will do: it gives a megabyte, or what it was given."""
    while True:
        head = await stream.read_until(b"\r\n\r\n", max_bytes=10_000)
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        body = await stream.read_bytes(int(length[1]) if length else 0)
        if method == b"GET":
            body = DATA
        await stream.write(b"HTTP/1.1 200 OK\r\n")
        if path == b"/length":
            await stream.write(b"Content-Length: %d\r\n\r\n" % len(body))
            await stream.write(body)
        elif path == b"/chunked":
            await stream.write(b"Transfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 99_999):
                piece = body[start : start + 99_999]
                await stream.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await stream.write(b"0\r\n\r\n")
        else:
            await stream.write(b"Connection: close\r\n\r\n")
            await stream.write(body)
            return


def curl(*arguments):
    quiet = ["--silent", "--show-error", "--noproxy", "*", "--max-time", LIMIT]
    return (program("curl"), *quiet, *arguments)


async def test_curl_over_http():
    accepted = []

    async def handler(stream):
        accepted.append(stream)
        await http(stream)

    async with await serve_tcp(handler, LOCAL) as server:
        site = f"http://{LOCAL}:{server.port}"
        command = curl(f"{site}/length", f"{site}/chunked", f"{site}/close")
        assert await output_of(*command) == DATA * 3
        assert len(accepted) == 1  # for the three of them
        command = curl("--data-binary", "@-", "--header", "Expect:", f"{site}/length")
        assert await output_of(*command, data=DATA[::-1]) == DATA[::-1]


@VERSIONS
async def test_curl_over_https(server_context, files, version):
    seen = []

    async def handler(stream):
        seen.append((stream.socket.version(), stream.negotiated_protocol))
        await http(stream)

    server_context.set_alpn_protocols(["http/1.1"])
    async with await serve_tcp(handler, LOCAL, ssl=only(server_context, version)) as server:
        site = f"https://localhost:{server.port}"
        options = ["--cacert", files / "ca.pem", "--resolve", f"localhost:{server.port}:{LOCAL}"]
        command = curl(*options, f"{site}/length", f"{site}/chunked", f"{site}/close")
        assert await output_of(*command) == DATA * 3
        command = curl(*options, "--data-binary", "@-", "--header", "Expect:", f"{site}/close")
        assert await output_of(*command, data=DATA[::-1]) == DATA[::-1]
        assert seen == [(name_of(version), "http/1.1")] * 2
        options[1] = files / "stranger.pem"
        await output_of(*curl(*options, f"{site}/length"), code=60)  # it trusts nobody we know


# nc


async def half_closing_nc():
    """An nc that closes its sending side at the end of its input. There are many of that name."""
    nc = program("nc")
    async with running(nc, "-h") as process:
        said = b"".join(await process.communicate())
    if b"OpenBSD" in said:
        return [nc, "-N"]
    if b"Ncat" in said:
        return [nc]
    return pytest.skip(f"{nc} is neither OpenBSD's nor Nmap's, and need not half-close")


async def test_nc_half_closes():
    command = await half_closing_nc()
    async with await serve_tcp(echo_the_whole, LOCAL, half_open=True) as server:
        assert await output_of(*command, LOCAL, server.port, data=DATA) == DATA


async def test_nc_listens():
    """It closes its side first; ours goes on."""
    command = await half_closing_nc()
    async with running(*command, "-v", "-l", LOCAL, "0") as process:
        port = await port_in(process.stderr)
        async with await connect_tcp(LOCAL, port, half_open=True) as stream:
            process.stdin.write(DATA)
            process.stdin.write_eof()
            assert await stream.read_until_close() == DATA
            stream.write(DATA[::-1])
            await stream.write_eof()
            assert await process.stdout.read_until_close() == DATA[::-1]
        assert await process.wait() == 0


# socat


def socat(*arguments):
    return (program("socat"), "-t", LIMIT, *arguments)


async def test_socat_half_closes():
    async with await serve_tcp(echo_the_whole, LOCAL, half_open=True) as server:
        command = socat("STDIO", f"TCP4:{LOCAL}:{server.port}")
        assert await output_of(*command, data=DATA) == DATA


async def test_socat_over_a_unix_socket(tmp_path):
    path = tmp_path / "socket"
    async with await serve_unix(echo_the_whole, path, half_open=True):
        assert await output_of(*socat("STDIO", f"UNIX-CONNECT:{path}"), data=DATA) == DATA


async def test_socat_listens():
    """It echoes, and we are the ones who half-close."""
    command = socat("-d", "-d", f"TCP4-LISTEN:0,bind={LOCAL}", "PIPE")
    async with running(*command, stdout=DEVNULL) as process:
        async with await connect_tcp(LOCAL, await port_in(process.stderr)) as stream:
            stream.write(DATA)
            stream.write_eof()
            assert await stream.read_until_close() == DATA
            assert stream.error is None
        assert await process.wait() == 0


@VERSIONS
async def test_socat_over_tls(server_context, files, version):
    """Its close_notify is an end like any other, and it still hears us after that."""
    context = only(server_context, version)
    async with await serve_tcp(echo_the_whole, LOCAL, ssl=context, half_open=True) as server:
        target = f"OPENSSL:localhost:{server.port},pf=ip4,cafile={files / 'ca.pem'}"
        assert await output_of(*socat("STDIO", target), data=DATA) == DATA


# The standard library


def receive(sock, size=None):
    """Receive so many bytes; without a size, to the end."""
    received = bytearray()
    while size is None or len(received) < size:
        piece = sock.recv(1 << 16 if size is None else min(1 << 16, size - len(received)))
        if not piece:
            break
        received += piece
    return received


def connect(port):
    return socket.create_connection((LOCAL, port), LIMIT)


async def test_a_blocking_client():
    def client(port):
        with connect(port) as sock:
            sock.sendall(DATA)
            sock.shutdown(socket.SHUT_WR)
            return receive(sock)

    async with await serve_tcp(echo_the_whole, LOCAL, half_open=True) as server:
        assert await asyncio.to_thread(client, server.port) == DATA


async def test_a_blocking_client_that_resets():
    def client(port):
        with connect(port) as sock:
            sock.sendall(DATA[:1000])
            assert receive(sock, 1000) == DATA[:1000]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    errors = []

    async def handler(stream):
        try:
            await echo(stream)
        except StreamClosedError as error:
            errors.append(error.real_error)

    async with await serve_tcp(handler, LOCAL) as server:
        await asyncio.to_thread(client, server.port)
    assert [type(error) for error in errors] == [ConnectionResetError]


async def test_a_blocking_server():
    def serve(listener):
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(LIMIT)
            sock.sendall(receive(sock))

    with socket.create_server((LOCAL, 0)) as listener:
        listener.settimeout(LIMIT)
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with await connect_tcp(LOCAL, listener.getsockname()[1]) as stream:
            stream.write(DATA)
            stream.write_eof()
            assert await stream.read_until_close() == DATA
        await serving


@VERSIONS
async def test_a_blocking_tls_client(server_context, client_context, version):
    only(client_context, version)

    def client(port):
        with client_context.wrap_socket(connect(port), server_hostname="localhost") as sock:
            assert sock.version() == name_of(version)
            sock.sendall(DATA)
            received = receive(sock, len(DATA))
            sock.unwrap().close()  # in good order, or it raises
            return received

    errors = []

    async def handler(stream):
        await stream.write(await stream.read_bytes(len(DATA)))
        with pytest.raises(StreamClosedError) as caught:
            await stream.read_bytes(1)
        errors.append(caught.value.real_error)

    async with await serve_tcp(handler, LOCAL, ssl=server_context) as server:
        assert await asyncio.to_thread(client, server.port) == DATA
    assert errors == [None]


@VERSIONS
async def test_a_blocking_tls_server(server_context, client_context, version):
    only(server_context, version)

    def serve(listener):
        plain, _ = listener.accept()
        plain.settimeout(LIMIT)
        with server_context.wrap_socket(plain, server_side=True) as sock:
            sock.sendall(receive(sock, len(DATA)))
            sock.unwrap().close()

    with socket.create_server((LOCAL, 0)) as listener:
        listener.settimeout(LIMIT)
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        port = listener.getsockname()[1]
        async with await connect_tcp(LOCAL, port, ssl=client_context) as stream:
            assert stream.socket.version() == name_of(version)
            await stream.write(DATA)
            assert await stream.read_until_close() == DATA
            assert stream.error is None
        await serving
