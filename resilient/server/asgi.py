"""A server that survives: deadlines that callers send, admission, and priorities, for any ASGI application.

    app.add_middleware(ServerMiddleware, limit=AdaptiveLimit(), max_deadline=30)            # Starlette, FastAPI
    Litestar(..., middleware=[ServerMiddleware.shared(limit=AdaptiveLimit(), max_deadline=30)])
    app = ServerMiddleware(app, limit=AdaptiveLimit(), max_deadline=30)                     # any other

A client that has given up, and tries again, leaves its first request in the server's queue. A server that works such
requests off does nothing else soon: it stays down when what had slowed it is long over. This one refuses what is
already too late, ends what has become too late, and takes in no more than it can do.

What a client says of itself is believed only where that is asked for, as whoever says it chooses the moment at which a
handler is cancelled, and takes the places of others: `deadline_header=True` and `priority=True` are for servers whose
clients are your own.

The guarded part of a request begins when its body is there, and ends when its response does, or with the first part of
a stream:

- *While a request waits for its body it holds no permit*, and that time is neither work nor evidence: a client decides
  how fast it sends, and a few slow ones would else shut all others out. 64 KiB are read ahead, then the limit is asked,
  and the application is called. Where that has to wait for more of the body, the permit is given back, and asked for
  again when the body is complete (`resilient.server.upload`). A body that does not come within `max_deadline` is 408;
  the work has all of `max_deadline` from then on.

- *The deadline holds until the response begins.* What has begun is never cut short: a half response helps nobody. It is
  lifted for all that runs on (a stream, background tasks): `remaining()` is None there.
- *The permit is held until the response is complete*, or up to the first part of a stream. How long the rest takes is
  up to its reader: a limit that waited for slow readers would be one on readers, and its latencies would be theirs. Nor
  is it held for a head that the client does not take, as it has not read an earlier response on its connection. (On
  trio, where that cannot be told from sending, such a response is cut off at its deadline.)
  The time to the first part is what the server's own work takes. Background tasks hold no permit.

Without a limit, a deadline or a priority there is nothing to guard: such a middleware passes requests on as they are.
It only counts each until the application has returned, so that it can be closed; and guards them for a listener.

What the limit learns: an answer below 500 is a success, with the time that it took. An exception of the application,
and an answer of 500 or more, is nothing: a mistake of the code says nothing about how many requests the server can
take, and is often quicker than its work. Ended by the server's own `max_deadline` is a failure; ended by the caller's
deadline, or gone with its client, is nothing, unless it was as old as that. So where every request ends so, an
`AdaptiveLimit` sees nothing and stays as it is: else clients could lower it with short deadlines.

To add little to a request, the application runs in the server's own task. The pipeline's coroutine is started before
it, is held where it would call its function, and is told the end from within `send` (`resilient.server.held`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from resilient import _validation
from resilient.core.deadline import milliseconds
from resilient.core.gate import Gate
from resilient.core.priority import PRIORITIES, current_priority, priority
from resilient.core.pushback import LONGEST_PAUSE
from resilient.errors import Rejected, TimedOut
from resilient.events import CallTimedOut
from resilient.http import semantics
from resilient.http.options import header
from resilient.pipeline import Pipeline
from resilient.pipeline.names import register
from resilient.runtime import current_async
from resilient.runtime.asyncio import running
from resilient.runtime.inherited_deadline import LIFTED, Deadline, hold, inherit, inherited, let_go, seen
from resilient.server.admission import Entrance, ServerClassifier, UntilAnswered
from resilient.server.held import ENDED, HELD, hold_told, hold_untold, stand_in_line
from resilient.server.request import REQUEST, START, ErrorAnswer, Request, Send, nowhere
from resilient.server.request_trio import RequestOnTrio
from resilient.server.upload import READ_AHEAD, ClientLeft, Receive, Upload

__all__ = ["HEALTH_CHECKS", "ErrorAnswer", "ServerMiddleware"]

Guarded = Callable[[Any], Coroutine[Any, Any, None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

HEALTH_CHECKS: Final = ("/health", "/healthz", "/live", "/livez", "/ready", "/readyz", "/ping")
"""Paths by which orchestrators and balancers commonly ask whether a server lives: it does, however busy it is."""

PLAIN: Final = {name.encode(): name for name in PRIORITIES}
"""The priorities by the bytes of a header, as most clients write them."""

_LENGTH, _CODING, _EXPECT = b"content-length", b"transfer-encoding", b"expect"


class ServerMiddleware:
    """Guards an ASGI application; see the module for what exactly, and why.

    Args:
        app: the application.
        limit: who may come in: an `AdaptiveLimit`, a `Bulkhead`, or any other gate. Whom it refuses has 503, with
            `Retry-After`, before anything else is done. Its functions of the call (`priority=`, `key=`) are given the
            ASGI scope. Default: everybody may.
        max_deadline: seconds that a request may take until its response begins, whatever its client says; and before
            that as many again for its body, where it has one. Default None: as long as its client says.
        deadline_header: where clients say how many milliseconds they have left: True (`X-Deadline-Ms`, which our
            transports send with `deadline_header=True`), or a header's name. Default False: they cannot. Whoever says
            it is believed, and with it chooses the moment at which a handler is cancelled: so it is for servers whose
            clients are your own (or behind a proxy that takes the header away). It can only shorten a request's time;
            what makes no sense is ignored. 0 is refused, as all that comes too late: 504, and the application is not
            called. A handler that is still at work at the deadline is cancelled, and the answer is 504.
        priority: where clients say which `priority` a request has ("critical", "normal" or "sheddable"; anything else
            is ignored): True (`X-Priority`), a header's name, or a function of the scope. Default False: they cannot.
            Whoever says it is believed: so a header is for servers whose clients are your own (or behind a proxy that
            takes the header away).
        exempt: paths (below the `root_path`, and exactly so) that nothing of this is done to; or a function of the
            scope, which says so. Default: those of the usual health checks. Others to exempt: long polls and streams of
            events whose first one is long in coming.
        retry_after: seconds that refused clients are asked to wait where the limit does not know better; whole ones are
            sent, at least 1.
        name: of the pipeline, for events and the registry.

    Websockets and lifespan events pass untouched. A handler that runs in a thread (a `def` endpoint of Starlette or
    FastAPI) cannot be stopped: its client has the answer in time, and its guarded calls end; it runs on to its end. (On
    trio, which leaves no thread behind, its client waits for that.)
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
        self._most = math.inf if max_deadline is None else _validation.seconds("max_deadline", max_deadline)
        self._deadline_header = header("deadline_header", deadline_header, semantics.DEADLINE_HEADER).lower().encode()
        self._ask_priority: Callable[[Any], Any] | None = None
        if isinstance(priority, bool | str):
            named = header("priority", priority, semantics.PRIORITY_HEADER)
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
        self._until_answered = UntilAnswered(None if max_deadline is None else self._most)
        gates = () if gate is None else (gate,)
        policies = (self._until_answered, *gates)
        self.pipeline = Pipeline(*policies, name=name, classify=ServerClassifier())._derive(policies, attempt=hold_told)
        """The pipeline that guards requests: for its events, its state, its switches. Once closed, it refuses all
        requests."""
        register(self.pipeline)
        seen.any = seen.any or max_deadline is not None or bool(self._deadline_header)
        asks = self._deadline_header or self._priority_header or self._ask_priority is not None
        self._limits_nothing = gate is None and max_deadline is None and not asks
        self._in_flight = self.pipeline._in_flight
        fast = self.pipeline._derive((Entrance(self._until_answered.facts.time_limit), *gates), attempt=hold_untold)
        fast.facts = replace(fast.facts, timed=False)  # the entrance knows on which runtime a request is
        self._fast_path: Guarded = fast(_handle)  # of requests without a body, while there are no listeners
        self._full_path: Guarded = self.pipeline(_handle)

    @classmethod
    def shared(cls, **options: Any) -> Shared:
        """What puts applications under one and the same middleware, with these options: for frameworks that put each
        of their routes under one (Litestar). Its `pipeline` is there before the first request is."""
        return Shared(cls(_nowhere, **options))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or (
            (scope["path"] in self._exempt or self._ask_exempt is not None or scope.get("root_path"))
            and self._is_exempt(scope)
        ):
            await self.app(scope, receive, send)
            return
        outer, in_flight = inherited(), self._in_flight
        if self._limits_nothing and outer is None and not in_flight.needs_full_path:
            count = in_flight.count
            count.inside += 1
            try:
                await self.app(scope, receive, send)
            finally:
                count.inside -= 1
                if in_flight.needs_full_path:
                    in_flight.wake()
            return
        request, wanted = self._request(scope, receive, send, outer)
        is_off = in_flight.needs_full_path and self.pipeline.mode == "off"
        around = urgency = None
        try:
            if outer is not None and not is_off:
                request.yield_to(outer)
                around = hold(LIFTED)  # the request itself has it now
            if self._ask_priority is not None or (wanted is not None and PLAIN.get(wanted) != current_priority()):
                urgency = self._urgency(scope, wanted)
            if is_off:
                await self.app(scope, receive, send)
                return
            scope[REQUEST] = request
            guarded = self._fast_path if request.upload is None and not in_flight.needs_full_path else self._full_path
            request.open()
            try:
                guard = guarded(scope).__await__()
                try:
                    waits_for = next(guard, ENDED)
                    if waits_for is not HELD and waits_for is not ENDED:
                        await stand_in_line(guard, waits_for)
                except (Rejected, TimedOut) as error:
                    request.turned_away(error)
                except ClientLeft:
                    pass
                else:
                    if waits_for is ENDED:  # the pipeline has just been switched off: nothing is held
                        scope.pop(REQUEST, None)
                    else:
                        request.guard = guard
                    held = inherit(request) if request.at < math.inf else None
                    try:
                        await self.app(
                            scope, receive if request.upload is None else request.upload.receive, request.send
                        )
                    except BaseException as error:
                        if not request.failed(error):
                            raise
                    else:
                        if request.guard is not None:
                            request.returned()
                    finally:
                        if held is not None:
                            let_go(held)
            except BaseException as error:
                if not request.close(error):
                    if request.over and isinstance(error, Exception):
                        await self._answer_instead(scope, request)
                    raise
            else:
                request.close(None)
            if request.over:
                await self._answer_instead(scope, request)
        finally:
            request.pass_on = nowhere
            request.upload = None  # it refers to the request
            if urgency is not None:
                urgency.__exit__(None, None, None)
            if around is not None:
                let_go(around)

    # -- what a request says for itself -----------------------------------------------------------------------------

    def _request(
        self, scope: Any, receive: Receive, send: Send, outer: Deadline | None
    ) -> tuple[Request, bytes | None]:
        """Make the `Request` with its deadline and its body. Returns also the value of its priority header, or None."""
        loop = running()
        request = Request(send, loop) if loop is not None else RequestOnTrio(send, current_async())
        read, deadline_header, priority_header = self._read, self._deadline_header, self._priority_header
        sent = wanted = body = None
        for field, value in scope["headers"]:
            if field in read:
                if field == deadline_header:
                    sent = value if sent is None else b""  # repeated headers are ignored
                elif field == priority_header:
                    wanted = value if wanted is None else b""
                elif value != b"0":
                    body = _CODING if body is not None else field
        seconds = self._most
        if sent is not None:
            left = int(sent) if sent.isdigit() and len(sent) < 9 else milliseconds(sent)  # most clients send digits
            if left is not None and left < seconds * 1000:
                seconds, request.own = left / 1000, False
        if seconds < math.inf:
            request.seconds = seconds
            request.at = request.runtime.now() + seconds
        if self._limits_nothing and outer is None:
            return request, wanted  # guarded for a listener only: nothing waits for the body
        if body is not None or scope.get("http_version", "") >= "2":  # HTTP/2 need not announce a body
            self._expect_body(scope, receive, request, body, sent, outer)
        return request, wanted

    def _expect_body(
        self, scope: Any, receive: Receive, request: Request, field: bytes | None, sent: bytes | None, outer: Any
    ) -> None:
        """Have a request wait for its body. `field`: the header that announced the body; None: there is none."""
        now = request.runtime.now()
        seconds = math.inf
        if sent is not None and (left := milliseconds(sent)) is not None:
            seconds = left / 1000
        if outer is not None and outer.at < now + seconds:
            seconds = max(0.0, outer.at - now)
        ahead = READ_AHEAD if field == _LENGTH else 1
        if any(name == _EXPECT for name, _ in scope["headers"]):
            ahead = 0  # the application decides whether there is to be a body
        request.expect_body(Upload(request, receive, ahead), self._most, (now + seconds, seconds))

    def _is_exempt(self, scope: Any) -> bool:
        if self._ask_exempt is not None:
            return bool(self._ask_exempt(scope))
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        return path in self._exempt

    def _urgency(self, scope: Any, sent: bytes | None) -> priority | None:
        """Set the priority of a request, and return what resets it; None: it has the priority that holds already."""
        asked = sent if self._ask_priority is None else self._ask_priority(scope)
        if asked is None:
            return None
        if isinstance(asked, bytes):
            asked = asked.decode("latin-1")
        asked = asked.strip().lower() if isinstance(asked, str) else ""
        if asked not in PRIORITIES or asked == current_priority():
            return None
        urgency = priority(asked)
        urgency.__enter__()
        return urgency

    # -- answers in the application's place -------------------------------------------------------------------------

    async def _answer_instead(self, scope: Any, request: Request) -> None:
        if request.refused:
            scope.pop(REQUEST, None)  # a closed pipeline did not take it
            pause = request.retry_after or self._retry_after
            seconds = max(1, math.ceil(min(pause, LONGEST_PAUSE)))
            text = b"The server cannot take this request now."
            await _answer(scope, request.pass_on, 503, text, (b"retry-after", b"%d" % seconds))
        elif request.is_late():
            channel = self._until_answered.channel
            if channel.wants[CallTimedOut]:
                now = request.runtime.now()
                channel.emit(CallTimedOut(self.pipeline.name, now, request.name, request.seconds))
            if not request.awaits_body:
                await _answer(scope, request.pass_on, 504, b"The deadline of the request has passed.")
                return
            closing = [(b"connection", b"close")] if scope.get("http_version", "") < "2" else []
            await _answer(scope, request.pass_on, 408, b"The body of the request did not come in time.", *closing)


class Shared:
    """Applications that it is called with come under one and the same middleware.

    Attributes:
        pipeline: of all of them.
    """

    def __init__(self, middleware: ServerMiddleware) -> None:
        self._middleware = middleware
        self.pipeline = middleware.pipeline

    def __call__(self, app: Application) -> ServerMiddleware:
        guarded = copy.copy(self._middleware)
        guarded.app = app
        return guarded


async def _handle(scope: Any) -> None:
    """Gives the calls of the pipeline their name; `HELD` stands in its place."""


_handle.__qualname__ = "ServerMiddleware"


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
