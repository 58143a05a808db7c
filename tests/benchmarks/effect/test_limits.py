"""The benchmark of limits: what it reports, in small; and the rules of others, by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.contenders.limit_algorithms import Aimd, Gradient2, NetflixVegas
from benchmarks.effect import limits
from resilient.limiters import Window


def run(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    file, picture = tmp_path / "limits.json", tmp_path / "limits.png"
    status = command.main(["limits", "--quick", "--json", str(file), "--plot", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(file.read_text())
    return status, found


def test_every_row_is_there_with_its_bar_and_one_seed_gives_one_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A few seconds of each; what is found then is judged all the same."""
    monkeypatch.setattr(limits, "QUICK", limits.Plan(seeds=1, begin=2))
    monkeypatch.setattr(limits, "PHASES", ((2.0, 20), (2.0, 10)))
    monkeypatch.setattr(limits, "BEGINS", (20,))
    monkeypatch.setattr(limits, "SPIKE", (1.0, 2.0))
    status, found = run(tmp_path)

    assert status == (found["verdict"] == "miss")
    rows = {(each["group"], each["name"]): each for each in found["figures"]}
    names = [row.name for row in limits.rows()]
    for group in ("E6, from 0 s: 20 workers", "E6, from 2 s: 10 workers"):
        assert all(0.3 < rows[group, name]["of_capacity_x"] < 1.2 for name in names)
        assert rows[group, "AdaptiveLimit"]["bar"] == {"of_capacity_x_at_least": 0.95}
        assert rows[group, "AdaptiveLimit: p50"]["bar"] == {"p50_ms_at_most": 60}
        assert rows[group, "Netflix' Vegas, 1 s"]["bar"] is None
    spike = rows["priorities: 12 times the sheddable calls", "AdaptiveLimit"]
    assert spike["bar"] == {"critical_percent_at_least": 99.4}
    assert spike["critical_percent"] > spike["sheddable_percent"]
    assert run(tmp_path)[1] == found


def window(mean: float, *, failures: int = 0, peak: int = 20) -> Window:
    return Window(1.0, 100, failures, mean, 0.0, peak)


@pytest.mark.parametrize(
    ("mean", "peak", "failures", "found"),
    [
        (0.050, 100, 0, 112),  # none waits: six steps, of two at a limit of 100
        (0.051, 100, 0, 112),  # two wait: not more than a step
        (0.0525, 100, 0, 102),  # five: fewer than three steps
        (0.055, 100, 0, 100),  # ten
        (0.060, 100, 0, 98),  # seventeen: more than six steps
        (0.050, 100, 1, 98),
        (0.060, 49, 0, 100),  # unused
    ],
)
def test_vegas_of_netflix(mean: float, peak: int, failures: int, found: float) -> None:
    """As published."""
    random.seed(1)
    rule = NetflixVegas()
    rule.update(100, window(0.05, peak=10))
    assert rule.update(100, window(mean, peak=peak, failures=failures)) == found


def test_gradient_of_netflix() -> None:
    """A fifth of the way to the limit times 1.5 long means by the last one, and four; between 20 and 200."""
    rule = Gradient2()
    assert rule.update(100, window(0.05, peak=100)) == pytest.approx(0.8 * 100 + 0.2 * 104)
    assert rule.long == pytest.approx(0.05)
    assert rule.update(100, window(0.15, peak=100)) == pytest.approx(0.8 * 100 + 0.2 * (100 * 1.5 * 0.1 / 0.15 + 4))
    assert rule.update(100, window(0.05, peak=10)) == 100
    assert Gradient2().update(400, window(0.05, peak=400)) == 200


def test_additive_increase_and_multiplicative_decrease() -> None:
    """One more, or a tenth less."""
    rule = Aimd()
    assert rule.update(20, window(0.09)) == 21
    assert rule.update(20, window(0.11)) == 18
    assert rule.update(20, window(0.09, failures=1)) == 18
    assert rule.update(20, window(0.09, peak=9)) == 20
