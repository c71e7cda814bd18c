"""The other end of the streams' benchmarks: a process of its own, with blocking sockets.

`python peer_process.py send PORT CHUNK COUNT [CA]` connects and sends so many chunks;
`python peer_process.py drain PORT [CA]` receives to the end;
`python peer_process.py echo PORT CONNECTIONS COUNT SIZE` keeps so many connections busy with lines
that come back, until there were `COUNT` of them, and prints how many seconds that took.
"""

import select
import socket
import ssl
import sys
import time


def _connect(port: str, authority: str | None = None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", int(port)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if authority is None:
        return plain
    context = ssl.create_default_context(cafile=authority)
    return context.wrap_socket(plain, server_hostname="localhost")


def send(port: str, chunk: str, count: str, authority: str | None = None) -> None:
    """Send as fast as can be."""
    line = b"x" * 63 + b"\n"
    data = line * (int(chunk) // 64)
    with _connect(port, authority) as sock:
        for _ in range(int(count)):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass


def drain(port: str, authority: str | None = None) -> None:
    """Receive as fast as can be."""
    memory = memoryview(bytearray(1 << 20))
    with _connect(port, authority) as sock:
        while sock.recv_into(memory):
            pass


def echo(port: str, connections: str, count: str, size: str) -> None:
    """Ask and be answered, on many connections."""
    line = b"x" * (int(size) - 1) + b"\n"
    poll = select.epoll()
    socks = {}
    for _ in range(int(connections)):
        sock = _connect(port)
        socks[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
    left = int(count)
    started = time.perf_counter()
    for sock in socks.values():
        sock.send(line)
    while left > 0:
        for fd, _ in poll.poll():
            sock = socks[fd]
            got = len(sock.recv(4096))
            assert got == len(line)
            left -= 1
            sock.send(line)
    print(time.perf_counter() - started)


{"send": send, "drain": drain, "echo": echo}[sys.argv[1]](*sys.argv[2:])
