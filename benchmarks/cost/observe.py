"""The cost of being observed: what counters, exporters, listeners and spans add to a call of the stack of four.

The stack of `overhead` (Retry + Bulkhead + CircuitBreaker + Timeout) around a function that does nothing. *added* is
the difference to the same stack in the same round, in bare awaits:

- *nobody reads*: the counters, which are always on; beside a stack whose gate layer does not count.
- *durations of calls*, *of attempts*: what an exporter asks for: Prometheus with `register()`, or OpenTelemetry with
  `export_metrics()`. The exporter itself does nothing while calls run. It reads when it is scraped; that is the group
  of scrapes, with the time of one scrape of 1,000 pipelines.
- *a listener of CallEnded*: one listener of one kind of event.
- *spans*: two spans a call by `trace_calls`, in times of the same two spans by hand.

Beside them stands OpenTelemetry's SDK, called by hand around the same stack.

An exporter observes all pipelines of a process, so each group of rows is measured under its own exporter, and its base
is a pipeline that no exporter sees.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks.contenders import targets
from benchmarks.contenders.observers import instruments_by_hand, spans_by_hand, stack, uncounted_stack, unread_stack
from benchmarks.harness.measure import Plan, Subject, Timing, compare, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Bar, Column, Figure, Report
from resilient.events import CallEnded
from resilient.events.channel import hidden_pipelines

__all__ = ["run"]

QUICK = Plan(rounds=12, batch=0.004, processes=3)
FULL = Plan(rounds=12, batch=0.008, processes=7)
PIPELINES = 1_000
"""Pipelines of a scrape."""

COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("added_x", "added", "{:+,.2f}"),
    Column("added_low_x", "from", "{:+,.2f}"),
    Column("added_high_x", "to", "{:+,.2f}"),
    Column("ratio_x", "ratio", "{:,.2f}"),
    Column("ratio_low_x", "from", "{:,.2f}"),
    Column("ratio_high_x", "to", "{:,.2f}"),
    Column("call_ns", "ns", "{:,.0f}"),
    Column("scrape_ms", "scrape ms", "{:,.0f}"),
)

NO_READER, CALLS, ATTEMPTS, LISTENER, SPANS = (
    "nobody reads",
    "durations of calls are exported",
    "durations of calls and attempts are exported",
    "a listener of CallEnded",
    "spans of calls and attempts",
)
BARS = {
    NO_READER: Bar("added_x", 0.5),
    CALLS: Bar("added_x", 6),
    ATTEMPTS: Bar("added_x", 10),
    LISTENER: Bar("added_x", 9),
    SPANS: Bar("ratio_x", 1.3, against="by hand"),
}

Sample = dict[str, dict[str, Timing]]
"""The timings of one process: by group, then by row."""


def run(options: Options) -> Report:
    """Measure all groups in several processes, then scrapes in this one."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    with one_core() as core:
        samples = fresh(sample, plan.each(), options)
        figures = [figure for group in samples[0] for figure in _figures(group, [each[group] for each in samples])]
        figures += _scrapes()
    return Report("observe", COLUMNS, figures, conditions(plan, core))


def sample(plan: Plan) -> Sample:
    """Measure all groups in this process, one after the other."""
    return {
        NO_READER: _counted(plan),
        "Prometheus": _exported(plan, _prometheus),
        "OpenTelemetry": _exported(plan, _opentelemetry),
        LISTENER: _listened(plan),
        "OpenTelemetry's SDK by hand": _by_hand(plan),
        SPANS: _spans(plan),
    }


def _counted(plan: Plan) -> dict[str, Timing]:
    return _timed(plan, {"base": uncounted_stack()(targets.bare), NO_READER: unread_stack()(targets.bare)})


def _exported(plan: Plan, exporter: Callable[[str], Callable[[], None]]) -> dict[str, Timing]:
    found: dict[str, Timing] = {}
    for row, durations in ((CALLS, "calls"), (ATTEMPTS, "attempts")):
        stop = exporter(durations)
        timings = _timed(plan, {"base": unread_stack()(targets.bare), row: stack("exported")(targets.bare)})
        stop()
        found |= {row: timings[row], f"base of {row}": timings["base"]}
    return found


def _listened(plan: Plan) -> dict[str, Timing]:
    with hidden_pipelines():
        listened = stack("listened")
    listened.listen(_hear, CallEnded)
    return _timed(plan, {"base": unread_stack()(targets.bare), LISTENER: listened(targets.bare)})


def _by_hand(plan: Plan) -> dict[str, Timing]:
    base = unread_stack()(targets.bare)
    subjects = {name: guard(base) for name, guard in instruments_by_hand().items()}
    return _timed(plan, {"base": base, **subjects})


def _spans(plan: Plan) -> dict[str, Timing]:
    from opentelemetry.sdk.trace import TracerProvider

    from resilient.observe.opentelemetry import trace_calls

    provider = TracerProvider(shutdown_on_exit=False)
    traced, base = stack("spans"), unread_stack()(targets.bare)
    stop = trace_calls(traced, tracer_provider=provider)
    by_hand = spans_by_hand(provider.get_tracer("by hand"))(base)
    timings = _timed(plan, {"base": base, SPANS: traced(targets.bare), "by hand": by_hand})
    stop()
    return timings


def _hear(event: CallEnded) -> None:
    """The listener: it does nothing."""


def _prometheus(durations: str) -> Callable[[], None]:
    from prometheus_client import CollectorRegistry, generate_latest

    from resilient.observe.prometheus import register

    registry = CollectorRegistry()
    stop = register(registry, durations=durations)  # type: ignore[arg-type]
    generate_latest(registry)
    return stop


def _opentelemetry(durations: str) -> Callable[[], None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from resilient.observe.opentelemetry import export_metrics

    reader = InMemoryMetricReader()
    stop = export_metrics(MeterProvider([reader], shutdown_on_exit=False), durations=durations)  # type: ignore[arg-type]
    reader.get_metrics_data()
    return stop


def _timed(plan: Plan, functions: Mapping[str, Callable[[int], Any]]) -> dict[str, Timing]:
    """Time functions next to each other, as multiples of a bare await."""
    subjects = [Subject(name, function, True) for name, function in functions.items()]
    with asyncio.Runner() as runner:
        return compare(Subject("a bare await", targets.bare, True), subjects, plan, runner)


def _figures(group: str, samples: Sequence[Mapping[str, Timing]]) -> list[Figure]:
    timings = {name: Timing.pooled([each[name] for each in samples]) for name in samples[0]}
    figures = []
    for name, timing in timings.items():
        if name.startswith("base of ") or name == "a bare await":
            continue
        base = timings.get(f"base of {name}", timings.get("base"))
        values = timing.values()
        if name != "base" and base is not None:
            values |= timing.beyond(base).values("added_x")
        if name == SPANS:
            values |= _ratio(samples)
        shown = "the stack without it" if name == "base" else name
        figures.append(Figure(group, shown, values, BARS.get(name), ours=name in BARS))
    return figures


def _ratio(samples: Sequence[Mapping[str, Timing]]) -> dict[str, float]:
    """What our spans add, in times of what the spans by hand add, round by round."""
    rounds = []
    for each in samples:
        for ours, theirs, base in zip(
            each[SPANS].multiples, each["by hand"].multiples, each["base"].multiples, strict=True
        ):
            rounds.append(
                tuple((mine - none) / (hand - none) for mine, hand, none in zip(ours, theirs, base, strict=True))
            )
    return Timing(tuple(rounds), tuple(rounds)).multiple().values("ratio_x")


def _scrapes() -> list[Figure]:
    """The time of one scrape of many pipelines, each with calls of every ending."""
    from prometheus_client import CollectorRegistry, generate_latest

    from resilient.observe.metrics import read
    from resilient.observe.prometheus import register

    registry = CollectorRegistry()
    with ExitStack() as stops:
        stops.callback(register(registry))
        pipelines = [stack(f"pipeline {number}") for number in range(PIPELINES)]
        with asyncio.Runner() as runner:
            runner.run(_call_all(pipelines))
        readings = {"read()": read, "a scrape in the text format": functools.partial(generate_latest, registry)}
        return [
            Figure(f"{PIPELINES:,} pipelines", name, {"scrape_ms": _milliseconds(reading)})
            for name, reading in readings.items()
        ]


async def _call_all(pipelines: Sequence[Any]) -> None:
    for pipeline in pipelines:
        await pipeline.call(targets.bare, 1)


def _milliseconds(function: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return round(sorted(times)[len(times) // 2] * 1000, 1)
