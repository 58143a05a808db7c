"""How many calls a dependency can do with at a time: rules that find it out from how long calls take.

`AdaptiveLimit` counts the calls inside, sums up each window of time, and asks a `Limiter` for the next limit. It is
asked under a lock, and needs no clock, no lock and no I/O of its own. `Vegas` is the default. Another is a few lines:

    class Halving(Limiter):
        def update(self, limit: float, window: Window) -> float:
            return limit / 2 if window.failures else limit + 1 if 2 * window.peak >= limit else limit

    protocol    the protocol of a limiter, and the window of evidence that it is given
    vegas       the default: TCP Vegas' rule, as Netflix' concurrency-limits has it, and what we changed
"""

from resilient.limiters.protocol import Limiter, Window
from resilient.limiters.vegas import Vegas

__all__ = ["Limiter", "Vegas", "Window"]
