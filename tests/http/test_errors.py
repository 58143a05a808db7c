"""Our errors under a client are errors of the client library, too."""

from __future__ import annotations

import pickle
from typing import Any

import pybreaker
import pytest

from resilient import AdaptiveLimit, Bulkhead, CircuitBreaker, Pipeline, RateLimit, Retry, Timeout, deadline, errors
from resilient.core.call import new_call
from resilient.runtime.threads import THREADS
from tests.http.kinds import URL, Kind

TREE = {
    "Rejected": "TransportError",
    "CircuitOpen": "ConnectError",
    "BulkheadFull": "PoolTimeout",
    "LimitExceeded": "PoolTimeout",
    "RateLimited": "TransportError",
    "PipelineClosed": "TransportError",
    "TimedOut": "TimeoutException",
}


def provoked(kind: Kind, name: str, method: str = "GET") -> Exception:
    """Return that error as a user of the client gets it, for a request with a query."""
    url = f"{URL}path?token=secret"
    slow = kind.script(503, kind.wait(0.3, 200))
    pipelines: dict[str, Pipeline] = {
        "CircuitOpen": Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, name="circuit"), name="users"),
        "RateLimited": Pipeline(RateLimit(1, per=3600), name="users"),
        "BulkheadFull": Pipeline(Bulkhead(1), name="users"),
        "LimitExceeded": Pipeline(AdaptiveLimit(1), name="users"),
        "PipelineClosed": Pipeline(Bulkhead(1), name="users"),
        "TimedOut": Pipeline(Timeout(0.05), name="users"),
    }
    client = kind.open(pipelines[name], slow)
    if name == "TimedOut":
        slow._steps.pop(0)
        if not kind.is_async:

            def silent(request: Any) -> Any:
                kind.sleep_plainly(0.06)
                raise kind.library.ReadTimeout("silent")

            slow._steps[:] = [silent]
    elif name == "PipelineClosed":
        pipelines[name].close()
    elif name in ("BulkheadFull", "LimitExceeded"):
        held = client._transport.pipeline.policies[0]
        held.admit(new_call(len, (kind.library.Request(method, url),), {}, THREADS))
    else:
        kind.send(client, method, url)
    with pytest.raises(errors.ResilientError) as caught:
        kind.send(client, method, url)
    return caught.value


NAMES = [name for name in TREE if name != "Rejected"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", NAMES)
def test_error_is_ours_and_the_clients(kind: Kind, name: str, method: str) -> None:
    """`except httpx.HTTPError`, the fitting subclass, and our class catch it; it has its request."""
    error: Any = provoked(kind, name, method)
    assert type(error) is getattr(kind.ours, name)
    assert isinstance(error, getattr(errors, name))
    assert isinstance(error, getattr(kind.library, TREE[name]))
    assert isinstance(error, kind.library.HTTPError)
    assert error.request.method == method
    assert error.request.url.path == "/path"
    assert error.pipeline == "users"
    assert str(error)
    assert "secret" not in f"{error} {error!r}"


def test_tree_is_complete(kind: Kind) -> None:
    """Each error of ours that a request can raise is one of the client library, and of no other."""
    for name, base in TREE.items():
        assert issubclass(getattr(kind.ours, name), (getattr(kind.library, base)))
    ours = {
        error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.ResilientError)
    }
    assert {error.__name__ for error in ours} - {"ResilientError"} == set(TREE)


def test_details_survive(kind: Kind) -> None:
    """The attributes that a handler needs are kept."""
    circuit: Any = provoked(kind, "CircuitOpen")
    assert (circuit.policy, circuit.key) == ("circuit", "http://example.com:80")
    assert circuit.retry_after > 0
    assert isinstance(circuit, pybreaker.CircuitBreakerError)
    limited: Any = provoked(kind, "RateLimited")
    assert limited.retry_after > 3000
    late: Any = provoked(kind, "TimedOut")
    assert isinstance(late, TimeoutError)
    assert late.evidence is True
    assert late.seconds >= 0.05
    assert late.key == "http://example.com:80"


@pytest.mark.parametrize("name", NAMES)
def test_error_pickles(kind: Kind, name: str) -> None:
    """It keeps its details, its request and its notes, because it may have to leave a process pool."""
    error: Any = provoked(kind, name)
    error.add_note("while it rained")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again: Any = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.request.url == error.request.url
        assert again.__notes__ == error.__notes__
        for detail in ("pipeline", "policy", "key", "retry_after", "seconds", "evidence"):
            assert getattr(again, detail, None) == getattr(error, detail, None)


def test_clients_errors_can_be_made_by_hand(kind: Kind) -> None:
    """Users' tests need that; such errors have no request, like the client's own."""
    for name in TREE:
        error: Any = getattr(kind.ours, name)("made", pipeline="users", policy="circuit")
        assert (str(error), error.pipeline, error.policy) == ("users: made", "users", "circuit")
        with pytest.raises(RuntimeError, match="request"):
            error.request  # noqa: B018
        assert str(pickle.loads(pickle.dumps(error))) == "users: made"


def test_note_of_the_attempts_stays(kind: Kind) -> None:
    """The last error has it, ours or the client's."""

    def silent(request: Any) -> Any:
        raise kind.library.ReadTimeout("silent")

    client = kind.open(Pipeline(Retry(2, wait=0), name="users"), kind.script(silent, silent))
    with pytest.raises(kind.library.ReadTimeout) as caught:
        kind.send(client)
    assert caught.value.__notes__ == [
        "resilient: pipeline 'users' gave up on http://example.com:80 after 2 attempts: attempts spent"
    ]
    assert caught.value.request.url == URL


def test_cause_stays(kind: Kind) -> None:
    """The cause is the reason for another attempt, whose time ran out, or the client's own timeout."""
    failed = kind.library.ReadError("broken")
    late = kind.library.ReadTimeout("silent")

    def silent(request: Any) -> Any:
        kind.sleep_plainly(0.2)
        raise late

    async def silent_later(request: Any) -> Any:
        await kind.sleep(0.2)
        raise late

    script = kind.script(failed, silent_later if kind.is_async else silent)
    client = kind.open(Pipeline(Timeout(0.15), Retry(2, wait=0)), script)
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.send(client)
    assert caught.value.__cause__ is (failed if kind.is_async else late)


def test_error_of_a_pipeline_around_stays_its_own(kind: Kind) -> None:
    """Only errors of our transport become the client's."""
    outer = Pipeline(RateLimit(1, per=3600))
    client = kind.open(Pipeline(Retry(2)), kind.script())
    if kind.is_async:

        @outer
        async def fetch() -> Any:
            return await client.get(URL)

    else:

        @outer
        def fetch() -> Any:
            return client.get(URL)

    kind.run(fetch)
    with pytest.raises(errors.RateLimited) as caught:
        kind.run(fetch)
    assert type(caught.value) is errors.RateLimited


def test_rejections_of_an_inner_transport_of_ours_are_claimed_once(kind: Kind) -> None:
    """One of our transports stands inside another one; the error is unchanged."""
    script = kind.script(503)
    inner = kind.transport_of(
        Pipeline(CircuitBreaker(fail_max=1, failure_rate=None), name="in"), transport=script.inner
    )
    client = kind.open(Pipeline(Retry(1), name="out"), None, transport=inner)
    kind.send(client)
    with pytest.raises(kind.ours.CircuitOpen) as caught:
        kind.send(client)
    assert caught.value.pipeline == "in"
    assert caught.value.request.url == URL


def test_deadline_that_has_passed_is_the_clients_timeout(kind: Kind) -> None:
    """It is raised before anything is sent."""

    def main() -> Any:
        kind.sleep_plainly(0.02)
        return client.get(URL)

    async def late() -> Any:
        await kind.sleep(0.02)
        return await client.get(URL)

    script = kind.script()
    client = kind.open(Pipeline(Timeout(5)), script)
    with pytest.raises(kind.library.TimeoutException) as caught:
        kind.run(late if kind.is_async else main, lambda: deadline(0.01))
    assert caught.value.request.url == URL
    assert script.sent == []
