"""Both transports against a real server: which requests are sent again, what is returned, and that connections are
free."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest
import tenacity

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Hedge,
    Pipeline,
    PipelineClosed,
    Retry,
    TimedOut,
    Timeout,
    registry,
    standard,
    standard_hedged,
)
from tests.http.clients import Http
from tests.http.server import Answer, Server


def retrying(attempts: int = 3, *inner: Any, **options: Any) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0), *inner, **options)


def heard_by(pipeline: Pipeline) -> list[Any]:
    heard: list[Any] = []
    pipeline.listen(heard.append)
    return heard


# -- repetition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_idempotent_request_is_sent_again_after_a_failure_status(http: Http, server: Server, method: str) -> None:
    """It is repeated until the server has recovered."""
    server.script.extend([503, 500])
    response = http.open(retrying()).send(method, f"{server.origin}/x")
    assert response.status_code == 200
    assert [seen.method for seen in server.seen] == [method] * 3


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_request_that_is_not_idempotent_is_sent_once(http: Http, server: Server, method: str) -> None:
    """The first attempt may have had an effect."""
    server.script.append(503)
    response = http.open(retrying()).send(method, f"{server.origin}/x", content=b"order")
    assert (response.status_code, response.content) == (503, b"status 503")
    assert len(server.seen) == 1


def test_post_passes_the_other_policies_and_shares_their_state(http: Http, server: Server) -> None:
    """Its failures open the circuit of GET, too."""
    http.open(retrying(3, CircuitBreaker(fail_max=2, failure_rate=None)))
    server.script.extend([503, 503])
    for _ in range(2):
        http.send("POST", server.origin, content=b"order")
    with pytest.raises(CircuitOpen):
        http.send("GET", server.origin)
    assert len(server.seen) == 2


def test_bytes_are_sent_again_as_they_were(http: Http, server: Server) -> None:
    """Every attempt sends the whole body."""
    server.script.extend([503, 503])
    response = http.open(retrying()).send("PUT", server.origin, content=b"all of it")
    assert response.content == b"sent: all of it"
    assert [seen.body for seen in server.seen] == [b"all of it"] * 3


def test_json_and_forms_are_sent_again(http: Http, server: Server) -> None:
    """httpx makes bytes of JSON and forms, which can be sent again."""
    http.open(retrying())
    server.script.append(503)
    http.send("PUT", server.origin, json={"a": 1})
    server.script.append(503)
    http.send("PUT", server.origin, data={"a": "1"})
    bodies = [seen.body.replace(b" ", b"") for seen in server.seen]  # httpx before 0.28 writes spaces
    assert bodies == [b'{"a":1}'] * 2 + [b"a=1"] * 2


def test_stream_is_read_and_sent_again(http: Http, server: Server) -> None:
    """Every attempt sends the whole of it, and httpx's `StreamConsumed` is never raised."""
    server.script.append(503)
    response = http.open(retrying()).send("PUT", server.origin, content=http.body(b"all ", b"of it"))
    assert response.status_code == 200
    assert [seen.body for seen in server.seen] == [b"all of it"] * 2


def test_stream_that_is_longer_than_the_buffer_is_sent_once(http: Http, server: Server) -> None:
    """It is sent as a whole; the failure is returned."""
    server.script.append(503)
    http.open(retrying(), buffer=5)
    response = http.send("PUT", server.origin, content=http.body(b"all ", b"of ", b"it"))
    assert response.status_code == 503
    assert [seen.body for seen in server.seen] == [b"all of it"]


def test_post_that_never_left_is_sent_again(http: Http) -> None:
    """A POST to an origin that refuses connections had no effect."""
    pipeline = retrying(3)
    heard = heard_by(pipeline)
    with pytest.raises(http.library.ConnectError):
        http.open(pipeline).send("POST", refused_origin(), content=b"order")
    assert [type(event).__name__ for event in heard].count("AttemptStarted") == 3


def test_no_strategy_repeats_a_post(http: Http, server: Server) -> None:
    """This holds for every option of the Retry."""
    http.open(Pipeline(Retry(3, wait=0, on=Exception), Timeout(0.05)))
    server.script.extend([Answer(200, seconds=0.3), 503])
    with pytest.raises(TimedOut):
        http.send("POST", server.origin, content=b"order")
    assert len(server.seen) == 1


def test_no_strategy_repeats_a_post_for_its_good_answer(http: Http, server: Server) -> None:
    """A strategy that waits for another response works with a GET."""
    http.open(Pipeline(Retry(3, wait=0, on=tenacity.retry_if_result(lambda response: response.status_code == 202))))
    server.script.extend([202, 202])
    assert http.send("POST", server.origin, content=b"order").status_code == 202
    assert len(server.seen) == 1
    assert http.send("GET", server.origin).status_code == 200
    assert len(server.seen) == 3


def test_retry_in_a_nested_pipeline_does_not_repeat_a_post(http: Http, server: Server) -> None:
    """This holds at every depth; a GET is classified by HTTP there, too."""
    http.open(Pipeline(Timeout(5), retrying(3, Bulkhead(5))))
    server.script.extend([503, 503])
    assert http.send("POST", server.origin).status_code == 503
    assert http.send("GET", server.origin).status_code == 200
    assert len(server.seen) == 3


# -- results --------------------------------------------------------------------------------------------------------


def test_last_response_is_returned_with_its_body(http: Http, server: Server) -> None:
    """httpx's users expect that; `raise_for_status` is theirs to call."""
    server.script.extend([503, 500, Answer(502, b"the last words", {"X-Why": "because"})])
    response = http.open(retrying()).send("GET", server.origin)
    assert (response.status_code, response.content, response.headers["X-Why"]) == (502, b"the last words", "because")
    assert response.is_closed


def test_last_response_is_decoded(http: Http, server: Server) -> None:
    """The part that was read at once is the raw body."""
    import gzip

    body = gzip.compress(b"plain words")
    server.script.append(Answer(503, body, {"Content-Encoding": "gzip"}))
    assert http.open(retrying(1)).send("GET", server.origin).text == "plain words"


def test_last_response_can_be_streamed(http: Http, server: Server) -> None:
    """Its stream is the raw, unread body."""
    server.script.extend([Answer(503, b"first"), Answer(503, b"second")])
    assert http.open(retrying(2)).stream(server.origin, lambda: None) == [b"second"]


def test_long_error_is_returned_whole(http: Http, server: Server) -> None:
    """The rest is read when its user does."""
    body = bytes(range(256)) * 4096
    server.script.append(Answer(500, body))
    http.open(retrying(1))
    assert http.send("GET", server.origin).content == body
    assert http.all_free()


def test_other_statuses_are_answers(http: Http, server: Server) -> None:
    """Responses with a status that is no failure are returned at once."""
    server.script.append(404)
    assert http.open(retrying()).send("GET", server.origin).status_code == 404
    assert len(server.seen) == 1


def test_last_error_is_raised_with_a_note(http: Http) -> None:
    """It is httpx's own, and has the request."""
    with pytest.raises(http.library.ConnectError) as caught:
        http.open(retrying()).send("GET", refused_origin())
    assert caught.value.request.method == "GET"
    assert any("after 3 attempts" in note for note in caught.value.__notes__)


def test_open_circuit_after_a_failure_gives_back_the_last_response(http: Http, server: Server) -> None:
    """The rejection of a repetition is not raised: it only ends the attempts."""
    server.script.extend([503, 503])
    http.open(retrying(3, CircuitBreaker(fail_max=2, failure_rate=None)))
    assert http.send("GET", server.origin).status_code == 503
    assert len(server.seen) == 2


def refused_origin() -> str:
    """Return an origin that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# -- pauses ---------------------------------------------------------------------------------------------------------


def test_retry_after_is_kept(http: Http, server: Server) -> None:
    """The wait is at least as long as the server asked."""
    pipeline = retrying()
    heard = heard_by(pipeline)
    server.script.append(Answer(503, headers={"Retry-After": "0.05"}))
    assert http.open(pipeline).send("GET", server.origin).status_code == 200
    assert [event.wait for event in heard if type(event).__name__ == "Retrying"] == [0.05]


def test_retry_after_beyond_the_cap_ends_the_attempts(http: Http, server: Server) -> None:
    """No attempt comes too early: the response is returned at once."""
    server.script.append(Answer(429, b"later", {"Retry-After": "3600"}))
    response = http.open(retrying()).send("GET", server.origin)
    assert (response.status_code, response.content) == (429, b"later")
    assert len(server.seen) == 1


def test_retry_after_beyond_the_deadline_ends_the_attempts(http: Http, server: Server) -> None:
    """No wait begins that would outlive it."""
    server.script.append(Answer(503, headers={"Retry-After": "30"}))
    assert http.open(Pipeline(Timeout(10), Retry(wait=0))).send("GET", server.origin).status_code == 503
    assert len(server.seen) == 1


def test_invalid_retry_after_is_ignored(http: Http, server: Server) -> None:
    """The usual wait is kept."""
    server.script.extend(Answer(503, headers={"Retry-After": value}) for value in ("-1", "nan"))
    assert http.open(retrying()).send("GET", server.origin).status_code == 200


# -- classification -------------------------------------------------------------------------------------------------


def test_pipelines_own_classifier_is_kept(http: Http, server: Server) -> None:
    """A `classify` of the user takes precedence over `HttpClassifier`."""
    classifier = Classifier(results=lambda response: response.status_code == 404)
    server.script.extend([404, 503])
    assert http.open(retrying(classify=classifier)).send("GET", server.origin).status_code == 503
    assert len(server.seen) == 2


def test_classifier_that_raises_is_the_callers_error_and_frees_the_connection(http: Http, server: Server) -> None:
    """The error is raised, and no permit is lost."""

    def is_failure(response: Any) -> bool:
        raise LookupError("the classifier's own")

    http.open(retrying(3, Bulkhead(1), classify=Classifier(results=is_failure)))
    for method in ("GET", "POST"):
        with pytest.raises(LookupError):
            http.send(method, server.origin)
        assert http.all_free()
    assert http.transport.pipeline.policies[1].snapshot()["in_use"] == 0


@pytest.mark.parametrize("part", ["result", "error"])
def test_subclass_of_the_classifier_that_raises_frees_the_connection(http: Http, server: Server, part: str) -> None:
    """Its methods are called on the fast path, too: one request, nothing counted, no connection kept."""

    class Broken(http.ours.HttpClassifier):  # type: ignore[misc,name-defined]
        pass

    def raises(self: Any, outcome: Any) -> Any:
        raise LookupError("of the subclass")

    setattr(Broken, part, raises)
    breaker = CircuitBreaker(None, fail_max=1)
    http.open(retrying(3, breaker, classify=Broken()))
    url = server.origin if part == "result" else "http://127.0.0.1:1/"  # refuses connections
    for _ in range(3):
        with pytest.raises(LookupError, match="of the subclass"):
            http.send("GET", url)
        assert http.all_free()
    assert http.transport.pipeline.policies[1].snapshot()["keys"] == 1
    gates = http.transport.pipeline.policies[1].snapshot()["gates"]
    assert all(gate["state"] == "closed" and not gate["failures"] for gate in gates.values())


def test_error_of_the_caller_is_not_repeated(http: Http, server: Server) -> None:
    """A URL that no transport supports is no evidence about a server."""
    pipeline = retrying(3, CircuitBreaker(fail_max=1, failure_rate=None))
    heard = heard_by(pipeline)
    with pytest.raises(http.library.UnsupportedProtocol):
        http.open(pipeline).send("GET", "gopher://127.0.0.1/")
    assert {type(event).__name__ for event in heard} == {"AttemptStarted", "AttemptFailed", "CallEnded"}


# -- circuits -------------------------------------------------------------------------------------------------------


def breaking(**options: Any) -> Pipeline:
    return Pipeline(CircuitBreaker(fail_max=2, failure_rate=None, break_duration=30, name="circuit"), **options)


def test_open_circuit_refuses_without_sending(http: Http, server: Server) -> None:
    """The error has the time of the next probe."""
    http.open(breaking())
    server.script.extend([503, 503])
    for _ in range(2):
        http.send("GET", server.origin)
    with pytest.raises(CircuitOpen) as caught:
        http.send("GET", server.origin)
    assert 29 < (caught.value.retry_after or 0) <= 30
    assert len(server.seen) == 2


def test_each_origin_has_a_circuit(http: Http, server: Server, other: Server) -> None:
    """Two ports of one host are two origins; the paths of one are not."""
    http.open(breaking())
    server.script.extend([503, 503])
    http.send("GET", f"{server.origin}/a")
    http.send("GET", f"{server.origin}/b?token=secret")
    with pytest.raises(CircuitOpen):
        http.send("GET", f"{server.origin}/c")
    assert http.send("GET", f"{other.origin}/a").status_code == 200
    port = server.origin.rpartition(":")[2]
    assert http.send("GET", f"http://localhost:{port}/a").status_code == 200


def test_transports_that_share_a_breaker_share_its_circuits(http: Http, server: Server) -> None:
    """Transports that share the instance share its circuits."""
    pipeline = breaking()
    http.open(pipeline)
    server.script.extend([503, 503])
    for _ in range(2):
        http.send("GET", server.origin)
    http.open(Pipeline(Timeout(5), *pipeline.policies))
    with pytest.raises(CircuitOpen):
        http.send("GET", server.origin)


def test_breaker_with_a_storage_stays_one_circuit(http: Http, server: Server, other: Server) -> None:
    """A breaker with `state_storage` is shared on purpose."""
    import pybreaker

    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    http.open(Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, state_storage=storage)))
    server.script.append(503)
    http.send("GET", server.origin)
    with pytest.raises(CircuitOpen):
        http.send("GET", other.origin)


# -- connections ----------------------------------------------------------------------------------------------------


def test_attempt_that_failed_holds_no_connection_while_the_next_waits(http: Http, server: Server) -> None:
    """So one connection is enough for a retry."""
    http.open(retrying(3), limits=http.library.Limits(max_connections=1))
    server.script.extend([503, 503])
    assert http.send("GET", server.origin).status_code == 200


def test_streamed_answer_is_untouched(http: Http, server: Server) -> None:
    """Its first part arrives before the second is sent, and its connection is free at its end."""
    http.open(standard())
    assert http.stream(f"{server.origin}/parts", server.send_rest) == [b"first ", b"second"]
    assert http.all_free()


# -- construction and closing ---------------------------------------------------------------------------------------


def test_default_is_the_standard_pipeline(http: Http, server: Server) -> None:
    """A transport without arguments has the pipeline `standard()`."""
    http.open()
    kinds = [type(policy).__name__ for policy in http.transport.pipeline.policies]
    assert kinds == ["Timeout", "Retry", "Bulkhead", "Keyed", "Timeout"]
    server.script.append(503)
    assert http.send("GET", server.origin).status_code == 200


def test_default_waits_for_a_permit_and_not_for_a_connection(http: Http, server: Server) -> None:
    """The wait for a permit is local: it is no evidence, and takes no time of the attempt."""
    limits = http.library.Limits(max_connections=7)
    for options, permits, queue in (({}, 100, 1000), ({"limits": limits}, 7, 1000), ({"http2": True}, 100, 1000)):
        http.open(**options)
        bulkhead = http.transport.pipeline.policies[2]
        assert (bulkhead.max_concurrent, bulkhead.queue) == (permits, queue)
    http.open(standard())
    assert http.transport.pipeline.policies[2].max_concurrent == 1000


def test_options_go_to_the_transport_that_sends(http: Http, server: Server) -> None:
    """httpx's own transport raises for unknown options."""
    http.open(retrying(), limits=http.library.Limits(max_connections=7))
    assert http.transport.transport._pool._max_connections == 7
    with pytest.raises(TypeError, match="nonsense"):
        http.make(nonsense=1)


def test_options_beside_a_transport_are_refused(http: Http) -> None:
    """They would have no effect; their values, which may be secret, are not shown."""
    inner: Any = http.library.MockTransport(lambda request: http.library.Response(200))
    with pytest.raises(TypeError, match=r"transport= or the options of a new one \(cert, verify\), not both"):
        http.make(transport=inner, verify=False, cert="secret")


@pytest.mark.parametrize("wrong", [Retry(), Pipeline, "standard", httpx.BaseTransport()])
def test_pipeline_must_be_one(http: Http, wrong: Any) -> None:
    """A policy, a name or a transport is refused."""
    with pytest.raises(TypeError, match="pipeline must be a Pipeline"):
        http.make(wrong)


def test_any_transport_can_be_wrapped(http: Http) -> None:
    """It may be a mock, or one of ours."""
    statuses = iter([503, 503, 503, 200])
    mock = http.library.MockTransport(lambda request: http.library.Response(next(statuses), content=b"mocked"))
    inner = http.make(retrying(2), transport=mock, nested="multiply")
    response = http.open(retrying(2), transport=inner).send("GET", "http://example.com/")
    assert (response.status_code, response.content) == (200, b"mocked")


def test_transport_can_be_mounted(http: Http, server: Server, other: Server) -> None:
    """A mounted transport guards some origins only."""
    http.open(retrying(1))
    http.client = http.client_of(transport=http.transport, mounts={other.origin: http.make(retrying(2))})
    server.script.append(503)
    other.script.append(503)
    assert http.send("GET", server.origin).status_code == 503
    assert http.send("GET", other.origin).status_code == 200


def test_redirects_are_calls_of_their_own(http: Http, server: Server, other: Server) -> None:
    """Each has its own attempts, and the circuit of its origin."""
    http.open(retrying(2))
    server.script.extend([503, Answer(302, headers={"Location": f"{other.origin}/there"})])
    other.script.append(503)
    assert http.send("GET", server.origin, follow_redirects=True).status_code == 200
    assert (len(server.seen), len(other.seen)) == (2, 2)


def test_users_pipeline_controls_the_transports_calls(http: Http, server: Server) -> None:
    """Its listeners, its switch and its closing work for them."""
    pipeline = retrying(name="users")
    heard = heard_by(pipeline)
    http.open(pipeline)
    server.script.append(503)
    assert http.send("GET", server.origin).status_code == 200
    assert {event.pipeline for event in heard} == {"users"}
    with pipeline.switch("once"):
        server.script.append(503)
        assert http.send("GET", server.origin).status_code == 503
    pipeline.close()
    with pytest.raises(PipelineClosed):
        http.send("GET", server.origin)


def test_registry_has_the_pipeline_in_use(http: Http) -> None:
    """That pipeline has the circuits in use."""
    http.open(standard("in use"))
    assert registry.pipeline("in use") is http.transport.pipeline


def test_events_show_no_query_and_no_header(http: Http, server: Server) -> None:
    """Neither events nor errors show the query or a header of a request."""
    pipeline = Pipeline(Retry(3, wait=0), CircuitBreaker(fail_max=3, failure_rate=None))
    heard = heard_by(pipeline)
    http.open(pipeline)
    server.script.extend([503] * 3)
    url = f"{server.origin}/?token=secret"
    http.send("GET", url, headers={"Authorization": "Bearer secret"})
    with pytest.raises(CircuitOpen) as caught:
        http.send("GET", url, headers={"Authorization": "Bearer secret"})
    assert len(heard) > 5
    assert "secret" not in repr(heard)
    assert "secret" not in repr(caught.value)


def test_closing_the_client_closes_the_transport_that_sends(http: Http, server: Server) -> None:
    """The connections of the inner transport are closed, too."""
    http.open()
    http.send("GET", server.origin)
    (connection,) = http.connections
    http.end()
    assert connection.is_closed()


def test_closing_the_client_waits_for_the_losers_of_hedges(http: Http, server: Server) -> None:
    """Threads cannot be cancelled, so they run to their end."""
    hedge = Hedge(0.02, thread=True)
    server.script.append(Answer(200, b"late", seconds=0.2))
    http.open(Pipeline(hedge))
    assert http.send("GET", server.origin).content == b"sent: "
    if http.blocking:
        assert hedge.snapshot()["stragglers"] == 1
    http.end()
    assert hedge.snapshot()["stragglers"] == 0


def test_timeout_of_an_attempt_is_ours(http: Http, server: Server) -> None:
    """This holds for plain clients, too, whose own timeouts end it; the error is also one of httpx's."""
    server.script.append(Answer(200, seconds=0.3))
    http.open(Pipeline(Timeout(0.05)))
    with pytest.raises(TimedOut) as caught:
        http.send("GET", server.origin)
    assert isinstance(caught.value, http.library.TimeoutException)
    assert caught.value.request.method == "GET"
    assert http.all_free()


def test_standard_hedged_serves_both(http: Http, server: Server) -> None:
    """Plain clients need threads for a hedge, and a warning says so."""
    if http.blocking:
        with pytest.raises(TypeError, match=r"Hedge\(\.\.\., thread=True\)"):
            http.make(standard_hedged())
        return
    assert http.open(standard_hedged()).send("GET", server.origin).status_code == 200


def test_hedge_in_threads_serves_plain_functions(http: Http, server: Server) -> None:
    """The first copy is late; the response of the second is returned. A POST is not hedged."""
    server.script.append(Answer(200, b"late", seconds=0.3))
    http.open(Pipeline(Hedge(0.05, thread=True)))
    assert http.send("GET", server.origin).content == b"sent: "
    server.script.append(Answer(200, b"late", seconds=0.1))
    assert http.send("POST", server.origin).content == b"late"
    assert len(server.seen) == 3


def test_classifier_is_shared_by_two_pipelines(http: Http, server: Server) -> None:
    """The default classifier has a public name."""
    server.script.append(503)
    assert http.open(standard(classify=http.ours.HttpClassifier())).send("GET", server.origin).status_code == 200
