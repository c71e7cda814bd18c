"""The crawl: a frontier of URLs, and workers that fetch, parse and feed it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from waterspout.concurrent import run_on_executor, with_timeout
from waterspout.locks import Semaphore
from waterspout.queues import Queue
from waterspout_spider.http import Client, FetchError, Response
from waterspout_spider.links import Page, is_web, normalize, parse_page, resolve


@dataclass(frozen=True)
class Options:
    """How to crawl.

    Attributes:
        workers: Requests at once.
        per_host: Of these, to one host.
        timeout: Seconds that one request may take.
        slow: Seconds from which a response counts as slow.
        max_pages: URLs to fetch at most.
        external: Whether to check links to other sites, too.
    """

    workers: int = 8
    per_host: int = 4
    timeout: float = 20.0
    slow: float = 1.0
    max_pages: int = 10_000
    external: bool = False


@dataclass
class Visit:
    """What became of one URL.

    Attributes:
        url: The URL.
        status: The response's status code; `None` without a response.
        error: Why it is broken; empty if it is not.
        seconds: How long the response took.
        redirect: Where it redirects to; `None` if it does not.
        anchors: The anchors of the page; `None` if it is no page that was read to its end.
    """

    url: str
    status: int | None = None
    error: str = ""
    seconds: float = 0.0
    redirect: str | None = None
    anchors: set[str] | None = None


@dataclass
class Findings:
    """What has been found so far.

    Attributes:
        visits: What became of each URL that was fetched.
        referrers: For each URL that was found, the pages that link to it, and the fragments.
        queued: How many URLs wait to be fetched.
        skipped: How many URLs were left out, being over `max_pages`.
    """

    visits: dict[str, Visit] = field(default_factory=dict[str, Visit])
    referrers: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict[str, list[tuple[str, str]]]
    )
    queued: int = 0
    skipped: int = 0

    def broken(self) -> list[tuple[Visit, str]]:
        """The broken links: what is wrong, with the page that links there."""
        found: list[tuple[Visit, str]] = []
        for url, visit in self.visits.items():
            loops = visit.redirect is not None and self._end(url) is None
            for source, fragment in self.referrers.get(url, []):
                if visit.error:
                    found.append((visit, source))
                elif loops:
                    found.append((Visit(url, visit.status, "redirects in a circle"), source))
                elif fragment and not self._has_anchor(url, fragment):
                    missing = Visit(f"{url}#{fragment}", visit.status, "no such anchor")
                    found.append((missing, source))
        return found

    def redirects(self) -> list[Visit]:
        """The URLs that redirect."""
        return [visit for visit in self.visits.values() if visit.redirect is not None]

    def slow(self, seconds: float) -> list[Visit]:
        """The URLs that took that long or longer, the slowest first."""
        found = [visit for visit in self.visits.values() if visit.seconds >= seconds]
        return sorted(found, key=lambda visit: -visit.seconds)

    def _end(self, url: str) -> Visit | None:
        """Where the redirects of a URL lead, unless they go in a circle or out of sight."""
        passed: set[str] = set()
        visit = self.visits.get(url)
        while visit is not None and visit.redirect is not None:
            if visit.url in passed:
                return None
            passed.add(visit.url)
            visit = self.visits.get(visit.redirect, Visit(visit.redirect))
        return visit

    def _has_anchor(self, url: str, fragment: str) -> bool:
        end = self._end(url)
        known = None if end is None else end.anchors
        # The top of a page needs no anchor (HTML, section 7.4.6.3).
        return known is None or unquote(fragment) in known or fragment.lower() == "top"


class Crawler:
    """Crawls a site.

    Args:
        start: The URL to start at; its site is crawled.
        options: How.
        client: Fetches; the crawler closes it.
        findings: Where to put what is found, as it is found.
    """

    def __init__(self, start: str, options: Options, client: Client, findings: Findings) -> None:
        self.findings = findings
        self.executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="parser")
        self._options = options
        self._client = client
        self._site = urlsplit(start).netloc.lower()
        self._frontier: Queue[str] = Queue()
        self._hosts: dict[str, Semaphore] = {}
        self._seen: set[str] = set()
        self._add(normalize(start), "", set())

    async def run(self) -> None:
        """Crawl until there is nothing left to fetch. Cancelled, it leaves nothing running."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._options.workers):
                    workers.create_task(self._work())
                await self._frontier.join()
                self._frontier.shutdown()
        finally:
            self._client.close()
            self.executor.shutdown()

    async def _work(self) -> None:
        async for url in self._frontier:
            self.findings.queued -= 1
            try:
                await self._visit(url)
            finally:
                self._frontier.task_done()

    async def _visit(self, url: str) -> None:
        visit = Visit(url)
        host = urlsplit(url).netloc
        semaphore = self._hosts.setdefault(host, Semaphore(self._options.per_host))
        async with semaphore:
            started = time.perf_counter()
            try:
                response = await with_timeout(self._options.timeout, self._client.get(url))
            except TimeoutError:
                visit.error = f"no response within {self._options.timeout:g} s"
            except FetchError as error:
                visit.error = str(error)
            else:
                await self._read(visit, response)
            visit.seconds = time.perf_counter() - started
        self.findings.visits[url] = visit

    async def _read(self, visit: Visit, response: Response) -> None:
        visit.status = response.status
        location = response.headers.get("location")
        if response.status in (301, 302, 303, 307, 308) and location:
            visit.redirect, _ = resolve(visit.url, location)
            self._add(visit.redirect, visit.url, set())
        elif response.status >= 400:
            visit.error = f"status {response.status}"
        elif response.is_html and self._is_ours(visit.url):
            page = await self.parse(visit.url, response.text)
            if response.complete:
                visit.anchors = page.anchors
            for url, fragments in page.links.items():
                self._add(url, visit.url, fragments)

    @run_on_executor
    def parse(self, url: str, html: str) -> Page:
        """Find what a page links to, in a thread."""
        return parse_page(url, html)

    def _is_ours(self, url: str) -> bool:
        return urlsplit(url).netloc == self._site

    def _add(self, url: str, source: str, fragments: set[str]) -> None:
        """Note a link, and queue its URL if it is a new one."""
        referrers = self.findings.referrers.setdefault(url, [])
        referrers += [(source, fragment) for fragment in sorted(fragments) or [""]]
        if url in self._seen:
            return
        self._seen.add(url)
        if not is_web(url):
            self.findings.visits[url] = Visit(url, error="no proper URL")
        elif source and not self._is_ours(url) and not self._options.external:
            del self.findings.referrers[url]
        elif len(self._seen) > self._options.max_pages:
            self.findings.skipped += 1
        else:
            self.findings.queued += 1
            self._frontier.put_nowait(url)
