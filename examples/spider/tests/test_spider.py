"""The spider against a site with everything that sites do wrong."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys

import pytest

from waterspout.iostream import serve_tcp
from waterspout_spider.cli import main
from waterspout_spider.crawl import Crawler, Findings, Options
from waterspout_spider.fileserver import FileServer
from waterspout_spider.http import Client, FetchError
from waterspout_spider.links import is_web, normalize, parse_page

LOCAL = "127.0.0.1"


def page(body, *headers, status="200 OK"):
    """A response with a page."""
    data = body.encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/html", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def redirect(target):
    return page("", f"Location: {target}", status="302 Found")


class Site:
    """A server that answers by a table; counts connections and requests."""

    def __init__(self, pages):
        self.pages = pages
        self.connections = 0
        self.requests = []
        self.busy = self.most_busy = 0

    async def handle(self, stream):
        self.connections += 1
        while True:
            head = await stream.read_until(b"\r\n\r\n", max_bytes=10_000)
            path = head.split()[1].decode()
            self.requests.append(path)
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            answer = self.pages.get(path, page("gone", status="404 Not Found"))
            try:
                if callable(answer):
                    await answer(stream)
                else:
                    await stream.write(answer)
            finally:
                self.busy -= 1


async def crawl(site, *, context=None, server_context=None, **options):
    """Crawl a site; give the findings with the site's origin taken out of URLs."""
    server = await serve_tcp(site.handle, LOCAL, ssl=server_context)
    origin = f"{'https' if server_context else 'http'}://{LOCAL}:{server.port}"
    findings = Findings()
    for path, answer in site.pages.items():
        if isinstance(answer, bytes):
            site.pages[path] = answer.replace(b"ORIGIN", origin.encode().rjust(6))
    client = Client(100_000, context)
    try:
        await Crawler(origin, Options(**options), client, findings).run()
    finally:
        await server.close(timeout=0)
    assert findings.queued == 0
    return findings, origin


def short(findings, origin):
    """What is broken, as (path, what is wrong, linked from)."""
    return {
        (visit.url.removeprefix(origin), visit.error, source.removeprefix(origin))
        for visit, source in findings.broken()
    }


async def test_a_sound_site():
    site = Site(
        {
            "/": page('<a href="a.html#x">a</a> <a href="/">self</a> <img src="i.png">'),
            "/a.html": page('<p id="x"><a href="../">up</a> <a href="mailto:me@x">mail</a>'),
            "/i.png": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\npng",
        }
    )
    findings, origin = await crawl(site)
    assert short(findings, origin) == set()
    assert sorted(site.requests) == ["/", "/a.html", "/i.png"]
    assert {visit.status for visit in findings.visits.values()} == {200}


async def test_connections_are_kept_and_hosts_spared():
    links = "".join(f'<a href="/{number}">x</a>' for number in range(40))
    site = Site({"/": page(links), **{f"/{number}": page("x") for number in range(40)}})
    findings, _ = await crawl(site, workers=10, per_host=3)
    assert len(findings.visits) == 41
    assert site.connections <= 3
    assert site.most_busy <= 3


async def test_dead_links_and_missing_anchors():
    site = Site(
        {
            "/": page(
                '<a href="dead">x</a><a href="a#no">y</a><a href="a#top">z</a><a href="#here">'
            ),
            "/a": page('<a name="here">'),
        }
    )
    findings, origin = await crawl(site)
    assert short(findings, origin) == {
        ("/dead", "status 404", "/"),
        ("/a#no", "no such anchor", "/"),
        ("/#here", "no such anchor", "/"),
    }


async def test_redirects():
    site = Site(
        {
            "/": page(
                '<a href="r1#x">x</a><a href="r1#no">x</a><a href="l1">y</a>'
                '<a href="out">z</a><a href=bad>b</a>'
            ),
            "/r1": redirect("/r2"),
            "/r2": redirect("end"),
            "/end": page('<p id="x">'),
            "/l1": redirect("/l2"),
            "/l2": redirect("/l1"),
            "/out": redirect("http://example.invalid/"),
            "/bad": redirect("http://[bad/"),
        }
    )
    findings, origin = await crawl(site)
    assert short(findings, origin) == {
        ("/r1#no", "no such anchor", "/"),
        ("/l1", "redirects in a circle", "/"),
        ("/l1", "redirects in a circle", "/l2"),
        ("/l2", "redirects in a circle", "/l1"),
        ("http://[bad/", "no proper URL", "/bad"),
    }
    assert len(findings.redirects()) == 6


async def test_chunked_and_endless_bodies():
    async def slowly(stream):
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
        await stream.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in (b"<a hr", b'ef="/dea', b'd">x</a>'):
            await stream.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        await stream.write(b"0\r\n\r\n")

    async def until_close(stream):
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p id=x>")
        stream.close()

    async def endless(stream):
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            await stream.write(b"<p>again</p>" * 1000)

    site = Site(
        {
            "/": page('<a href="c">x</a><a href="u#x">y</a><a href="e#any">z</a>'),
            "/c": slowly,
            "/u": until_close,
            "/e": endless,
        }
    )
    findings, origin = await crawl(site)
    assert short(findings, origin) == {("/dead", "status 404", "/c")}


async def test_servers_that_break_off():
    async def hang_up(stream):
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        stream.close()

    async def hang_up_chunked(stream):
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly")
        stream.close()

    async def nothing(stream):
        stream.close()

    async def nonsense(stream):
        await stream.write(b"220 mail.example.org ESMTP\r\n\r\n")

    async def never(stream):
        await stream.read_bytes(1)

    with socket.create_server((LOCAL, 0)) as listener:
        refused = listener.getsockname()[1]
    links = "".join(f'<a href="{name}">x</a>' for name in ("cut", "chunk", "none", "odd", "never"))
    links += f'<a href="http://{LOCAL}:{refused}/">r</a><a href="http://[bad/">b</a>'
    site = Site(
        {
            "/": page(links),
            "/cut": hang_up,
            "/chunk": hang_up_chunked,
            "/none": nothing,
            "/odd": nonsense,
            "/never": never,
        }
    )
    findings, origin = await crawl(site, timeout=0.1, external=True)
    errors = {path: error for path, error, _ in short(findings, origin)}
    assert errors.pop("/never") == "no response within 0.1 s"
    assert errors.pop(f"http://{LOCAL}:{refused}/") == (
        f"cannot connect to ('{LOCAL}', {refused}): Connection refused"
    )
    assert errors.pop("http://[bad/") == "no proper URL"
    assert set(errors) == {"/cut", "/chunk", "/none", "/odd"}
    assert all(errors.values())


async def test_a_kept_connection_that_the_server_closed_is_no_broken_link():
    async def once(stream):
        await stream.write(page('<a href="/2">x</a>'))
        stream.close()

    site = Site({"/": once, "/2": page("fine")})
    findings, origin = await crawl(site)
    assert short(findings, origin) == set()
    assert len(findings.visits) == 2


async def test_slow_pages_are_named():
    async def slow(stream):
        await asyncio.sleep(0.05)
        await stream.write(page("at last"))

    site = Site({"/": page('<a href="slow">x</a>'), "/slow": slow})
    findings, origin = await crawl(site)
    assert [visit.url for visit in findings.slow(0.05)] == [f"{origin}/slow"]


async def test_other_sites_are_left_alone_and_pages_counted():
    site = Site({"/": page('<a href="http://example.invalid/">x</a><a href="/a">y</a>')})
    findings, origin = await crawl(site, max_pages=1)
    assert findings.skipped == 1
    assert short(findings, origin) == set()
    assert list(findings.visits) == [f"{origin}/"]


async def test_tls():
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOCAL).configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    pages = {"/": page('<a href="/a">x</a>'), "/a": page("fine")}
    findings, origin = await crawl(Site(pages), context=context, server_context=server_context)
    assert short(findings, origin) == set()
    assert len(findings.visits) == 2
    findings, origin = await crawl(Site(pages), server_context=server_context)
    [(path, error, _)] = short(findings, origin)
    assert path == "/"
    assert error == "bad certificate: unable to get local issuer certificate"


async def test_cancelled_at_every_moment_it_leaves_nothing():
    links = "".join(f'<a href="/{number}">x</a>' for number in range(3))
    for moment in range(0, 400, 7):
        site = Site({"/": page(links), **{f"/{number}": page("x") for number in range(3)}})
        crawling = asyncio.create_task(crawl(site, workers=2))
        for _ in range(moment):
            await asyncio.sleep(0)
        if crawling.done():
            break
        crawling.cancel()
        await asyncio.wait([crawling])
        assert crawling.cancelled()


async def test_a_worker_that_fails_ends_the_crawl():
    class Failing(Client):
        async def get(self, url):
            raise LookupError("a bug")

    crawler = Crawler("http://x/", Options(), Failing(1), Findings())
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(crawler.run(), 10)
    assert isinstance(caught.value.exceptions[0], LookupError)


async def test_the_client_says_why():
    client = Client(1000)
    with pytest.raises(FetchError, match="."):
        await client.get("http://name.invalid/")


def test_links():
    html = """
    <base href="/dir/"><a href="a">1</a><a href="b#x">2</a><a href=" c ">3</a><a href>4</a>
    <img src="http://other/i"><script src="//cdn/s"></script><a href="ftp://x/">5</a>
    <link rel="preconnect" href="http://font/"><a id="one" name="two"><p id="three">
    <a href="&#228; b?q=&#228;">6</a>
    """
    found = parse_page("http://Host/index.html", html)
    assert found.anchors == {"one", "two", "three"}
    assert found.links == {
        "http://host/dir/a": set(),
        "http://host/dir/b": {"x"},
        "http://host/dir/c": set(),
        "http://other/i": set(),
        "http://cdn/s": set(),
        "http://host/dir/%C3%A4%20b?q=%C3%A4": set(),
    }
    assert normalize("http://HOST#x") == "http://host/"
    assert [is_web(url) for url in ("http://x", "https://x:8/", "http://", "x", "http://x:0")] == [
        *(True, True, False, False, False)
    ]


@pytest.fixture
def folder(tmp_path):
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text('<a href="sub">x</a>')
    (site / "sub" / "index.html").write_text('<a href="../">up</a>')
    (tmp_path / "secret").write_text("secret")
    return site


async def test_the_file_server(folder):
    server = FileServer(folder)
    assert (await server.load("/"))[0] == 200
    assert (await server.load("/sub"))[:2] == (301, [("Location", "/sub/")])
    assert (await server.load("/none"))[0] == 404
    for target in ("/../secret", "/%2e%2e/secret", "//etc/passwd"):
        assert (await server.load(target))[0] == 404
    async with await serve_tcp(server.handle, LOCAL) as listening:
        reader, writer = await asyncio.open_connection(LOCAL, listening.port)
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nPUT / HTTP/1.1\r\nHost: x\r\n")
        writer.write(b"Content-Length: 3\r\n\r\nabcGET /none HTTP/1.0\r\n\r\n")
        answers = (await reader.read()).decode()
        assert [line.split()[1] for line in answers.splitlines() if line.startswith("HTTP")] == [
            *("200", "405", "404")
        ]
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection(LOCAL, listening.port)
        writer.write(b"nonsense\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_the_command_on_a_folder(folder, capsys):
    assert main(["--serve", str(folder)]) == 0
    assert "3 URLs" in capsys.readouterr().out
    (folder / "index.html").write_text('<a href="dead">x</a>')
    assert main(["--serve", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "Broken links" in out
    assert "status 404" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--url", "ftp://x/"],
        ["--url", "http://x/", "--serve", "."],
        ["--serve", "no-such-folder"],
        ["--url", "http://x/", "--workers", "0"],
        ["--url", "http://x/", "--timeout", "nan"],
        ["--url", "http://x/", "--cafile", "no-such-file"],
    ],
)
def test_misuse(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.slow
def test_ctrl_c_reports_what_was_found(folder):
    with socket.create_server((LOCAL, 0)) as silent:
        url = f"http://{LOCAL}:{silent.getsockname()[1]}/"
        spider = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "waterspout_spider", "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(20)
        connection, _ = silent.accept()
        spider.send_signal(signal.SIGINT)
        out, err = spider.communicate(timeout=20)
        connection.close()
    assert spider.returncode == 130
    assert "interrupted" in out
    assert "0 URLs" in out
    assert err == ""


@pytest.mark.slow
@pytest.mark.only_on("linux", "darwin")
def test_on_a_terminal_there_is_a_bar_and_a_table(folder):
    (folder / "index.html").write_text('<a href="dead">x</a>')
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    spider = subprocess.Popen(
        [sys.executable, "-m", "waterspout_spider", "--serve", str(folder)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
    )
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # how Linux tells of the other end's end
        pass
    os.close(master)
    assert spider.wait(20) == 1
    assert "Broken links" in shown.decode()
    assert "│" in shown.decode()
    assert "crawling" in shown.decode()
