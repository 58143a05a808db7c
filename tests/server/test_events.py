"""The events of a server's requests agree with what its limit learns."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Bulkhead
from resilient.server.asgi import ServerMiddleware
from tests.recorders import EventRecorder, LearningRecorder
from tests.server.memory import answering, ask, hang, on_both, streaming


def served(handle: Any) -> tuple[ServerMiddleware, LearningRecorder, EventRecorder]:
    """Return an application under a middleware of ten seconds, the record of what its limit learns, and its events."""
    ledger = LearningRecorder()
    app = ServerMiddleware(handle, limit=ledger, max_deadline=10)
    return app, ledger, EventRecorder(app.pipeline)


async def fails() -> None:
    """An application that raises."""
    raise LookupError


async def answers(status: int) -> Any:
    """Return an application that answers with a status."""
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
async def test_events_agree_with_what_the_limit_learns(handle: Any, ending: str, verdict: str) -> None:
    """A 500 is a failure for its caller, but no reason to admit less."""
    app, ledger, recorder = served(handle)
    await ask(app)
    assert [(call.ending, call.verdict) for call in recorder.calls] == [(ending, verdict)]
    assert ledger.learned == [verdict]


@on_both
async def test_refused_request_is_no_evidence() -> None:
    """It was never handled."""

    async def ask_again() -> int:
        return (await ask(app)).status or 0

    app = ServerMiddleware(answering(ask_again), limit=Bulkhead(1))
    recorder = EventRecorder(app.pipeline)
    assert (await ask(app)).status == 503
    assert [(call.ending, call.verdict) for call in recorder.calls] == [("rejected", "nothing"), ("failure", "nothing")]
