"""Medians and quantiles, with the 95% intervals by which figures are judged.

Rounds of one process agree better with each other than with those of another process, because memory layout and hashes
stay the same while a process lives. Where a benchmark runs in several processes, each process therefore contributes one
median, and these medians are the sample. The interval then says how much the figure of an unchanged program differs
from run to run.

Intervals of medians and quantiles are order statistics: they hold for every distribution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "margin_of_mean", "median_interval", "quantile", "quantile_interval"]

STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""The 97.5% quantile of Student's t, by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the bounds of its 95% interval."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, processes: Sequence[Sequence[float]]) -> Spread:
        """From rounds, grouped by process. The sample is the median of each process, or with a single process its
        rounds."""
        sample = processes[0] if len(processes) == 1 else [statistics.median(rounds) for rounds in processes]
        return cls(statistics.median(sample), *median_interval(sample))

    def values(self, key: str, digits: int = 3) -> dict[str, float]:
        """The values for a `Figure`: for `ratio_x`, also the ends `ratio_low_x` and `ratio_high_x`."""
        stem, _, unit = key.rpartition("_")
        ends = {key: self.middle, f"{stem}_low_{unit}": self.low, f"{stem}_high_{unit}": self.high}
        return {name: round(value, digits) for name, value in ends.items()}


def median_interval(numbers: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the distribution's median, by order statistics. Fewer than six numbers cannot give 95%: the
    interval is then their whole range."""
    ordered = sorted(numbers)
    count = len(ordered)
    off = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - off))
    return ordered[low], ordered[count - 1 - low]


def quantile(numbers: Sequence[float], share: float) -> float:
    """The smallest of `numbers` that a `share` of them does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def quantile_interval(numbers: Sequence[float], share: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the distribution's quantile, by order statistics. The upper end is infinite when there are too
    few numbers to set one."""
    ordered = sorted(numbers, reverse=True)
    doubt, mean = (1 - confidence) / 2, (1 - share) * len(ordered)
    beyond, summed, high = 0, 0.0, math.inf
    chance = math.exp(-mean)  # that no number lies beyond: Poisson, which is close to the binomial distribution here
    while (summed := summed + chance) < 1 - doubt and beyond < len(ordered) - 1:
        if summed <= doubt:
            high = ordered[beyond]
        beyond += 1
        chance *= mean / beyond
    return ordered[beyond], high


def margin_of_mean(numbers: Sequence[float]) -> float:
    """Half the 95% interval of the mean, by Student's t; for 2 to 10 numbers."""
    return STUDENT[len(numbers) - 1] * statistics.stdev(numbers) / math.sqrt(len(numbers))
