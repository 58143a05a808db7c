"""Rates and latencies of pipelines, from the counters and histograms of two moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from resilient.events import counters
from resilient.observe.bad_calls import bad_share
from resilient.stats.durations import quantile

__all__ = ["Counts", "figures", "read_counts"]

TIMED = ("success", "failure", "timeout")
"""Endings whose durations are latencies. A refusal takes no time, and would hide those of the other calls."""


@dataclass(slots=True)
class Counts:
    """The calls of one pipeline until a moment: by ending and verdict, and by the bucket of their duration."""

    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    buckets: dict[int, int] = field(default_factory=dict)


def read_counts() -> dict[str, Counts]:
    """Return the counts of all pipelines, by name."""
    found: dict[str, Counts] = {}
    for each in counters.all_counters():
        counts = found[each.name] = Counts()
        for (metric, *labels), count in each.totals().items():
            if metric == "calls":
                ending, verdict = labels
                counts.calls[ending, verdict] = count
        for ending, histogram in each.call_durations.copy().items():
            for bucket, count in histogram.buckets.items() if ending in TIMED else ():
                counts.buckets[bucket] = counts.buckets.get(bucket, 0) + count
    return found


def figures(before: Counts | None, now: Counts, seconds: float) -> dict[str, Any]:
    """Return the figures of one pipeline, as the state has them.

    Args:
        before: the counts at the moment before; None: there are no rates yet.
        now: the counts at this moment.
        seconds: between the two.
    """
    found: dict[str, Any] = {
        "calls": sum(now.calls.values()),
        "failures": _ended(now, "failure", "timeout"),
        "rejected": _ended(now, "rejected"),
    }
    if before is None or seconds <= 0:
        return found
    new = {kind: max(0, count - before.calls.get(kind, 0)) for kind, count in now.calls.items()}
    found["rate"] = _short(sum(new.values()) / seconds)
    bad = bad_share(new)
    if bad is not None:
        found["bad"] = _short(bad)
    buckets = {at: more for at, count in now.buckets.items() if (more := count - before.buckets.get(at, 0)) > 0}
    if buckets:
        found |= {"p50": _short(quantile(buckets, 0.5)), "p99": _short(quantile(buckets, 0.99))}
    return found


def _ended(counts: Counts, *endings: str) -> int:
    """The number of calls with these endings."""
    return sum(count for (ending, _), count in counts.calls.items() if ending in endings)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
