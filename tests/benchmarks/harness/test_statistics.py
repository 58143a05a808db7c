"""Quantiles, and the intervals of quantiles, medians and means."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.harness.statistics import margin_of_mean, median_interval, quantile, quantile_interval


def test_quantile_is_the_number_that_the_share_does_not_exceed() -> None:
    """Of 1,000 numbers, p99.9 is the last but one."""
    numbers = [float(number) for number in range(1, 1001)]
    assert quantile(numbers, 0.999) == 999
    assert quantile(numbers, 0.5) == 500


def test_interval_covers_the_true_quantile_as_often_as_it_says() -> None:
    """Of 400 exponential samples of 500, about one in twenty has an interval without the true p99."""
    generator = random.Random(1)
    true = -math.log(0.01)
    outside = 0
    for _ in range(400):
        low, high = quantile_interval([generator.expovariate(1) for _ in range(500)], 0.99)
        assert low < high
        outside += not low <= true <= high
    assert 2 <= outside <= 30


def test_interval_of_few_numbers_has_no_upper_end() -> None:
    """Of 2,000 numbers, possibly none lies beyond the true p99.9."""
    assert quantile_interval([float(number) for number in range(2_000)], 0.999)[1] == math.inf


def test_margin_of_mean_is_by_students_t() -> None:
    """Three numbers of mean 0 and deviation 1 have a margin of 4.303 / sqrt(3)."""
    assert margin_of_mean([-1.0, 0.0, 1.0]) == pytest.approx(4.303 / math.sqrt(3))


def test_median_interval_covers_the_true_median_as_often_as_it_says() -> None:
    """Of 400 skewed samples of 75, about one in twenty has an interval without the true median."""
    generator = random.Random(1)
    outside = 0
    for _ in range(400):
        low, high = median_interval([generator.lognormvariate(0, 1) for _ in range(75)])
        assert low < high
        outside += not low <= 1 <= high
    assert 8 <= outside <= 32
