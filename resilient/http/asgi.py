"""A server that survives: deadlines that callers send, admission, and priorities, for any ASGI application.

    app.add_middleware(ServerMiddleware, limit=AdaptiveLimit(), max_deadline=30)     # Starlette, FastAPI
    Litestar(..., middleware=[DefineMiddleware(ServerMiddleware, max_deadline=30)])
    app = ServerMiddleware(app)                                                      # any other

A client that has given up, and tries again, leaves its first request in the server's queue. A server that works such
requests off does nothing else soon: it stays down when what had slowed it is long over. This one refuses what is
already too late, ends what has become too late, and takes in no more than it can do.

The guarded part of a request ends when its response does, or with the first part of a stream:

- *The deadline holds until the response begins.* What has begun is never cut short: a half response helps nobody. It is
  lifted for all that runs on (a stream, background tasks): `remaining()` is None there.
- *The permit is held until the response is complete*, or up to the first part of a stream. How long the rest takes is
  up to its reader: a limit that waited for slow readers would be one on readers, and its latencies would be theirs.
  The time to the first part is what the server's own work takes. Background tasks hold no permit.

What the limit learns: an answer below 500 is a success, with the time that it took. An exception of the application,
and an answer of 500 or more, is nothing: a mistake of the code says nothing about how many requests the server can
take, and is often quicker than its work. Ended by the server's own `max_deadline` is a failure; ended by the caller's
deadline, or gone with its client, is nothing, unless it was as old as that.

Written for the least that can be added to a request: the application runs in the server's own task. The pipeline's
coroutine is started before it, is held where it would call its function, and is told the end from within `send`. On
trio, whose scopes must nest, the application runs in a task beside.
"""

from __future__ import annotations

import math
import types
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Mapping
from dataclasses import replace
from typing import Any, Final

from resilient import arguments, registry
from resilient.deadlines import Deadline, hold, inherited, let_go, milliseconds
from resilient.errors import Rejected, TimedOut
from resilient.foresight import Inside, View, Worst
from resilient.http import semantics
from resilient.http.options import header
from resilient.outcome import FATAL, IGNORED, Classifier, Verdict
from resilient.pipeline import Pipeline
from resilient.policy import Gate, Layer, Scope, Wrap
from resilient.priority import PRIORITIES, priority
from resilient.runtime import Runtime, current_async
from resilient.runtime.asyncio import running

__all__ = ["HEALTH_CHECKS", "ErrorAnswer", "ServerMiddleware"]

Message = Any  # a dict, which each framework has a type of its own for
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]
Guard = Coroutine[Any, Any, Any]

HEALTH_CHECKS: Final = ("/health", "/healthz", "/live", "/livez", "/ready", "/readyz", "/ping")
"""Paths by which orchestrators and balancers commonly ask whether a server lives: it does, however busy it is."""

_START = "http.response.start"
_OWN = "max_deadline"


class ErrorAnswer(Exception):
    """The application answered with 500 or more: what events have as the error of such a call.

    Attributes:
        status: of the answer; 500 where there was none.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the application answered {status}")
        self.status = status


class ServerMiddleware:
    """Guards an ASGI application; see the module for what exactly, and why.

    Args:
        app: the application.
        limit: who may come in: an `AdaptiveLimit`, a `Bulkhead`, or any other gate. Whom it refuses has 503, with
            `Retry-After`, before anything else is done. Its functions of the call (`priority=`, `key=`) are given the
            ASGI scope. Default: everybody may.
        max_deadline: seconds that a request may take until its response begins, whatever its client says. Default None:
            as long as its client says.
        deadline_header: where clients say how many milliseconds they have left (as our transports do with
            `deadline_header=True`). False: they cannot. It can only shorten a request's time, so anybody may say it;
            what makes no sense is ignored. 0 is refused, as all that comes too late: 504, and the application is not
            called. A handler that is still at work at the deadline is cancelled, and the answer is 504.
        priority: where clients say which `priority` a request has ("critical", "normal" or "sheddable"; anything else
            is ignored): a header; or a function of the scope. False: they cannot. Whoever says it is believed: what
            faces the public must take the header away, or use a function.
        exempt: paths (below the `root_path`, and exactly so) that nothing of this is done to; or a function of the
            scope, which says so. Default: those of the usual health checks. Others to exempt: long polls and streams of
            events whose first one is long in coming.
        retry_after: seconds that refused clients are asked to wait where the limit does not know better; whole ones are
            sent, at least 1.
        name: of the pipeline, for events and the registry.

    Websockets and lifespan events pass untouched. A handler that runs in a thread (a `def` endpoint of Starlette or
    FastAPI) cannot be stopped: its client has the answer in time, and its guarded calls end; it runs on to its end.
    """

    def __init__(
        self,
        app: Application,
        *,
        limit: Gate | None = None,
        max_deadline: float | None = None,
        deadline_header: bool | str = True,
        priority: bool | str | Callable[[Mapping[str, Any]], str | None] = True,
        exempt: Collection[str] | Callable[[Mapping[str, Any]], bool] = HEALTH_CHECKS,
        retry_after: float = 1.0,
        name: str = "server",
    ) -> None:
        self.app = app
        gate = arguments.instance("limit", limit, Gate)
        self._most = math.inf if max_deadline is None else arguments.seconds("max_deadline", max_deadline)
        self._deadline_header = header("deadline_header", deadline_header, semantics.DEADLINE_HEADER).lower().encode()
        self._ask_priority: Callable[[Any], Any] | None = None
        if isinstance(priority, bool | str):
            named = header("priority", priority, semantics.PRIORITY_HEADER)
            self._priority_header = named.lower().encode()
        else:
            self._priority_header = b""
            self._ask_priority = arguments.callback("priority", priority)
        self._ask_exempt: Callable[[Any], Any] | None = None
        self._exempt: frozenset[str] = frozenset()
        if isinstance(exempt, Collection):
            self._exempt = _paths(exempt)
        else:
            self._ask_exempt = arguments.callback("exempt", exempt)
        self._retry_after = arguments.seconds("retry_after", retry_after)
        policies = (_UntilAnswered(max_deadline and self._most), *([] if gate is None else [gate]))
        self.pipeline = Pipeline(*policies, name=name, classify=_Judge()).twin(policies, attempt=lambda _: _HELD)
        """Its events, its state, its switches. Closed, it refuses all that comes."""
        registry.register(self.pipeline)
        self._guarded: Callable[[Any], Guard] = self.pipeline(_handle)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or self._is_exempt(scope):
            await self.app(scope, receive, send)
            return
        deadline_header, priority_header = self._deadline_header, self._priority_header
        sent = wanted = None
        for field, value in scope["headers"]:
            if field == deadline_header:
                sent = value if sent is None else b""  # several are none
            elif field == priority_header:
                wanted = value if wanted is None else b""
        loop = running()
        request = _Request() if loop is not None else _RequestOnTrio()
        request.pass_on = send
        request.guard = None
        request.begun = request.over = False
        held = self._limit(request, sent, loop)
        urgency = self._urgency(scope, wanted)
        try:
            if isinstance(request, _RequestOnTrio):
                await self._beside(scope, receive, request)
                return
            guard = self._guarded(scope)
            try:
                waits_for = guard.send(None)
                if waits_for is not _HELD:
                    await _stand_in_line(guard, waits_for)
            except (Rejected, TimedOut) as error:
                await self._refuse(scope, send, error)
                return
            request.guard = guard
            try:
                await self.app(scope, receive, request.send)
            except BaseException as error:
                too_late = request.failed(error)
                if too_late or (request.over and isinstance(error, Exception)):
                    await self._answer_too_late(scope, send)
                if not too_late:
                    raise
            else:
                if request.guard is not None and request.returned():
                    await self._answer_too_late(scope, send)
        finally:
            if urgency is not None:
                urgency.__exit__(None, None, None)
            if held is not None:
                let_go(held)

    async def _beside(self, scope: Any, receive: Receive, request: _RequestOnTrio) -> None:
        """The same on trio."""
        import trio

        refusal: Exception | None = None
        raised: Exception | None = None
        request.ended, request.complete = trio.Event(), False

        async def handle() -> None:
            nonlocal raised
            try:
                await self.app(scope, receive, request.send)
            except Exception as error:
                raised = error
            finally:
                request.ended.set()

        too_late = False
        async with trio.open_nursery() as nursery:
            guard = self._guarded(scope)
            try:
                waits_for = guard.send(None)
                if waits_for is not _HELD:
                    await _stand_in_line(guard, waits_for)
            except (Rejected, TimedOut) as error:
                refusal = error
            else:
                request.guard = guard
                nursery.start_soon(handle)
                try:
                    await request.ended.wait()
                except BaseException as error:
                    if not request.failed(error):
                        raise
                    if not request.begun:
                        request.over = too_late = True
                        nursery.cancel_scope.cancel()
                else:
                    if request.complete:
                        request.end()
                    elif raised is not None:
                        too_late = request.failed(raised)
                    else:
                        too_late = request.returned()
        if refusal is not None:
            await self._refuse(scope, request.pass_on, refusal)
        elif too_late:
            await self._answer_too_late(scope, request.pass_on)
        if raised is not None and not (too_late and request.struck_by(raised)):
            raise raised

    # -- what a request says for itself -----------------------------------------------------------------------------

    def _is_exempt(self, scope: Any) -> bool:
        if self._ask_exempt is not None:
            return bool(self._ask_exempt(scope))
        path, root = scope["path"], scope.get("root_path")
        if root and path.startswith(root):
            path = path[len(root) :]
        return path in self._exempt

    def _limit(self, request: _Request, sent: bytes | None, loop: Runtime | None) -> Any:
        """Set the time of a request. Returns what ends that, or None where nobody has limited it."""
        seconds, request.own = self._most, True
        if sent is not None:
            left = milliseconds(sent)
            if left is not None and left < seconds * 1000:
                seconds, request.own = left / 1000, False
        outer = inherited()
        if seconds == math.inf and outer is None:
            return None
        request.seconds = seconds
        request.at = (loop or current_async()).now() + seconds
        if outer is not None and outer.at < request.at:  # the client is in this process
            request.at, request.seconds, request.own = outer.at, outer.seconds, False
        return hold(request)

    def _urgency(self, scope: Any, sent: bytes | None) -> priority | None:
        """The priority of a request, in force; None: whatever it is around."""
        asked = sent if self._ask_priority is None else self._ask_priority(scope)
        if asked is None:
            return None
        if isinstance(asked, bytes):
            asked = asked.decode("latin-1")
        asked = asked.strip().lower() if isinstance(asked, str) else ""
        if asked not in PRIORITIES:
            return None
        urgency = priority(asked)
        urgency.__enter__()
        return urgency

    # -- answers in the application's place -------------------------------------------------------------------------

    async def _refuse(self, scope: Any, send: Send, error: Exception) -> None:
        if isinstance(error, TimedOut):
            await self._answer_too_late(scope, send)
            return
        pause = getattr(error, "retry_after", None) or self._retry_after
        seconds = max(1, math.ceil(min(pause, semantics.LONGEST_PAUSE)))
        await _answer(scope, send, 503, b"The server has too much to do.", (b"retry-after", b"%d" % seconds))

    async def _answer_too_late(self, scope: Any, send: Send) -> None:
        await _answer(scope, send, 504, b"The deadline of the request has passed.")


async def _answer(scope: Any, send: Send, status: int, text: bytes, *headers: tuple[bytes, bytes]) -> None:
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
    await send({"type": _START, "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})


def _paths(exempt: Collection[Any]) -> frozenset[str]:
    if isinstance(exempt, str | bytes) or not all(isinstance(path, str) and path.startswith("/") for path in exempt):
        raise ValueError(f'exempt must be paths such as ("/health",), or a function of the scope, got {exempt!r}')
    return frozenset(exempt)


# -- one request ----------------------------------------------------------------------------------------------------


class _Request(Deadline):
    """A request, and the deadline until its response begins: then it is lifted, for all that have inherited it.

    Attributes:
        pass_on: the server's `send`.
        guard: the pipeline's coroutine, while it is held.
        begun: the response has. over: the deadline has struck before that, and the application can say no more.
        own: whether the deadline is the server's own, and not the client's.
        status: of the answer.
    """

    __slots__ = ("begun", "guard", "over", "own", "pass_on", "status")

    pass_on: Send
    guard: Guard | None
    begun: bool
    over: bool
    own: bool
    status: int

    def __init__(self) -> None:
        pass  # `__call__` sets what it has

    @property
    def name(self) -> str:  # type: ignore[override]
        """Whose limit it is."""
        return _OWN if self.own else "deadline"

    def expired(self, call: Any, waited: float) -> TimedOut:
        """For all that have inherited it, it is the caller's."""
        whose = f"max_deadline={self.seconds:g} s" if self.own else f"the deadline of {self.seconds:g} s"
        return TimedOut(f"{whose} has passed", policy=self.name, seconds=self.seconds, evidence=False)

    def strikes(self) -> bool:
        """The deadline has come: whether the application is to be cancelled."""
        if self.begun:
            return False
        self.over = True
        return True

    def struck_by(self, error: BaseException) -> bool:
        """Whether the application ended because a call that it made had no time left."""
        return (
            isinstance(error, TimedOut)
            and error.policy in ("deadline", _OWN)
            and not self.begun
            and inherited() is self
            and current_async().now() >= self.at
        )

    def send(self, message: Message) -> Awaitable[None]:
        """What the application sends through."""
        if self.guard is not None and not self.over:
            if message["type"] == _START:
                self.status, self.begun, self.at = message["status"], True, math.inf
            elif self.begun:
                self.tell()
        return _nothing() if self.over else self.pass_on(message)

    def tell(self) -> None:
        """The response is complete, or a stream that has begun."""
        self.end()

    def end(self) -> None:
        """Let the pipeline know."""
        guard, self.guard = self.guard, None
        assert guard is not None
        try:
            if self.status < 500:
                guard.send(None)
            else:
                guard.throw(ErrorAnswer(self.status))
        except (StopIteration, ErrorAnswer):
            pass

    def failed(self, error: BaseException) -> bool:
        """The application has raised this: let the pipeline know. Whether it was ended at the deadline."""
        guard, self.guard = self.guard, None
        if guard is None:
            return False
        if self.struck_by(error):
            self.over = True
            error = self.expired(None, 0.0)
            try:
                guard.throw(error)
            except TimedOut:
                return True
        try:
            guard.throw(error)
        except TimedOut as raised:
            return raised is not error
        except BaseException:
            pass
        return False

    def returned(self) -> bool:
        """The application has returned, without a complete response. Whether that is since the deadline has struck."""
        if self.over:
            guard, self.guard = self.guard, None
            assert guard is not None
            try:
                guard.throw(self.expired(None, 0.0))
            except TimedOut:
                pass
            return True
        if not self.begun:
            self.status = 500
        self.end()
        return False


class _RequestOnTrio(_Request):
    """A request whose pipeline is told the end by the task that it runs in.

    Attributes:
        ended: the response is complete, or a stream that has begun, or the application has ended without.
        complete: it is one of the first two.
    """

    __slots__ = ("complete", "ended")

    complete: bool
    ended: Any

    def tell(self) -> None:
        self.complete = True
        self.ended.set()


async def _nothing() -> None:
    pass


# -- the pipeline's coroutine ---------------------------------------------------------------------------------------


class _Held:
    """What the pipeline awaits in place of a function; seen by those who drive it, never by an event loop."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


_HELD = _Held()


async def _handle(scope: Any) -> None:
    """Gives the calls of the pipeline their name; `_HELD` stands in its place."""


_handle.__qualname__ = "ServerMiddleware"


@types.coroutine
def _stand_in_line(guard: Guard, waits_for: Any) -> Generator[Any, Any, None]:
    """Let the pipeline wait in a queue of its limit until it comes to where it is held."""
    while waits_for is not _HELD:
        try:
            sent = yield waits_for
        except BaseException as thrown:
            waits_for = guard.throw(thrown)
        else:
            waits_for = guard.send(sent)


class _UntilAnswered(Wrap):
    """What the pipeline's other policies, and its readers, know of the deadline: what ends a call is the one that its
    context has (`Deadline`), which never comes later than this.

    Args:
        limit: seconds of the server's own; None: it has none.
    """

    raises = (TimedOut,)

    def __init__(self, limit: float | None) -> None:
        super().__init__(_OWN)
        self.limit = limit

    def bind(self, inner: Layer, scope: Scope) -> Layer:
        return inner

    def worst(self, inner: Inside, view: View) -> Worst:
        if self.limit is None:
            return inner(view)
        rest = inner(view.sooner(self.limit))
        return replace(rest, seconds=rest.seconds.up_to(self.limit))

    def describe(self) -> str:
        own = "" if self.limit is None else f", {self.limit:g} s at the most"
        return f"the client's deadline{own}"


class _Judge(Classifier):
    """The server's own deadline is all that speaks against it."""

    def error(self, error: Exception) -> Verdict:
        return FATAL if isinstance(error, TimedOut) and error.policy == _OWN else IGNORED
