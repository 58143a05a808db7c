"""A pytest plugin: `@pytest.mark.virtual_time` runs a coroutine test in virtual time.

pytest finds it wherever resilient is installed, and loads it in every run. So it is a module of its own, which does
not import resilient before the first test that is so marked, and a suite without such tests is left as it is: its event
loops, and the names of its tests.

The marker may be on a test, a class or a module. It brings `@pytest.mark.asyncio` with it, for pytest-asyncio's strict
mode. On a plain `def` it is refused, as that has no event loop; those in a marked class or module run as they are.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Mapping
from types import FunctionType
from typing import Any

import pytest

MARKER = "virtual_time"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{MARKER}: run the coroutine test on an event loop in virtual time (resilient.testing)"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Generator[None, Any, Any]:
    """Prepare a marked test before pytest-asyncio sees it."""
    obj = obj.__func__ if isinstance(obj, staticmethod) else obj
    if isinstance(obj, FunctionType) and _is_coroutine(obj):
        marks = {mark.name for mark in getattr(obj, "pytestmark", ())}
        if MARKER in marks or collector.get_closest_marker(MARKER):
            if "asyncio" not in marks and collector.get_closest_marker("asyncio") is None:
                pytest.mark.asyncio(obj)
            plugins = collector.config.pluginmanager
            if not plugins.has_plugin(MARKER):
                plugins.register(_Loops(), MARKER)
    return (yield)


def _is_coroutine(function: Any) -> bool:
    hypothesis = getattr(function, "hypothesis", None)  # a test with @given is a plain function around the coroutine
    return inspect.iscoroutinefunction(getattr(hypothesis, "inner_test", function))


class _Loops:
    """Registered when the first marked test is collected: pytest-asyncio asks it for the loops of all later ones."""

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self, item: pytest.Item
    ) -> Generator[None, Mapping[str, LoopFactory] | None, Mapping[str, LoopFactory]]:
        """Virtual time for marked tests; for others whatever else they would have had."""
        factories = yield
        if item.get_closest_marker(MARKER):
            from resilient.runtime.virtual import VirtualLoop

            return {"virtual": VirtualLoop}
        return {"asyncio": asyncio.new_event_loop} if factories is None else factories


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that would have no effect."""
    if item.get_closest_marker(MARKER) is None:
        return
    if not _is_coroutine(getattr(item, "obj", None)):
        if any(mark.name == MARKER for mark in item.own_markers):
            pytest.fail(
                f"{item.name} is a plain def, and virtual time is for coroutines: make it an async def, or use "
                "resilient.testing.run in it",
                pytrace=False,
            )
    elif not item.config.hook.pytest_asyncio_loop_factories.has_spec():  # nobody would ask for our loops
        pytest.fail(f"@pytest.mark.{MARKER} needs pytest-asyncio 1.5 or later", pytrace=False)
