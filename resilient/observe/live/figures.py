"""Rates and latencies of pipelines, from the counters and histograms of two moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.events import counters
from resilient.stats.durations import SCALE

__all__ = ["Counts", "figures", "read_counts"]

BAD = ("failure", "timeout", "rejected")
"""Endings that count as bad. A call that was cancelled is neither good nor bad."""

TIMED = ("success", "failure", "timeout")
"""Endings whose durations are latencies. A refusal takes no time, and would hide those of the other calls."""


@dataclass(slots=True)
class Counts:
    """The calls of one pipeline until a moment: by ending, and in how many buckets of durations."""

    endings: dict[str, int] = field(default_factory=dict)
    buckets: dict[int, int] = field(default_factory=dict)


def read_counts() -> dict[str, Counts]:
    """Return the counts of all pipelines, by name."""
    found: dict[str, Counts] = {}
    for each in counters.all_counters():
        counts = found[each.name] = Counts()
        for (metric, *labels), count in each.totals().items():
            if metric == "calls":
                counts.endings[labels[0]] = counts.endings.get(labels[0], 0) + count
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
    failures = now.endings.get("failure", 0) + now.endings.get("timeout", 0)
    found: dict[str, Any] = {
        "calls": sum(now.endings.values()),
        "failures": failures,
        "rejected": now.endings.get("rejected", 0),
    }
    if before is None or seconds <= 0:
        return found
    new = {ending: max(0, count - before.endings.get(ending, 0)) for ending, count in now.endings.items()}
    ended = sum(new.values())
    found["rate"] = _short(ended / seconds)
    judged = ended - new.get("cancelled", 0)
    if judged:
        found["bad"] = _short(sum(new.get(ending, 0) for ending in BAD) / judged)
    buckets = {at: count - before.buckets.get(at, 0) for at, count in now.buckets.items()}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        seconds_of = _quantile(buckets, share)
        if seconds_of is not None:
            found[name] = seconds_of
    return found


def _quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the duration that this share of calls did not exceed, in seconds; None without calls."""
    left = share * sum(count for count in buckets.values() if count > 0)
    if not left:
        return None
    found = 0
    for at in sorted(buckets):
        if buckets[at] <= 0:
            continue
        found, left = at, left - buckets[at]
        if left <= 0:
            break
    return _short(2.0 ** ((found + 0.5) / SCALE))


def _short(value: float) -> float:
    return float(f"{value:.3g}")
