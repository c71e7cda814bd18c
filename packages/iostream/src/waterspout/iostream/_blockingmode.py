"""Whether an open file is in blocking mode, which is shared with others.

`O_NONBLOCK` belongs to the open file description (fcntl(2)), not to the descriptor. Several streams
of this process can have descriptors of one open file, and so can other processes: stdin, stdout and
stderr of a program in a terminal are one open file, which the shell has as well. The mode is
therefore kept per open file. It is changed when the first stream needs it, and changed back when
the last stream is closed, or else at exit.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from typing import TypeAlias

_Inode: TypeAlias = tuple[int, int, int]


class OpenFile:
    """An open file that was in blocking mode before streams of this process used it.

    Attributes:
        fds: The descriptors of the streams that use it.
        is_shared: Whether several streams use it, or have used it since the first of them.
    """

    def __init__(self, inode: _Inode) -> None:
        self.fds: set[int] = set()
        self.is_shared = False
        self._inode = inode

    def release(self, fd: int) -> None:
        """Note that a stream does not use it any more; the last one sets it to blocking mode.

        A forked child sets nothing: its parent goes on with the open file.

        Raises:
            OSError: If the descriptor was closed already.
        """
        with _in_use.lock:
            self.fds.discard(fd)
            if self.fds or not _in_use.remove(self._inode, self):
                return
        os.set_blocking(fd, True)


class _InUse:
    """The open files that streams use.

    Each end of a pipe, and each `open` of a FIFO or terminal, is another open file of one inode.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all, as in a forked child: they are its parent's to change back."""
        # The garbage collector may close a stream while this thread holds it.
        self.lock = threading.RLock()
        self.files: dict[_Inode, list[OpenFile]] = {}

    def remove(self, inode: _Inode, file: OpenFile) -> bool:
        """Whether it was there."""
        files = self.files.get(inode, [])
        if file not in files:
            return False
        files.remove(file)
        if not files:
            del self.files[inode]
        return True

    def restore(self) -> None:
        """Set all to blocking mode, at exit: the shell goes on with its terminal."""
        for file in [file for files in self.files.values() for file in files]:
            for fd in file.fds:
                with contextlib.suppress(OSError):
                    os.set_blocking(fd, True)


_in_use = _InUse()
atexit.register(_in_use.restore)
if hasattr(os, "register_at_fork"):  # pragma: no branch (all but Windows)
    os.register_at_fork(after_in_child=_in_use.reset)


def claim(fd: int, status: os.stat_result) -> OpenFile | None:
    """Note that a stream uses an open file.

    Args:
        fd: Its descriptor.
        status: That of the descriptor.

    Returns:
        The open file; `None` if it is in non-blocking mode without a stream's doing, and so is to
        stay in it.
    """
    inode = status.st_dev, status.st_ino, status.st_rdev
    with _in_use.lock:
        for file in tuple(_in_use.files.get(inode, ())):
            if any(_is_same_file(fd, other) for other in tuple(file.fds)):
                file.is_shared = True
                break
        else:
            if not os.get_blocking(fd):
                return None
            file = OpenFile(inode)
        file.fds.add(fd)
        files = _in_use.files.setdefault(inode, [])
        if file not in files:  # it is new, or was released meanwhile
            files.append(file)
    return file


def _is_same_file(fd: int, other: int) -> bool:
    """Whether two descriptors are of one open file: then a flag of one is a flag of the other.

    `O_APPEND` has no effect on what streams are made for.
    """
    import fcntl

    def flip() -> None:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_APPEND)

    try:
        before = fcntl.fcntl(other, fcntl.F_GETFL)
        flip()
        try:
            return (fcntl.fcntl(other, fcntl.F_GETFL) ^ before) & os.O_APPEND != 0
        finally:
            flip()
    except OSError:  # the other one was closed behind its stream's back
        return False
