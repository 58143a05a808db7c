"""A pytest plugin: `@pytest.mark.virtual_time` runs a coroutine test in virtual time.

pytest finds it wherever resilient is installed, and loads it in every run. So it is a module of its own, which does
not import resilient before the first test that is so marked, and a suite without such tests is left as it is: its event
loops, and the names of its tests.

The marker may be on a test, a class or a module. It brings `@pytest.mark.asyncio` with it, for pytest-asyncio's strict
mode. On a plain `def` it is refused, because that has no event loop; in a marked class or module a plain `def` runs as
usual. `@pytest.mark.virtual_time(limit=60)` fails a test that has not ended after 60 s of virtual time.

Each example of a Hypothesis test runs on a new loop, whose clock begins at 0. Otherwise an example would depend on
those before it, and would not fail again when Hypothesis repeats it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import copy_context
from types import FunctionType
from typing import Any

import pytest

MARKER = "virtual_time"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker with pytest, which lists it by `--markers`."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}: run the coroutine test on an event loop in virtual time (resilient.testing); "
        f"{MARKER}(limit=60) fails one that has not ended after 60 s of it",
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


def _factory(item: pytest.Item) -> LoopFactory | None:
    """Return the loop factory of a marked test; None: it is not marked."""
    mark = item.get_closest_marker(MARKER)
    return None if mark is None else _factory_with(mark.kwargs.get("limit"))


@functools.cache
def _factory_with(limit: Any) -> LoopFactory:
    """Return the loop factory of all tests with this limit. It is one object, because pytest-asyncio finds shared loops
    by it."""
    from resilient.runtime.virtual import VirtualLoop

    return functools.partial(VirtualLoop, limit=limit)


def _run_example(make_loop: LoopFactory, test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return a plain function that runs one example of a Hypothesis test on a loop of its own."""

    @functools.wraps(test)
    def example(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(test(*args, **kwargs), context=copy_context())

    return example


class _Loops:
    """Gives marked tests their loops. Registered with the first marked test; pytest-asyncio then calls it for each
    test."""

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: Any) -> Generator[None, object, object]:
        """Run each example of a marked Hypothesis test on its own loop, not on the one that pytest-asyncio has for the
        whole test."""
        make_loop, given = _factory(pyfuncitem), getattr(pyfuncitem.obj, "hypothesis", None)
        test = getattr(getattr(given, "inner_test", None), "__wrapped__", None)  # under pytest-asyncio's own wrapper
        if make_loop is None or not inspect.iscoroutinefunction(test):
            return (yield)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(given, "inner_test", _run_example(make_loop, test))
            return (yield)

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self, item: pytest.Item
    ) -> Generator[None, Mapping[str, LoopFactory] | None, Mapping[str, LoopFactory]]:
        """Return virtual time for marked tests; for others the factories that they would have had."""
        factories = yield
        if (make_loop := _factory(item)) is not None:
            return {"virtual": make_loop}
        return {"asyncio": asyncio.new_event_loop} if factories is None else factories


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that would have no effect."""
    mark = item.get_closest_marker(MARKER)
    if mark is None:
        return
    if mark.args or mark.kwargs.keys() - {"limit"}:
        given = ", ".join([*map(repr, mark.args), *(f"{name}={value!r}" for name, value in mark.kwargs.items())])
        pytest.fail(f"@pytest.mark.{MARKER} takes limit=, in seconds, and nothing else, got {given}", pytrace=False)
    if not _is_coroutine(getattr(item, "obj", None)):
        if any(mark.name == MARKER for mark in item.own_markers):
            pytest.fail(
                f"{item.name} is a plain def, and virtual time is for coroutines: make it an async def, or use "
                "resilient.testing.run in it",
                pytrace=False,
            )
    elif not item.config.hook.pytest_asyncio_loop_factories.has_spec():  # it would not call `_Loops`
        pytest.fail(f"@pytest.mark.{MARKER} needs pytest-asyncio 1.5 or later", pytrace=False)
