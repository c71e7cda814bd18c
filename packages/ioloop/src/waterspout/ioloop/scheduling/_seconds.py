"""What a timeout may be, and how one becomes seconds or a deadline.

A *timeout* counts from now: a number of seconds, a `datetime.timedelta`, or `None`. A *deadline*
is a value of the loop's clock. The clock is monotonic and starts anywhere, so a number of more than
ten years, of either kind, is nearly always a `time.time()` by mistake; it is refused. Infinity, and
a `timedelta` of more than ten years, are no such mistake: they never end.
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
        timeout: Seconds from now, or a `timedelta`. `None`, infinity, and a `timedelta` of more
            than ten years wait for ever; zero or less does not wait at all.
        name: What the caller calls the argument, for the error message.

    Returns:
        Seconds as a float, possibly zero or negative; `None` for no limit.

    Raises:
        TypeError: If it is no number, `timedelta` or `None`.
        ValueError: If it is NaN, or a number of more than ten years other than infinity.
    """
    kind = type(timeout)
    if (kind is float or kind is int) and -TEN_YEARS < timeout < TEN_YEARS:  # type: ignore[operator]
        return float(timeout)  # type: ignore[arg-type]
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        seconds = timeout.total_seconds()
        return None if seconds > TEN_YEARS else seconds
    if not hasattr(timeout, "__float__"):
        raise TypeError(f"{name} must be seconds, a timedelta or None, not {timeout!r}")
    seconds = _as_float(timeout, name)
    if seconds <= TEN_YEARS:
        return seconds
    if seconds == math.inf:
        return None
    if seconds != seconds:
        raise ValueError(f"{name} must not be NaN")
    raise ValueError(
        f"{name}={timeout!r} is more than ten years: it looks like a wall-clock deadline, but "
        f"{name} is in seconds from now"
    )


def deadline_after(timeout: Timeout, now: float, name: str = "timeout") -> float:
    """Give the deadline of a timeout that starts now.

    Args:
        timeout: As for `timeout_seconds`. What waits for ever ends in ten years.
        now: The clock, in seconds.
        name: What the caller calls the argument, for the error message.

    Returns:
        The deadline on that clock, in seconds.

    Raises:
        TypeError: If it is no number, `timedelta` or `None`.
        ValueError: If it is NaN, or a number of more than ten years other than infinity.
    """
    seconds = timeout_seconds(timeout, name)
    return now + (TEN_YEARS if seconds is None else seconds)


def deadline_of_delay(delay: Timeout, now: float, name: str = "delay") -> float:
    """Give the deadline of a timer's delay, which unlike a timeout must be given.

    Returns:
        The deadline on that clock, in seconds; infinity if it never comes.

    Raises:
        TypeError: If it is no number or `timedelta`.
        ValueError: If it is NaN, or a number of more than ten years other than infinity.
    """
    kind = type(delay)
    if (kind is float or kind is int) and -TEN_YEARS < delay < TEN_YEARS:  # type: ignore[operator]
        return now + delay  # type: ignore[operator]
    if delay is None:
        raise TypeError(f"{name} must be seconds or a timedelta, not None")
    seconds = timeout_seconds(delay, name)
    return math.inf if seconds is None else now + seconds


def checked_deadline(deadline: float, now: float, name: str) -> float:
    """Give a caller's deadline as a float, if it can be one.

    Args:
        deadline: A value of the loop's clock, in seconds. Infinity never comes.
        now: The clock, in seconds.
        name: What the caller calls the argument, for the error message.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is NaN, or more than ten years ahead and not infinity.
    """
    if not hasattr(deadline, "__float__"):
        raise TypeError(f"{name} must be a number of seconds on the loop's clock, not {deadline!r}")
    when = _as_float(deadline, name)
    if when - now <= TEN_YEARS or when == math.inf:
        return when
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
        if value < 0:
            return -math.inf
        try:
            shown = f": {str(value)[:20]}..."
        except ValueError:  # it has more digits than Python shows
            shown = ""
        raise ValueError(f"{name} is too large{shown}") from None
