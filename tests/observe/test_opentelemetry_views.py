"""Views of the OpenTelemetry SDK, and what a reader prefers, hold for durations."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    Histogram,
    InMemoryMetricReader,
)
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)

from resilient.observe.opentelemetry import METER
from tests.observe.otel_world import ATTEMPT, DURATION, Figures, collected


def test_wide_range_gets_a_lower_scale(figures: Figures, exporting: Any) -> None:
    """There are at most 160 buckets, as the SDK has them."""
    reader = InMemoryMetricReader()
    exporting(reader)
    figures.durations({-600: 1, 250: 2, 251: 4})
    (point,) = collected(reader)[DURATION.name].data.data_points
    assert point.scale == 2
    assert len(point.positive.bucket_counts) <= 160
    assert (point.positive.offset, point.positive.bucket_counts[0], point.positive.bucket_counts[-1]) == (-75, 1, 6)


def test_view_renames_durations_and_joins_series(figures: Figures, exporting: Any) -> None:
    """A view with fewer attributes adds up the series that become the same."""
    reader = InMemoryMetricReader()
    view = View(
        instrument_name=DURATION.name,
        name="call.seconds",
        description="Of calls.",
        attribute_keys={"resilient.pipeline.name"},
    )
    exporting(reader, views=(view,))
    figures.durations({0: 1, 1: 1}, 2.0)
    figures.durations({1: 3}, 3.5, labels=("users", "failure"))
    found = collected(reader)
    assert DURATION.name not in found
    assert found["call.seconds"].description == "Of calls."
    (point,) = found["call.seconds"].data.data_points
    assert point.attributes == {"resilient.pipeline.name": "users"}
    assert (point.count, point.sum, list(point.positive.bucket_counts)) == (5, 5.5, [1, 4])


def test_view_drops_durations(figures: Figures, exporting: Any) -> None:
    """The other histogram stays."""
    reader = InMemoryMetricReader()
    exporting(reader, views=(View(instrument_name=DURATION.name, aggregation=DropAggregation()),), durations="attempts")
    figures.durations({0: 1})
    figures.durations({0: 1}, name=ATTEMPT.name)
    assert set(collected(reader)) == {ATTEMPT.name}


def test_views_can_leave_durations_only(figures: Figures, exporting: Any) -> None:
    """Views that drop all but durations leave the SDK nothing to collect; durations are exported all the same."""
    views = (View(instrument_name="*", aggregation=DropAggregation()), View(instrument_name=DURATION.name))
    reader = InMemoryMetricReader()
    exporting(reader, views=views)
    figures.set("resilient.calls", ("users", "success", "success"), 1)
    figures.durations({0: 1})
    assert set(collected(reader)) == {DURATION.name}


def test_view_makes_classic_buckets(figures: Figures, exporting: Any) -> None:
    """A backend without exponential histograms gets upper bounds that its user chose."""
    view = View(instrument_name="resilient.*.duration", aggregation=ExplicitBucketHistogramAggregation([0.1, 1.0]))
    reader = InMemoryMetricReader()
    exporting(reader, views=(view,))
    figures.durations({-200: 1, -40: 2, 40: 4}, 12.0)
    metric = collected(reader)[DURATION.name]
    assert isinstance(metric.data, Histogram)
    (point,) = metric.data.data_points
    assert (list(point.explicit_bounds), list(point.bucket_counts)) == ([0.1, 1.0], [1, 2, 4])
    assert (point.count, point.sum) == (7, 12.0)


def test_classic_buckets_without_bounds_get_those_for_seconds(figures: Figures, exporting: Any) -> None:
    """The SDK's own bounds are meant for milliseconds: nearly all calls would be in the first bucket."""
    view = View(meter_name=METER, instrument_type=SdkHistogram, aggregation=ExplicitBucketHistogramAggregation())
    reader = InMemoryMetricReader()
    exporting(reader, views=(view,))
    figures.durations({-100: 1})
    (point,) = collected(reader)[DURATION.name].data.data_points
    assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.005, 10.0)


def test_view_limits_the_buckets(figures: Figures, exporting: Any) -> None:
    """Size and scale of an exponential aggregation are the view's."""
    aggregation = ExponentialBucketHistogramAggregation(max_size=4, max_scale=3)
    reader = InMemoryMetricReader()
    exporting(reader, views=(View(instrument_name=DURATION.name, aggregation=aggregation),))
    figures.durations({0: 1, 63: 1})
    (point,) = collected(reader)[DURATION.name].data.data_points
    assert (point.scale, list(point.positive.bucket_counts)) == (1, [1, 0, 0, 1])


def test_reader_that_prefers_an_aggregation_gets_it(figures: Figures, exporting: Any) -> None:
    """As for instruments of the SDK, what the reader prefers holds where no view says otherwise."""
    reader = InMemoryMetricReader(preferred_aggregation={SdkHistogram: ExplicitBucketHistogramAggregation([1.0])})
    exporting(reader)
    figures.durations({-1: 1, 1: 2})
    (point,) = collected(reader)[DURATION.name].data.data_points
    assert list(point.bucket_counts) == [1, 2]


def test_view_that_no_histogram_can_follow_is_logged(
    figures: Figures, exporting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The durations stay a histogram."""
    reader = InMemoryMetricReader()
    exporting(reader, views=(View(instrument_name=DURATION.name, aggregation=SumAggregation()),))
    figures.durations({0: 1})
    assert isinstance(collected(reader)[DURATION.name].data, ExponentialHistogram)
    assert "resilient.call.duration stays a histogram: a view asks for 'SumAggregation'" in caplog.text
