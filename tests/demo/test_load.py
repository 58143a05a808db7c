"""The open-loop load: a seeded schedule that does not wait for answers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from resilient.demo.load import Arrival, Load, arrivals


def test_schedule_of_one_seed_is_always_the_same() -> None:
    """Both sides get the same calls at the same times."""
    assert list(arrivals(3, 10.0, 50.0)) == list(arrivals(3, 10.0, 50.0))
    assert list(arrivals(3, 10.0, 50.0)) != list(arrivals(4, 10.0, 50.0))


def test_schedule_has_the_rate_and_the_duration_asked_for() -> None:
    """The count is within four standard deviations of the Poisson distribution."""
    schedule = list(arrivals(1, 100.0, 50.0))
    assert len(schedule) == pytest.approx(5000, abs=4 * 5000**0.5)
    assert all(0 < arrival.at < 100 for arrival in schedule)


@pytest.mark.asyncio
async def test_load_does_not_wait_for_answers() -> None:
    """All calls are in flight before the first is answered: the loop is open."""
    load = Load("test")
    answered = asyncio.Event()

    async def get_item(number: int) -> dict[str, Any]:
        if load.in_flight == 3:
            answered.set()
        await answered.wait()
        return {}

    schedule = iter([Arrival(0.0, 1), Arrival(0.0, 2), Arrival(0.001, 3)])
    async with asyncio.timeout(5):
        await load.run(schedule, get_item, time.monotonic())
    assert [record.error for record in load.records] == [None] * 3
    assert load.in_flight == 0


@pytest.mark.asyncio
async def test_latency_counts_from_the_moment_a_call_was_due() -> None:
    """A delay of the client itself is included."""
    load = Load("test")

    async def get_item(number: int) -> dict[str, Any]:
        return {}

    await load.run(iter([Arrival(0.0, 1)]), get_item, time.monotonic() - 2.0)
    assert load.records[0].latency == pytest.approx(2.0, abs=0.5)


@pytest.mark.asyncio
async def test_failures_are_recorded_by_status_or_by_type() -> None:
    """Kinds of failures can be counted."""
    load = Load("test")
    errors: list[Exception] = [
        httpx.HTTPStatusError("", request=httpx.Request("GET", "http://x"), response=httpx.Response(503)),
        httpx.ConnectError("refused"),
    ]

    async def get_item(number: int) -> dict[str, Any]:
        raise errors[number]

    await load.run(iter([Arrival(0.0, 0), Arrival(0.0, 1)]), get_item, time.monotonic())
    assert [record.error for record in load.records] == ["503", "ConnectError"]


@pytest.mark.asyncio
async def test_programming_error_ends_the_load() -> None:
    """A bug must not count as one of the demonstrated failures."""
    load = Load("test")

    async def get_item(number: int) -> dict[str, Any]:
        raise TypeError("a bug")

    with pytest.raises(ExceptionGroup) as raised:
        await load.run(iter([Arrival(0.0, 0)]), get_item, time.monotonic())
    assert isinstance(raised.value.exceptions[0], TypeError)
    assert load.records == []
