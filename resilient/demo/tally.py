"""Success rates and percentiles from records, over a whole run or step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resilient.demo.load import Record
from resilient.lab.percentile import percentile

__all__ = ["Tally", "tally", "timeline"]


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of some calls. Percentiles are of successful calls, in seconds; None without any.

    The latency of a failed call means nothing: a refused connection fails within a millisecond, and counting it would
    make the failing side look fast.
    """

    calls: int
    succeeded: int
    errors: dict[str, int]
    p50: float | None
    p99: float | None
    p999: float | None

    @property
    def success_rate(self) -> float | None:
        """The share of calls that succeeded, or None without calls."""
        return self.succeeded / self.calls if self.calls else None


def tally(records: Sequence[Record]) -> Tally:
    """The figures of these records: calls, errors and latencies."""
    latencies = sorted(record.latency for record in records if record.error is None)
    errors = Counter(record.error for record in records if record.error is not None)
    return Tally(
        calls=len(records),
        succeeded=len(latencies),
        errors=dict(sorted(errors.items())),
        p50=percentile(latencies, 0.50),
        p99=percentile(latencies, 0.99),
        p999=percentile(latencies, 0.999),
    )


def timeline(records: Sequence[Record], duration: float, width: float) -> list[Tally]:
    """The figures of the calls scheduled in each complete step of `width` seconds; an incomplete last step is left
    out."""
    # Rounded first: 0.3 / 0.1 is a little less than 3, and would lose a step.
    stretches: list[list[Record]] = [[] for _ in range(math.floor(round(duration / width, 9)))]
    for record in records:
        if (step := int(record.at / width)) < len(stretches):
            stretches[step].append(record)
    return [tally(each) for each in stretches]
