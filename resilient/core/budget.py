"""Budget: how much extra work, in retries and hedges, a dependency may be given for the work it has done well.

Retries are a loan that the dependency pays back with its capacity. While it is healthy that costs little; when it
fails, every client asks for more at the moment when there is least, and keeps it down. So successes earn tokens, an
extra request costs one, and whoever has none makes do with what came back. A dependency that fails altogether earns
nothing, and gets next to nothing on top.

One instance is shared by all retries and hedges of one dependency. Where a pipeline serves several that fail by
themselves, as the origins of an HTTP client, each has a budget of its own, of the same figures: what one of them has
earned is not spent on another one's outage. It has no clock of its own, and a success takes no lock.
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
"""So many of those that one pipeline serves have a budget; then that of the first one is forgotten."""

SHOWN = 100
"""Dependencies in a snapshot, the latest."""


class Budget:
    """Tokens for extra requests: a share of the successes of late, and a small reserve.

    Args:
        ratio: tokens that a success earns. Default 0.1 (gRPC A6; in simulations of a metastable overload 0.1 with a
            small cap recovers, and Finagle's 0.2 with 10 a second per client in reserve never does). A hedge that
            fires at a rate of p needs a ratio of at least 2 p, or it starves.
        reserve: tokens at the start, and what an idle budget keeps. Default 1: a small client may repeat its first
            failure, and a thousand of them together do not make a storm. Once spent it comes back by successes only.
        cap: tokens that can be saved up. Default 10.
        ttl: seconds in which what is saved above the reserve fades to 1/e. Default 10 (Finagle): the successes of an
            hour ago do not pay for the outage of now.

    `earn` is called for every call of a pipeline that succeeds, at whichever attempt, but not for what a Fallback
    answers; `spend` for every extra request.
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
        self.earned = 0  # successes since the last look
        self._tokens = self.reserve
        self._looked: float | None = None
        self._all: Budget | None = None
        self.each: dict[Hashable, Budget] = {}
        self.renew()

    def renew(self) -> None:
        """Take a new lock, also in a forked child, which has the tokens that there were."""
        self._lock = threading.RLock()
        for budget in list(self.each.values()):
            budget.renew()

    def of(self, dependency: Hashable | None) -> Budget:
        """The budget of one of the dependencies that a pipeline serves. None: it serves one, whose budget this is."""
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
        """A call succeeded; which, and with what, makes no difference."""
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
        """Tokens there are."""
        return self._balance(now, self.earned)

    def _balance(self, now: float, successes: int) -> float:
        """Tokens now: what was saved has faded, and the successes since came evenly over the time since."""
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
        """Extra requests `spent` and `refused`, and `tokens` as of the last look. Where it serves several dependencies,
        the two are of all together, and `each` has the latest 100 of them."""
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
