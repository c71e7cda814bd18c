"""The work: one method, decorated once, that runs wherever its executor is."""

from __future__ import annotations

import concurrent.futures
import re
from collections import Counter
from pathlib import Path

from waterspout.concurrent import run_on_executor

WORD = re.compile(r"\w+")


class WordCounter:
    """Counts the words of files.

    Args:
        executor: Where to count.
    """

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self.executor = executor

    def __reduce__(self) -> tuple[type[_Away], tuple[()]]:
        return _Away, ()  # to another process it goes without its executor

    @run_on_executor
    def count(self, path: str) -> Counter[str]:
        """Count the words of a file. Bytes that are no UTF-8 count as no words."""
        text = Path(path).read_text("utf-8", errors="replace")
        return Counter(WORD.findall(text))


class _Away(WordCounter):
    """A counter in another process."""

    def __init__(self) -> None:
        pass
