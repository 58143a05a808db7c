"""The latency distributions: draws agree with the formulas, and both with the published figures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from benchmarks.effect import latencies


@pytest.mark.parametrize(
    ("draw", "computed", "places"),
    [
        (latencies.draw_lognormal, latencies.tail_lognormal, [2, 4.8, 8.7, 17.4, 64.2, 102.5]),
        (latencies.draw_published, latencies.tail_published, [1, 2, 3, 5, 10, 30, 69, 200]),
    ],
)
def test_draws_have_the_computed_tail(
    draw: Callable[[random.Random], float], computed: Callable[[float], float], places: list[float]
) -> None:
    """At every place, the share of longer draws is within five standard errors of the formula."""
    generator = random.Random(1)
    drawn = [draw(generator) for _ in range(20_000)]

    for place in places:
        share = sum(each > place for each in drawn) / len(drawn)
        error = math.sqrt(computed(place) * (1 - computed(place)) / len(drawn))
        assert abs(share - computed(place)) <= 5 * error + 1e-12


@pytest.mark.parametrize(("milliseconds", "share"), latencies.POINTS)
def test_distribution_of_the_tail_at_scale_passes_through_its_points(milliseconds: float, share: float) -> None:
    """The formula gives the published share at each published latency."""
    assert latencies.tail_published(milliseconds) == pytest.approx(share)


def test_lognormal_latencies_have_the_mean_of_the_experiment() -> None:
    """5 ms, and one in twenty ten times as slow: 5 x (0.95 + 0.5) ms on average."""
    generator = random.Random(1)
    drawn = [latencies.draw_lognormal(generator) for _ in range(50_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(5 * 1.45, rel=0.02)
