"""Checks of arguments: a clear error at the call that made it."""

from __future__ import annotations

import re
import sys
from typing import Any

from waterspout.iostream._buffer import BytesLike


def positive_size(name: str, value: int | None, default: int) -> int:
    """Give a size in bytes, or its default."""
    if value is None:
        return default
    count(name, value)
    if value == 0:
        raise ValueError(f"{name} must be positive, not 0")
    return value


def count(name: str, value: int) -> None:
    """Raise unless a value is a number of bytes."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")


def check_callback(name: str, callback: object) -> None:
    """Raise unless a value can be called or is `None`."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be callable, not {callback!r}")


def bytes_view(name: str, data: BytesLike) -> memoryview:
    """Give a view of contiguous bytes."""
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise TypeError(f"{name} must be contiguous and bytes-like, not {type(data)!r}") from None


def bytes_pattern(name: str, pattern: "bytes | str | re.Pattern[bytes]") -> "re.Pattern[bytes]":
    """Give a compiled pattern of bytes."""
    if isinstance(pattern, str):
        pattern = pattern.encode()
    if isinstance(pattern, re.Pattern):
        if isinstance(pattern.pattern, bytes):
            return pattern
    elif isinstance(pattern, bytes):
        return re.compile(pattern)
    raise TypeError(f"{name} must be a pattern of bytes, not {pattern!r}")


def exception_of(
    exc_info: "bool | BaseException | tuple[Any, BaseException | None, Any]",
) -> BaseException | None:
    """Give the exception that `close(exc_info)` means."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exception() if exc_info else None
