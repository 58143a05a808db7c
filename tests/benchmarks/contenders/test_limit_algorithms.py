"""The published algorithms of limits, checked by hand."""

from __future__ import annotations

import random

import pytest

from benchmarks.contenders.limit_algorithms import Aimd, Gradient2, NetflixVegas
from resilient.limiters import Window


def window(mean: float, *, failures: int = 0, peak: int = 20) -> Window:
    return Window(1.0, 100, failures, mean, 0.0, peak)


@pytest.mark.parametrize(
    ("mean", "peak", "failures", "found"),
    [
        (0.050, 100, 0, 112),  # none queues: six steps, of two at a limit of 100
        (0.051, 100, 0, 112),  # two queue: at most one step
        (0.0525, 100, 0, 102),  # five queue: fewer than three steps
        (0.055, 100, 0, 100),  # ten queue: between three and six steps
        (0.060, 100, 0, 98),  # seventeen queue: more than six steps
        (0.050, 100, 1, 98),
        (0.060, 49, 0, 100),  # less than half of the limit used
    ],
)
def test_netflix_vegas_follows_the_published_rule(mean: float, peak: int, failures: int, found: float) -> None:
    """The new limit by the mean latency of a window, its peak of calls and its failures."""
    random.seed(1)
    rule = NetflixVegas()
    rule.update(100, window(0.05, peak=10))
    assert rule.update(100, window(mean, peak=peak, failures=failures)) == found


def test_netflix_gradient2_follows_the_published_rule() -> None:
    """A fifth of the way towards the limit times 1.5 times the long mean over the last one, plus four; between 20 and
    200."""
    rule = Gradient2()
    assert rule.update(100, window(0.05, peak=100)) == pytest.approx(0.8 * 100 + 0.2 * 104)
    assert rule.long == pytest.approx(0.05)
    assert rule.update(100, window(0.15, peak=100)) == pytest.approx(0.8 * 100 + 0.2 * (100 * 1.5 * 0.1 / 0.15 + 4))
    assert rule.update(100, window(0.05, peak=10)) == 100
    assert Gradient2().update(400, window(0.05, peak=400)) == 200


def test_aimd_adds_one_or_takes_a_tenth() -> None:
    """The limit grows by one in a good window that used half of it, and shrinks by a tenth in a slow or failing one."""
    rule = Aimd()
    assert rule.update(20, window(0.09)) == 21
    assert rule.update(20, window(0.11)) == 18
    assert rule.update(20, window(0.09, failures=1)) == 18
    assert rule.update(20, window(0.09, peak=9)) == 20
