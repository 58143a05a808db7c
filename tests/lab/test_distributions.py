"""Distributions have the given means and tails, and impossible ones are refused."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from resilient.lab.distributions import (
    Constant,
    Distribution,
    Empirical,
    Exponential,
    LogNormal,
    Mixture,
    Normal,
    Pareto,
    Uniform,
    read_latencies,
)


def drawn(distribution: Distribution, count: int = 40_000) -> list[float]:
    draw = distribution.sampler(random.Random(1))
    return [draw() for _ in range(count)]


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        (Constant(0.3), 0.3),
        (Uniform(0.1, 0.5), 0.3),
        (Normal(0.2, 0.05), 0.2),
        (Normal(0.0, 1.0), math.sqrt(2 / math.pi)),
        (LogNormal(0.2, 0.3), 0.2),
        (Exponential(0.2), 0.2),
        (Pareto(0.1, 3.0), 0.15),
        (Empirical((0.1, 0.2, 0.6)), 0.3),
        (Mixture((3, 1), (Constant(0.1), Exponential(1.0))), 0.325),
    ],
)
def test_mean_of_what_is_drawn_is_the_expected_one(distribution: Distribution, mean: float) -> None:
    """`expected`, the closed form and the mean of 40,000 draws agree, and no draw is below 0."""
    found = drawn(distribution)

    assert distribution.expected == pytest.approx(mean, rel=1e-4)
    assert statistics.fmean(found) == pytest.approx(mean, rel=0.03)
    assert min(found) >= 0


def test_deviation_is_that_of_the_times_not_of_their_logarithms() -> None:
    """The deviation is that of the durations, as people measure it."""
    assert statistics.stdev(drawn(LogNormal(5.0, 2.0))) == pytest.approx(2.0, rel=0.03)
    assert statistics.stdev(drawn(Normal(5.0, 0.5))) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("distribution", "at", "beyond"),
    [(Pareto(0.1, 1.5), 1.0, 0.1**1.5), (Exponential(0.5), 1.0, math.exp(-2)), (Uniform(0, 2), 1.5, 0.25)],
)
def test_tail_is_the_closed_form(distribution: Distribution, at: float, beyond: float) -> None:
    """The share of longer draws agrees with the closed form."""
    found = drawn(distribution)

    assert sum(each > at for each in found) / len(found) == pytest.approx(beyond, rel=0.1)


def test_mean_of_a_heavy_tail_is_infinite() -> None:
    """A Pareto distribution with a shape of 1 or less has no finite mean."""
    assert Pareto(1.0, 1.0).expected == math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1.0), "value must be a finite number of seconds >= 0, got -1.0"),
        (lambda: Uniform(2.0, 1.0), "high must be at least low=2, got 1.0"),
        (lambda: Normal(-1.0, 1.0), "mean must be"),
        (lambda: LogNormal(0.0, 1.0), "mean must be a finite number of seconds > 0"),
        (lambda: LogNormal(1e-9, 1.0), "deviation must be at most a million times mean"),
        (lambda: Exponential(math.nan), "mean must be"),
        (lambda: Pareto(1.0, 0.0), "shape must be a finite number >= 0.1, got 0.0"),
        (lambda: Constant(1e10), r"value must be at most 1e\+09 seconds, got"),
        (lambda: Empirical(()), "values must hold at least one"),
        (lambda: Empirical((0.1, -0.1)), r"values\[1\] must be"),
        (lambda: Mixture((0.0,), (Constant(1.0),)), "parts must have weights"),
    ],
)
def test_impossible_distribution_is_refused(make: Any, message: str) -> None:
    """The message names the argument and the allowed values."""
    with pytest.raises(ValueError, match=message):
        make()


def test_latencies_are_read_a_number_a_line(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; a line that is no number is named by its number."""
    file = tmp_path / "latencies.txt"
    file.write_text("# seconds\n0.5\n\n0.25\n")
    assert read_latencies(file) == [0.5, 0.25]

    file.write_text("0.5\n12 ms\n")
    with pytest.raises(ValueError, match=r"line 2 of .*latencies.txt must be a number of seconds >= 0, got '12 ms'"):
        read_latencies(file)
