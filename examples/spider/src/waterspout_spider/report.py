"""What the user sees: the progress, and the report."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from waterspout.ioloop import PeriodicCallback
from waterspout_spider.crawl import Findings, Visit

_LONGEST = 40
"""Rows of a table of the report."""


class Display(AbstractContextManager["Display"]):
    """Shows the progress: a bar on a terminal, a line every two seconds elsewhere.

    Args:
        console: Where.
        findings: Whose.
    """

    def __init__(self, console: Console, findings: Findings) -> None:
        self._console = console
        self._findings = findings
        self._progress = Progress(
            TextColumn("crawling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[broken]} broken"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=None, broken=0)
        if console.is_terminal:
            self._ticker = PeriodicCallback(self._draw, 100)
        else:
            self._ticker = PeriodicCallback(self._print, 2000)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        self._ticker.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._ticker.stop()
        if self._console.is_terminal:
            self._draw()
            self._progress.stop()

    def _counts(self) -> tuple[int, int, int]:
        done = len(self._findings.visits)
        broken = sum(1 for visit in self._findings.visits.values() if visit.error)
        return done, done + self._findings.queued, broken

    def _draw(self) -> None:
        done, total, broken = self._counts()
        self._progress.update(self._bar, completed=done, total=total, broken=broken)
        self._progress.refresh()

    def _print(self) -> None:
        done, total, broken = self._counts()
        self._console.print(f"crawled {done} of {total}, {broken} broken", highlight=False)


def print_report(console: Console, findings: Findings, slow: float, seconds: float) -> None:
    """Print what was found.

    Args:
        console: Where.
        findings: What.
        slow: Seconds from which a response counts as slow.
        seconds: How long the crawl took.
    """
    broken = findings.broken()
    redirects = findings.redirects()
    slow_visits = findings.slow(slow)
    _print_table(
        console,
        "Broken links",
        ("URL", "what is wrong", "linked from"),
        [(visit.url, visit.error, source or "(start)") for visit, source in broken],
    )
    _print_table(
        console,
        "Redirects",
        ("URL", "status", "to"),
        [(visit.url, str(visit.status), str(visit.redirect)) for visit in redirects],
    )
    _print_table(
        console,
        f"Slow pages (from {slow:g} s)",
        ("URL", "seconds", "status"),
        [(visit.url, f"{visit.seconds:.2f}", _status(visit)) for visit in slow_visits],
    )
    left = f", {findings.skipped} left out" if findings.skipped else ""
    left += f", {findings.queued} not reached" if findings.queued else ""
    console.print(
        f"{len(findings.visits)} URLs in {seconds:.1f} s{left}: {len(broken)} broken links, "
        f"{len(redirects)} redirects, {len(slow_visits)} slow",
        highlight=False,
    )


def _status(visit: Visit) -> str:
    return visit.error or str(visit.status)


def _print_table(
    console: Console, title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]
) -> None:
    if not rows:
        return
    if not console.is_terminal:  # for other programs: a line each, nothing cut off
        console.print(f"{title}:", highlight=False)
        for row in rows:
            console.print("  " + "  ".join(row), highlight=False, markup=False, soft_wrap=True)
        return
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows[:_LONGEST]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > _LONGEST:
        console.print(f"... and {len(rows) - _LONGEST} more")
