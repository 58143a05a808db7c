"""HTTP in a world: requests and responses of a client library, through the same transports as in production.

    Scenario(..., calls=HttpCalls(methods={"GET": 0.9, "POST": 0.1}, url="https://{key}.users.example/orders"))

Every call is a request that goes through a client of httpx (or of httpx2, for a transport of httpx2) with the
candidate's transport: with its classifier, its options, a circuit for each origin, and its rules for what may be sent
twice. A plain pipeline is put under a transport, as `AsyncClient(pipeline)` does. Below the transport the world takes
the place of the network: statuses are responses, `retry_after` is a `Retry-After` header, a refused connection is a
`ConnectError`, a broken one is a `ReadError`, and a lost request ends with the client's own timeout, as a
`ReadTimeout`, or as a `ConnectTimeout` in a partition. Servers get deadlines and priorities if the transport sends
them.

The pipeline of a synchronous client is tried under an asynchronous one, whose Timeouts can end an attempt at any
moment.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from resilient import _validation
from resilient.core import pushback
from resilient.core.deadline import milliseconds
from resilient.core.headers import DEADLINE_HEADER, PRIORITY_HEADER, is_field_name, is_field_value
from resilient.core.policy import Policy
from resilient.core.priority import NORMAL, PRIORITIES, current_priority, priority
from resilient.explain.error_location import located
from resilient.faults.exceptions import Exceptions
from resilient.http.httpx import AsyncClient
from resilient.http.transport import HttpTransport
from resilient.lab.answers import CandidateError
from resilient.lab.calls import Calls, Wire, current_exchange, drawn, shares
from resilient.pipeline import Pipeline

__all__ = ["HttpCalls", "WorldTransport", "in_world", "unlogged"]


@dataclass(frozen=True, slots=True)
class HttpCalls(Calls):
    """Calls that are HTTP requests, and answers that are responses.

    Args:
        methods: of the requests: one, or several with their shares: `{"GET": 0.9, "POST": 0.1}`.
        url: of the requests; `{key}` in it is replaced by the key of the call.
        headers: of the requests; `{key}` in a value is replaced by the key.
        content: the body of the requests, a text.
        response_headers: of the responses.
        statuses: of successful responses, each with its share: `{200: 0.95, 404: 0.05}`. Default: all 200.
        arguments: is called with the key of a call and replaces all of the above for requests: returns the arguments of
            `client.request`, as a tuple or a dict.
        answer: is called with a status and the pause in seconds for which the service asks the client, or None:
            returns a response of httpx, or an exception. Default: a response with `response_headers`, and a
            `Retry-After` header if there are such seconds.
    """

    methods: Mapping[str, float] | str = "GET"
    url: str = "https://service.example/{key}"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    response_headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Calls.__post_init__(self)
        if isinstance(self.methods, str):
            _method("methods", self.methods)
        else:
            shares("methods", self.methods, _method)
        try:
            url = httpx.URL(_filled(_validation.name("url", self.url), "1"))
        except httpx.InvalidURL as error:
            raise ValueError(f"url must be a URL, got {self.url!r}: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"url must begin with http:// or https:// and a host, got {self.url!r}")
        for name in ("headers", "response_headers"):
            _check_headers(name, getattr(self, name))
        if not isinstance(self.content, str):
            raise TypeError(f"content must be a text, got {self.content!r}")

    def made(self, key: str, luck: Callable[[], float]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if self.arguments is not None:
            return Calls.made(self, key, luck)
        method = self.methods if isinstance(self.methods, str) else drawn(self.methods, luck)
        headers = {name: _filled(value, key) for name, value in self.headers.items()}
        return (method, _filled(self.url, key)), {"headers": headers, "content": self.content or None}

    def answered(self, status: int, retry_after: float | None, module: Any = httpx) -> Any:
        """The response with this status, of a client library; or an exception, if the user's function returns one."""
        if self.answer is None:
            headers = dict(self.response_headers)
            if retry_after is not None:
                headers["retry-after"] = pushback.header(retry_after)
            return module.Response(status, headers=headers, content=b"")
        made = self.answer(status, retry_after)
        if isinstance(made, BaseException | module.Response):
            return made
        if not isinstance(made, httpx.Response):
            raise TypeError(f"answer must return an httpx.Response or an exception, got {made!r}")
        return module.Response(made.status_code, headers=made.headers.multi_items(), content=made.content)

    def mistake(self, error: Exception, key: str) -> CandidateError | None:
        if type(error).__name__ == "InvalidURL":  # of a client: the key cannot be part of a URL
            return CandidateError(f"calls.url, {self.url!r}, is no URL for the key {str(key)!r}: {located(error)}")
        return Calls.mistake(self, error, key)

    def guarded(self, guard: Any, wire: Wire) -> tuple[Callable[..., Any], Pipeline | None]:
        if not isinstance(guard, Policy):
            world: Any = WorldTransport(httpx, priority_header=None)
            return guard(httpx.AsyncClient(transport=world, trust_env=False).request), None
        pipeline = guard if isinstance(guard, Pipeline) else Pipeline(guard)
        client = (wire.client or _client)(pipeline)
        return client.request, client._transport.pipeline


def _client(pipeline: Pipeline) -> Any:
    """A client with a pipeline, as `AsyncClient` makes it; it sends deadlines and priorities to its servers."""
    world: Any = WorldTransport(httpx, DEADLINE_HEADER, PRIORITY_HEADER)
    return AsyncClient(pipeline, transport=world, trust_env=False, deadline_header=True, priority_header=True)


@contextmanager
def unlogged() -> Iterator[None]:
    """Silence the loggers of the client libraries: they log each request, and here none is really sent."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def in_world(transport: HttpTransport[Any], timeout: Any, pipeline: Pipeline) -> Any:
    """A client that sends to the world instead of the network, with a transport like this one around `pipeline`.

    Args:
        transport: whose options and library are used.
        timeout: of the client; None: the library's own.
        pipeline: around the requests.
    """
    module = transport.library.module
    kind = importlib.import_module(f"resilient.http.{module.__name__}").AsyncTransport
    world = WorldTransport(module, transport.deadline_header, transport.priority_header)
    guarded = kind(pipeline, transport=world, **transport.options)
    return module.AsyncClient(transport=guarded, trust_env=False, **({} if timeout is None else {"timeout": timeout}))


class WorldTransport:
    """The world in place of the network, below a candidate's transport.

    Args:
        module: the client library.
        deadline_header, priority_header: the headers from which servers take deadlines and priorities; "": none. With
            priority_header=None servers take the priority of the call, for candidates that cannot send it.
    """

    def __init__(self, module: Any, deadline_header: str = "", priority_header: str | None = "") -> None:
        self._module = module
        self._names = Exceptions.of_client(module)
        self._deadline_header = deadline_header
        self._priority_header = priority_header

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request to the service, for the current call."""
        exchange, module = current_exchange(), self._module
        wire, deadline, urgency = exchange.wire, None, NORMAL
        if wire.deadline_header and self._deadline_header:
            left = milliseconds(request.headers.get(self._deadline_header))
            if left is not None:
                deadline = asyncio.get_running_loop().time() + left / 1000
        if self._priority_header is None:
            urgency = current_priority()
        elif (named := request.headers.get(self._priority_header)) in PRIORITIES:
            urgency = named
        calls = wire.calls
        assert isinstance(calls, HttpCalls)
        wire.service.names = names = self._names
        limits = request.extensions.get("timeout") or {}
        failed, limit, loop = names.silent, asyncio.timeout(limits.get("read")), asyncio.get_running_loop()

        def unreachable() -> None:
            nonlocal failed
            failed, patience = names.unreachable, limits.get("connect")
            limit.reschedule(None if patience is None else loop.time() + patience)

        try:
            async with limit:
                with priority(urgency):
                    answered = functools.partial(calls.answered, module=module)
                    seen = _scope_of(request) if wire.serves else None
                    return await exchange.ask(deadline, seen, answered, unreachable)
        except TimeoutError:
            if limit.expired():
                raise failed("no answer within the client's timeout") from None
            raise

    async def aclose(self) -> None:
        """Do nothing: a simulated transport has no connections to close."""

    async def __aenter__(self) -> WorldTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def _scope_of(request: Any) -> dict[str, Any]:
    """The ASGI scope of a request: the argument of policies in front of an application."""
    url = request.url
    path, _, query = url.raw_path.partition(b"?")
    return {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": None,
        "server": (url.host, url.port),
    }


def _filled(text: str, key: str) -> str:
    """A text in which `{key}` is replaced by the key of a call."""
    return text.replace("{key}", quote(key, safe="")) if "{" in text else text


def _method(argument: str, value: object) -> None:
    if not isinstance(value, str) or not is_field_name(value):
        raise ValueError(f"{argument} must be a method (GET, POST, ...), got {value!r}")


def _check_headers(argument: str, given: object) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} must be a mapping of names to values, got {given!r}")
    for name, value in given.items():
        if not isinstance(name, str) or not is_field_name(name):
            raise ValueError(f"{argument} must have names of headers, got {name!r}")
        if not isinstance(value, str) or (value and not is_field_value(value)):
            raise ValueError(f"{argument}[{name!r}] must be a printable text, got {value!r}")
