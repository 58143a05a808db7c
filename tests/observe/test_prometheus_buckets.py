"""Bounds of classic histogram buckets: on the grid of the recorded figures."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.observe.metrics import Histogram
from resilient.observe.prometheus.buckets import DEFAULT_BOUNDS, Buckets

STEP = 2 ** (1 / 32)


def recorded(*durations: float) -> Histogram:
    """Return a histogram of these durations in seconds, as it is defined: bucket i ends at 2**((i + 1) / 32)."""
    buckets: dict[int, int] = {}
    for duration in durations:
        index = math.ceil(math.log2(duration) * 32) - 1
        buckets[index] = buckets.get(index, 0) + 1
    return Histogram(len(durations), sum(durations), buckets, {})


def test_default_bounds_are_powers_of_two_from_a_millisecond_to_a_minute() -> None:
    """There are 17 of them, and they are exact."""
    buckets = Buckets()
    assert buckets.texts == (*(str(2.0**power) for power in range(-10, 7)), "+Inf")
    assert len(buckets.texts) == 18
    assert DEFAULT_BOUNDS[0] == 1 / 1024
    assert DEFAULT_BOUNDS[-1] == 64


def test_duration_at_a_bound_is_within_it() -> None:
    """A bound belongs to its own bucket, as `le` says."""
    counts = Buckets([0.25, 0.5, 1]).counts(recorded(0.2, 0.25, 0.250001, 0.5, 1, 1.01, 100))
    assert counts == [2, 2, 1, 2]


@given(st.lists(st.floats(1e-6, 1e5), min_size=1), st.lists(st.floats(1e-4, 1e3), min_size=1, unique=True))
def test_every_duration_is_in_the_bucket_of_its_bound(durations: list[float], bounds: list[float]) -> None:
    """For each bound, the cumulated count is the number of durations that do not exceed the moved bound."""
    buckets = Buckets(sorted(bounds))
    counts = buckets.counts(recorded(*durations))
    for position, edge in enumerate(buckets.edges):
        within = sum(math.ceil(math.log2(duration) * 32) <= edge for duration in durations)
        assert sum(counts[: position + 1]) == within
    assert sum(counts) == len(durations)


@given(st.floats(1e-6, 1e6))
def test_bound_moves_up_by_one_step_at_most(bound: float) -> None:
    """It is moved up by less than 2.2%, and never down, except by the six digits of its text."""
    moved = float(Buckets([bound]).texts[0])
    assert bound * (1 - 3e-5) <= moved <= bound * STEP * (1 + 1e-5)


@given(st.integers(-640, 640))
def test_bound_that_is_copied_from_a_scrape_stays(edge: int) -> None:
    """A bound of the grid moves no further, also when it is given as the text of its label."""
    moved = Buckets([2 ** (edge / 32)])
    assert moved.edges == (edge,)
    assert Buckets([float(moved.texts[0])]) == moved


def test_bounds_that_meet_become_one() -> None:
    """Two bounds within one step of the grid are one bucket."""
    assert Buckets([0.3, 0.301, 0.31]).texts == ("0.303812", "0.310464", "+Inf")


def test_infinite_bound_at_the_end_changes_nothing() -> None:
    """Bounds may be copied from prometheus-client, whose last one is infinite."""
    assert Buckets((0.5, 1.0, math.inf)) == Buckets([0.5, 1])


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([math.inf], ValueError, "at least one"),
        ([0.5, 0.25], ValueError, "ascending order, got 0.25 after 0.5"),
        ([0.5, 0.5], ValueError, "ascending"),
        ([0, 1], ValueError, "> 0, got 0"),
        ([-1.0], ValueError, "-1.0"),
        ([math.nan], ValueError, "nan"),
        (["100ms"], TypeError, "write 0.1"),
        ([True], TypeError, "True"),
        ("0.5", TypeError, "numbers of seconds"),
        (0.5, TypeError, "numbers of seconds"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds: Any, error: type[Exception], message: str) -> None:
    """The error names the value, and what would be right."""
    with pytest.raises(error, match=message.replace("+", r"\+")):
        Buckets(bounds)
