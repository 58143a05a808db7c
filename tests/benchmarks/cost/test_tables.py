"""The Markdown tables of README.md and docs/performance.md."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cost import tables


def row(group: str, name: str, multiple: float | None, **more: Any) -> dict[str, Any]:
    values = {} if multiple is None else {"multiple_x": multiple}
    known = {"bar": None, "at_bar": False, "verdict": None, "note": ""}
    return {"group": group, "name": name, "ours": name.startswith("resilient"), **values, **known, **more}


def run(*figures: dict[str, Any]) -> dict[str, Any]:
    return {"overhead": {"figures": list(figures)}}


def test_peer_that_is_ahead_is_named_with_its_figure() -> None:
    """The fastest peer comes first. Peers that cost more are left out, and so are variants of ours."""
    found = run(
        row("async: Retry", "resilient", 4.0),
        row("async: Retry", "resilient, with more", 1.0),
        row("async: Retry", "slow 1.0", 9.0),
        row("async: Retry", "by hand, asyncio", 3.0, note="a loop"),
        row("async: Retry", "quick 0.2.0", 2.0),
        row("async: Retry", "absent", None, note="not installed"),
        row("async: Bulkhead", "resilient", 4.0),
        row("async: Bulkhead", "slow 1.0", 9.0),
    )
    *_, line = tables.ahead(found).splitlines()
    assert line == "| async: Retry | 4.0 | quick 2.0, by hand 3.0 (a loop) |"
    assert "Bulkhead" not in tables.ahead(found)


def test_highlights_say_which_peers_are_ahead_and_when_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence below the table names them."""
    monkeypatch.setattr(tables, "HIGHLIGHTS", {"async: Retry": "Retry"})
    ours, peers = row("async: Retry", "resilient", 4.0), [row("async: Retry", f"{at} 1.0", at) for at in (3.0, 5.0)]

    assert tables.highlights(run(ours, *peers)).endswith("Peers are ahead in these rows: Retry (3.0).")
    assert tables.highlights(run(ours, peers[1])).endswith("No peer is ahead in these rows.")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"verdict": "pass"}, "0.90 (0.80 to 0.95), at most 1 × peer 1.0: met"),
        ({"verdict": "pass", "at_bar": True}, "0.90 (0.80 to 0.95), at most 1 × peer 1.0: at the bar"),
        ({"verdict": "miss"}, "0.90 (0.80 to 0.95), at most 1 × peer 1.0: **missed**"),
    ],
)
def test_bar_is_shown_with_the_interval_and_the_verdict(more: dict[str, Any], said: str) -> None:
    """The value, its interval, the bar and the committed verdict are in one cell."""
    ratio = {"ratio_x": 0.9, "ratio_low_x": 0.8, "ratio_high_x": 0.95, "bar": {"ratio_x_at_most": 1.0}}
    found = run(row("async: Retry", "resilient", 4.0, **ratio, against="peer 1.0", **more))
    assert tables.TABLES["async"](found).endswith(f"| Retry | 4.0 |  | {said} |")
