"""Limiters: rules that find, from the durations of calls, the number of calls that a dependency can process at a time.

`AdaptiveLimit` counts the calls inside, sums up each window of time, and calls its `Limiter` for the next limit. It
does so under a lock, so a limiter needs no clock, no lock and no I/O. `Vegas` is the default. Another one takes a few
lines:

    class Halving(Limiter):
        def update(self, limit: float, window: Window) -> float:
            return limit / 2 if window.failures else limit + 1 if 2 * window.peak >= limit else limit

    protocol    the protocol of a limiter, and the window of evidence that it gets
    vegas       the default: TCP Vegas' rule for calls, as a table of its states and formulas
"""

from resilient.limiters.protocol import Limiter, Window
from resilient.limiters.vegas import Vegas

__all__ = ["Limiter", "Vegas", "Window"]
