"""The rows of `overhead`: each pattern, built with this library and with every peer that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import targets
from benchmarks.contenders.bars import BARS, OURS, Limit, Mode
from benchmarks.contenders.by_hand import inside
from benchmarks.contenders.peers import PEERS, Decorator, Peer
from benchmarks.contenders.targets import Function, Stage
from benchmarks.harness.measure import Subject
from benchmarks.harness.report import Bar, Figure

__all__ = ["PATTERNS", "US", "Pattern", "Row", "build", "rows"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One group of rows: a decorator of `peers` around a function of `targets`.

    With `beyond`, each row also has the cost that it adds to the same library's row of that pattern, and a bar is on
    this cost.
    """

    key: str
    title: str
    target: str = "succeeds"
    modes: tuple[Mode, ...] = ("async", "def")
    variants: tuple[str, ...] = ()
    """Keys of further decorators of resilient in this group."""
    beyond: str = ""


PATTERNS = (
    Pattern("retry", "Retry"),
    Pattern("retry, budget", "Retry with a Budget, and what that adds", beyond="retry"),
    Pattern("bulkhead", "Bulkhead"),
    Pattern("breaker", "CircuitBreaker, count window"),
    Pattern("breaker, time", "CircuitBreaker, time window"),
    Pattern("keyed", "Keyed: a CircuitBreaker per key"),
    Pattern("timeout", "Timeout"),
    Pattern("deadline", "Deadline", variants=("deadline, a Retry beneath",)),
    Pattern("rate limit", "RateLimit"),
    Pattern("adaptive limit", "AdaptiveLimit"),
    Pattern("fallback", "Fallback"),
    Pattern("hedge", "Hedge, not fired", modes=("async",)),
    Pattern("hedge, inline", "Hedge, not fired, the first copy inline", modes=("async",)),
    Pattern(
        "hedge, quantile",
        "Hedge by observed latency, and what that adds",
        modes=("async",),
        beyond="hedge",
    ),
    Pattern(
        "hedge, inline, quantile",
        "Hedge by observed latency, inline, and what that adds",
        modes=("async",),
        beyond="hedge, inline",
    ),
    Pattern(
        "stack",
        "Retry + Bulkhead + CircuitBreaker + Timeout",
        variants=(
            "stack, one listener",
            "stack, one listener of CallEnded",
            "stack, a total timeout around it",
            "stack, Chaos that is off",
            "stack, Chaos that a function says is off",
        ),
    ),
    Pattern("six", "Fallback + Retry + RateLimit + Bulkhead + CircuitBreaker + Timeout"),
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
    """The patterns built with resilient, by their names."""
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
    from resilient.events import CallEnded, Event
    from resilient.faults import Errors

    def breaker() -> CircuitBreaker:
        return CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)

    def stack(*outer: Any, inner: tuple[Any, ...] = ()) -> Pipeline:
        return Pipeline(*outer, Retry(attempts=3), Bulkhead(50, queue=100), breaker(), Timeout(2), *inner)

    def listened(*kinds: type[Event]) -> Pipeline:
        pipeline = stack()
        pipeline.listen(lambda event: None, *kinds)
        return pipeline

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
        "stack, one listener": listened(),
        "stack, one listener of CallEnded": listened(CallEnded),
        "stack, a total timeout around it": stack(Timeout(10)),
        "stack, Chaos that is off": stack(inner=(Chaos(Errors(), enabled=False),)),
        "stack, Chaos that a function says is off": stack(inner=(Chaos(Errors(), enabled=lambda: False),)),
        "six": Pipeline(Fallback(0), Retry(attempts=3), RateLimit(1e9), Bulkhead(50, queue=100), breaker(), Timeout(2)),
        "guard": Pipeline(Retry(attempts=3), Bulkhead(50, queue=100), breaker()),
    }


US = Peer(OURS, ours, ours=True)
Built = Mapping[str, Mapping[str, Decorator] | None]
"""Decorators by the library's name; None if it is not installed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One decorator, of resilient or of a peer. `problem` is the reason why there is none."""

    pattern: Pattern
    peer: Peer
    decorate: Decorator | None
    label: str
    problem: str = ""
    limit: Limit | None = None
    against: str = ""
    """The label of the row that the limit is a ratio to, if it is a ratio."""

    @property
    def key(self) -> str:
        return f"{self.pattern.key}: {self.label}"

    @property
    def base(self) -> str:
        """The `key` of the row that this one adds to."""
        return f"{self.pattern.beyond}: {self.label}"

    @property
    def rival(self) -> str:
        """The `key` of the row that this one is compared with."""
        return f"{self.pattern.key}: {self.against}"

    @property
    def bar(self) -> Bar | None:
        if self.limit is None:
            return None
        if self.limit.against:
            return Bar("ratio_x", self.limit.times, against=self.against or self.limit.against)
        return Bar("added_x" if self.pattern.beyond else "multiple_x", self.limit.times)

    def subject(self, stage: Stage) -> Subject | str:
        """The subject to time, or the reason why there is none. Raises if a decorator of resilient does not work."""
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
        return Subject(self.key, call, stage.is_async, rejected, group=self.pattern.beyond or self.pattern.key)

    def figure(self, mode: Mode, values: Mapping[str, float], problem: str = "") -> Figure:
        return Figure(
            f"{mode}: {self.pattern.title}",
            self.label,
            values,
            self.bar,
            self.peer.ours,
            problem or self.peer.notes.get((mode, self.pattern.key), ""),
        )


def rows(pattern: Pattern, mode: Mode, built: Built | None = None) -> list[Row]:
    """Our rows of a pattern, then the row of every peer that has it."""
    built = build() if built is None else built
    theirs = [row for peer in PEERS if mode in peer.modes for row in _of(peer, pattern, built[peer.name])]
    mine = built[OURS] or {}
    labels = {row.peer.name: row.label for row in theirs if row.decorate is not None} | {OURS: OURS}
    found = []
    for key in (pattern.key, *pattern.variants):
        limit = BARS.get((mode, key))
        label = OURS if key == pattern.key else f"{OURS}, {key.removeprefix(f'{pattern.key}, ')}"
        against = labels.get(limit.against, "") if limit else ""
        found.append(Row(pattern, US, mine[key], label, limit=limit, against=against))
    return found + theirs


def build() -> Built:
    """New decorators of every library, one for each row."""
    built: dict[str, Mapping[str, Decorator] | None] = {}
    for peer in (US, *PEERS):
        try:
            built[peer.name] = peer.build()
        except ImportError:
            built[peer.name] = None
    return built


def _of(peer: Peer, pattern: Pattern, decorators: Mapping[str, Decorator] | None) -> list[Row]:
    """The peer's row of a pattern, if it has one. A peer that is not installed has a row without a decorator."""
    if decorators is None:
        return [Row(pattern, peer, None, peer.name, "not installed")]
    return [Row(pattern, peer, decorators[pattern.key], peer.label)] if pattern.key in decorators else []


def _check(call: Function, rejected: bool, stage: Stage) -> None:
    """Raise AssertionError unless the call returns its argument, or, if `rejected`, is rejected without being made."""
    try:
        result = stage.call(call)
    except targets.Failed:
        raise AssertionError("the call was made instead of rejected, or its failure was not retried") from None
    except Exception:
        if not rejected:
            raise
    else:
        assert not rejected, "nothing was rejected"
        assert result == 1, f"the call returned {result!r}"
