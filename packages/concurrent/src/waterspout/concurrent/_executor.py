"""`run_on_executor`: calling a function runs it on an executor.

How a decorated function reaches another process. A pool of threads is handed the function itself.
Another executor may pickle what it is handed, and pickle finds functions by name; but the name of a
decorated function leads to the decorated one. So what it is handed is a `_Job`, which calls the
function, and pickles as its module and qualified name; on the other side `_find` follows that name
and takes the decoration off.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar, overload

from waterspout.concurrent._jobs import run_in_executor
from waterspout.ioloop.scheduling import Scheduler, current_scheduler

P = ParamSpec("P")
T = TypeVar("T")

Executor: TypeAlias = concurrent.futures.Executor


@overload
def run_on_executor(
    executor: Callable[P, T], io_loop: None = None
) -> "Callable[P, asyncio.Future[T]]": ...
@overload
def run_on_executor(
    executor: Executor | str | None = None, io_loop: Scheduler | None = None
) -> "Callable[[Callable[P, T]], Callable[P, asyncio.Future[T]]]": ...
def run_on_executor(
    executor: "Executor | str | Callable[..., Any] | None" = None,
    io_loop: Scheduler | None = None,
) -> Any:
    """Make calls of a function run it on an executor::

        class Parser:
            executor = ThreadPoolExecutor()

            @run_on_executor
            def parse(self, text: str) -> Tree: ...

        tree = await parser.parse(text)

    Works as `@run_on_executor` and as `@run_on_executor(...)`, on methods and on functions (beneath
    `@staticmethod` and `@classmethod`). The function starts when it is called, not when the result
    is awaited. Context variables go along to executors known to run in this process and
    interpreter. Other executors get the arguments, and the function by its name, so it must be
    found under that name there.

    Args:
        executor: Where to run it: an executor, or the name of the attribute of `self` that holds
            one. `None` takes `self.executor` for a method, if there is one, and else the loop's
            default.
        io_loop: Whose futures to return; `None` takes the current scheduler of each call.

    Returns:
        The decorated function, or the decorator. A call returns an `asyncio.Future` of the
        result. Cancelling it keeps the function from running if it has not started; one that has
        started runs to its end, and its result is dropped.

    Raises:
        TypeError: If an argument is of the wrong kind, or the function is a coroutine function.
            A call raises it where the attribute holds no executor.
        AttributeError: From a call, if `self` has no attribute of that name.
        RuntimeError: From a call, if the executor is shut down, or no loop is running.
    """
    if io_loop is not None and not isinstance(io_loop, Scheduler):
        raise TypeError(f"io_loop must be a Scheduler or None, not {io_loop!r}")
    if isinstance(executor, Executor | str | None):
        return functools.partial(_decorate, executor=executor, io_loop=io_loop)
    given: Any = executor
    if not callable(given) or isinstance(given, type):
        raise TypeError(
            f"executor must be an Executor, an attribute's name or None, not {executor!r}"
        )
    return _decorate(executor, None, io_loop)


def _decorate(
    func: Callable[..., Any], executor: Executor | str | None, io_loop: Scheduler | None
) -> "_Decorated":
    if isinstance(func, staticmethod | classmethod):
        raise TypeError(f"run_on_executor() goes beneath {type(func).__name__}, not above it")
    if not callable(func):
        raise TypeError(f"run_on_executor() decorates a function, not {func!r}")
    call = getattr(func, "__call__", None)  # noqa: B004 (what a callable object does)
    for candidate in (func, call):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise TypeError(f"run_on_executor() cannot run the coroutine function {func!r}")
    return _Decorated(func, executor, io_loop)


class _Decorated:
    """A function whose calls run it on an executor.

    A descriptor, like a function: so it knows whether it is called as a method, and of what.
    """

    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        func: Callable[..., Any],
        executor: Executor | str | None,
        io_loop: Scheduler | None,
    ) -> None:
        functools.update_wrapper(self, func)
        calls = self._calls = _Calls(func, executor, io_loop)

        @functools.wraps(func)
        def method(instance: Any, /, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
            return calls.call_method(instance, *args, **kwargs)

        self._method = method
        self._executor = executor
        self._io_loop = io_loop

    def __repr__(self) -> str:
        return f"<run_on_executor {self.__wrapped__!r}>"

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        return self._method if instance is None else types.MethodType(self._method, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        executor = self._executor
        if isinstance(executor, str):
            if not args:
                raise TypeError(f"{self!r} takes its executor from self.{executor}: give self")
            return self._calls.call_method(*args, **kwargs)
        if kwargs or self._io_loop is not None or type(executor) is not ThreadPoolExecutor:
            return self._calls.submit(executor, args, kwargs)
        return run_in_executor(current_scheduler(), executor, self.__wrapped__, *args)


class _Calls:
    """The calls of a decorated function. It does not know that, which would be a cycle."""

    def __init__(
        self, func: Callable[..., Any], executor: Executor | str | None, io_loop: Scheduler | None
    ) -> None:
        self._func = func
        self._job = _Job(func)
        self._executor = executor
        self._io_loop = io_loop

    def call_method(self, instance: Any, /, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        executor: Any = self._executor
        if isinstance(executor, str):
            executor = getattr(instance, executor)
            if not isinstance(executor, Executor):
                raise TypeError(
                    f"{self._executor} of {instance!r} must be an Executor, not {executor!r}"
                )
        elif executor is None:
            executor = getattr(instance, "executor", None)
        return self.submit(executor, (instance, *args), kwargs)

    def submit(
        self, executor: Executor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "asyncio.Future[Any]":
        scheduler = current_scheduler() if self._io_loop is None else self._io_loop
        call = self._func if type(executor) is ThreadPoolExecutor else self._job
        if kwargs:
            call = functools.partial(call, **kwargs)
        return run_in_executor(scheduler, executor, call, *args)


class _Job:
    """The function beneath a decorated one, which can be pickled by the name of that."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._func(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        module = getattr(self._func, "__module__", None)
        name = getattr(self._func, "__qualname__", "")
        if module is not None and _locate(module, name) is self._func:
            return _find, (module, name)
        return _Job, (self._func,)  # not decorated under its name: pickle knows best


def _locate(module: str, name: str) -> Callable[..., Any] | None:
    """Give the function beneath the decorated one of a name, if there is one."""
    found: Any = sys.modules.get(module)
    owner = ""
    for part in name.split("."):
        if part.startswith("__") and not part.endswith("__") and owner:
            part = f"_{owner.lstrip('_')}{part}"  # noqa: PLW2901 (as the compiler mangles it)
        found = inspect.getattr_static(found, part, None)
        owner = part
    while found is not None and not isinstance(found, _Decorated):
        found = getattr(found, "__func__", None) or getattr(found, "__wrapped__", None)
    return None if found is None else found.__wrapped__


def _find(module: str, name: str) -> Callable[..., Any]:
    """Give that function in another process. What raises here would take the worker along."""
    try:
        importlib.import_module(module)
        func = _locate(module, name)
    except Exception as error:
        return functools.partial(_raise, error)
    if func is None:
        return functools.partial(_raise, LookupError(f"{module} has no decorated {name}"))
    return func


def _raise(error: Exception, *args: object, **kwargs: object) -> NoReturn:
    raise error
