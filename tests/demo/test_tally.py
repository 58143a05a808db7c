"""Figures from records: rates, percentiles and timelines."""

from __future__ import annotations

import pytest

from resilient.demo.load import Record
from resilient.demo.tally import tally, timeline


def test_tally_counts_errors_and_measures_successes_only() -> None:
    """A fast failure must not make the failing side look fast."""
    records = [
        Record(0, 0.2, None),
        Record(1, 0.4, None),
        Record(2, 0.001, "503"),
        Record(3, 1, "503"),
    ]
    figures = tally(records)
    assert (figures.calls, figures.succeeded, figures.success_rate) == (4, 2, 0.5)
    assert figures.errors == {"503": 2}
    assert (figures.p50, figures.p99) == (0.2, 0.4)


def test_tally_of_no_calls_has_no_rates() -> None:
    """Without calls every rate is None."""
    figures = tally([])
    assert (figures.success_rate, figures.p50, figures.p999) == (None, None, None)


def test_timeline_puts_each_call_where_it_was_due() -> None:
    """By the scheduled moment, not by that of the answer; calls after the last complete step are in none."""
    records = [
        Record(0.1, 9.0, None),
        Record(1.2, 0.1, "503"),
        Record(1.9, 0.1, None),
        Record(2, 1, None),
    ]
    assert [each.calls for each in timeline(records, 2.0, 0.5)] == [1, 0, 1, 1]


@pytest.mark.parametrize(("duration", "steps"), [(20.0, 200), (6.0, 40), (5.3, 40), (0.3, 3)])
def test_timeline_has_no_stretch_beyond_the_end(duration: float, steps: int) -> None:
    """Binary fractions neither add an empty step nor lose a complete one."""
    assert len(timeline([], duration, duration / steps)) == steps


def test_timeline_leaves_out_a_last_part_of_a_stretch() -> None:
    """A step of half the length would have half the calls, and look like a change."""
    assert [each.calls for each in timeline([Record(20.1, 1, None)], 20.2, 0.5)] == [0] * 40
