"""Published algorithms of adaptive limits, which `limits` compares with our `Vegas`.

The formulas and defaults are those of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits).
"""

from __future__ import annotations

import math
import random

from resilient.limiters import Limiter, Window

__all__ = ["Aimd", "Gradient2", "NetflixVegas"]


class NetflixVegas(Limiter):
    """`VegasLimit`. Each window of 1 s is one sample."""

    def __init__(self) -> None:
        self.seen, self.due = 0, 0.0

    def update(self, limit: float, window: Window) -> float:
        self.seen += 1
        if self.unloaded is None or self.seen >= self.due:
            self.unloaded, self.seen, self.due = window.mean, 0, 30 * limit * random.uniform(0.5, 1.0)
        self.unloaded = min(self.unloaded, window.mean)
        step = max(1, int(math.log10(limit)))
        if window.failures:
            return limit - step
        if 2 * window.peak < limit:
            return limit
        waiting = math.ceil(limit * (1 - self.unloaded / window.mean))
        if waiting <= step:
            return limit + 6 * step
        if waiting < 3 * step:
            return limit + step
        return limit - step if waiting > 6 * step else limit


class Gradient2(Limiter):
    """`Gradient2Limit`: compares the mean latency of the last window with that of the last 600. Between 20 and 200."""

    def __init__(self) -> None:
        self.long, self.windows = 0.0, 0

    def update(self, limit: float, window: Window) -> float:
        self.windows += 1
        weight = 1 / self.windows if self.windows <= 10 else 2 / 601
        self.long += (window.mean - self.long) * weight
        if self.long > 2 * window.mean:
            self.long *= 0.95
        if 2 * window.peak < limit:
            return limit
        gradient = max(0.5, min(1.0, 1.5 * self.long / window.mean))
        return min(200, max(20, 0.8 * limit + 0.2 * (limit * gradient + 4)))


class Aimd(Limiter):
    """`AIMDLimit`, over windows of 100 ms. A mean above 100 ms counts as overload. (Its default, 5 s, is a time
    limit.)"""

    window = 0.1

    def update(self, limit: float, window: Window) -> float:
        if window.failures or window.mean > 0.1:
            return limit * 0.9
        return limit + 1 if 2 * window.peak >= limit else limit
