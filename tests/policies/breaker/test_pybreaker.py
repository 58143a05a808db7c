"""CircuitBreaker with pybreaker: its listeners, its object, and storages shared with synchronous users."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pybreaker
import pytest

from resilient import Bulkhead, CircuitBreaker, CircuitOpen, Classifier, Pipeline, Timeout
from resilient.stores.pybreaker import SharedStorage
from tests.servers import Valkey
from tests.worlds import World


class Ear(pybreaker.CircuitBreakerListener):
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def before_call(self, cb: pybreaker.CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.heard.append(("before_call", cb, func, args, kwargs))

    def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
        self.heard.append(("failure", cb, exc))

    def success(self, cb: pybreaker.CircuitBreaker) -> None:
        self.heard.append(("success", cb))

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self.heard.append(("state_change", cb, old_state, new_state))

    @property
    def words(self) -> list[str]:
        """The recorded calls in short form."""
        return [
            f"{old.name} -> {new.name}" if what == "state_change" else what
            for what, _, *(old, new) in (
                entry if entry[0] == "state_change" else (*entry[:2], 0, 0) for entry in self.heard
            )
        ]


def up(*_: Any, **__: Any) -> str:
    return "up"


def down() -> None:
    raise OSError("down")


def fail(guarded: Callable[[], object], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises((OSError, pybreaker.CircuitBreakerError)):
            guarded()


async def ends(call: Any) -> Any:
    try:
        return await call
    except Exception as error:
        return error


# -- listeners ----------------------------------------------------------------------------------------------------


def test_listener_before_call_gets_the_function_and_its_arguments(world: World) -> None:
    """It gets the user's own function, not the guarded one, and keyword arguments of any name."""
    ear = Ear()
    breaker = CircuitBreaker(listeners=[ear])
    dependency = world.dependency(1)
    assert world.call(breaker(dependency.fn), 7, method="GET") == 1
    arguments = ((7,), {"method": "GET"})
    assert ear.heard[0] == ("before_call", breaker.pybreaker, dependency.fn, *arguments)
    assert dependency.arguments == [arguments]


def test_listener_success_and_failure_get_the_breaker_and_the_users_own_exception(world: World) -> None:
    """The listener is called in the order of the calls."""
    ear = Ear()
    breaker = CircuitBreaker(listeners=[ear])
    error = OSError("down")
    dependency = world.dependency(1, error)
    guarded = breaker(dependency.fn)
    world.call(guarded)
    assert world.outcome(guarded).error is error
    assert ear.words == ["before_call", "success", "before_call", "failure"]
    assert ear.heard[1] == ("success", breaker.pybreaker)
    assert ear.heard[3] == ("failure", breaker.pybreaker, error)


def test_listener_failure_of_a_result_gets_an_error_that_says_so() -> None:
    """pybreaker has no results that are failures, so the listener gets an exception of ours."""
    ear = Ear()
    pipeline = Pipeline(CircuitBreaker(listeners=[ear]), classify=Classifier(results=lambda result: result == "up"))
    assert pipeline.call(up) == "up"
    what, _, error = ear.heard[-1]
    assert what == "failure"
    assert isinstance(error, pybreaker.CircuitBreakerError)


@pytest.mark.virtual_time
async def test_listener_gets_a_cut_call_only_if_it_is_evidence() -> None:
    """A young call that was cancelled is neither a failure nor a success."""
    ear = Ear()
    pipeline = Pipeline(Timeout(2.0), CircuitBreaker(listeners=[ear]))
    for seconds in (1.0, 3.0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await pipeline.call(asyncio.sleep, 10.0)
    assert ear.words == ["before_call", "before_call", "failure"]


def test_listener_state_change_gets_pybreakers_own_state_objects() -> None:
    """The old and the new state are instances of pybreaker's classes."""
    ear = Ear()
    breaker = CircuitBreaker(listeners=[ear])
    breaker.open()
    breaker.half_open()
    breaker.close()
    states = [pybreaker.CircuitClosedState, pybreaker.CircuitOpenState, pybreaker.CircuitHalfOpenState]
    changes = [(cb, type(old), type(new)) for _, cb, old, new in ear.heard]
    expected = [(states[0], states[1]), (states[1], states[2]), (states[2], states[0])]
    assert changes == [(breaker.pybreaker, *pair) for pair in expected]


def test_listener_gets_the_same_calls_as_from_pybreaker_itself() -> None:
    """Success, failure, opening, refusal, failed probe and successful probe cause the same calls in the same order."""
    ours, theirs = Ear(), Ear()
    breaker = CircuitBreaker(None, fail_max=2, break_duration=60.0, listeners=[ours])
    real = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=60, listeners=[theirs])

    def story(guard: Callable[..., Callable[..., Any]], is_open: Callable[[], bool], end: Callable[[], None]) -> None:
        assert guard(up)() == "up"
        fail(guard(down), 3)  # the third is refused
        assert is_open()
        end()
        fail(guard(down), 2)
        assert is_open()
        end()
        assert guard(up)() == "up"

    story(breaker, lambda: breaker.state == "open", breaker.half_open)
    story(real, lambda: real.current_state == "open", real.half_open)
    assert ours.words == theirs.words


def test_listener_is_not_called_for_a_refused_call() -> None:
    """No function was called, and none has failed."""
    ear = Ear()
    breaker = CircuitBreaker(listeners=[ear])
    breaker.isolate()
    ear.heard.clear()
    with pytest.raises(CircuitOpen):
        breaker(up)()
    assert ear.heard == []


class Broken(pybreaker.CircuitBreakerListener):
    """A listener whose methods all raise."""

    def before_call(self, *_: Any, **__: Any) -> None:
        raise LookupError("before_call")

    def failure(self, *_: Any) -> None:
        raise LookupError("failure")

    def success(self, *_: Any) -> None:
        raise LookupError("success")

    def state_change(self, *_: Any) -> None:
        raise LookupError("state_change")


def test_listener_that_raises_is_logged_and_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The call, the circuit and the other listeners go on."""
    ear = Ear()
    breaker = CircuitBreaker(None, fail_max=1, listeners=[Broken(), ear])
    dependency = world.dependency(1, OSError("down"))
    guarded = breaker(dependency.fn)
    assert world.call(guarded) == 1
    assert isinstance(world.outcome(guarded).error, OSError)
    assert breaker.state == "open"
    assert sorted(ear.words) == ["before_call", "before_call", "closed -> open", "failure", "success"]
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(str(record.exc_info[1]) for record in logged if record.exc_info) == [
        "before_call",
        "before_call",
        "failure",
        "state_change",
        "success",
    ]


@pytest.mark.parametrize("method", ["before_call", "success", "failure", "state_change"])
def test_listener_with_an_async_method_is_refused(method: str) -> None:
    """Its coroutine would never be awaited."""

    async def hear(self: Ear, *args: Any) -> None: ...

    listener = type("Listener", (Ear,), {method: hear})()
    with pytest.raises(TypeError, match=f"{method} must be a plain function, whose answer is not awaited"):
        CircuitBreaker(listeners=[listener])
    with pytest.raises(TypeError, match=f"{method} must be a plain function"):
        CircuitBreaker().pybreaker.add_listener(listener)


def test_listener_added_later_is_called_from_then_on_and_removed_no_more() -> None:
    """It can be added to the breaker and to its pybreaker object."""
    breaker = CircuitBreaker()
    first, second = Ear(), Ear()
    guarded = breaker(up)
    guarded()
    breaker.add_listener(first)
    breaker.pybreaker.add_listeners(second)
    assert breaker.listeners == breaker.pybreaker.listeners == (first, second)
    guarded()
    breaker.remove_listener(first)
    guarded()
    breaker.pybreaker.remove_listener(second)
    guarded()
    assert first.words == ["before_call", "success"]
    assert second.words == ["before_call", "success"] * 2
    assert breaker.listeners == ()


# -- the object ---------------------------------------------------------------------------------------------------


def test_pybreaker_object_shows_the_circuit_as_a_real_pybreaker_breaker() -> None:
    """Its properties have the values of the circuit."""
    breaker = CircuitBreaker(None, fail_max=3, success_threshold=2, break_duration=7.0, name="users")
    real = breaker.pybreaker
    assert isinstance(real, pybreaker.CircuitBreaker)
    assert (real.name, real.fail_max, real.reset_timeout, real.success_threshold) == ("users", 3, 7.0, 2)
    assert (real.current_state, real.state.name, real.fail_counter) == ("closed", "closed", 0)
    fail(breaker(down), 2)
    assert real.fail_counter == breaker.fail_counter == 2
    fail(breaker(down))
    assert real.current_state == breaker.current_state == real.state.name == "open"
    breaker.half_open()
    assert real.current_state == breaker.current_state == real.state.name == "half-open"
    breaker.isolate()
    assert real.current_state == breaker.current_state == real.state.name == "open"


def test_pybreaker_object_of_a_breaker_without_fail_max_says_zero() -> None:
    """pybreaker's type is `int`; the breaker's own property is None."""
    breaker = CircuitBreaker()
    assert breaker.fail_max is None
    assert breaker.pybreaker.fail_max == 0


@pytest.mark.parametrize("state", ["open", "half-open", "closed"])
def test_pybreaker_object_steers_the_circuit(state: str) -> None:
    """Its methods and its `state` property change the circuit."""
    breaker = CircuitBreaker()
    real = breaker.pybreaker
    (real.half_open if state == "closed" else real.close)()
    {"open": real.open, "half-open": real.half_open, "closed": real.close}[state]()
    assert breaker.state == state
    breaker.isolate()
    breaker.close()
    real.state = state
    assert breaker.state == state
    with pytest.raises(ValueError, match="isolated"):
        real.state = "isolated"


def test_pybreaker_object_sets_fail_max_and_reset_timeout() -> None:
    """They can be set at any time, as in pybreaker."""
    breaker = CircuitBreaker(None, fail_max=5, break_duration=60.0)
    breaker.pybreaker.fail_max = 2
    breaker.pybreaker.reset_timeout = 3.0
    fail(breaker(down), 2)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen) as caught:
        breaker(up)()
    assert caught.value.retry_after == pytest.approx(3.0, abs=1.0)


def test_pybreaker_object_sets_success_threshold_and_shows_the_successes() -> None:
    """From then on this many probes must succeed."""
    breaker = CircuitBreaker()
    breaker.pybreaker.success_threshold = 3
    breaker.half_open()
    for number in (1, 2):
        breaker(up)()
        assert (breaker.state, breaker.pybreaker.success_counter) == ("half-open", number)
    breaker(up)()
    assert (breaker.state, breaker.pybreaker.success_counter) == ("closed", 0)
    assert breaker.pybreaker.success_threshold == 3
    with pytest.raises(ValueError, match="success_threshold must be a whole number >= 1, got 0"):
        breaker.pybreaker.success_threshold = 0


EXCLUSIONS = pytest.mark.parametrize(
    "excluded", [OSError, lambda error: str(error) == "down"], ids=["type", "predicate"]
)


@EXCLUSIONS
def test_pybreaker_object_excludes_exceptions_as_pybreaker_does(world: World, excluded: Any) -> None:
    """Excluded exceptions are successes: they open no circuit, end failures in a row, and are a probe's success."""
    ear = Ear()
    breaker = CircuitBreaker(None, fail_max=2, listeners=[ear])
    real = pybreaker.CircuitBreaker(fail_max=2, exclude=[excluded])
    breaker.pybreaker.add_excluded_exception(excluded)
    script = [ConnectionError("reset") if excluded is not OSError else LookupError(), OSError("down"), OSError("down")]
    guarded = breaker(world.dependency(*script).fn)
    for error in script:
        assert world.outcome(guarded).error is error

        def fails(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            real.call(fails)
    assert (breaker.state, breaker.fail_counter) == (real.current_state, real.fail_counter) == ("closed", 0)
    assert [word for word in ear.words if word != "before_call"] == ["failure", "success", "success"]
    breaker.half_open()
    world.outcome(breaker(world.dependency(OSError("down")).fn))
    assert breaker.state == "closed"
    breaker.pybreaker.remove_excluded_exception(excluded)
    world.outcome(breaker(world.dependency(OSError("down")).fn))
    assert breaker.fail_counter == 1
    assert breaker.clone().pybreaker.excluded_exceptions == ()


def test_pybreaker_object_whose_exclusion_raises_costs_no_probe(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the caller gets the call's own error."""

    def broken(error: Exception) -> bool:
        raise LookupError("broken")

    breaker = CircuitBreaker()
    breaker.pybreaker.add_excluded_exception(broken)  # type: ignore[type-var, arg-type]
    breaker.half_open()
    with pytest.raises(OSError, match="down"):
        breaker(down)()
    assert breaker.snapshot()["probes"] == 0
    assert [record.name for record in caplog.records] == ["resilient"]


def test_breaker_for_another_key_excludes_the_same_exceptions() -> None:
    """It also has the same listeners."""
    breaker = CircuitBreaker()
    breaker.pybreaker.add_excluded_exception(OSError)
    assert breaker.clone().pybreaker.excluded_exceptions == (OSError,)


@pytest.mark.parametrize("truth", [RuntimeError("no truth"), False], ids=["raises", "false"])
def test_listener_failure_gets_an_error_whatever_its_truth(truth: object, world: World) -> None:
    """An exception may have a `__bool__` that is false, or a length of 0."""

    class Odd(Exception):
        def __bool__(self) -> bool:
            if isinstance(truth, Exception):
                raise truth
            return False

    ear, error = Ear(), Odd()
    assert world.outcome(CircuitBreaker(listeners=[ear])(world.dependency(error).fn)).error is error
    assert ear.heard[-1][2] is error


def test_listener_failure_gets_a_stop_iteration_itself() -> None:
    """It does not get the wrapper that carries a StopIteration out of a coroutine."""
    ear, error = Ear(), StopIteration(7)

    def stop() -> None:
        raise error

    with pytest.raises(StopIteration):
        CircuitBreaker(listeners=[ear])(stop)()
    assert ear.heard[-1][2] is error


def by_call(real: pybreaker.CircuitBreaker, fn: Callable[..., Any]) -> Any:
    return real.call(fn)


def by_decorator(real: pybreaker.CircuitBreaker, fn: Callable[..., Any]) -> Any:
    return real(fn)()


def by_decorator_with_parentheses(real: pybreaker.CircuitBreaker, fn: Callable[..., Any]) -> Any:
    return real()(fn)()


def by_block(real: pybreaker.CircuitBreaker, fn: Callable[..., Any]) -> Any:
    with real.calling():
        return fn()


@pytest.mark.parametrize("use", [by_call, by_decorator, by_decorator_with_parentheses, by_block])
def test_pybreaker_object_guards_as_pybreakers_users_write_it(
    use: Callable[[pybreaker.CircuitBreaker, Callable[..., Any]], Any],
) -> None:
    """Calls, decorators and blocks count, open the circuit, and are refused with pybreaker's own error."""
    breaker = CircuitBreaker(None, fail_max=2)
    assert use(breaker.pybreaker, up) == "up"
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            use(breaker.pybreaker, down)
    with pytest.raises(pybreaker.CircuitBreakerError):
        use(breaker.pybreaker, up)
    assert breaker.snapshot()["refused"] == 1
    breaker.half_open()
    assert use(breaker.pybreaker, up) == "up"
    assert breaker.state == "closed"


async def test_pybreaker_object_guards_coroutine_functions() -> None:
    """pybreaker's own breaker guards only the creation of the coroutine."""
    breaker = CircuitBreaker(None, fail_max=1)

    async def fetch() -> None:
        raise OSError("down")

    assert isinstance(await ends(breaker.pybreaker.call(fetch)), OSError)
    assert isinstance(await ends(breaker.pybreaker(fetch)()), CircuitOpen)


# -- a storage in memory, shared with a synchronous pybreaker ------------------------------------------------------


@pytest.fixture
def shared() -> pybreaker.CircuitMemoryStorage:
    return pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)


def test_memory_storage_opened_by_them_makes_us_refuse(world: World, shared: pybreaker.CircuitMemoryStorage) -> None:
    """The next call already is refused."""
    real = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(break_duration=60.0, state_storage=shared)
    dependency = world.dependency(1)
    guarded = breaker(dependency.fn)
    assert world.call(guarded) == 1
    fail(lambda: real.call(down))
    assert isinstance(world.outcome(guarded).error, CircuitOpen)
    assert breaker.state == "open"


def test_memory_storage_opened_by_us_makes_them_refuse(world: World, shared: pybreaker.CircuitMemoryStorage) -> None:
    """Evidence has opened our circuit; as soon as it closes, they go on."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(None, fail_max=1, state_storage=shared)
    world.outcome(breaker(world.dependency(OSError("down")).fn))
    with pytest.raises(pybreaker.CircuitBreakerError):
        real.call(up)
    breaker.close()
    assert real.call(up) == "up"
    assert real.current_state == "closed"


@pytest.mark.parametrize("act", ["open", "isolate"])
def test_memory_storage_makes_them_refuse_what_we_open_by_hand(
    act: str, shared: pybreaker.CircuitMemoryStorage
) -> None:
    """For pybreaker, an isolated circuit is an open one."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(state_storage=shared)
    getattr(breaker, act)()
    with pytest.raises(pybreaker.CircuitBreakerError):
        real.call(up)


def test_memory_storage_closed_by_them_does_not_end_our_isolation(shared: pybreaker.CircuitMemoryStorage) -> None:
    """Only our own `close()` does."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(state_storage=shared)
    breaker.isolate()
    real.close()
    with pytest.raises(CircuitOpen):
        breaker(up)()
    assert breaker.state == "isolated"


def test_memory_storage_shows_each_the_others_half_open_and_closed(shared: pybreaker.CircuitMemoryStorage) -> None:
    """One recovery goes from us to them, and one from them to us."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60.0, state_storage=shared)
    guarded = breaker(up)
    breaker.open()
    breaker.half_open()
    assert real.current_state == "half-open"
    assert guarded() == "up"
    assert real.current_state == "closed"
    real.open()
    with pytest.raises(CircuitOpen):
        guarded()
    real.half_open()
    assert real.call(up) == "up"
    assert guarded() == "up"
    assert breaker.state == "closed"


def test_memory_storage_shares_the_failures_in_a_row(shared: pybreaker.CircuitMemoryStorage) -> None:
    """Two of their failures and one of ours make three; so do one of ours and two of theirs."""
    real = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(None, fail_max=3, break_duration=60.0, state_storage=shared)
    fail(lambda: real.call(down), 2)
    assert breaker.state == "closed"
    fail(breaker(down))
    assert breaker.state == real.current_state == "open"
    breaker.close()
    fail(breaker(down))
    assert real.fail_counter == 1
    fail(lambda: real.call(down), 2)
    assert real.current_state == "open"
    with pytest.raises(CircuitOpen):
        breaker(up)()


def test_memory_storage_success_of_either_begins_the_row_again(shared: pybreaker.CircuitMemoryStorage) -> None:
    """The count of failures in a row is shared."""
    real = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(None, fail_max=3, state_storage=shared)
    fail(lambda: real.call(down), 2)
    assert breaker(up)() == "up"
    assert real.fail_counter == 0
    fail(lambda: real.call(down), 2)
    assert real.call(up) == "up"
    fail(breaker(down), 2)
    assert breaker.state == real.current_state == "closed"


def test_memory_storage_without_a_new_state_changes_nothing(shared: pybreaker.CircuitMemoryStorage) -> None:
    """The circuit keeps its windows, its successes and its probes from call to call."""
    breaker = CircuitBreaker(0.5, window_calls=4, success_threshold=2, state_storage=shared)
    guarded = breaker(up)
    guarded()
    fail(breaker(down))
    guarded()
    assert breaker.snapshot()["calls"] == 3
    fail(breaker(down))
    assert breaker.state == shared.state == "open"
    breaker.half_open()
    guarded()
    assert breaker.state == "half-open"

    def probe() -> None:
        with pytest.raises(CircuitOpen):
            guarded()

    breaker(probe)()
    assert breaker.state == shared.state == "closed"


@pytest.mark.virtual_time
async def test_memory_storage_gets_no_late_results_of_an_earlier_state(
    shared: pybreaker.CircuitMemoryStorage,
) -> None:
    """Results of calls from before the circuit closed do not change the shared count."""
    real = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=shared)
    breaker = CircuitBreaker(None, fail_max=3, state_storage=shared)

    async def answer(error: Exception | None) -> None:
        await asyncio.sleep(1.0)
        if error is not None:
            raise error

    late = [asyncio.create_task(ends(breaker(answer)(error))) for error in (OSError(), OSError(), OSError(), None)]
    await asyncio.sleep(0.5)
    breaker.close()
    fail(lambda: real.call(down), 2)
    await asyncio.gather(*late)
    assert breaker.state == "closed"
    assert real.fail_counter == 2


@pytest.mark.parametrize(("age", "left"), [(2.0, 8.0), (60.0, 0.0)])
def test_memory_storage_tells_us_since_when_they_are_open(
    age: float, left: float, shared: pybreaker.CircuitMemoryStorage
) -> None:
    """Our break counts from their opening, not from our next read."""
    breaker = CircuitBreaker(break_duration=10.0, state_storage=shared)
    shared.opened_at = datetime.now(UTC) - timedelta(seconds=age)
    shared.state = pybreaker.STATE_OPEN
    if left:
        with pytest.raises(CircuitOpen) as caught:
            breaker(up)()
        assert caught.value.retry_after == pytest.approx(left, abs=1.0)
    else:
        assert breaker(up)() == "up"
        assert shared.state == "closed"


@pytest.mark.parametrize("hours", [1, -0.0001], ids=["ahead", "right"])
@pytest.mark.parametrize("zone", [UTC, None], ids=["aware", "naive"])
def test_memory_storage_in_the_time_of_another_clock_does_not_hold_us_longer_than_a_break(
    hours: float, zone: Any, world: World, shared: pybreaker.CircuitMemoryStorage
) -> None:
    """The time comes from a machine whose clock is ahead, or without a time zone."""
    breaker = CircuitBreaker(break_duration=10.0, state_storage=shared)
    shared.opened_at = (datetime.now(UTC) + timedelta(hours=hours)).replace(tzinfo=zone)
    shared.state = pybreaker.STATE_OPEN
    error = world.outcome(breaker(world.dependency().fn)).error
    assert isinstance(error, CircuitOpen)
    assert error.retry_after == pytest.approx(10.0, abs=1.0)


class Partition(pybreaker.CircuitMemoryStorage):
    """A storage that behaves as pybreaker's Redis storage without Redis: writes are lost, and the state is "closed"."""

    away = False

    def __setattr__(self, name: str, value: Any) -> None:
        if not self.away or name == "away":
            super().__setattr__(name, value)

    @property
    def state(self) -> str:
        return pybreaker.STATE_CLOSED if self.away else super().state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    @property
    def opened_at(self) -> datetime | None:
        return None if self.away else super().opened_at

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        self._opened_at = when


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
def test_storage_that_lost_our_opening_does_not_close_us_and_is_written_again(earlier: bool, world: World) -> None:
    """Our opening is written again as soon as the storage is back, whether it knows an earlier opening or none."""
    storage = Partition(pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60.0, state_storage=storage)
    if earlier:
        breaker.open()
        storage._opened_at = datetime.now(UTC) - timedelta(hours=1)
        breaker.close()
    storage.away = True
    world.outcome(breaker(world.dependency(OSError("down")).fn))
    assert breaker.state == "open"
    for storage.away in (True, False):
        assert isinstance(world.outcome(breaker(world.dependency().fn)).error, CircuitOpen)
    assert storage.state == "open"


def test_storage_that_lost_our_recovery_does_not_open_us_and_is_written_again() -> None:
    """Its "open" is the state from before our recovery."""
    storage = Partition(pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker(state_storage=storage)
    breaker.open()
    storage.away = True
    breaker.close()
    for storage.away in (True, False):
        assert breaker(up)() == "up"
    assert (breaker.state, storage.state) == ("closed", "closed")


def test_storage_is_believed_when_others_close_what_we_opened() -> None:
    """It knows of our opening, so the change is later."""
    storage = Partition(pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker(state_storage=storage)
    breaker.open()
    pybreaker.CircuitBreaker(state_storage=storage).close()
    assert breaker(up)() == "up"


class Raising(pybreaker.CircuitMemoryStorage):
    """A storage whose methods in `broken` raise."""

    broken: tuple[str, ...] = ()

    def _fail(self, what: str) -> None:
        if what in self.broken:
            raise ConnectionError("disk full")

    def increment_counter(self) -> None:
        self._fail("increment")
        super().increment_counter()

    def reset_counter(self) -> None:
        self._fail("reset")
        super().reset_counter()

    @property
    def state(self) -> str:
        self._fail("read")
        return super().state

    @state.setter
    def state(self, state: str) -> None:
        self._fail("write")
        self._state = state


@pytest.mark.parametrize(
    "broken", [("increment",), ("reset",), ("read",), ("write",), ("increment", "reset", "read", "write")]
)
def test_storage_that_raises_is_logged_once_and_costs_neither_a_permit_nor_the_callers_error(
    broken: tuple[str, ...], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The circuit goes on with its local state, opens by its own evidence, and writes to the storage when it is
    back."""
    storage, bulkhead = Raising(pybreaker.STATE_CLOSED), Bulkhead(1)
    breaker = CircuitBreaker(None, fail_max=3, break_duration=60.0, state_storage=storage)
    script = [OSError("down"), 7, *[OSError("down")] * 3]
    dependency = world.dependency(*script)
    guarded = Pipeline(bulkhead, breaker)(dependency.fn)
    storage.broken = broken
    for step in script:
        outcome = world.outcome(guarded)
        assert step in (outcome.value, outcome.error)
    assert breaker.state == "open"
    assert bulkhead.snapshot()["in_use"] == 0
    assert isinstance(world.outcome(guarded).error, CircuitOpen)
    assert [record.message for record in caplog.records] == ["resilient: the shared circuit storage does not answer"]
    storage.broken = ()
    assert isinstance(world.outcome(guarded).error, CircuitOpen)
    assert storage.state == "open"


def test_storage_with_an_unknown_state_changes_nothing_and_is_logged(
    shared: pybreaker.CircuitMemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """A state that pybreaker does not have is an error in the user's storage."""
    breaker = CircuitBreaker(state_storage=shared)
    shared.state = "OPEN"
    assert breaker(up)() == "up"
    [record] = caplog.records
    assert record.exc_info
    assert "closed, open, half-open, not 'OPEN'" in str(record.exc_info[1])


HICCUP = 0.4
"""Seconds that a busy machine may stand still by itself: less than the half second that a storage is made to hang."""


async def largest_gap(guarded: Callable[[], Any], over: threading.Event) -> float:
    """The longest pause, in seconds, of this event loop while `guarded` was called again and again."""
    largest, calls, before = 0.0, 0, time.perf_counter()
    while not over.is_set() or not calls:
        await ends(guarded())
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        largest, calls, before = max(largest, now - before), calls + 1, now
    return largest


async def gap_during(act: Callable[[], object], guarded: Callable[[], Any]) -> float:
    """The largest gap while another thread runs `act`."""
    over = threading.Event()

    def run() -> None:
        act()
        over.set()

    thread = threading.Thread(target=run)
    thread.start()
    gap = await largest_gap(guarded, over)
    thread.join()
    return gap


async def async_up() -> str:
    return "up"


async def test_memory_storage_a_synchronous_call_of_half_a_second_does_not_stall_our_event_loop(
    shared: pybreaker.CircuitMemoryStorage,
) -> None:
    """pybreaker holds its lock all that time; our calls never take it."""
    real = pybreaker.CircuitBreaker(state_storage=shared)
    breaker = CircuitBreaker(state_storage=shared, listeners=[Ear()])
    assert await gap_during(lambda: real.call(time.sleep, 0.5), breaker(async_up)) < HICCUP


# -- a storage that does I/O: a real Valkey ------------------------------------------------------------------------


class Watched(pybreaker.CircuitRedisStorage):
    """A storage in Valkey that counts its reads."""

    def __init__(self, valkey: Valkey) -> None:
        self.reads = 0
        super().__init__(pybreaker.STATE_CLOSED, valkey.client(), namespace="test")

    @property
    def counter(self) -> int:
        counter = super().counter
        self.reads += 1
        return counter


def until(condition: Callable[[], bool]) -> bool:
    """Wait until a condition is true, for a few seconds at most. Returns whether it is."""
    end = time.monotonic() + 5
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker reads a storage that does I/O twenty times a second instead of twice, so that these tests wait less."""
    monkeypatch.setattr(SharedStorage, "INTERVAL", 0.05)


def refuses(breaker: CircuitBreaker) -> bool:
    try:
        breaker(up)()
    except CircuitOpen:
        return True
    return False


def test_redis_storage_opened_by_them_makes_us_refuse_and_closed_go_on(valkey: Valkey) -> None:
    """The change arrives within seconds."""
    real = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=Watched(valkey))
    breaker = CircuitBreaker(break_duration=60.0, state_storage=Watched(valkey))
    assert breaker(up)() == "up"
    fail(lambda: real.call(down))
    assert until(lambda: refuses(breaker))
    real.close()
    assert until(lambda: not refuses(breaker))
    assert breaker.state == "closed"


def test_redis_storage_opened_by_us_makes_them_refuse_and_closed_go_on(valkey: Valkey) -> None:
    """The change arrives within seconds; our own write is not read back as a change of others."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=Watched(valkey))
    storage = Watched(valkey)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60.0, state_storage=storage)
    fail(breaker(down))
    assert until(lambda: real.current_state == "open")
    with pytest.raises(pybreaker.CircuitBreakerError):
        real.call(up)
    reads = storage.reads
    assert until(lambda: not refuses(breaker) or storage.reads > reads + 1)
    assert breaker.state == "open"
    breaker.close()
    assert until(lambda: real.current_state == "closed")
    assert real.call(up) == "up"


def test_redis_storage_shares_the_failures_in_a_row(valkey: Valkey) -> None:
    """Our failures count for them, and theirs for us."""
    real = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=Watched(valkey))
    storage = Watched(valkey)
    breaker = CircuitBreaker(None, fail_max=3, break_duration=60.0, state_storage=storage)
    fail(breaker(down))
    assert until(lambda: real.fail_counter == 1)
    fail(lambda: real.call(down))
    reads = storage.reads
    assert until(lambda: storage.reads > reads + 1)  # one at least was begun after their failure
    fail(breaker(down))
    assert breaker.state == "open"
    assert until(lambda: real.current_state == "open")


async def test_redis_storage_that_hangs_does_not_stall_our_event_loop(valkey: Valkey) -> None:
    """It goes on while Valkey does not answer, and while a synchronous pybreaker call runs."""
    real = pybreaker.CircuitBreaker(state_storage=Watched(valkey))
    storage = Watched(valkey)
    breaker = CircuitBreaker(None, fail_max=10**6, state_storage=storage)

    async def fetch() -> None:
        raise OSError("down")  # each is a write

    def pause() -> None:
        valkey.client().execute_command("CLIENT", "PAUSE", 500)
        real.call(time.sleep, 0.5)

    assert await gap_during(pause, breaker(fetch)) < HICCUP
    assert storage.reads


def test_redis_storage_that_is_killed_does_not_close_an_open_circuit(valkey: Valkey) -> None:
    """pybreaker's storage answers "closed" without Redis; that is not adopted."""
    real = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=Watched(valkey))
    storage = Watched(valkey)
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60.0, state_storage=storage)
    fail(breaker(down))
    assert until(lambda: real.current_state == "open")
    reads = storage.reads
    assert until(lambda: storage.reads > reads + 1)
    valkey.kill()
    reads = storage.reads
    assert until(lambda: not refuses(breaker) or storage.reads > reads + 2)
    assert storage.state == "closed"
    assert refuses(breaker)


def test_redis_storage_that_is_killed_leaves_calls_going(valkey: Valkey) -> None:
    """The circuit goes on with its local state, and still opens by its own evidence."""
    storage = Watched(valkey)
    breaker = CircuitBreaker(None, fail_max=3, break_duration=60.0, state_storage=storage)
    guarded = breaker(up)
    guarded()
    assert until(lambda: storage.reads > 0)
    valkey.kill()
    reads = storage.reads
    assert until(lambda: guarded() == "up" and storage.reads > reads + 1)
    begin = time.monotonic()
    assert {guarded() for _ in range(1000)} == {"up"}
    assert time.monotonic() - begin < 5
    fail(breaker(down), 3)
    assert breaker.state == "open"


class Slowly(pybreaker.CircuitBreakerStorage):
    """A storage over a simulated network: writes, and reads of "open", take as long as a test wants; all may fail."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.inner = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self.may_write, self.may_read_open = threading.Event(), threading.Event()
        self.may_write.set()
        self.may_read_open.set()
        self.writing, self.reading_open = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.errors = 0
        self.increments = 0
        self.rounds = 0

    def _send(self) -> None:
        self.writing.set()
        assert self.may_write.wait(10)
        self._fail()

    def _fail(self) -> None:
        if self.error is not None:
            self.errors += 1
            raise self.error

    @property
    def state(self) -> str:
        self._fail()
        word = self.inner.state
        if word == pybreaker.STATE_OPEN:
            self.reading_open.set()
            assert self.may_read_open.wait(10)
        return word

    @state.setter
    def state(self, state: str) -> None:
        self._send()
        self.inner.state = state

    @property
    def opened_at(self) -> datetime | None:
        return self.inner.opened_at

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        self._send()
        self.inner.opened_at = when

    @property
    def counter(self) -> int:
        self.rounds += 1
        return self.inner.counter

    @property
    def success_counter(self) -> int:
        return 0

    def increment_counter(self) -> None:
        self._send()
        self.increments += 1
        self.inner.increment_counter()

    def reset_counter(self) -> None:
        self._send()
        self.inner.reset_counter()


def test_slow_storage_that_has_not_been_read_since_we_opened_does_not_close_us() -> None:
    """While our "open" is written and not yet read back, the last state that was read is an old one."""
    storage = Slowly()
    breaker = CircuitBreaker(break_duration=60.0, state_storage=storage)
    assert breaker(up)() == "up"
    assert until(lambda: storage.rounds > 0)
    storage.may_read_open.clear()
    breaker.open()
    assert storage.reading_open.wait(5)
    try:
        assert refuses(breaker)
    finally:
        storage.may_read_open.set()
    rounds = storage.rounds
    assert until(lambda: storage.rounds > rounds)
    assert refuses(breaker)


def test_slow_storage_whose_answer_is_older_than_our_change_is_not_believed() -> None:
    """Others have opened the circuit. While that is read, ours opens and closes: what was read is out of date."""
    storage = Slowly()
    breaker = CircuitBreaker(break_duration=60.0, state_storage=storage)
    assert breaker(up)() == "up"
    assert until(lambda: storage.rounds > 0)
    storage.may_read_open.clear()
    storage.inner.opened_at = datetime.now(UTC)
    storage.inner.state = pybreaker.STATE_OPEN
    assert storage.reading_open.wait(5)
    breaker.open()
    breaker.close()
    storage.may_read_open.set()
    rounds = storage.rounds
    assert until(lambda: storage.rounds > rounds)
    assert breaker(up)() == "up"


def test_slow_storage_that_raises_is_logged_once_and_read_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An outage of the storage is one line in the log, not one for each call."""
    storage = Slowly()
    breaker = CircuitBreaker(None, fail_max=2, break_duration=60.0, state_storage=storage)
    guarded = breaker(up)
    guarded()
    assert until(lambda: storage.rounds > 0)
    storage.error = error = ConnectionError("no network")

    def goes_on() -> bool:
        fail(breaker(down))
        return guarded() == "up" and storage.errors >= 5

    assert until(goes_on)
    storage.error = None
    storage.inner.opened_at = datetime.now(UTC)
    storage.inner.state = pybreaker.STATE_OPEN
    assert until(lambda: refuses(breaker))
    told = [record for record in caplog.records if record.exc_info and record.exc_info[1] is error]
    assert len(told) == 1
    assert "does not answer" in told[0].message


def test_slow_storage_that_hangs_has_at_most_a_thousand_pending_writes() -> None:
    """An outage of the storage does not fill the memory: the oldest writes are dropped."""
    storage = Slowly()
    breaker = CircuitBreaker(None, fail_max=10**9, state_storage=storage)
    storage.may_write.clear()
    fail(breaker(down))
    assert storage.writing.wait(5)
    fail(breaker(down), 3000)
    storage.may_write.set()
    assert until(lambda: storage.rounds > 1)
    assert storage.increments == 1 + 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_slow_storage_is_shared_on_by_a_forked_child(tmp_path: Path) -> None:
    """Threads do not survive a fork, as of a server that loads the application first: the child starts its own, and
    leaves the unwritten counts to its parent."""

    class Filed(Slowly):
        def increment_counter(self) -> None:
            super().increment_counter()
            with (tmp_path / "counts").open("a") as file:
                file.write("1")

        @property
        def state(self) -> str:
            file = tmp_path / "state"
            return file.read_text() if file.exists() else pybreaker.STATE_CLOSED

        @state.setter
        def state(self, state: str) -> None:
            (tmp_path / "state").write_text(state)

    storage = Filed()
    breaker = CircuitBreaker(None, fail_max=9, break_duration=60.0, state_storage=storage)
    breaker(up)()
    storage.may_write.clear()
    fail(breaker(down))
    assert storage.writing.wait(5)
    fail(breaker(down))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads: that is what is tested
        child = os.fork()
    if child == 0:
        storage.may_write.set()
        breaker.open()
        os._exit(0 if until(lambda: storage.state == "open") else 1)
    assert os.waitpid(child, 0)[1] == 0
    storage.may_write.set()
    counts = tmp_path / "counts"
    assert until(lambda: counts.exists() and counts.read_text() == "11")
    assert until(lambda: refuses(breaker))


def test_slow_storage_is_left_alone_when_the_breaker_is_gone() -> None:
    """The storage's thread ends when the breaker is collected."""
    before = threading.enumerate()
    breaker = CircuitBreaker(state_storage=Slowly())
    breaker(up)()
    [thread] = [each for each in threading.enumerate() if each not in before]
    del breaker
    gc.collect()
    assert until(lambda: not thread.is_alive())
