"""Random stacks of policies, and the traffic that is sent through them in virtual time.

A *recipe* builds a policy. Properties compare runs, and a policy's instance is its state; so Hypothesis draws recipes,
and every run builds its own equal, fresh instances from them. All times are multiples of 1/8 s: sums are exact, and
many things happen in the same tick, which is where the mistakes are.
"""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tenacity
from hypothesis import strategies as st

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Retry,
    Timeout,
    quantile,
)
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.core.policy import Policy
from resilient.errors import Rejected
from resilient.runtime import current_async

__all__ = [
    "HANG",
    "Nest",
    "Recipe",
    "Stage",
    "Step",
    "Traffic",
    "Turnstile",
    "breakers",
    "build",
    "bulkheads",
    "classifiers",
    "fallbacks",
    "hedges",
    "judges_errors_only",
    "nests",
    "policies",
    "rate_limits",
    "recipe",
    "retries",
    "timeouts",
    "traffics",
    "turnstiles",
]

HANG = 4096.0
"""Seconds: longer than anything here lasts."""


@dataclass(frozen=True)
class Recipe:
    """How to make a policy: `make(*args, **options)`."""

    make: Callable[..., Policy]
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def build(self) -> Policy:
        """Return a new policy of this recipe."""
        return self.make(*self.args, **dict(self.options))

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.options)]
        return f"{self.make.__name__}({', '.join(given)})"


def recipe(make: Callable[..., Policy], *args: Any, **options: Any) -> Recipe:
    """`make(*args, **options)`, to be made later and more than once."""
    return Recipe(make, args, tuple(options.items()))


@dataclass(frozen=True)
class Nest:
    """A pipeline inside a pipeline of a stack."""

    parts: tuple[Recipe | Nest, ...]

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.parts))})"


def build(parts: Sequence[Recipe | Nest], classify: Classifier | None = None) -> Pipeline:
    """Return a new instance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        made = [build(part.parts, classify) if isinstance(part, Nest) else part.build() for part in parts]
        return Pipeline(*made, classify=classify)


# -- a gate whose tickets are counted -------------------------------------------------------------------------------

Ending = Literal["settled", "cut", "released"]


@dataclass(eq=False)
class _Ticket:
    """A ticket of a turnstile, whose `ends` must become exactly one."""

    ends: list[Ending] = field(default_factory=list)


class Turnstile(Gate):
    """A gate that counts its tickets: each must end once, and only once.

    Args:
        learns, by_evidence: the kind of gate.
        line: seconds every call waits for its ticket; None: it is admitted at once.
        shut: when it refuses: from and until these seconds on the call's clock.
        slow, name: as for any gate.
        journal: where it writes (name, verb), in the order of events.

    Attributes:
        tickets: all it ever issued.
        lessons: what it was told, if it learns: ("settled", elapsed, failed) or ("cut", elapsed, limit).
    """

    def __init__(
        self,
        *,
        learns: bool = False,
        by_evidence: bool = False,
        line: float | None = None,
        shut: tuple[tuple[float, float], ...] = (),
        slow: float | None = None,
        journal: list[tuple[str, str]] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.facts = Facts(learns=learns, by_evidence=by_evidence, waits=line is not None, slow=slow)
        self.line = line
        self.shut = shut
        self.journal = [] if journal is None else journal
        self.tickets: list[_Ticket] = []
        self.lessons: list[tuple[Ending, float, Any]] = []

    def _write(self, verb: str) -> None:
        self.journal.append((self.name, verb))

    def _issue(self, now: float) -> _Ticket:
        if any(begin <= now < end for begin, end in self.shut):
            self._write("refuse")
            raise Rejected(f"{self.name} refuses", policy=self.name)
        self._write("admit")
        ticket = _Ticket()
        self.tickets.append(ticket)
        return ticket

    def admit(self, call: Call) -> _Ticket | None:
        return self._issue(call.runtime.now()) if self.line is None else None

    async def wait(self, call: Call, context: PipelineContext) -> _Ticket:
        assert self.line is not None
        await call.runtime.sleep(self.line)
        return self._issue(call.runtime.now())

    def settle(self, ticket: _Ticket, failed: bool, elapsed: float, now: float, error: Exception | None) -> None:
        ticket.ends.append("settled")
        if self.facts.learns:
            self.lessons.append(("settled", elapsed, failed))
        self._write("settle")

    def _cut(self, ticket: _Ticket, elapsed: float, now: float, limit: float | None) -> None:
        ticket.ends.append("cut")
        if self.facts.learns:
            self.lessons.append(("cut", elapsed, limit))
        self._write("cut")

    def release(self, ticket: _Ticket) -> None:
        ticket.ends.append("released")
        self._write("release")

    @property
    def out(self) -> int:
        """The tickets that have not come back."""
        return sum(not ticket.ends for ticket in self.tickets)

    @property
    def mistakes(self) -> list[list[Ending]]:
        """What was done with tickets that did not end just once."""
        return [ticket.ends for ticket in self.tickets if len(ticket.ends) != 1]

    def snapshot(self) -> dict[str, Any]:
        return {"out": self.out, "lessons": list(self.lessons)}


# -- the traffic ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One call of the dependency: it takes `seconds`, and then answers or raises.

    A `stubborn` one swallows a cancellation, takes 1/8 s more, and answers all the same.
    """

    seconds: float
    error: type[Exception] | None = None
    answer: str = "good"
    stubborn: bool = False


@dataclass(frozen=True)
class Traffic:
    """What is sent, and what comes back.

    Attributes:
        starts: when each call begins, in seconds.
        script: what the dependency does, call by call and round again.
    """

    starts: tuple[float, ...]
    script: tuple[Step, ...]


class Stage:
    """A pipeline around a dependency that follows a script.

    Attributes:
        pipeline: the one under test.
        requests: how often the dependency was called. `running`: calls inside it now; `most`: the most there ever were.
    """

    def __init__(self, pipeline: Pipeline, script: Sequence[Step]) -> None:
        self.pipeline = pipeline
        self.script = script
        self.requests = self.running = self.most = 0
        self._guarded = pipeline(self._fetch)

    async def call(self, number: int) -> str:
        """Call number `number`, as a guarded function."""
        return await self._guarded(number)

    async def block(self, number: int) -> str:
        """The same stack around a guarded block."""
        async for attempt in self.pipeline.attempts():
            async with attempt:
                attempt.result = await self._fetch(number)
        return attempt.result

    async def _fetch(self, number: int) -> str:
        step = self.script[self.requests % len(self.script)]
        self.requests += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._take(step)
        finally:
            self.running -= 1
        if step.error is not None:
            raise step.error(f"request {self.requests}")
        return step.answer

    @staticmethod
    async def _take(step: Step) -> None:
        if not step.seconds:
            return
        runtime = current_async()
        try:
            await runtime.sleep(step.seconds)
        except asyncio.CancelledError:
            if not step.stubborn:
                raise
            await runtime.sleep(0.125)


# -- what Hypothesis draws ------------------------------------------------------------------------------------------


def _options(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


@st.composite
def bulkheads(draw: st.DrawFn) -> Recipe:
    """Bulkheads that are small enough to fill up."""
    queue = draw(st.integers(0, 3))
    options: dict[str, Any] = {"queue": queue} if queue else {}
    if queue:
        options |= draw(_options(queue_timeout=st.sampled_from([0.25, 1.0])))
    return recipe(Bulkhead, draw(st.integers(1, 2)), **options)


@st.composite
def breakers(draw: st.DrawFn) -> Recipe:
    """Quick to open, and quick to probe."""
    criteria = draw(
        st.one_of(
            st.builds(lambda most: {"fail_max": most, "failure_rate": None}, st.integers(1, 3)),
            st.just({"failure_rate": 0.5, "window_calls": 4, "min_calls": 2}),
            st.just({"failure_rate": 0.5, "window_seconds": 2.0, "min_calls": 2}),
            st.just({"failure_rate": None, "slow": 0.5, "slow_rate": 0.5, "window_calls": 4, "min_calls": 2}),
        )
    )
    options = draw(
        _options(
            break_duration=st.sampled_from([0.25, 1.0]),
            probes=st.just(2),
            success_threshold=st.just(2),
            lease=st.sampled_from([0.5, 30.0]),
            shadow=st.booleans(),
        )
    )
    return recipe(CircuitBreaker, **criteria, **options)


def timeouts() -> st.SearchStrategy[Recipe]:
    """From shorter than most of the dependency's steps to longer."""
    return st.sampled_from([0.25, 0.5, 1.0, 3.0]).map(lambda seconds: recipe(Timeout, seconds))


@st.composite
def retries(draw: st.DrawFn) -> Recipe:
    """In our own words and in tenacity's."""
    plain = _options(
        attempts=st.integers(1, 3),
        wait=st.sampled_from([0, 0.25, some_eighths]),
        on=st.sampled_from([OSError, (OSError, Rejected)]),
    )
    spoken = st.fixed_dictionaries(
        {"stop": st.sampled_from([tenacity.stop_after_attempt(2), tenacity.stop_after_delay(1)])},
        optional={
            "wait": st.sampled_from([tenacity.wait_fixed(0.25), tenacity.wait_none()]),
            "on": st.sampled_from([tenacity.retry_if_exception_type(OSError), tenacity.retry_if_result(_is_bad)]),
        },
    )
    return recipe(Retry, **draw(st.one_of(plain, spoken)))


@st.composite
def hedges(draw: st.DrawFn) -> Recipe:
    """Of two or three copies. (Around functions only.)"""
    observed = quantile(0.9, warm_up=2, initial=0.125, ceiling=0.5)
    delay = draw(st.sampled_from([0.0, 0.125, 0.25, (0.125, 0.25), observed, quantile(0.5, warm_up=1)]))
    options = draw(_options(inline=st.booleans(), shadow=st.booleans(), max_stragglers=st.just(1)))
    if not options.get("inline") and draw(st.booleans()):
        options["cancel"] = "late"
    return recipe(Hedge, delay, **options)


@st.composite
def rate_limits(draw: st.DrawFn) -> Recipe:
    """Rate limits that are slow enough to make calls wait."""
    options = draw(_options(max_wait=st.sampled_from([0.0, 0.25, 1.0]), shadow=st.booleans()))
    return recipe(RateLimit, draw(st.sampled_from([2, 8])), burst=draw(st.integers(1, 2)), **options)


def fallbacks() -> st.SearchStrategy[Recipe]:
    """With a value, or by a function."""
    return st.sampled_from([recipe(Fallback, "stale"), recipe(Fallback, call=_ask_elsewhere, on=(OSError, Rejected))])


async def _ask_elsewhere(error: Exception | None, *args: object) -> str:
    await current_async().sleep(0.125)
    return "elsewhere"


def some_eighths(state: tenacity.RetryCallState) -> float:
    """Jitter in eighths, with which sums are exact."""
    return random.randrange(8) / 8


def _is_bad(result: object) -> bool:
    return result == "bad"


def turnstiles() -> st.SearchStrategy[Recipe]:
    """Turnstiles of every kind; one that learns does not wait."""
    shut = st.sampled_from([(), ((0.125, 0.375),), ((0.5, 1.25),), ((0.0, 0.125), (0.75, 8.0))])
    common = {"learns": st.booleans(), "slow": st.sampled_from([None, 0.5]), "shut": shut}
    options = st.one_of(
        _options(by_evidence=st.booleans(), **common),
        _options(line=st.sampled_from([0.125, 0.25]), **common),
    )
    return options.map(lambda options: recipe(Turnstile, **options))


def policies() -> st.SearchStrategy[Recipe]:
    """Any policy of the library."""
    return st.one_of(bulkheads(), breakers(), timeouts(), retries())


@st.composite
def nests(draw: st.DrawFn, parts: Sequence[Recipe], depth: int = 2) -> tuple[Recipe | Nest, ...]:
    """The same policies in the same order, some of them put into pipelines of their own."""
    nested: list[Recipe | Nest] = []
    at = 0
    while at < len(parts):
        size = draw(st.integers(1, len(parts) - at))
        group = parts[at : at + size]
        at += size
        if draw(st.booleans()):
            inner = draw(nests(group, depth - 1)) if depth else tuple(group)
            nested.append(Nest(inner))
        else:
            nested += group
    return tuple(nested)


ERRORS: tuple[type[Exception] | None, ...] = (None, OSError, OSError, KeyError, TypeError, TimeoutError)


@st.composite
def traffics(draw: st.DrawFn, *, calls: int = 5, stubborn: bool = True) -> Traffic:
    """Up to `calls` calls that get in each other's way."""
    starts = draw(st.lists(st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.5]), min_size=2, max_size=calls))
    step = st.builds(
        Step,
        seconds=st.sampled_from([0.25, 0.125, 0.5, 1.0, 0.0, HANG]),
        error=st.sampled_from(ERRORS),
        answer=st.sampled_from(["good", "good", "bad"]),
        stubborn=st.booleans() if stubborn else st.just(False),
    )
    script = draw(st.lists(step, min_size=1, max_size=6))
    return Traffic(tuple(sorted(starts)), tuple(script))


def judges_errors_only() -> Classifier:
    """A classifier that judges errors only, as the default does."""
    return Classifier()


def judges_results() -> Classifier:
    """A result can be a failure, and some errors say nothing or cannot be cured."""
    return Classifier(results=_is_bad, ignore=KeyError, fatal=TimeoutError)


def classifiers() -> st.SearchStrategy[Callable[[], Classifier]]:
    """Functions that make classifiers."""
    return st.sampled_from([judges_errors_only, judges_results])
