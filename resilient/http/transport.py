"""The transport for any client library: it classifies responses by HTTP, keeps one circuit for each origin, repeats
only requests that may be repeated, and frees every connection.

The attempts that a request may have depend on its method, its `Idempotency-Key`, and its body:

    safe to repeat, body of bytes        every policy of the pipeline
    safe to repeat, body a file          the same without hedges, because two copies cannot read one file
    safe to repeat, body a stream        the stream is read, up to `buffer` bytes, and is a body of bytes then
    not safe, or a longer stream         repeated only if it provably never left (see `classify.Proof`)

A client returns a response as a stream (`client.stream`), or reads the body first (`client.get`). The transport finds
out which for each request (`Library.is_streamed`). A body that the client would read is a part of the attempt: up to
`buffer` bytes of it are read within the pipeline. So a Timeout, a deadline, a Retry, a Hedge and a circuit see the
whole answer that the user waits for, not only its head.

A transport serves all servers of its client, and one dead server must not shut out the others. So each `CircuitBreaker`
of its pipeline is replaced by one circuit for each origin. The circuits are kept with the breaker: transports that
share a breaker share its circuits. A breaker inside a `Keyed`, or with a `state_storage`, stays as it is. In the same
way an `AdaptiveLimit` becomes one limit for each origin, and a `Hedge` that waits for an observed quantile observes
each origin separately, unless it has a `key`. Each origin has its own `Budget`. A `Bulkhead` stays one, because it
guards one thing: the client's pool of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from math import inf
from typing import Any, ClassVar, Generic, TypeVar, get_args

from resilient import _validation
from resilient.core.call import Call
from resilient.core.call_key import key_of
from resilient.core.classify import DEFAULT
from resilient.core.context import PipelineContext
from resilient.core.deadline import deadline, holding, remaining
from resilient.core.gate import NEARLY
from resilient.core.headers import ATTEMPT_HEADER, DEADLINE_HEADER, PRIORITY_HEADER, header_name
from resilient.core.layer import BoundLayer
from resilient.core.policy import Policy
from resilient.core.priority import current_priority, priority
from resilient.errors import TimedOut
from resilient.http import semantics
from resilient.http.chaos import HttpChaos
from resilient.http.classify import HttpClassifier, Proof, TransportClassifier
from resilient.http.client import standard_for
from resilient.http.connections import repair_pool
from resilient.http.delegate import AsyncDelegatingTransport, checked, wrong_library
from resilient.http.library import Library
from resilient.http.lifecycle import ResponseLifecycle
from resilient.http.options import By, RequestOptions, key_by, options_of, variation, with_key
from resilient.http.request_bodies import make_ready
from resilient.http.semantics import IDEMPOTENT_METHODS
from resilient.http.time_limits import NO_LIMITS, RequestDeadline, attempt_limit, nearer, total_limit
from resilient.pipeline import Pipeline
from resilient.pipeline.names import register
from resilient.policies.adaptive import AdaptiveLimit
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.fallback import Fallback
from resilient.policies.hedge import Hedge
from resilient.policies.keyed import Keyed
from resilient.policies.retry import Nested, Retry
from resilient.presets import standard
from resilient.runtime import Runtime
from resilient.runtime.inherited_deadline import Deadline, hold, inherited, let_go
from resilient.runtime.threads import THREADS

__all__ = ["Attempt", "HttpTransport", "Inner", "Request", "Response"]

Request = TypeVar("Request", bound=Any)
Response = TypeVar("Response", bound=Any)
Inner = TypeVar("Inner")

FREELY_REPEATABLE: tuple[bool, Proof | None] = (True, None)
"""The kind of requests that every policy may repeat: attempts may overlap, and a repetition needs no proof."""

Attempt = Callable[[Call], Any] | BoundLayer


class HttpTransport(Generic[Inner]):
    """Guards all requests of a client with a pipeline.

    Args:
        pipeline: default `standard()`, with a permit for each connection and 1,000 places in its queue (see
            `standard_for`). Without a `classify` of its own it gets `HttpClassifier`. Each `CircuitBreaker` in it
            becomes one circuit for each origin (scheme, host, port), each `AdaptiveLimit` one limit.
        transport: sends the requests; default a new transport of the client library.
        by: the key of a circuit: "origin" (default), "host", or a function of the request, for a path template or a
            tenant (never a secret: keys are shown in errors and events). Equal keys share a circuit, even if the
            function is made anew for each client.
        max_keys: the number of circuits that are kept (default 1,024); see `Keyed`.
        idle: seconds without a request after which a circuit is dropped (default 300).
        idempotency_key: add an `Idempotency-Key` to each POST and PATCH (each request that is not idempotent) without
            one, the same on every attempt; the server has to support it. Or the name of another such header.
        buffer: bytes of a streamed body that are read before it is sent, so that it can be sent again; and bytes of a
            response's body that are read as a part of the attempt, if the client reads it. Default 1 MiB.
        body_timeout: seconds from a response's head to the end of its body. After that its reader gets `TimedOut`, and
            the circuit counts a failure. Default None.
        deadline_header: send the milliseconds that are left: True (`X-Deadline-Ms`), or a header's name.
        attempt_header: send the number of the attempt, from 1: True (`X-Attempt`), or a header's name.
        priority_header: send the `priority` of the request: True (`X-Priority`), or a header's name.
        nested: "once" (default): no retries if the function around has a Retry, or if an SDK marks its request as
            repeated by itself; "multiply": retries in any case.
        options: for the client library's own transport (`verify`, `http2`, `limits`, `proxy`, `uds`, ...).

    Only requests that are safe to repeat are sent more than once: those of an idempotent method (GET, HEAD, OPTIONS,
    TRACE, PUT, DELETE), those with an `Idempotency-Key`, and any request that provably never left. The result is the
    last response, or the last error. Rejections and `TimedOut` are exceptions of the client library, too.

    The options of a single request, in `extensions={"resilient": {...}}`: `"off": True`; `"idempotent": True` or
    `False`; `"idempotency_key": "..."`, for its own origin only; `"attempts"`: the most attempts, instead of the
    Retry's; `"deadline"`: seconds; `"key"`: instead of `by`; `"priority"`: "critical", "normal" or "sheddable".

    If the client reads the body (`client.get`), the body is a part of the attempt: the attempt is repeated if the body
    breaks off, and its Timeouts and deadlines bound the body. A total Timeout and a deadline also bound the rest beyond
    `buffer` bytes. A stream (`client.stream`) is returned with its head: a circuit learns from its end, and a permit of
    a Bulkhead or an AdaptiveLimit is released at once. A pipeline may serve several transports. Closing the transport
    also closes the one that sends, after the background calls of a Hedge have ended.

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
        priority_header: bool | str = False,
        nested: Nested = "once",
        **options: Any,
    ) -> None:
        if transport is not None and options:
            raise TypeError(f"give transport= or the options of a new one ({', '.join(sorted(options))}), not both")
        given = _validation.instance("pipeline", pipeline, Pipeline)
        if given is None:
            given = standard() if transport is not None else standard_for(**options)
        self._by = key_by(by)
        self._max_keys = _validation.count("max_keys", max_keys)
        self._idle = _validation.seconds("idle", idle)
        self._table = (by if isinstance(by, str) else "function", self._max_keys, self._idle)
        self._key_header = header_name("idempotency_key", idempotency_key, semantics.IDEMPOTENCY_HEADER)
        self._buffer = _validation.count("buffer", buffer, least=0)
        self._body_timeout = None if body_timeout is None else _validation.seconds("body_timeout", body_timeout)
        self.deadline_header = header_name("deadline_header", deadline_header, DEADLINE_HEADER)
        """The name of the header with the deadline; empty: none."""
        self.priority_header = header_name("priority_header", priority_header, PRIORITY_HEADER)
        """The name of the header with the priority; empty: none."""
        self._attempt_header = header_name("attempt_header", attempt_header, ATTEMPT_HEADER)
        if nested not in get_args(Nested):
            raise ValueError(f"nested must be one of {', '.join(get_args(Nested))}, got {nested!r}")
        self._once = nested == "once"
        if transport is not None:
            transport = checked(transport, self.library.module, is_async=isinstance(self, AsyncDelegatingTransport))
        self.transport: Inner = self._new_transport(**options) if transport is None else transport
        repair_pool(self.transport)
        self._bytes = self.library.streams.bytes
        self._limit = attempt_limit(given)
        self.given = given
        """The pipeline that the transport was made with."""
        self.options: dict[str, Any] = {
            **{"by": by, "max_keys": max_keys, "idle": idle, "idempotency_key": idempotency_key, "buffer": buffer},
            **{"body_timeout": body_timeout, "deadline_header": deadline_header, "attempt_header": attempt_header},
            **{"priority_header": priority_header, "nested": nested},
        }
        """The transport's own options, from which `resilient.lab` makes another one like it."""
        own = isinstance(given.classify, HttpClassifier) or given.classify is DEFAULT
        headers = self.deadline_header or self._attempt_header or self.priority_header
        self._simple = own and not (self._body_timeout or headers)
        self.pipeline = self._fitted(given, outermost=True)
        """The pipeline in use, with one circuit for each key."""
        self._total, self._repeats = total_limit(given)
        self._senders: dict[tuple[bool, bool, Proof | None], Callable[[Any], Any]] = {}
        self._send_repeatable, self._send_repeatable_streamed = (
            self._sender(False, *FREELY_REPEATABLE),
            self._sender(True, *FREELY_REPEATABLE),
        )

    def _new_transport(self, **options: Any) -> Inner:
        raise NotImplementedError

    def _attempt(self, context: PipelineContext) -> Attempt:
        """Return the function of an attempt whose response is streamed.

        It looks the inner transport's method up each time, as `_reading_attempt` does, because mocks, recorders and
        tracers replace that method after the client was made, and restore it later.
        """
        raise NotImplementedError

    def _reading_attempt(self, context: PipelineContext) -> Attempt:
        """Return the function of an attempt that reads the body of its response."""
        raise NotImplementedError

    def _unguarded(self) -> Callable[[Any], Any]:
        """Return a function that sends a request without the pipeline."""
        raise NotImplementedError

    # -- pipelines for each kind of request -------------------------------------------------------------------------

    def _fitted(self, pipeline: Pipeline, *, outermost: bool = False) -> Pipeline:
        """Return a pipeline with one circuit and one adaptive limit for each key, and with a classifier for HTTP unless
        it has one. It takes the place of `pipeline` in the registry."""
        policies = tuple(self._fitted_policy(policy) for policy in pipeline.policies)
        if outermost and isinstance(self.transport, HttpChaos):
            policies = (*policies, self.transport.witness())
        given = self.library.classifier() if pipeline.classify is DEFAULT else pipeline.classify
        classifier = given if isinstance(given, TransportClassifier) else TransportClassifier(given)
        lifecycle, options = pipeline._context.lifecycle, pipeline._context.call_options
        derived = pipeline._derive(
            policies,
            classifier,
            self._reading_attempt if outermost else None,
            lifecycle
            if isinstance(lifecycle, ResponseLifecycle)
            else ResponseLifecycle(self.library.streams, classifier.given),
            options if isinstance(options, RequestOptions) else RequestOptions(once=self._once),
        )
        if derived.name:
            register(derived)
        return derived

    def _fitted_policy(self, policy: Policy) -> Policy:
        """Return the policy that keeps one circuit, limit or latency for each key. It is kept with `policy`, under the
        transport's options. A function `by` that is made anew for each client finds the circuits of the last one."""
        if isinstance(policy, Pipeline):
            return self._fitted(policy)
        key, max_keys, idle = self._by, self._max_keys, self._idle
        if (isinstance(policy, CircuitBreaker) and not policy._stored) or isinstance(policy, AdaptiveLimit):

            def keyed() -> Keyed:
                return Keyed(policy.clone, key=key, max_keys=max_keys, idle=idle, name=policy.name)

            return policy._per_key(self._table, keyed)._found_by(key)
        if isinstance(policy, Hedge) and policy._observes_all_alike:
            return policy._per_key(self._table, lambda: policy._by(key, max_keys))._found_by(key)
        if isinstance(policy, Fallback):
            return policy._answering(self.library.answer)
        return policy

    def _sender(self, streamed: bool, overlapping: bool, proof: Proof | None) -> Callable[[Any], Any]:
        """Return the function that sends requests of one kind.

        Args:
            streamed: whether the user reads the body of the response.
            overlapping: whether attempts may overlap; False: without policies that repeat, except Retry.
            proof: the proof that a Retry needs before it repeats a request; None: none.
        """
        known = self._senders.get((streamed, overlapping, proof))
        if known is None:
            attempt = self._attempt if streamed else self._reading_attempt
            pipeline: Pipeline | None = self.pipeline
            if (overlapping, proof) != FREELY_REPEATABLE:
                pipeline = self._without(self.pipeline, proof, attempt)
            elif streamed:
                pipeline = self.pipeline._derive(self.pipeline.policies, self.pipeline.classify, attempt)
            known = self._unguarded() if pipeline is None else pipeline(self._unguarded())
            self._senders[streamed, overlapping, proof] = known
        return known

    def _without(self, pipeline: Pipeline, proof: Proof | None, attempt: Any = None) -> Pipeline | None:
        """Return `pipeline` without policies that repeat, except Retry, which then needs `proof`. None: no policy is
        left."""
        kept: list[Policy] = []
        for policy in pipeline.policies:
            left: Policy | None = self._without(policy, proof) if isinstance(policy, Pipeline) else policy
            if left is not None and (isinstance(left, Pipeline | Retry) or left.facts.runs == 1):
                kept.append(left)
        classifier = pipeline.classify
        assert isinstance(classifier, TransportClassifier)
        if proof is not None:
            classifier = classifier.for_unsafe_requests(self.library.proofs[proof])
        return pipeline._derive(tuple(kept), classifier, attempt) if kept else None

    # -- one request ------------------------------------------------------------------------------------------------

    async def _prepare(
        self, request: Any, streamed: bool, runtime: Runtime, stack: ExitStack
    ) -> tuple[Callable[[Any], Any], Any]:
        """Prepare a request: apply its options, and make its body ready to be sent again. Its deadline and priority
        hold until the end of `stack`, which includes reading a body that is a stream.

        Returns the function that sends the request, and the request to send.
        """
        if not isinstance(request, self.library.module.Request):
            raise wrong_library(request, self, self.library.module)
        options = options_of(request)
        name = self._key_header or semantics.IDEMPOTENCY_HEADER
        key, idempotent = options.get("idempotency_key"), request.method in IDEMPOTENT_METHODS
        if options.get("off"):
            return self._unguarded(), with_key(request, name, key)
        if "deadline" in options:
            stack.enter_context(deadline(options["deadline"]))
        if "priority" in options:
            stack.enter_context(priority(options["priority"]))
        if key is None and self._key_header and not idempotent and name not in request.headers:
            key = semantics.new_idempotency_key()
        repeatable = options.get("idempotent")
        if repeatable is None:
            repeatable = idempotent or key is not None or name in request.headers
        limit = None if isinstance(request.stream, self._bytes) else self._body_deadline(runtime)
        overlapping, resendable = await make_ready(
            request, self.library.streams, self._buffer if repeatable else None, runtime, limit
        )
        if repeatable and isinstance(limit, RequestDeadline):  # reading the body has taken a part of the total
            stack.callback(let_go, hold(limit))
        send = self._sender(streamed, overlapping and repeatable, None if repeatable else "unsent")
        if not resendable:
            send = self._sender(streamed, False, "untouched")
        request = with_key(request, name, key)
        if limit is not None and runtime is THREADS and not resendable:
            request = variation(request, request.extensions, {})
            request.stream = self.library.streams.time_limited(request.stream, limit)
        return send, request

    def _body_deadline(self, runtime: Runtime) -> Deadline | None:
        """Return the deadline of a request whose body is a stream: the current one, or the pipeline's total from now
        on, whichever is earlier."""
        limit = holding()
        if self._total is not None and (limit is None or runtime.now() + self._total < limit.at):
            limit = RequestDeadline(runtime.now() + self._total, self._total)
        return limit

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _full_attempt(
        self,
        call: Call,
        context: PipelineContext,
        handle: Callable[[Any], Coroutine[Any, Any, Any]],
        streamed: bool,
        runtime: Runtime,
    ) -> Any:
        """Send one attempt with all its options: time limits, headers, the limit of the body. Returns the response once
        its head is there."""
        request, begin, headers = call.args[0], runtime.now(), {}
        own = limits = {**NO_LIMITS, **request.extensions.get("timeout", {})}
        if call.deadline is not None:
            left = call.deadline - begin
            if left <= 0:
                raise self._out_of_time(call, 0.0, None)
            limits = {phase: nearer(limit, left) for phase, limit in limits.items()}
        if self.deadline_header and (left_of_all := remaining()) is not None:
            headers[self.deadline_header] = str(int(left_of_all * 1000))
        if self._attempt_header:
            headers[self._attempt_header] = str(call.attempt)
        if self.priority_header:
            headers[self.priority_header] = current_priority()
        try:
            response = await handle(variation(request, {**request.extensions, "timeout": limits}, headers))
        except self.library.module.TimeoutException as error:
            now = runtime.now()
            if call.deadline is None or now < call.deadline:
                raise
            raise self._out_of_time(call, now - begin, error) from error
        streams, seconds = self.library.streams, self._body_timeout
        if streams.is_open(response):
            if context.on_result(call, response).kind == "success" if streamed else runtime is not THREADS:
                # The attempt is over, or its Timeout ends it as well: the client's own read timeout applies again.
                limits["read"] = own["read"]
            if seconds is not None:
                limits["read"] = nearer(limits["read"], seconds)
                limit = streams.limit(runtime.now() + seconds, seconds)
                response.stream = streams.bounded(response.stream, limit)
        return response

    def _bound_body(self, call: Call, begin: float | None, response: Any) -> None:
        """Bound the rest of a body, which the attempt has not read, by the current deadline and by a total Timeout."""
        streams, limit = self.library.streams, inherited()
        at = inf if limit is None else limit.at
        if not self._repeats and call.deadline is not None:  # its Timeout is for the whole request
            at = min(at, call.deadline)
        if at < inf:
            seconds = max(0.0, at - (call.begin().now() if begin is None else begin))
            response.stream = streams.bounded(response.stream, streams.limit(at, seconds, evidence=False))

    def _out_of_time(self, call: Call, seconds: float, error: Exception | None) -> TimedOut:
        """Return the error of an attempt that has passed its deadline. The error is evidence if the attempt had its
        whole Timeout, and did not wait for a connection of the pool."""
        asked = not isinstance(error, self.library.module.PoolTimeout)
        key = key_of(call, self.pipeline._context)
        return TimedOut(
            f"the {seconds:.3g} s that were left for the request{f' to {key}' if key else ''} are over",
            pipeline=self.pipeline.name,
            policy="deadline",
            key=key,
            seconds=seconds,
            evidence=asked and self._limit is not None and seconds >= self._limit * NEARLY,
        )
