"""The chaos transport for any client library: it answers, breaks and delays requests on purpose.

    chaos = AsyncChaosTransport(Errors(share=0.05, status=503, targets="/users/*"), TruncatedBody(share=0.01))
    client = httpx.AsyncClient(transport=AsyncTransport(standard("users"), transport=chaos))

It stands for the network and the servers behind it, so it goes inside the code that must survive them: our transports,
the retries of an SDK, or one's own. `resilient.chaos.policy` describes when it is on, what stops it, and its terms.
Here faults appear as a client sees them: as the client library's exceptions, as statuses, and as bodies that break off
or arrive slowly. A wait ends with the client's own timeouts, as a real one does.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from resilient import _validation
from resilient._atomic import renew_in_forked_child
from resilient.chaos.experiment import Enabled, Experiment
from resilient.chaos.policy import SWITCHED_OFF, objective
from resilient.core.background import discard
from resilient.core.call import new_call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Watch
from resilient.core.policy import Policy
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.events import Channel, ChaosHalted, Event, FaultInjected, Listener
from resilient.events.channel import Emitter
from resilient.faults import (
    Crash,
    DrippingBody,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Slowness,
    Stall,
    TruncatedBody,
)
from resilient.faults.exceptions import Exceptions
from resilient.http.chaos_bodies import stream_classes
from resilient.http.delegate import AsyncDelegatingTransport, SyncDelegatingTransport, checked
from resilient.runtime import Runtime, current, current_async
from resilient.runtime.threads import THREADS, drive

if TYPE_CHECKING:
    from resilient.http.library import Library

__all__ = ["KINDS", "AsyncHttpChaos", "HttpChaos", "SyncHttpChaos", "Witness"]

Request = TypeVar("Request", bound=Any)
Response = TypeVar("Response", bound=Any)
Inner = TypeVar("Inner")

KINDS = (
    Errors,
    Latency,
    Slowness,
    Stall,
    Crash,
    Partition,
    PacketLoss,
    Reset,
    TruncatedBody,
    DrippingBody,
)

BODILESS = frozenset({204, 304})
"""Statuses of responses without a body."""


class HttpChaos(Emitter, Generic[Inner]):
    """Injects faults into requests, as if they were faults of the network or the server.

    Args:
        faults: faults of `resilient.faults`, each with its share, time and targets. Those that are drawn for a request
            are applied in this order, until one of them ends it:

            `Latency`, `Stall`     a wait before the request, until the client's read timeout at most
            `Slowness`             a wait after it, in proportion
            `Errors`               its status (default 503), with `Retry-After`; or its exception, with `retry_after`
            `Crash`                `ConnectError`
            `Reset`                `ReadError`, or in the phase "connect" `ConnectError`; the request is not sent
            `Partition`            a wait without an answer, then `ConnectTimeout`
            `PacketLoss`, `Stall` without an end: a wait without an answer, then `ReadTimeout`
            `TruncatedBody`        a response whose body ends in `RemoteProtocolError`
            `DrippingBody`         a response whose body arrives slowly, until the client's read timeout

        transport: sends the requests; default a new transport of the client library.
        enabled: the switch: True, False, or a function that is called for each request, and must be quick. None (the
            default): the environment variable `RESILIENT_CHAOS` (1, true, yes, on), read in the constructor.
        by: the key of a request, for faults with `targets`. Default: `targets` are patterns (`*` and `?` as in a shell)
            of a host ("api.example.com", "*.example.com:8443"), of a path ("/users/*"), or of both together.
        rate: share of the requests that can get a fault at all, from 0 to 1. Default 1.
        seed: with it, the same requests in the same order get the same faults. Default None: random faults.
        halt_rate: the objective: chaos stops when a larger share of the last `halt_calls` has failed (default 0.1).
            Inside one of our transports its calls count, as their callers see them; elsewhere each request counts
            (failures are the client's exceptions and the statuses of `HttpClassifier`). A broken body counts as one
            more failure. None: it never stops.
        halt_calls: see `halt_rate`. Default 100.
        name: for events; default "Chaos".
        options: for the client library's own transport (`verify`, `http2`, `limits`, `proxy`, `uds`, ...).
    """

    library: ClassVar[Library]

    def __init__(
        self,
        *faults: Fault,
        transport: Inner | None = None,
        enabled: Enabled = None,
        by: Callable[[Any], Hashable] | None = None,
        rate: float = 1.0,
        seed: int | None = None,
        halt_rate: float | None = 0.1,
        halt_calls: int = 100,
        name: str = "Chaos",
        **options: Any,
    ) -> None:
        if transport is not None and options:
            raise TypeError(f"give transport= or the options of a new one ({', '.join(sorted(options))}), not both")
        self.name = _validation.name("name", name)
        self.experiment = Experiment(
            faults, KINDS, enabled=enabled, rate=rate, seed=seed, halt_rate=halt_rate, halt_calls=halt_calls
        )
        self._by = None if by is None else _validation.callback("by", by)
        self._patterns = {id(fault): _pattern(at, fault, by) for at, fault in enumerate(faults)}
        if transport is not None:
            transport = checked(transport, self.library.module, is_async=isinstance(self, AsyncDelegatingTransport))
        self.transport: Inner = self._new_transport(**options) if transport is None else transport
        self._names = Exceptions.of_client(self.library.module)
        self._watch: Watch | None = None
        if halt_rate is not None:
            self._watch = objective(self.experiment, PipelineContext(self.name, self.library.classifier()), self._halt)
        self._channel = Channel(self.name)
        renew_in_forked_child(self)

    def _new_transport(self, **options: Any) -> Inner:
        raise NotImplementedError

    # -- one request ------------------------------------------------------------------------------------------------

    async def _send(self, request: Any, handle: Callable[[Any], Coroutine[Any, Any, Any]], runtime: Runtime) -> Any:
        """Send a request with its faults, and count its end for the objective."""
        watch = self._watch
        if watch is None:
            return await self._with_faults(request, handle, runtime)
        call = new_call(handle, (request,), {}, runtime)
        try:
            response = await self._with_faults(request, handle, runtime)
        except Exception as error:
            watch(call, None, error)
            call.verdict = None
            raise
        watch(call, response, None)
        return response

    async def _with_faults(
        self, request: Any, handle: Callable[[Any], Coroutine[Any, Any, Any]], runtime: Runtime
    ) -> Any:
        """Draw the faults of a request, and send it with them."""
        limits = request.extensions.get("timeout") or {}
        slowing, bodies = 1.0, []
        for fault, delay in self.experiment.draw(runtime.now(), self._hits(request)):
            if isinstance(fault, TruncatedBody | DrippingBody):
                bodies.append(fault)
                continue
            self._emit_fault(fault, delay if isinstance(fault, Latency) else 0.0, runtime.now())
            slowing *= fault.slowing
            if delay:
                await self._wait(delay, fault, limits, runtime)
            if isinstance(fault, Errors) and fault.error is None:
                return self._answer(fault)
            if fault.ending is not None:
                raise fault.failure(self._names)
        begin = runtime.now()
        try:
            response = await handle(request)
        except Exception:
            if slowing > 1:
                await runtime.sleep((slowing - 1) * (runtime.now() - begin))
            raise
        if slowing > 1:
            try:
                await runtime.sleep((slowing - 1) * (runtime.now() - begin))
            except BaseException:
                await discard(response, runtime, patience=0.0)  # it is cancelled
                raise
        if bodies and request.method != "HEAD" and response.status_code not in BODILESS:
            for fault in bodies:
                self._emit_fault(fault, 0.0, runtime.now())
            return self._spoiled(response, bodies, limits.get("read"))
        return response

    async def _wait(self, seconds: float, fault: Fault, limits: Any, runtime: Runtime) -> None:
        """Wait, but no longer than the client's timeout, which then raises the client's error."""
        names = self._names
        name, timeout = ("connect", names.unreachable) if fault.ending == "unreachable" else ("read", names.silent)
        limit = limits.get(name)
        if limit is not None and limit <= seconds:
            await runtime.sleep(limit)
            raise timeout(fault.words)
        await runtime.sleep(seconds)

    def _answer(self, fault: Errors) -> Any:
        """Return the response of a fault with a status."""
        status, asked = fault.answer
        headers = {"content-type": "text/plain", **asked}
        return self.library.module.Response(status, headers=headers, content=fault.words.encode())

    def _spoiled(self, response: Any, faults: Sequence[Fault], limit: float | None) -> Any:
        """Return a response whose body breaks off or arrives slowly."""
        module, stream = self.library.module, response.stream
        truncated, dripping = stream_classes(module)
        for fault in faults:
            words = fault.words
            if isinstance(fault, TruncatedBody):
                stream = truncated(stream, fault.keep, functools.partial(self._break_off, words))
            elif isinstance(fault, DrippingBody):
                late = limit is not None and limit <= fault.pause
                error = functools.partial(module.ReadTimeout, words) if late else None
                stream = dripping(stream, fault.piece, min(fault.pause, fault.pause if limit is None else limit), error)
        # A new response, because one that has its body already does not read its stream any more.
        return module.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    def _break_off(self, words: str) -> Exception:
        """Count a broken body for the objective, and return the client's error."""
        reason = None if self.experiment.halt_rate is None else self.experiment.saw(True)
        if reason is not None:
            self._halt(reason)
        error: Exception = self.library.module.RemoteProtocolError(words)
        return error

    def _hits(self, request: Any) -> Callable[[Fault], bool]:
        """Return a function: whether a request is a target of a fault."""
        if self._by is not None:
            key: Any = self._by(request)
            return lambda fault: fault.hits(key)
        url = request.url
        path = url.raw_path.partition(b"?")[0].decode("ascii")
        host, server = url.host, url.netloc.decode("ascii")
        names = (host, server, path, host + path, server + path)
        patterns = self._patterns

        def hits(fault: Fault) -> bool:
            pattern = patterns[id(fault)]
            return pattern is None or any(pattern.fullmatch(name) for name in names)

        return hits

    # -- events and state -------------------------------------------------------------------------------------------

    def witness(self) -> Policy:
        """Return a policy for the pipeline of the transport around this one. With it, the pipeline's calls count for
        the objective instead of the requests, and the pipeline's listeners get our events."""
        self._watch = None
        return Witness(self)

    def renew(self) -> None:
        """In a forked child: take new locks."""
        self.experiment.renew()

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Send events of these kinds (default: all) to `listener`. Returns a function that removes the listener. If
        this transport is inside a resilient transport, listen to that transport's pipeline instead."""
        return self._channel.listen(listener, *kinds)

    def _attached(self) -> list[Channel]:
        """Return the channels of the pipelines around this transport; without a pipeline, its own channel."""
        return super()._attached() if self._channels else [self._channel]

    def _emit_fault(self, fault: Fault, seconds: float, now: float) -> None:
        self.experiment.count(fault.kind)
        self._count_event("faults", self.name, fault.kind)
        self._emit(FaultInjected, now, self.name, fault.kind, fault.describe(), seconds)

    def _halt(self, reason: str) -> None:
        self._emit(ChaosHalted, current().now(), self.name, reason)

    @property
    def halted(self) -> str | None:
        """The reason why chaos has stopped by itself, or None."""
        return self.experiment.halted

    def resume(self) -> None:
        """Go on after a halt. The counts of the objective and the times of faults begin anew."""
        self.experiment.resume()

    def snapshot(self) -> dict[str, Any]:
        """Return the counts of faults and the state of the objective, as the policy `Chaos` does."""
        return self.experiment.snapshot()

    def describe(self) -> str:
        """Return a line of text about the faults, as `repr` shows it."""
        return f"{type(self).__name__}({self.experiment.describe()})"

    def __repr__(self) -> str:
        return self.describe()


class Witness(Policy, effects=("chaos",)):
    """Represents a chaos transport in the pipeline of the transport around it. It does nothing to a call."""

    def __init__(self, chaos: HttpChaos[Any]) -> None:
        super().__init__(chaos.name)
        self._chaos = chaos
        self.facts = Facts(timed=False, injects=True, inactive=None if chaos.experiment.possible else SWITCHED_OFF)

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        return inner

    def _watch(self, context: PipelineContext) -> Watch | None:
        experiment = self._chaos.experiment
        if not experiment.possible or experiment.halt_rate is None:
            return None
        return objective(experiment, context, self._chaos._halt)

    def _attach(self, channel: Channel) -> None:
        self._chaos._attach(channel)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the chaos transport."""
        return self._chaos.snapshot()

    def describe(self) -> str:
        return self._chaos.describe()

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        return inner(around)  # the worst case of a request is unknown already


class AsyncHttpChaos(AsyncDelegatingTransport, HttpChaos[Inner], Generic[Request, Response, Inner]):
    """The chaos transport for asynchronous clients; each client library derives its own from it."""

    transport: Any

    def handle_async_request(self, request: Request) -> Any:
        """Send one request, with its faults. While chaos is off, this adds no coroutine to the transport's."""
        if not self.experiment.is_on():
            return self.transport.handle_async_request(request)
        return self._send(request, self.transport.handle_async_request, current_async())


class SyncHttpChaos(SyncDelegatingTransport, HttpChaos[Inner], Generic[Request, Response, Inner]):
    """The chaos transport for plain clients; each client library derives its own from it."""

    transport: Any

    def handle_request(self, request: Request) -> Response:
        """Send one request, with its faults. While chaos is off, this only calls the inner transport."""
        if not self.experiment.is_on():
            return self.transport.handle_request(request)  # type: ignore[no-any-return]
        return drive(self._send(request, self._handle, THREADS))  # type: ignore[no-any-return]


def _pattern(at: int, fault: Fault, by: object) -> re.Pattern[str] | None:
    """Return the pattern of the targets of a fault; None: every request is a target."""
    if by is not None or not fault.targets:
        return None
    for target in fault.targeted:
        if not isinstance(target, str):
            raise ValueError(f"fault[{at}].targets must be patterns of hosts and paths, or give by=; got {target!r}")
    return re.compile("|".join(fnmatch.translate(str(target)) for target in fault.targeted))
