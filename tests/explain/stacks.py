"""Random pipelines of all policies, for tests of the bounds of explanations."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tenacity

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Classifier,
    Fallback,
    FullJitter,
    Hedge,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Rejected,
    Retry,
    Timeout,
    quantile,
)
from resilient.core.policy import Policy
from resilient.faults import Errors, Latency, Slowness
from resilient.runtime import current_async

__all__ = ["HANG", "JUDGES", "Bad", "Drawn", "Odd", "Part", "build", "elsewhere", "random_stack"]

HANG = 1e6
"""Seconds: longer than any finite bound here."""


class Bad:
    """A result that is judged a failure, belongs to one caller, and takes a while to close."""

    status_code = 500

    def __init__(self, closing: float) -> None:
        self._closing = closing

    async def aclose(self) -> None:
        await asyncio.sleep(self._closing)


class Odd(Bad):
    """A result about which the classifier raises."""


def _is_bad(result: object) -> bool:
    if isinstance(result, Odd):
        raise LookupError("nobody knows what this is")
    return isinstance(result, Bad)


Part = tuple[Any, ...]
"""How to make a policy or a pipeline: (class, arguments, options), or ("nest", parts)."""

JUDGES: Part = ("judges",)
"""In front of the parts of a pipeline whose classifier judges results."""


OBSERVED = (
    quantile(0.9, warm_up=3),
    quantile(0.9, warm_up=3, initial=0.25, ceiling=1),
    quantile(0.9, warm_up=3, initial=1, floor=0.25, ceiling=2, growth=2),
)


class Drawn(FullJitter):
    """Jitter whose draws are chosen: `share` of the longest."""

    share = 1.0

    def __call__(self, attempt: int) -> float:
        return self.share * self.most(attempt)


def random_stack(dice: random.Random, most: int = 5) -> tuple[Part, ...]:
    """One to `most` policies of any kind, some of them in nested pipelines."""
    parts = [dice.choice(_MAKERS)(dice) for _ in range(dice.randint(1, most))]
    if len(parts) > 2 and dice.random() < 0.3:
        at = dice.randint(0, len(parts) - 2)
        inner = (JUDGES,) if dice.random() < 0.3 else ()
        parts[at : at + 2] = [("nest", (*inner, *parts[at : at + 2]))]
    return (JUDGES, *parts) if dice.random() < 0.3 else tuple(parts)


def _timeout(dice: random.Random) -> Part:
    options = {"abandon": True} if dice.random() < 0.1 else {}
    return (Timeout, (dice.choice([0.5, 1.0, 2.0, 5.0, 12.0]),), options)


def _retry(dice: random.Random) -> Part:
    options: dict[str, Any] = {
        "wait": dice.choice([0, 0, 0.25, 1.0, 4.0, "drawn", "drawn"]),
        "max_retry_after": dice.choice([0.0, 0.0, 1.0, 6.0]),
    }
    if dice.random() < 0.3:
        options["on"] = dice.choice([OSError, (OSError, Rejected), (OSError, TimeoutError)])
    if dice.random() < 0.2:
        options["budget"] = "budget"
    if dice.random() < 0.1:
        options["shadow"] = True
    if dice.random() < 0.1:
        options["nested"] = "once"
    if dice.random() < 0.3:
        return _tenacious(dice, options)
    return (Retry, (dice.randint(1, 4),), options)


def _a_while(state: tenacity.RetryCallState) -> float:
    return 0.25 * state.attempt_number


def _enough(state: tenacity.RetryCallState) -> bool:
    return state.attempt_number >= 2


FEW, SOME = tenacity.stop_after_attempt(2), tenacity.stop_after_attempt(3)
SOON, LATER = tenacity.stop_after_delay(1), tenacity.stop_before_delay(3)
HALF = tenacity.wait_fixed(0.5)

STOPS = (
    FEW,
    SOME,
    SOON,
    LATER,
    SOME | SOON,
    FEW & SOON,
    SOON | LATER,
    SOME & LATER,
    SOME | tenacity.stop_never,
    _enough,
)

WAITS = (
    HALF,
    tenacity.wait_random(0.25, 1),
    tenacity.wait_random(1, 0.25),
    tenacity.wait_incrementing(0.25, 0.5, max=1),
    tenacity.wait_exponential(0.25, max=2),
    tenacity.wait_exponential(0.25, min=2, max=1),
    tenacity.wait_random_exponential(0.5, min=0.25, max=2),
    tenacity.wait_exponential_jitter(multiplier=0.25, max=2, jitter=0.5),
    tenacity.wait_chain(HALF, tenacity.wait_random(1, 2)),
    HALF + tenacity.wait_random(0, 1),
    _a_while,
)


def _tenacious(dice: random.Random, options: dict[str, Any]) -> Part:
    """A Retry with strategies of tenacity. Pauses are not 0, because endless retries without a pause would stop virtual
    time."""
    told = {"stop": dice.choice(STOPS), "wait": dice.choice(WAITS)}
    if told["stop"] in (FEW, SOME) and dice.random() < 0.5:
        told["wait"] = options["wait"]
    if "on" in options and dice.random() < 0.5:
        told["on"] = tenacity.retry_if_exception_type(OSError)
    return (Retry, (), options | told)


def _adaptive(dice: random.Random) -> Part:
    queue = dice.choice([0, 1, 3])
    options: dict[str, Any] = {"queue": queue, "queue_timeout": dice.choice([0.5, 2.0])} if queue else {}
    return (AdaptiveLimit, (dice.randint(1, 5),), options)


def _chaos(dice: random.Random) -> Part:
    fault = dice.choice([Latency(share=0.5, low=0.5, high=2), Errors(share=0.5), Slowness(factor=3)])
    return (Chaos, (fault,), {"enabled": dice.random() < 0.8})


def _bulkhead(dice: random.Random) -> Part:
    queue = dice.choice([0, 0, 1, 2, 5])
    options: dict[str, Any] = {"queue": queue} if queue else {}
    if queue and dice.random() < 0.6:
        options["queue_timeout"] = dice.choice([0.5, 3.0])
    if dice.random() < 0.1:
        options["shadow"] = True
    return (Bulkhead, (dice.randint(1, 3),), options)


def _breaker(dice: random.Random) -> Part:
    options = dice.choice(
        [
            {"fail_max": 2, "failure_rate": None},
            {"failure_rate": 0.5, "window_calls": 4, "min_calls": 2},
            {"slow": 1.0, "slow_rate": 0.5, "min_calls": 3},
            {},
            {"fail_max": 1, "shadow": True},
        ]
    )
    return (CircuitBreaker, (), options)


def _hedge(dice: random.Random) -> Part:
    delay = dice.choice([0.0, 0.25, 1.0, (0.25, 1.0), (1.0, 0.25), *OBSERVED])
    options: dict[str, Any] = {"inline": True} if dice.random() < 0.3 else {}
    if dice.random() < 0.1:
        options["shadow"] = True
    if dice.random() < 0.2:
        options["budget"] = "budget"
    if isinstance(delay, quantile) and dice.random() < 0.5:
        options["copies"] = 3
    return (Hedge, (delay,), options)


def _rate_limit(dice: random.Random) -> Part:
    return (
        RateLimit,
        (dice.choice([0.5, 4.0]),),
        {"burst": dice.randint(1, 3), "max_wait": dice.choice([0.0, 0.25, 3.0])},
    )


def _fallback(dice: random.Random) -> Part:
    return dice.choice(
        [(Fallback, ("stale",), {}), (Fallback, (), {"call": elsewhere}), (Fallback, (1,), {"on": (OSError,)})]
    )


def _keyed(dice: random.Random) -> Part:
    return ("keyed", dice.choice([_bulkhead, _breaker, _rate_limit])(dice))


async def elsewhere(error: Exception | None, *args: object) -> str:
    await current_async().sleep(HANG)
    return "elsewhere"


_MAKERS: tuple[Callable[[random.Random], Part], ...] = (
    *(_timeout,) * 5,
    *(_retry,) * 4,
    *(_bulkhead,) * 2,
    _breaker,
    *(_hedge,) * 2,
    _rate_limit,
    _fallback,
    _keyed,
    _adaptive,
    _chaos,
)


def build(parts: Sequence[Part], budget: Budget | None = None) -> Pipeline:
    """A pipeline of new policies that share one budget. Orders that cause warnings are built too: their bounds must
    also hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return _built(parts, Budget() if budget is None else budget, iter(range(1000)))


def _built(parts: Sequence[Part], budget: Budget, numbers: Iterator[int]) -> Pipeline:
    made: list[Policy] = []
    judge = Classifier(results=_is_bad) if parts[0] == JUDGES else None
    for part in parts[1:] if judge else parts:
        if part[0] == "nest":
            made.append(_built(part[1], budget, numbers))
        elif part[0] == "keyed":
            kind, args, options = part[1]
            made.append(Keyed(lambda kind=kind, args=args, options=options: kind(*args, **options), key=_everybody))
        else:
            kind, args, given = part
            options = dict(given)
            if options.get("wait") == "drawn":
                options["wait"] = Drawn(0.5, 2.0)
            if "budget" in options:
                options["budget"] = budget
            made.append(kind(*args, name=f"{kind.__name__}-{next(numbers)}", **options))
    return Pipeline(*made, classify=judge)


def _everybody(*args: object) -> str:
    return "everybody"
