"""Timeout: each attempt or the whole call, by position; only its own expiry; and a deadline that others see."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import tenacity
from hypothesis import example, given
from hypothesis import strategies as st

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Pipeline,
    ResilientError,
    Retry,
    TimedOut,
    Timeout,
)
from resilient.events import CallTimedOut, Event
from resilient.runtime import virtual
from tests.hypothesis_settings import search
from tests.worlds import WORLDS, Hang, Slow, Until, World, left_queue


@pytest.fixture(params=WORLDS, ids=lambda kind: kind.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each runtime in turn, and uvloop, whose clock counts milliseconds."""
    made: World = request.param()
    yield made
    made.close()


LIMIT = 0.02
LONG = 60.0


def limit(seconds: float = LIMIT, name: str | None = None) -> Timeout:
    """A Timeout that stops waiting in every world: `thread=True` has an effect on a `def` only."""
    return Timeout(seconds, thread=True, name=name)


async def forever() -> None:
    """Wait for a future that is never set."""
    await asyncio.get_running_loop().create_future()


# -- the limit ---------------------------------------------------------------------------------------------------


def test_timeout_answer_in_time_is_returned(world: World) -> None:
    """The function gets the arguments of the call, and its result comes back."""
    dependency = world.dependency(7)
    assert world.call(limit(LONG)(dependency.fn), 1, key="value") == 7
    assert dependency.arguments == [((1,), {"key": "value"})]


def test_timeout_slow_answer_in_time_is_returned(world: World) -> None:
    """A result that comes shortly before the limit comes back."""
    assert world.call(limit(LONG)(world.dependency(Slow(LIMIT, 7)).fn)) == 7


def test_timeout_expiry_ends_the_call(world: World) -> None:
    """TimedOut is raised not before the limit, and has the names and the seconds."""
    pipeline = Pipeline(limit(name="patience"), name="users")
    begin = world.now()
    error = world.outcome(pipeline(world.dependency(Hang()).fn)).error

    assert world.now() - begin >= LIMIT - 0.001
    assert isinstance(error, TimedOut)
    assert (error.seconds, error.policy, error.pipeline, error.evidence) == (LIMIT, "patience", "users", True)
    assert str(error) == "users: patience of 0.02 s expired"


def test_timeout_expiry_without_names(world: World) -> None:
    """The error of a Timeout without a pipeline has the policy's name."""
    error = world.outcome(limit()(world.dependency(Hang()).fn)).error
    assert isinstance(error, TimedOut)
    assert (error.policy, error.pipeline, str(error)) == ("Timeout", "", "Timeout of 0.02 s expired")


def test_timeout_expiry_is_caught_as_timeout_error(world: World) -> None:
    """Code that knows only `TimeoutError` catches it."""
    with pytest.raises(TimeoutError):
        world.call(limit()(world.dependency(Hang()).fn))


def test_timeout_instance_serves_again_after_an_expiry(world: World) -> None:
    """A Timeout has no state: the call after an expiry is answered."""
    guarded = limit()(world.dependency(Hang(), 7, Hang()).fn)
    outcomes = [world.outcome(guarded) for _ in range(3)]
    assert [type(outcome.error) for outcome in outcomes] == [TimedOut, type(None), TimedOut]


def test_timeout_calls_side_by_side_expire_each_for_itself(world: World) -> None:
    """Of concurrent calls, those that hang expire, and those that answer return."""
    guarded = limit(0.1)(world.dependency(Hang(), 1, Hang(), 2).fn)
    outcomes = world.together(*[guarded] * 4)
    assert [outcome.value for outcome in outcomes] == [None, 1, None, 2]
    assert [type(outcome.error) for outcome in outcomes] == [TimedOut, type(None)] * 2


# -- only its own expiry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [TimeoutError("of the callee"), TimedOut("of another pipeline"), OSError(), KeyError("x")], ids=repr
)
def test_timeout_callees_own_error_passes_unchanged(world: World, error: Exception) -> None:
    """The callee's own TimeoutError comes back as the same object."""
    assert world.outcome(limit(LONG)(world.dependency(error).fn)).error is error


def test_timeout_callees_own_timeout_is_not_told_as_an_expiry(world: World) -> None:
    """The callee's own TimeoutError emits no CallTimedOut."""
    told: list[Event] = []
    pipeline = Pipeline(limit(LONG))
    pipeline.listen(told.append)
    world.outcome(pipeline(world.dependency(TimeoutError()).fn))
    assert [event for event in told if isinstance(event, CallTimedOut)] == []


def test_timeout_expiry_is_told(world: World) -> None:
    """One CallTimedOut is emitted, with the names of pipeline and policy."""
    told: list[Event] = []
    pipeline = Pipeline(limit(name="patience"), name="users")
    pipeline.listen(told.append)
    world.outcome(pipeline(world.dependency(Hang()).fn))

    events = [event for event in told if isinstance(event, CallTimedOut)]
    assert [(event.pipeline, event.policy, event.seconds) for event in events] == [("users", "patience", LIMIT)]


@pytest.mark.every_loop
async def test_timeout_result_of_a_callee_that_swallowed_the_cancel_is_returned() -> None:
    """A callee that swallows the cancellation and returns has its result returned."""

    async def stubborn() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 7
        return 0

    assert await Timeout(LIMIT)(stubborn)() == 7


# -- position: each attempt, or all of them ----------------------------------------------------------------------


def test_timeout_inside_retry_bounds_each_attempt(world: World) -> None:
    """An attempt that hangs is ended by the Timeout and repeated."""
    dependency = world.dependency(Hang(), Hang(), 7)
    pipeline = Pipeline(Retry(attempts=3, wait=0), limit(0.1))
    assert world.call(pipeline(dependency.fn)) == 7
    assert len(dependency.calls) == 3


def test_timeout_inside_retry_is_the_error_when_every_attempt_hangs(world: World) -> None:
    """If all attempts hang, the TimedOut of the last one comes back."""
    dependency = world.dependency(Hang(), Hang())
    error = world.outcome(Pipeline(Retry(attempts=2, wait=0), limit())(dependency.fn)).error
    assert isinstance(error, TimedOut)
    assert error.seconds == LIMIT
    assert len(dependency.calls) == 2


def test_timeout_outside_retry_bounds_all_attempts_together(world: World) -> None:
    """The attempt that runs at the limit is ended; the failure before it is the cause of the TimedOut."""
    failure = OSError()
    dependency = world.dependency(Slow(0.01, OSError()), Slow(0.01, failure), Hang(), 7)
    error = world.outcome(Pipeline(limit(0.2), Retry(attempts=4, wait=0))(dependency.fn)).error
    assert isinstance(error, TimedOut)
    assert error.seconds == 0.2
    assert error.__cause__ is failure
    assert error.evidence is True
    assert len(dependency.calls) == 3


def test_timeout_outside_without_an_earlier_failure_has_no_cause(world: World) -> None:
    """The CancelledError behind a TimedOut is not shown as its cause."""
    error = world.outcome(Pipeline(limit(), Retry(attempts=2, wait=0))(world.dependency(Hang()).fn)).error
    assert isinstance(error, TimedOut)
    assert error.__cause__ is None
    assert error.__suppress_context__ is True


def test_timeout_total_and_attempt_together(world: World) -> None:
    """Each attempt that hangs is ended by the inner Timeout; the outer one is not reached."""
    dependency = world.dependency(Hang(), 7)
    pipeline = Pipeline(limit(LONG, "total"), Retry(attempts=2, wait=0), limit(0.1, "attempt"))
    assert world.call(pipeline(dependency.fn)) == 7


@pytest.mark.virtual_time
async def test_timeout_total_counts_waits_and_attempts() -> None:
    """With 3 s for each attempt and 2 s between them, a total of 11 s ends the call at exactly 11 s."""
    loop = asyncio.get_running_loop()
    pipeline = Pipeline(
        Timeout(11, name="total"), Retry(stop=tenacity.stop_never, wait=2), Timeout(3, name="attempt"), name="plan"
    )
    with pytest.raises(TimedOut) as caught:
        await pipeline.call(forever)
    assert loop.time() == 11
    assert caught.value.policy == "total"
    assert isinstance(caught.value.__cause__, TimedOut)
    assert caught.value.__cause__.policy == "attempt"


# -- nesting -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.parametrize(("outer", "inner", "expired"), [(LIMIT, LONG, "outer"), (LONG, LIMIT, "inner")])
def test_timeout_nested_expires_as_the_shorter(world: World, outer: float, inner: float, expired: str) -> None:
    """The shorter one expires, whether it stands inside or outside."""
    guarded = limit(outer, "outer")(limit(inner, "inner")(world.dependency(Hang()).fn))
    error = world.outcome(guarded).error
    assert isinstance(error, TimedOut)
    assert (error.policy, error.seconds) == (expired, LIMIT)


def test_timeout_nested_in_one_pipeline_expires_as_the_inner(world: World) -> None:
    """In one pipeline, the inner of two Timeouts expires if it is the shorter."""
    error = world.outcome(Pipeline(limit(LONG, "outer"), limit(LIMIT, "inner"))(world.dependency(Hang()).fn)).error
    assert isinstance(error, TimedOut)
    assert error.policy == "inner"


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_timeout_of_an_outer_pipeline_is_named_for_it(world: World) -> None:
    """A guarded function inside another: the TimedOut names the outer pipeline, whose limit ended the call."""
    inner = Pipeline(Retry(attempts=2, wait=0), limit(LONG), name="inner")(world.dependency(Hang()).fn)
    outer = Pipeline(limit(), name="outer")(inner)
    error = world.outcome(outer).error
    assert isinstance(error, TimedOut)
    assert (error.pipeline, error.seconds) == ("outer", LIMIT)


def test_timeout_of_a_pipeline_around_a_pipeline_is_named_for_it(world: World) -> None:
    """A pipeline as a policy of another one: the TimedOut names the outer pipeline, whose limit ended the call."""
    inner = Pipeline(Retry(attempts=2, wait=0), limit(LONG / 4), name="inner")
    outer = Pipeline(limit(LONG), inner, limit(LIMIT, "nearest"), name="outer")
    error = world.outcome(outer(world.dependency(Hang(), Hang()).fn)).error
    assert isinstance(error, TimedOut)
    assert (error.pipeline, error.policy) == ("outer", "nearest")


lengths = st.integers(min_value=1, max_value=30)


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@search(80)
@given(limits=st.lists(lengths, min_size=1, max_size=5), work=lengths)
@example(limits=[5, 5, 5], work=9)
@example(limits=[3, 2, 1], work=9)
@example(limits=[1, 2, 3], work=9)
def test_timeout_nested_at_will_the_nearest_limit_ends_the_call(limits: list[int], work: int) -> None:
    """The nearest limit ends the call at its exact time; of equal ones the outermost. (Work takes half a second more or
    less than any limit.)"""

    async def main() -> tuple[Any, float]:
        async def callee() -> Any:
            return await asyncio.sleep(work + 0.5, "done")

        layered = callee
        for depth in reversed(range(len(limits))):
            layered = Timeout(limits[depth], name=f"depth {depth}")(layered)
        try:
            ended: Any = await layered()
        except TimedOut as error:
            ended = error.policy
        return ended, asyncio.get_running_loop().time()

    nearest = min(limits)
    expected = ("done", work + 0.5) if work + 0.5 < nearest else (f"depth {limits.index(nearest)}", float(nearest))
    assert virtual.run(main()) == expected


# -- a deadline that inner policies see --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_timeout_total_lets_no_backoff_start_that_outlives_it(world: World) -> None:
    """The last real error comes back at once, instead of a TimedOut at the limit."""
    error = OSError()
    dependency = world.dependency(error, 7)
    pipeline = Pipeline(limit(LONG), Retry(attempts=2, wait=tenacity.wait_fixed(LONG * 2)))
    begin = world.now()
    assert world.outcome(pipeline(dependency.fn)).error is error
    assert world.now() - begin < LONG / 2
    assert len(dependency.calls) == 1


def test_timeout_total_lets_a_backoff_start_that_fits(world: World) -> None:
    """A backoff that ends before the limit starts, and the second attempt is made."""
    dependency = world.dependency(OSError(), 7)
    assert world.call(Pipeline(limit(LONG), Retry(attempts=2, wait=LIMIT))(dependency.fn)) == 7


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.virtual_time
async def test_timeout_deadline_is_the_nearest_of_all_that_surround() -> None:
    """Inside two Timeouts, a backoff of 5 s is not begun that outlives the inner one only."""
    calls: list[float] = []

    async def failing() -> None:
        calls.append(asyncio.get_running_loop().time())
        raise OSError

    backoff = Retry(attempts=9, wait=tenacity.wait_fixed(5))
    with pytest.raises(OSError):
        await Pipeline(Timeout(100), Timeout(12), backoff).call(failing)
    assert calls == [0, 5, 10]


@pytest.mark.virtual_time
async def test_timeout_of_one_attempt_is_over_when_the_next_begins() -> None:
    """The limit of an attempt does not count for the backoff after it."""
    calls: list[float] = []

    async def failing() -> None:
        calls.append(asyncio.get_running_loop().time())
        raise OSError

    with pytest.raises(OSError):
        await Pipeline(Retry(attempts=3, wait=50), Timeout(1)).call(failing)
    assert calls == [0, 50, 100]


def test_timeout_ends_a_wait_in_a_queue_which_is_no_evidence(world: World) -> None:
    """The dependency was not called, so the TimedOut is no evidence; the permit is free again afterwards."""
    bulkhead = Bulkhead(1, queue=1)
    dependency = world.dependency(Until(left_queue(bulkhead), "first"), "second")
    queued = Pipeline(Timeout(LIMIT), bulkhead)(dependency.fn)
    first, second = world.together(bulkhead(dependency.fn), queued)

    assert first.value == "first"
    assert isinstance(second.error, TimedOut)
    assert second.error.evidence is False
    assert len(dependency.calls) == 1
    assert bulkhead.snapshot()["in_use"] == bulkhead.snapshot()["queued"] == 0


@pytest.mark.virtual_time
async def test_timeout_that_a_queue_used_in_part_is_no_evidence() -> None:
    """The dependency had 4 of 10 s, so the TimedOut is no evidence."""
    bulkhead = Bulkhead(1, queue=1)
    holder = asyncio.create_task(bulkhead(asyncio.sleep)(6))
    await asyncio.sleep(0)
    with pytest.raises(TimedOut) as caught:
        await Pipeline(Timeout(10), bulkhead).call(forever)
    await holder
    assert asyncio.get_running_loop().time() == 10
    assert caught.value.evidence is False


@pytest.mark.virtual_time
async def test_timeout_inside_the_queue_counts_from_the_admission() -> None:
    """Inside the bulkhead, the dependency has the whole time, whatever the wait before: the TimedOut is evidence."""
    bulkhead = Bulkhead(1, queue=1)
    holder = asyncio.create_task(bulkhead(asyncio.sleep)(6))
    await asyncio.sleep(0)
    with pytest.raises(TimedOut) as caught:
        await Pipeline(bulkhead, Timeout(10)).call(forever)
    await holder
    assert asyncio.get_running_loop().time() == 16
    assert caught.value.evidence is True


def test_timeout_later_than_the_queue_timeout_leaves_that_to_it(world: World) -> None:
    """Where the bulkhead's queue timeout is shorter, its refusal comes back."""
    bulkhead = Bulkhead(1, queue=1, queue_timeout=LIMIT)
    dependency = world.dependency(Until(left_queue(bulkhead), "first"), "second")
    queued = Pipeline(Timeout(LONG), bulkhead)(dependency.fn)
    _, second = world.together(bulkhead(dependency.fn), queued)
    assert isinstance(second.error, BulkheadFull)


def test_timeout_expiries_open_a_circuit_outside(world: World) -> None:
    """Each TimedOut is a failure for a breaker outside."""
    dependency = world.dependency(Hang(), Hang())
    guarded = Pipeline(CircuitBreaker(None, fail_max=2), limit())(dependency.fn)
    errors = [world.outcome(guarded).error for _ in range(3)]
    assert [type(error) for error in errors] == [TimedOut, TimedOut, CircuitOpen]


# -- the error ---------------------------------------------------------------------------------------------------


def test_timed_out_is_ours_and_a_timeout_error() -> None:
    """TimedOut is a ResilienceError and a TimeoutError."""
    assert issubclass(TimedOut, ResilientError)
    assert issubclass(TimedOut, TimeoutError)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_timed_out_pickles(protocol: int) -> None:
    """A pickled TimedOut has all its attributes."""
    with pytest.raises(TimedOut) as caught:
        virtual.run(Pipeline(Timeout(0.01, name="patience"), name="users").call(forever))
    error = caught.value
    again = pickle.loads(pickle.dumps(error, protocol))

    assert type(again) is TimedOut
    assert str(again) == str(error)
    assert (again.seconds, again.policy, again.pipeline, again.evidence) == (0.01, "patience", "users", True)


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (0, ValueError),
        (0.0, ValueError),
        (-1, ValueError),
        (-0.001, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (1j, TypeError),
        ([1], TypeError),
    ],
    ids=repr,
)
def test_timeout_impossible_limit_is_refused_with_its_value(seconds: Any, kind: type[Exception]) -> None:
    """The constructor says the value, and what would be right."""
    with pytest.raises(kind) as caught:
        Timeout(seconds)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"seconds must be a finite number of seconds > 0, got {seconds!r}")


@pytest.mark.parametrize("thread", [1, 0, "yes", None], ids=repr)
def test_timeout_thread_that_is_no_flag_is_refused_with_its_value(thread: Any) -> None:
    """`thread` must be True or False."""
    with pytest.raises(TypeError, match=f"thread must be True or False, got {thread!r}"):
        Timeout(1, thread=thread)


@pytest.mark.parametrize(("name", "kind"), [("", ValueError), ("  ", ValueError), (3, TypeError)], ids=repr)
def test_timeout_name_that_is_none_is_refused_with_its_value(name: Any, kind: type[Exception]) -> None:
    """A name must be a text that is not empty."""
    with pytest.raises(kind, match=f"name must .*, got {name!r}"):
        Timeout(1, name=name)


def test_timeout_option_that_does_not_exist_is_refused() -> None:
    """The TypeError names the unknown option."""
    with pytest.raises(TypeError, match="second"):
        Timeout(second=1)  # type: ignore[call-arg]


def test_timeout_options_are_by_keyword() -> None:
    """Options after the seconds cannot be given by position."""
    with pytest.raises(TypeError, match="positional"):
        Timeout(1, True)  # type: ignore[misc]


def test_timeout_repr_says_what_it_does() -> None:
    """The `repr` names the seconds and the flags."""
    assert repr(Timeout(2.5)) == "Timeout(2.5 s)"
    assert repr(Timeout(2, thread=True)) == "Timeout(2 s, thread)"
