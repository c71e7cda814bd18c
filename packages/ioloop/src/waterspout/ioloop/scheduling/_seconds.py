"""What a timeout may be, and how one becomes seconds or a deadline.

A *timeout* counts from now: a number of seconds, a `datetime.timedelta`, or `None`. A *deadline*
is a value of the loop's clock. The clock is monotonic and starts anywhere, so a deadline far in
the future is nearly always a `time.time()` by mistake; it is refused rather than slept upon.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

Timeout: TypeAlias = float | timedelta | None

TEN_YEARS = 10 * 365.25 * 24 * 3600.0


def timeout_seconds(timeout: Timeout, name: str = "timeout") -> float | None:
    """Give a timeout in seconds, or `None` where it never ends.

    Args:
        timeout: Seconds from now, or a `timedelta`. `None` and infinity wait for ever; zero or
            less does not wait at all.
        name: What the caller calls the argument, for the error message.

    Returns:
        Seconds as a float, possibly zero or negative; `None` for no limit.

    Raises:
        TypeError: If it is no number, `timedelta` or `None`.
        ValueError: If it is NaN, or too large for a float.
    """
    kind = type(timeout)
    if (kind is float or kind is int) and -TEN_YEARS < timeout < TEN_YEARS:  # type: ignore[operator]
        return float(timeout)  # type: ignore[arg-type]
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    if not hasattr(timeout, "__float__"):
        raise TypeError(f"{name} must be seconds, a timedelta or None, not {timeout!r}")
    seconds = _as_float(timeout, name)
    if seconds != seconds:
        raise ValueError(f"{name} must not be NaN")
    return None if seconds == math.inf else seconds


def deadline_after(timeout: Timeout, now: float, name: str = "timeout") -> float:
    """Give the deadline of a timeout that starts now.

    Args:
        timeout: As for `timeout_seconds`. What lasts longer than ten years, and so for ever,
            ends in ten years.
        now: The clock, in seconds.
        name: What the caller calls the argument, for the error message.

    Returns:
        The deadline on that clock, in seconds.

    Raises:
        TypeError: If it is no number, `timedelta` or `None`.
        ValueError: If it is NaN.
    """
    seconds = timeout_seconds(timeout, name)
    return now + (TEN_YEARS if seconds is None or seconds > TEN_YEARS else seconds)


def deadline_of_delay(delay: Timeout, now: float) -> float:
    """Give the deadline of a timer's delay, which unlike a timeout must be given.

    Raises:
        TypeError: If it is no number or `timedelta`.
        ValueError: If it is NaN.
    """
    kind = type(delay)
    if (kind is float or kind is int) and -TEN_YEARS < delay < TEN_YEARS:  # type: ignore[operator]
        return now + delay  # type: ignore[operator]
    if delay is None:
        raise TypeError("delay must be seconds or a timedelta, not None")
    return deadline_after(delay, now, "delay")


def checked_deadline(deadline: float, now: float, name: str) -> float:
    """Give a caller's deadline as a float, if it can be one.

    Args:
        deadline: A value of the loop's clock, in seconds. Infinity means in ten years.
        now: The clock, in seconds.
        name: What the caller calls the argument, for the error message.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is NaN, or more than ten years ahead.
    """
    if not hasattr(deadline, "__float__"):
        raise TypeError(f"{name} must be a number of seconds on the loop's clock, not {deadline!r}")
    when = _as_float(deadline, name)
    if when - now <= TEN_YEARS:
        return when
    if when == math.inf:
        return now + TEN_YEARS
    if when != when:
        raise ValueError(f"{name} must not be NaN")
    raise ValueError(
        f"{name}={deadline!r} lies more than ten years ahead of the loop's clock ({now:.3f}): "
        "a deadline is a value of the loop's time(), not of time.time()"
    )


def _as_float(value: float, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: {str(value)[:20]}...") from None
