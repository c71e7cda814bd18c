"""A child process, apart from any event loop: started, signalled and reaped from any thread.

A process number belongs to a child until the child is reaped; then the kernel may give it to
another process. Two rules keep a signal from reaching that other process:

1.  Reaping and signalling exclude each other (`Child._lock`). A thread that waits for the end does
    so without reaping (`WNOWAIT`).
2.  Code of others may reap the child (`os.waitpid(-1)`, an ignored SIGCHLD). A signal therefore
    goes to a process descriptor (pidfd), or where there is none, only to what the kernel still
    calls a child of this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any, Final, TypeAlias

from waterspout.iostream._offloop import EXITS

Command: TypeAlias = str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]]
Redirection: TypeAlias = int | IO[Any] | None

UNKNOWN_STATUS: Final = 255
"""The exit status of a process whose real one somebody else has taken."""

_HAS_WAITID: Final = hasattr(os, "waitid")
"""Not on macOS before Python 3.13. There, rule 1 holds but for the moment in which a thread that
waits reaps the child."""

_PATIENCE: Final = 0.2
"""Seconds for which a start waits for another one to fork."""

log = logging.getLogger("waterspout.iostream")


class Child:
    """A running child process.

    Args:
        popen: What started it. It keeps the exit status, and nothing else of it is used.
        pipes: This side's ends of the pipes to its stdin, stdout and stderr; -1 for none.

    Attributes:
        popen: As given.
        pid: Its process number.
        pipes: As given; -1 once another object owns the descriptor.
        pidfd: Its process descriptor; -1 if there is none.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]", pipes: list[int]) -> None:
        self.popen = popen
        self.pid: int = popen.pid
        self.pipes = pipes
        self.pidfd: int = -1
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._wait_lock = threading.Lock()
        self._close_pidfd: Callable[[], object] | None = None

    @property
    def returncode(self) -> int | None:
        """Exit status, the negative signal number if killed by a signal, `None` while running."""
        return self.popen.returncode

    def is_ours(self) -> bool:
        """Whether this process started it, and not one that this process was forked from."""
        return self._owner == os.getpid()

    def open_pidfd(self) -> None:
        """Get a process descriptor, where the system has them and a descriptor is free."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            return
        try:
            # If the child was reaped already, its number may be that of another process.
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (AttributeError, OSError):  # Linux 5.3 has no P_PIDFD
            os.close(pidfd)
            return
        self.pidfd = pidfd
        # If the loop ends before the process, nobody else closes it.
        release = weakref.finalize(self, os.close, pidfd)
        release.atexit = False
        self._close_pidfd = release

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the child has ended or belongs to a process that forked this one.

        Args:
            number: The signal.

        Raises:
            PermissionError: If the child runs as another user.
            OSError: If there is no such signal.
        """
        with self._lock, contextlib.suppress(ChildProcessError, ProcessLookupError):
            if self.returncode is not None or not self.is_ours():
                return
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, number)
                return
            if _HAS_WAITID:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(self.pid, number)

    def reap(self) -> bool:
        """Take the exit status, if the child has ended. Does not block.

        Returns:
            Whether it has ended.
        """
        with self._lock:
            return self._take_status(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the end, and take the exit status. Blocks.

        Returns:
            The exit status; see `returncode`.
        """
        if not _HAS_WAITID:
            with self._wait_lock:  # the status can be taken once
                self._take_status(0)
        while not self.reap():
            with contextlib.suppress(OSError):
                os.waitid(*self._identity(), os.WEXITED | os.WNOWAIT)
        code = self.returncode
        assert code is not None
        return code

    def _take_status(self, flags: int) -> bool:
        """Reap the child if it has ended, as far as `flags` say. Whether it has."""
        if self.returncode is not None:
            return True
        try:
            code = self._wait(flags)
        except OSError:  # ECHILD: it was reaped elsewhere
            code = UNKNOWN_STATUS
            log.warning(
                "process %d: its exit status is unknown and reported as %d; other code has reaped "
                "it, or SIGCHLD is ignored",
                self.pid,
                code,
            )
        if code is None:
            return False
        self.popen.returncode = code
        if self._close_pidfd is not None:
            self._close_pidfd()
            self.pidfd = -1
        return True

    def _wait(self, flags: int) -> int | None:
        if not _HAS_WAITID:
            pid, status = os.waitpid(self.pid, flags)
            return os.waitstatus_to_exitcode(status) if pid else None
        ended = os.waitid(*self._identity(), os.WEXITED | flags)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _identity(self) -> tuple[int, int]:
        return (os.P_PID, self.pid) if self.pidfd < 0 else (os.P_PIDFD, self.pidfd)

    def destroy(self) -> None:
        """Close the pipes, kill the child and reap it. Blocks until it has ended.

        A child that must not be killed is left running; another thread then reaps it.
        """
        self.close_pipes()
        if self.kill():
            self.wait()
        else:
            with contextlib.suppress(RuntimeError):  # no thread can be started
                EXITS.submit(self.wait)

    def kill(self) -> bool:
        """Kill it, and log where that is not permitted.

        Returns:
            Whether it ends now.
        """
        try:
            self.send_signal(signal.SIGKILL)
        except PermissionError as error:
            log.warning("process %d may not be killed and is left running: %s", self.pid, error)
            return False
        return True

    def close_pipes(self) -> None:
        """Close the ends of pipes that nobody else owns."""
        for index, fd in enumerate(self.pipes):
            if fd >= 0:
                self.pipes[index] = -1
                os.close(fd)


class _ForkGuard:
    """Lets one start at a time get from its first pipe to its fork.

    From its fork until it executes its program, a child has all descriptors that were open at the
    fork. If these include the pipe by which another start learns that its program runs, that start
    waits for this child too: forever, if this one has a `preexec_fn` that blocks. A start that
    takes longer than `_PATIENCE`, as on a slow file system, is not waited for.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in a forked child, which has no other threads."""
        self._lock = threading.Lock()
        self._holder: int | None = None

    def __enter__(self) -> None:
        if self._lock.acquire(timeout=_PATIENCE):
            self._holder = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others start, if this thread holds it. Also called by a fork with a `preexec_fn`."""
        if self._holder == threading.get_ident():
            self._holder = None
            self._lock.release()


_fork_guard = _ForkGuard()
if hasattr(os, "register_at_fork"):  # pragma: no branch (all but Windows)
    os.register_at_fork(after_in_parent=_fork_guard.release, after_in_child=_fork_guard.reset)


def start_child(
    command: Command, redirections: Sequence[Redirection], options: dict[str, Any]
) -> Child:
    """Start a child process. Blocks until the program runs.

    Args:
        command: As for `subprocess.Popen`.
        redirections: Those of stdin, stdout and stderr, as for `subprocess.Popen`.
        options: Other keyword arguments for `subprocess.Popen`.

    Returns:
        The child.

    Raises:
        Exception: What `subprocess.Popen` raises. Nothing is left open then.
    """
    with _fork_guard:
        child = _fork(command, list(redirections), options)
    try:
        child.open_pidfd()
    except BaseException:
        child.destroy()
        raise
    return child


def destroy_later(child: Child) -> None:
    """Have a child destroyed by a thread, or if none can be started, at once."""
    try:
        EXITS.submit(child.destroy)
    except RuntimeError:
        child.destroy()


def _fork(command: Command, redirections: list[Redirection], options: dict[str, Any]) -> Child:
    ours, theirs = [-1, -1, -1], [-1, -1, -1]
    try:
        # Made here: before Python 3.12, Popen leaves pipes open if it cannot make all of them.
        for index, redirection in enumerate(redirections):
            if isinstance(redirection, int) and redirection == subprocess.PIPE:
                reading, writing = os.pipe()
                ends = (writing, reading) if index == 0 else (reading, writing)
                ours[index], theirs[index] = ends
                redirections[index] = theirs[index]
        stdin, stdout, stderr = redirections
        made: Any = subprocess.Popen(  # noqa: S603 (that is what this is for)
            command, bufsize=0, stdin=stdin, stdout=stdout, stderr=stderr, text=False, **options
        )
        return Child(made, ours)
    except BaseException:
        _close_all(ours)
        raise
    finally:
        _close_all(theirs)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


class Start:
    """A start of a child process in another thread, which can be abandoned at any moment.

    Args:
        start: Starts the child. Blocks.
    """

    def __init__(self, start: Callable[[], Child]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._begun = False
        self._abandoned = False
        self._child: Child | None = None

    def run(self) -> Child | None:
        """Start the child, or if that is not wanted any more, leave none. Blocks.

        Returns:
            The child; `None` if the start was abandoned.

        Raises:
            Exception: What starting it raises.
        """
        with self._lock:
            if self._abandoned:
                return None
            self._begun = True
        child = self._start()
        with self._lock:
            if not self._abandoned:
                self._child = child
                return child
        child.destroy()
        return None

    def abandon(self) -> tuple[bool, Child | None]:
        """See to it that `run` leaves no child.

        Returns:
            Whether `run` has begun to start one, and the child if it was started already. That one
            is the caller's to destroy.
        """
        with self._lock:
            self._abandoned = True
            return self._begun, self._child
