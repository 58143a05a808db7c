"""The span of an attempt is current while the attempt runs, and the context is as before after that: when a call is
cancelled anywhere, in copies of a hedge, in threads, under trio, and in blocks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry.context import get_current

from resilient import Bulkhead, Fallback, Hedge, Pipeline, Retry, Timeout
from tests.observe.span_trees import Traces, current, traces
from tests.properties.cancellation_driver import cancel_at_every_point, cancel_at_every_step_of_trio

__all__ = ["traces"]  # the fixture


# -- cancellation ----------------------------------------------------------------------------------------------------

STACKS: dict[str, Callable[[], list[Any]]] = {
    "retry, queue, timeout": lambda: [Retry(attempts=2, wait=0.5), Bulkhead(1, queue=1), Timeout(1.5)],
    "total timeout, fallback": lambda: [Timeout(1.5), Fallback("cached"), Retry(attempts=3, wait=0.5)],
    "hedge": lambda: [Retry(attempts=2, wait=0.5), Hedge(0.5), Bulkhead(2, queue=1)],
    "inline hedge": lambda: [Retry(attempts=2, wait=0.5), Hedge(0.5, inline=True), Timeout(1.5)],
    "late hedge": lambda: [Hedge(0.5, cancel="late"), Timeout(1.5)],
    "nested": lambda: [Retry(attempts=2, wait=0.5), Pipeline(Bulkhead(1, queue=1), name="inner"), Timeout(1.5)],
}


class Calls:
    """Two calls: first attempts fail after a second, others succeed; both have a span around them."""

    starts = (0, 0.25)

    def __init__(self, traces: Traces, policies: list[Any], *, block: bool) -> None:
        self.traces = traces
        self.block = block
        self.pipeline = Pipeline(*policies, name="p")
        self.failures = 2
        self.inside: list[str] = []

    async def work(self) -> str:
        self.inside.append(current())
        with self.traces.tracer.start_as_current_span("query"):
            await self.sleep(1)
        if self.failures:
            self.failures -= 1
            raise OSError
        return "good"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, number: int) -> None:
        before = get_current()
        try:
            with self.traces.tracer.start_as_current_span("request"):
                try:
                    if not self.block:
                        await self.pipeline.call(self.work)
                        return
                    async for attempt in self.pipeline.attempts("work"):
                        assert current() == "request"
                        async with attempt:
                            await self.work()
                        assert current() == "request"
                finally:
                    assert current() == "request"
        finally:
            assert get_current() == before

    async def drain(self) -> None:
        await self.pipeline.aclose()

    def assert_idle(self) -> None:
        assert not self.traces.open
        assert all(name.startswith("attempt ") for name in self.inside), self.inside
        names = {span.context.span_id: span.name for span in self.traces.spans if span.context}
        for span in self.traces.spans:
            parent = names.get(span.parent.span_id) if span.parent else None
            operation = span.name.rpartition(" ")[2]
            allowed: dict[str, set[str | None]] = {
                "request": {None},
                f"p {operation}": {"request"},
                f"inner {operation}": {f"p {operation}"},
                f"attempt {operation}": {f"p {operation}", f"inner {operation}"},
                "query": {name for name in names.values() if name.startswith("attempt ")},
            }
            assert parent in allowed[span.name], (span.name, parent)
        self.traces.clear()


class CallsOnTrio(Calls):
    """The same on trio."""

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


BLOCKS = {"retry, queue, timeout", "nested"}
ON_TRIO = {"retry, queue, timeout", "nested", "total timeout, fallback"}


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("name", "block"), [*((name, False) for name in STACKS), *((name, True) for name in sorted(BLOCKS))]
)
def test_nothing_is_left_open_wherever_a_call_is_cancelled(name: str, block: bool, victim: int, traces: Traces) -> None:
    """At every await, once and twice, and in the tick in which it completes; the context is restored."""
    assert cancel_at_every_point(lambda: Calls(traces, STACKS[name](), block=block), victim) > 5
    if name in ON_TRIO:
        assert cancel_at_every_step_of_trio(lambda: CallsOnTrio(traces, STACKS[name](), block=block), victim) >= 2


def test_a_coroutine_that_is_closed_or_forgotten_leaves_other_contexts_alone(traces: Traces) -> None:
    """It may be closed while another span is current, which stays so; its own spans end."""
    users = Pipeline(Retry(attempts=2), name="users")

    class Suspends:
        def __await__(self) -> Iterator[None]:
            yield

    @users
    async def load() -> None:
        await Suspends()

    before = get_current()
    closed, forgotten = load(), load()
    closed.send(None)
    assert current().startswith("attempt ")
    closed.close()
    assert get_current() == before
    copy_context().run(forgotten.send, None)  # as a task does
    with traces.tracer.start_as_current_span("other"):
        del forgotten
        gc.collect()
        assert current() == "other"
        assert traces.open == ["other"]
    assert get_current() == before

    def in_one_context() -> None:
        left = load()
        left.send(None)
        with traces.tracer.start_as_current_span("other"):
            left.close()
            assert current() == "other"

    copy_context().run(in_one_context)
    assert get_current() == before


# -- hedges, threads, trio ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.virtual_time
async def test_copies_of_a_hedge_are_current_in_their_own_tasks(inline: bool, traces: Traces) -> None:
    """Spans of each copy are its own children."""
    users, copies = Pipeline(Hedge(0.5, copies=3, inline=inline), name="users"), []

    @users
    async def load() -> str:
        copies.append(len(copies) + 1)
        number = len(copies)
        with traces.tracer.start_as_current_span(f"query {number}"):
            await asyncio.sleep(10 if number < 3 else 0.1)
        return current()

    assert (await load()).startswith("attempt ")
    assert current() == ""
    await users.aclose()
    assert traces.lines("copy", "cause", "ending") == [
        "users load success",
        "  attempt load cancelled",
        "    query 1",
        "  attempt load 2 delay cancelled",
        "    query 2",
        "  attempt load 3 delay success",
        "    query 3",
    ]
    first, second, third = traces.named("attempt load")
    assert [[link.context for link in each.links] for each in (first, second, third)] == [
        [],
        [first.context],
        [first.context, second.context],
    ]


def test_threads_have_the_context_of_their_call(traces: Traces) -> None:
    """A hedged `def`, whose copies run in threads, and a Timeout that abandons its thread."""
    hedged, first_may_end, copies = Pipeline(Hedge(0.001, thread=True), name="hedged"), threading.Event(), []

    @hedged
    def load() -> str:
        copies.append(current())
        if len(copies) == 1:
            assert first_may_end.wait(60)
        return "good"

    with traces.tracer.start_as_current_span("request"):
        assert load() == "good"
        assert current() == "request"
    first_may_end.set()
    hedged.close()
    assert copies == ["attempt load"] * 2
    assert traces.lines("copy") == ["request", "  hedged load", "    attempt load", "    attempt load 2"]
    traces.clear()

    slow, may_end = Pipeline(Timeout(0.001, thread=True, abandon=True), name="slow"), threading.Event()

    @slow
    def hang() -> None:
        assert may_end.wait(60)

    with pytest.raises(TimeoutError):
        hang()
    assert traces.open == ["attempt hang"]
    may_end.set()
    slow.close()
    assert traces.lines("ending") == ["slow hang ERROR timeout", "  attempt hang success"]
    assert not traces.open


def test_a_plain_function_and_what_it_raises(traces: Traces) -> None:
    """Also a StopIteration, which must not end a coroutine."""
    users, failures = Pipeline(Retry(attempts=2, wait=0), name="users"), [OSError()]

    @users
    def load() -> str:
        if failures:
            raise failures.pop()
        return current()

    @users
    def stops() -> None:
        raise StopIteration

    assert load() == "attempt load"
    with pytest.raises(StopIteration):
        stops()
    assert current() == ""
    assert traces.lines("error.type") == [
        "users load",
        "  attempt load ERROR OSError",
        "  attempt load",
        "users stops ERROR StopIteration",
        *["  attempt stops ERROR StopIteration"] * 2,
    ]


def test_trio_tasks_have_their_own_contexts(traces: Traces) -> None:
    """Two calls at once, one of which is retried."""
    users = Pipeline(Retry(attempts=2, wait=0.1), Hedge(0.5), name="users")
    failures, inside = [OSError()], []

    @users
    async def load() -> None:
        inside.append(current())
        await trio.sleep(0.1)
        if failures:
            raise failures.pop()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            nursery.start_soon(load)
        assert current() == ""
        await users.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert inside == ["attempt load"] * 3
    assert sorted(traces.lines("reason")) == sorted(
        ["users load", "users load", "  attempt load ERROR", "  attempt load", "  attempt load hedge"]
    )
    assert not traces.open


# -- blocks ------------------------------------------------------------------------------------------------------------


async def test_a_block_that_is_left_between_its_attempts(traces: Traces) -> None:
    """The caller's context is current there; a loop that is left ends its spans when it is collected."""
    users = Pipeline(Retry(attempts=3, wait=0), name="users")
    with traces.tracer.start_as_current_span("request"):
        async for attempt in users.attempts("work"):
            async with attempt:
                assert current() == "attempt work"
                raise OSError
            assert current() == "request"
            break
        del attempt
        gc.collect()
        assert current() == "request"
    assert not traces.open
    assert traces.lines("ending") == ["request", "  users work cancelled", "    attempt work ERROR failure"]


def test_a_plain_block(traces: Traces) -> None:
    """Its result is its attempt's; spans inside are its children."""
    users = Pipeline(Retry(attempts=3, wait=0), name="users")
    for attempt in users.attempts("work"):
        with attempt, traces.tracer.start_as_current_span("query"):
            if attempt.number == 1:
                raise OSError
    assert current() == ""
    assert traces.lines() == [
        "users work",
        "  attempt work ERROR",
        "    query ERROR",
        "  attempt work",
        "    query",
    ]
