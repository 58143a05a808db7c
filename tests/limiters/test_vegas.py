"""Vegas: when a limit grows, falls, stays and is probed; and the limits that it finds for a server with a queue."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.effect.limits import MEAN, offer
from resilient import AdaptiveLimit
from resilient.limiters import Limiter, Vegas, Window
from resilient.runtime import virtual


def window(
    successes: int, mean: float, *, failures: int = 0, peak: int = 20, seconds: float = 1.0, deviation: float = 0.0
) -> Window:
    return Window(seconds, successes, failures, mean, deviation, peak)


def begun(**options: Any) -> Vegas:
    """A Vegas after its first window."""
    vegas = Vegas(**options)
    assert vegas.update(24, window(10, 0.001)) == 24
    return vegas


def learnt(unloaded: float = 0.05, rate: int = 400, **options: Any) -> Vegas:
    """A Vegas that knows the duration of a call that does not wait, with no probe due."""
    vegas = begun(**options)
    vegas.update(24, window(rate, unloaded, peak=10))
    assert vegas.unloaded == pytest.approx(unloaded)
    return vegas


def falling() -> Vegas:
    """A Vegas whose limit was 44 and is halved by a probe: half as many calls were served as could be, and most of them
    waited."""
    vegas = learnt()
    assert vegas.update(40, window(400, 0.05, peak=40)) == 44
    assert vegas.update(44, window(200, 0.22, peak=44)) == 44
    assert vegas.update(44, window(200, 0.22, peak=44)) == 22
    return vegas


# -- steady ---------------------------------------------------------------------------------------------------------


def test_grows_in_steps_that_double_while_no_call_waits() -> None:
    """Each step is the room: two, and a tenth of the calls that are processed."""
    vegas, limit, limits = learnt(), 20.0, []
    for _ in range(4):
        limit = vegas.update(limit, window(400, 0.05, peak=int(limit)))
        limits.append(limit)
    assert limits == [pytest.approx(20 + 4 * strides) for strides in (1, 3, 7, 15)]


def test_stays_while_about_as_many_wait_as_there_is_room_for() -> None:
    """400 calls a second that take 10 ms longer than unloaded ones: four wait."""
    vegas = learnt()
    assert vegas.update(24, window(400, 0.06, peak=24)) == 24
    assert vegas.update(24, window(400, 0.05, peak=24)) == 24 + 4  # the strides begin anew
    assert vegas.update(28, window(400, 0.06, peak=28)) == 28
    assert vegas.update(28, window(400, 0.05, peak=28)) == 28 + 4


def test_falls_at_once_to_what_fits_when_too_many_wait_for_two_windows() -> None:
    """Ten calls wait: too many for 20 that are processed. A single such window may be a hiccup."""
    vegas = begun()
    vegas.update(30, window(400, 0.05, peak=10))
    assert vegas.update(30, window(400, 0.075, peak=30)) == 30
    assert vegas.update(30, window(400, 0.06, peak=30)) == 30
    assert vegas.update(30, window(400, 0.075, peak=30)) == 30
    assert vegas.update(30, window(400, 0.075, peak=30)) == pytest.approx(24)


def test_chance_alone_makes_it_neither_fall_nor_stay() -> None:
    """The mean of 100 calls with a deviation of 50 ms has a standard error of 5 ms."""
    assert learnt().update(24, window(100, 0.08, peak=24, deviation=0.0)) == 24
    assert learnt().update(24, window(100, 0.075, peak=24, deviation=0.3)) > 24
    assert learnt().update(35, window(400, 0.075, peak=35, deviation=0.3)) == 35


def test_unused_limit_stays_and_learns_what_a_call_takes() -> None:
    """The calls are slower or faster than before: no call waits where there is room."""
    vegas = learnt()
    assert vegas.update(100, window(200, 0.2, peak=40)) == 100
    assert vegas.unloaded == pytest.approx(0.2)
    vegas.update(100, window(600, 0.21, peak=40))
    assert vegas.unloaded == pytest.approx(0.2075)  # of one kind: an average


def test_quicker_dependency_is_known_at_once() -> None:
    """No call is faster than one that does not wait. A small difference may be chance, and is averaged."""
    vegas = learnt()
    vegas.update(20, window(400, 0.02))
    assert vegas.unloaded == 0.02
    vegas.update(20, window(400, 0.016))
    assert vegas.unloaded == pytest.approx(0.018)


def test_few_quick_calls_are_no_quicker_dependency() -> None:
    """The mean of 35 exponential times is less than six tenths of the true one in one of a hundred cases."""
    vegas = learnt(0.2, 35)
    vegas.update(20, window(35, 0.11, deviation=0.11))
    assert vegas.unloaded == pytest.approx(0.155)
    vegas = learnt(0.2, 35)
    vegas.update(20, window(35, 0.11, deviation=0.01))
    assert vegas.unloaded == pytest.approx(0.11)


def test_first_window_counts_for_nothing() -> None:
    """The calls that end first are the fast ones: the mean of such a window is too low."""
    vegas = Vegas()
    assert vegas.update(20, window(400, 0.01)) == 20
    assert vegas.unloaded is None
    assert vegas.update(20, window(400, 0.05)) == 24
    assert vegas.unloaded == 0.05


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "failures", "falls"), [(90, 10, False), (89, 11, True), (0, 10, True), (99, 1, False)]
)
def test_more_than_a_tenth_of_failures_takes_a_tenth_of_the_limit(successes: int, failures: int, falls: bool) -> None:
    """Fewer failures do not count: a dependency that fails a little all the time would end with a limit of 1."""
    limit = learnt().update(20, window(successes, 0.05, failures=failures))
    assert (limit == 18) is falls
    assert limit >= 18


def test_mass_failure_brings_the_highest_limit_down_within_a_minute() -> None:
    """It falls from 1,000 to 1; the first good window lets it grow again."""
    vegas, limit, windows = learnt(), 1000.0, 0
    while limit > 1:
        limit, windows = vegas.update(limit, window(0, 0.0, failures=50, peak=int(limit))), windows + 1
    assert windows < 70
    assert vegas.update(1, window(20, 0.05, peak=1)) > 2


# -- probes ---------------------------------------------------------------------------------------------------------


def test_far_fall_is_made_sure_of_by_a_probe() -> None:
    """The limit is halved, the queue drains, calls are timed; then the limit falls to what fits."""
    vegas = falling()
    assert vegas.window == pytest.approx(0.44)
    assert vegas.update(22, window(90, 0.1, peak=30)) == 22
    assert (vegas.window, vegas.samples) == (0.5, 50)
    assert vegas.update(22, window(100, 0.052, peak=20)) == pytest.approx(22)
    assert (vegas.window, vegas.samples) == (1.0, Limiter.samples)


def test_probe_that_finds_slower_calls_ends_the_fall() -> None:
    """The dependency is slower, and no call waits: the limit stays."""
    vegas = falling()
    vegas.update(22, window(100, 0.22, peak=22))
    assert vegas.update(22, window(100, 0.22, peak=20)) == pytest.approx(44)
    assert vegas.unloaded == pytest.approx(0.22)


def test_probe_is_repeated_while_calls_take_so_much_less_time() -> None:
    """The capacity falls from 40 to 10 calls: under half of a limit that is four times too high, calls still wait."""
    vegas = begun()
    assert vegas.update(40, window(200, 0.2, peak=40)) == 46
    assert vegas.update(44, window(200, 0.22, peak=44)) == 22  # never yet made sure of
    vegas.update(22, window(200, 0.15, peak=40))
    assert vegas.update(22, window(100, 0.11, peak=22)) == 11
    vegas.update(11, window(100, 0.08, peak=15))
    assert vegas.update(11, window(100, 0.05, peak=11)) == 5.5
    vegas.update(5.5, window(100, 0.05, peak=10))
    assert vegas.update(5.5, window(50, 0.05, peak=5)) == pytest.approx(13)
    assert vegas.unloaded == pytest.approx(0.05)


def test_standstill_is_no_reason_to_fall() -> None:
    """The calls that it has delayed take less and less time; later ones take as long as before."""
    vegas = learnt(0.1, 700)
    assert vegas.update(90, window(200, 5.0, peak=90, seconds=10)) == 90
    assert vegas.update(90, window(900, 2.0, peak=90)) == 90
    assert vegas.update(90, window(900, 0.5, peak=90)) == 90
    assert vegas.update(90, window(700, 0.1, peak=90)) > 90


def test_overload_that_does_not_get_better_is_one() -> None:
    """A slightly smaller mean in one window is chance."""
    vegas = learnt()
    assert vegas.update(44, window(200, 0.22, peak=44)) == 44
    assert vegas.update(44, window(200, 0.19, peak=44)) < 44


def test_no_probe_is_begun_in_what_may_be_a_hiccup() -> None:
    """It would time calls that the hiccup has delayed."""
    vegas = begun()
    assert vegas.update(24, window(400, 0.05, peak=24)) == 28  # a probe has been due since
    assert vegas.update(28, window(400, 0.5, peak=28)) == 28
    assert vegas.update(28, window(400, 0.06, peak=28)) == 14


def test_long_probe_is_not_repeated_before_ten_times_as_long_has_passed() -> None:
    """Where a call takes seconds, timing fifty of them takes most of a minute."""
    vegas = learnt(4.0, 4, probe_every=30)
    for _ in range(31):
        if vegas.update(24, window(4, 4.8, peak=24)) == 12:
            break
    vegas.update(12, window(24, 4.0, peak=24, seconds=8))
    vegas.update(12, window(50, 4.0, peak=12, seconds=17))
    windows = 0
    while vegas.update(24, window(4, 4.8, peak=24)) == 24:
        windows += 1
    assert windows == 10 * (8 + 17) - 1


def test_probes_come_now_and_then_while_calls_wait() -> None:
    """They come after 15 to 30 s, at random; not while the limit grows, and not while it is unused."""
    random.seed(1)
    due = []
    for _ in range(20):
        vegas, windows = learnt(probe_every=30), 0
        while vegas.update(24, window(400, 0.06, peak=24)) == 24:
            windows += 1
        due.append(windows)
    assert 13 <= min(due) < 20
    assert 25 < max(due) <= 30
    unused = learnt()
    assert {unused.update(100, window(400, 0.05, peak=20)) for _ in range(100)} == {100}


def test_probe_without_an_answer_changes_nothing() -> None:
    """All of its calls failed, or there were none."""
    vegas = falling()
    vegas.update(22, window(0, 0.0, failures=10))
    assert vegas.update(22, window(0, 0.0, failures=10)) == pytest.approx(22)
    assert vegas.unloaded == pytest.approx(0.05)


# -- what it finds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "served"), [(5, 0.85), (20, 0.9), (60, 0.9)])
def test_capacity_of_a_real_queue_is_found_and_held(workers: int, served: float) -> None:
    """The limit starts at 20, with half as many calls again as the server can process."""
    random.seed(workers)
    limit = AdaptiveLimit()
    seen = virtual.run(offer(limit, 1.5 * workers / MEAN, [(30.0, workers)], random.Random(workers)))
    assert len(seen.served(15, 30)) / 15 >= served * workers / MEAN
    assert workers <= sum(seen.limits[15:]) / 15 <= 1.8 * workers + 6


@pytest.mark.parametrize(
    ("options", "words"),
    [({"window": 0}, "window"), ({"failures": 1.5}, "failures"), ({"probe_every": -1}, "probe_every")],
)
def test_wrong_settings_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=words):
        Vegas(**options)


def test_limiter_is_whatever_has_what_one_has() -> None:
    """A limiter need not be a subclass of `Limiter`."""

    class Mine:
        window = 1.0
        samples = 10
        unloaded = None

        def update(self, limit: float, window: Window) -> float:
            return limit

    assert AdaptiveLimit(limiter=Mine).limiter.update(3, window(1, 1)) == 3
