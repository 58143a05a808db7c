"""Settings of Hypothesis for the properties of this suite: a share of their examples, so that the suite stays quick.

`RESILIENT_EXAMPLES=1 pytest` tries all of them; 10, ten times as many.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

__all__ = ["search"]

SHARE = float(os.environ.get("RESILIENT_EXAMPLES", "0.25"))


def search(examples: int, **options: Any) -> settings:
    """Return settings for a property that deserves so many examples at a share of 1. Each run tries the same ones."""
    return settings(deadline=None, derandomize=True, max_examples=max(5, round(examples * SHARE)), **options)
