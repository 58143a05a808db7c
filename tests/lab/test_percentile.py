"""Percentiles by nearest rank."""

from __future__ import annotations

import pytest

from resilient.lab.percentile import percentile


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (0.0, 1.0), (1.0, 100.0), (0.07, 7.0)],
)
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    """Of 1 to 100 the p99 is 99: no interpolation, and no rank too many from binary fractions."""
    assert percentile([float(value) for value in range(1, 101)], share) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    """One value is every percentile of itself."""
    assert percentile([3.0], 0.5) == percentile([3.0], 0.999) == 3.0


def test_percentile_of_nothing_is_none() -> None:
    """Without values there is no percentile; zero would look like a good result."""
    assert percentile([], 0.99) is None
