"""What observes the calls of `observe`: the library's own figures, exporters, listeners and spans; and the same by hand
with OpenTelemetry's SDK, as its documentation shows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.events.channel import hidden_pipelines
from resilient.pipeline import gate_layer

__all__ = ["instruments_by_hand", "spans_by_hand", "stack", "uncounted_stack", "unread_stack"]

Function = Callable[[int], Awaitable[int]]

LONG = 600.0
"""Seconds of each timeout. None expires during a measurement."""


def stack(name: str) -> Pipeline:
    """The stack of four, as in `overhead`."""
    return Pipeline(Retry(), Bulkhead(50), CircuitBreaker(window_calls=100), Timeout(LONG), name=name)


def unread_stack() -> Pipeline:
    """A stack of four that counts, while no exporter wants durations and nothing listens: pipelines that are hidden are
    left out when others in the process are observed."""
    with hidden_pipelines():
        return stack("unread")


def uncounted_stack() -> Callable[[Function], Function]:
    """A decorator of a stack of four without counters: its gate layer only knows how many calls are in flight, as is
    needed to close the pipeline, by an increment and a decrement."""

    def guard(function: Function) -> Function:
        with ExitStack() as patches:
            patches.enter_context(_uncounted())
            pipeline = unread_stack()
            return pipeline(function)

    return guard


@contextmanager
def _uncounted() -> Iterator[None]:
    """Gate layers that are generated here do not count."""
    outermost, generated = gate_layer.outermost, gate_layer._outermost

    def source(*args: Any, **kwargs: Any) -> list[str]:
        lines = outermost(*args, **kwargs)
        found = sum("count.begun += 1" in line or "count.at_once += 1" in line for line in lines)
        assert found >= 2, "the counters have other names now"
        return [
            line.replace("count.begun += 1", "count.ended += 1").replace("count.at_once += 1", "count.ended -= 1")
            for line in lines
        ]

    gate_layer.outermost = source
    gate_layer._outermost = generated.__wrapped__  # else a gate layer of the same shape would be found again
    try:
        yield
    finally:
        gate_layer.outermost, gate_layer._outermost = outermost, generated


# -- OpenTelemetry by hand -------------------------------------------------------------------------------------------


def instruments_by_hand() -> dict[str, Callable[[Function], Function]]:
    """Decorators that record each call by OpenTelemetry's SDK, by name. Instruments are made once, and attributes are a
    dictionary for each call. There is one reader, which collects nothing meanwhile.

    "three instruments": what Polly records for a call with one attempt: a counter, the duration of the attempt, the
    duration of the call.
    """
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    meter = provider.get_meter("by-hand")
    calls = meter.create_counter("calls", "{call}", "Calls by ending.")
    attempt_duration = meter.create_histogram("attempt.duration", "s", "Durations of attempts.")
    call_duration = meter.create_histogram("call.duration", "s", "Durations of calls.")

    def recorded(record: Callable[[float, dict[str, str]], None]) -> Callable[[Function], Function]:
        def guard(function: Function) -> Function:
            async def guarded(x: int) -> int:
                ending, begin = "failure", perf_counter()
                try:
                    result = await function(x)
                    ending = "success"
                    return result
                finally:
                    record(perf_counter() - begin, {"pipeline.name": "users", "ending": ending})

            return guarded

        return guard

    def three(seconds: float, attributes: dict[str, str]) -> None:
        attempt_duration.record(seconds, {**attributes, "attempt.number": 1})
        call_duration.record(seconds, attributes)
        calls.add(1, attributes)

    return {
        "a counter": recorded(lambda seconds, attributes: calls.add(1, attributes)),
        "a histogram": recorded(call_duration.record),
        "three instruments": recorded(three),
    }


def spans_by_hand(tracer: Any) -> Callable[[Function], Function]:
    """A decorator that makes a span for the call and one for its attempt by the SDK, with the attributes that ours
    have."""
    call = {"resilient.pipeline.name": "spans", "code.function.name": "benchmarks.bare"}
    attempt = {"resilient.pipeline.name": "spans", "resilient.attempt": 1}
    ended = {"resilient.ending": "success", "resilient.verdict": "success"}

    def guard(function: Function) -> Function:
        async def guarded(x: int) -> int:
            with tracer.start_as_current_span("spans bare", attributes=call) as outer:
                with tracer.start_as_current_span("attempt bare", attributes=attempt) as inner:
                    result = await function(x)
                    inner.set_attributes(ended)
                outer.set_attributes({**ended, "resilient.requests": 1})
                return result

        return guarded

    return guard
