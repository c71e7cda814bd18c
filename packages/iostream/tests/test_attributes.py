"""Public attributes that cannot be assigned: nothing would change."""

import subprocess
import sys

import pytest

from waterspout.iostream import open_process, serve_tcp, serve_unix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


async def ignore(stream):
    pass


def check_read_only(thing, names):
    for name in names:
        before = getattr(thing, name)
        with pytest.raises(AttributeError):
            setattr(thing, name, before)
        assert getattr(thing, name) == before


async def test_those_of_a_server_are_read_only(tmp_path):
    async with await serve_tcp(ignore, "127.0.0.1") as server:
        check_read_only(server, ["port", "sockets", "connections"])
    async with await serve_unix(ignore, str(tmp_path / "socket")) as server:
        check_read_only(server, ["path", "sockets", "connections"])


async def test_those_of_a_process_are_read_only():
    command = [sys.executable, "-c", "pass"]
    async with await open_process(command, stdin=subprocess.PIPE) as process:
        check_read_only(process, ["pid", "args", "returncode"])
        assert process.args == command
