"""The file of a Unix socket: made, taken over from a server that is gone, removed.

Two servers that start over the file of a third, which is gone, must not both have it. Each looks
whether somebody listens, removes the file and makes its own. Without a lock, the second may remove
the file of the first, having looked before that one began to listen.

So servers start one at a time in a directory: each locks it (flock(2)) before it looks, until it
listens. The kernel frees the lock of a process that dies. There is no lock file that could be left
behind. No temporary name is used for the socket, since clients and tools are shown the name that
it was bound to.

A directory that cannot be locked (it may not be read, or its file system has no locks) is used
without, and then only moments are left for such a race: the file is compared right before it is
removed, and again once the server listens.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as _socket
import stat
import sys
from pathlib import Path
from typing import TypeAlias

from waterspout.ioloop.scheduling import Scheduler, settle
from waterspout.iostream._network import unix_error

if sys.platform != "win32":  # pragma: no branch
    import fcntl

LOCK_SECONDS = 5.0
"""How long a server waits for the lock. Anybody who may read a directory can lock it for ever, so
then it goes on without."""
LOCK_RETRY = 0.005
"""Seconds between two attempts to have it: the call that waits would block the loop."""

_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that say that binding a socket would fail as well."""

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file. While its socket is open, no other file has the same ones."""


def is_abstract(address: str | bytes) -> bool:
    """Whether a name is not a file's; the empty one has the kernel find one (unix(7))."""
    return address[:1] in ("", b"", "\0", b"\0")


async def listen_unix(
    scheduler: Scheduler, address: str | bytes, mode: int | None, backlog: int
) -> _socket.socket:
    """Listen on a Unix socket; its file, if it has one, has its permissions before that.

    Raises:
        OSError: If that cannot be done. Nothing is left behind.
    """
    try:
        if is_abstract(address):
            return _listen_on_name(address, backlog)
        with await _lock(scheduler, file_of(address).parent):
            return _listen_on_file(address, mode, backlog)
    except OSError as error:
        if error.filename is None:
            raise unix_error(error, address) from None
        raise


async def _lock(scheduler: Scheduler, directory: Path) -> contextlib.ExitStack:
    """Lock a directory, if that can be done.

    Returns:
        A context manager that unlocks it.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _LACKING:
                raise
            return stack.pop_all()  # if it does not exist, `bind` says so
        stack.callback(os.close, descriptor)
        deadline = scheduler.time() + LOCK_SECONDS
        while not _try_lock(descriptor, stack) and scheduler.time() < deadline:
            later = scheduler.create_future()
            timer = scheduler.call_later(LOCK_RETRY, settle, later, None)
            try:
                await later
            finally:
                scheduler.remove_timeout(timer)
        return stack.pop_all()


def _try_lock(descriptor: int, stack: contextlib.ExitStack) -> bool:
    """Lock a directory, or find that it cannot be locked; give whether either is so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # somebody else has locked it
    except OSError:
        return True
    # A child that was forked meanwhile has the lock as well, until one of the two unlocks.
    stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
    return True


def _listen_on_name(name: str | bytes, backlog: int) -> _socket.socket:
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        socket.setblocking(False)
        socket.bind(name)
        socket.listen(backlog)
    except BaseException:
        socket.close()
        raise
    return socket


def _listen_on_file(address: str | bytes, mode: int | None, backlog: int) -> _socket.socket:
    file = file_of(address)
    identity: Identity | None = None
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        socket.setblocking(False)
        _bind(socket, address, file)
        identity = identity_of(file)
        if mode is not None:
            file.chmod(mode)  # before anybody can connect
        socket.listen(backlog)
        if identity is None or identity_of(file) != identity:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except BaseException:
        remove_file(file, identity)
        socket.close()
        raise
    return socket


def _bind(socket: _socket.socket, address: str | bytes, file: Path) -> None:
    try:
        socket.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _remove_stale(address, file):
            raise
        socket.bind(address)


def _remove_stale(address: str | bytes, file: Path) -> bool:
    """Remove a socket's file on which nobody listens; give whether there is none now."""
    with contextlib.suppress(FileNotFoundError):
        before = file.lstat()
        if not (stat.S_ISSOCK(before.st_mode) and _is_refused(address)):
            return False
        # Nobody has it open, so by now its inode may be another file's, but not of this moment.
        now = file.lstat()
        if (now.st_dev, now.st_ino, now.st_ctime_ns) != (
            before.st_dev,
            before.st_ino,
            before.st_ctime_ns,
        ):
            return False
        file.unlink()
    return True


def _is_refused(address: str | bytes) -> bool:
    with _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(address) == errno.ECONNREFUSED


def file_of(address: str | bytes) -> Path:
    """Give the file of an address."""
    return Path(os.fsdecode(address))


def identity_of(file: Path) -> Identity | None:
    """Tell which file has a path now; `None` if there is none."""
    try:
        status = file.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove_file(file: Path, identity: Identity | None) -> None:
    """Remove a file, if it is still the same."""
    if identity is not None and identity_of(file) == identity:
        with contextlib.suppress(OSError):
            file.unlink()
