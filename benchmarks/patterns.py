"""The rows of `overhead`: each pattern, with our bar, as this library and as the peers build it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import targets
from benchmarks.by_hand import inside
from benchmarks.measure import Subject
from benchmarks.peers import PEERS, Decorator, Mode, Peer
from benchmarks.report import Bar, Figure
from benchmarks.targets import Function, Stage

__all__ = ["OURS", "PATTERNS", "Pattern", "Row", "rows"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One group of rows: a decorator of `peers` around a function of `targets`, and our bar in times.

    With `beyond`, each row also says what it adds to the same library's row of that pattern, and the bar
    is for this.
    """

    key: str
    title: str
    bars: Mapping[Mode, float] | None = None
    target: str = "succeeds"
    modes: tuple[Mode, ...] = ("async", "def")
    variants: tuple[str, ...] = ()
    """More of our own decorators to show in this group."""
    beyond: str = ""


PATTERNS = (
    Pattern("retry", "Retry", {"async": 8}),
    Pattern("retry, budget", "Retry with a Budget, and what that adds", {"async": 1}, beyond="retry"),
    Pattern("bulkhead", "Bulkhead", {"async": 10}),
    Pattern("breaker", "CircuitBreaker, count window", {"async": 12}),
    Pattern("breaker, time", "CircuitBreaker, time window"),
    Pattern("keyed", "Keyed: a CircuitBreaker per key", {"async": 15}),
    Pattern("timeout", "Timeout", {"async": 16}),
    Pattern("deadline", "Deadline", {"async": 12}, variants=("deadline, a Retry beneath",)),
    Pattern("rate limit", "RateLimit", {"async": 10}),
    Pattern("adaptive limit", "AdaptiveLimit", {"async": 18}),
    Pattern("fallback", "Fallback", {"async": 7}),
    Pattern("hedge", "Hedge, not fired", {"async": 130}, modes=("async",)),
    Pattern("hedge, inline", "Hedge, not fired, the first copy inline", {"async": 30}, modes=("async",)),
    Pattern(
        "hedge, quantile",
        "Hedge by observed latency, and what that adds",
        {"async": 12},
        modes=("async",),
        beyond="hedge",
    ),
    Pattern(
        "hedge, inline, quantile",
        "Hedge by observed latency, inline, and what that adds",
        {"async": 12},
        modes=("async",),
        beyond="hedge, inline",
    ),
    Pattern(
        "stack",
        "Retry + Bulkhead + CircuitBreaker + Timeout",
        {"async": 28, "def": 60},
        variants=(
            "stack, one listener",
            "stack, a total timeout around it",
            "stack, Chaos that is off",
            "stack, Chaos that a function says is off",
        ),
    ),
    Pattern("six", "Fallback + Retry + RateLimit + Bulkhead + CircuitBreaker + Timeout", {"async": 36}),
    Pattern("guard", "Retry + Bulkhead + CircuitBreaker", modes=("def",)),
    Pattern(
        "retry, no wait",
        "Retry: one failure, no wait, a success",
        target="alternates",
        variants=("retry, no wait, tenacity's wait_none",),
    ),
    Pattern("breaker, hour", "CircuitBreaker: open, the call is rejected", target="open"),
    Pattern("bulkhead of one", "Bulkhead: full, the call is rejected", target="full"),
)


def ours() -> dict[str, Decorator]:
    """The same patterns built with this library."""
    from tenacity import wait_none

    from resilient import (
        AdaptiveLimit,
        Budget,
        Bulkhead,
        Chaos,
        CircuitBreaker,
        Fallback,
        Hedge,
        Keyed,
        Pipeline,
        RateLimit,
        Retry,
        Timeout,
        deadline,
        quantile,
    )
    from resilient.faults import Errors

    def breaker() -> CircuitBreaker:
        return CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)

    def stack(*outer: Any, inner: tuple[Any, ...] = ()) -> Pipeline:
        return Pipeline(*outer, Retry(attempts=3), Bulkhead(50, queue=100), breaker(), Timeout(2), *inner)

    listened = stack()
    listened.listen(lambda event: None)
    return {
        "retry": Retry(attempts=3),
        "retry, no wait": Retry(attempts=3, wait=0),
        "retry, no wait, tenacity's wait_none": Retry(attempts=3, wait=wait_none()),
        "retry, budget": Retry(attempts=3, budget=Budget()),
        "bulkhead": Bulkhead(50, queue=100),
        "bulkhead of one": Bulkhead(1, queue=0),
        "breaker": breaker(),
        "breaker, time": CircuitBreaker(failure_rate=0.5, window_seconds=30, min_calls=20),
        "breaker, hour": CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20, break_duration=3600),
        "keyed": Keyed(breaker, key=lambda x: x),
        "timeout": Timeout(2),
        "deadline": inside(deadline, 2),
        "deadline, a Retry beneath": lambda function: inside(deadline, 2)(Retry(attempts=3)(function)),
        "rate limit": RateLimit(1e9),
        "adaptive limit": AdaptiveLimit(),
        "fallback": Fallback(0),
        "hedge": Hedge(1),
        "hedge, inline": Hedge(1, inline=True),
        "hedge, quantile": Hedge(quantile(0.95, floor=1)),
        "hedge, inline, quantile": Hedge(quantile(0.95, floor=1), inline=True),
        "stack": stack(),
        "stack, one listener": listened,
        "stack, a total timeout around it": stack(Timeout(10)),
        "stack, Chaos that is off": stack(inner=(Chaos(Errors(), enabled=False),)),
        "stack, Chaos that a function says is off": stack(inner=(Chaos(Errors(), enabled=lambda: False),)),
        "six": Pipeline(Fallback(0), Retry(attempts=3), RateLimit(1e9), Bulkhead(50, queue=100), breaker(), Timeout(2)),
        "guard": Pipeline(Retry(attempts=3), Bulkhead(50, queue=100), breaker()),
    }


OURS = Peer("resilient", ours, ours=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One decorator of ours or of a peer."""

    pattern: Pattern
    peer: Peer
    decorate: Decorator | None
    label: str
    problem: str = ""
    judged: bool = False

    @property
    def key(self) -> str:
        return f"{self.pattern.key}: {self.label}"

    @property
    def base(self) -> str:
        """The `key` of the row to which this one adds."""
        return f"{self.pattern.beyond}: {self.label}"

    def subject(self, stage: Stage) -> Subject | str:
        """What to time, or why it cannot be."""
        if self.decorate is None:
            return self.problem
        try:
            return self._guarded(self.decorate, stage)
        except Exception as error:
            if self.peer.ours:
                raise
            return f"not measured: {type(error).__name__}: {error}"

    def _guarded(self, decorate: Decorator, stage: Stage) -> Subject:
        match self.pattern.target:
            case "open":
                call = stage.trip(decorate)
            case "full":
                call = stage.fill(decorate)
            case "alternates":
                call = decorate(targets.flaky(stage.is_async))
            case _:
                call = decorate(targets.bare if stage.is_async else targets.plain)
        rejected = self.pattern.target in ("open", "full")
        _check(call, rejected, stage)
        return Subject(self.key, call, stage.is_async, rejected)

    def figure(self, mode: Mode, values: Mapping[str, float], problem: str = "") -> Figure:
        limit = (self.pattern.bars or {}).get(mode) if self.judged else None
        return Figure(
            f"{mode}: {self.pattern.title}",
            self.label,
            values,
            None if limit is None else Bar("added_x" if self.pattern.beyond else "multiple_x", limit),
            self.peer.ours,
            problem or self.peer.notes.get((mode, self.pattern.key), ""),
        )


def rows(pattern: Pattern, mode: Mode) -> list[Row]:
    """Ours, then every peer that has the pattern."""
    decorators = OURS.build()
    found = [Row(pattern, OURS, decorators[pattern.key], OURS.name, judged=True)]
    found += [
        Row(pattern, OURS, decorators[key], f"{OURS.name}, {key.removeprefix(f'{pattern.key}, ')}")
        for key in pattern.variants
    ]
    for peer in PEERS:
        if mode not in peer.modes:
            continue
        try:
            theirs = peer.build()
        except ImportError:
            found.append(Row(pattern, peer, None, peer.name, "not installed"))
            continue
        if pattern.key in theirs:
            found.append(Row(pattern, peer, theirs[pattern.key], peer.label))
    return found


def _check(call: Function, rejected: bool, stage: Stage) -> None:
    """The call does what the row says: it returns its argument, or is rejected without being made."""
    try:
        result = stage.call(call)
    except targets.Failed:
        raise AssertionError("the function was called, or its failure not repaired") from None
    except Exception:
        if not rejected:
            raise
    else:
        assert not rejected, "nothing was rejected"
        assert result == 1, f"the call returned {result!r}"
