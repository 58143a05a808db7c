"""Vegas: finds a limit from the number of calls that wait at the dependency, which follows from the durations of calls.

It keeps a few calls waiting there: enough that the dependency never idles, too few to be felt.

A window of T seconds under the limit L has n successes, with the mean duration m and the standard deviation s, f
failures, and at most p calls inside. Known from before: u, the mean duration of w calls that did not wait.

    symbol  value                      meaning                                    source
    b       n/T * u                    calls that are processed at a time         Little's law
    q       n/T * (m - u)              calls that wait at the dependency          Little's law; TCP Vegas' diff;
                                                                                  Netflix' L * (1 - u/m)
    e       1.2 * s * sqrt(1/n + 1/w)  noise of m - u: 1.2 standard errors of     ours: a long tail must not hold
                                       the difference of two means                the limit down
    N       n/T * e                    noise of q
    R       2 + b/10                   room: how many calls may wait              ours; Vegas and Netflix keep q
                                                                                  between two such numbers
    F       b + R                      the limit that fits
    k       1, 2, 4, ...               steps of R in one growth                   ours: doubles while the limit grows
    V       max(V, L)                  the highest limit since the last probe
    G       F if q > 3/2 R + N else L  the next limit without a probe

The states. In each, the first line that applies decides:

    state     if                                    next limit               then      remark
    starting  the first window ends                 L                        steady    calls that end first are quick
    steady    n = 0, or f / (n + f) > `failures`    0.9 L                    steady
    steady    2 p < L                               L                        steady    no call waits: u learns from m
    steady    2 q <= R + N                          L + k R                  steady    if m < u - e, u learns from m
    steady    q > 3/2 R + N for the first time, or  L                        steady    a hiccup's calls take less and
              with an m not near the last one                                          less time; the limit stays
    steady    a probe is due, or G < 0.6 V          L / 2                    draining  keeps L, n/T, m as L', r', m'
    steady    else                                  G                        steady
    draining  a window ends                         L                        probing   what waited has left
    probing   m < 0.6 m', L >= 4, u not confirmed   L / 2                    draining  its calls waited, too; m' is m
    probing   else                                  min(L', max(L, F))       steady    F from r' and the new u

A probe measures u, which cannot be seen while calls wait. As BBR's ProbeRTT does, it halves the limit until the queue
is gone (a window of at most 2 m seconds), then times at least 50 calls. A probe comes before each far fall, and is due
at random `probe_every`/2 to `probe_every` seconds after the last one, or ten times as long after it as it took. If it
was not due, an m near u confirms u. "Near" is NEAR in the code, and 0.6 is FAR.

    u learns from m:  u = (u w' + m n) / (w' + n),  w = w' + n
                      w' = min(w, 3 n) if u and m agree within min(0.6, 1 - 3 s / (m sqrt(n))), else 0

Sources: J. Little, 1961. TCP Vegas: L. Brakmo and L. Peterson, IEEE JSAC 13(8), 1995. Netflix' concurrency-limits,
`VegasLimit`. BBR: N. Cardwell et al., ACM Queue 14(5), 2016.
"""

from __future__ import annotations

import math
import random
from typing import Literal

from resilient import _validation
from resilient.limiters.protocol import Limiter, Window

__all__ = ["Vegas"]


class Vegas(Limiter):
    """The default limiter of an `AdaptiveLimit`: TCP Vegas' rule, for calls.

    The limit grows while almost no call waits at the dependency, and falls when too many do. The module has the
    formulas, and the table of its states.

    Args:
        window: seconds that a window lasts. Default 1.
        failures: when a larger share of a window's calls has failed, the limit falls by a tenth. Default 0.1. (With
            Netflix' rule it falls at the first failure: a dependency that fails a little all the time would end with
            a limit of 1.)
        probe_every: seconds between two probes, which time calls that do not wait; at random, half of it to all of it.
            Default 30. Where calls are slow, ten times as long as the last probe took.
    """

    def __init__(self, *, window: float = 1.0, failures: float = 0.1, probe_every: float = 30.0) -> None:
        self.window = self._steady_window = _validation.seconds("window", window)
        self.failures = _validation.share("failures", failures, zero=True)
        self.probe_every = _validation.seconds("probe_every", probe_every)
        self._state: Literal["starting", "steady", "draining", "probing"] = "starting"
        self._weight = 0  # w: calls of which `unloaded` is the mean
        self._steps = 1  # k
        self._until_probe = 0.0  # seconds until a probe is due
        self._probe_seconds = 0.0  # seconds that the current probe has taken
        self._highest = 0.0  # V
        self._crowded = 0.0  # m of the last window if too many calls waited in it, else 0
        self._before = (0.0, 0.0, 0.0)  # L, n/T and m before a probe

    def update(self, limit: float, window: Window) -> float:
        if self._state == "steady":
            return self._steady(limit, window)
        if self._state == "starting":
            self._state = "steady"
            return limit
        self._probe_seconds += window.seconds
        if self._state == "draining":
            self._state, self.window, self.samples = "probing", self._steady_window / 2, PROBED
            return limit
        return self._probed(limit, window)

    def _steady(self, limit: float, window: Window) -> float:
        self._until_probe -= window.seconds
        self._highest = max(self._highest, limit)
        steps, self._steps = self._steps, 1
        crowded, self._crowded = self._crowded, 0.0
        if not window.successes or window.failures > self.failures * (window.successes + window.failures):
            return limit * 0.9
        if 2 * window.peak < limit:
            self._learn_unloaded(window)
            self._plan_probe()
            return limit
        error = 1.2 * window.deviation * math.sqrt(1 / window.successes + 1 / (self._weight or window.successes))
        unloaded = self.unloaded
        if unloaded is None or window.mean < unloaded - error:
            unloaded = self._learn_unloaded(window)
        rate = window.successes / window.seconds
        waiting, noise, room = rate * (window.mean - unloaded), rate * error, _room(rate * unloaded)
        if 2 * waiting <= room + noise:
            self._steps = 2 * steps
            return limit + steps * room
        fitting = limit
        if waiting > 1.5 * room + noise:
            self._crowded = window.mean
            if not NEAR * crowded < window.mean < crowded / NEAR:
                return limit
            fitting = _fitting(rate * unloaded)
        if self._until_probe <= 0 or fitting < FAR * self._highest:
            self._before = limit, rate, window.mean
            return self._drain(limit, window)
        return fitting

    # -- how long a call takes that does not wait --------------------------------------------------------------------

    def _plan_probe(self) -> None:
        self._until_probe = self.probe_every * random.uniform(0.5, 1.0)

    def _drain(self, limit: float, window: Window) -> float:
        self._state, self.samples = "draining", Limiter.samples
        self.window = min(self._steady_window, 2 * window.mean)
        return limit / 2

    def _probed(self, limit: float, window: Window) -> float:
        """The limit after a probe, or half of this one to probe again."""
        before, rate, mean = self._before
        if window.successes:
            confirmed = self._until_probe > 0 and self._agrees(window.mean, NEAR)
            self._learn_unloaded(window)
            if window.mean < FAR * mean and limit >= 4 and not confirmed:
                self._before = before, rate, window.mean
                return self._drain(limit, window)
        self._state, self.window, self.samples = "steady", self._steady_window, Limiter.samples
        if self._until_probe <= 0:
            self._plan_probe()
        self._until_probe, self._probe_seconds = max(self._until_probe, 10 * self._probe_seconds), 0.0
        if self.unloaded is not None:
            before = min(before, max(limit, _fitting(rate * self.unloaded)))
        self._highest = before
        return before

    def _learn_unloaded(self, window: Window) -> float:
        """Average `unloaded` with the mean of a window in which no call waited, or replace it where the two disagree.

        Returns the new `unloaded`.
        """
        count = window.successes
        chance = 3 * window.deviation / (window.mean or 1.0) / math.sqrt(count)
        weight = min(self._weight, 3 * count) if self._agrees(window.mean, min(FAR, 1 - chance)) else 0
        self._weight = weight + count
        self.unloaded = ((self.unloaded or 0.0) * weight + window.mean * count) / self._weight
        return self.unloaded

    def _agrees(self, mean: float, share: float) -> bool:
        """Whether a mean and `unloaded` are each more than this share of the other."""
        unloaded = self.unloaded
        return unloaded is not None and share * unloaded < mean and share * mean < unloaded


PROBED = 50
"""Calls that are timed in a probe: of exponential times, their mean is within 14% of the true one in two of three
cases."""

NEAR, FAR = 0.8, 0.6
"""Two values are near each other if each is more than 0.8 of the other. A value has fallen far if it is less than 0.6
of the earlier one."""


def _room(busy: float) -> float:
    """R: how many calls may wait while `busy` calls are processed."""
    return 2 + 0.1 * busy


def _fitting(busy: float) -> float:
    """F: the limit that fits `busy` calls being processed."""
    return busy + _room(busy)
