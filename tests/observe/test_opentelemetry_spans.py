"""Calls and attempts as spans: the tree, what it says about each attempt, and what it leaves out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from resilient import (
    Bulkhead,
    Chaos,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    Timeout,
)
from resilient.events import CallEnded
from resilient.faults import Errors
from resilient.observe.opentelemetry import trace_calls
from resilient.observe.opentelemetry.span_events import NAMES
from tests.observe.span_trees import Traces
from tests.observe.traced_functions import named, returns, scripted
from tests.recorders import EventRecorder

SECRET = "password=hunter2"

SHOWN = ("attempt", "copy", "reason", "cause", "ending", "verdict", "error.type", "requests")


@pytest.mark.virtual_time
async def test_a_retried_hedged_failing_call_is_one_tree() -> None:
    """First a failure that a hedge repeats at once, which fails, too; then a late copy, which loses to another one."""
    users = Pipeline(Retry(attempts=3, wait=1), Hedge(0.5), Bulkhead(5), name="users")
    function = scripted(ConnectionError(SECRET), ValueError(SECRET), "hang", 0.1)
    with Traces(users) as traces:
        assert await users.call(function) == "Ada"
        await users.aclose()
        assert not traces.open
        assert traces.lines(*SHOWN) == [
            "users get_user success success 4",
            "  attempt get_user ERROR 1 failure failure ConnectionError",
            "  attempt get_user ERROR 1 2 hedge failure failure failure ValueError",
            "  attempt get_user 2 retry ConnectionError cancelled nothing",
            "  attempt get_user 2 2 hedge delay success success",
        ]
        call, first, second, third, fourth = traces.spans
        assert {span.kind for span in traces.spans} == {SpanKind.INTERNAL}
        assert [[link.context for link in span.links] for span in (first, second, third, fourth)] == [
            [],
            [first.context],
            [],
            [third.context],
        ]
        assert call.attributes is not None
        assert call.attributes["code.function.name"] == "tests.observe.traced_functions.get_user"
        assert call.instrumentation_scope is not None
        assert call.instrumentation_scope.name == "resilient"
        assert [(event.name, dict(event.attributes or {})) for event in call.events] == [
            (
                "resilient.hedge",
                {"resilient.policy.name": "Hedge", "resilient.copy": 2, "resilient.reason": "failure"},
            ),
            (
                "resilient.retry",
                {
                    "resilient.policy.name": "Retry",
                    "resilient.attempt": 1,
                    "resilient.seconds": 1.0,
                    "error.type": "ConnectionError",
                },
            ),
            (
                "resilient.wait",
                {"resilient.policy.name": "Retry", "resilient.reason": "backoff", "resilient.seconds": 1.0},
            ),
            ("resilient.hedge", {"resilient.policy.name": "Hedge", "resilient.copy": 2, "resilient.reason": "delay"}),
            ("resilient.hedge.won", {"resilient.policy.name": "Hedge", "resilient.copy": 2, "resilient.copies": 2}),
        ]


async def test_spans_of_the_function_are_children_of_the_attempt_and_the_call_has_the_callers_parent() -> None:
    """The tree that a person reads: request, call, attempts, what each did."""
    users, failures = Pipeline(Retry(attempts=2, wait=0), name="users"), [OSError()]
    with Traces(users) as traces:

        @users
        async def load() -> None:
            with traces.tracer.start_as_current_span("query"):
                await asyncio.sleep(0)
            if failures:
                raise failures.pop()

        with traces.tracer.start_as_current_span("request") as request:
            await load()
            assert trace.get_current_span() is request
        assert traces.lines() == [
            "request",
            f"  users {load.__qualname__.rpartition('.')[2]}",
            "    attempt load ERROR",
            "      query",
            "    attempt load",
            "      query",
        ]


ENDS: dict[str, tuple[Pipeline, Any, list[str]]] = {
    "success": (
        Pipeline(Retry(attempts=2), name="p"),
        lambda: returns(1),
        ["p get_user success success 1", "  attempt get_user 1 success success"],
    ),
    "a failure": (
        Pipeline(Retry(attempts=2, wait=0), name="p"),
        lambda: scripted(OSError(), OSError()),
        [
            "p get_user ERROR failure failure OSError 2",
            "  attempt get_user ERROR 1 failure failure OSError",
            "  attempt get_user ERROR 2 retry OSError failure failure OSError",
        ],
    ),
    "an error that is ignored": (
        Pipeline(Retry(attempts=2), name="p", classify=Classifier(ignore=LookupError)),
        lambda: scripted(KeyError()),
        ["p get_user failure nothing KeyError 1", "  attempt get_user 1 failure nothing KeyError"],
    ),
    "a result that is a failure": (
        Pipeline(Retry(attempts=2, wait=0), name="p", classify=Classifier(results=lambda result: result == "bad")),
        lambda: scripted("bad", "good"),
        [
            "p get_user success success 2",
            "  attempt get_user ERROR 1 failure failure result",
            "  attempt get_user 2 retry result success success",
        ],
    ),
    "a timeout": (
        Pipeline(Timeout(0.1), Retry(attempts=2), name="p"),
        lambda: scripted("hang"),
        [
            "p get_user ERROR timeout failure resilient.errors.TimedOut 1",
            "  attempt get_user ERROR 1 timeout failure resilient.errors.TimedOut",
        ],
    ),
    "an attempt that times out": (
        Pipeline(Retry(attempts=2, wait=0), Timeout(0.1), name="p"),
        lambda: scripted("hang"),
        [
            "p get_user success success 2",
            "  attempt get_user ERROR 1 timeout failure resilient.errors.TimedOut",
            "  attempt get_user 2 retry resilient.errors.TimedOut success success",
        ],
    ),
    "a fallback": (
        Pipeline(Fallback("cached"), name="p"),
        lambda: scripted(OSError()),
        ["p get_user success nothing 1", "  attempt get_user ERROR 1 failure failure OSError"],
    ),
}


@pytest.mark.parametrize(("pipeline", "function", "lines"), ENDS.values(), ids=ENDS)
@pytest.mark.virtual_time
async def test_spans_end_as_the_policies_judged(pipeline: Pipeline, function: Any, lines: list[str]) -> None:
    """Ending, verdict, `error.type` and status of the call and of each attempt; the call's are those of `CallEnded`."""
    recorder = EventRecorder(pipeline, CallEnded)
    with Traces(pipeline) as traces:
        await asyncio.gather(pipeline.call(function()), return_exceptions=True)
        assert traces.lines(*SHOWN) == lines
        assert not traces.open
        (ended,) = recorder.calls
        shown = traces.spans[0].attributes or {}
        assert (shown["resilient.ending"], shown["resilient.verdict"]) == (ended.ending, ended.verdict)
        assert shown["resilient.requests"] == ended.requests


async def test_a_refused_call_has_no_attempt() -> None:
    """Its caller has no answer, so it is an error; the circuit that it found open is an event."""
    users = Pipeline(CircuitBreaker(name="circuit"), name="users")
    users.policies[0].isolate()  # type: ignore[attr-defined]
    with Traces(users) as traces:
        with pytest.raises(CircuitOpen):
            await users.call(returns(1))
        assert traces.lines(*SHOWN) == ["users get_user ERROR rejected nothing resilient.errors.CircuitOpen 0"]
        (refusal,) = [event for event in traces.spans[0].events if event.name == "resilient.rejection"]
        assert dict(refusal.attributes or {}) == {
            "resilient.policy.name": "circuit",
            "resilient.reason": "isolated",
        }


async def test_a_circuit_that_the_call_opens_is_an_event_of_its_span() -> None:
    """Not of a call of another pipeline around it."""
    inner = Pipeline(CircuitBreaker(fail_max=1, name="circuit"), name="inner")
    outer = Pipeline(Bulkhead(1), name="outer")

    @outer
    async def request() -> None:
        with pytest.raises(OSError):
            await inner.call(scripted(OSError()))

    with Traces() as traces:
        await request()
        (opened,) = [
            (span.name, dict(event.attributes or {}))
            for span in traces.spans
            for event in span.events
            if event.name == "resilient.circuit.transition"
        ]
        assert opened[0] == "inner get_user"
        assert opened[1]["resilient.state"] == "open"
        assert opened[1]["resilient.state.old"] == "closed"


@pytest.mark.filterwarnings("ignore:pipeline 'outer'.*their attempts multiply")
async def test_nested_pipeline_has_a_span_between_the_call_and_its_attempts() -> None:
    """Its policies' events are on it."""
    inner = Pipeline(Retry(attempts=2, wait=0), name="inner")
    outer = Pipeline(Retry(attempts=2, wait=0), inner, name="outer")
    with Traces() as traces:
        assert await outer.call(scripted(OSError(), OSError(), ValueError())) == "Ada"
        assert traces.lines("attempt", "reason", "cause") == [
            "outer get_user",
            "  inner get_user ERROR",
            "    attempt get_user ERROR 1",
            "    attempt get_user ERROR 2 retry OSError",
            "  inner get_user",
            "    attempt get_user ERROR 3 retry OSError",
            "    attempt get_user 4 retry ValueError",
        ]
        events = [[event.name for event in span.events if event.name == "resilient.retry"] for span in traces.spans]
        assert [len(each) for each in events] == [1, 1, 0, 0, 1, 0, 0]


async def test_a_call_has_one_span_although_it_is_traced_twice() -> None:
    """For its pipeline, and for all."""
    users = Pipeline(Retry(attempts=2), name="users")
    with Traces() as traces:
        stop = trace_calls(users, tracer_provider=traces.provider)
        await users.call(returns(1))
        stop()
        assert traces.lines() == ["users get_user", "  attempt get_user"]


async def test_messages_of_errors_are_recorded_only_on_request() -> None:
    """They may quote what was sent: by default an exception has its type, and nothing else."""
    users = Pipeline(Retry(attempts=2, wait=0), name="users")
    for messages in (False, True):
        with Traces(users, messages=messages) as traces:
            with pytest.raises(ConnectionError):
                await users.call(scripted(ConnectionError(SECRET), ConnectionError(SECRET)))
            text = "".join(span.to_json() for span in traces.spans)
            assert (SECRET in text) is messages
            for span in traces.spans:
                (recorded,) = [event for event in span.events if event.name == "exception"]
                assert recorded.attributes is not None
                assert recorded.attributes["exception.type"] == "ConnectionError"
                assert ("exception.message" in recorded.attributes) is messages
                assert span.status.description is None


async def test_tracing_ends_when_it_is_stopped() -> None:
    """A second stop has no effect; a running call still ends its span."""
    users = Pipeline(Retry(attempts=2), name="users")
    with Traces() as traces:
        stop = trace_calls(users, tracer_provider=traces.provider)
        entered, leave = asyncio.Event(), asyncio.Event()

        @users
        async def load() -> None:
            entered.set()
            await leave.wait()

        running = asyncio.create_task(load())
        await entered.wait()
        stop()
        traces.__exit__()
        stop()
        leave.set()
        await running
        await load()
        assert not traces.open
        assert not users.listeners


async def test_an_unsampled_call_records_nothing_and_its_children_are_unsampled_too() -> None:
    """Its attempts have no span of their own."""
    users = Pipeline(Retry(attempts=2), name="users")
    inside = []
    with Traces(users, sampler=ALWAYS_OFF) as traces:

        @users
        async def load() -> None:
            inside.append(trace.get_current_span())
            with traces.tracer.start_as_current_span("query"):
                pass

        await load()
        assert not traces.spans
        (span,) = inside
        assert not span.is_recording()
        assert span.get_span_context().is_valid
        assert not trace.get_current_span().get_span_context().is_valid


def test_bad_input_gets_a_clear_error() -> None:
    """It names the value, and what would be right."""
    with pytest.raises(TypeError, match="pipeline must be a Pipeline or None, got 'users'"):
        trace_calls("users")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tracer_provider must be a TracerProvider or None, got 5"):
        trace_calls(tracer_provider=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="messages"):
        trace_calls(messages="no")  # type: ignore[arg-type]


async def test_a_hundred_calls_at_once_have_trees_of_their_own() -> None:
    """Each call its attempts and its events, however they mix."""
    users = Pipeline(Retry(attempts=3, wait=0), Bulkhead(7, queue=100), name="users")
    with Traces(users) as traces:

        async def one(number: int) -> None:
            failures = [OSError()] * (number % 3)

            async def load() -> None:
                with traces.tracer.start_as_current_span(f"query {number}"):
                    await asyncio.sleep(0)
                if failures:
                    raise failures.pop()

            await users.call(named(load, f"load_{number}"))

        await asyncio.gather(*(one(number) for number in range(100)))
        assert not traces.open
        for number in range(100):
            (call,) = traces.named(f"users load_{number}")
            assert call.context is not None
            attempts = traces.named(f"attempt load_{number}")
            assert len(attempts) == number % 3 + 1
            assert {each.parent.span_id for each in attempts if each.parent} == {call.context.span_id}
            queries = traces.named(f"query {number}")
            assert [each.parent.span_id for each in queries if each.parent] == [
                each.context.span_id for each in attempts if each.context
            ]
            assert sum(event.name == "resilient.retry" for event in call.events) == number % 3


async def test_chaos_and_shadows_are_events() -> None:
    """A fault that was injected; a refusal that did not happen."""
    users = Pipeline(Bulkhead(1, queue=0, shadow=True), Chaos(Errors(error=OSError), enabled=True), name="users")
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await leave.wait()

    held = Pipeline(users.policies[0], name="users")
    with Traces(users) as traces:
        holding = asyncio.create_task(held.call(hold))
        await entered.wait()
        with pytest.raises(OSError):
            await users.call(returns(1))
        leave.set()
        await holding
        found = {event.name: dict(event.attributes or {}) for event in traces.spans[0].events}
        assert found["resilient.fault"]["resilient.reason"] == "errors"
        assert found["resilient.rejection"]["resilient.shadow"] is True


def test_every_kind_of_event_that_a_span_shows_is_named_once() -> None:
    """Names are distinct, and begin with the library's namespace."""
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(name.startswith("resilient.") for name in NAMES.values())
