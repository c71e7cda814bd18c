"""`no_reference_cycles`: what a block drops is freed at once, without the garbage collector.

A cycle keeps everything that it refers to until the collector happens to run: buffers, sockets, the
local variables of a handler that failed.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

_SHOWN = 12
"""Kinds of objects that an error names."""


@contextmanager
def no_reference_cycles(
    ignore: Callable[[object], bool] = lambda _: False,
) -> Generator[None, None, None]:
    """Fail unless a block leaves no reference cycles behind for the garbage collector::

        async def test_failed_read():
            with no_reference_cycles():
                with pytest.raises(StreamClosedError):
                    await stream.read_bytes(1)
                await asyncio.sleep(0)

    The collector is off inside the block, for the whole process. What other tasks and threads drop
    meanwhile counts as well. A block that raises is not examined.

    Args:
        ignore: Called with each object that only the collector could free. Objects for which it
            returns true are not counted.

    Raises:
        AssertionError: At the end of the block, if there are such objects. It counts them by type
            and describes some of them.
    """
    was_enabled, flags = gc.isenabled(), gc.get_debug()
    gc.collect()
    gc.disable()
    try:
        yield
        found = _collect(ignore)
    finally:
        gc.set_debug(flags)
        if was_enabled:
            gc.enable()
    if found:
        raise AssertionError(found)


def _collect(ignore: Callable[[object], bool]) -> str:
    """Collect the garbage, and describe what there was."""
    known = len(gc.garbage)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    garbage = [one for one in gc.garbage[known:] if not ignore(one)]
    del gc.garbage[known:]
    gc.set_debug(0)
    if not garbage:
        return ""
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in garbage)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    text = f"{len(garbage)} objects wait for the garbage collector: {counts}"
    shown = "\n".join(_describe(one) for one in garbage[:_SHOWN])
    garbage.clear()
    gc.collect()
    return f"{text}\n{shown}"


def _describe(one: Any) -> str:
    try:
        return f"    {one!r}"[:200]
    except Exception as error:  # it may be half torn down
        return f"    <{type(one).__qualname__}, whose repr raises {error!r}>"
