"""The scripted dependency: its steps in every runtime, and the record of its calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Fallback, Pipeline, Retry, TimedOut, Timeout
from resilient.errors import Deadlock
from resilient.testing import Dependency, Hang, Slow, advance, now, run, script
from tests.worlds import World


def function_of(dependency: Dependency, world: World) -> Callable[..., Any]:
    return dependency if world.is_async else dependency.plain


def test_dependency_does_its_steps_in_order(world: World) -> None:
    """Answers, an exception, one of a class, and then the default for ever."""
    error = OSError("down")
    dependency = Dependency(1, error, KeyError, None, default="well")
    fetch = function_of(dependency, world)
    outcomes = [world.outcome(fetch) for _ in range(6)]
    assert [outcome.value for outcome in outcomes] == [1, None, None, None, "well", "well"]
    assert outcomes[1].error is error
    assert isinstance(outcomes[2].error, KeyError)


def test_dependency_writes_down_its_calls(world: World) -> None:
    """With what, when, and how they ended."""
    error = OSError("down")
    dependency = Dependency(Slow(0.02, then=error), 7)
    fetch = function_of(dependency, world)
    world.outcome(fetch, 1, by="name")
    world.call(fetch, 2)
    first, second = dependency.calls
    assert (first.args, first.kwargs, first.result, first.error) == ((1,), {"by": "name"}, None, error)
    assert (second.args, second.kwargs, second.result, second.error) == ((2,), {}, 7, None)
    assert first.ended is not None
    assert first.ended - first.began >= 0.019  # uvloop counts whole milliseconds
    assert dependency.times == [first.began, second.began]


def test_dependency_counts_who_is_inside(world: World) -> None:
    """A dependency counts the calls that run now, and the most that ever ran."""
    dependency = Dependency(default=Slow(0.05, then=1))
    fetch = function_of(dependency, world)
    world.together(fetch, fetch, fetch)
    assert (dependency.running, dependency.most) == (0, 3)


def test_dependency_under_policies(world: World) -> None:
    """A dependency is guarded like any function, and events have its name."""
    dependency = Dependency(OSError(), 7, name="get_user")
    pipeline = Pipeline(Retry(attempts=2, wait=0))
    functions: list[str] = []
    pipeline.listen(lambda event: functions.append(getattr(event, "function", "")))
    assert world.call(pipeline(function_of(dependency, world))) == 7
    assert set(functions) <= {"get_user", ""}
    assert "get_user" in functions


def test_dependency_beyond_its_script_is_a_mistake_of_the_test(world: World) -> None:
    """A call after the end of the script raises an AssertionError that no policy hides."""
    dependency = Dependency(1)
    guarded = Pipeline(Fallback(0), Retry(attempts=3, wait=0))(function_of(dependency, world))
    assert world.call(guarded) == 1
    outcome = world.outcome(guarded)
    assert isinstance(outcome.error, AssertionError)
    assert "call 2 of a dependency whose script has 1 steps and no default" in str(outcome.error)
    assert len(dependency.calls) == 2


@pytest.mark.virtual_time
async def test_dependency_at_exact_times() -> None:
    """The calls of a scripted dependency have exact times in virtual time."""
    users = Dependency(OSError("down"), Hang(), Slow(2, then="late"))
    guarded = Pipeline(Retry(attempts=3, wait=0.5), Timeout(2.5))(users)
    assert await guarded(7) == "late"
    assert users.times == [0, 0.5, 3.5]
    assert now() == 5.5


@pytest.mark.virtual_time
async def test_dependency_that_hangs_is_cancelled_by_a_timeout() -> None:
    """A Timeout cancels a call that hangs, and the record of the call has that."""
    dependency = Dependency(Hang())
    with pytest.raises(TimedOut):
        await Timeout(2)(dependency)()
    (call,) = dependency.calls
    assert isinstance(call.error, asyncio.CancelledError)
    assert (call.began, call.ended, dependency.running) == (0, 2, 0)


def test_dependency_that_hangs_for_ever_ends_the_test_in_virtual_time() -> None:
    """At once, and with where it waits."""
    with pytest.raises(Deadlock, match="_hang"):
        run(Dependency(Hang())())


@pytest.mark.virtual_time
async def test_dependency_is_released() -> None:
    """A release lets calls that hang now continue, each as its step says, but not later ones."""
    dependency = Dependency(Hang(1), Hang(OSError()), Hang(Slow(3, then=2)), Hang())
    tasks = [asyncio.create_task(dependency()) for _ in range(3)]
    await advance(10)
    dependency.release()
    late = asyncio.create_task(dependency())
    one, failed, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, type(failed), two, now()) == (1, OSError, 2, 13)
    await advance()
    assert not late.done()
    late.cancel()


def test_dependency_in_a_thread_is_released() -> None:
    """A call that hangs in a thread is released from another thread."""
    dependency = Dependency(Hang(7))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(dependency.plain()))
    thread.start()
    while thread.is_alive():
        dependency.release()
        thread.join(0.005)
    assert results == [7]


def test_dependency_that_hangs_in_plain_code_loses_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs in plain code fails after a while, so no test suite hangs for ever."""
    monkeypatch.setattr(script, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match=r"release\(\) lets it go on"):
        Dependency(Hang()).plain()


def test_dependency_can_be_told_otherwise_later(world: World) -> None:
    """The `default` of a dependency can be set at any time."""
    dependency = Dependency(default=OSError())
    fetch = function_of(dependency, world)
    assert isinstance(world.outcome(fetch).error, OSError)
    dependency.default = 7
    assert world.call(fetch) == 7


def test_exception_that_is_raised_again_has_the_traceback_of_this_time_only() -> None:
    """The traceback of an exception that is raised again does not grow."""

    def length(error: BaseException) -> int:
        steps, trace = 0, error.__traceback__
        while trace is not None:
            steps, trace = steps + 1, trace.tb_next
        return steps

    dependency = Dependency(default=OSError())
    lengths = set()
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            dependency.plain()
        lengths.add(length(caught.value))
    assert len(lengths) == 1


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_slow_refuses_what_is_no_time(seconds: float) -> None:
    """An invalid time is refused with a message that names the value."""
    with pytest.raises(ValueError, match="seconds must be"):
        Slow(seconds)
