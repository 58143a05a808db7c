"""`resilient watch`: addresses that answer, that do not, and that are neither a live page nor metrics."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from resilient.cli.watch.reading import Reading, SourceError
from resilient.cli.watch.sources import Address, readings
from resilient.observe.live import LiveView
from tests.cli.watch_servers import answering, quick, serving, take
from tests.servers import free_port

__all__ = ["quick"]  # the fixture


async def test_server_that_goes_away_and_comes_back(quick: None) -> None:
    """The error is an item, and so is the next reading, on the same port."""
    port = free_port()
    address = Address(f"localhost:{port}/")
    async with aclosing(readings(address)) as items:
        gone = await take(items, lambda item: isinstance(item, SourceError))
        assert "ConnectError" in str(gone)
        assert not gone.final
        for _ in range(2):
            async with serving(LiveView(), port):
                await take(items, lambda item: isinstance(item, Reading))
            await take(items, lambda item: isinstance(item, SourceError))


async def test_live_page_that_refuses_says_why(quick: None) -> None:
    """Its own text, and no second try."""
    page = LiveView()

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await page({**scope, "client": ("203.0.113.9", 1)}, receive, send)

    async with serving(elsewhere) as url:
        (found,) = [item async for item in readings(Address(url))]
    assert isinstance(found, SourceError)
    assert str(found).startswith("403: Only clients on this machine are served, not '203.0.113.9'")
    assert found.final


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (404, "text/plain", b"no", "404 Not Found: neither a live page nor metrics"),
        (403, "text/plain", b"not \x1b[2Jyou", r"403: not \\x1b\[2Jyou"),
        (200, "text/html", b"<p>", "an HTML page: neither a live page of resilient nor metrics"),
        (200, "text/plain", b"hello", "no metric"),
    ],
)
async def test_address_that_is_neither_ends_with_an_error(
    status: int, kind: str, body: bytes, words: str, quick: None
) -> None:
    """Another try would get the same answer."""
    async with serving(answering(status, kind, body)) as url:
        found = [item async for item in readings(Address(url))]
    assert len(found) == 1
    assert isinstance(found[0], SourceError)
    assert found[0].final
    with pytest.raises(SourceError, match=words):
        raise found[0]


async def test_server_error_is_tried_again(quick: None) -> None:
    """A server that starts up answers 503 for a while."""
    async with serving(answering(503, "text/plain", b"")) as url, aclosing(readings(Address(url))) as items:
        for _ in range(3):
            found = await anext(items)
            assert isinstance(found, SourceError)
            assert not found.final


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "shown", "is_local"),
    [
        ("localhost:8000/live/", "http://localhost:8000/live", "http://localhost:8000/live", True),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::1]:8000", True),
        ("https://a.example/m", "https://a.example/m", "https://a.example/m", False),
        ("http://me:secret@10.0.0.1/m?key=k", "http://me:secret@10.0.0.1/m?key=k", "http://10.0.0.1/m", False),
    ],
)
def test_address_is_completed_and_shown_without_its_password(text: str, url: str, shown: str, is_local: bool) -> None:
    """Neither a password nor a query is shown."""
    address = Address(text)
    assert (address.url, address.shown, address.is_local) == (url, shown, is_local)


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "http://", "http://a:port", "http://[::1", "http://a:99999", "http://xn--/", "http://a\x7f"]
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """The message has the text, and an example."""
    with pytest.raises(ValueError, match="URL must be the address of a live page or of metrics"):
        Address(text)
