"""Where work can be done: executors by name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import multiprocessing
import sys
from collections.abc import Generator
from typing import Any, TypeAlias

Executors: TypeAlias = Generator[concurrent.futures.Executor, None, None]


@contextlib.contextmanager
def threads(workers: int) -> Executors:
    """Threads of this process."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield pool


if sys.version_info >= (3, 14):

    @contextlib.contextmanager
    def interpreters(workers: int) -> Executors:
        """Interpreters of this process, which run side by side (PEP 734)."""
        with concurrent.futures.InterpreterPoolExecutor(workers) as pool:
            yield pool


@contextlib.contextmanager
def processes(workers: int) -> Executors:
    """Processes of this machine."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield pool


@contextlib.contextmanager
def dask(workers: int, address: str | None = None) -> Executors:
    """A Dask cluster: one that is there, or one of so many processes on this machine."""
    distributed: Any = importlib.import_module("distributed")
    with contextlib.ExitStack() as stack:
        if address is None:
            cluster: Any = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
            address = stack.enter_context(cluster).scheduler_address
        client: Any = stack.enter_context(distributed.Client(address))
        # Not pure: a call is a call, also one with the same arguments.
        yield stack.enter_context(client.get_executor(pure=False))
