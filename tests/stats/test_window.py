"""The sliding windows: the calls that they count, for how long, and at what cost."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from resilient.stats.window import CountWindow, TimeWindow, Window


def sums(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failures, window.slows


@pytest.mark.parametrize("window", [CountWindow(4), TimeWindow(10.0)], ids=["count", "time"])
def test_window_begins_empty_and_counts_each_kind_of_call(window: Window) -> None:
    """A call may fail, be slow, be both, or neither."""
    assert sums(window) == (0, 0, 0)
    for failed, slow in ((False, False), (True, False), (False, True), (True, True)):
        window.record(failed, slow, 0.0)
    assert sums(window) == (4, 2, 2)


@pytest.mark.parametrize("window", [CountWindow(4), TimeWindow(10.0)], ids=["count", "time"])
def test_window_cleared_counts_from_nothing(window: Window) -> None:
    """Calls from before `clear` change no sum, neither then nor when they would have left the window."""
    for _ in range(3):
        window.record(True, True, 5.0)
    window.clear()
    assert sums(window) == (0, 0, 0)
    for second in range(4):
        window.record(False, False, 5.0 + second)
    assert sums(window) == (4, 0, 0)


def test_count_window_full_forgets_the_oldest_call_with_each_new_one() -> None:
    """Exactly the last `size` calls count."""
    window = CountWindow(3)
    seen = []
    for failed in (True, True, False, False, False, True):
        window.record(failed, not failed, 0.0)
        seen.append(sums(window))
    assert seen == [(1, 1, 0), (2, 2, 0), (3, 2, 1), (3, 1, 2), (3, 0, 3), (3, 1, 2)]


@pytest.mark.parametrize("good", range(9))
def test_count_window_forgets_a_bad_call_after_as_many_as_it_holds(good: int) -> None:
    """The number of good calls before the first bad one does not matter."""
    window = CountWindow(4)
    for _ in range(good):
        window.record(False, False, 0.0)
    window.record(True, True, 0.0)
    for _ in range(3):
        assert (window.failures, window.slows) == (1, 1)
        window.record(False, False, 0.0)
    assert sums(window) == (4, 1, 1)
    window.record(False, False, 0.0)
    assert sums(window) == (4, 0, 0)


def test_count_window_is_steady_while_a_good_call_would_change_nothing() -> None:
    """Not before it is full, and not while it holds a bad call: good calls of a healthy dependency need no
    recording."""
    window = CountWindow(3)
    seen = [window.steady]
    for failed, slow in [(False, False)] * 3 + [(True, False)] + [(False, False)] * 3 + [(False, True)] * 2:
        window.record(failed, slow, 0.0)
        seen.append(window.steady)
    window.clear()
    assert [*seen, window.steady] == [*[False] * 3, True, *[False] * 3, True, *[False] * 3]


def test_time_window_is_never_steady() -> None:
    """Each call counts in its slice."""
    window = TimeWindow(10.0)
    for second in range(30):
        window.record(False, False, float(second))
        assert not window.steady


def test_count_window_of_one_remembers_the_last_call_only() -> None:
    """One call is the smallest ring."""
    window = CountWindow(1)
    window.record(True, False, 0.0)
    window.record(False, True, 0.0)
    assert sums(window) == (1, 0, 1)


def test_count_window_record_costs_the_same_in_a_window_of_any_size() -> None:
    """Constant work: 100,000 times the window is not 50 times the work (adding it up would be far more)."""

    def seconds(window: CountWindow) -> float:
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(200):
                window.record(True, False, 0.0)
            best = min(best, time.perf_counter() - begin)
        return best

    assert seconds(CountWindow(1_000_000)) < 50 * seconds(CountWindow(10))


def test_time_window_forgets_calls_a_slice_at_a_time() -> None:
    """Ten seconds are ten slices of one: a call is forgotten when its whole slice is older than the window."""
    window = TimeWindow(10.0)
    window.record(True, True, 100.0)
    window.record(True, False, 100.9)
    window.record(False, True, 101.0)
    window.record(False, False, 109.9)
    assert sums(window) == (4, 2, 2)
    window.record(False, False, 110.0)  # the slice from 100 to 101 goes
    assert sums(window) == (3, 0, 1)
    window.record(False, False, 111.0)
    assert sums(window) == (3, 0, 0)


@pytest.mark.parametrize("gap", [10.0, 10.5, 1e6, 1e15])
def test_time_window_after_a_gap_as_long_as_itself_begins_anew(gap: float) -> None:
    """After a gap of any length from that on, no old call is left."""
    window = TimeWindow(10.0)
    for second in range(10):
        window.record(True, True, float(second))
    window.record(False, False, 9.9 + gap)
    assert sums(window) == (1, 0, 0)


def test_time_window_counts_a_late_call_in_the_current_slice() -> None:
    """A thread that was delayed brings a time of the slice before: the call counts, and no other is dropped."""
    window = TimeWindow(10.0)
    window.record(False, False, 105.0)
    window.record(True, False, 104.9)
    assert sums(window) == (2, 1, 0)
    window.record(False, False, 114.9)
    assert sums(window) == (3, 1, 0)


@pytest.mark.parametrize("window", [CountWindow(64), TimeWindow(0.01)], ids=["count", "time"])
def test_window_cleared_by_one_thread_while_others_record_stays_whole(window: CountWindow | TimeWindow) -> None:
    """No interleaving of `clear` and `record` leaves sums that a later full turn of the window does not put right."""
    over = threading.Event()
    errors: list[BaseException] = []

    def record() -> None:
        now = 0.0
        try:
            while not over.is_set():
                now += 0.0007  # the time window turns with every second record
                window.record(True, True, now)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=record) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            window.clear()
    finally:
        sys.setswitchinterval(interval)
        over.set()
        for thread in threads:
            thread.join()
    assert errors == []
    for step in range(64):
        window.record(False, False, 1e9 + step)
    assert sums(window) == ((64, 0, 0) if isinstance(window, CountWindow) else (1, 0, 0))
