"""Retry: what is repeated, when, how often, and what comes back when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import math
import random
import statistics
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    FullJitter,
    Hedge,
    Pipeline,
    PipelineClosed,
    PipelineWarning,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    Verdict,
    events,
    testing,
)
from resilient.core.policy import Policy
from resilient.runtime import virtual
from resilient.testing import Dependency, now
from tests.hypothesis_settings import search
from tests.worlds import Hang, Slow, World


class Ballast:
    """An object that must be freed after its call."""


class Asks(OSError):
    """An error that asks for a pause by its attribute `retry_after`."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


class Halt(BaseException):
    """A BaseException that is no Exception."""


def guardable(world: World, step: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs `step`, of the kind that a world guards: an `async def`, or a `def` for threads."""

    async def fetch(*args: Any) -> Any:
        return step(*args)

    return fetch if world.is_async else step


def times(policy: Policy, *script: Any) -> list[float]:
    """When each attempt of one call began in virtual time, and when the call ended. A step of the script is raised if
    it is an exception, else returned."""
    dependency = Dependency(*script)

    async def main() -> float:
        with contextlib.suppress(*(type(step) for step in script if isinstance(step, BaseException))):
            await policy(dependency)()
        return now()

    end = virtual.run(main())
    return [*dependency.times, end]


def own_notes(error: BaseException | None) -> list[str]:
    """The notes that the library has put on an error."""
    return [note for note in getattr(error, "__notes__", []) if note.startswith("resilient: ")]


def failures(number: int) -> list[Exception]:
    """A list of different errors."""
    return [ConnectionError(f"failure {each}") for each in range(1, number + 1)]


@pytest.fixture
def seeded() -> Iterator[None]:
    """Seeds the global random numbers, and restores their state at the end."""
    before = random.getstate()
    random.seed(20240501)
    yield
    random.setstate(before)


# -- how often ------------------------------------------------------------------------------------------------------


def test_retry_of_a_success_calls_once(world: World) -> None:
    """A call that succeeds is made once."""
    dependency = world.dependency(7)
    assert world.call(Retry()(dependency.fn)) == 7
    assert len(dependency.calls) == 1


def test_retry_after_failures_returns_the_first_success(world: World) -> None:
    """Failures that a later attempt makes good are not seen by the caller."""
    dependency = world.dependency(OSError(), OSError(), 7)
    assert world.call(Retry(attempts=3, wait=0)(dependency.fn)) == 7
    assert len(dependency.calls) == 3


def test_retry_repeats_with_the_same_arguments(world: World) -> None:
    """Each attempt gets the arguments of the call."""
    dependency = world.dependency(OSError(), 7)
    payload = object()
    world.call(Retry(wait=0)(dependency.fn), 1, key=payload)
    assert dependency.arguments == [((1,), {"key": payload})] * 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_retry_makes_as_many_attempts_as_it_says(world: World, attempts: int) -> None:
    """`attempts` includes the first call."""
    script = failures(attempts)
    dependency = world.dependency(*script)
    assert world.outcome(Retry(attempts, wait=0)(dependency.fn)).error is script[-1]
    assert len(dependency.calls) == attempts


def test_retry_by_default_makes_three_attempts(world: World) -> None:
    """The default is three attempts, as in AWS's standard mode."""
    dependency = world.dependency(*failures(3))
    world.outcome(Retry(wait=0)(dependency.fn))
    assert len(dependency.calls) == 3


@pytest.mark.parametrize(
    ("attempts", "stop", "calls"),
    [
        (None, tenacity.stop_after_attempt(5), 5),
        (2, tenacity.stop_after_attempt(5), 2),
        (5, tenacity.stop_after_attempt(2), 2),
        (2, tenacity.stop_never, 2),
    ],
)
def test_retry_stops_at_attempts_or_stop_whichever_is_first(
    world: World, attempts: int | None, stop: Any, calls: int
) -> None:
    """`stop` alone replaces the default of three attempts; with `attempts`, both limit them."""
    dependency = world.dependency(*failures(calls))
    world.outcome(Retry(attempts, stop=stop, wait=0)(dependency.fn))
    assert len(dependency.calls) == calls


def test_retry_inside_a_retry_makes_all_its_attempts_in_each_round() -> None:
    """The attempts of nested Retries multiply, as the warning says; each Retry counts its own."""
    with pytest.warns(PipelineWarning, match="sent 6 times"):
        pipeline = Pipeline(Retry(2, wait=10), Retry(3, wait=tenacity.wait_incrementing(1, 1)))
    assert times(pipeline, *failures(6)) == [0, 1, 3, 13, 14, 16, 16]


@pytest.mark.usefixtures("seeded")
def test_retry_inside_a_retry_begins_its_pauses_anew_in_each_round() -> None:
    """The jitter of an inner Retry depends on its own attempts, not on all attempts of the call."""
    gaps = []
    for _ in range(30):
        with pytest.warns(PipelineWarning, match="sent 4 times"):
            pipeline = Pipeline(Retry(2, wait=0), Retry(2, wait=FullJitter(1, 1000)))
        first, second, third, fourth, _ = times(pipeline, *failures(4))
        gaps += [second - first, fourth - third]
    assert 0.9 < max(gaps) <= 1


def test_retry_inside_a_retry_counts_its_own_attempts_in_events_and_notes() -> None:
    """Events and notes of a Retry count its own attempts; `current_call().attempt` counts those of all Retries."""
    heard: list[Any] = []
    with pytest.warns(PipelineWarning, match="sent 4 times"):
        pipeline = Pipeline(Retry(2, wait=0, name="outer"), Retry(2, wait=0, name="inner"))
    pipeline.listen(heard.append)
    script = failures(4)
    times(pipeline, *script)
    assert [each.attempt for each in heard if isinstance(each, events.AttemptStarted)] == [1, 2, 3, 4]
    assert [(each.policy, each.attempt) for each in heard if isinstance(each, events.Retrying)] == [
        *(("inner", 1), ("outer", 1), ("inner", 1)),
    ]
    assert [(each.policy, each.attempts) for each in heard if isinstance(each, events.GaveUp)] == [
        *(("inner", 2), ("inner", 2), ("outer", 2)),
    ]
    assert own_notes(script[1]) == ["resilient: inner gave up after 2 attempts: attempts spent"]
    assert own_notes(script[3]) == ["resilient: outer gave up after 2 attempts: attempts spent"]


# -- when -----------------------------------------------------------------------------------------------------------


def test_wait_of_seconds_passes_between_attempts(world: World) -> None:
    """On each runtime, a pause of the given seconds passes between two attempts."""
    dependency = world.dependency(OSError(), OSError(), 7)
    guarded = Retry(3, wait=0.03)(dependency.fn)
    begin = world.now()
    world.call(guarded)
    assert world.now() - begin >= 0.055


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (0.25, [0, 0.25, 0.5, 0.75, 0.75]),
        (0, [0, 0, 0, 0, 0]),
        (2, [0, 2, 4, 6, 6]),
        (tenacity.wait_fixed(1), [0, 1, 2, 3, 3]),
        (tenacity.wait_none(), [0, 0, 0, 0, 0]),
        (tenacity.wait_exponential(multiplier=1, max=3), [0, 1, 3, 6, 6]),
        (tenacity.wait_incrementing(start=1, increment=2), [0, 1, 4, 9, 9]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [0, 3, 6, 9, 9]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), [0, 1, 6, 11, 11]),
        *(
            [(tenacity.wait_exception(lambda error: 4), [0, 4, 8, 12, 12])]
            if hasattr(tenacity, "wait_exception")
            else []
        ),
        (lambda state: state.attempt_number * 10, [0, 10, 30, 60, 60]),
    ],
)
def test_wait_is_what_passes_between_attempts(wait: Any, expected: list[float]) -> None:
    """Numbers, tenacity's strategies and plain callables give the pauses; there is none before the first attempt and
    none after the last."""
    assert times(Retry(4, wait=wait), *failures(4)) == expected


def test_wait_may_be_a_coroutine_function(world: World) -> None:
    """Around an `async def`, the answer of a coroutine function is awaited."""

    async def wait(state: tenacity.RetryCallState) -> float:
        asked.append(state.attempt_number)
        return 0.0

    asked: list[int] = []
    dependency = world.dependency(OSError(), OSError(), 7)
    if not world.is_async:
        return
    assert world.call(Retry(3, wait=wait)(dependency.fn)) == 7
    assert asked == [1, 2]


@pytest.mark.usefixtures("seeded")
def test_full_jitter_is_uniform_up_to_a_bound_that_doubles() -> None:
    """The default pauses are within their bounds, spread over the whole range, and half of the bound on average."""
    jitter = FullJitter(base=0.1, cap=0.3)
    for attempt, bound in [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.3)]:
        drawn = [jitter(attempt) for _ in range(4000)]
        assert 0 <= min(drawn) < 0.02 * bound
        assert 0.98 * bound < max(drawn) <= bound
        assert statistics.fmean(drawn) == pytest.approx(bound / 2, rel=0.05)
        assert statistics.pstdev(drawn) == pytest.approx(bound / math.sqrt(12), rel=0.05)


@pytest.mark.usefixtures("seeded")
def test_retry_by_default_waits_with_full_jitter_from_a_tenth_of_a_second() -> None:
    """The pauses between three attempts are U(0, 0.1) and U(0, 0.2)."""
    measured = [times(Retry(), *failures(3)) for _ in range(300)]
    first = [second - first for first, second, *_ in measured]
    later = [third - second for _, second, third, _ in measured]
    assert max(first) <= 0.1 < max(later) <= 0.2
    assert statistics.fmean(first) == pytest.approx(0.05, rel=0.15)
    assert statistics.fmean(later) == pytest.approx(0.1, rel=0.15)


@pytest.mark.usefixtures("seeded")
def test_full_jitter_draws_from_the_global_random_as_tenacity_does() -> None:
    """Pauses are repeatable with one seed of the global `random`."""
    random.seed(1)
    ours = times(Retry(4, wait=FullJitter(1, 60)), *failures(4))
    random.seed(1)
    theirs = times(Retry(4, wait=tenacity.wait_random_exponential(multiplier=1, max=60)), *failures(4))
    assert ours == theirs


@search(200)
@given(
    st.floats(1e-9, 1e9),
    st.floats(1e-9, 1e9),
    st.integers(1, 10**7),
)
def test_full_jitter_stays_within_its_bounds_for_ever(base: float, cap: float, attempt: int) -> None:
    """After ten million failures, the pause is still not above the cap."""
    jitter = FullJitter(base, cap)
    assert 0 <= jitter(attempt) <= jitter.most(attempt) <= cap
    assert jitter.most(attempt) <= jitter.most(attempt + 1)
    assert jitter.most(1) == min(base, cap)


# -- what -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)])
def test_on_says_what_is_repeated(world: World, on: Any) -> None:
    """`on` takes a type, a tuple of types (with their subclasses), or a predicate."""
    dependency = world.dependency(ConnectionResetError(), ValueError("no"), 7)
    assert isinstance(world.outcome(Retry(3, wait=0, on=on)(dependency.fn)).error, ValueError)
    assert len(dependency.calls) == 2


def test_on_is_given_the_very_error(world: World) -> None:
    """The predicate gets the same error object that the function raised."""
    seen: list[Exception] = []
    error = OSError()
    dependency = world.dependency(error)
    world.outcome(Retry(3, wait=0, on=lambda each: bool(seen.append(each)))(dependency.fn))
    assert len(seen) == 1
    assert seen[0] is error


@pytest.mark.parametrize("error", [TypeError(), AssertionError(), NameError(), NotImplementedError()])
def test_programming_errors_are_not_repeated(world: World, error: Exception) -> None:
    """Programming errors come back at once and without a note."""
    dependency = world.dependency(error)
    assert world.outcome(Retry(3, wait=0)(dependency.fn)).error is error
    assert len(dependency.calls) == 1
    assert own_notes(error) == []


def test_on_that_names_a_programming_error_repeats_it(world: World) -> None:
    """A programming error whose type `on` names is repeated, whatever the classifier says."""
    dependency = world.dependency(TypeError(), KeyError(), 7)
    pipeline = Pipeline(Retry(3, wait=0, on=(TypeError, KeyError)), classify=Classifier(ignore=KeyError))
    assert world.call(pipeline(dependency.fn)) == 7


def test_results_judged_failures_are_repeated(world: World) -> None:
    """A result that `Classifier(results=)` calls a failure is repeated, until a good one comes back."""
    dependency = world.dependency(503, 503, 200)
    pipeline = Pipeline(Retry(3, wait=0), classify=Classifier(results=lambda status: status >= 500))
    assert world.call(pipeline(dependency.fn)) == 200
    assert len(dependency.calls) == 3


def test_results_judged_by_the_classifier_are_repeated_whatever_on_says(world: World) -> None:
    """`on` decides about errors only: results are repeated by the classifier."""
    dependency = world.dependency(503, OSError(), 200)
    pipeline = Pipeline(Retry(3, wait=0, on=OSError), classify=Classifier(results=lambda status: status >= 500))
    assert world.call(pipeline(dependency.fn)) == 200


@pytest.mark.parametrize(
    "options",
    [
        {"on": lambda error: 1 / 0},
        {"on": tenacity.retry_if_exception(lambda error: 1 / 0)},
        {"wait": lambda state: 1 / 0},
        {"stop": lambda state: 1 / 0},
        {"before": lambda state: 1 / 0},
        {"after": lambda state: 1 / 0},
        {"before_sleep": lambda state: 1 / 0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_callable_that_raises_reaches_the_caller(world: World, options: dict[str, Any]) -> None:
    """The caller gets the error of a predicate, strategy or hook that raises."""
    dependency = world.dependency(OSError())
    with pytest.raises(ZeroDivisionError):
        world.call(Retry(3, **{"wait": 0, **options})(dependency.fn))
    assert len(dependency.calls) <= 1


@pytest.mark.parametrize(
    "options",
    [{}, {"on": BaseException}, {"on": tenacity.retry_always}, {"before": lambda state: None}],
)
def test_base_exception_passes_at_once(world: World, options: dict[str, Any]) -> None:
    """A BaseException is not judged, not repeated and not changed, whatever `on` says."""
    halt = Halt()
    dependency = world.dependency(halt)
    with pytest.raises(Halt) as caught:
        world.call(Retry(3, wait=0, **options)(dependency.fn))
    assert caught.value is halt
    assert len(dependency.calls) == 1
    assert own_notes(halt) == []


@pytest.mark.every_loop
async def test_cancellation_during_a_pause_ends_the_call() -> None:
    """A caller that is cancelled during a pause gets its CancelledError, and no attempt follows."""
    dependency = Dependency(OSError())
    pausing = asyncio.Event()
    task = asyncio.create_task(Retry(3, wait=30, before_sleep=lambda state: pausing.set())(dependency)())
    await pausing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(dependency.calls) == 1
    assert task.cancelled()


# -- what comes back ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ending:
    """A way in which retries end after the second attempt, and the reason in the note."""

    build: Callable[[Any], Pipeline]
    reason: str
    calls: int = 2


def _closing(options: Any) -> Pipeline:
    inner = Pipeline(Timeout(60), name="inner")
    retry = Retry(5, wait=0, after=lambda state: state.attempt_number == 2 and inner.close(), **options.retry)
    return Pipeline(retry, inner, classify=options.classify)


class Options:
    """Options of a Pipeline that judges by errors, or by results."""

    def __init__(self, *, results: bool) -> None:
        self.classify = Classifier(results=lambda result: isinstance(result, list)) if results else Classifier()
        self.retry: dict[str, Any] = {}


ENDINGS: dict[str, Ending] = {
    "attempts": Ending(lambda how: Pipeline(Retry(2, wait=0), classify=how.classify), "attempts spent"),
    "stop": Ending(
        lambda how: Pipeline(Retry(5, stop=tenacity.stop_after_attempt(2), wait=0), classify=how.classify),
        "the stop strategy ended the attempts",
    ),
    "deadline": Ending(
        lambda how: Pipeline(
            Timeout(30), Retry(5, wait=lambda state: 60 * (state.attempt_number - 1)), classify=how.classify
        ),
        "a wait of 60 s would outlive the deadline",
    ),
    "open circuit": Ending(
        lambda how: Pipeline(
            Retry(5, wait=0), CircuitBreaker(None, fail_max=2, break_duration=9), classify=how.classify
        ),
        "attempt 3 was rejected: CircuitBreaker is open; try again in ",
    ),
    "closed pipeline": Ending(_closing, "attempt 3 was rejected: inner: the pipeline is closed"),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_last_error_comes_back_however_retries_end(world: World, ending: Ending) -> None:
    """The same object that the last attempt raised comes back, with one note of the reason."""
    script = failures(2)
    dependency = world.dependency(*script)
    error = world.outcome(ending.build(Options(results=False))(dependency.fn)).error
    assert error is script[-1]
    assert len(dependency.calls) == ending.calls
    assert len(own_notes(error)) == 1
    assert ending.reason in own_notes(error)[0]
    assert own_notes(script[0]) == []


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_last_result_comes_back_however_retries_end(world: World, ending: Ending) -> None:
    """The same object that the last attempt returned comes back, although it was judged a failure."""
    script: list[list[int]] = [[1], [2]]
    dependency = world.dependency(*script)
    outcome = world.outcome(ending.build(Options(results=True))(dependency.fn))
    assert outcome.error is None
    assert outcome.value is script[-1]
    assert len(dependency.calls) == ending.calls


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_last_outcome_comes_back_when_errors_and_results_alternate(world: World, ending: Ending) -> None:
    """The outcome of the last attempt comes back, whether it is an error or a result."""
    answer = [2]
    outcome = world.outcome(ending.build(Options(results=True))(world.dependency(OSError(), answer).fn))
    assert outcome.value is answer
    error = OSError()
    outcome = world.outcome(ending.build(Options(results=True))(world.dependency([1], error).fn))
    assert outcome.error is error


def test_last_error_comes_back_when_a_later_attempt_finds_the_bulkhead_full(world: World) -> None:
    """Another call takes the bulkhead's permit during the pause: the first attempt's error comes back, not the
    rejection."""
    inside, over = threading.Event(), threading.Event()
    bulkhead = Bulkhead(1)

    @bulkhead
    def hold() -> None:
        inside.set()
        over.wait(10)

    def take_the_permit(state: tenacity.RetryCallState) -> None:
        holder.start()
        inside.wait(10)

    holder = threading.Thread(target=hold)
    error = OSError()
    dependency = world.dependency(error)
    outcome = world.outcome(Pipeline(Retry(3, wait=0, before_sleep=take_the_permit), bulkhead)(dependency.fn))
    over.set()
    holder.join()
    assert outcome.error is error
    assert own_notes(error) == [
        "resilient: Retry gave up after 2 attempts: attempt 2 was rejected: Bulkhead is full: 1 running, 0 queued"
    ]
    assert bulkhead.snapshot()["in_use"] == 0


def test_last_error_comes_back_when_the_pipeline_is_switched_to_one_attempt(world: World) -> None:
    """Switching the pipeline to "once" ends repeats, also of calls that are running."""
    error = OSError()
    dependency = world.dependency(error)
    pipeline = Pipeline(Retry(3, wait=0))
    with pipeline.switch("once"):
        assert world.outcome(pipeline(dependency.fn)).error is error
    assert own_notes(error) == ["resilient: Retry gave up after 1 attempt: the pipeline is switched to one attempt"]


def test_deadline_in_mid_attempt_raises_timed_out_from_the_last_error(world: World) -> None:
    """If the total ends during an attempt, TimedOut is raised from the failure before. A `def` is not interrupted: its
    late error is the last real one, and is not repeated."""
    first, late = failures(2)
    dependency = world.dependency(first, Slow(0.1, late))
    outcome = world.outcome(Pipeline(Timeout(0.05), Retry(3, wait=0))(dependency.fn))
    if world.is_async:
        assert isinstance(outcome.error, TimedOut)
        assert outcome.error.__cause__ is first
    else:
        assert outcome.error is late
    assert len(dependency.calls) == 2


def test_error_that_is_not_repeated_comes_back_without_a_note(world: World) -> None:
    """An error after one attempt that is not worth repeating gets no note."""
    error = ValueError()
    dependency = world.dependency(error)
    assert world.outcome(Retry(3, wait=0, on=OSError)(dependency.fn)).error is error
    assert own_notes(error) == []


def test_error_that_ends_a_series_says_that_it_was_not_worth_repeating(world: World) -> None:
    """The note has the number of attempts, the reason and the pipeline's name."""
    error = ValueError()
    dependency = world.dependency(OSError(), error)
    assert world.outcome(Pipeline(Retry(3, wait=0, on=OSError), name="users")(dependency.fn)).error is error
    assert own_notes(error) == ["resilient: pipeline 'users' gave up after 2 attempts: not worth repeating"]


def test_error_keeps_its_traceback_cause_and_context(world: World) -> None:
    """An error that comes back has its own traceback, cause and context, and nothing of ours."""
    last = OSError("last")
    dependency = world.dependency(OSError("first"), last)
    assert world.outcome(Retry(2, wait=0)(dependency.fn)).error is last
    assert traceback.extract_tb(last.__traceback__)[-1].filename == testing.script.__file__
    assert (last.__cause__, last.__context__) == (None, None)


# -- one note, however often ----------------------------------------------------------------------------------------


def test_note_on_a_shared_error_is_replaced(world: World) -> None:
    """An error object that is raised again and again has its own notes and one of ours, the latest."""
    shared = OSError()
    shared.add_note("from the driver")
    for attempts in (2, 3, 4):
        dependency = world.dependency(*[shared] * attempts)
        world.outcome(Retry(attempts, wait=0)(dependency.fn))
        shared.add_note(f"seen {attempts}")
    assert shared.__notes__ == [
        *("from the driver", "seen 2", "seen 3"),
        *("resilient: Retry gave up after 4 attempts: attempts spent", "seen 4"),
    ]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An error that takes no attributes, and so no notes."""

    code: int


def test_error_that_takes_no_notes_comes_back_all_the_same(world: World) -> None:
    """An error comes back unchanged if notes cannot be added to it, because it is frozen or its `__notes__` is no
    list."""
    odd = OSError()
    odd.__notes__ = ("a tuple",)  # type: ignore[assignment]
    for error in (Frozen(5), odd):
        dependency = world.dependency(error, error)
        assert world.outcome(Retry(2, wait=0)(dependency.fn)).error is error


def test_traceback_of_a_shared_error_does_not_grow_with_attempts(world: World) -> None:
    """Python adds to the traceback of an object each time it is raised: those of earlier attempts are cut off."""

    def step() -> None:
        raise shared

    shared = OSError()
    lengths = []
    for attempts in (2, 500):
        shared.__traceback__ = None
        world.outcome(Retry(attempts, wait=0)(guardable(world, step)))
        lengths.append(len(traceback.extract_tb(shared.__traceback__)))
    assert lengths[0] == lengths[1]


def test_traceback_of_a_shared_error_does_not_grow_with_calls(world: World) -> None:
    """A call that repeats cuts off what earlier calls have added to the traceback of the object."""

    def step() -> None:
        raise shared

    shared = OSError()
    guarded = Retry(2, wait=0)(guardable(world, step))
    lengths = set()
    for _ in range(30):
        world.outcome(guarded)
        lengths.add(len(traceback.extract_tb(shared.__traceback__)))
    assert len(lengths) == 1


def test_tracebacks_of_rejections_do_not_grow(world: World) -> None:
    """Each rejection is a new object with its own traceback."""
    breaker = CircuitBreaker()
    breaker.isolate()
    guarded = Pipeline(Retry(3, wait=0), breaker)(world.dependency().fn)
    errors = [world.outcome(guarded).error for _ in range(50)]
    assert len({id(error) for error in errors}) == 50
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors if error}) == 1


# -- nothing stays --------------------------------------------------------------------------------------------------


def _no_strategy(state: tenacity.RetryCallState) -> None: ...


LEAVING: dict[str, Callable[[], Policy]] = {
    "attempts spent": lambda: Retry(3, wait=0),
    "not worth repeating": lambda: Retry(3, wait=0, on=KeyError),
    "with hooks": lambda: Retry(3, wait=0, before=_no_strategy, after=_no_strategy, before_sleep=_no_strategy),
    "with strategies": lambda: Retry(
        wait=tenacity.wait_none(), stop=tenacity.stop_after_attempt(3), on=tenacity.retry_always
    ),
    "in a stack": lambda: Pipeline(Timeout(60), Retry(3, wait=0), Bulkhead(5), CircuitBreaker(), Timeout(9)),
    "open circuit": lambda: Pipeline(Retry(3, wait=0), CircuitBreaker(None, fail_max=2)),
    "deadline": lambda: Pipeline(Timeout(30), Retry(3, wait=lambda state: 60)),
}


@pytest.fixture(scope="module")
def new_objects_only() -> None:
    """Makes garbage collections skip the objects of earlier tests: they take 1 ms instead of 70."""
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("new_objects_only")
@pytest.mark.parametrize("policy", LEAVING.values(), ids=LEAVING)
@pytest.mark.parametrize("last", ["error", "result"])
def test_nothing_of_a_call_stays_behind(world: World, policy: Callable[[], Policy], last: str) -> None:
    """No frames, locals, errors or results of a call stay alive with the pipeline."""
    alive: list[weakref.ref[Any]] = []

    class Failure(Exception):
        """An error that can be weakly referenced."""

    def step() -> Any:
        in_the_frame, raised, returned = Ballast(), Failure(), Ballast()
        alive.extend(map(weakref.ref, (in_the_frame, raised, returned)))
        if last == "result" and len(alive) > 3:
            return returned
        raise raised

    guarded = policy()(guardable(world, step))
    world.outcome(guarded)
    gc.collect()
    assert alive
    assert [each() for each in alive if each() is not None] == []


@pytest.mark.usefixtures("new_objects_only")
@pytest.mark.parametrize("shared", [False, True])
def test_earlier_attempts_are_forgotten_while_the_call_goes_on(world: World, shared: bool) -> None:
    """Only the last failure is kept: a thousand attempts hold no more objects than two, also if they raise one shared
    error."""
    alive: list[weakref.ref[Ballast]] = []
    most = 0
    error = OSError()

    def step() -> None:
        nonlocal most
        in_the_frame = Ballast()
        alive.append(weakref.ref(in_the_frame))
        gc.collect()
        most = max(most, sum(each() is not None for each in alive))
        raise error if shared else OSError()

    world.outcome(Retry(20, wait=0)(guardable(world, step)))
    assert len(alive) == 20
    assert most == 2


# -- asked to wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [2, 0.5, 60])
def test_retry_after_is_waited_for_before_the_usual_wait(asked: float) -> None:
    """The pause is the one asked for plus the usual one, so that callers do not all come back at once."""
    assert times(Retry(2, wait=0.25), Asks(asked), 7) == [0, asked + 0.25, asked + 0.25]


def test_retry_after_is_waited_for_with_a_tenacity_wait() -> None:
    """A `retry_after` is added to the pause of a tenacity strategy, too."""
    assert times(Retry(3, wait=tenacity.wait_fixed(1)), Asks(2), OSError(), 7) == [0, 3, 4, 4]


@pytest.mark.parametrize("asked", [-1, math.nan, math.inf, -math.inf, True, False, "30", None, b"1", 1j, 10**400, [1]])
def test_retry_after_that_makes_no_sense_is_disregarded(asked: Any) -> None:
    """Invalid values of `retry_after` are ignored."""
    assert times(Retry(2, wait=0.25), Asks(asked), 7) == [0, 0.25, 0.25]


def test_retry_after_longer_than_the_most_ends_retries_at_once(world: World) -> None:
    """A pause above `max_retry_after` ends the retries without a wait."""
    error = Asks(3600)
    dependency = world.dependency(error)
    assert world.outcome(Retry(3, wait=0)(dependency.fn)).error is error
    assert len(dependency.calls) == 1
    assert own_notes(error) == ["resilient: Retry gave up after 1 attempt: asked to wait 3600 s, longer than 60 s"]


@pytest.mark.parametrize(("asked", "attempts"), [(0, 2), (5, 2), (5.001, 1)])
def test_retry_after_up_to_max_retry_after_is_kept(asked: float, attempts: int) -> None:
    """A pause of exactly `max_retry_after` is waited for."""
    assert len(times(Retry(2, wait=0, max_retry_after=5), Asks(asked), 7)) == attempts + 1


def test_max_retry_after_zero_accepts_no_pause() -> None:
    """With `max_retry_after=0`, a failure that asks for a pause ends retries, and another one is repeated."""
    assert times(Retry(2, wait=0, max_retry_after=0), Asks(0), 7) == [0, 0, 0]
    assert times(Retry(2, wait=0, max_retry_after=0), Asks(0.01), 7) == [0, 0]


def test_retry_after_that_would_outlive_the_deadline_ends_retries_at_once() -> None:
    """The pause that is asked for counts when the wait is compared with the deadline."""
    assert times(Pipeline(Timeout(3), Retry(3, wait=0)), Asks(5)) == [0, 0]
    assert times(Pipeline(Timeout(3), Retry(3, wait=0)), Asks(2), 7) == [0, 2, 2]


@pytest.mark.parametrize(
    ("asked", "expected"), [(2.0, [0, 2.25, 2.25]), (-5, [0, 0.25, 0.25]), (math.nan, [0, 0.25, 0.25])]
)
def test_retry_after_of_a_result_verdict_is_waited_for_if_it_makes_sense(asked: float, expected: list[float]) -> None:
    """The `retry_after` of a Verdict on a result counts like an error's; invalid values are ignored."""
    classify = Classifier(results=lambda status: Verdict("failure", True, asked) if status == 503 else False)
    assert times(Pipeline(Retry(2, wait=0.25), classify=classify), 503, 200) == expected


# -- rejections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on",
    [
        None,
        Exception,
        (Exception, OSError),
        lambda error: True,
        tenacity.retry_always,
        tenacity.retry_if_exception_type(),
    ],
)
def test_rejection_is_not_repeated_unless_it_is_named(on: Any) -> None:
    """A rejection comes back at once, without a pause."""
    breaker = CircuitBreaker(break_duration=31)
    pipeline = Pipeline(Retry(3, wait=1, on=on), breaker)

    async def main() -> None:
        breaker.open()
        begin = asyncio.get_running_loop().time()
        with pytest.raises(CircuitOpen) as caught:
            await pipeline.call(asyncio.sleep, 0)
        assert asyncio.get_running_loop().time() == begin
        assert caught.value.retry_after == 31
        assert own_notes(caught.value) == []

    virtual.run(main())
    assert breaker.snapshot()["refused"] == 1


def test_rejection_of_a_full_bulkhead_is_not_repeated(world: World) -> None:
    """The BulkheadFull of a bulkhead inside comes back at once."""
    bulkhead = Bulkhead(1)
    refused = world.dependency()

    def inside() -> Any:
        return Pipeline(Retry(3, wait=0), bulkhead)(refused.fn)()

    async def inside_async() -> Any:
        return await inside()

    outcome = world.outcome(bulkhead(inside_async if world.is_async else inside))
    assert isinstance(outcome.error, BulkheadFull)
    assert len(refused.calls) == 0


def test_rejection_that_is_named_is_repeated(world: World) -> None:
    """A BulkheadFull that `on` names is repeated: the permit may be free a moment later."""
    bulkhead = Bulkhead(1)
    dependency = world.dependency(Slow(0.05, 1), 2)
    guarded = Pipeline(Retry(200, wait=0.01, on=BulkheadFull), bulkhead)(dependency.fn)
    assert sorted(outcome.value for outcome in world.together(guarded, guarded)) == [1, 2]


@pytest.mark.parametrize("on", [CircuitOpen, Rejected, (OSError, CircuitOpen)])
def test_open_circuits_retry_after_is_never_slept(on: Any) -> None:
    """Pauses after a CircuitOpen are the Retry's own, whether `on` names it or not."""
    breaker = CircuitBreaker(break_duration=31)
    pipeline = Pipeline(Retry(3, wait=0.5, on=on), breaker)

    async def main() -> None:
        breaker.open()
        with pytest.raises(CircuitOpen):
            await pipeline.call(asyncio.sleep, 0)
        assert asyncio.get_running_loop().time() == 1.0

    virtual.run(main())
    assert breaker.snapshot()["refused"] == 3


def test_open_circuit_that_is_named_can_be_outlasted() -> None:
    """With pauses longer than the break, a later attempt is the probe of the half-open circuit."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=5)
    assert times(Pipeline(Retry(4, wait=3, on=(OSError, CircuitOpen)), breaker), OSError(), 7) == [0, 6, 6]


def test_last_real_error_comes_back_when_rejections_that_are_named_end_it(world: World) -> None:
    """Rejections that were repeated do not replace the last error of the dependency."""
    error = OSError()
    dependency = world.dependency(error)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60)
    pipeline = Pipeline(Retry(3, wait=0, on=(OSError, CircuitOpen)), breaker)
    assert world.outcome(pipeline(dependency.fn)).error is error
    assert len(dependency.calls) == 1
    assert own_notes(error) == ["resilient: Retry gave up after 3 attempts: attempts spent"]


def test_last_rejection_comes_back_when_there_was_nothing_else(world: World) -> None:
    """Of three rejections, the latest one is raised."""
    breaker = CircuitBreaker()
    breaker.isolate()
    outcome = world.outcome(Pipeline(Retry(3, wait=0, on=CircuitOpen), breaker)(world.dependency().fn))
    assert isinstance(outcome.error, CircuitOpen)
    assert own_notes(outcome.error) == ["resilient: Retry gave up after 3 attempts: attempts spent"]
    assert breaker.snapshot()["refused"] == 3


def test_error_after_rejections_that_are_named_comes_back(world: World) -> None:
    """An error of the dependency replaces the rejections before it."""
    error = ValueError()
    dependency = world.dependency(BulkheadFull("full"), error)
    assert world.outcome(Retry(3, wait=0, on=BulkheadFull)(dependency.fn)).error is error


def test_closed_pipeline_is_not_asked_twice(world: World) -> None:
    """`PipelineClosed` is a rejection, and is not repeated."""
    inner = Pipeline(Timeout(60))
    inner.close()
    outcome = world.outcome(Pipeline(Retry(3, wait=0), inner)(world.dependency().fn))
    assert isinstance(outcome.error, PipelineClosed)
    assert own_notes(outcome.error) == []


# -- deadlines ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.parametrize(
    ("wait", "expected"), [(0.75, [0, 0.75, 0.75]), (1.0, [0, 0]), (tenacity.wait_fixed(1.5), [0, 0])]
)
def test_wait_that_reaches_the_deadline_is_not_begun(wait: Any, expected: list[float]) -> None:
    """A pause that would end at the deadline or after it is not begun."""
    assert times(Pipeline(Timeout(1), Retry(2, wait=wait)), *failures(2)) == expected


def test_wait_that_would_outlive_the_deadline_is_not_begun(world: World) -> None:
    """The caller gets its error at once, instead of a TimedOut later."""
    error = OSError()
    dependency = world.dependency(error)
    assert world.outcome(Pipeline(Timeout(2), Retry(3, wait=lambda state: 50))(dependency.fn)).error is error


def test_timeout_of_an_attempt_is_repeated(world: World) -> None:
    """A Timeout inside Retry limits one attempt; the next one has its own."""
    dependency = world.dependency(Hang() if world.is_async else TimedOut(seconds=0.02), 7)
    assert world.call(Pipeline(Retry(2, wait=0), Timeout(0.02))(dependency.fn)) == 7


def test_timeout_of_the_total_is_not_repeated() -> None:
    """Attempts that time out are repeated until the total is over."""
    calls: list[float] = []

    async def hang() -> None:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(3600)

    async def main() -> None:
        pipeline = Pipeline(Timeout(2.5), Retry(stop=tenacity.stop_never, wait=0), Timeout(1))
        with pytest.raises(TimedOut) as caught:
            await pipeline.call(hang)
        assert asyncio.get_running_loop().time() == 2.5
        assert caught.value.seconds == 2.5

    virtual.run(main())
    assert calls == [0, 1, 2]


@search(150)
@given(
    total=st.integers(1, 40),
    plan=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=8),
)
def test_no_pause_outlives_the_deadline(total: int, plan: list[tuple[int, int, int]]) -> None:
    """With any waits, requests for pauses and durations, each pause that begins ends before the deadline."""
    heard: list[events.Event] = []
    script = [Asks(asked) for _, asked, _ in plan]
    attempts = iter(zip(script, plan, strict=True))
    wait: Any = lambda state: plan[state.attempt_number - 1][0]  # noqa: E731
    pipeline = Pipeline(Timeout(total), Retry(len(plan), wait=wait))
    pipeline.listen(heard.append)

    async def fetch() -> None:
        error, (_, _, seconds) = next(attempts)
        await asyncio.sleep(seconds)
        raise error

    async def main() -> float:
        with pytest.raises((Asks, TimedOut)) as caught:
            await pipeline.call(fetch)
        assert isinstance(caught.value, TimedOut) or caught.value in script
        return asyncio.get_running_loop().time()

    end = virtual.run(main())
    assert end <= total
    promised = [each.at + each.wait for each in heard if isinstance(each, events.Retrying)]
    assert all(at < total for at in promised)
    assert [each.at for each in heard if isinstance(each, events.Waited)] == [
        each.at + each.wait for each in heard if isinstance(each, events.Retrying) and each.wait
    ]


# -- many calls, one instance ---------------------------------------------------------------------------------------


def test_calls_through_one_instance_do_not_know_of_each_other(world: World) -> None:
    """Each call through one Retry has its own attempts and its own outcome."""
    counts: dict[int, int] = {}
    lock = threading.Lock()

    def step(number: int) -> int:
        with lock:
            counts[number] = counts.get(number, 0) + 1
        if counts[number] <= number:
            raise OSError(number)
        return number

    guarded = Retry(4, wait=0.005)(guardable(world, step))
    outcomes = world.together(*(lambda number=number: guarded(number) for number in range(6)))
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3, None, None]
    assert [str(outcome.error) for outcome in outcomes[4:]] == ["4", "5"]
    assert counts == {0: 1, 1: 2, 2: 3, 3: 4, 4: 4, 5: 4}


@search(40)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=12))
def test_interleaved_calls_wait_as_each_would_alone(plans: list[list[int]]) -> None:
    """In a hundred interleavings in virtual time, each call has the attempts and pauses that it has alone."""

    def wait(state: tenacity.RetryCallState) -> float:
        return state.args[0][state.attempt_number - 1] * state.attempt_number

    retry = Retry(6, wait=wait)

    async def once(plan: list[int]) -> list[float]:
        begun: list[float] = []

        @retry
        async def fetch(plan: list[int]) -> None:
            begun.append(asyncio.get_running_loop().time())
            if len(begun) <= len(plan):
                raise OSError

        await fetch(plan)
        return begun

    async def together() -> list[list[float]]:
        return await asyncio.gather(*map(once, plans))

    assert virtual.run(together()) == [virtual.run(once(plan)) for plan in plans]


# -- events and texts -----------------------------------------------------------------------------------------------


def test_retry_tells_of_each_failure_pause_and_end() -> None:
    """The events of one call come in order and with exact times."""
    heard: list[Any] = []
    pipeline = Pipeline(Retry(2, wait=1.5, name="twice"), name="users")
    pipeline.listen(heard.append)
    script = failures(2)
    times(pipeline, *script)
    retrying, waited, gave_up = [
        each for each in heard if isinstance(each, events.Retrying | events.Waited | events.GaveUp)
    ]
    assert retrying == events.Retrying("users", 0.0, "twice", 1, 1.5, script[0])
    assert waited == events.Waited("users", 1.5, "twice", "backoff", 1.5)
    assert gave_up == events.GaveUp("users", 1.5, "twice", 2, "attempts spent", script[1])


def _enough(state: tenacity.RetryCallState) -> bool:
    return state.attempt_number > 1


def _a_while(state: tenacity.RetryCallState) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        (Retry(), "Retry(3 attempts, full jitter 0.1 s to 20 s)"),
        (Retry(5, wait=0.5), "Retry(5 attempts, 0.5 s)"),
        (
            Retry(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(timedelta(seconds=2))),
            "Retry(4 attempts, 2 s)",
        ),
        (Retry(stop=tenacity.stop_never, wait=tenacity.wait_fixed(1)), "Retry(attempts without end, 1 s)"),
        (
            Retry(3, stop=tenacity.stop_before_delay(5), wait=tenacity.wait_random(0, 2)),
            "Retry(3 attempts, begun within 5 s, tenacity wait_random)",
        ),
        (
            Retry(stop=tenacity.stop_after_delay(5) & tenacity.stop_when_event_set(threading.Event())),
            "Retry(attempts until 5 s have passed and until an event is set, full jitter 0.1 s to 20 s)",
        ),
        (
            Retry(stop=_enough, wait=_a_while),
            "Retry(attempts until _enough says stop, _a_while)",
        ),
    ],
)
def test_retry_describes_its_plan(retry: Retry, text: str) -> None:
    """The `repr` names the attempts, the pauses and the flags."""
    assert repr(retry) == retry.describe() == text


CHAINED: dict[str, Callable[[int], Pipeline]] = {
    "timeout": lambda n: Pipeline(Retry(n, wait=0), Timeout(2)),
    "timeout and total": lambda n: Pipeline(Timeout(1000), Retry(n, wait=0), Timeout(2)),
    "nested": lambda n: Pipeline(Retry(n, wait=0), Retry(2, wait=0), Timeout(2)),
    "nested total": lambda n: Pipeline(Retry(n, wait=0), Timeout(9), Retry(2, wait=0), Timeout(2)),
    "hedge": lambda n: Pipeline(Retry(n, wait=0), Hedge(1), Timeout(2)),
    "inline hedge": lambda n: Pipeline(Retry(n, wait=0), Hedge(1, inline=True), Timeout(2)),
    "abandoned": lambda n: Pipeline(Retry(n, wait=0), Timeout(2, abandon=True)),
}


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.parametrize("block", [False, True], ids=["function", "block"])
@pytest.mark.parametrize("make", CHAINED.values(), ids=CHAINED)
def test_error_of_a_long_retry_is_as_long_as_that_of_a_short_one(make: Callable[[int], Pipeline], block: bool) -> None:
    """The logged error is chained to the attempt before, not to all earlier ones."""

    async def hang() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(3600)

    async def run(pipeline: Pipeline) -> None:
        if block and not any(policy._unfit(is_async=True, block=True) for policy in pipeline.policies):
            async for attempt in pipeline.attempts():
                async with attempt:
                    await hang()
        else:
            await pipeline.call(hang)

    lines: list[int] = []
    for attempts in (4, 40):
        calls = 0
        with pytest.raises(TimedOut) as caught:
            virtual.run(run(make(attempts)))
        assert calls >= attempts
        lines.append(len(traceback.format_exception(caught.value)))
    assert lines[1] <= lines[0]


# -- results that no caller gets ------------------------------------------------------------------------------------


class Closable:
    """A result that its caller must close."""

    status_code = 500

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def _not_good_enough(result: Any) -> bool:
    return isinstance(result, Closable)


def test_result_is_closed_when_a_later_attempt_raises(world: World) -> None:
    """Where an error comes back, the result of an attempt before is closed."""
    result = Closable()
    pipeline = Pipeline(Retry(attempts=2, wait=0), classify=Classifier(results=_not_good_enough))
    assert isinstance(world.outcome(pipeline(world.dependency(result, OSError()).fn)).error, OSError)
    assert result.closed.wait(5)


def test_result_is_closed_when_the_judge_raises(world: World) -> None:
    """Where the classifier raises, the newest result and the one kept before it are closed."""
    results = [Closable(), Closable()]

    def judge(result: Any) -> bool:
        if result is results[1]:
            raise LookupError("the judge's own")
        return True

    pipeline = Pipeline(Retry(attempts=3, wait=0), classify=Classifier(results=judge))

    async def main() -> None:
        with pytest.raises(LookupError):
            await pipeline(world.dependency(*results).fn)()
        await world.sleep(0.01)

    def main_def() -> None:
        with pytest.raises(LookupError):
            pipeline(world.dependency(*results).fn)()

    world.run(main if world.is_async else main_def)
    assert all(result.closed.wait(5) for result in results)


@pytest.mark.parametrize("given", ["argument", "session", "again"])
def test_result_that_may_be_in_use_elsewhere_is_left_open(world: World, given: str) -> None:
    """Not closed: an argument of the call, a session (which may be shared), a response that comes a second time."""
    kind = type("Session", (Closable,), {"status_code": None}) if given == "session" else Closable
    first, last = kind(), kind()
    script = [first, first, last] if given == "argument" else [first, last, first] if given == "session" else [last] * 3
    pipeline = Pipeline(Retry(attempts=3, wait=0), classify=Classifier(results=_not_good_enough))
    result = world.call(pipeline(world.dependency(*script).fn), *([first] if given == "argument" else []))
    assert result is script[-1]
    assert not first.closed.is_set()
    assert not last.closed.is_set()


@pytest.mark.virtual_time
@pytest.mark.parametrize("policy", [Retry(attempts=2, wait=0), Fallback(7)], ids=repr)
async def test_result_whose_closing_hangs_delays_the_caller_by_a_second(policy: Policy) -> None:
    """The caller waits for a second; the closing goes on in the background."""

    class Hanging:
        status_code = 500

        async def aclose(self) -> None:
            await asyncio.sleep(3600)

    async def fetch() -> Hanging:
        return Hanging()

    begin = asyncio.get_running_loop().time()
    await Pipeline(policy, classify=Classifier(results=lambda result: True))(fetch)()
    assert asyncio.get_running_loop().time() - begin == 1


async def test_result_is_closed_when_a_later_attempt_is_cancelled() -> None:
    """Where the caller is cancelled, the result of an attempt before is closed."""
    result, second = Closable(), asyncio.Event()

    async def fetch() -> Any:
        if not result_given.pop():
            second.set()
            await asyncio.sleep(3600)
        return result

    result_given = [False, True]
    pipeline = Pipeline(Retry(attempts=3, wait=0), classify=Classifier(results=_not_good_enough))
    task = asyncio.ensure_future(pipeline(fetch)())
    await second.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert result.closed.is_set()
