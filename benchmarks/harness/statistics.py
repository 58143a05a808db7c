"""A figure and the interval in which its true value lies: medians, by order statistics.

Rounds of one process agree better with each other than with those of the next process: where objects lie in memory,
and how hashes fall, stays the same for as long as a process lives. So where a benchmark runs in several processes, each
gives one median, and these are the sample: figures of the same program then differ from run to run by what the interval
says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "median_interval"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its 95% interval."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, processes: Sequence[Sequence[float]]) -> Spread:
        """Of rounds, process by process. Of a single process the rounds are the sample, for want of a better one."""
        sample = processes[0] if len(processes) == 1 else [statistics.median(rounds) for rounds in processes]
        return cls(statistics.median(sample), *median_interval(sample))

    def values(self, key: str, digits: int = 3) -> dict[str, float]:
        """As a figure has them: `ratio_x` with its ends, `ratio_low_x` and `ratio_high_x`."""
        stem, _, unit = key.rpartition("_")
        ends = {key: self.middle, f"{stem}_low_{unit}": self.low, f"{stem}_high_{unit}": self.high}
        return {name: round(value, digits) for name, value in ends.items()}


def median_interval(numbers: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where their distribution's median lies, by how many of them may lie below it. Fewer than six have none of 95%: it
    is then all of them."""
    ordered = sorted(numbers)
    count = len(ordered)
    off = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - off))
    return ordered[low], ordered[count - 1 - low]
