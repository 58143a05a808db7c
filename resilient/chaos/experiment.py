"""A chaos experiment: whether it is on, which faults a call meets, and when it must stop.

It only decides; `resilient.chaos.policy` and `resilient.http.chaos` inject the faults. Nothing happens until it is
switched on, and it ends by itself when more calls fail than its objective allows.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from resilient import _validation
from resilient._atomic import locked
from resilient.faults import Fault, Slowness
from resilient.faults.selection import met
from resilient.stats.window import CountWindow

__all__ = ["VARIABLE", "Enabled", "Experiment"]

VARIABLE = "RESILIENT_CHAOS"
"""The environment variable that switches on experiments without `enabled=`."""

Enabled = bool | Callable[[], bool] | None

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "": False, "0": False, "false": False, "no": False}
_WORDS["off"] = False


class Experiment:
    """The decisions of one instance of chaos.

    Args:
        faults: the faults that may happen, in this order.
        kinds: the kinds of faults that the caller can inject.
        enabled: the switch: True or False; a function, called for each call; None: the environment variable
            `RESILIENT_CHAOS`, read now.
        rate: share of the calls that can meet a fault at all.
        seed: of the draws: the same calls in the same order meet the same faults. None: different ones each time.
        halt_rate: the experiment stops when a larger share of the last `halt_calls` calls has failed. None: never.
        halt_calls: the number of calls that `halt_rate` refers to.

    Raises `ValueError` or `TypeError` for faults that the caller cannot inject, and for values out of range.

    Times of faults count from the first call while it is on; switching it off and on starts them again.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        kinds: Sequence[type[Fault]],
        *,
        enabled: Enabled,
        rate: float,
        seed: int | None,
        halt_rate: float | None,
        halt_calls: int,
    ) -> None:
        names = ", ".join(each.__name__ for each in kinds)
        if not faults:
            raise ValueError(f"chaos without faults does nothing: give it at least one of {names}")
        for at, fault in enumerate(faults):
            if not isinstance(fault, tuple(kinds)):
                hint = " (an instance is due, not the class)" if isinstance(fault, type) else ""
                raise TypeError(f"fault[{at}] must be one of {names}, got {fault!r}{hint}")
            if isinstance(fault, Slowness) and fault.factor < 1:
                raise ValueError(f"fault[{at}] must have a factor of 1 or more here, got {fault.factor!r}")
        self.faults = tuple(faults)
        self.rate = _validation.share("rate", rate, zero=True)
        if seed is not None:
            _validation.count("seed", seed, least=0)
        self.halt_rate = None if halt_rate is None else _validation.share("halt_rate", halt_rate, zero=True)
        self.halt_calls = _validation.count("halt_calls", halt_calls)
        self._most = math.inf if self.halt_rate is None else self.halt_rate * self.halt_calls + 1e-9
        self._asked: Callable[[], bool] | None = None
        self._fixed = False
        if enabled is None:
            self._fixed = _from_environment()
        elif isinstance(enabled, bool):
            self._fixed = enabled
        else:
            self._asked = _validation.callback("enabled", enabled)
        self._draw = random.Random(seed)
        self.began: float | None = None
        """The time of the first call since the experiment is on; None: it was off at the last call."""
        self._seeded = seed is not None
        self._window = CountWindow(self.halt_calls)
        self.injected: Counter[str] = Counter()
        self.halted: str | None = None
        """The reason for which the experiment stopped by itself; None: it did not."""
        self._lock = threading.RLock()

    def renew(self) -> None:
        """In a forked child: take a new lock, and without a seed draw other numbers than the parent."""
        self._lock = threading.RLock()
        if not self._seeded:
            self._draw.seed()

    @property
    def possible(self) -> bool:
        """Whether the experiment can ever be switched on."""
        return self._fixed or self._asked is not None

    def is_on(self) -> bool:
        """Whether the experiment is on now, so that calls may meet faults."""
        if self.halted is None and (self._fixed if self._asked is None else self._asked()):
            return True
        if self.began is not None:
            self.began = None
        return False

    def draw(self, now: float, hits: Callable[[Fault], bool]) -> list[tuple[Fault, float]]:
        """The faults that a call meets now, in order, each with the seconds by which it delays the call."""
        began = self.began
        if began is None or now < began:  # a clock that goes back is another clock
            self.began = began = now
        at = now - began
        if self.rate < 1 and self._draw.random() >= self.rate:
            return []
        return met(self.faults, at, hits, self._draw)

    @locked
    def count(self, kind: str) -> None:
        """Count a fault of this kind that is being injected."""
        self.injected[kind] += 1

    @locked
    def saw(self, failed: bool) -> str | None:
        """Count a call that has ended. Returns the reason if the experiment stops now, else None."""
        window = self._window
        window.record(failed, False, None)
        if self.halted is not None or window.failures <= self._most:
            return None
        self.halted = f"{window.failures} of the last {window.calls} calls failed, which is more than {self._objective}"
        return self.halted

    @locked
    def resume(self) -> None:
        """Continue after a halt, with an empty window; the times of faults start again."""
        self._window.clear()
        self.began = None
        self.halted = None

    @property
    def _objective(self) -> str:
        return f"{100 * (self.halt_rate or 0):.3g}% of {self.halt_calls}"

    def snapshot(self) -> dict[str, Any]:
        """Plain data: whether the experiment can be on, why it stopped, the faults injected by kind, and how many of
        the last calls failed."""
        return {
            "enabled": self.possible,
            "halted": self.halted,
            "injected": dict(sorted(self.injected.items())),
            "calls": self._window.calls,
            "failed": self._window.failures,
        }

    def describe(self) -> str:
        """The faults that may happen, for people."""
        what = [f"{fault.describe()} {fault.when()}".removesuffix(" throughout") for fault in self.faults]
        if self.rate < 1:
            what.append(f"to {100 * self.rate:.3g}% of calls")
        return ", ".join(what) + ("" if self.possible else ", off")


def _from_environment() -> bool:
    value = os.environ.get(VARIABLE, "")
    if value.strip().lower() not in _WORDS:
        raise ValueError(f"the environment variable {VARIABLE} must be 1 or 0, got {value!r}")
    return _WORDS[value.strip().lower()]
