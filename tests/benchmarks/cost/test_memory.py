"""The memory rows: bytes are counted without what they do not belong to."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.cost import memory


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """What was there before all tests stays frozen: else garbage that is collected later takes as long as a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


def test_bytes_are_those_that_are_still_held() -> None:
    """What was let go does not count."""
    with memory._counted() as held:
        kept = bytearray(10_000)
        bytearray(50_000)
        assert 10_000 <= held() < 12_000
    assert kept


def test_call_in_flight_is_counted_without_its_task() -> None:
    """A guard that keeps 5,000 bytes for each call, and no other object of that size."""

    def decorate(function: Any) -> Any:
        async def guarded(end: Any) -> Any:
            block = bytearray(5_000)
            await function(end)
            return block

        return guarded

    assert 5_000 < memory.call_bytes(decorate, 50) < 6_500


def test_key_is_counted_without_the_key_itself() -> None:
    """A guard that keeps 5,000 bytes for each."""

    def decorate(function: Any) -> Any:
        kept: dict[str, bytearray] = {}

        async def guarded(key: str) -> Any:
            kept[key] = bytearray(5_000)
            return await function(key)

        return guarded

    assert 5_000 < memory.key_bytes(decorate, 200) < 5_500
