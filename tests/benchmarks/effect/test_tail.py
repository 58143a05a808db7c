"""The tail benchmark: its backends are the published distributions, and its judgements can fail."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import tail
from benchmarks.effect.queueing import Server
from benchmarks.effect.tail import Measured, Row
from benchmarks.harness.report import Bar
from resilient.runtime import virtual


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few requests: these tests look at the report; only some at the figures, loosely."""
    monkeypatch.setattr(tail, "QUICK", tail.Plan(seeds=2, requests=400, fanned_out=4, parts=2, served=300))


def run_quick(tmp_path: Path, *more: str) -> dict[str, Any]:
    file = tmp_path / "tail.json"
    command.main(["tail", "--quick", "--json", str(file), *more])
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def measured(*milliseconds: float, asked: int = 0) -> Measured:
    found = Measured()
    found.requests.extend(milliseconds)
    found.calls.extend(milliseconds)
    found.asked = asked or len(milliseconds)
    return found


@pytest.mark.parametrize(
    ("draw", "computed", "places"),
    [
        (tail.draw_lognormal, tail.tail_lognormal, [2, 4.8, 8.7, 17.4, 64.2, 102.5]),
        (tail.draw_published, tail.tail_published, [1, 2, 3, 5, 10, 30, 69, 200]),
    ],
)
def test_draws_have_the_computed_tail(
    draw: Callable[[random.Random], float], computed: Callable[[float], float], places: list[float]
) -> None:
    """At every place, within five standard errors."""
    generator = random.Random(1)
    drawn = [draw(generator) for _ in range(20_000)]

    for place in places:
        share = sum(each > place for each in drawn) / len(drawn)
        error = math.sqrt(computed(place) * (1 - computed(place)) / len(drawn))
        assert abs(share - computed(place)) <= 5 * error + 1e-12


@pytest.mark.parametrize(("milliseconds", "share"), tail.POINTS)
def test_distribution_of_the_tail_at_scale_passes_through_its_points(milliseconds: float, share: float) -> None:
    """As the specification of the experiment gives them."""
    assert tail.tail_published(milliseconds) == pytest.approx(share)


def test_lognormal_backend_has_the_mean_and_deviation_of_the_experiment() -> None:
    """5 and 2 ms, and a twentieth of it ten times as slow: 5 x (0.95 + 0.5) ms on average."""
    generator = random.Random(1)
    drawn = [tail.draw_lognormal(generator) for _ in range(50_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(5 * 1.45, rel=0.02)


def test_computed_tail_of_a_hedged_call_is_the_product_of_its_copies() -> None:
    """The first copy from the start, the second from 10 ms, the third from 20 ms on."""
    single = tail.tail_lognormal
    assert tail.NONE.tail(30) == single(30)
    assert tail.ONCE.tail(30) == pytest.approx(single(30) * single(20))
    assert tail.TWICE.tail(30) == pytest.approx(single(30) * single(20) * single(10))
    assert tail.ONCE.tail(9) == single(9)


def test_hedge_follows_the_formula_and_shortens_the_tail() -> None:
    """3,000 real hedged calls: within four standard errors of S(t) S(t - d), far below the tail without."""
    hedged, bare = (virtual.run(tail.simulate(row, 3_000, "1")) for row in (tail.ONCE, tail.NONE))

    assert tail.formula(tail.ONCE, hedged).verdict == "pass"
    assert tail.formula(tail.ONCE, bare).verdict == "miss"
    assert hedged.values()["p99_ms"] < bare.values()["p99_ms"] / 2
    assert hedged.values()["extra_percent"] == pytest.approx(7.2, abs=2)


def test_fanned_out_request_lasts_as_long_as_its_slowest_call() -> None:
    """With one client, every hundred calls are one request."""
    found = virtual.run(tail.simulate(tail.FANNED_ONCE, 3, "1"))
    calls = list(found.calls)

    assert list(found.requests) == [pytest.approx(max(calls[at : at + 100])) for at in (0, 100, 200)]
    assert found.asked >= 300


def test_quantile_is_the_number_that_the_share_does_not_exceed() -> None:
    """Of a thousand, p99.9 is the last but one."""
    numbers = [float(number) for number in range(1, 1001)]
    assert tail.quantile(numbers, 0.999) == 999
    assert tail.quantile(numbers, 0.5) == 500


def test_interval_covers_the_true_quantile_as_often_as_it_says() -> None:
    """400 samples of 500, exponential: p99 is outside in one of twenty."""
    generator = random.Random(1)
    true = -math.log(0.01)
    outside = 0
    for _ in range(400):
        low, high = tail.interval([generator.expovariate(1) for _ in range(500)], 0.99)
        assert low < high
        outside += not low <= true <= high
    assert 2 <= outside <= 30


def test_interval_of_few_numbers_has_no_upper_end() -> None:
    """In 2,000, it may well be that none lies beyond p99.9."""
    assert tail.interval([float(number) for number in range(2_000)], 0.999)[1] == math.inf


def test_plus_minus_is_the_interval_of_students_t() -> None:
    """Mean 0 and deviation 1 of three: 4.303 / sqrt(3)."""
    assert tail.plus_minus([-1.0, 0.0, 1.0]) == pytest.approx(4.303 / math.sqrt(3))


@pytest.mark.parametrize(("row", "verdict"), [(tail.ONCE, "miss"), (tail.TWICE, "miss"), (tail.FANNED_ONCE, "miss")])
def test_figures_that_are_far_off_miss_their_bars(row: Row, verdict: str) -> None:
    """Each hedge took 500 ms, always, and twice the requests."""
    seed = measured(*[500.0] * 200, asked=400)
    other = measured(*[501.0] * 200, asked=400)

    figures = tail.judged(row, Measured.pooled([seed, other]), [seed, other])

    assert {figure.verdict for figure in figures} == {verdict}


def test_quantiles_are_judged_by_the_interval_that_the_order_gives() -> None:
    """Of 2,000 requests between 16 and 18 ms the p99 is not known well enough to miss a bar of 17.97."""
    spread = [16 + 2 * at / 2_000 for at in range(2_000)]
    seeds = [measured(*spread[::2]), measured(*spread[1::2])]
    figures = {figure.name: figure for figure in tail.judged(tail.OBSERVED, Measured.pooled(seeds), seeds)}
    p99 = figures[f"{tail.OBSERVED.name}: p99"]

    assert p99.values["p99_low_ms"] < p99.values["p99_ms"] < p99.values["p99_high_ms"]
    assert not Bar("p99_ms", 17).met(p99.values)
    assert Bar("p99_ms", 17.97).near(p99.values)


def test_bars_of_our_rows_are_ratios_to_their_rivals() -> None:
    """Within 5% of the static rows; two hedges: p99, p99.9 and extra requests; E1 in its interval for 2%."""
    seeds = [measured(*range(1, 200)), measured(*range(2, 201))]
    pool = Measured.pooled(seeds)
    bars = {row.name + row.group[:2]: [each.bar for each in tail.judged(row, pool, seeds)] for row in tail.ROWS}

    assert bars == {
        "noneE2": [None],
        "10 msE2": [Bar("off_percent", 5)],
        "10 ms, then 20 msE2": [
            Bar("off_percent", 5),
            Bar("p99_ms", 17),
            Bar("p999_ms", 30),
            Bar("extra_percent", 8),
        ],
        "observed p92.5, 3 copiesE2": [None, Bar("p99_ms", 17), Bar("p999_ms", 30), Bar("extra_percent", 8)],
        "noneE1": [None],
        "10 msE1": [Bar("outside_ms", 0), Bar("extra_percent", 2.2)],
        "observed p98E1": [None, Bar("p999_ms", 80), Bar("extra_percent", 2.2)],
    }


def test_bars_under_load_are_those_of_the_issue() -> None:
    """A budgeted hedge is never worse than none; a server that stops cancelled work is within 15% of 6.0 and 6.6."""
    bars = {(row.load, row.name): row.bar for row in tail.loaded() if row.bar is not None}
    stopped = "after 4 s, the server stops what is cancelled"
    assert {load: bars[load, stopped] for load in (0.8, 0.9)} == {
        0.8: Bar("p99_s", 6.9),
        0.9: Bar("p99_s", 7.59),
    }
    budgeted = [bar for (_, name), bar in bars.items() if "budget" in name]
    assert budgeted == [Bar("worse_s", 0)] * 9


def test_server_that_stops_takes_up_the_next_at_once_and_another_does_not() -> None:
    """One request of 20 s whose caller goes after 5, and one behind it."""

    async def behind(stops: bool) -> float:
        loop, server = asyncio.get_running_loop(), Server()
        first, second = loop.create_future(), loop.create_future()
        server.take(first, 20.0)
        server.take(second, 1.0)
        await asyncio.sleep(5)
        server.drop(first, stops)
        await second
        assert server.length == 0
        return loop.time()

    assert virtual.run(behind(True)) == 6
    assert virtual.run(behind(False)) == 21


def test_server_drops_what_waits_when_its_caller_has_gone() -> None:
    """Whether it stops or not."""

    async def main() -> float:
        loop, server = asyncio.get_running_loop(), Server()
        futures = [loop.create_future() for _ in range(3)]
        for future in futures:
            server.take(future, 2.0)
        server.drop(futures[1], False)
        await futures[2]
        return loop.time()

    assert virtual.run(main()) == 4


def test_report_has_every_row_with_units_and_a_picture_of_tails(tmp_path: Path) -> None:
    """Keys that others read; and the same seed gives the same report."""
    picture = tmp_path / "tail.png"
    found = run_quick(tmp_path, "--plot", str(picture))

    once = next(figure for figure in found["figures"] if figure["name"] == "10 ms")
    assert {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "p999_plus_minus_ms", "extra_percent"} <= set(once)
    fanned = [figure for figure in found["figures"] if figure["group"].startswith("E1")]
    assert {"p999_low_ms", "outside_ms"} <= set(fanned[1])
    assert found["conditions"]["requests"] == 800
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run_quick(tmp_path)["figures"] == found["figures"]
