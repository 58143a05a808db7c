"""A bad value fails where it is written, not in an outage, and the message names the argument and the value."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pybreaker
import pytest
import tenacity

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    FullJitter,
    Hedge,
    Pipeline,
    PipelineError,
    PipelineWarning,
    RateLimit,
    Retry,
    Timeout,
    Verdict,
    deadline,
    events,
    standard,
    standard_hedged,
    switch,
)
from resilient.runtime import virtual

Build = Callable[[Any], object]

SECONDS: dict[str, Build] = {
    "Timeout seconds": Timeout,
    "FullJitter base": FullJitter,
    "FullJitter cap": lambda value: FullJitter(cap=value),
    "Bulkhead queue_timeout": lambda value: Bulkhead(5, queue=5, queue_timeout=value),
    "CircuitBreaker slow": lambda value: CircuitBreaker(slow=value, slow_rate=0.5),
    "CircuitBreaker window_seconds": lambda value: CircuitBreaker(window_seconds=value),
    "CircuitBreaker break_duration": lambda value: CircuitBreaker(break_duration=value),
    "CircuitBreaker max_break": lambda value: CircuitBreaker(max_break=value),
    "Budget ttl": lambda value: Budget(ttl=value),
    "RateLimit per": lambda value: RateLimit(5, per=value),
    "deadline seconds": deadline,
    "CircuitBreaker lease": lambda value: CircuitBreaker(lease=value),
    "pybreaker reset_timeout": lambda value: setattr(CircuitBreaker().pybreaker, "reset_timeout", value),
}
"""Durations that have to be above zero."""

PAUSES: dict[str, Build] = {
    "Retry wait": lambda value: Retry(wait=value),
    "Retry max_retry_after": lambda value: Retry(max_retry_after=value),
    "RateLimit max_wait": lambda value: RateLimit(5, max_wait=value),
}
"""Durations that may be zero."""

COUNTS: dict[str, Build] = {
    "Retry attempts": Retry,
    "Bulkhead max_concurrent": Bulkhead,
    "RateLimit burst": lambda value: RateLimit(5, burst=value),
    "Hedge copies": lambda value: Hedge(1, copies=value),
    "Hedge max_stragglers": lambda value: Hedge(1, max_stragglers=value),
    "Timeout max_abandoned": lambda value: Timeout(1, max_abandoned=value),
    "standard attempts": lambda value: standard(attempts=value),
    "standard max_concurrent": lambda value: standard(max_concurrent=value),
    "CircuitBreaker fail_max": lambda value: CircuitBreaker(fail_max=value),
    "CircuitBreaker window_calls": lambda value: CircuitBreaker(window_calls=value),
    "CircuitBreaker min_calls": lambda value: CircuitBreaker(min_calls=value),
    "CircuitBreaker probes": lambda value: CircuitBreaker(probes=value),
    "CircuitBreaker success_threshold": lambda value: CircuitBreaker(success_threshold=value),
    "pybreaker fail_max": lambda value: setattr(CircuitBreaker().pybreaker, "fail_max", value),
}
"""Numbers of things, of which there has to be one at least."""

SHARES: dict[str, Build] = {
    "Budget ratio": Budget,
    "CircuitBreaker failure_rate": CircuitBreaker,
    "CircuitBreaker slow_rate": lambda value: CircuitBreaker(slow=1.0, slow_rate=value),
}

AMOUNTS: dict[str, Build] = {
    "Budget reserve": lambda value: Budget(reserve=value),
    "Budget cap": lambda value: Budget(cap=value),
    "RateLimit rate": RateLimit,
}
"""Numbers that need not be whole."""

BUDGETS: dict[str, Build] = {
    "Retry budget": lambda value: Retry(budget=value),
    "Hedge budget": lambda value: Hedge(1, budget=value),
    "standard budget": lambda value: standard(budget=value),
    "standard_hedged budget": lambda value: standard_hedged(budget=value),
}

FLAGS: dict[str, Build] = {
    "Timeout abandon": lambda value: Timeout(1, abandon=value),
    "Retry shadow": lambda value: Retry(shadow=value),
    "Hedge inline": lambda value: Hedge(1, inline=value),
    "Hedge thread": lambda value: Hedge(1, thread=value),
    "Hedge shadow": lambda value: Hedge(1, shadow=value),
    "RateLimit shadow": lambda value: RateLimit(5, shadow=value),
    "Bulkhead shadow": lambda value: Bulkhead(5, shadow=value),
    "Timeout thread": lambda value: Timeout(1, thread=value),
    "CircuitBreaker shadow": lambda value: CircuitBreaker(shadow=value),
    "Pipeline strict": lambda value: Pipeline(Retry(), strict=value),
    "with_ strict": lambda value: Pipeline(Retry()).with_(strict=value),
}

NAMES: dict[str, Build] = {
    "Retry name": lambda value: Retry(name=value),
    "Timeout name": lambda value: Timeout(1, name=value),
    "Bulkhead name": lambda value: Bulkhead(name=value),
    "Hedge name": lambda value: Hedge(1, name=value),
    "RateLimit name": lambda value: RateLimit(5, name=value),
    "Fallback name": lambda value: Fallback(7, name=value),
    "standard name": standard,
    "standard_hedged name": standard_hedged,
    "CircuitBreaker name": lambda value: CircuitBreaker(name=value),
    "Pipeline name": lambda value: Pipeline(Retry(), name=value),
    "with_ name": lambda value: Pipeline(Retry()).with_(name=value),
    "attempts name": lambda value: Pipeline(Retry()).attempts(value),
}

PLAIN_FUNCTIONS: dict[str, Build] = {
    "Classifier results": lambda value: Classifier(results=value),
    "events listener": events.listen,
    "Pipeline listener": lambda value: Pipeline(Retry()).listen(value),
}
"""Functions whose answer is not awaited."""

PREDICATES: dict[str, Build] = {
    "Retry on": lambda value: Retry(on=value),
    "Fallback on": lambda value: Fallback(7, on=value),
    "Classifier failures": lambda value: Classifier(failures=value),
    "Classifier fatal": lambda value: Classifier(fatal=value),
    "Classifier ignore": lambda value: Classifier(ignore=value),
}
"""Exception types, or plain functions."""

STRATEGIES: dict[str, Build] = {
    "Retry stop": lambda value: Retry(stop=value),
    "Retry before": lambda value: Retry(before=value),
    "Retry after": lambda value: Retry(after=value),
    "Retry before_sleep": lambda value: Retry(before_sleep=value),
}
"""tenacity's: plain functions, or coroutine functions."""

NO_NUMBERS = [True, False, "1", b"1", [1], 1j, object]
IMPOSSIBLE = [-1, -0.5, math.nan, math.inf, -math.inf, 10**400]


def table(builds: dict[str, Build], values: list[Any]) -> Any:
    """Every constructor of a table with every value."""
    return pytest.mark.parametrize(
        ("argument", "build", "value"),
        [
            pytest.param(label.rpartition(" ")[2], build, value, id=f"{label}={value!r:.20}")
            for label, build in builds.items()
            for value in values
        ],
    )


def refused(kind: type[Exception], argument: str, build: Build, value: Any) -> None:
    """`build(value)` raises exactly `kind`, in a sentence that begins with the argument and ends with the value."""
    with pytest.raises(kind) as caught:
        build(value)
    assert type(caught.value) is kind
    assert re.fullmatch(rf"{argument} must .*{re.escape(repr(value))}.*", str(caught.value), re.DOTALL)


@table(SECONDS, [0, 0.0, *IMPOSSIBLE])
def test_duration_that_is_impossible_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """Zero, negative, infinite and NaN durations are refused."""
    refused(ValueError, argument, build, value)


@table(PAUSES, IMPOSSIBLE)
def test_pause_that_is_impossible_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """The same, where zero is a possible value."""
    refused(ValueError, argument, build, value)


@table(PAUSES, [0, 0.0, 1.5])
def test_pause_from_zero_on_is_accepted(argument: str, build: Build, value: Any) -> None:
    """No pause at all is a pause one may want."""
    assert build(value) is not None


@table({**SECONDS, **PAUSES}, NO_NUMBERS)
def test_duration_that_is_no_number_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A bool or a string is not taken for the number it could be turned into."""
    refused(TypeError, argument, build, value)


@table(COUNTS, [0, -1])
def test_count_below_one_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """Zero attempts, permits or probes would let no call through."""
    refused(ValueError, argument, build, value)


@table({**COUNTS, "Bulkhead queue": lambda value: Bulkhead(queue=value)}, [*NO_NUMBERS, 1.0, math.nan, math.inf])
def test_count_that_is_no_whole_number_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """Floats are refused even where they are whole."""
    refused(TypeError, argument, build, value)


def test_queue_below_zero_raises_value_error() -> None:
    """No queue is 0; fewer places than none there cannot be."""
    refused(ValueError, "queue", lambda value: Bulkhead(queue=value), -1)
    assert Bulkhead(queue=0).queue == 0


@table(SHARES, [0, 0.0, 1.01, 50, *IMPOSSIBLE])
def test_share_outside_zero_to_one_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """A share above 1 is refused: 50 does not mean 50 %."""
    refused(ValueError, argument, build, value)


@table(SHARES, NO_NUMBERS)
def test_share_that_is_no_number_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """`True` is not a share of 1."""
    refused(TypeError, argument, build, value)


@table(AMOUNTS, IMPOSSIBLE)
def test_amount_that_is_impossible_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """Negative, infinite and NaN amounts are refused."""
    refused(ValueError, argument, build, value)


@table(AMOUNTS, NO_NUMBERS)
def test_amount_that_is_no_number_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A string is not the number in it."""
    refused(TypeError, argument, build, value)


@table(BUDGETS, [5, "10%", Budget, True])
def test_budget_that_is_none_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A number is no budget, and neither is the class."""
    refused(TypeError, argument, build, value)


@pytest.mark.parametrize("value", [5, "print", [print], Fallback, Iterator])
def test_fallback_that_cannot_be_asked_raises_type_error(value: Any) -> None:
    """What is given as `call` is called; a class or a generator function is not what was meant."""
    with pytest.raises(TypeError):
        Fallback(call=value)


@pytest.mark.parametrize(
    "value", [[], (), [0.1, -1], [0.1, "1"], [0.1, None], [[1]], "11", {}, -1, math.nan, math.inf, True, None]
)
def test_delays_that_are_impossible_are_refused(value: Any) -> None:
    """A number of seconds, or one for each further copy."""
    with pytest.raises((TypeError, ValueError), match=r"^delay"):
        Hedge(value)


@table(FLAGS, [1, 0, "no", None, bool])
def test_flag_that_is_no_bool_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A flag that is no bool is refused, because `strict="no"` would be true."""
    refused(TypeError, argument, build, value)


@table(NAMES, ["", " ", "\t\n"])
def test_name_that_is_blank_raises_value_error(argument: str, build: Build, value: Any) -> None:
    """A blank name would be invisible in events and dashboards."""
    refused(ValueError, argument, build, value)


@table(NAMES, [5, b"users", True, ["users"], str])
def test_name_that_is_no_string_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """Numbers and bytes are refused as names."""
    refused(TypeError, argument, build, value)


# -- functions ------------------------------------------------------------------------------------------------------


async def later(value: Any) -> bool:
    return bool(value)


def generator(value: Any) -> Iterator[bool]:
    yield bool(value)


async def async_generator(value: Any) -> AsyncIterator[bool]:
    yield bool(value)


class Later:
    async def __call__(self, value: Any) -> bool:
        return bool(value)


class Plain:
    def __call__(self, value: Any) -> bool:
        return bool(value)


LATER = [later, functools.partial(later), Later(), Later().__call__]
GENERATORS = [generator, async_generator]
FUNCTIONS: dict[str, Build] = {
    **PLAIN_FUNCTIONS,
    **PREDICATES,
    **STRATEGIES,
    "Retry wait": lambda value: Retry(wait=value),
}


@table({**PLAIN_FUNCTIONS, **PREDICATES}, LATER)
def test_plain_function_that_is_async_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """What an `async def` returns is a coroutine, which is always true and would never be awaited."""
    refused(TypeError, argument, build, value)


@table({**STRATEGIES, "Retry wait": lambda value: Retry(wait=value)}, LATER)
def test_strategy_that_is_async_is_accepted(argument: str, build: Build, value: Any) -> None:
    """Async strategies and hooks of tenacity are accepted, and awaited."""
    assert isinstance(build(value), Retry)


@table(FUNCTIONS, GENERATORS)
def test_function_that_is_a_generator_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A generator function is refused, because its result is always true and its items are never read."""
    refused(TypeError, argument, build, value)


@table(FUNCTIONS, [Plain, Later, bool])
def test_function_that_is_a_class_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """Calling a class makes an instance, which is always true: the instance was meant."""
    refused(TypeError, argument, build, value)


@pytest.mark.parametrize("label", FUNCTIONS)
def test_function_that_is_a_coroutine_raises_type_error(label: str) -> None:
    """The coroutine that calling a function made is not the function."""
    coroutine = later(1)
    refused(TypeError, label.rpartition(" ")[2], FUNCTIONS[label], coroutine)
    coroutine.close()


@table({**PLAIN_FUNCTIONS, **PREDICATES, **STRATEGIES}, [5, "print", [print], {503}])
def test_function_that_cannot_be_called_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """What is no function is refused when it is given."""
    refused(TypeError, argument, build, value)


@table(PREDICATES, [int, (OSError, "KeyError"), (OSError, int), (OSError, (KeyError, 5)), OSError(), [503], object])
def test_exception_types_that_are_none_raise_type_error(argument: str, build: Build, value: Any) -> None:
    """A number, a name or an instance in the place of a type would fail only at the first failure."""
    refused(TypeError, argument, build, value)


@pytest.mark.parametrize(
    ("argument", "build", "value"),
    [
        ("wait", lambda value: Retry(wait=value), FullJitter),
        ("wait", lambda value: Retry(wait=value), tenacity.wait_fixed),
        ("stop", lambda value: Retry(stop=value), tenacity.stop_after_attempt),
        ("on", lambda value: Retry(on=value), tenacity.retry_if_exception_type),
        ("classify", lambda value: Pipeline(Retry(), classify=value), Classifier),
        ("classify", lambda value: Pipeline(Retry()).with_(classify=value), Classifier),
        ("listeners", lambda value: CircuitBreaker(listeners=[value]), pybreaker.CircuitBreakerListener),
        ("listeners", lambda value: CircuitBreaker().add_listener(value), pybreaker.CircuitBreakerListener),
        ("state_storage", lambda value: CircuitBreaker(state_storage=value), pybreaker.CircuitMemoryStorage),
    ],
)
def test_class_where_its_instance_is_due_raises_type_error(argument: str, build: Build, value: Any) -> None:
    """A class in place of its instance, with parentheses forgotten, is refused at once."""
    refused(TypeError, argument, build, value)


# -- what only one of them takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [Retry, Timeout, 5, "retry", len, None])
def test_pipeline_of_what_is_no_policy_raises_type_error(value: Any) -> None:
    """A class of policies is no policy, and nothing else is either; with a word on the class of policies."""
    for build in (Pipeline, lambda *policies: Pipeline(Retry()).with_(*policies)):
        with pytest.raises(TypeError, match=r"^a pipeline is made of policies, got ") as caught:
            build(value)
        assert repr(value) in str(caught.value)
        assert str(caught.value).endswith(": write Retry()") == (value is Retry)


def test_pipeline_of_no_policies_raises_value_error() -> None:
    """A pipeline without policies is refused, because it would guard nothing."""
    with pytest.raises(ValueError, match="a pipeline without policies guards nothing"):
        Pipeline()


@pytest.mark.parametrize("value", [lambda error: True, "default", 0, False, OSError])
def test_classify_that_is_no_classifier_raises_type_error(value: Any) -> None:
    """A predicate is given to a Classifier, not in its place; and what is false is no "default" either."""
    refused(TypeError, "classify", lambda value: Pipeline(Retry(), classify=value), value)
    refused(TypeError, "classify", lambda value: Pipeline(Retry()).with_(classify=value), value)


@pytest.mark.parametrize("value", ["Retry", (Retry, "Timeout"), Retry(), (int,), None])
def test_without_that_are_no_classes_of_policies_raises_type_error(value: Any) -> None:
    """What is to be left out is named by its class."""
    refused(TypeError, "without", lambda value: Pipeline(Retry(), Timeout(1)).with_(without=value), value)


def test_without_accepts_one_class() -> None:
    """`without=` accepts a single class, as `isinstance` does."""
    assert len(Pipeline(Retry(), Timeout(1)).with_(without=Retry).policies) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["Off", "", "yes", True, False, 0, b"on", ["on"]])
def test_mode_that_is_unknown_raises_value_error_and_changes_nothing(value: Any) -> None:
    """A misspelt switch is refused, globally and for one pipeline."""
    pipeline = Pipeline(Retry())
    for build in (switch, pipeline.switch):
        refused(ValueError, "mode", build, value)
    assert pipeline.mode == "on"


@pytest.mark.parametrize("value", [5, pybreaker.CircuitBreakerListener(), iter([])])
def test_listeners_that_are_no_list_raise_type_error(value: Any) -> None:
    """A listener alone, or an iterator that would be used up by the check, is refused by name."""
    refused(TypeError, "listeners", lambda value: CircuitBreaker(listeners=value), value)


@pytest.mark.parametrize("value", [5, "redis", object(), print])
def test_breaker_parts_that_are_not_pybreakers_raise_type_error(value: Any) -> None:
    """A storage and each listener have to be pybreaker's."""
    refused(TypeError, "state_storage", lambda value: CircuitBreaker(state_storage=value), value)
    refused(TypeError, "listeners", lambda value: CircuitBreaker(listeners=[value]), value)
    refused(TypeError, "listeners", lambda value: CircuitBreaker().add_listener(value), value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_start_of_virtual_time_that_is_impossible_raises_value_error(value: float) -> None:
    """Time begins at a finite number of seconds."""

    async def main() -> None: ...

    coroutine = main()
    refused(ValueError, "start", lambda value: virtual.run(coroutine, start=value), value)
    coroutine.close()


@pytest.mark.parametrize("value", ["failed", None, 0])
def test_verdict_of_an_unknown_kind_raises_value_error(value: Any) -> None:
    """A misspelt kind would silently count as a success."""
    refused(ValueError, "kind", Verdict, value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Bulkhead(5, queue_timeout=1.5), ["queue_timeout=1.5", "queue="]),
        (lambda: CircuitBreaker(slow_rate=0.5), ["slow_rate=0.5", "slow="]),
        (lambda: Budget(cap=0.5, reserve=0.25), ["cap=0.5", "0.25"]),
        (lambda: Budget(cap=5, reserve=6), ["cap=5", "6"]),
        (lambda: Hedge([1, 2], copies=5), ["copies=5", "2 delays"]),
        (lambda: Hedge(1, inline=True, thread=True), ["inline=True", "thread=True"]),
        (lambda: CircuitBreaker(None), ["failure_rate=None", "fail_max", "slow_rate"]),
        (lambda: CircuitBreaker(window_calls=5, window_seconds=6), ["window_calls=5", "window_seconds=6"]),
        (lambda: CircuitBreaker(window_calls=5, min_calls=6), ["window_calls=5", "min_calls=6"]),
        (lambda: CircuitBreaker(break_duration=9, max_break=8), ["break_duration=9", "max_break=8"]),
    ],
)
def test_options_that_contradict_each_other_raise_value_error(build: Callable[[], object], words: list[str]) -> None:
    """The message names both options, with their values."""
    with pytest.raises(ValueError) as caught:
        build()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Retry(retries=3),  # type: ignore[call-arg]
        lambda: Timeout(1, retries=3),  # type: ignore[call-arg]
        lambda: Bulkhead(5, retries=3),  # type: ignore[call-arg]
        lambda: CircuitBreaker(retries=3),  # type: ignore[call-arg]
        lambda: FullJitter(retries=3),  # type: ignore[call-arg]
        lambda: Hedge(1, retries=3),  # type: ignore[call-arg]
        lambda: RateLimit(5, retries=3),  # type: ignore[call-arg]
        lambda: Fallback(7, retries=3),  # type: ignore[call-arg]
        lambda: Budget(retries=3),  # type: ignore[call-arg]
        lambda: standard(retries=3),  # type: ignore[call-arg]
        lambda: standard_hedged(retries=3),  # type: ignore[call-arg]
        lambda: Classifier(retries=3),  # type: ignore[call-arg]
        lambda: Pipeline(Retry(), retries=3),  # type: ignore[call-arg]
        lambda: Pipeline(Retry()).with_(retries=3),  # type: ignore[call-arg]
        lambda: Verdict("failure", retries=3),  # type: ignore[call-arg]
    ],
)
def test_option_that_is_unknown_raises_type_error(build: Callable[[], object]) -> None:
    """Nothing swallows what it does not know."""
    with pytest.raises(TypeError, match="'retries'"):
        build()


@pytest.mark.parametrize("build", [Timeout, lambda: Timeout(seconds=None)])
def test_timeout_without_a_limit_raises_type_error(build: Callable[[], object]) -> None:
    """There is no default that would be right for every dependency."""
    with pytest.raises(TypeError, match="seconds"):
        build()


POLICIES = [
    Retry(),
    Timeout(1),
    Bulkhead(5),
    CircuitBreaker(),
    Hedge(1),
    RateLimit(5),
    Fallback(7),
    Pipeline(Retry()),
    standard(),
    standard_hedged(),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("value", [5, "fetch", None, OSError, generator, async_generator])
def test_guarding_what_cannot_be_guarded_raises_type_error(policy: Any, value: Any) -> None:
    """Every policy refuses, in a sentence, to decorate what it could not guard."""
    with pytest.raises(TypeError, match=r"^cannot guard ") as caught:
        policy(value)
    assert getattr(value, "__qualname__", repr(value)) in str(caught.value)


@pytest.mark.parametrize("policy", POLICIES)
def test_guarding_a_coroutine_raises_type_error(policy: Any) -> None:
    """The coroutine is not the function: it could be run only once."""
    coroutine = later(1)
    with pytest.raises(TypeError, match=r"got <coroutine object later .*pass the function itself"):
        policy(coroutine)
    coroutine.close()


def test_pipeline_that_cannot_work_warns_or_is_refused() -> None:
    """An inner limit that the outer one makes unreachable: the message has both values."""
    for kind, strict in ((PipelineWarning, False), (PipelineError, True)):
        with pytest.raises(kind) as caught:
            Pipeline(Timeout(1), Timeout(30), strict=strict)
        assert "Timeout(30 s)" in str(caught.value)
        assert "Timeout(1 s)" in str(caught.value)
