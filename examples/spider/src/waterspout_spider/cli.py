"""The command line."""

import argparse
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from rich.console import Console

from waterspout.ioloop import IOLoop
from waterspout.iostream import serve_tcp
from waterspout_spider.crawl import Crawler, Findings, Options
from waterspout_spider.fileserver import FileServer
from waterspout_spider.http import Client
from waterspout_spider.links import is_web
from waterspout_spider.report import Display, print_report

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a page that are read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the spider; give the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.url is None) == (options.serve is None):
        parser.error("give either --url or --serve")
    if options.url is not None and not is_web(options.url):
        parser.error(f"--url must be an http or https URL, not {options.url!r}")
    if options.serve is not None and not options.serve.is_dir():
        parser.error(f"--serve must be a folder, not {str(options.serve)!r}")
    try:
        context = ssl.create_default_context(cafile=options.cafile)
    except (OSError, ssl.SSLError) as error:
        parser.error(f"--cafile: {error}")
    how = Options(
        workers=options.workers,
        per_host=options.per_host,
        timeout=options.timeout,
        slow=options.slow,
        max_pages=options.max_pages,
        external=options.external,
    )
    console = Console()
    findings = Findings()
    started = time.perf_counter()
    interrupted = False
    try:
        with contextlib.closing(IOLoop()) as loop:
            loop.run_sync(lambda: _crawl(console, options, how, context, findings))
    except KeyboardInterrupt:
        interrupted = True
        console.print("interrupted")
    print_report(console, findings, how.slow, time.perf_counter() - started)
    return 130 if interrupted else 1 if findings.broken() else 0


async def _crawl(
    console: Console,
    options: argparse.Namespace,
    how: Options,
    context: ssl.SSLContext,
    findings: Findings,
) -> None:
    async with _start_url(options) as url:
        crawler = Crawler(url, how, Client(MAX_BODY, context), findings)
        console.print(f"crawling {url}", highlight=False)
        with Display(console, findings):
            await crawler.run()


@contextlib.asynccontextmanager
async def _start_url(options: argparse.Namespace) -> AsyncGenerator[str]:
    """The URL to start at, with what it needs to be there."""
    if options.serve is None:
        yield options.url
        return
    server = await serve_tcp(FileServer(options.serve).handle, "127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        await server.close(timeout=1.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="waterspout-spider",
        description="Crawl a site and report broken links, redirects and slow pages.",
        epilog="Exit status: 0 if all links work, 1 if some are broken, 2 on misuse, "
        "130 after Ctrl-C.",
    )
    defaults = Options()
    parser.add_argument("--url", help="where to start; the links of this site are followed")
    parser.add_argument("--serve", type=Path, metavar="FOLDER", help="serve a folder, and crawl it")
    parser.add_argument("--workers", type=_positive, default=defaults.workers, metavar="N")
    parser.add_argument("--per-host", type=_positive, default=defaults.per_host, metavar="N")
    parser.add_argument("--timeout", type=_seconds, default=defaults.timeout, metavar="SECONDS")
    parser.add_argument("--slow", type=_seconds, default=defaults.slow, metavar="SECONDS")
    parser.add_argument("--max-pages", type=_positive, default=defaults.max_pages, metavar="N")
    parser.add_argument("--external", action="store_true", help="check links to other sites, too")
    parser.add_argument("--cafile", help="certificate authorities to trust instead of the system's")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
