"""A small harness: us and the peers in one run, side by side.

Rules:

1.  A *case* has *rows*, one a contender. A row is a function that does so many operations and
    gives the seconds they took (or, with another unit, any number that is better when smaller).
2.  Every measurement is made in a process of its own, so that no row warms up another, and the
    rows of a case take turns, round after round, so that a machine that slows down slows all.
3.  The result is the median of the rounds with its spread, half the distance of the quartiles, and
    the ratio to the first row, the case's yardstick.

`python benchmarks` runs all cases, `python benchmarks NAME ...` those whose names contain one of
the words. `--rounds N` sets how often.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

Row: TypeAlias = Callable[[int], Coroutine[Any, Any, float]] | Callable[[], float]
LOOPS = ("asyncio", "uvloop")


@dataclass
class Case:
    """What is compared.

    Attributes:
        name: Its name.
        operations: How many operations a row does in a measurement; 0 for rows that are plain
            functions without argument and give a number of their own.
        unit: What the numbers are.
        rows: The contenders, the yardstick first.
        loops: On which loops they run.
    """

    name: str
    operations: int
    unit: str = "ns"
    rows: dict[str, Row] = field(default_factory=dict)
    loops: tuple[str, ...] = LOOPS

    def row(self, name: str) -> Callable[[Row], Row]:
        """Add a contender."""

        def add(function: Row) -> Row:
            self.rows[name] = function
            return function

        return add


CASES: dict[str, Case] = {}


def case(name: str, operations: int = 0, **kwargs: Any) -> Case:
    """Make a case, and have it run with the others."""
    CASES[name] = Case(name, operations, **kwargs)
    return CASES[name]


def measure(case: Case, row: str, loop: str) -> float:
    """Run one row once, in this process; give nanoseconds an operation, or its number."""
    function: Any = case.rows[row]
    if not case.operations:
        return float(function())
    if loop == "uvloop":
        import uvloop

        factory: Any = uvloop.new_event_loop
    else:
        factory = asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(function(max(1, case.operations // 10)))  # to warm up
        return float(runner.run(function(case.operations))) / case.operations * 1e9


def main(arguments: list[str]) -> None:
    """Run cases, each row of them in processes of its own, and print tables."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("words", nargs="*", help="run the cases whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        name, row, loop = options.one
        print(json.dumps(measure(CASES[name], row, loop)))
        return
    console = Console()
    for name, chosen in CASES.items():
        if not options.words or any(word in name for word in options.words):
            for loop in chosen.loops:
                console.print(_run(console, chosen, loop, options.rounds))


def _run(console: Console, case: Case, loop: str, rounds: int) -> Table:
    numbers: dict[str, list[float]] = {row: [] for row in case.rows}
    with Progress(console=console, transient=True) as progress:
        for _ in progress.track(range(rounds), description=f"{case.name}, {loop}"):
            for row, found in numbers.items():
                done = subprocess.run(
                    [sys.executable, sys.argv[0], "--one", case.name, row, loop],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                found.append(json.loads(done.stdout))
    version = ".".join(map(str, sys.version_info[:3]))
    title = f"{case.name} ({case.unit}), {loop}, CPython {version}"
    table = Table(title=title, title_justify="left")
    for heading in ("", "median", "spread", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    yardstick = statistics.median(next(iter(numbers.values())))
    for row, found in numbers.items():
        median = statistics.median(found)
        low, _, high = statistics.quantiles(found, n=4) if len(found) > 1 else (median,) * 3
        ratio = f"{median / yardstick:.2f}" if yardstick else ""
        table.add_row(row, f"{median:,.4g}", f"{(high - low) / 2:,.3g}", ratio)
    return table
