"""A server that survives: deadlines that callers send, admission, and priorities, for any ASGI application.

    app.add_middleware(ServerMiddleware, limit=AdaptiveLimit(), max_deadline=30)            # Starlette, FastAPI
    Litestar(..., middleware=[ServerMiddleware.shared(limit=AdaptiveLimit(), max_deadline=30)])
    app = ServerMiddleware(app, limit=AdaptiveLimit(), max_deadline=30)                     # any other

A client that gives up and tries again leaves its first request in the server's queue. A server that works on such
requests soon does nothing else: it stays down long after the cause of its slowness is over. This middleware refuses
requests that are already too late, ends requests that have become too late, and admits no more than the server can do.

The middleware trusts a client's deadline and priority only if its options say so. A client that sets them chooses the
moment at which a handler is cancelled, and can take the places of others. So `deadline_header=True` and `priority=True`
are for servers whose clients are your own.

The guarded part of a request begins when its body is there. It ends when the response is complete, or with the first
part of a stream (`resilient.server.request` has the table of states):

- *While a request waits for its body it holds no permit*, and that time is neither work nor evidence: a client decides
  how fast it sends, and a few slow clients would otherwise shut out all others. 64 KiB are read ahead, then the limit
  is asked, and the application is called. While the application waits for more of the body, the permit is released; the
  limit is asked again when the body is complete (`resilient.server.upload`). If the body does not arrive within
  `max_deadline`, the answer is 408. The work has all of `max_deadline` after that.
- *The deadline holds until the response begins.* A response that has begun is never cut short: half a response is of no
  use. The deadline is lifted for everything that runs on (a stream, background tasks): `remaining()` is None there.
- *The permit is held until the response is complete*, or until the first part of a stream. The time to the first part
  is the server's own work. The rest depends on the reader: a limit that waited for slow readers would limit readers,
  and measure their latencies. The permit is also released before the head of a response that the client does not read,
  because it has not read an earlier response on its connection. (On trio, such a wait cannot be distinguished from
  sending: the response is cut off at its deadline.) Background tasks hold no permit.

Without a limit, a deadline or a priority there is nothing to guard, and the middleware passes requests on as they are.
It only counts them: each is in flight until the application has returned, so that the middleware can be closed, and
ends as its answer says. While the middleware has a listener, it guards them.

What the limit learns from the end of a request:

    an answer below 500                           a success, with its latency
    an answer of 500 or more, an exception        nothing: an error in the code says nothing about the capacity of the
                                                  server, and is often quicker than its work
    ended by the server's own `max_deadline`      a failure
    ended by the client's deadline, or the        nothing, unless the request was as old as `max_deadline`; otherwise
    client has left                               clients could lower an `AdaptiveLimit` with short deadlines

So if every request ends by its client's deadline, an `AdaptiveLimit` sees nothing and stays as it is.

To add little to a request, the application runs in the server's own task. The pipeline's coroutine is started before
it, is suspended where it would call its function, and is resumed from within `send` (`resilient.server.held_call`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, Final

from resilient import _validation
from resilient.core.deadline import milliseconds
from resilient.core.gate import Gate
from resilient.core.headers import DEADLINE_HEADER, PRIORITY_HEADER, header_name
from resilient.core.priority import PRIORITIES, current_priority, priority
from resilient.core.pushback import LONGEST_PAUSE
from resilient.core.surround import SuspendedSurrounds
from resilient.errors import Rejected, TimedOut
from resilient.events import CallTimedOut
from resilient.pipeline import Pipeline
from resilient.pipeline.names import register
from resilient.runtime import current_async
from resilient.runtime.asyncio import running
from resilient.runtime.inherited_deadline import LIFTED, Deadline, hold, inherit, inherited, let_go, seen
from resilient.server.admission import EntryGate, ServerClassifier, UntilAnswered
from resilient.server.held_call import ENDED, HELD, hold_observed, hold_unobserved, pass_queue
from resilient.server.passed_on import pass_on
from resilient.server.request import REQUEST, START, ErrorAnswer, Request, Send, drop_message
from resilient.server.request_trio import RequestOnTrio
from resilient.server.upload import READ_AHEAD, ClientLeft, Receive, Upload

__all__ = ["HEALTH_CHECKS", "ErrorAnswer", "ServerMiddleware", "Shared"]

Guarded = Callable[[Any], Coroutine[Any, Any, None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

HEALTH_CHECKS: Final = ("/health", "/healthz", "/live", "/livez", "/ready", "/readyz", "/ping")
"""Paths by which orchestrators and balancers commonly check a server's health. A busy server is healthy."""

PRIORITY_BYTES: Final = {name.encode(): name for name in PRIORITIES}
"""The priorities by the bytes of a header, in the spelling of most clients."""

_LENGTH, _CODING, _EXPECT = b"content-length", b"transfer-encoding", b"expect"


class ServerMiddleware:
    """Guards an ASGI application: deadlines, admission and priorities for its requests (see the module's docstring).

    Args:
        app: the application.
        limit: the gate that admits requests: an `AdaptiveLimit`, a `Bulkhead`, or any other. A refused request gets
            503 with `Retry-After`, and the application is not called. The gate's functions of the call (`priority=`,
            `key=`) get the ASGI scope. Default None: every request is admitted.
        max_deadline: seconds until a response begins, whatever the client asks for; and as many again, before that, for
            the body of a request that has one. Default None: only the client's deadline holds.
        deadline_header: the header in which clients send the milliseconds that they have left: True (`X-Deadline-Ms`,
            which our transports send with `deadline_header=True`), or a name. Default False: none. A client that sends
            it chooses the moment at which a handler is cancelled. So it is for servers whose clients are your own (or
            behind a proxy that removes the header). It can only shorten a request's time. Invalid values are ignored.
            For 0, and for every request that is too late, the answer is 504, and the application is not called. A
            handler that still works at the deadline is cancelled, and the answer is 504.
        priority: the source of a request's `priority` ("critical", "normal" or "sheddable"; other values are ignored):
            True (the header `X-Priority`), a header's name, or a function of the scope. Default False: none. A header
            is for servers whose clients are your own (or behind a proxy that removes the header).
        exempt: paths (below the `root_path`, exact matches) that are passed on unguarded; or a function of the scope
            that returns whether to do so. Default: `HEALTH_CHECKS`. Others to exempt: long polls, and event streams
            whose first event takes long.
        retry_after: seconds in `Retry-After` if the limit gives none; rounded up to whole seconds, at least 1.
        name: of the pipeline, for events and the registry.

    Websockets and lifespan events pass untouched. A handler that runs in a thread (a `def` endpoint of Starlette or
    FastAPI) cannot be stopped. Its client gets the answer in time, and its guarded calls end, but the handler runs on
    to its end. (Trio leaves no thread behind: there the client waits for that.)
    """

    def __init__(
        self,
        app: Application,
        *,
        limit: Gate | None = None,
        max_deadline: float | None = None,
        deadline_header: bool | str = False,
        priority: bool | str | Callable[[Mapping[str, Any]], str | None] = False,
        exempt: Collection[str] | Callable[[Mapping[str, Any]], bool] = HEALTH_CHECKS,
        retry_after: float = 1.0,
        name: str = "server",
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be an ASGI application, got {app!r}")
        self.app = app
        gate = _validation.instance("limit", limit, Gate)
        self._max_deadline = math.inf if max_deadline is None else _validation.seconds("max_deadline", max_deadline)
        self._deadline_header = header_name("deadline_header", deadline_header, DEADLINE_HEADER).lower().encode()
        self._ask_priority: Callable[[Any], Any] | None = None
        if isinstance(priority, bool | str):
            named = header_name("priority", priority, PRIORITY_HEADER)
            self._priority_header = named.lower().encode()
        else:
            self._priority_header = b""
            self._ask_priority = _validation.callback("priority", priority)
        self._read = frozenset((self._deadline_header, self._priority_header, _LENGTH, _CODING))
        self._ask_exempt: Callable[[Any], Any] | None = None
        self._exempt: frozenset[str] = frozenset()
        if isinstance(exempt, Collection):
            self._exempt = _paths(exempt)
        else:
            self._ask_exempt = _validation.callback("exempt", exempt)
        self._retry_after = _validation.seconds("retry_after", retry_after)
        self._until_answered = UntilAnswered(None if max_deadline is None else self._max_deadline)
        gates = () if gate is None else (gate,)
        policies = (self._until_answered, *gates)
        self.pipeline = Pipeline(*policies, name=name, classify=ServerClassifier())._derive(
            policies, attempt=hold_observed
        )
        """The pipeline that guards requests: for its events, its state, its switches. Once closed, it refuses all
        requests."""
        register(self.pipeline)
        seen.any = seen.any or max_deadline is not None or bool(self._deadline_header)
        asks = self._deadline_header or self._priority_header or self._ask_priority is not None
        self._limits_nothing = gate is None and max_deadline is None and not asks
        self._in_flight = self.pipeline._in_flight
        fast = self.pipeline._derive(
            (EntryGate(self._until_answered.facts.time_limit), *gates), attempt=hold_unobserved
        )
        fast._bindings.timed = False  # its `EntryGate` sets the runtime, which the request knows
        self._fast_path: Guarded = fast(_handle)  # of requests without a body, while there are no listeners
        self._full_path: Guarded = self.pipeline(_handle)

    @classmethod
    def shared(cls, **options: Any) -> Shared:
        """Return a factory that wraps applications in one shared middleware with these options, for frameworks that
        wrap each of their routes (Litestar). Its `pipeline` exists before the first request."""
        return Shared(cls(_nowhere, **options))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request: pass it on with its deadline, permit and priority, or answer it instead."""
        if scope["type"] != "http" or (
            (scope["path"] in self._exempt or self._ask_exempt is not None or scope.get("root_path"))
            and self._is_exempt(scope)
        ):
            await self.app(scope, receive, send)
            return
        outer, in_flight = inherited(), self._in_flight
        if self._limits_nothing and outer is None and not in_flight.needs_full_path:
            await pass_on(self.app, in_flight, self.pipeline._bindings.endings, scope, receive, send)
            return
        request, priority_value = self._request(scope, receive, send, outer)
        is_off = in_flight.needs_full_path and self.pipeline.mode == "off"
        lifted = priority_set = surrounds = None
        try:
            if outer is not None and not is_off:
                request.take_earlier(outer)
                lifted = hold(LIFTED)  # the request itself applies it now
            if self._ask_priority is not None or (
                priority_value is not None and PRIORITY_BYTES.get(priority_value) != current_priority()
            ):
                priority_set = self._set_priority(scope, priority_value)
            if is_off:
                await self.app(scope, receive, send)
                return
            scope[REQUEST] = request
            guarded = self._fast_path if request.upload is None and not in_flight.needs_full_path else self._full_path
            request.start_deadline()
            if in_flight.needs_full_path:
                surrounds = SuspendedSurrounds(self._until_answered.channel.wants.surrounds)
            try:
                run = guarded(scope).__await__()
                try:
                    waits_for = next(run, ENDED)
                    if waits_for is not HELD and waits_for is not ENDED:
                        await pass_queue(run, waits_for)
                except (Rejected, TimedOut) as error:
                    request.refuse(error)
                except ClientLeft:
                    pass
                else:
                    if waits_for is ENDED:  # the pipeline has just been switched off: nothing is held
                        scope.pop(REQUEST, None)
                    else:
                        request.pipeline_run = run
                    inheritance = inherit(request) if request.at < math.inf else None
                    try:
                        await self.app(
                            scope, receive if request.upload is None else request.upload.receive, request.send
                        )
                    except BaseException as error:
                        if not request.application_raised(error):
                            raise
                    else:
                        if request.pipeline_run is not None:
                            request.application_returned()
                    finally:
                        if inheritance is not None:
                            let_go(inheritance)
            except BaseException as error:
                if not request.end_deadline(error):
                    if request.is_over and isinstance(error, Exception):
                        await self._answer_instead(scope, request)
                    raise
            else:
                request.end_deadline(None)
            if request.is_over:
                await self._answer_instead(scope, request)
        finally:
            request.pass_on = drop_message
            request.upload = None  # it refers to the request
            if priority_set is not None:
                priority_set.__exit__(None, None, None)
            if lifted is not None:
                let_go(lifted)
            if surrounds is not None:
                surrounds.exchange()  # the pipeline has ended inside `send`, perhaps in another task

    # -- the options of a request -----------------------------------------------------------------------------------

    def _request(
        self, scope: Any, receive: Receive, send: Send, outer: Deadline | None
    ) -> tuple[Request, bytes | None]:
        """Make the `Request` with its deadline and its body. Returns also the value of its priority header, or None."""
        loop = running()
        request = Request(send, loop) if loop is not None else RequestOnTrio(send, current_async())
        read, deadline_header, priority_header = self._read, self._deadline_header, self._priority_header
        sent = priority_value = body = None
        for field, value in scope["headers"]:
            if field in read:
                if field == deadline_header:
                    sent = value if sent is None else b""  # repeated headers are ignored
                elif field == priority_header:
                    priority_value = value if priority_value is None else b""
                elif value != b"0":
                    body = _CODING if body is not None else field
        seconds = self._max_deadline
        if sent is not None:
            left = int(sent) if sent.isdigit() and len(sent) < 9 else milliseconds(sent)  # most clients send digits
            if left is not None and left < seconds * 1000:
                seconds, request.is_own = left / 1000, False
        if seconds < math.inf:
            request.seconds = seconds
            request.at = request.runtime.now() + seconds
        if self._limits_nothing and outer is None:
            return request, priority_value  # guarded for a listener only: nothing waits for the body
        if body is not None or scope.get("http_version", "") >= "2":  # HTTP/2 need not announce a body
            self._expect_body(scope, receive, request, body, sent, outer)
        return request, priority_value

    def _expect_body(
        self, scope: Any, receive: Receive, request: Request, field: bytes | None, sent: bytes | None, outer: Any
    ) -> None:
        """Make a request wait for its body. `field`: the header that announced the body, or None."""
        now = request.runtime.now()
        seconds = math.inf
        if sent is not None and (left := milliseconds(sent)) is not None:
            seconds = left / 1000
        if outer is not None and outer.at < now + seconds:
            seconds = max(0.0, outer.at - now)
        ahead = READ_AHEAD if field == _LENGTH else 1
        if any(name == _EXPECT for name, _ in scope["headers"]):
            ahead = 0  # the application decides whether there is to be a body
        request.expect_body(Upload(request, receive, ahead), self._max_deadline, (now + seconds, seconds))

    def _is_exempt(self, scope: Any) -> bool:
        if self._ask_exempt is not None:
            return bool(self._ask_exempt(scope))
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return path in self._exempt

    def _set_priority(self, scope: Any, sent: bytes | None) -> priority | None:
        """Set the priority of a request. Returns the context to exit at its end; None: the priority is unchanged."""
        asked = sent if self._ask_priority is None else self._ask_priority(scope)
        if asked is None:
            return None
        if isinstance(asked, bytes):
            asked = asked.decode("latin-1")
        asked = asked.strip().lower() if isinstance(asked, str) else ""
        if asked not in PRIORITIES or asked == current_priority():
            return None
        priority_set = priority(asked)
        priority_set.__enter__()
        return priority_set

    # -- answers of the middleware ----------------------------------------------------------------------------------

    async def _answer_instead(self, scope: Any, request: Request) -> None:
        if request.refused:
            scope.pop(REQUEST, None)  # a closed pipeline did not take it
            pause = request.retry_after or self._retry_after
            seconds = max(1, math.ceil(min(pause, LONGEST_PAUSE)))
            text = b"The server cannot take this request now."
            await _answer(scope, request.pass_on, 503, text, (b"retry-after", b"%d" % seconds))
        elif request.is_unanswered():
            channel = self._until_answered.channel
            channel.counters.count("timeouts", request.name)
            if channel.wants[CallTimedOut]:
                now = request.runtime.now()
                channel.emit(CallTimedOut(self.pipeline.name, now, request.name, request.seconds))
            if not request.awaits_body:
                await _answer(scope, request.pass_on, 504, b"The deadline of the request has passed.")
                return
            closing = [(b"connection", b"close")] if scope.get("http_version", "") < "2" else []
            await _answer(scope, request.pass_on, 408, b"The body of the request did not come in time.", *closing)


class Shared:
    """A factory of middleware. Call it with an application: it returns a copy of one `ServerMiddleware` around that
    application. All copies share one pipeline.

    Attributes:
        pipeline: the shared pipeline.
    """

    def __init__(self, middleware: ServerMiddleware) -> None:
        self._middleware = middleware
        self.pipeline = middleware.pipeline

    def __call__(self, app: Application) -> ServerMiddleware:
        guarded = copy.copy(self._middleware)
        guarded.app = app
        return guarded


async def _handle(scope: Any) -> None:
    """The guarded function as events name it: only its name is used. It is never called: the pipeline awaits
    `HELD` instead."""


_handle.__qualname__ = "ServerMiddleware"
_handle.is_held = True  # type: ignore[attr-defined]  # its attempt ends inside other code of the task


async def _nowhere(scope: Any, receive: Receive, send: Send) -> None:
    """The application of the middleware that `Shared` copies. It is never called."""


async def _answer(scope: Any, send: Send, status: int, text: bytes, *headers: tuple[bytes, bytes]) -> None:
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
    await send({"type": START, "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


def _paths(exempt: Collection[Any]) -> frozenset[str]:
    if isinstance(exempt, str | bytes) or not all(isinstance(path, str) and path.startswith("/") for path in exempt):
        raise ValueError(f'exempt must be paths such as ("/health",), or a function of the scope, got {exempt!r}')
    return frozenset(exempt)
