"""Sends requests to an ASGI application without a network, on asyncio in virtual time and on trio with a clock that
jumps.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from resilient import current_priority, events, remaining
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.runtime import current_async, virtual
from resilient.server.asgi import ServerMiddleware


def _heard(main: Callable[[], Any]) -> Any:
    """Run a test on asyncio while there is a listener for all events: requests then take the full path."""
    with contextlib.ExitStack() as stack:
        stack.callback(events.listen(lambda event: None))
        return virtual.run(main())


RUN: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "asyncio": lambda main: virtual.run(main()),
    "asyncio, heard": _heard,
    "trio": lambda main: trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)),
}


def on_both(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine test on asyncio and on trio, in virtual time; on asyncio also with a listener."""

    def run(backend: str, **kwargs: Any) -> None:
        RUN[backend](functools.partial(test, **kwargs))

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]
    backend = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([backend, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("backend", RUN)(run)


def now() -> float:
    """Return the time of the running event loop."""
    return current_async().now()


@dataclass
class Reply:
    """The response to a request.

    Attributes:
        status: None without a response.
        error: the exception that the application raised to its server.
        at: the time at which the response began.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    error: BaseException | None = None
    at: float | None = None

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode()


def scope_of(path: str = "/", headers: Iterable[tuple[str, str]] = (), **more: Any) -> dict[str, Any]:
    """Return the ASGI scope of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        **more,
    }


async def ask(
    app: Any,
    path: str = "/",
    *,
    headers: Iterable[tuple[str, str]] = (),
    deadline: str | None = None,
    body: Iterable[bytes | float | None] = (b"",),
    **more: Any,
) -> Reply:
    """Send one request. An `Exception` of the application is in the reply, as it is in a server's log.

    Args:
        body: its parts, of which the last one ends it; a number waits so many seconds; None: the client leaves.
    """
    reply = Reply()
    fields = [*headers, *([] if deadline is None else [("X-Deadline-Ms", deadline)])]
    parts = list(body)

    async def receive() -> dict[str, Any]:
        while parts:
            part = parts.pop(0)
            if isinstance(part, bytes):
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            if part is None:
                parts.clear()
            else:
                await anyio.sleep(part)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert reply.status is None, "the response began twice"
            reply.status, reply.at = message["status"], now()
            reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert reply.status is not None, "a body without a head"
            reply.parts.append(message["body"])

    try:
        await app(scope_of(path, fields, **more), receive, send)
    except Exception as error:
        reply.error = error
    return reply


def trusting(app: Any, **options: Any) -> ServerMiddleware:
    """Return a middleware that trusts the headers of its clients."""
    return ServerMiddleware(app, **{"deadline_header": True, "priority": True, **options})  # type: ignore[arg-type]


def answering(handle: Callable[[], Awaitable[Any]]) -> Any:
    """Return an application that answers with the result of `handle`: a text, or a status."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        result = await handle()
        status, text = (result, "") if isinstance(result, int) else (200, str(result))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    return application


# -- applications ---------------------------------------------------------------------------------------------------


async def tell_remaining() -> str:
    return str(remaining())


async def hang() -> None:
    await anyio.sleep(3600)


TOO_LATE = "The deadline of the request has passed."
TOO_MUCH = "The server cannot take this request now."


def is_too_late(reply: Reply) -> bool:
    """Check that a reply is one complete 504 of the middleware, and nothing else."""
    return (reply.status, reply.text, reply.headers["content-length"]) == (504, TOO_LATE, str(len(TOO_LATE)))


class Ledger(Gate):
    """A gate that admits every request, and records how calls end."""

    facts = Facts(learns=True)

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []

    def admit(self, call: Any) -> object:
        return self

    def settle(self, ticket: object, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        self.entries.append(("failure" if failed else "success", elapsed))

    def release(self, ticket: object) -> None:
        self.entries.append("nothing")


class Held:
    """An application whose requests stay inside until the test releases them."""

    def __init__(self) -> None:
        self.inside = 0
        self.event = anyio.Event()

    async def __call__(self) -> str:
        self.inside += 1
        await self.event.wait()
        return "held"


async def settle_down() -> None:
    """Let every task run until it waits."""
    await anyio.wait_all_tasks_blocked()


def streaming(*parts: Any) -> Any:
    """Return an application that sends its head, then does each step: sends bytes, waits so many seconds, or calls a
    function."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            if isinstance(part, bytes):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            elif callable(part):
                part()
            else:
                await anyio.sleep(part)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return application


async def with_one_inside(app: ServerMiddleware, held: Held, then: Callable[[], Awaitable[None]]) -> Reply:
    """Do something while a request is inside. Returns the reply of that request."""
    replies: list[Reply] = []

    async def first() -> None:
        replies.append(await ask(app))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await settle_down()
        assert held.inside == 1
        await then()
        held.event.set()
    return replies[0]


def after(seconds: float, then: Any) -> Callable[[], Awaitable[Any]]:
    async def handle() -> Any:
        await anyio.sleep(seconds)
        if isinstance(then, Exception):
            raise then
        return then

    return handle


async def tell_priority() -> str:
    return current_priority()
