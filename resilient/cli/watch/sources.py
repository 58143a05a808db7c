"""Finds out what an address is, the live page of a process or metrics, and reads it again and again."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

import httpx

from resilient._validation import in_a_line
from resilient.cli.watch.live_page import read_live
from resilient.cli.watch.metrics_text import MetricsText
from resilient.cli.watch.reading import Reading, SourceError, printable

__all__ = ["Address", "readings"]

LARGEST = 64 * 2**20
"""The most bytes of one answer."""

POLL = 1.0
"""Seconds between two readings of metrics."""

PAUSE = 1.0
"""Seconds before an address that does not answer is asked again."""

TYPES = "text/plain;version=0.0.4, application/openmetrics-text;q=0.5, */*;q=0.1"
"""The types of answers that are asked for: first the text format that is read here."""


class Address:
    """The address of a process. Raises `ValueError` for a text that is none.

    Attributes:
        url: without a slash at its end.
        shown: for people, without a password.
    """

    def __init__(self, text: str) -> None:
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
            _ = httpx.URL(url).host  # raises for a host that has no form in a request
        except (ValueError, httpx.InvalidURL) as error:
            raise ValueError(f"URL must be the address of a live page or of metrics, got {text!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(
                f"URL must be the address of a live page or of metrics, as http://127.0.0.1:8000/live, got {text!r}"
            )
        self.url = url.rstrip("/")
        self.shown = printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/"))
        self.is_local = _is_local(host)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def readings(address: Address) -> AsyncGenerator[Reading | SourceError]:
    """Yield readings for ever; where the address does not answer, the error, and then tries again.

    Ends only by an error with `final`, which is yielded too, if nothing has been read before. Raises `ImportError` if
    reading metrics needs a package.
    """
    read = False
    # A proxy of the environment is for other machines.
    async with httpx.AsyncClient(trust_env=not address.is_local, timeout=5.0) as client:
        while True:
            try:
                async with aclosing(_read(client, address)) as found:
                    async for reading in found:
                        read = True
                        yield reading
                failure = SourceError("the server has ended the stream")
            except SourceError as error:
                failure = error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = SourceError(_words(error), final=isinstance(error, httpx.UnsupportedProtocol))
            yield failure
            if failure.final and not read:
                return
            await asyncio.sleep(PAUSE)


async def _read(client: httpx.AsyncClient, address: Address) -> AsyncGenerator[Reading]:
    """Yield the readings of one connection."""
    if not address.url.endswith("/metrics") and "?" not in address.url:
        found = await _get(client, f"{address.url}/state.json")
        if found.status_code == 200 and found.headers.get("content-type", "").startswith("application/json"):
            async with aclosing(read_live(client, address.url)) as stream:
                async for reading in stream:
                    yield reading
            return
        if found.status_code == 403:  # a live page that refuses this client says why
            raise SourceError(f"403: {printable(found.text)}", final=True)
    metrics = MetricsText()
    while True:
        found = await _get(client, address.url)
        if found.status_code != 200:
            raise SourceError(
                f"{found.status_code} {printable(found.reason_phrase)}: neither a live page nor metrics",
                final=400 <= found.status_code < 500,
            )
        if "html" in found.headers.get("content-type", ""):
            raise SourceError("an HTML page: neither a live page of resilient nor metrics", final=True)
        yield metrics.reading(found.text, asyncio.get_running_loop().time())
        await asyncio.sleep(POLL)


async def _get(client: httpx.AsyncClient, url: str) -> httpx.Response:
    """Return a response whose body is bounded."""
    async with client.stream("GET", url, headers={"Accept": TYPES}, follow_redirects=True) as answer:
        body = b""
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > LARGEST:
                raise SourceError(f"an answer of more than {LARGEST:,} bytes", final=True)
        headers = [(name, value) for name, value in answer.headers.items() if name == "content-type"]
        return httpx.Response(answer.status_code, headers=headers, content=body)


def _words(error: Exception) -> str:
    return printable(in_a_line(error))
