"""Each gate as the middleware's limit, with and without `max_deadline`, on each event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, Keyed, RateLimit
from resilient.core.gate import Gate
from resilient.server.asgi import ServerMiddleware
from tests.server.memory import after, answering, ask, hang
from tests.worlds import WORLDS, World

GATES: dict[str, Callable[[], Gate]] = {
    "bulkhead": lambda: Bulkhead(1),
    "bulkhead-queue": lambda: Bulkhead(1, queue=1),
    "adaptive": AdaptiveLimit,
    "rate": lambda: RateLimit(1000),
    "rate-queue": lambda: RateLimit(1000, max_wait=1),
    "breaker": CircuitBreaker,
    "breaker-count": lambda: CircuitBreaker(window_calls=100),
    "breaker-row": lambda: CircuitBreaker(fail_max=5, failure_rate=None, window_calls=10),
    "breaker-slow": lambda: CircuitBreaker(slow=1, slow_rate=0.5, window_calls=10),
    "breaker-shadow": lambda: CircuitBreaker(window_calls=100, shadow=True),
    "keyed": lambda: Keyed(lambda: CircuitBreaker(window_calls=100), key=lambda scope: scope["path"]),
}

LOOPS = [kind for kind in WORLDS if kind.is_async and kind.name != "virtual"]


@pytest.fixture(params=LOOPS, ids=lambda kind: kind.name)
def loop(request: pytest.FixtureRequest) -> Any:
    """Each event loop in turn."""
    made: World = request.param()
    yield made
    made.close()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("options", [{}, {"max_deadline": 30}], ids=["", "max_deadline"])
def test_limit_lets_requests_through_one_after_the_other(loop: World, options: dict[str, Any], gate: str) -> None:
    """Requests with all kinds of answers, with and without a deadline of the client, take one permit each, and release
    it."""
    limit = GATES[gate]()
    for handle, status in ((after(0, "fine"), 200), (after(0, 404), 404), (after(0, 503), 503)):
        app = ServerMiddleware(answering(handle), limit=limit, **options)
        for deadline in (None, "20000"):
            reply = loop.run(lambda app=app, deadline=deadline: ask(app, deadline=deadline))
            assert (reply.error, reply.status) == (None, status)
    assert limit._at_rest or gate.startswith("rate")


@pytest.mark.parametrize("gate", GATES)
def test_limit_has_its_permit_back_from_what_the_deadline_has_cut(loop: World, gate: str) -> None:
    """The handler hangs; the next request is admitted all the same."""
    limit = GATES[gate]()
    late = ServerMiddleware(answering(hang), limit=limit, max_deadline=0.005)
    quick = ServerMiddleware(answering(after(0, "fine")), limit=limit, max_deadline=30)
    assert loop.run(lambda: ask(late)).status == 504
    reply = loop.run(lambda: ask(quick))
    assert (reply.error, reply.status) == (None, 200)


@pytest.mark.parametrize("gate", GATES)
def test_short_path_of_a_request_does_not_look_for_the_running_event_loop(gate: str) -> None:
    """Also around a gate that needs the runtime, because the request has it already."""
    short_path: Any = ServerMiddleware(answering(after(0, "fine")), limit=GATES[gate]())._fast_path
    assert "running" not in short_path.__code__.co_names
