"""Properties of the packages' own threads, which the kit asks for."""

from __future__ import annotations

import threading


def is_idle(thread: threading.Thread) -> bool:
    """Whether a thread of a package of ours waits for work, as it does for a while after each job.

    Such a thread was not left behind by the test whose job it did last, and will not wake a loop.
    """
    return getattr(thread, "_waterspout_idle", False)


def needs_threads(executor: object) -> bool:
    """Whether an executor of a package of ours runs functions in threads."""
    return getattr(executor, "_waterspout_threads", False)
