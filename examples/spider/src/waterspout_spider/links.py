"""What a page links to. No I/O."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import quote, urldefrag, urljoin, urlsplit

_SAFE = "/%:@!$&'()*+,;=~?-._[]"
"""What a path or query keeps as it is; an escape that is there stays."""
_SCHEME = re.compile("[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_LINKS = {
    "a": "href",
    "area": "href",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "script": "src",
    "source": "src",
}


@dataclass
class Page:
    """What was found in a page.

    Attributes:
        links: The URLs it links to, absolute, without fragments, each with the fragments wanted.
        anchors: The fragments that others can link to.
    """

    links: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    anchors: set[str] = field(default_factory=set[str])


def parse_page(url: str, html: str) -> Page:
    """Find the links and anchors of a page.

    Args:
        url: Where it is; relative links start there.
        html: Its text.
    """
    parser = _Parser(url)
    parser.feed(html)
    parser.close()
    return parser.page


def normalize(url: str) -> str:
    """Give a URL without its fragment, with a path, and in the characters that HTTP takes."""
    parts = urlsplit(urldefrag(url).url)
    path = quote(parts.path or "/", safe=_SAFE)
    query = quote(parts.query, safe=_SAFE)
    return parts._replace(netloc=parts.netloc.lower(), path=path, query=query).geturl()


def resolve(base: str, target: str) -> tuple[str, str]:
    """Give the URL that a link means, and its fragment; what is no URL comes back as it is."""
    try:
        url, fragment = urldefrag(urljoin(base, target))
    except ValueError:
        return target, ""
    return (normalize(url) if is_web(url) else url), fragment


def is_web(url: str) -> bool:
    """Whether a URL is one of HTTP or HTTPS that names a host and, if any, a proper port."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Parser(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        for name in ("id", "name") if tag == "a" else ("id",):
            if anchor := attributes.get(name):
                self.page.anchors.add(anchor)
        if tag == "base" and attributes.get("href"):
            self._base = urljoin(self._base, attributes["href"])
        target = attributes.get(_LINKS.get(tag, ""))
        if target and attributes.get("rel") not in ("preconnect", "dns-prefetch"):
            self._add(target.strip())

    def _add(self, target: str) -> None:
        url, fragment = resolve(self._base, target)
        if is_web(url) or not _SCHEME.match(target) or target.startswith(("http:", "https:")):
            fragments = self.page.links.setdefault(url, set())
            if fragment:
                fragments.add(fragment)
