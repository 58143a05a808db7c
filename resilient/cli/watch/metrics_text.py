"""Reads metrics of pipelines in the text format of Prometheus, and makes rates and latencies of two readings.

The metrics are those of `resilient.observe.prometheus`, also behind an OpenTelemetry collector or after a federation:
series that differ in further labels (instance, process) are added.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient._validation import legible
from resilient.cli.watch.reading import Permits, PipelineState, Reading, SourceError, printable
from resilient.observe.bad_calls import bad_share

__all__ = ["MetricsText", "Totals", "totals_of"]

Counts = defaultdict[str, float]


def _counts() -> Counts:
    return defaultdict(float)


@dataclass(slots=True)
class Totals:
    """What the text says about one pipeline: counters, and gauges by policy.

    Attributes:
        calls: by ending and verdict. buckets: calls by the upper bound of their bucket in seconds, cumulative.
        retries, hedges: whole numbers so far; None: no such series.
    """

    modes: Counts = field(default_factory=_counts)
    calls: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    buckets: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))
    circuits: Counts = field(default_factory=_counts)
    in_flight: float | None = None
    retries: float | None = None
    hedges: float | None = None
    in_use: Counts = field(default_factory=_counts)
    limits: Counts = field(default_factory=_counts)
    queued: Counts = field(default_factory=_counts)
    tokens: dict[str, float] = field(default_factory=dict)
    rate_limits: dict[str, float] = field(default_factory=dict)


def totals_of(text: str) -> dict[str, Totals]:
    """Return the totals of each pipeline in a text of metrics.

    Raises `SourceError` if it is no such text, or has no metric of resilient; `ImportError` without prometheus-client.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ModuleNotFoundError:
        raise ImportError('metrics need another package: pip install "resilient-middleware[prometheus]"') from None
    found: dict[str, Totals] = defaultdict(Totals)
    try:
        for family in text_string_to_metric_families(text):
            if family.name.startswith("resilient_"):
                _add(found, family.samples)
    except (ValueError, KeyError, IndexError) as error:
        raise SourceError(f"no metrics in the text format of Prometheus: {printable(str(error))}", final=True) from None
    if not found:
        raise SourceError(
            "no metric whose name begins with resilient_: the process has no exporter of them", final=True
        )
    return dict(found)


def _add(found: dict[str, Totals], samples: Iterable[Any]) -> None:
    for sample in samples:
        labels: Mapping[str, str] = sample.labels
        value = float(sample.value)
        if "pipeline" not in labels or not math.isfinite(value):
            continue
        totals = found[labels["pipeline"]]
        policy = labels.get("policy", "")
        match sample.name:
            case "resilient_calls_total":
                totals.calls[labels.get("ending", ""), labels.get("verdict", "")] += value
            case "resilient_call_duration_seconds_bucket":
                totals.buckets[float(labels.get("le", "inf"))] += value
            case "resilient_calls_in_flight":
                totals.in_flight = (totals.in_flight or 0) + value
            case "resilient_pipeline_mode":
                totals.modes[labels.get("mode", "")] += value
            case "resilient_retries_total":
                totals.retries = (totals.retries or 0) + value
            case "resilient_hedges_total":
                totals.hedges = (totals.hedges or 0) + value
            case "resilient_circuit_state":
                totals.circuits[labels.get("state", "")] += value
            case "resilient_permits_in_use":
                totals.in_use[policy] += value
            case "resilient_permits_limit":
                totals.limits[policy] += value
            case "resilient_queue_length":
                totals.queued[policy] += value
            case "resilient_tokens":
                totals.rate_limits[policy] = min(value, totals.rate_limits.get(policy, math.inf))
            case "resilient_budget_tokens":
                totals.tokens[policy] = min(value, totals.tokens.get(policy, math.inf))


class MetricsText:
    """Makes a reading of each text, with rates since the text before."""

    def __init__(self) -> None:
        self._before: dict[str, Totals] = {}
        self._at: float | None = None

    def reading(self, text: str, now: float) -> Reading:
        """Return the reading of a text. `now`: seconds on a clock that does not jump."""
        found = totals_of(text)
        seconds = 0.0 if self._at is None else now - self._at
        pipelines = {
            legible(name): _state(totals, self._before.get(name, Totals()) if seconds > 0 else None, seconds)
            for name, totals in sorted(found.items())
        }
        self._before, self._at = found, now
        return Reading(time.time(), pipelines)


def _state(now: Totals, before: Totals | None, seconds: float) -> PipelineState:
    found = PipelineState(
        mode=next((mode for mode in ("off", "once", "instant") if now.modes.get(mode)), "on"),
        in_flight=_whole(now.in_flight),
        calls=int(sum(now.calls.values())),
        retries=_whole(now.retries),
        hedges=_whole(now.hedges),
        circuits={legible(state): int(count) for state, count in now.circuits.items() if count},
        permits=[
            Permits(legible(policy), int(now.in_use.get(policy, 0)), int(limit), int(now.queued.get(policy, 0)))
            for policy, limit in now.limits.items()
        ],
        tokens=min(now.tokens.values(), default=None),
        rate_limits={legible(policy): tokens for policy, tokens in now.rate_limits.items()},
    )
    if before is None:
        return found
    new = {kind: max(0.0, count - before.calls.get(kind, 0)) for kind, count in now.calls.items()}
    found.rate = sum(new.values()) / seconds
    found.bad = bad_share(new)
    found.p50, found.p99 = (_quantile(before.buckets, now.buckets, share) for share in (0.5, 0.99))
    found.retry_rate = _rate(before.retries, now.retries, seconds)
    found.hedge_rate = _rate(before.hedges, now.hedges, seconds)
    return found


def _quantile(before: Mapping[float, float], now: Mapping[float, float], share: float) -> float | None:
    """Return the duration in seconds that this share of the calls between two readings did not exceed, linear inside
    its bucket as in `histogram_quantile`; None without calls."""
    bounds = sorted(now)
    counts = [max(0.0, now[bound] - before.get(bound, 0)) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    wanted, low, passed = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted and count > passed:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - passed) / (count - passed)
        low, passed = bound, max(passed, count)
    return low


def _rate(old: float | None, new: float | None, seconds: float) -> float | None:
    return None if new is None else max(0.0, new - (old or 0.0)) / seconds


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
