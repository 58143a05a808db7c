"""Percentiles of measured values, by nearest rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentile"]


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values do not exceed; None without values.

    Args:
        ordered: the values, in ascending order.
        share: from 0 to 1.
    """
    if not ordered:
        return None
    # Rounded first: a product that is a little above a whole number in binary would take the next rank.
    rank = math.ceil(round(share * len(ordered), 9))
    return ordered[max(rank, 1) - 1]
