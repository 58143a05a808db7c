"""The delays before the further copies of a hedge: how they are set, and how they follow the observed latencies.

    Hedge(delay=quantile(0.95), copies=3)      the second copy after the p95, the third 1.2 times as long after it

Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from resilient import _validation
from resilient._atomic import atomic, members
from resilient.stats.histogram import ERROR, MOST, Histogram

__all__ = ["Delays", "Observed", "PerKey", "quantile"]

Delays = tuple[float | None, ...]
"""Seconds from the start of each copy to the start of the next one; None: lateness does not start the next copy."""

BEYOND = 10
"""Samples beyond the quantile that end the warm-up: the share of hedged calls is then right within a third."""

SHOWN = 100
"""The most keys that a snapshot has: those used last."""


@dataclass(frozen=True, slots=True)
class quantile:
    """A delay that follows the observed latencies: the latency below which this share of the calls ends.

    Args:
        share: above 0 and below 1: 0.95 hedges 5% of the calls, 0.98 2%. The share of hedged calls is right within
            0.3% of the calls; the delay is up to 2% longer than needed, and never shorter (see
            `resilient.stats.histogram`).
        warm_up: calls to observe first. Default: until ten are expected beyond the quantile: 200 for 0.95, 500 for
            0.98.
        initial: the delay during the warm-up, in seconds. Default None: until its end, lateness starts no copy (a
            failed copy starts the next one all the same).
        floor: the shortest delay, in seconds. Default 1 ms: a busy event loop alone can be late by that much.
        ceiling: the longest delay, in seconds. Default None: no limit.
        growth: factor by which each further delay is longer than the one before, within floor and ceiling. Default 1.2:
            the later a call is already, the less likely another copy helps.
    """

    share: float
    _: KW_ONLY
    warm_up: int | None = None
    initial: float | None = None
    floor: float = 0.001
    ceiling: float | None = None
    growth: float = 1.2

    def __post_init__(self) -> None:
        if _validation.share("share", self.share) >= 1:
            raise ValueError(f"share must be below 1, because no call is later than all others, got {self.share!r}")
        if self.warm_up is not None:
            _validation.count("warm_up", self.warm_up)
        if _validation.seconds("floor", self.floor, zero=True) > MOST:
            raise ValueError(f"floor must be at most {MOST:g} s, the longest observed latency, got {self.floor!r}")
        if self.ceiling is not None and _validation.seconds("ceiling", self.ceiling) < self.floor:
            raise ValueError(f"ceiling={self.ceiling!r} must be at least floor={self.floor!r}")
        if self.initial is not None:
            _validation.seconds("initial", self.initial, zero=True)
            if not self.floor <= self.initial <= self.most:
                raise ValueError(
                    f"initial={self.initial!r} must be within floor={self.floor!r} and ceiling={self.ceiling!r}"
                )
        if _validation.amount("growth", self.growth) < 1:
            raise ValueError(f"growth must be at least 1, got {self.growth!r}")

    @property
    def most(self) -> float:
        """The longest delay in seconds: `ceiling`, or infinity."""
        return math.inf if self.ceiling is None else self.ceiling

    @property
    def samples(self) -> int:
        """The number of calls that are observed before the delay is known: `warm_up`, or its default."""
        return max(1, round(BEYOND / (1 - self.share))) if self.warm_up is None else self.warm_up

    def first(self, more: int) -> Delays:
        """The delays before `more` further copies during the warm-up."""
        return (None,) * more if self.initial is None else self.grown(self.initial, more)

    def bounds(self, more: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The shortest and the longest possible delays before `more` further copies. Without `initial` the longest are
        infinite: a copy may have to fail before the next one starts."""
        return self.grown(self.floor, more), (math.inf if self.initial is None else self.most,) * more

    def grown(self, seconds: float, more: int) -> tuple[float, ...]:
        """The delays before `more` further copies, the first one about `seconds`: each `growth` times the one before,
        within floor and ceiling."""
        first = max(self.floor, seconds)
        return tuple(min(self.most, first * self.growth**number) for number in range(more))

    def __str__(self) -> str:
        within = f"from {self.floor:g} s" if self.ceiling is None else f"{self.floor:g} to {self.ceiling:g} s"
        return f"the observed p{100 * self.share:.4g} ({within})"


class Observed(Histogram):
    """The observed latencies of one key, and the delays that follow from them.

    Attributes:
        delays: the current delays before the further copies of a hedge.
    """

    __slots__ = ("_more", "_spec", "delays")

    def __init__(self, spec: quantile, more: int) -> None:
        super().__init__(spec.share, spec.samples)
        self._spec = spec
        self._more = more
        self.delays: Delays = spec.first(more)

    def moved(self) -> None:
        at = None
        while at != self.at:  # another thread may have moved it meanwhile
            at, seconds = self.at, self.value
            assert seconds is not None
            # The upper end of the bucket, so that calls which always take equally long are not all late.
            self.delays = self._spec.grown(seconds / (1 - ERROR), self._more)

    def snapshot(self) -> dict[str, Any]:
        """The current `delays`, and the number of `samples` behind them."""
        return {"delays": list(self.delays), "samples": self.count}


class PerKey:
    """The observed latencies of each key. Holds up to `most` keys, and evicts the least recently used."""

    __slots__ = ("_lock", "_more", "_spec", "_table", "most")

    def __init__(self, spec: quantile, more: int, most: int) -> None:
        self.most = most
        self._spec = spec
        self._more = more
        self._table: OrderedDict[Hashable, Observed] = OrderedDict()
        self._lock = threading.RLock()

    @atomic
    def of(self, key: Hashable) -> Observed:
        """The observed latencies of a key, made if the key is new."""
        table = self._table
        try:
            observed = table[key]
            table.move_to_end(key)
            return observed
        except KeyError:
            pass  # the key is new, or another thread has just evicted it
        observed = Observed(self._spec, self._more)
        with self._lock:
            observed = table.setdefault(key, observed)
            while len(table) > self.most:
                table.popitem(last=False)
        return observed

    def renew(self) -> None:
        """In a forked child: take new locks."""
        self._lock = threading.RLock()
        for _, observed in self._items():
            observed.renew()

    def snapshot(self) -> dict[str, Any]:
        """The number of `keys`; and of the 100 used last, what was `observed`."""
        table = self._items()
        return {
            "keys": len(table),
            "observed": _validation.by_name(
                (_validation.legible(key), observed.snapshot()) for key, observed in table[: -SHOWN - 1 : -1]
            ),
        }

    def _items(self) -> list[tuple[Hashable, Observed]]:
        with self._lock:
            return members(self._table.items())  # a key that hashes by Python code may let another thread in
