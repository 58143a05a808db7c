"""Recordings: why calls that returned a result did not succeed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
)
from resilient.observe.why import recording
from tests.worlds import World


def recorded(world: World, guarded: Callable[..., Any]) -> tuple[Any, list[Any]]:
    """The result of a call, and what `recording` has of it."""
    found: list[Any] = []

    async def main() -> Any:
        with recording() as calls:
            result = await guarded()
            found.extend(calls)
        return result

    def main_plainly() -> Any:
        with recording() as calls:
            result = guarded()
            found.extend(calls)
        return result

    return world.call(main if world.is_async else main_plainly), found


def test_result_of_a_further_attempt_is_recorded(world: World) -> None:
    """Its attempts are steps, the last of which succeeded."""
    guarded = Pipeline(Retry(3, wait=0), name="why")(world.dependency(OSError(), 7).fn)
    result, found = recorded(world, guarded)
    assert result == 7
    (report,) = found
    (call,) = report.as_json()["calls"]
    assert (call["ended"], call["attempts"]) == ("success", 2)
    assert [step["what"] for step in call["steps"]] == ["attempt", "success"]
    assert "succeeded in pipeline why" in str(report)


def test_result_of_a_first_attempt_is_not_recorded(world: World) -> None:
    """Nothing has failed."""
    _, found = recorded(world, Pipeline(Retry(3, wait=0), Hedge(60, thread=True), name="why")(world.dependency(7).fn))
    assert found == []


def test_answer_of_a_fallback_is_recorded(world: World) -> None:
    """It says what failed."""
    guarded = Pipeline(Fallback("stale"), Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    result, found = recorded(world, guarded)
    assert result == "stale"
    (call,) = found[0].as_json()["calls"]
    assert (call["ended"], call["reason"]) == ("fallback", "attempts spent")
    assert [step["what"] for step in call["steps"]] == ["attempt", "attempt", "fallback"]


def test_result_that_is_a_failure_is_recorded(world: World) -> None:
    """The reason that retries ended is there, although no error was raised."""
    classifier = Classifier(results=lambda result: result < 0)
    guarded = Pipeline(Retry(2, wait=0), name="why", classify=classifier)(world.dependency(-1, -2).fn)
    result, found = recorded(world, guarded)
    assert result == -2
    (call,) = found[0].as_json()["calls"]
    assert (call["ended"], call["reason"], call["attempts"]) == ("failure", "attempts spent", 2)


@pytest.mark.virtual_time
async def test_copy_that_won_is_recorded() -> None:
    """With the copies that had started."""
    begun: list[int] = []

    @Pipeline(Hedge(0.02), name="why")
    async def late_once() -> int:
        begun.append(1)
        number = len(begun)
        await asyncio.sleep(5 if number == 1 else 0.01)
        return number

    with recording() as calls:
        assert await late_once() == 2
    assert [step["what"] for step in calls[0].as_json()["calls"][0]["steps"]] == ["copy started", "copy won"]
    assert len(calls[:5]) == 1


@pytest.mark.virtual_time
async def test_recordings_are_bounded_and_of_their_context_only() -> None:
    """The last calls are kept; calls of other tasks are not seen."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")

    async def fails_once() -> None:
        state: list[int] = []

        @pipeline
        async def flaky() -> None:
            state.append(1)
            if len(state) == 1:
                raise OSError

        await flaky()

    outside = asyncio.Event()

    async def other() -> None:
        await outside.wait()
        await fails_once()

    task = asyncio.create_task(other())
    with recording(most=3) as calls:
        outside.set()
        await task
        assert len(calls) == 0
        for _ in range(5):
            await fails_once()
        assert len(calls) == 3
    await fails_once()
    assert len(calls) == 3


@pytest.mark.parametrize("most", [0, -1, 1.5, "many"])
def test_recording_of_no_number_is_refused(most: Any) -> None:
    """The message names the argument and the value."""
    with pytest.raises((TypeError, ValueError), match=f"most must be .*{most}"), recording(most):
        pass
