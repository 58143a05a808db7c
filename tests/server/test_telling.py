"""What is told of the requests of a server is what its limit learned."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Bulkhead
from resilient.http.asgi import ServerMiddleware
from tests.recorders import EventRecorder, LearningRecorder
from tests.server.memory import answering, ask, hang, on_both, streaming


def served(handle: Any) -> tuple[ServerMiddleware, LearningRecorder, EventRecorder]:
    """A middleware of ten seconds around an application, what its limit learns, and what is told."""
    ledger = LearningRecorder()
    app = ServerMiddleware(handle, limit=ledger, max_deadline=10)
    return app, ledger, EventRecorder(app.pipeline)


async def fails() -> None:
    """Raises."""
    raise LookupError


async def answers(status: int) -> Any:
    """Answers this status."""
    return status


CASES: dict[str, tuple[Any, str, str]] = {
    "200": (answering(lambda: answers(200)), "success", "success"),
    "404": (answering(lambda: answers(404)), "success", "success"),
    "a stream": (streaming(b"x", 30, b"y"), "success", "success"),
    "500": (answering(lambda: answers(500)), "failure", "nothing"),
    "an error": (answering(fails), "failure", "nothing"),
    "too late": (answering(hang), "timeout", "failure"),
}


@pytest.mark.parametrize(("handle", "ending", "verdict"), CASES.values(), ids=CASES)
@on_both
async def test_told_is_what_the_limit_learned(handle: Any, ending: str, verdict: str) -> None:
    """A 500 is a failure for its caller, and no reason to take in less."""
    app, ledger, told = served(handle)
    await ask(app)
    assert [(call.ending, call.verdict) for call in told.calls] == [(ending, verdict)]
    assert ledger.learned == [verdict]


@on_both
async def test_request_that_is_refused_says_nothing() -> None:
    """It was never handled."""

    async def ask_again() -> int:
        return (await ask(app)).status or 0

    app = ServerMiddleware(answering(ask_again), limit=Bulkhead(1))
    told = EventRecorder(app.pipeline)
    assert (await ask(app)).status == 503
    assert [(call.ending, call.verdict) for call in told.calls] == [("rejected", "nothing"), ("failure", "nothing")]
