"""The tail benchmark: hedges follow the formula, bars can be missed, and the report is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import latencies, tail
from benchmarks.effect.tail import Measured, Row
from benchmarks.harness.report import Bar
from resilient.runtime import virtual


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few requests: most of these tests check the report, and some check the figures, loosely."""
    monkeypatch.setattr(tail, "QUICK", tail.Plan(seeds=2, requests=200, fanned_out=2, parts=2, served=150))


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


def test_computed_tail_of_a_hedged_call_is_the_product_of_its_copies() -> None:
    """The first copy from the start, the second from 10 ms on, the third from 20 ms on."""
    single = latencies.tail_lognormal
    assert tail.NONE.tail(30) == single(30)
    assert tail.ONCE.tail(30) == pytest.approx(single(30) * single(20))
    assert tail.TWICE.tail(30) == pytest.approx(single(30) * single(20) * single(10))
    assert tail.ONCE.tail(9) == single(9)


def test_hedge_follows_the_formula_and_shortens_the_tail() -> None:
    """3,000 real hedged calls are within four standard errors of S(t) S(t - d), far below the tail without a hedge."""
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


@pytest.mark.parametrize(("row", "verdict"), [(tail.ONCE, "miss"), (tail.TWICE, "miss"), (tail.FANNED_ONCE, "miss")])
def test_figures_that_are_far_off_miss_their_bars(row: Row, verdict: str) -> None:
    """Each request takes 500 ms, and half of the calls are extra."""
    seed = measured(*[500.0] * 200, asked=400)
    other = measured(*[501.0] * 200, asked=400)

    figures = tail.judged(row, Measured.pooled([seed, other]), [seed, other])

    assert {figure.verdict for figure in figures} == {verdict}


def test_quantiles_are_judged_by_their_interval() -> None:
    """Of 2,000 requests between 16 and 18 ms, the p99 is not known precisely enough to miss a bar of 17.97."""
    spread = [16 + 2 * at / 2_000 for at in range(2_000)]
    seeds = [measured(*spread[::2]), measured(*spread[1::2])]
    figures = {figure.name: figure for figure in tail.judged(tail.OBSERVED, Measured.pooled(seeds), seeds)}
    p99 = figures[f"{tail.OBSERVED.name}: p99"]

    assert p99.values["p99_low_ms"] < p99.values["p99_ms"] < p99.values["p99_high_ms"]
    assert not Bar("p99_ms", 17).met(p99.values)
    assert Bar("p99_ms", 17.97).near(p99.values)


def test_bars_of_each_row() -> None:
    """Fixed delays within 5% of the published figures; two copies on p99, p99.9 and extra requests; E1 within its
    interval for 2.2%."""
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


def test_report_has_every_row_with_units_and_a_plot_of_tails(tmp_path: Path) -> None:
    """Keys that other programs read are there, and one seed gives one report."""
    plot = tmp_path / "tail.png"
    found = run_quick(tmp_path, "--plot", str(plot))

    once = next(figure for figure in found["figures"] if figure["name"] == "10 ms")
    assert {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "p999_plus_minus_ms", "extra_percent"} <= set(once)
    fanned = [figure for figure in found["figures"] if figure["group"].startswith("E1")]
    assert {"p999_low_ms", "outside_ms"} <= set(fanned[1])
    assert found["conditions"]["requests"] == 400
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run_quick(tmp_path)["figures"] == found["figures"]
