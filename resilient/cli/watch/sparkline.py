"""A row of bars, one for each value, the newest last."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["sparkline"]

BARS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"


def sparkline(values: Sequence[float | None], width: int, *, ascii_only: bool = False) -> str:
    """Return the last `width` values as bars, between 0 and the greatest of them; a blank for None, and before the
    first value."""
    bars = ASCII if ascii_only else BARS
    shown = values[-width:] if width > 0 else ()
    most = max((each for each in shown if each is not None), default=0.0)
    row = "".join(" " if each is None else bars[_height(each, most, len(bars))] for each in shown)
    return row.rjust(max(0, width))


def _height(value: float, most: float, heights: int) -> int:
    if most <= 0:
        return 0
    return min(heights - 1, max(0, round(value / most * (heights - 1))))
