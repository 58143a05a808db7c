"""A server with live pages, and a browser that opens them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from resilient.observe.live import LiveView
from tests.observe.live_server import Server

__all__ = ["WAIT", "Site", "Views", "block", "server", "site", "views"]

WAIT = 30_000
"""Milliseconds to wait for what must come, on a busy machine."""


class Site:
    """A server with two views, at /plain and at /controls, and the pages that are open."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        self.server = server
        self.problems: list[str] = []
        """Errors that the browser has reported on its console."""

    def open(self, path: str = "/controls/", **options: Any) -> Page:
        """Open a page that has got its first state."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        page.goto(self.server.origin + path)
        expect(page.locator("#connection")).to_have_class("connection live", timeout=WAIT)
        return page


class Views:
    """Both views in one application, which notes the answers to POSTs."""

    def __init__(self) -> None:
        self.views = {"plain": LiveView(), "controls": LiveView(controls=True)}
        self.posts: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.views["plain"](scope, receive, send)
            return

        async def note(message: Any) -> None:
            if scope["method"] == "POST" and message["type"] == "http.response.start":
                self.posts.append(message["status"])
            await send(message)

        first = scope["path"].split("/")[1]
        if first == "elsewhere":
            await self._elsewhere(send)
            return
        await self.views.get(first, self.views["plain"])({**scope, "root_path": f"/{first}"}, receive, note)

    async def _elsewhere(self, send: Any) -> None:
        """A page without a policy, as another site could have one."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"<title>elsewhere</title>"})


@pytest.fixture(scope="module")
def views() -> Views:
    """The application of this module's server."""
    return Views()


@pytest.fixture(scope="module")
def server(views: Views) -> Iterator[Server]:
    """The server of this module."""
    with Server(views) as running:
        yield running


@pytest.fixture
def site(browser: Browser, server: Server) -> Iterator[Site]:
    """The site. After the test its pages are closed, and no error may have been reported."""
    opened = Site(browser, server)
    yield opened
    for context in browser.contexts:
        context.close()
    assert opened.problems == []


def block(page: Page, name: str) -> Any:
    """The block of a pipeline."""
    return page.get_by_role("article", name=name)
