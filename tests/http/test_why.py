"""Why a request ended as it did: a response says it in its extensions, an error by `resilient.why`."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from resilient import Budget, CircuitBreaker, Fallback, Hedge, Pipeline, Retry, TimedOut, Timeout, standard, why
from tests.http.kinds import URL, AsyncHttpx, Kind

SECRET = "http://user:s3cret-password@example.com/path?token=s3cret-query#s3cret-frag"
ORIGIN = "http://example.com:80"


def report(response: Any) -> dict[str, Any]:
    """The report that a response has, which is plain data."""
    found: dict[str, Any] = response.extensions["resilient"]
    assert json.loads(json.dumps(found)) == found
    return found


def test_response_of_a_further_attempt_has_its_attempts(kind: Kind) -> None:
    """A status, an error of the client, and the success at last."""
    silent = kind.library.ConnectError("s3cret-message")
    client = kind.open(Pipeline(Retry(3, wait=0.001), name="users"), kind.script(503, silent))
    response = kind.send(client, url=SECRET)
    found = report(response)
    assert (found["pipeline"], found["function"], found["key"]) == ("users", "GET request", ORIGIN)
    assert (found["ended"], found["attempts"], found["reason"]) == ("success", 3, "")
    first, _, second, _, third = found["steps"]
    assert (first["what"], first["status"], first["error"]) == ("attempt", 503, None)
    assert (second["what"], second["error"]) == ("attempt", f"{kind.library.__name__}:ConnectError")
    assert (third["what"], third["number"]) == ("success", 3)
    assert str(why(response)).splitlines()[0] == f"GET request succeeded in pipeline users for {ORIGIN}"
    assert "s3cret" not in json.dumps(found) + str(why(response))


def test_response_of_a_first_attempt_has_nothing(kind: Kind) -> None:
    """It costs nothing; `why` says so."""
    client = kind.open(Pipeline(Retry(3), CircuitBreaker(), name="users"), kind.script(200, 404))
    for _ in range(2):
        response = kind.send(client)
        assert "resilient" not in response.extensions
        assert not why(response).guarded
        assert str(why(response)).startswith("no failed attempt is recorded")


@pytest.mark.parametrize(
    ("retry", "method", "code", "attempts"),
    [
        (Retry(2, wait=0), "GET", "attempts", 2),
        (Retry(3, wait=0, budget=Budget(reserve=0.0)), "GET", "budget", 1),
        (Retry(3, wait=0, max_retry_after=1), "GET", "retry-after", 1),
        (Retry(3, wait=0), "POST", "unsafe", 1),
    ],
    ids=["attempts", "budget", "retry-after", "unsafe"],
)
def test_response_has_the_reason_that_retries_ended(
    kind: Kind, retry: Retry, method: str, code: str, attempts: int
) -> None:
    """The caller of a failed response knows why there was no further attempt."""
    steps = [(503, {"Retry-After": "30"})] if code == "retry-after" else [503, 503, 503]
    client = kind.open(Pipeline(retry.clone(), name="users"), kind.script(*steps))
    response = kind.send(client, method)
    assert response.status_code == 503
    found = report(response)
    assert (found["ended"], found["policy"], found["code"], found["attempts"]) == ("failure", "Retry", code, attempts)
    assert f"retries ended: {found['reason']} (Retry, {attempts} attempt" in " ".join(str(why(response)).split())


def test_streamed_response_has_it_with_its_head(kind: Kind) -> None:
    """The body is still to come."""
    client = kind.open(Pipeline(Retry(3, wait=0), name="users"), kind.script(503))

    async def later() -> tuple[Any, bytes]:
        async with client.stream("GET", URL) as response:
            return report(response), await response.aread()

    def plainly() -> tuple[Any, bytes]:
        with client.stream("GET", URL) as response:
            return report(response), response.read()

    found, body = kind.run(later if kind.is_async else plainly)
    assert (found["attempts"], body) == (2, b"status 200")


def test_each_response_has_its_own(kind: Kind) -> None:
    """A report does not change when the client goes on."""
    client = kind.open(Pipeline(Retry(2, wait=0), name="users"), kind.script(503, 200, 503, 503))
    first = kind.send(client)
    second = kind.send(client)
    assert [report(each)["ended"] for each in (first, second)] == ["success", "failure"]


def test_answer_of_a_fallback_says_so(kind: Kind) -> None:
    """And each caller's answer has the attempts of its own call."""
    pipeline = Pipeline(Fallback(kind.library.Response(200, content=b"stale")), Retry(2, wait=0), name="users")
    client = kind.open(pipeline, kind.script(503, 503, 500, 500))
    responses = [kind.send(client), kind.send(client)]
    for response in responses:
        assert response.content == b"stale"
        assert report(response)["ended"] == "fallback"
        assert "was answered by a Fallback" in " ".join(str(why(response)).split())
    assert [report(each)["steps"][0]["status"] for each in responses] == [503, 500]


def test_response_of_a_hedge_has_its_copies(kind: Kind) -> None:
    """The copy that won, and why it was sent."""
    client = kind.open(Pipeline(Hedge(0.02, thread=True), name="users"), kind.script(kind.wait(0.3, 200)))
    found = report(kind.send(client))
    assert [step["what"] for step in found["steps"]] == ["copy started", "copy won"]
    assert found["steps"][0]["reason"] == "delay"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_error_of_the_client(kind: Kind, method: str) -> None:
    """The client's own error after retries, or after none because the request must not be sent again."""
    silent = kind.library.ReadTimeout("s3cret-message")
    client = kind.open(Pipeline(Retry(2, wait=0), name="users"), kind.script(silent, silent))
    with pytest.raises(kind.library.ReadTimeout) as caught:
        kind.send(client, method, SECRET, content=b"s3cret-body", headers={"Authorization": "s3cret-token"})
    found = why(caught.value)
    (call,) = found.as_json()["calls"]
    assert (call["function"], call["key"]) == (f"{method} request", ORIGIN)
    assert call["reason"] == ("attempts spent" if method == "GET" else "it must not be sent again")
    assert "s3cret" not in json.dumps(found.as_json()) + str(found) + repr(found)


def test_errors_of_ours_are_explained_when_they_are_the_clients_too(kind: Kind) -> None:
    """With the origin, and after pickling."""
    breaker = CircuitBreaker(None, fail_max=1)
    client = kind.open(Pipeline(Retry(2, wait=0), breaker, name="users"), kind.script(503))
    first = kind.send(client, url=SECRET)
    assert report(first)["code"] == "rejected"
    with pytest.raises(kind.ours.CircuitOpen) as caught:
        kind.send(client, url=SECRET)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        found = why(error).as_json()
        assert (found["policy"], found["key"], found["code"]) == ("CircuitBreaker", ORIGIN, "open")
        assert found["circuit"]["opened"] == "1 failures in a row"
        assert "s3cret" not in json.dumps(found) + str(why(error))


def test_timed_out_request_says_so(kind: Kind) -> None:
    """Under a plain client, the client's own timeout ends the attempt, shortened to the time that is left."""

    def silent(request: Any) -> Any:
        kind.sleep_plainly(0.06)
        raise kind.library.ReadTimeout("s3cret-message")

    step = kind.wait(5, 200) if kind.is_async else silent
    client = kind.open(Pipeline(Timeout(0.05), Retry(2, wait=0), name="users"), kind.script(step, step))
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.send(client, url=SECRET)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        found = why(error).as_json()
        assert (found["ended"], found["key"], found["evidence"]) == ("timeout", ORIGIN, True)
        (call,) = found["calls"]
        assert (call["pipeline"], call["function"]) == ("users", "GET request")
        assert call["steps"][-1]["what"] in ("timeout", "attempt")
        assert f"for {ORIGIN}" in str(why(error)).splitlines()[0]
        assert "s3cret" not in json.dumps(found) + str(why(error))


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_attempts_before_a_total_timeout_are_shown() -> None:
    """Of a request whose attempts have timed out one by one."""
    kind = AsyncHttpx()
    pipeline = Pipeline(Timeout(3), Retry(2, wait=1), Timeout(1.5), name="users")
    client = kind.open(pipeline, kind.script(*[kind.wait(5, 200)] * 2))
    with pytest.raises(TimedOut) as caught:
        kind.send(client)
    kind.close()
    (call,) = why(caught.value).as_json()["calls"]
    assert [step["what"] for step in call["steps"]] == ["attempt", "pause", "timeout"]


def test_user_of_the_standard_pipeline_sees_the_circuit(kind: Kind) -> None:
    """The pipeline that most clients have."""
    client = kind.open(standard("why of standard", attempts=2), kind.script(*[503] * 60))
    codes: list[str] = []
    with pytest.raises(kind.ours.CircuitOpen) as caught:
        codes.extend(report(kind.send(client))["code"] for _ in range(40))
    assert why(caught.value).as_json()["circuit"]["opened"].endswith("calls failed")
    assert codes[0] == "attempts"
    assert "budget" in codes
