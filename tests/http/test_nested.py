"""Retries do not multiply: under a call that repeats, or in a copy of a hedge, the transport sends a request once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Hedge, Pipeline, Retry, Timeout, current_call
from resilient.core.policy import Policy
from tests.http.kinds import URL, Kind, Script, heard_by, named


def retrying(attempts: int = 3) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0))


def failing(kind: Kind, times: int = 50) -> Script:
    return kind.script(*[503] * times)


def fetching(kind: Kind, client: Any, *around: Policy, checked: bool = True) -> Callable[[], Any]:
    """Return a function that sends one request, under its own policies; an error status is a failure."""

    def plainly() -> Any:
        response = client.get(URL)
        return response.raise_for_status() if checked else response

    async def fetch() -> Any:
        response = await client.get(URL)
        return response.raise_for_status() if checked else response

    guarded: Any = fetch if kind.is_async else plainly
    for policy in reversed(around):
        guarded = policy(guarded)
    return guarded  # type: ignore[no-any-return]


def run_to_its_end(kind: Kind, fetch: Callable[[], Any]) -> None:
    with pytest.raises(kind.library.HTTPStatusError):
        kind.run(fetch)


def test_alone_a_transport_repeats(kind: Kind) -> None:
    """The other tests compare with this one."""
    script = failing(kind)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script)))
    assert len(script.sent) == 3


@pytest.mark.parametrize("attempts", [1, 4])
def test_retry_around_repeats_alone(kind: Kind, attempts: int) -> None:
    """A Retry with one attempt does not count."""
    script = failing(kind)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script), Retry(attempts, wait=0)))
    assert len(script.sent) == (3 if attempts == 1 else 4)


def test_retry_around_multiplies_where_that_is_wanted(kind: Kind) -> None:
    """With `nested="multiply"` both repeat."""
    script = failing(kind)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script, nested="multiply"), Retry(4, wait=0)))
    assert len(script.sent) == 12


def test_retry_anywhere_around_counts(kind: Kind) -> None:
    """It may be further out, with others between, and in a pipeline in a pipeline."""
    for around in (
        [Retry(4, wait=0), Bulkhead(5), Timeout(50)],
        [Pipeline(Timeout(50), Retry(4, wait=0)), CircuitBreaker()],
        [Pipeline(Pipeline(Retry(4, wait=0)), Bulkhead(2))],
    ):
        script = failing(kind)
        run_to_its_end(kind, fetching(kind, kind.open(retrying(), script), *around))
        assert len(script.sent) == 4


def test_policies_around_that_do_not_repeat_change_nothing(kind: Kind) -> None:
    """Under them, the transport's Retry repeats as usual."""
    script = failing(kind)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script), Bulkhead(5), CircuitBreaker(), Timeout(50)))
    assert len(script.sent) == 3


def test_retry_in_the_transports_own_pipeline_is_not_taken_for_one_around(kind: Kind) -> None:
    """This holds at every depth of the pipeline."""
    script = failing(kind)
    client = kind.open(Pipeline(Timeout(50), Pipeline(Bulkhead(5), retrying())), script)
    run_to_its_end(kind, fetching(kind, client))
    assert len(script.sent) == 3


def test_events_have_the_reason(kind: Kind) -> None:
    """Listeners get the reason why the Retry gave up."""
    pipeline = retrying()
    heard = heard_by(pipeline)
    run_to_its_end(kind, fetching(kind, kind.open(pipeline, failing(kind)), Retry(2, wait=0)))
    assert {event.reason for event in named(heard, "GaveUp")} == {"its caller repeats it"}


def test_first_retry_that_ended_leaves_later_requests_alone(kind: Kind) -> None:
    """Only a call around the present request counts."""
    script = failing(kind)
    client = kind.open(retrying(), script)
    run_to_its_end(kind, fetching(kind, client, Retry(2, wait=0)))
    assert len(script.sent) == 2
    run_to_its_end(kind, fetching(kind, client))
    assert len(script.sent) == 5


def test_block_around_repeats_alone(kind: Kind) -> None:
    """The block is `async for attempt in pipeline.attempts()`."""
    script = failing(kind)
    client, around = kind.open(retrying(), script), retrying(4)

    def plainly() -> None:
        for attempt in around.attempts():
            with attempt:
                client.get(URL).raise_for_status()

    async def main() -> None:
        async for attempt in around.attempts():
            async with attempt:
                (await client.get(URL)).raise_for_status()

    run_to_its_end(kind, main if kind.is_async else plainly)
    assert len(script.sent) == 4


def test_transport_of_ours_within_another_sends_once(kind: Kind) -> None:
    """Of two nested transports only the outer one repeats."""
    script = failing(kind)
    inner = kind.transport_of(retrying(3), transport=script.inner)
    assert kind.send(kind.open(retrying(2), None, transport=inner)).status_code == 503
    assert len(script.sent) == 2


# -- hedges around --------------------------------------------------------------------------------------------------


def test_copies_of_a_hedge_around_send_once_each(kind: Kind) -> None:
    """Background copies count as copies: there are two requests, not six."""
    script = failing(kind)
    hedge = Hedge(0.0, thread=not kind.is_async)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script), hedge))
    assert len(script.sent) == 2


def test_retry_around_a_hedge_around_counts(kind: Kind) -> None:
    """The copies see it: each of the four requests is sent once."""
    script = failing(kind)
    hedge = Hedge(0.0, thread=not kind.is_async)
    run_to_its_end(kind, fetching(kind, kind.open(retrying(), script), Pipeline(Retry(2, wait=0), hedge)))
    assert len(script.sent) == 4


@pytest.mark.parametrize("inline", [False, True])
def test_hedge_within_the_transport_is_no_repetition_around(kind: Kind, inline: bool) -> None:
    """A Retry inside it repeats in each copy, one outside it repeats as well."""
    if inline and not kind.is_async:
        inline = False
    for order in (0, 1):
        script = failing(kind)
        policies: list[Any] = [Retry(2, wait=0), Hedge(0.0, inline=inline, thread=not kind.is_async)]
        client = kind.open(Pipeline(*policies[:: -1 if order else 1]), script)
        assert kind.send(client).status_code == 503
        assert len(script.sent) == 4


# -- tasks and threads ----------------------------------------------------------------------------------------------


def test_unrelated_task_or_thread_is_not_taken_for_part_of_a_call(kind: Kind) -> None:
    """A guarded call that runs at the same time, or that has started the task, is not around it."""
    script = failing(kind)
    client = kind.open(retrying(), script)

    def plainly() -> None:
        seen: list[Any] = []

        def work() -> None:
            seen.append(current_call())
            client.get(URL)

        @Retry(4, wait=0)
        def other() -> None:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        other()
        assert seen == [None]

    async def main() -> None:
        release = asyncio.Event()

        @Retry(4, wait=0)
        async def other() -> None:
            await release.wait()

        around = asyncio.ensure_future(other())
        await asyncio.sleep(0)
        await client.get(URL)
        release.set()
        await around

        @Retry(4, wait=0)
        async def begins() -> asyncio.Task[Any]:
            return asyncio.ensure_future(client.get(URL))

        await (await begins())

    kind.run(main if kind.is_async else plainly)
    assert len(script.sent) == (6 if kind.is_async else 3)


def test_requests_at_once_under_one_retry_are_each_sent_once(kind: Kind) -> None:
    """`gather` starts tasks: the caller's Retry is not seen there, and each request has the transport's attempts."""
    if not kind.is_async:
        return
    script = failing(kind)
    client = kind.open(retrying(2), script)

    @Retry(2, wait=0)
    async def both() -> None:
        answers = await asyncio.gather(client.get(URL), client.get(URL))
        for answer in answers:
            answer.raise_for_status()

    run_to_its_end(kind, both)
    assert len(script.sent) == 8


# -- headers of callers that repeat ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "requests"),
    [
        ({"x-stainless-retry-count": "0"}, 3),
        ({"X-Stainless-Retry-Count": "1"}, 1),
        ({"X-Stainless-Retry-Count": " 2 "}, 1),
        ({"X-Stainless-Retry-Count": ""}, 3),
        ({"amz-sdk-request": "attempt=1; max=3"}, 1),
        ({"amz-sdk-request": "attempt=1; max=1"}, 3),
        ({"amz-sdk-request": "ttl=20261124T143100Z; attempt=1; max=5"}, 1),
        ({"Amz-Sdk-Request": "attempt=1"}, 3),
    ],
    ids=str,
)
def test_callers_who_repeat_are_known_by_their_headers(kind: Kind, headers: dict[str, str], requests: int) -> None:
    """Stainless SDKs send a header from their first repetition on, botocore from the first request on."""
    script = failing(kind)
    kind.send(kind.open(retrying(), script), headers=headers)
    assert len(script.sent) == requests
    script = failing(kind)
    kind.send(kind.open(retrying(), script, nested="multiply"), headers=headers)
    assert len(script.sent) == 3
