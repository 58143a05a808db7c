"""Generated gate layers: shown in a docstring, shared by pipelines of one shape, readable in tracebacks."""

from __future__ import annotations

import linecache
import textwrap
import traceback
import weakref
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Fallback, Pipeline, Retry, Timeout, current_call
from resilient.core.policy import Policy
from resilient.pipeline import gate_layer
from tests.worlds import World


def test_docstring_shows_what_is_generated_for_a_bulkhead_and_a_breaker() -> None:
    """A reader of the generator sees its output, as it is today."""

    async def fetch() -> None: ...

    guarded: Any = Pipeline(Bulkhead(50), CircuitBreaker())(fetch)
    lines = linecache.getlines(guarded.__code__.co_filename)
    begin = lines.index("        async def guarded(*args, **kwargs):\n")
    end = lines.index("        return guarded\n")
    shown = textwrap.indent(textwrap.dedent("".join(lines[begin:end])), "    ")
    assert shown in (gate_layer.__doc__ or "")


def test_gate_layers_of_one_shape_share_one_code_object() -> None:
    """Decorating a function then compiles nothing new, and the interpreter specializes one code object."""

    def first() -> None: ...

    async def second() -> None: ...

    def guarded(fn: Any) -> Any:
        return Pipeline(Retry(), Bulkhead(), CircuitBreaker())(fn)

    assert guarded(first).__code__ is guarded(first).__code__
    assert guarded(second).__code__ is guarded(second).__code__
    assert guarded(first).__code__ is not guarded(second).__code__


def test_traceback_shows_the_lines_of_a_gate_layer(world: World) -> None:
    """A reader of a traceback sees where the function was called."""
    fails = world.dependency(KeyError("x"))
    with pytest.raises(KeyError) as caught:
        world.call(Bulkhead()(fails.fn))
    lines = "".join(traceback.format_exception(caught.value))
    assert "<resilient gate layer" in lines
    assert "fn(*args, **kwargs) if kwargs else fn(*args)" in lines


@pytest.mark.parametrize("policy", [Retry(), Fallback(0), Pipeline(Fallback(0), Retry())], ids=repr)
def test_call_that_was_asked_for_is_gone_when_it_ends(world: World, policy: Policy) -> None:
    """A call that succeeds has a `Call` only if `current_call()` was called, and nothing keeps it afterwards."""

    class Argument: ...

    argument = Argument()
    gone = weakref.ref(argument)
    pipeline = policy if isinstance(policy, Pipeline) else Pipeline(policy)
    ids: list[str] = []

    def fetch(_: Argument) -> None:
        for _ in range(2):
            call = current_call()
            assert call is not None
            ids.append(call.id)

    async def fetch_async(argument: Argument) -> None:
        fetch(argument)

    guarded: Any = pipeline(fetch_async if world.is_async else fetch)
    world.call(guarded, argument)
    assert len(set(ids)) == 1
    assert not pipeline._in_flight.needs_full_path
    del argument
    assert gone() is None


def test_call_that_was_asked_for_goes_on_when_it_fails(world: World) -> None:
    """Its id is that of the attempts that follow, also while other calls of the pipeline look up theirs."""
    pipeline = Pipeline(Retry(3, wait=0))
    ids: list[str] = []

    def fetch() -> str:
        call = current_call()
        assert call is not None
        ids.append(call.id)
        if len(ids) < 3:
            raise OSError("again")
        return call.id

    async def fetch_async() -> str:
        return fetch()

    assert world.call(pipeline(fetch_async if world.is_async else fetch)) == ids[0]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert not pipeline._in_flight._asked


def test_policy_that_is_neither_gate_nor_wrap_is_refused() -> None:
    """When the pipeline is built, not when it guards its first function."""
    with pytest.raises(TypeError, match="Policy is neither a Gate nor a Wrap"):
        Pipeline(Policy())


def test_gates_around_a_plain_def_inside_a_timeout_need_no_coroutine() -> None:
    """Around a plain function all frames are those of plain functions, as long as nothing waits."""
    seen: list[str] = []

    @Pipeline(Timeout(10), Retry(), Bulkhead(), CircuitBreaker(), Timeout(2))
    def fetch() -> None:
        seen.extend(frame.name for frame in traceback.extract_stack())

    fetch()
    assert "layer" in seen
    assert not {"drive", "finish"}.intersection(seen)
