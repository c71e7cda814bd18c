"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import json
import os
import sys
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from waterspout.concurrent import amap
from waterspout_cluster import executors
from waterspout_cluster.counting import WordCounter


def main(arguments: list[str] | None = None) -> None:
    """Count the words of a folder, and print the most frequent ones."""
    options = parser().parse_args(arguments)
    if not options.folder.is_dir():
        parser().error(f"{options.folder} is no folder")
    files = sorted(map(str, filter(Path.is_file, options.folder.rglob(options.pattern))))
    with chosen_executor(options) as executor:
        words = asyncio.run(count(files, executor, 4 * options.workers))
    if options.json:
        json.dump(dict(sorted(words.items())), sys.stdout)
        return
    table = Table("word", "times", title=f"{words.total():,} words in {len(files):,} files")
    for word, times in words.most_common(options.top):
        table.add_row(word, f"{times:,}")
    Console().print(table)


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    made = argparse.ArgumentParser(prog="waterspout-cluster", description=main.__doc__)
    made.add_argument("folder", type=Path)
    made.add_argument("--pattern", default="*", help="of the files' names")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    made.add_argument("--top", type=int, default=10, help="how many words to print")
    made.add_argument("--json", action="store_true", help="print all of them, as JSON")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--processes", action="store_true", help="count on processes, not threads")
    if sys.version_info >= (3, 14):
        where.add_argument("--interpreters", action="store_true", help="or on interpreters")
    where.add_argument(
        "--dask",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="count on a Dask cluster; without an address, on one that is started here",
    )
    return made


def chosen_executor(
    options: argparse.Namespace,
) -> AbstractContextManager[concurrent.futures.Executor]:
    """The executor that the command line asks for."""
    if options.dask is not None:
        return executors.dask(options.workers, options.dask or None)
    if sys.version_info >= (3, 14) and options.interpreters:
        return executors.interpreters(options.workers)
    if options.processes:
        return executors.processes(options.workers)
    return executors.threads(options.workers)


async def count(
    files: list[str], executor: concurrent.futures.Executor, limit: int
) -> Counter[str]:
    """Count the words of files, so many at a time."""
    counter, words = WordCounter(executor), Counter[str]()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("counting", total=len(files))
        async with amap(counter.count, files, limit=limit, ordered=False) as counts:
            async for found in counts:
                words += found
                progress.advance(task)
    return words
