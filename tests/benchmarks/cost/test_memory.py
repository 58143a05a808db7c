"""The memory rows of `scale`: which bytes count."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.cost import memory


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Objects from before these tests stay frozen: collecting them later would take as long as a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


def test_only_bytes_that_are_still_held_count() -> None:
    """Memory that was freed inside the block does not count."""
    with memory._counted() as held:
        kept = bytearray(10_000)
        bytearray(50_000)
        assert 10_000 <= held() < 12_000
    assert kept


def test_call_in_flight_is_counted_without_its_task() -> None:
    """The guard keeps 5,000 bytes for each call, and no other object of that size exists."""

    def decorate(function: Any) -> Any:
        async def guarded(end: Any) -> Any:
            block = bytearray(5_000)
            await function(end)
            return block

        return guarded

    assert 5_000 < memory.call_bytes(decorate, 50) < 6_500


def test_key_is_counted_without_the_key_itself() -> None:
    """The guard keeps 5,000 bytes for each key."""

    def decorate(function: Any) -> Any:
        kept: dict[str, bytearray] = {}

        async def guarded(key: str) -> Any:
            kept[key] = bytearray(5_000)
            return await function(key)

        return guarded

    assert 5_000 < memory.key_bytes(decorate, 200) < 5_500
