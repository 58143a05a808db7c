"""Listeners change nothing: requests on the fast path and on the full path end in the same way, at the same time, with
the
same evidence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, Keyed, Retry, remaining
from resilient.core.gate import Gate
from resilient.runtime import virtual
from tests.hypothesis_settings import search
from tests.recorders import LearningRecorder
from tests.server.memory import ask, trusting

Step = tuple[str, Any]
Record = dict[str, Any]

TIMES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0])
SAMPLED = [0.25 + 0.5 * number for number in range(16)]
"""When the limit is looked at: between the ticks in which things happen."""

LIMITS: list[Callable[[], Gate | None]] = [
    lambda: None,
    LearningRecorder,
    lambda: Bulkhead(1),
    lambda: Bulkhead(1, queue=1),
    lambda: AdaptiveLimit(1),
    lambda: AdaptiveLimit(2, queue=2),
    lambda: CircuitBreaker(window_calls=2, min_calls=2),
    lambda: Bulkhead(1, shadow=True),
    lambda: Keyed(lambda: Bulkhead(1), key=lambda scope: scope["path"]),
]

BEFORE = st.one_of(
    st.tuples(st.sampled_from(["sleep", "stubborn", "guarded"]), TIMES),
    st.just(("left", None)),
)
AFTER = st.one_of(BEFORE, st.just(("part", None)))
SCRIPTS = st.tuples(
    st.lists(BEFORE, max_size=3),
    st.sampled_from([[("head", 200)], [("head", 200)], [("head", 404)], [("head", 503)], []]),
    st.lists(AFTER, max_size=3),
    st.sampled_from([[("end", None)], [("end", None)], [("raise", None)], []]),
    st.lists(BEFORE, max_size=1),
)
REQUESTS = st.fixed_dictionaries(
    {
        "start": TIMES,
        "left": st.sampled_from([None, None, "0", "500", "1500", "nonsense"]),
        "priority": st.sampled_from(["critical", "normal", "sheddable"]),
        "body": st.sampled_from([None, None, None, [b"x"], [1.0, b"x", 1.0, b"y"], [b"x", None]]),
        "script": SCRIPTS,
        "cancelled": st.lists(TIMES, max_size=2),
    }
)
SCENARIOS = st.tuples(
    st.integers(0, len(LIMITS) - 1), st.sampled_from([None, 1.0, 2.5]), st.lists(REQUESTS, min_size=1, max_size=4)
)


@Retry(attempts=2)
async def guarded(seconds: float) -> None:
    await asyncio.sleep(seconds)


def run(scenario: Any, *, heard: bool) -> Record:
    """Return everything that can be observed of a request from outside, and from the handlers."""
    which, most, requests = scenario
    limit = LIMITS[which]()
    record: Record = {"notes": [], "states": [], "outcomes": {}}

    def note(*what: Any) -> None:
        record["notes"].append((asyncio.get_running_loop().time(), *what))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"][1:])
        try:
            if requests[number]["body"] is not None:
                while (await receive()).get("more_body"):
                    pass
            for kind, value in chain(*requests[number]["script"]):
                if kind in ("sleep", "guarded"):
                    await (asyncio.sleep if kind == "sleep" else guarded)(value)
                elif kind == "stubborn":
                    try:
                        await asyncio.sleep(value)
                    except asyncio.CancelledError:
                        note(number, "swallowed")
                elif kind == "left":
                    note(number, remaining())
                elif kind == "head":
                    await send({"type": "http.response.start", "status": value, "headers": []})
                elif kind == "raise":
                    raise LookupError
                else:
                    await send({"type": "http.response.body", "body": b"p", "more_body": kind == "part"})
        except BaseException as error:
            note(number, type(error).__name__)
            raise
        note(number, "returned")

    async def call(number: int, each: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        body = [("Transfer-Encoding", "chunked")] if each["body"] is not None else []
        try:
            reply = await ask(
                app,
                f"/{number}",
                deadline=each["left"],
                headers=[("X-Priority", each["priority"]), *body],
                body=each["body"] or [b""],
            )
            outcome: Any = (reply.status, reply.text, reply.headers, reply.at, type(reply.error), str(reply.error))
        except BaseException as error:
            outcome = type(error)
        record["outcomes"][number] = (outcome, asyncio.get_running_loop().time(), task.cancelling(), remaining())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = set()

        def begin(number: int, each: Any) -> None:
            task = loop.create_task(call(number, each))
            tasks.add(task)
            for after in each["cancelled"]:
                loop.call_later(after, task.cancel)

        for at in SAMPLED:
            loop.call_at(at, lambda: record["states"].append(limit.snapshot() if limit else None))
        for number, each in enumerate(requests):
            loop.call_at(each["start"], begin, number, each)
        await asyncio.sleep(60)
        assert all(task.done() for task in tasks)
        record["in_flight"] = app.pipeline.snapshot()["in_flight"]
        record["learned"] = getattr(limit, "learned", None)

    app = trusting(application, limit=limit, max_deadline=most)
    if heard:
        app.pipeline.listen(lambda event: None)
    virtual.run(main())
    return record


@search(500)
@given(SCENARIOS)
def test_requests_end_in_the_same_way_with_and_without_listeners(scenario: Any) -> None:
    """This holds for every behaviour of the requests, their clients and the server."""
    assert run(scenario, heard=True) == run(scenario, heard=False)
