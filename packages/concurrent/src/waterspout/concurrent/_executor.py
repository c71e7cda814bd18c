"""`run_on_executor`: calling a function runs it on an executor.

How a decorated function reaches another process. An executor in this process is handed the
function itself. Any other pickles what it is handed, and pickle finds functions by name; but the
name of a decorated function leads to the decorated one. So what is submitted is a `_Undecorated`,
which calls the function, and pickles as its module and qualified name; on the other side
`_find` follows that name and takes the decoration off.
"""

import asyncio
import concurrent.futures
import functools
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

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
    """Make calls of a function run it on an executor.

        class Parser:
            executor = ThreadPoolExecutor()

            @run_on_executor
            def parse(self, text: str) -> Tree: ...

        tree = await parser.parse(text)

    Works as `@run_on_executor` and as `@run_on_executor(...)`, on methods and on functions. The
    function starts when it is called, not when the result is awaited. Context variables go along
    to executors known to run in this process and interpreter. Other executors get the arguments,
    and the function by its name, so it must be found under that name there.

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
    if not isinstance(executor, Executor | str | None):
        if not callable(executor):
            raise TypeError(
                f"executor must be an Executor, an attribute's name or None, not {executor!r}"
            )
        return _decorate(executor, None, io_loop)
    if io_loop is not None and not isinstance(io_loop, Scheduler):
        raise TypeError(f"io_loop must be a Scheduler or None, not {io_loop!r}")
    return functools.partial(_decorate, executor=executor, io_loop=io_loop)


def _decorate(
    func: Callable[P, T], executor: Executor | str | None, io_loop: Scheduler | None
) -> "Callable[P, asyncio.Future[T]]":
    if not callable(func):
        raise TypeError(f"run_on_executor() decorates a function, not {func!r}")
    if inspect.iscoroutinefunction(func):
        raise TypeError(f"run_on_executor() cannot run the coroutine function {func!r}")
    undecorated = _Undecorated(func)
    is_method = _is_method(func)

    @functools.wraps(func)
    def submit(*args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        chosen: Any = executor
        if isinstance(executor, str):
            chosen = getattr(args[0], executor)
            if not isinstance(chosen, Executor):
                raise TypeError(f"{executor} of {args[0]!r} must be an Executor, not {chosen!r}")
        elif executor is None and is_method and args:
            chosen = getattr(args[0], "executor", None)
        scheduler = current_scheduler() if io_loop is None else io_loop
        call = functools.partial(undecorated, **kwargs) if kwargs else undecorated
        return scheduler.run_in_executor(chosen, call, *args)

    return submit


class _Undecorated(Generic[T]):
    """The function beneath a decorated one, which can be pickled by the name of that."""

    def __init__(self, func: Callable[..., T]) -> None:
        self._func = func

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        return self._func(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        module, name = self._func.__module__, self._func.__qualname__
        if "<locals>" in name:
            raise pickle.PicklingError(
                f"{module}.{name} is defined inside a function, so another process cannot find it"
            )
        return _find, (module, name)


def _find(module: str, name: str) -> Callable[..., Any]:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "__func__", found)  # of a staticmethod or classmethod
    undecorated: Callable[..., Any] = found.__wrapped__
    return undecorated


def _is_method(func: Callable[..., Any]) -> bool:
    """Whether a function is defined in a class body."""
    scope = getattr(func, "__qualname__", "").rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")
