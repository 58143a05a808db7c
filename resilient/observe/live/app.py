"""LiveView: the ASGI application of the live page."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote

from resilient import _validation
from resilient.errors import TimedOut
from resilient.observe.live import controls as buttons
from resilient.observe.live.access import Access, Refused
from resilient.observe.live.feed import Feed
from resilient.observe.live.reader import NoLimit, Reader
from resilient.observe.live.reading import find, gates_of
from resilient.observe.live.stopping import LONGEST, shutdown_check
from resilient.policies.keyed import Keyed
from resilient.runtime import current_async

__all__ = ["LiveView"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

STREAMS = 32
"""The most streams that are open at a time. Each page has one."""

LONGEST_BODY = 4096
"""The most bytes of the body of a request."""

KEYS = 200
"""The most keys of one answer of /keys.json."""

STALLED = 30.0
"""Seconds for which the client of a stream may read nothing before it is dropped."""

CLOSING = 5.0
"""Seconds for which `aclose` waits until streams have ended."""

SECURITY = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]

TYPES = {"css": b"text/css", "js": b"text/javascript", "svg": b"image/svg+xml", "html": b"text/html"}
PLAIN, JSON, STREAM = b"text/plain; charset=utf-8", b"application/json", b"text/event-stream"

FILES = ("live.css", "live.js", "format.js", "pipelines.js", "policies.js", "state.js", "trends.js", "icon.svg")
"""The files of the page, which are served by their names."""


class LiveView:
    """An ASGI application that shows the pipelines of this process on one page (see `resilient.observe.live`).

    Mount it in Starlette, FastAPI or Litestar, or serve it by itself. It needs no lifespan.

    Args:
        controls: whether the page has buttons that open, close and isolate circuits, and switch pipelines. Default
            False: then a POST is refused.
        allow: addresses and networks whose clients are served besides those of this machine: `["10.0.0.0/8"]`. The
            address is that of the connection as the server gives it. "unix": clients of a Unix socket. Every client
            that is allowed can do what the page can do: there is no log-in.
        hosts: names under which the page is served besides localhost and addresses: `["live.example.com"]`.

    Raises `TypeError` or `ValueError` for an argument that cannot be meant.
    """

    def __init__(self, *, controls: bool = False, allow: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self.controls = _validation.flag("controls", controls)
        self._access = Access(allow, hosts)
        self._feed = Feed(controls)
        self._closed = False
        page = files("resilient.observe.live") / "page"
        self._files = {name: (page / name).read_bytes() for name in (*FILES, "live.html")}

    async def aclose(self) -> None:
        """End all streams, and answer every further request with 503. Waits until the streams have ended, for 5 seconds
        at most."""
        self._closed = True
        runtime = current_async()
        until = runtime.now() + CLOSING
        while (self._feed.streams or self._feed.runs) and runtime.now() < until:
            self._feed.end_streams()
            await runtime.sleep(0.02)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            return
        try:
            fields = self._access.check(scope)
            if self._closed:
                raise Refused(503, "The live page is closed.")
            await self._answer(scope, receive, send, fields)
        except Refused as refused:
            await _respond(scope, send, refused.status, PLAIN, refused.text.encode(errors="replace"))

    async def _live(self, receive: Receive, send: Send) -> None:
        """Take part in the lifespan of a server that serves this application alone."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.aclose()
            else:
                self._closed = False  # another server may have served it before
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _answer(self, scope: Any, receive: Receive, send: Send, fields: dict[bytes, bytes]) -> None:
        path = _path(scope)
        if path == "/control":
            await self._control(scope, receive, send, fields)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused(405, "Only GET is answered here.")
        if path == "":
            place = scope.get("raw_path") or quote(scope["path"]).encode()
            await _respond(scope, send, 307, PLAIN, b"", (b"location", b"./%s/" % place.rpartition(b"/")[2]))
        elif path == "/":
            page = self._files["live.html"].replace(b"{token}", self._access.token.encode() if self.controls else b"")
            await _respond(scope, send, 200, b"text/html; charset=utf-8", page)
        elif path[1:] in FILES:
            await _respond(scope, send, 200, TYPES[path.rpartition(".")[2]], self._files[path[1:]])
        elif path == "/state.json":
            await _respond(scope, send, 200, JSON, json.dumps(self._feed.state()).encode())
        elif path == "/keys.json":
            await _respond(scope, send, 200, JSON, _keys(scope))
        elif path == "/events":
            await self._stream(scope, receive, send)
        else:
            raise Refused(404, "There is nothing here.")

    async def _control(self, scope: Any, receive: Receive, send: Send, fields: dict[bytes, bytes]) -> None:
        if scope["method"] != "POST":
            raise Refused(405, "Only POST is answered here.")
        if not self.controls:
            raise Refused(403, "This page has no buttons: LiveView(controls=True) gives it some.")
        self._access.check_token(fields)
        if fields.get(b"content-type", b"").partition(b";")[0].strip() != JSON:
            raise Refused(415, "The body must be application/json.")
        done = buttons.act(await _body(receive))
        await _respond(scope, send, 200, PLAIN, done.encode(errors="replace"))

    # -- the stream -------------------------------------------------------------------------------------------------

    async def _stream(self, scope: Any, receive: Receive, send: Send) -> None:
        if self._feed.streams >= STREAMS:
            raise Refused(503, f"{STREAMS} pages are open already.")
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", STREAM), (b"x-accel-buffering", b"no"), *SECURITY]})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        stops, runtime = shutdown_check(), current_async()
        reader = Reader(stops, LONGEST if stops is None else float("inf"))
        watch = runtime.spawn(lambda: _watch(receive, reader), copy_context())
        try:
            self._feed.join(reader)
            while (part := await reader.next()) is not None:
                await runtime.within(NoLimit(), partial(_send, send, part), _Patience())
            await runtime.within(NoLimit(), partial(_send, send, b""), _Patience())
        except (TimedOut, OSError):  # the client reads nothing, or has left
            pass
        finally:
            self._feed.leave(reader)
            runtime.cancel(watch, _nothing)


class _Patience:
    """The time for which the client of a stream may read nothing."""

    seconds = STALLED
    at: float | None = None
    total = False

    def expired(self, call: Any, waited: float) -> TimedOut:
        return TimedOut("the client of a stream reads nothing", seconds=self.seconds)


async def _send(send: Send, part: bytes, call: NoLimit) -> None:
    """Send a part of a stream; b"": its end."""
    await send({"type": "http.response.body", "body": part, "more_body": bool(part)})


async def _watch(receive: Receive, reader: Reader) -> None:
    """End a stream when its client leaves."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # a receive that raises has nothing more to say
        pass
    reader.end()


def _nothing() -> None:
    """Called for a watch that has never run: there is nothing to take back."""


def _path(scope: Any) -> str:
    """Return the path below the place at which the page is mounted; "" for that place without its last slash.

    Starlette leaves the root path in the path. Litestar takes it off, and puts a slash behind every path.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    if path in ("", "/"):
        return "/" if path and (scope.get("raw_path") or b"/").endswith(b"/") else ""
    return str(path).rstrip("/")


def _keys(scope: Any) -> bytes:
    asked = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=10)
    pipeline, path, wanted = (asked.get(name, [""])[0] for name in ("pipeline", "policy", "filter"))
    try:
        found = find(pipeline, path)
    except LookupError as error:
        raise Refused(404, str(error.args[0])) from None
    if not isinstance(found, Keyed):
        raise Refused(400, f"the policy at {path!r} has no keys: it is no Keyed")
    answer: bytes = json.dumps({"gates": gates_of(found, wanted, KEYS)}).encode()
    return answer


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The client has left.")
        body += message.get("body", b"")
        if len(body) > LONGEST_BODY:
            raise Refused(413, f"The body must have at most {LONGEST_BODY} bytes.")
        if not message.get("more_body"):
            return body


async def _respond(scope: Any, send: Send, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]) -> None:
    own = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *SECURITY]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
