"""The metrics of all pipelines: one table of names, and a function that reads their values now.

Pipelines and policies count for themselves (`resilient.events.counters`); an exporter reads when it is asked for its
metrics, so nothing of it is called while calls run. Durations are recorded only while an exporter wants them
(`record_durations`).

A name of the table is the name in OpenTelemetry. `prometheus_name` derives the name in Prometheus. Labels:

    pipeline    the name of the pipeline; "unnamed" for all that have none; "other" for those beyond 1,000 names
    policy      the name of the policy in it
    ending      how a call ended for its caller: success, failure, timeout, rejected, cancelled
    verdict     what that says about the dependency: success, failure, nothing (see `events.CallEnded`)
    reason      a code of few values
    key         only on request: the key of a `Keyed` (an origin, a tenant); the keys beyond the limit are "other"

A pipeline that is switched off is not counted. Policies that pipelines share are counted for each of them.
"""

from __future__ import annotations

import logging
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from resilient import _validation
from resilient.core.context import Mode, contexts_by_name
from resilient.core.policy import Policy
from resilient.events import channel, counters
from resilient.observe.gauges import gauges_of
from resilient.pipeline import Pipeline
from resilient.stats.durations import DurationHistogram

__all__ = [
    "TABLE",
    "Exemplar",
    "Histogram",
    "Metric",
    "Series",
    "plain",
    "prometheus_name",
    "read",
    "record_durations",
]

_log = logging.getLogger("resilient")


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: in OpenTelemetry, as "resilient.calls".
        kind: a counter only grows; a gauge is the value now; a histogram has durations since the start.
        unit: of UCUM: "s", "1", or a word in braces for what is counted.
        help: one sentence.
        labels: their names.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...]


_POLICY = "pipeline", "policy"
_REASON = "pipeline", "policy", "reason"
_ENDING = "pipeline", "ending", "verdict"


def _counter(name: str, unit: str, text: str, labels: tuple[str, ...]) -> Metric:
    return Metric(f"resilient.{name}", "counter", unit, text, labels)


def _gauge(name: str, unit: str, text: str, labels: tuple[str, ...] = _POLICY) -> Metric:
    return Metric(f"resilient.{name}", "gauge", unit, text, labels)


TABLE: tuple[Metric, ...] = (
    _counter("calls", "{call}", "Calls that have ended, by how they ended for their caller.", _ENDING),
    _counter("attempts", "{attempt}", "Attempts that have ended: calls of the guarded function itself.", _ENDING),
    _counter("rejections", "{call}", "Calls and attempts that a policy refused.", _REASON),
    _counter("retries", "{retry}", "Further attempts that a Retry made.", _POLICY),
    _counter("retries.ended", "{call}", "Calls whose retries ended without success.", _REASON),
    _counter("waits", "{wait}", "Waits that have ended, in queues and between attempts.", _REASON),
    _counter("wait.time", "s", "Seconds that calls have waited, in queues and between attempts.", _REASON),
    _counter("hedges", "{request}", "Further copies that a Hedge started.", _REASON),
    _counter("hedges.won", "{request}", "Further copies of a Hedge whose outcome the caller got.", _POLICY),
    _counter("timeouts", "{call}", "Calls and attempts that a Timeout or a deadline ended.", _POLICY),
    _counter("fallbacks", "{call}", "Calls that a Fallback answered.", _POLICY),
    _counter("budget.exhausted", "{request}", "Extra requests for which a budget had no token.", _REASON),
    _counter("circuit.transitions", "{transition}", "Changes of circuits, by their new state.", (*_POLICY, "state")),
    _counter("limit.changes", "{change}", "New limits that an AdaptiveLimit found.", _POLICY),
    _counter("faults", "{fault}", "Faults that chaos injected.", _REASON),
    _counter("shadow.actions", "{call}", "What policies in shadow mode would have done.", _REASON),
    _gauge("calls.in_flight", "{call}", "Calls in flight now.", ("pipeline",)),
    _gauge("pipeline.mode", "{pipeline}", "1 for the mode that holds now, 0 for the others.", ("pipeline", "mode")),
    _gauge("circuit.state", "{circuit}", "Circuits in this state now.", (*_POLICY, "state")),
    _gauge("circuit.failure_rate", "1", "Share of failures in the window; of several circuits the highest."),
    _gauge("permits.in_use", "{permit}", "Permits in use now."),
    _gauge("permits.limit", "{permit}", "Permits that there are now."),
    _gauge("queue.length", "{call}", "Calls that wait for a permit or a token now."),
    _gauge("queue.limit", "{call}", "Places in the queue."),
    _gauge("tokens", "{token}", "Tokens in the bucket of a RateLimit now."),
    _gauge("budget.tokens", "{token}", "Tokens for extra requests now; of several dependencies the fewest."),
    _gauge("hedge.delay", "s", "Seconds after which a Hedge sends the next copy; of several the longest."),
    _gauge("stragglers", "{call}", "Calls that still run although their caller no longer waits."),
    _gauge("keys", "{key}", "Keys that a Keyed keeps now."),
    _gauge("keys.hidden", "{key}", 'Keys without series of their own, summed in the series of the key "other".'),
    _gauge("pipelines.dropped", "{pipeline}", 'Names of pipelines that are summed as "other".', ()),
    Metric("resilient.call.duration", "histogram", "s", "Durations of calls, with all waits.", ("pipeline", "ending")),
    Metric("resilient.attempt.duration", "histogram", "s", "Durations of attempts.", ("pipeline", "ending")),
)
"""All metrics."""

GAUGES = frozenset(
    metric.name.removeprefix("resilient.")
    for metric in TABLE
    if metric.kind == "gauge" and metric.labels[:2] == _POLICY
)
"""The gauges of policies, which can have series for keys."""

_ATTEMPT_ENDINGS = ("success", "success"), ("failure", "failure"), ("timeout", "failure"), ("cancelled", "nothing")
USUAL_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "calls": (*_ATTEMPT_ENDINGS, ("rejected", "nothing")),
    "attempts": _ATTEMPT_ENDINGS,
}
"""Endings that every pipeline has as series from the start, with 0: a rate sees only what comes after the first value
of a series. For the same reason every circuit has its transitions."""

MOST = 2**63 - 1
"""The greatest whole number of OpenTelemetry's protocol."""

_METRICS = {metric.name.removeprefix("resilient."): metric for metric in TABLE}

_COMBINED: dict[str, Callable[[float, float], float]] = {
    "circuit.failure_rate": max,
    "hedge.delay": max,
    "budget.tokens": min,
}
"""How the gauges of several policies of one name become one; those that are not here are summed."""


class Exemplar(NamedTuple):
    """A call as an example of its bucket: labels (a trace id), seconds, and the wall-clock time (`time.time()`)."""

    labels: dict[str, str]
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations since the start of the process.

    Attributes:
        count, sum: the number of durations, and their sum in seconds.
        buckets: the count of each bucket that is not empty; bucket `i` counts durations in
            `(2**(i/32), 2**((i+1)/32)]` seconds (OpenTelemetry's exponential histogram of scale 5).
        exemplars: the latest example of a bucket.
    """

    count: int
    sum: float
    buckets: dict[int, int]
    exemplars: dict[int, Exemplar]


class Series(NamedTuple):
    """One value of a metric. `labels`: the values of the metric's labels, in their order."""

    labels: tuple[str, ...]
    value: int | float | Histogram


def prometheus_name(metric: Metric) -> str:
    """The name of a metric in Prometheus: "resilient.call.duration" is `resilient_call_duration_seconds`, and
    "resilient.calls" is `resilient_calls_total`."""
    name = metric.name.replace(".", "_")
    if metric.unit == "s":
        name += "_seconds"
    if metric.unit == "1":
        name += "_ratio"
    return f"{name}_total" if metric.kind == "counter" else name


def record_durations(
    *,
    attempts: bool = False,
    exemplar: Callable[[], Mapping[str, str] | None] | None = None,
    slow: float = math.inf,
) -> Callable[[], None]:
    """Record the durations of calls from now on, in all pipelines. Returns a function that ends it; they are recorded
    as long as anyone wants it.

    Args:
        attempts: record the durations of attempts, too.
        exemplar: returns labels for a call that failed or was slow (the id of its trace), or None. It is called on the
            path of these calls, in their context. An error of it is logged.
        slow: seconds from which a call that succeeded is an example, too. Default: none is.
    """
    if exemplar is not None:
        _validation.callback("exemplar", exemplar)
    if slow != math.inf:
        slow = _validation.seconds("slow", slow, zero=True)
    owner = object()
    channel.record_durations(owner, counters.Wanted(_validation.flag("attempts", attempts), exemplar, slow))
    return lambda: channel.record_durations(owner, None)


def read(*, keys: int = 0) -> dict[Metric, list[Series]]:
    """Read all metrics now, in the order of `TABLE`. Metrics without a value are left out.

    It may be called in any thread. The only code of users that it calls is that of their own policies (`snapshot`) and
    keys (hash, `repr`). If the gauges of a policy cannot be read, that is logged, and they are left out.

    Args:
        keys: the most keys of a `Keyed` whose gauges have series of their own: then the gauges of policies have one
            label more, `key` ("" for a policy without keys). Default 0: the gauges of all keys are summed.
    """
    _validation.count("keys", keys, least=0)
    found: defaultdict[str, dict[tuple[str, ...], Any]] = defaultdict(dict)
    for each in counters.all_counters():
        pipeline = _label(each.name)
        for (name, *labels), number in (*each.totals().items(), *each.sums().items()):
            place = (pipeline, *map(_label, labels))
            found[name][place] = found[name].get(place, 0) + number
        found["calls.in_flight"][pipeline,] = each.in_flight
        for name, endings in USUAL_ENDINGS.items():
            for usual in endings:
                found[name].setdefault((pipeline, *usual), 0)
        for name, durations in (("call", each.call_durations), ("attempt", each.attempt_durations)):
            for ending, histogram in durations.copy().items():
                found[f"{name}.duration"][pipeline, ending] = _histogram(histogram)
    found["pipelines.dropped"][()] = counters.dropped_names()
    for name, contexts in contexts_by_name().items():
        pipeline = _label(name)
        for mode in get_args(Mode):
            found["pipeline.mode"][pipeline, mode] = int(any(context.mode == mode for context in contexts))
        parts = {id(part): part for context in contexts for part in context.parts}  # a user's may not be hashable
        for policy in parts.values():
            if isinstance(policy, Policy) and not isinstance(policy, Pipeline):  # a nested one has a name of its own
                _add_gauges(found, pipeline, policy, keys)
    with_key = {name for name in GAUGES if keys}
    return {
        metric._replace(labels=(*metric.labels, "key")) if name in with_key else metric: [
            Series(labels, value) for labels, value in sorted(found[name].items())
        ]
        for name, metric in _METRICS.items()
        if found[name]
    }


def _add_gauges(found: dict[str, dict[tuple[str, ...], Any]], pipeline: str, policy: Policy, keys: int) -> None:
    """Add the gauges of a policy. Several policies of one name have one series."""
    kind = type(policy).__name__
    try:
        own = _label(policy.name)
        for name, key, labels, given in [*gauges_of(policy, keys)]:
            value = _number(given)
            if value is not None:
                place = (pipeline, own, *labels, _label(key)) if keys else (pipeline, own, *labels)
                before = found[name].get(place)
                combine: Callable[[Any, Any], Any] = _COMBINED.get(name, operator.add)
                found[name][place] = value if before is None else _number(combine(before, value))
            if name == "circuit.state":
                found["circuit.transitions"].setdefault((pipeline, own, *labels), 0)
    except Exception:
        if (pipeline, kind) not in _unreadable and len(_unreadable) < counters.MOST_NAMES:
            _unreadable.add((pipeline, kind))
            _log.exception("resilient: the gauges of a %s of %s cannot be read (logged once)", kind, pipeline)


_unreadable: set[tuple[str, str]] = set()
"""Names of pipelines, and classes of their policies, that could not be read."""


def _label(value: object) -> str:
    """The value of a label as text that can be encoded: a lone surrogate would break a whole export. (An attribute
    `name` may have been set to anything.)"""
    text = value if type(value) is str else _validation.legible(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _number(value: object) -> float | None:
    """A number that all systems can store: an integer of 64 bits, or a finite float. None for anything else, which a
    snapshot of a user's policy may have."""
    if isinstance(value, int):
        return max(-MOST, min(int(value), MOST))
    return float(value) if isinstance(value, float) and math.isfinite(value) else None


def _histogram(durations: DurationHistogram) -> Histogram:
    buckets, seconds, examples = durations.state()
    exemplars = {
        bucket: Exemplar({_label(name): _label(value) for name, value in labels.items()}, length, at)
        for bucket, (labels, length, at) in examples.items()
    }
    return Histogram(sum(buckets.values()), seconds, buckets, exemplars)


def plain(*, keys: int = 0) -> dict[str, dict[str, Any]]:
    """All metrics as plain data (see `resilient.registry.metrics`)."""
    return {
        metric.name: {
            "kind": metric.kind,
            "unit": metric.unit,
            "help": metric.help,
            "labels": list(metric.labels),
            "series": [
                {"labels": dict(zip(metric.labels, each.labels, strict=True)), **_plain_value(each.value)}
                for each in series
            ],
        }
        for metric, series in read(keys=keys).items()
    }


def _plain_value(value: float | Histogram) -> dict[str, Any]:
    if not isinstance(value, Histogram):
        return {"value": value}
    return {
        "count": value.count,
        "sum": value.sum,
        "buckets": {str(at): count for at, count in value.buckets.items()},
    }
