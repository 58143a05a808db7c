"""What every transport does with its pipeline, whatever the client: it judges by HTTP, keeps one circuit for each
origin, repeats only what may be repeated, and leaves no connection behind.

Which attempts a request may have depends on its method, its `Idempotency-Key`, and its body:

    safe to repeat, body of bytes        every policy of the pipeline
    safe to repeat, body a file          the same, without hedges: two copies cannot read one file
    a stream                             is read, up to `buffer` bytes, and is a body of bytes then
    not safe, or a longer stream         repeated only when it provably never left (see `judgement.Proof`)

A transport serves all the servers that its client talks to, and one dead server must not shut out the others. So each
`CircuitBreaker` of its pipeline becomes the pattern for one circuit for each origin. The pattern remembers them: who
shares a breaker between transports shares the circuits. A breaker that is inside a `Keyed`, or that has a
`state_storage`, is as its user wanted it and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

from resilient import arguments, registry
from resilient.beside import discard
from resilient.call import Call
from resilient.deadlines import deadline
from resilient.errors import Rejected, TimedOut
from resilient.http import bodies, semantics
from resilient.http.chaos import HttpChaos
from resilient.http.judgement import HttpClassifier, Judge, Mistake, Proof, unsent, untouched
from resilient.http.semantics import IDEMPOTENT_METHODS
from resilient.outcome import DEFAULT
from resilient.pipeline import Pipeline
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.keyed import Keyed
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.policy import NEARLY, Policy
from resilient.presets import standard
from resilient.runtime import Runtime, current_async
from resilient.runtime.threads import THREADS, drive

__all__ = [
    "AsyncHttpTransport",
    "By",
    "HttpTransport",
    "Library",
    "Nested",
    "SyncHttpTransport",
    "attempt_limit",
    "client_timeout",
    "install",
    "split",
    "standard_for",
]

Request = TypeVar("Request", bound=Any)
Response = TypeVar("Response", bound=Any)
Inner = TypeVar("Inner")

By = Literal["origin", "host"] | Callable[[Any], Hashable]
Nested = Literal["once", "multiply"]

OPTIONS = frozenset({"off", "idempotent", "idempotency_key", "deadline", "key"})
"""What a request may say in `extensions={"resilient": {...}}`."""

OWN = frozenset(
    (
        "by",
        "max_keys",
        "idle",
        "idempotency_key",
        "buffer",
        "body_timeout",
        "deadline_header",
        "attempt_header",
        "nested",
    )
)
"""Options of our transports, which the clients pass on to them."""

NO_LIMITS: dict[str, float | None] = dict.fromkeys(("connect", "read", "write", "pool"))
"""Of a request that has no timeouts."""

CONNECTIONS = 100
"""The clients' default for the connections of a transport."""

ANYHOW: tuple[bool, Proof | None] = (True, None)


class Library:
    """A client library, as transports need it.

    Args:
        module: the client's.
        classifier: the judgement of pipelines that are given none.
        errors: our errors, each with a class of the same meaning that belongs to the client's hierarchy too.
    """

    def __init__(
        self, module: Any, classifier: type[HttpClassifier], errors: Mapping[type[Exception], type[Exception]]
    ) -> None:
        self.module = module
        self.classifier = classifier
        self.streams = bodies.Streams(module, errors[TimedOut])  # type: ignore[arg-type]
        self.proofs = {"unsent": unsent(module), "untouched": untouched(module)}
        self._errors = errors

    def claim(self, error: Exception, request: Any) -> None:
        """Make one of our errors one of the client's, too: the same object, with all it has."""
        kind = self._errors.get(type(error))
        if kind is not None:
            error.__class__ = kind
            error.request = request  # type: ignore[attr-defined]


class HttpTransport(Generic[Inner]):
    """Guards all requests of a client with a pipeline.

    Args:
        pipeline: default `standard()`, with a permit for each connection and 1,000 places in its queue (see
            `standard_for`). Where it was given no `classify`, `HttpClassifier` judges. Each `CircuitBreaker` in it
            becomes one circuit for each origin (scheme, host, port).
        transport: what sends the requests; default a new one of the client's own.
        by: what has a circuit of its own: "origin" (default), "host", or a function of the request, for a path
            template or a tenant (never a secret: keys are shown in errors and events).
        max_keys, idle: so many circuits are remembered (default 1,024), and so many seconds without a request (300);
            see `Keyed`.
        idempotency_key: add an `Idempotency-Key` to each POST and PATCH (each request that is not idempotent) that has
            none, the same on every attempt; the server has to know it. Or the name of another such header.
        buffer: bytes of a streamed body that are read before it is sent, so that it can be sent again. Default 1 MiB.
        body_timeout: seconds from a response's head to the end of its body; with more, its reader has `TimedOut`, and
            the circuit a failure. Default None.
        deadline_header: tell the server the milliseconds that are left: True (`X-Deadline-Ms`), or a header's name.
        attempt_header: tell it the number of the attempt, from 1: True (`X-Attempt`), or a name.
        nested: "once" (default): no retries where the function around has a Retry, or an SDK says that it repeats by
            itself; "multiply": all the same.
        options: for the client's own transport (`verify`, `http2`, `limits`, `proxy`, `uds`, ...).

    Sent more than once are only requests that are safe to repeat: of an idempotent method (GET, HEAD, OPTIONS, TRACE,
    PUT, DELETE), or with an `Idempotency-Key`; and any request that provably never left. When attempts end, the last
    response is what comes back, or the last error. Rejections and `TimedOut` are exceptions of the client's, too.

    What a request may say for itself, in `extensions={"resilient": {...}}`: `"off": True`; `"idempotent": True` or
    `False`; `"idempotency_key": "..."`; `"deadline"`: seconds; `"key"`: instead of `by`.

    A circuit learns from bodies: one that breaks off is a failure. A permit of a Bulkhead is for the time to the
    response's head. A transport's pipeline may serve other transports too. Closing the transport closes the one that
    sends, after what a Hedge left behind has ended.

    Under a plain client, a Timeout bounds waits and further attempts, and caps the client's own timeouts, which end a
    request. A Hedge needs threads there: `Hedge(..., thread=True)`.
    """

    library: ClassVar[Library]

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        transport: Inner | None = None,
        by: By = "origin",
        max_keys: int = 1024,
        idle: float = 300.0,
        idempotency_key: bool | str = False,
        buffer: int = 1 << 20,
        body_timeout: float | None = None,
        deadline_header: bool | str = False,
        attempt_header: bool | str = False,
        nested: Nested = "once",
        **options: Any,
    ) -> None:
        if transport is not None and options:
            raise TypeError(f"give transport= or the options of a new one ({', '.join(sorted(options))}), not both")
        given = arguments.instance("pipeline", pipeline, Pipeline)
        if given is None:
            given = standard() if transport is not None else standard_for(**options)
        self._by = _by(by)
        self._circuits = (by, arguments.count("max_keys", max_keys), arguments.seconds("idle", idle))
        self._key_header = _header("idempotency_key", idempotency_key, semantics.IDEMPOTENCY_HEADER)
        self._buffer = arguments.count("buffer", buffer, least=0)
        self._body_timeout = None if body_timeout is None else arguments.seconds("body_timeout", body_timeout)
        self._deadline_header = _header("deadline_header", deadline_header, semantics.DEADLINE_HEADER)
        self._attempt_header = _header("attempt_header", attempt_header, semantics.ATTEMPT_HEADER)
        if nested not in get_args(Nested):
            raise ValueError(f"nested must be one of {', '.join(get_args(Nested))}, got {nested!r}")
        self._once = nested == "once"
        self.transport: Inner = self._new_transport(**options) if transport is None else transport
        self._bytes = self.library.streams.bytes
        self._limit = attempt_limit(given)
        own = isinstance(given.classify, HttpClassifier) or given.classify is DEFAULT
        self._simple = own and not (self._body_timeout or self._deadline_header or self._attempt_header)
        self._attempt = self._attempts()
        self.pipeline = self._fitted(given, outermost=True)
        """The one in use, with its circuits."""
        self._guards: dict[tuple[bool, Proof | None], Callable[[Any], Any]] = {}
        self._anyhow = self._guard(*ANYHOW)

    def _new_transport(self, **options: Any) -> Inner:
        raise NotImplementedError

    def _attempts(self) -> Callable[[Call], Any]:
        raise NotImplementedError

    def _unguarded(self) -> Callable[[Any], Any]:
        raise NotImplementedError

    # -- the pipeline, as requests of a kind need it ----------------------------------------------------------------

    def _fitted(self, pipeline: Pipeline, *, outermost: bool = False) -> Pipeline:
        """One circuit for each key, and judged by HTTP where it has no judgement of its own. In the registry, by its
        name, is then the one that is in use."""
        policies = tuple(self._fitted_policy(policy) for policy in pipeline.policies)
        if outermost and isinstance(self.transport, HttpChaos):
            policies = (*policies, self.transport.witness())
        given = self.library.classifier() if pipeline.classify is DEFAULT else pipeline.classify
        judge = given if isinstance(given, Judge) else Judge(given, self.library.streams, once=self._once)
        twin = pipeline.twin(policies, judge, self._attempt if outermost else None)
        if twin.name:
            registry.register(twin)
        return twin

    def _fitted_policy(self, policy: Policy) -> Policy:
        if isinstance(policy, Pipeline):
            return self._fitted(policy)
        if isinstance(policy, CircuitBreaker) and not policy.stored:
            _, max_keys, idle = self._circuits
            known: dict[Any, Keyed] = vars(policy).setdefault("circuits", {})
            if self._circuits not in known:
                known[self._circuits] = Keyed(
                    policy.fresh, key=self._by, max_keys=max_keys, idle=idle, name=policy.name
                )
            return known[self._circuits]
        return policy

    def _guard(self, overlapping: bool, proof: Proof | None) -> Callable[[Any], Any]:
        """What sends a request: under the whole pipeline; or without copies that overlap, or without whatever repeats
        it except a Retry that demands a proof."""
        known = self._guards.get((overlapping, proof))
        if known is None:
            pipeline: Pipeline | None = self.pipeline
            if (overlapping, proof) != ANYHOW:
                pipeline = self._without(self.pipeline, proof, self._attempt)
            known = self._unguarded() if pipeline is None else pipeline(self._unguarded())
            self._guards[overlapping, proof] = known
        return known

    def _without(self, pipeline: Pipeline, proof: Proof | None, attempt: Any = None) -> Pipeline | None:
        kept: list[Policy] = []
        for policy in pipeline.policies:
            left: Policy | None = self._without(policy, proof) if isinstance(policy, Pipeline) else policy
            if left is not None and (isinstance(left, Pipeline | Retry) or left.runs == 1):
                kept.append(left)
        judge = pipeline.classify
        assert isinstance(judge, Judge)
        if proof is not None:
            judge = judge.careful(self.library.proofs[proof])
        return pipeline.twin(tuple(kept), judge, attempt) if kept else None

    # -- one request ------------------------------------------------------------------------------------------------

    async def _prepare(
        self, request: Any, runtime: Runtime
    ) -> tuple[Callable[[Any], Any], Any, AbstractContextManager[None]]:
        """What sends this request, as what, and under which deadline."""
        options = _options(request)
        name = self._key_header or semantics.IDEMPOTENCY_HEADER
        key, idempotent = options.get("idempotency_key"), request.method in IDEMPOTENT_METHODS
        if options.get("off"):
            return self._unguarded(), _with_key(request, name, key), nullcontext()
        if key is None and self._key_header and not idempotent and name not in request.headers:
            key = semantics.new_idempotency_key()
        repeatable = options.get("idempotent")
        if repeatable is None:
            repeatable = idempotent or key is not None or name in request.headers
        overlapping, whole = await self._prepare_body(request, repeatable, runtime)
        send = self._guard(overlapping and repeatable, None if repeatable else "unsent")
        if not whole:
            send = self._guard(False, "untouched")
        limit = deadline(options["deadline"]) if "deadline" in options else nullcontext()
        return send, _with_key(request, name, key), limit

    async def _prepare_body(self, request: Any, repeatable: bool, runtime: Runtime) -> tuple[bool, bool]:
        """See to it that a body can be sent again. Returns whether two may read it at once, and whether it can be."""
        stream, streams = request.stream, self.library.streams
        if isinstance(stream, streams.bytes):
            return True, True
        if isinstance(stream, streams.rewound):
            return False, True
        fields = getattr(stream, "fields", None)  # of a multipart body, which rewinds its files itself
        if isinstance(fields, list):
            files = [field.file for field in fields if hasattr(field, "file")]
            if all(isinstance(file, str | bytes) or bodies.is_file(file) for file in files):
                return not files, True
        source = getattr(stream, "_stream", None)
        if isinstance(source, list | tuple):
            return True, True
        if hasattr(stream, "__iter__") and bodies.is_file(source):  # asynchronous files are iterators to the clients
            request.stream = streams.rewound(stream, source)
            return False, True
        if isinstance(stream, streams.once):
            return False, False
        if not repeatable or not hasattr(stream, "__iter__" if runtime is THREADS else "__aiter__"):
            request.stream = streams.once(stream)
            return False, False
        read, size, chunks = [], 0, bodies.begun(stream, runtime)
        while (part := await bodies.following(chunks)) is not None:
            read.append(part)
            size += len(part)
            if size > self._buffer:
                request.stream = streams.once(stream, tuple(read), chunks)
                return False, False
        request.stream = streams.bytes(b"".join(read))
        return True, True

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _fully(self, call: Call, handle: Callable[[Any], Coroutine[Any, Any, Any]], runtime: Runtime) -> Any:
        """An attempt with all that was asked for."""
        request, begin, headers = call.args[0], runtime.now(), {}
        own = limits = {**NO_LIMITS, **request.extensions.get("timeout", {})}
        if call.deadline is not None:
            left = call.deadline - begin
            if left <= 0:
                raise self._out_of_time(0.0, None)
            limits = {phase: _nearer(limit, left) for phase, limit in limits.items()}
            if self._deadline_header:
                headers[self._deadline_header] = str(int(left * 1000))
        if self._attempt_header:
            headers[self._attempt_header] = str(call.attempt)
        try:
            response = await handle(_variation(request, {**request.extensions, "timeout": limits}, headers))
        except self.library.module.TimeoutException as error:
            now = runtime.now()
            if call.deadline is None or now < call.deadline:
                raise
            raise self._out_of_time(now - begin, error) from error
        try:
            good = self.pipeline.classify.result(response).kind == "success"
        except BaseException as error:
            await discard(response, runtime)
            if isinstance(error, Exception):
                raise Mistake(error) from None
            raise
        streams, seconds = self.library.streams, self._body_timeout
        if not streams.is_open(response):
            return response
        if good:  # the attempt is over; its body is read with the client's own timeout, which is looked at again
            limits["read"] = own["read"]
        if seconds is not None:
            limits["read"] = _nearer(limits["read"], seconds)
            response.stream = streams.bounded(response.stream, runtime.now() + seconds, seconds, streams.timed_out)
        return response

    def _out_of_time(self, seconds: float, error: Exception | None) -> TimedOut:
        asked = not isinstance(error, self.library.module.PoolTimeout)
        return TimedOut(
            f"the {seconds:.3g} s that were left for the request are over",
            pipeline=self.pipeline.name,
            policy="deadline",
            seconds=seconds,
            evidence=asked and self._limit is not None and seconds >= self._limit * NEARLY,
        )


class AsyncHttpTransport(HttpTransport[Inner], Generic[Request, Response, Inner]):
    """A transport for an asynchronous client."""

    transport: Any

    def _unguarded(self) -> Callable[[Any], Any]:
        handle = self.transport.handle_async_request

        async def send(request: Any) -> Any:
            return await handle(request)

        send.__qualname__ = "AsyncTransport.handle_async_request"  # for events
        return send

    def _attempts(self) -> Callable[[Call], Any]:
        handle, simple, fully = self.transport.handle_async_request, self._simple, self._fully

        def attempt(call: Call) -> Coroutine[Any, Any, Any]:
            request = call.args[0]
            if simple and (call.deadline is None or _is_in_time(request, call.deadline - call.begin().now())):
                return handle(request)  # type: ignore[no-any-return]
            return fully(call, handle, call.begin())

        return attempt

    async def handle_async_request(self, request: Request) -> Response:
        """Send one request, guarded."""
        try:
            if (
                request.method in IDEMPOTENT_METHODS
                and type(request.stream) is self._bytes
                and "resilient" not in request.extensions
            ):
                return await self._anyhow(request)  # type: ignore[no-any-return]
            send, prepared, limit = await self._prepare(request, current_async())
            with limit:
                return await send(prepared)  # type: ignore[no-any-return]
        except (Rejected, TimedOut) as error:
            self.library.claim(error, request)
            raise
        except Mistake as mistake:
            raise mistake.error from mistake.error.__cause__

    async def aclose(self) -> None:
        """Wait for losers of hedges to end, and close the transport that sends."""
        try:
            await self.pipeline.drain(current_async())
        finally:
            await self.transport.aclose()

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            await self.pipeline.drain(current_async())
        finally:
            await self.transport.__aexit__(exc_type, exc_value, traceback)


class SyncHttpTransport(HttpTransport[Inner], Generic[Request, Response, Inner]):
    """A transport for a plain client."""

    transport: Any

    def _unguarded(self) -> Callable[[Any], Any]:
        handle = self.transport.handle_request

        def send(request: Any) -> Any:
            return handle(request)

        send.__qualname__ = "Transport.handle_request"  # for events
        return send

    def _attempts(self) -> Callable[[Call], Any]:
        handle, simple, fully = self.transport.handle_request, self._simple, self._fully

        def attempt(call: Call) -> Any:
            request = call.args[0]
            if simple and (call.deadline is None or _is_in_time(request, call.deadline - THREADS.now())):
                return handle(request)
            return drive(fully(call, self._handle, THREADS))

        return attempt

    async def _handle(self, request: Any) -> Any:
        return self.transport.handle_request(request)

    def handle_request(self, request: Request) -> Response:
        """Send one request, guarded."""
        try:
            if (
                request.method in IDEMPOTENT_METHODS
                and type(request.stream) is self._bytes
                and "resilient" not in request.extensions
            ):
                return self._anyhow(request)  # type: ignore[no-any-return]
            send, prepared, limit = drive(self._prepare(request, THREADS))
            with limit:
                return send(prepared)  # type: ignore[no-any-return]
        except (Rejected, TimedOut) as error:
            self.library.claim(error, request)
            raise
        except Mistake as mistake:
            raise mistake.error from mistake.error.__cause__

    def close(self) -> None:
        """Wait for losers of hedges to end, and close the transport that sends."""
        try:
            drive(self.pipeline.drain(THREADS))
        finally:
            self.transport.close()

    def __enter__(self) -> Self:
        self.transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            drive(self.pipeline.drain(THREADS))
        finally:
            self.transport.__exit__(exc_type, exc_value, traceback)


def attempt_limit(pipeline: Pipeline) -> float | None:
    """Seconds of the innermost Timeout of a pipeline, which ends each attempt; or None."""
    for policy in reversed(pipeline.policies):
        limit = attempt_limit(policy) if isinstance(policy, Pipeline) else getattr(policy, "seconds", None)
        if limit is not None and isinstance(policy, Pipeline | Timeout):
            return float(limit)
    return None


def standard_for(*, limits: Any = None, http2: bool = False, **options: Any) -> Pipeline:
    """`standard()`, fitted to the options of a client's transport: over HTTP/1.1 a request has a connection to itself,
    so it waits for a permit, where waiting is known to be our own, and not for a connection, where nobody could tell it
    from a slow server."""
    connections = CONNECTIONS if limits is None else limits.max_connections
    if http2 or connections is None:
        return standard()
    return standard(max_concurrent=connections, queue=1000)


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of our transports, and those of the client."""
    ours = {name: value for name, value in options.items() if name in OWN}
    return ours, {name: value for name, value in options.items() if name not in OWN}


def install(kind: Callable[..., Any], client: Any, pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Put a transport of ours before each transport of a client."""
    client._transport = kind(pipeline, transport=client._transport, **options)
    for pattern, mounted in client._mounts.items():
        if mounted is not None:
            client._mounts[pattern] = kind(pipeline, transport=mounted, **options)


def client_timeout(timeout: Any, pipeline: Pipeline, library: Any) -> Any:
    """The client's own timeout, where its user gave none (`...`)."""
    if timeout is not ...:
        return timeout
    limit = attempt_limit(pipeline) if isinstance(pipeline, Pipeline) else None  # else the transport complains
    return library.Timeout(5.0 if limit is None else limit)


def _nearer(limit: float | None, left: float) -> float:
    return left if limit is None else min(limit, left)


def _is_in_time(request: Any, left: float) -> bool:
    """Whether the client's own timeouts end a request in the time that is left."""
    limits = request.extensions.get("timeout")
    if not limits:
        return False
    for limit in limits.values():  # noqa: SIM110  (a generator would cost more than all else here)
        if limit is None or limit > left:
            return False
    return True


def _variation(request: Any, extensions: Any, headers: Mapping[str, str]) -> Any:
    """The same request for one attempt, with other extensions and further headers. (The client's own object is what its
    redirects are made from.)"""
    twin = object.__new__(type(request))
    twin.__dict__ = {**request.__dict__, "extensions": extensions}
    if headers:
        twin.headers = request.headers.copy()
        twin.headers.update(headers)
    return twin


def _with_key(request: Any, name: str, key: str | None) -> Any:
    return request if key is None else _variation(request, request.extensions, {name: key})


def _options(request: Any) -> Mapping[str, Any]:
    """What a request says for itself."""
    options = request.extensions.get("resilient")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f'extensions["resilient"] must be a dict, got {options!r}')
    unknown = sorted(str(key) for key in options if key not in OPTIONS)
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise ValueError(f'extensions["resilient"] has no {", ".join(unknown)}: it may have {known}')
    for flag in ("off", "idempotent"):
        if flag in options:
            arguments.flag(flag, options[flag])
    if "deadline" in options:
        arguments.seconds("deadline", options["deadline"])
    if "key" in options:
        arguments.hashable("key", options["key"])
    key = options.get("idempotency_key", "unset")
    if not isinstance(key, str) or not semantics.is_field_value(key):  # which is a secret
        raise ValueError("idempotency_key must be the value of a header: a string of printable ASCII characters")
    return options


def _header(argument: str, value: bool | str, default: str) -> str:
    """The name of a header, or "" for none."""
    if isinstance(value, bool):
        return default if value else ""
    name = arguments.name(argument, value)
    if not semantics.is_field_name(name):
        raise ValueError(f"{argument} must be True, False or the name of a header, got {value!r}")
    return name


def _by(by: Any) -> Callable[..., Hashable]:
    """The key of a request."""
    of: Callable[..., Hashable]
    if by == "origin":
        return _origin
    if by == "host":
        of = _host
    elif isinstance(by, str):
        raise ValueError(f'by must be "origin", "host" or a function of the request, got {by!r}')
    else:
        of = arguments.callback("by", arguments.hashable("by", by))  # transports with the same one share circuits

    def key(request: Any) -> Hashable:
        options = request.extensions.get("resilient")
        return of(request) if not options or "key" not in options else options["key"]

    return key


def _origin(request: Any) -> Hashable:
    options = request.extensions.get("resilient")
    if options and "key" in options:
        return options["key"]  # type: ignore[no-any-return]
    url = request.url
    return semantics.origin(url.scheme, url.host, url.port)


def _host(request: Any) -> Hashable:
    host: str = request.url.host
    return host
