"""The counters say what the dependency and the callers have counted themselves, over 10,000 calls of each kind under
chaos; over fewer in further variations of a kind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

import resilient.http.httpx
import resilient.http.httpx2
from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Pipeline,
    Rejected,
    Retry,
    TimedOut,
    Timeout,
    registry,
    switch,
)
from resilient.observe.metrics import record_durations
from resilient.server.asgi import ServerMiddleware
from resilient.testing import run

CALLS, FEWER = 10_000, 5_000
AT_ONCE = 60
"""Callers that call at the same time; each makes its share of the calls, one after the other."""

Counts = Counter[str]


class Answers:
    """A dependency of random behaviour, which counts its calls by how they ended for it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counted: Counts = Counter()

    def behaviour(self) -> str:
        """What the next call does."""
        what = random.Random.choices(
            self.random, ["good", "bad", "mistake", "hangs"], [70 if self.is_well() else 10, 20, 3, 2]
        )
        return what[0]

    def is_well(self) -> bool:
        """Whether this is no outage: a tenth of the calls come in one."""
        return sum(self.counted.values()) % 2_000 < 1_800

    async def call(self) -> str:
        """Answer one call, after a random pause."""
        what = self.behaviour()
        try:
            await asyncio.sleep(10.0 if what == "hangs" else self.random.random() / 50)
        except asyncio.CancelledError:
            self.counted["cancelled"] += 1
            raise
        return self.end(what)

    def end(self, what: str) -> str:
        """Count the end of a call, and return the answer or raise."""
        if what == "bad":
            self.counted["failure"] += 1
            raise ConnectionError
        if what == "mistake":
            self.counted["nothing"] += 1
            raise AssertionError("of the caller")
        self.counted["success"] += 1
        return what


def policies(*more: Any) -> tuple[Any, ...]:
    """A stack in which everything happens: retries, refusals, waits in a queue, timeouts."""
    return (
        Timeout(1),
        Retry(attempts=3, budget=Budget(ratio=0.5)),
        *more,
        Bulkhead(40, queue=10, queue_timeout=0.05),
        CircuitBreaker(0.3, min_calls=20, break_duration=0.05, max_break=0.1),
        Timeout(0.2),
    )


async def asked(
    call: Callable[[], Awaitable[Any]], seed: int, is_failure: Callable[[Any], bool] = bool, calls: int = CALLS
) -> Counts:
    """Call by many callers, of which some are cancelled. Returns what they counted."""
    counted: Counts = Counter()
    chance = random.Random(seed)
    random.seed(seed)  # from which policies draw their jitter: in virtual time each run is then the same

    async def one() -> None:
        try:
            result = await call()
        except TimedOut:
            counted["timeout"] += 1
        except Rejected:
            counted["rejected"] += 1
        except asyncio.CancelledError:
            counted["cancelled"] += 1
            raise
        except AssertionError:
            counted["nothing"] += 1
        except Exception:
            counted["failure"] += 1
        else:
            counted["failure" if is_failure(result) else "success"] += 1

    async def caller() -> None:
        for _ in range(calls // AT_ONCE):
            task = asyncio.create_task(one())
            await asyncio.sleep(chance.random() / 100)
            if chance.random() < 0.05:
                task.cancel()
            await asyncio.wait([task])

    async with asyncio.TaskGroup() as callers:
        for _ in range(AT_ONCE):
            callers.create_task(caller())
    return counted


def exported(metric: str, name: str) -> Counts:
    """The counts of a metric by ending; failures that are no evidence are "nothing"."""
    found: Counts = Counter()
    for series in registry.metrics()[f"resilient.{metric}"]["series"]:
        labels = series["labels"]
        if labels["pipeline"] == name:
            is_nothing = labels["ending"] == "failure" and labels["verdict"] == "nothing"
            found["nothing" if is_nothing else labels["ending"]] += series["value"]
    return found


def check(name: str, answers: Answers, counted: Counts) -> None:
    """Compare what was exported with what both ends counted."""
    assert exported("calls", name) == counted
    attempts = exported("attempts", name)
    cut_short = attempts.pop("timeout", 0) + attempts.pop("cancelled", 0)  # the dependency sees a cancellation
    assert attempts + Counter(cancelled=cut_short) == answers.counted
    series = registry.metrics()["resilient.calls.in_flight"]["series"]
    assert {"labels": {"pipeline": name}, "value": 0} in series
    assert min(counted["success"], counted["failure"], attempts["success"]) > counted.total() // 200
    assert counted["rejected"] > 10


def never(result: Any) -> bool:
    """No result of a function is a failure."""
    return False


@pytest.mark.parametrize("recording", ["nothing", "durations of calls", "durations of attempts"])
@pytest.mark.parametrize("hedged", [False, True], ids=["", "hedged"])
def test_counts_of_an_async_function_are_true(hedged: bool, recording: str) -> None:
    """Also while durations are recorded: each call and each attempt has one."""
    name = f"truth of functions, {hedged}, {recording}"
    answers = Answers(1)
    guarded = Pipeline(*policies(*[Hedge(0.015)] * hedged), name=name)(answers.call)
    stop = record_durations(attempts="attempts" in recording) if "durations" in recording else None
    try:
        counted = run(asked(guarded, 2, never, CALLS if hedged and "attempts" in recording else FEWER))
    finally:
        if stop is not None:
            stop()
    check(name, answers, counted)
    for metric, kind in (("call", "calls"), ("attempt", "attempts")):
        durations = registry.metrics().get(f"resilient.{metric}.duration", {"series": []})["series"]
        recorded = sum(each["count"] for each in durations if each["labels"]["pipeline"] == name)
        is_recorded = recording == "durations of attempts" or (recording != "nothing" and metric == "call")
        assert recorded == (sum(exported(kind, name).values()) if is_recorded else 0)


def test_counts_of_blocks_are_true() -> None:
    """A block is counted as a function is."""
    answers = Answers(3)
    pipeline = Pipeline(*policies(), name="truth of blocks")

    async def block() -> Any:
        async for attempt in pipeline.attempts():
            async with attempt:
                attempt.result = await answers.call()

    check("truth of blocks", answers, run(asked(block, 4, never)))


def test_counts_of_a_plain_function_are_true() -> None:
    """In several threads at a time."""
    from concurrent.futures import ThreadPoolExecutor

    answers, counted = Answers(5), Counter[str]()
    name = "truth of a def"
    breaker = CircuitBreaker(0.3, min_calls=20, break_duration=0.001, max_break=0.002)

    @Pipeline(Timeout(1), Retry(attempts=3), Bulkhead(4), breaker, Timeout(0.2), name=name)
    def guarded() -> str:
        what = answers.behaviour()
        return answers.end("good" if what == "hangs" else what)

    def caller(_: int) -> Counts:
        mine: Counts = Counter()
        for _ in range(CALLS // 8):
            try:
                guarded()
            except Rejected:
                mine["rejected"] += 1
            except AssertionError:
                mine["nothing"] += 1
            except ConnectionError:
                mine["failure"] += 1
            else:
                mine["success"] += 1
        return mine

    with switch("instant"), ThreadPoolExecutor(8) as threads:
        for each in threads.map(caller, range(8)):
            counted += each
    check(name, answers, counted)


@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize(
    ("library", "ours"),
    [(httpx, resilient.http.httpx), (httpx2, resilient.http.httpx2)],
    ids=["httpx", "httpx2"],
)
def test_counts_of_a_client_are_true(library: Any, ours: ModuleType, streamed: bool) -> None:
    """A response that is a failure is counted as one, and so is a body that breaks off."""
    answers = Answers(6)

    class Inner(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            try:
                await answers.call()
            except AssertionError:
                return library.Response(404)  # an answer that is no evidence against the server
            except ConnectionError:
                if answers.random.random() < 0.5:
                    return library.Response(503)
                raise library.ConnectError("refused") from None
            return library.Response(200, content=b"good")

    name = f"truth of {library.__name__}, {streamed}"
    client = library.AsyncClient(transport=ours.AsyncTransport(Pipeline(*policies(), name=name), transport=Inner()))

    async def get() -> Any:
        if not streamed:
            return await client.get("http://example.com/")
        async with client.stream("GET", "http://example.com/") as response:
            await response.aread()
            return response

    calls = CALLS if streamed == (library is httpx2) else FEWER
    counted = run(asked(get, 7, lambda response: response.status_code == 503, calls))
    answers.counted["success"] += answers.counted.pop("nothing")  # 404
    check(name, answers, counted)


def test_counts_of_a_server_are_true() -> None:
    """The middleware counts requests by how they ended for the client; an answer of 500 or more is a failure."""
    answers, name = Answers(8), "truth of a server"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await answers.call()
            status = 200
        except AssertionError:
            status = 404
        except ConnectionError:
            status = 500
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = ServerMiddleware(app, limit=AdaptiveLimit(10, max_limit=30), max_deadline=0.2, name=name)
    statuses: Counts = Counter()

    async def request() -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "http_version": "1.1"}
        await middleware(scope, receive, send)
        statuses[str(sent[0]["status"])] += 1
        return int(sent[0]["status"])

    cancelled = run(asked(request, 9, never))["cancelled"]
    answers.counted["success"] += answers.counted.pop("nothing")
    counted = Counter(
        success=statuses["200"] + statuses["404"],
        nothing=statuses["500"],  # of the server's own dependencies: no evidence for its limit
        rejected=statuses["503"],
        timeout=statuses["504"],
        cancelled=cancelled,
    )
    assert exported("calls", name) == +counted
    attempts = exported("attempts", name)
    assert attempts["success"] == answers.counted["success"]
    assert attempts["nothing"] == answers.counted["failure"]
    assert attempts["timeout"] + attempts["cancelled"] == answers.counted["cancelled"]
