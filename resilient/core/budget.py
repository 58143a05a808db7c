"""Budget: limits the extra requests of a dependency (retries and hedges) to a share (10%) of its recent successes.

Extra requests take capacity from the dependency. While it is healthy they are few. When it fails, every client sends
more of them at the moment when it can serve least, and that keeps it down. So each success earns tokens, an extra
request costs one, and a call without a token returns what it has. A dependency that fails altogether earns nothing, and
gets hardly any extra requests.

All retries and hedges of one dependency share one instance. Where a pipeline serves several dependencies that fail
independently, as the origins of an HTTP client, each has a budget of its own with the same figures: successes of one do
not pay for an outage of another. A budget has no clock of its own, and recording a success takes no lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable
from copy import copy
from typing import Any

from resilient import _validation

__all__ = ["Budget"]

DEPENDENCIES = 1024
"""The most dependencies of one pipeline that have a budget of their own; beyond that the oldest budget is dropped."""

SHOWN = 100
"""The most dependencies in a snapshot: the latest ones."""


class Budget:
    """Tokens for extra requests: a share of recent successes, and a small reserve.

    Args:
        ratio: tokens that a success earns. Default 0.1 (gRPC A6; in simulations of a metastable overload 0.1 with a
            small cap recovers, and Finagle's 0.2 with 10 a second per client in reserve never does). A hedge that
            fires at a rate of p needs a ratio of at least 2 p, or it starves.
        reserve: tokens at the start, and what an idle budget keeps. Default 1: a small client may repeat its first
            failure, and a thousand of them together do not make a storm. Once spent, the reserve is only earned back by
            successes.
        cap: the most tokens that can be saved. Default 10.
        ttl: seconds in which the tokens above the reserve fade to 1/e. Default 10 (Finagle): successes of an hour ago
            do not pay for a present outage.

    `earn` is called for every call of a pipeline that succeeds, at whichever attempt, except by the answer of a
    Fallback; `spend` before every extra request.
    """

    def __init__(self, ratio: float = 0.1, *, reserve: float = 1.0, cap: float = 10.0, ttl: float = 10.0) -> None:
        self.ratio = _validation.share("ratio", ratio)
        self.reserve = _validation.amount("reserve", reserve)
        self.cap = _validation.amount("cap", cap)
        self.ttl = _validation.seconds("ttl", ttl)
        if self.cap < max(1.0, self.reserve):
            raise ValueError(f"cap={cap!r} must be at least 1 token and at least the reserve of {reserve!r}")
        self.spent = 0
        self.refused = 0
        self.earned = 0  # successes since the last `spend`
        self._tokens = self.reserve
        self._looked: float | None = None
        self._all: Budget | None = None
        self.each: dict[Hashable, Budget] = {}
        self.renew()

    def renew(self) -> None:
        """Make new locks. In a forked child, too, which keeps the tokens."""
        self._lock = threading.RLock()
        for budget in list(self.each.values()):
            budget.renew()

    def of(self, dependency: Hashable | None) -> Budget:
        """The budget of one dependency. With None (the pipeline serves only one dependency): this budget."""
        if dependency is None:
            return self
        try:
            return self.each[dependency]
        except KeyError:
            return self._new(dependency)

    def _new(self, dependency: Hashable) -> Budget:
        budget = copy(self)
        budget.spent = budget.refused = budget.earned = 0
        budget._tokens, budget._looked = self.reserve, None
        budget._all, budget.each = self, {}
        budget.renew()
        with self._lock:
            budget = self.each.setdefault(dependency, budget)
            while len(self.each) > DEPENDENCIES:
                del self.each[next(iter(self.each))]
        return budget

    def earn(self, call: object = None, result: object = None) -> None:
        """Count a successful call. The arguments are not used."""
        self.earned += 1

    def spend(self, now: float) -> bool:
        """Take a token for one extra request, if there is one. `now`: seconds on the caller's clock."""
        with self._lock:
            earned = self.earned
            tokens = self._balance(now, earned)
            enough = tokens >= 1.0 - 1e-9  # ten tenths are one token
            self._tokens = tokens - enough
            self.earned -= earned  # others may have earned meanwhile
            self._looked = now
            self._count(enough)
        if self._all is not None:
            with self._all._lock:
                self._all._count(enough)
        return enough

    def _count(self, enough: bool) -> None:
        self.spent += enough
        self.refused += not enough

    def balance(self, now: float) -> float:
        """Return the tokens there are at the time `now`."""
        return self._balance(now, self.earned)

    def _balance(self, now: float, successes: int) -> float:
        """Return the number of tokens at the time `now`, after `successes` new successes: saved tokens have faded since
        the last `spend`, and the successes came evenly over that time."""
        tokens, earned = self._tokens, successes * self.ratio
        missing = self.reserve - tokens
        if missing > 0.0:  # the reserve first; it does not fade
            if earned <= missing:
                return tokens + earned
            tokens, earned = tokens + missing, earned - missing
        saved = max(0.0, tokens - self.reserve)
        passed = 0.0 if self._looked is None else max(0.0, now - self._looked) / self.ttl
        kept = math.exp(-passed)
        fresh = earned if passed < 1e-9 else earned * (1.0 - kept) / passed
        return min(self.cap, tokens - saved + saved * kept + fresh)

    def snapshot(self) -> dict[str, Any]:
        """Return how many extra requests were `spent` and `refused`, and the `tokens` after the last `spend`. Where it
        serves several dependencies, the two are totals, and `each` has the snapshots of the latest 100 of them."""
        with self._lock:
            each = list(self.each.items())[: -SHOWN - 1 : -1]
        shown = {_validation.legible(dependency): budget.snapshot() for dependency, budget in each}
        return {
            "spent": self.spent,
            "refused": self.refused,
            "tokens": self._tokens,
            **({"each": shown} if shown else {}),
        }

    def __repr__(self) -> str:
        return f"Budget({self.ratio:.0%} of successes, reserve {self.reserve:g}, cap {self.cap:g})"
