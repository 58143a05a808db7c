"""Discarded results are closed, which may take long: the time that a caller waits for this is part of the bounds."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import httpx
import pytest
import tenacity

from resilient import Chaos, Classifier, Fallback, Hedge, Pipeline, PipelineWarning, Retry, TimedOut, Timeout
from resilient.core.result import CLOSING_SECONDS
from resilient.core.worst_case import Bound
from resilient.explain import Explanation, explain
from resilient.faults import Slowness
from resilient.http.httpx import AsyncTransport

pytestmark = pytest.mark.virtual_time

TAKEN = 2.0
"""Seconds of each attempt."""


class Response:
    """A result whose closing hangs."""

    status_code = 503

    async def aclose(self) -> None:
        await asyncio.sleep(1000)


def of(*policies: Any, **options: Any) -> Explanation:
    """The explanation of a pipeline that judges each response a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return explain(Pipeline(*policies, classify=JUDGE), function_limit=TAKEN, **options)


def _is_bad(result: Any) -> bool:
    return isinstance(result, Response)


JUDGE = Classifier(results=_is_bad)


async def respond() -> Response:
    """A dependency that answers."""
    await asyncio.sleep(TAKEN)
    return Response()


PIPELINES: dict[str, tuple[Any, ...]] = {
    "retry": (Retry(3, wait=0, max_retry_after=0),),
    "retry by tenacity": (Retry(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(1), max_retry_after=0),),
    "retry until": (Retry(stop=tenacity.stop_after_delay(3), wait=0, max_retry_after=0),),
    "fallback": (Fallback("stale"),),
    "fallback around a retry": (Fallback("stale"), Retry(2, wait=0, max_retry_after=0)),
    "nested": (Retry(2, wait=0, max_retry_after=0), Pipeline(Fallback("x"), Retry(2, wait=0), classify=JUDGE)),
    "hedge": (Hedge(1),),
    "inline hedge": (Hedge(1, inline=True),),
    "total": (Timeout(4.5), Retry(3, wait=0, max_retry_after=0)),
}


@pytest.mark.parametrize("policies", PIPELINES.values(), ids=PIPELINES)
async def test_closing_takes_no_more_than_is_said(policies: tuple[Any, ...]) -> None:
    """A second for each replaced result, and nothing if it is closed in the background."""
    most = of(*policies).worst.seconds.most
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        pipeline = Pipeline(*policies, classify=JUDGE)
    begin = asyncio.get_running_loop().time()
    try:
        await pipeline(respond)()
    except TimedOut:
        pass
    assert asyncio.get_running_loop().time() - begin <= most + 1e-6


def test_seconds_for_closing_are_said() -> None:
    """They are exact and have a reason; there are none without judged results, or in a plain def."""
    retry = Retry(3, wait=0, max_retry_after=0)
    worst = of(retry).worst
    spent = 2 * CLOSING_SECONDS
    assert worst.seconds == Bound(3 * TAKEN + spent, 3 * TAKEN + spent)
    assert worst.why == "3 attempts of 2 s, waits of 0 s, 2 s for closing results that are superseded"
    assert explain(retry, function_limit=TAKEN).worst.seconds.most == 3 * TAKEN
    plain = of(retry, is_async=False)
    assert plain.worst.seconds.most == 3 * TAKEN
    assert "closing a discarded result takes no time, because a plain def waits for it" in (plain.assumes)


def test_strategy_that_asks_about_results_has_them_closed() -> None:
    """A result strategy of tenacity has the same cost as a classifier that judges results."""
    retry = Retry(2, wait=0, max_retry_after=0, on=tenacity.retry_if_result(_is_bad))
    assert explain(retry, function_limit=TAKEN).worst.seconds.most == 2 * TAKEN + CLOSING_SECONDS


def test_transport_reads_what_is_superseded_to_free_its_connection() -> None:
    """It reads for up to a second, and then closes the response."""
    transport = AsyncTransport(
        Pipeline(Retry(2, wait=0, max_retry_after=0), Timeout(2)),
        transport=httpx.MockTransport(lambda request: httpx.Response(503)),
    )
    assert explain(transport.pipeline).worst.seconds.most == 2 * 2 + 1 + CLOSING_SECONDS


async def test_no_timeout_is_outlived_by_the_closing_of_what_comes_too_late() -> None:
    """Closing goes on in the background."""
    begin = asyncio.get_running_loop().time()
    with pytest.raises(TimedOut):
        await Pipeline(Timeout(3), Chaos(Slowness(factor=9), enabled=True))(respond)()
    assert asyncio.get_running_loop().time() - begin == 3


async def test_no_timeout_is_outlived_by_the_closing_of_what_a_predicate_failed_upon() -> None:
    """An error of the caller's own predicate reaches the caller at once."""

    def confused(result: Any) -> bool:
        raise LookupError

    begin = asyncio.get_running_loop().time()
    with pytest.raises(LookupError):
        await Pipeline(Timeout(3), Retry(2), classify=Classifier(results=confused))(respond)()
    assert asyncio.get_running_loop().time() - begin == TAKEN


class _Slow(httpx.AsyncByteStream):
    async def __aiter__(self) -> Any:
        yield b"a"
        await asyncio.sleep(1000)

    async def aclose(self) -> None:
        await asyncio.sleep(1000)


async def test_no_timeout_is_outlived_by_the_closing_of_a_body_that_it_cut() -> None:
    """This holds for a body under a transport, too."""
    inner = httpx.MockTransport(lambda request: httpx.Response(200, stream=_Slow()))
    transport = AsyncTransport(Pipeline(Timeout(3)), transport=inner)
    begin = asyncio.get_running_loop().time()
    client = httpx.AsyncClient(transport=transport, timeout=None)
    with pytest.raises(httpx.TimeoutException):
        await client.get("http://origin/")
    assert asyncio.get_running_loop().time() - begin == 3
