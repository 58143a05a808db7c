"""Spans in an application that lives long: providers that are set late, memory, threads, exemplars, durations."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref

import pytest
from opentelemetry import trace
from tenacity import retry_if_result

from resilient import Bulkhead, Hedge, Pipeline, Retry
from resilient.observe.metrics import TABLE, read, record_durations
from resilient.observe.opentelemetry.call_spans import AttemptSpan, CallSpan
from tests.observe.span_trees import Traces


class Large:
    """An argument that must not stay in memory."""


def alive(*kinds: type) -> int:
    """How many objects of these classes are in memory."""
    gc.collect()
    return sum(isinstance(each, kinds) for each in gc.get_objects())


async def test_a_task_that_outlives_its_call_keeps_no_argument_of_it() -> None:
    """The task has the context of the attempt that started it, for as long as it lives."""
    users, tasks, over = Pipeline(Retry(attempts=2), Bulkhead(5), name="users"), [], asyncio.Event()

    @users
    async def load(large: Large) -> None:
        tasks.append(asyncio.create_task(over.wait()))

    with Traces(users) as traces:
        large = Large()
        argument = weakref.ref(large)
        await load(large)
        del large
        gc.collect()
        assert argument() is None
        assert not traces.open
        over.set()
        await asyncio.gather(*tasks)


async def test_calls_that_start_each_other_do_not_add_up() -> None:
    """Each starts a task that makes the next call: a chain without end, of which only the latest spans stay."""
    users, over = Pipeline(Retry(attempts=2), name="users"), asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    @users
    async def load(left: int) -> None:
        if left:
            task = asyncio.create_task(load(left - 1))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            over.set()

    with Traces(users) as traces:
        before = alive(CallSpan, AttemptSpan)
        await load(100)
        await over.wait()
        await asyncio.gather(*tasks)
        assert len(traces.named("users load")) == 101
        assert alive(CallSpan, AttemptSpan) - before <= 4


def test_calls_in_threads_have_trees_of_their_own() -> None:
    """Eight threads, one pipeline."""
    users = Pipeline(Retry(attempts=2, wait=0), Bulkhead(8), name="users")
    wrong: list[str] = []
    with Traces(users) as traces:

        def work(number: int) -> None:
            for _ in range(20):
                failures = [OSError()] if number % 2 else []

                @users
                def load(failures: list[OSError] = failures) -> str:
                    with traces.tracer.start_as_current_span(f"query {number}"):
                        if failures:
                            raise failures.pop()
                    return "good"

                with traces.tracer.start_as_current_span(f"request {number}") as request:
                    load()
                    if trace.get_current_span() is not request:
                        wrong.append(f"in thread {number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not traces.open
        shapes: dict[int, list[str]] = {}
        for span in traces.spans:
            assert span.context is not None
            shapes.setdefault(span.context.trace_id, []).append(span.name)
        assert len(shapes) == 160
        for names in shapes.values():
            number = int(names[0].split()[1])
            again = number % 2 + 1
            assert names == [f"request {number}", "users load", *["attempt load", f"query {number}"] * again]


async def test_an_exemplar_leads_to_the_span_of_its_call() -> None:
    """Durations are recorded while the call's span is current."""
    users = Pipeline(Retry(attempts=2, wait=0), name="spans and exemplars")

    def exemplar() -> dict[str, str]:
        return {"span_id": format(trace.get_current_span().get_span_context().span_id, "016x")}

    @users
    async def load() -> None:
        raise OSError

    with Traces(users) as traces:
        stop = record_durations(exemplar=exemplar)
        await asyncio.gather(load(), return_exceptions=True)
        stop()
        (duration,) = [metric for metric in TABLE if metric.name == "resilient.call.duration"]
        (histogram,) = [each.value for each in read()[duration] if each.labels == ("spans and exemplars", "failure")]
        (example,) = histogram.exemplars.values()  # type: ignore[union-attr]
        (call,) = traces.named("spans and exemplars load")
        assert call.context is not None
        assert example.labels == {"span_id": format(call.context.span_id, "016x")}


LATE = """
import asyncio
import pytest
from opentelemetry import trace
from tenacity import retry_if_result
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from resilient import Pipeline, Retry
from resilient.observe.opentelemetry import trace_calls

trace_calls()
users = Pipeline(Retry(attempts=2), name="users")

@users
async def load():
    return 1

async def main():
    await load()
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    await load()
    print(*(span.name for span in exporter.get_finished_spans()), sep=",")

asyncio.run(main())
"""


def test_the_global_provider_may_be_set_later() -> None:
    """Frameworks import their modules before they set up tracing."""
    result = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "attempt load,users load"


@pytest.mark.virtual_time
async def test_losers_of_a_call_that_is_repeated_for_ever_do_not_add_up() -> None:
    """Their spans wait for the event of a Timeout, but only a number of them."""
    users = Pipeline(Retry(attempts=300, wait=0, on=retry_if_result(lambda result: result == "again")), Hedge(0.5))
    requests, most_open = 0, 0
    with Traces(users) as traces:

        @users
        async def load() -> str:
            nonlocal requests, most_open
            requests += 1
            most_open = max(most_open, len(traces.open))
            if requests % 2:
                await asyncio.sleep(60)
            return "again"

        assert await load() == "again"
        await users.aclose()
        assert requests == 600
        assert 100 < most_open < 110
        assert not traces.open
        endings = [(span.attributes or {})["resilient.ending"] for span in traces.named("attempt load")]
        assert sorted(set(endings)) == ["cancelled", "success"]
        assert endings.count("cancelled") == 300


async def test_span_of_an_error_without_a_text_is_marked_as_failed() -> None:
    """OpenTelemetry raises where `str(error)` does: the rest of the span says what it would say in any case."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError("no text")

    @Pipeline(Bulkhead(5), name="users")
    async def load() -> None:
        raise Mute

    with Traces(messages=True) as traces:
        with pytest.raises(Mute):
            await load()
        assert not traces.open
        assert [span.status.is_ok for span in traces.spans] == [False] * len(traces.spans)
        assert traces.spans
