"""Fixtures for the tests of Hedge."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.policies.hedge.modes import MODES, Mode
from tests.worlds import World


def _name(case: tuple[type[World], bool]) -> str:
    return f"{case[0].name}{'-inline' if case[1] else ''}"


def _mode(case: tuple[type[World], bool]) -> Iterator[Mode]:
    world = case[0]()
    yield Mode(world, case[1])
    world.close()


@pytest.fixture(params=MODES, ids=_name)
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """Each runtime in turn, with background copies only and with an inline first copy."""
    yield from _mode(request.param)


@pytest.fixture(params=[case for case in MODES if case[0].is_async], ids=_name)
def async_mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """Each async runtime in turn, with background copies only and with an inline first copy."""
    yield from _mode(request.param)


@pytest.fixture(params=[False, True], ids=["background", "inline"])
def inline(request: pytest.FixtureRequest) -> bool:
    """Whether the first copy runs inline, for tests in virtual time."""
    return bool(request.param)
