"""The windows against lists that keep every call."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from resilient.stats.window import CountWindow, TimeWindow, Window
from tests.hypothesis_settings import search


@dataclass(frozen=True)
class Record:
    """One call in the list."""

    at: float
    failed: bool
    slow: bool


CLEAR = None
calls = st.tuples(st.booleans(), st.booleans())
ticks = st.sampled_from([0, 1, 3, 8, 8, 9, 16, 64, 71, 72, 73, 79, 80, 81, 300]) | st.integers(0, 100)
"""Steps of time in eighths of a slice, so that all sums of times are exact: often one slice, or about nine or ten."""


def sums(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failures, window.slows


def added_up(records: list[Record]) -> tuple[int, int, int]:
    return len(records), sum(each.failed for each in records), sum(each.slow for each in records)


@search(150)
@given(size=st.integers(1, 12), steps=st.lists(calls | st.just(CLEAR), max_size=60))
def test_count_window_equals_the_end_of_a_list(size: int, steps: list[tuple[bool, bool] | None]) -> None:
    """After every call, exactly the last `size` since the last `clear` count."""
    window = CountWindow(size)
    remembered: list[Record] = []
    for step in steps:
        if step is CLEAR:
            window.clear()
            remembered = []
        else:
            window.record(*step, 0.0)
            remembered.append(Record(0.0, *step))
        assert sums(window) == added_up(remembered[-size:])


@search(200)
@given(
    start=st.integers(-1000, 1000),
    steps=st.lists(st.tuples(ticks, calls) | st.just(CLEAR), min_size=10, max_size=60),
)
def test_time_window_equals_a_list_cut_into_its_slices(
    start: int, steps: list[tuple[int, tuple[bool, bool]] | None]
) -> None:
    """The first call begins the first of ten equal slices; calls in the slice of the newest call and in the nine before
    it
    count. If only the newest call is in them, it begins the slices anew."""
    window = TimeWindow(10.0)
    width = 1.0
    now = float(start)
    origin = now
    remembered: list[Record] = []
    for step in steps:
        if step is CLEAR:
            window.clear()
            remembered = []
            continue
        tick, call = step
        now += tick / 8
        oldest = (now - origin) // width - 9
        remembered = [each for each in remembered if (each.at - origin) // width >= oldest]
        if not remembered:
            origin = now
        remembered.append(Record(now, *call))
        window.record(*call, now)
        assert sums(window) == added_up(remembered)


@search(200)
@given(
    seconds=st.floats(0.01, 1e4),
    start=st.floats(0, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 1.3), calls), min_size=1, max_size=60),
)
def test_time_window_counts_what_is_young_and_nothing_that_is_old(
    seconds: float, start: float, steps: list[tuple[float, tuple[bool, bool]]]
) -> None:
    """Wherever its slices begin, and with any rounding, it counts all calls of the last nine tenths of its time, and
    none
    from before its time."""
    window = TimeWindow(seconds)
    now = start
    records: list[Record] = []
    for step, call in steps:
        now += step * seconds
        window.record(*call, now)
        records.append(Record(now, *call))
        rounding = 1e-6 * seconds + 1e-9 * now
        least = added_up([each for each in records if now - each.at < 0.9 * seconds - rounding])
        most = added_up([each for each in records if now - each.at < seconds + rounding])
        assert all(low <= got <= high for low, got, high in zip(least, sums(window), most, strict=True))
