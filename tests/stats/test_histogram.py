"""The histogram: one quantile of the recent samples, in fixed memory."""

from __future__ import annotations

import math
import random
import sys
import threading
from bisect import bisect_left
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.stats.histogram import ERROR, LEAST, MEMORY, MOST, Histogram
from tests.hypothesis_settings import search

SHARES = (0.5, 0.9, 0.95, 0.98)


def recorded(share: float, samples: list[float], warm_up: int = 1) -> Histogram:
    """A histogram with these samples."""
    histogram = Histogram(share, warm_up)
    for sample in samples:
        histogram.record(sample)
    return histogram


def exact(samples: list[float], *shares: float) -> list[float]:
    """The exact quantiles of the fading samples: for each, the least sample that has the share of the weight at or
    below it."""
    weighted = sorted((sample, (1 - 1 / MEMORY) ** -number) for number, sample in enumerate(samples))
    reached = list(accumulate(weight for _, weight in weighted))
    return [
        weighted[min(bisect_left(reached, share * reached[-1] * (1 - 1e-9)), len(weighted) - 1)][0] for share in shares
    ]


latencies = st.floats(LEAST, MOST * 0.999)


@search(300)
@given(samples=st.lists(latencies, min_size=1, max_size=200), share=st.sampled_from(SHARES))
def test_value_at_the_end_of_the_warm_up_is_within_one_percent_of_the_exact_quantile(
    samples: list[float], share: float
) -> None:
    """The bound holds for any samples."""
    value = recorded(share, samples, warm_up=len(samples)).value
    assert [value] == pytest.approx(exact(samples, share), rel=ERROR * 1.0001)


@pytest.mark.parametrize("draw", ["lognormal", "exponential", "two humps"])
def test_value_of_a_steady_stream_stays_at_the_exact_quantile(draw: str) -> None:
    """Checked at every 2,500th of 60,000 samples (beyond the first change of scale): its rank is off by 0.2% at
    most."""
    dice = random.Random(draw)
    samples = [
        {
            "lognormal": dice.lognormvariate(-4, 0.7),
            "exponential": dice.expovariate(20),
            "two humps": dice.gauss(0.005, 0.0005) if dice.random() < 0.7 else dice.gauss(0.05, 0.005),
        }[draw]
        for _ in range(60_000)
    ]
    histograms = [Histogram(share, 500) for share in SHARES]
    for seen in range(2500, len(samples) + 1, 2500):
        for histogram in histograms:
            for sample in samples[seen - 2500 : seen]:
                histogram.record(sample)
        lately = samples[max(0, seen - 20_000) : seen]
        bounds = exact(lately, *(share + off for share in SHARES for off in (-0.002, 0.002)))
        for histogram, least, most in zip(histograms, bounds[::2], bounds[1::2], strict=True):
            assert histogram.value is not None
            assert least * (1 - ERROR) <= histogram.value <= most * (1 + ERROR)


def test_value_is_unknown_during_the_warm_up() -> None:
    """It would be a matter of chance."""
    histogram = Histogram(0.95, 3)
    for _ in range(2):
        histogram.record(1.0)
        assert histogram.value is None
    histogram.record(1.0)
    assert histogram.value == pytest.approx(1, rel=ERROR * 1.01)
    assert histogram.count == 3


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_value_follows_a_change(factor: float) -> None:
    """A dependency that becomes slow moves the p95 when 5% of the weight is new; one that becomes fast, when 95% is."""
    dice = random.Random(7)
    histogram = recorded(0.95, [dice.expovariate(1) for _ in range(20_000)], warm_up=200)
    before = histogram.value
    assert before is not None
    samples = 0
    while not 0.9 < histogram.value / (before * factor) < 1.1:  # type: ignore[operator]
        histogram.record(factor * dice.expovariate(1))
        samples += 1
    assert samples < (7 * MEMORY if factor > 1 else 6 * MEMORY)
    if factor > 1:  # well on its way long before
        histogram = recorded(0.95, [1.0] * 10_000)
        for _ in range(int(0.06 * MEMORY) + 120):
            histogram.record(10.0)
        assert histogram.value == pytest.approx(10, rel=ERROR * 1.01)


@pytest.mark.parametrize(
    ("sample", "value"),
    [(0.0, LEAST), (-1.0, LEAST), (1e-300, LEAST), (-math.inf, LEAST), (1e300, MOST), (math.inf, MOST), (MOST, MOST)],
)
def test_value_of_what_is_out_of_range_is_its_end(sample: float, value: float) -> None:
    """Also for negative times, of a clock that goes backward."""
    assert recorded(0.5, [sample]).value == pytest.approx(value, rel=ERROR * 1.01)


def test_what_is_no_number_is_not_recorded() -> None:
    """NaN belongs to no bucket."""
    histogram = recorded(0.5, [math.nan])
    assert (histogram.value, histogram.count) == (None, 0)


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-9])
def test_extreme_quantiles_stay_within_the_samples(share: float) -> None:
    """They are the least and the greatest sample."""
    dice = random.Random(3)
    samples = [dice.uniform(1, 2) for _ in range(3000)]
    assert recorded(share, samples).value == pytest.approx(1 if share < 0.5 else 2, rel=0.02)


def test_memory_is_fixed() -> None:
    """Ten thousand samples over all magnitudes take no more room than one."""
    dice = random.Random(5)
    one, many = recorded(0.5, [1.0]), recorded(0.5, [10 ** dice.uniform(-6, 5) for _ in range(10_000)])
    assert sys.getsizeof(one._weights) == sys.getsizeof(many._weights) < 10_000


def test_threads_do_not_tear_it() -> None:
    """No sample of eight threads is lost, and the sums are those of the buckets."""
    histogram = Histogram(0.9, 100)
    each = 20_000

    def record(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(each):
            histogram.record(dice.expovariate(1))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=record, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert histogram.count == 8 * each
    weights, at = histogram._weights, histogram.at
    assert histogram._total == pytest.approx(math.fsum(weights), rel=1e-9)
    assert histogram._below == pytest.approx(math.fsum(weights[:at]), rel=1e-6)
    assert histogram.value == pytest.approx(math.log(10), rel=0.1)
