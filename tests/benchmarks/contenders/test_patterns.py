"""The rows of the patterns: their bars, and peers that are missing or broken."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from benchmarks.contenders import patterns, peers, targets
from benchmarks.contenders.bars import Limit
from benchmarks.contenders.peers import Peer
from benchmarks.harness.report import Bar


def test_peer_that_is_not_installed_is_a_row_without_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers are optional: the row says that the library is not installed."""

    def missing() -> Any:
        raise ModuleNotFoundError("no such peer")

    monkeypatch.setattr(patterns, "PEERS", (Peer("absent", missing),))
    _, row = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    with targets.Stage(is_async=True) as stage:
        assert row.subject(stage) == "not installed"


def test_peer_that_breaks_is_named_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose API has changed does not end the run."""

    def build() -> dict[str, peers.Decorator]:
        def decorate(function: Any) -> Any:
            raise TypeError("another signature")

        return {"retry": decorate}

    monkeypatch.setattr(patterns, "PEERS", (Peer("broken", build),))
    _, row = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    with targets.Stage(is_async=True) as stage:
        assert row.subject(stage) == "not measured: TypeError: another signature"


def test_bar_against_a_missing_peer_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio to a row that does not exist never passes."""
    monkeypatch.setattr(patterns, "PEERS", ())
    (row,) = patterns.rows(patterns.Pattern("retry", "Retry"), "async")

    figure = row.figure("async", {"multiple_x": 1.0})
    assert (str(figure.bar), figure.verdict) == ("<= 1 x nopanic", "miss")


@pytest.mark.parametrize(
    ("key", "bar"),
    [
        ("retry", Bar("ratio_x", 1.0, against=f"nopanic {metadata.version('nopanic')}")),
        ("stack, a total timeout around it", Bar("ratio_x", 1.45, against="resilient")),
        ("deadline, a Retry beneath", Bar("multiple_x", 32)),
        ("hedge, inline, quantile", Bar("added_x", 10)),
    ],
)
def test_bars_are_ratios_multiples_or_added_cost(key: str, bar: Bar) -> None:
    """The limit and the pattern of a row determine which value its bar is on."""
    (pattern,) = (each for each in patterns.PATTERNS if key in (each.key, *each.variants))
    found = {row.decorate: row.bar for row in patterns.rows(pattern, "async") if row.limit is not None}
    assert bar in found.values()


def test_bar_on_added_cost_judges_the_added_cost_alone() -> None:
    """A Retry with a Budget may cost 6 if the Budget adds less than 1."""
    pattern = patterns.Pattern("b", "B", beyond="a")
    row = patterns.Row(pattern, patterns.US, None, "resilient", limit=Limit(1))

    assert row.base == "a: resilient"
    assert row.figure("async", {"multiple_x": 6, "added_x": 0.9}).verdict == "pass"
    assert row.figure("async", {"multiple_x": 6, "added_x": 1.1}).verdict == "miss"
