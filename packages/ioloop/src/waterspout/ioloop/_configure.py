"""What new event loops are made of."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from waterspout.ioloop.scheduling import Scheduler

LoopFactory: TypeAlias = Callable[..., asyncio.AbstractEventLoop]


class Install:
    """`IOLoop.install`: called on the class it installs the current loop, on a loop that one."""

    def __get__(self, loop: Any, owner: Any) -> Callable[[], None]:
        def install() -> None:
            owner._set_global(owner.current() if loop is None else loop)

        return install


def loop_factory(impl: "str | LoopFactory | None", kwargs: dict[str, Any]) -> LoopFactory:
    """Find the loop factory that `IOLoop.configure` was asked for.

    Args:
        impl: `"asyncio"` or `None`, `"uvloop"`, a dotted name of a class or factory, or the class
            or factory itself.
        kwargs: What to call it with.

    Raises:
        TypeError: If it is none of these.
        ImportError: If it names what cannot be imported; for uvloop, the extra is named.
    """
    factory: object = _named(impl) if isinstance(impl, str) else impl
    if factory is None:
        factory = _asyncio_loop
    if factory is _asyncio_loop and kwargs:
        raise TypeError(f"impl={impl!r} takes no arguments, not {kwargs}")
    if isinstance(factory, type) and issubclass(factory, Scheduler):
        raise TypeError(f"impl must make asyncio event loops, not {factory!r}")
    if not callable(factory):
        raise TypeError(
            f"impl must be 'asyncio', 'uvloop', a dotted name, a class or a factory, not {impl!r}"
        )
    made: LoopFactory = functools.partial(factory, **kwargs)
    return made


def new_loop(factory: LoopFactory) -> asyncio.AbstractEventLoop:
    """Make an event loop, and make sure that it is one."""
    loop = factory()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"the configured {factory!r} made no asyncio event loop but {loop!r}")
    return loop


def thread_loop() -> asyncio.AbstractEventLoop | None:
    """The open event loop set for this thread, if any.

    Before Python 3.14, `asyncio.get_event_loop` may make one instead of saying that there is
    none, so the default policy is asked for what it has.
    """
    loop: asyncio.AbstractEventLoop | None
    if sys.version_info >= (3, 14):  # pragma: no cover (the versions do not share a run)
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            return None
    else:
        policy = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]
        if (local := getattr(policy, "_local", None)) is not None:
            loop = getattr(local, "_loop", None)
        else:  # somebody's own policy decides
            try:
                loop = policy.get_event_loop()
            except RuntimeError:
                return None
    return None if loop is None or loop.is_closed() else loop


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _named(name: str) -> LoopFactory:
    if name == "asyncio":
        return _asyncio_loop
    if name == "uvloop":
        try:
            import uvloop
        except ImportError as error:
            raise ImportError(
                "uvloop is not installed; it comes with the extra waterspout-ioloop[uvloop]"
            ) from error
        return uvloop.new_event_loop
    module, _, attribute = name.rpartition(".")
    if not module or module.startswith("."):
        raise TypeError(f"impl must be 'asyncio', 'uvloop' or a dotted name, not {name!r}")
    try:
        found: LoopFactory = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise ImportError(f"impl={name!r}: {module} has no {attribute!r}") from None
    return found
