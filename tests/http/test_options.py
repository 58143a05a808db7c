"""Every option of the transports, and the options of single requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

import resilient
from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    deadline,
    quantile,
)
from resilient.http.client import TRANSPORT_OPTIONS
from resilient.runtime.threads import THREADS
from tests.http.kinds import KINDS, URL, Kind, Script, heard_by, named


def retrying(attempts: int = 3, **options: Any) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0), **options)


def breaking() -> Pipeline:
    """Return a pipeline whose circuit opens at the first failure."""
    return Pipeline(CircuitBreaker(fail_max=1, failure_rate=None, break_duration=3600))


def own(**options: Any) -> dict[str, Any]:
    """Return the extensions with the options of a request."""
    return {"extensions": {"resilient": options}}


def keyed(client: Any) -> Keyed:
    (policy,) = client._transport.pipeline.policies
    assert isinstance(policy, Keyed)
    return policy


# -- by, max_keys, idle ---------------------------------------------------------------------------------------------


def refused(kind: Kind, client: Any, url: str, **options: Any) -> bool:
    """Whether the circuit of a request is open."""
    try:
        kind.send(client, url=url, **options)
    except kind.ours.CircuitOpen:
        return True
    return False


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("origin", "http://example.com:80/b", "http://example.com:81/"),
        ("origin", "http://EXAMPLE.com/b", "https://example.com/"),
        ("host", "http://example.com:81/b", "http://www.example.com/"),
        ("host", "https://example.com/", "http://example.org/"),
        (
            lambda request: request.url.path.split("/")[1],
            "http://example.org/users/2",
            "http://example.com/orders/1",
        ),
        (lambda request: request.headers.get("X-Tenant"), "http://example.org/", "http://example.com/?tenant"),
    ],
)
def test_by_decides_which_requests_share_a_circuit(kind: Kind, by: Any, same: str, other: str) -> None:
    """The key is the origin by default, the host, or the result of a function of the request."""
    client = kind.open(breaking(), kind.script(503), by=by)
    headers = {"X-Tenant": "one"}
    kind.send(client, url="http://example.com/users/1", headers=headers)
    assert refused(kind, client, same, headers=headers)
    assert not refused(kind, client, other, headers={} if "tenant" in other else headers)


def test_by_that_raises_is_the_callers_error(kind: Kind) -> None:
    """The error is raised, and nothing is sent."""

    def by(request: Any) -> str:
        raise LookupError("no tenant")

    script = kind.script()
    with pytest.raises(LookupError, match="no tenant"):
        kind.send(kind.open(breaking(), script, by=by))
    assert script.sent == []


def test_key_of_a_request_replaces_by(kind: Kind) -> None:
    """It replaces the key of every origin."""
    client = kind.open(breaking(), kind.script(503))
    kind.send(client, **own(key="reports"))
    assert not refused(kind, client, URL)
    assert refused(kind, client, "http://elsewhere.example/", **own(key="reports"))


def test_function_that_is_made_anew_for_each_client_finds_the_same_circuits(kind: Kind) -> None:
    """A client for each request must not keep a circuit from opening, or from being dropped."""
    pipeline = Pipeline(CircuitBreaker(fail_max=3, failure_rate=None, break_duration=3600))
    script = kind.script(*[503] * 10)

    def get() -> int:
        transport = kind.transport_of(pipeline, transport=script.inner, by=lambda request: request.url.path)
        client = kind.client_of(transport=transport)
        status: int = kind.send(client, url="http://example.com/a").status_code
        return status

    for _ in range(3):
        assert get() == 503
    with pytest.raises(kind.ours.CircuitOpen):
        get()
    assert len(pipeline.policies[0]._copies or ()) == 1


def test_transports_with_different_functions_share_circuits_of_equal_keys(kind: Kind) -> None:
    """Equal keys share a circuit; different keys do not."""
    pipeline, script = breaking(), kind.script(503)
    by_path = kind.open(pipeline, script, by=lambda request: request.url.path)
    by_host = kind.open(pipeline, script, by=lambda request: request.url.host)
    kind.send(by_path, url="http://example.com/a")
    assert refused(kind, by_path, "http://example.org/a")
    assert not refused(kind, by_host, "http://example.com/a")
    assert refused(kind, kind.open(pipeline, script, by=lambda request: "/a"), URL)


def test_hedge_knows_the_latencies_of_a_key_whichever_function_gave_it(kind: Kind) -> None:
    """Latencies are kept by key, as circuits are."""
    pipeline = Pipeline(Hedge(quantile(0.95, initial=1.0), thread=not kind.is_async))
    for _ in range(3):
        client = kind.open(pipeline, kind.script(), by=lambda request: request.url.path)
        kind.send(client, url="http://example.com/a")
    (hedge,) = client._transport.pipeline.policies
    (observed,) = hedge.snapshot()["observed"].values()
    assert observed["samples"] == 3


def test_max_keys_bounds_what_is_remembered(kind: Kind) -> None:
    """Of thousands of hosts the last few are kept."""
    client = kind.open(breaking(), kind.script(), max_keys=3)
    for number in range(10):
        kind.send(client, url=f"http://host{number}.example/")
    assert keyed(client).snapshot()["keys"] == 3


def test_idle_circuit_is_forgotten(kind: Kind) -> None:
    """It is dropped after so many seconds without a request."""
    client = kind.open(breaking(), kind.script(), idle=0.01)
    kind.send(client, url="http://one.example/")
    kind.run(kind.pause(0.05))
    kind.send(client, url="http://two.example/")
    assert keyed(client).snapshot()["keys"] == 1


def test_each_origin_has_its_own_adaptive_limit(kind: Kind) -> None:
    """A full limit does not refuse requests to another origin."""
    pipeline = Pipeline(AdaptiveLimit(1, name="limit"))
    first, second = kind.open(pipeline, kind.script()), kind.open(pipeline, kind.script())
    limit: Any = keyed(first).gate_for(keyed(first)._key(kind.library.Request("GET", URL)))
    ticket = limit.admit(resilient.core.call.new_call(len, (), {}, None))
    with pytest.raises(kind.ours.LimitExceeded):
        kind.send(second)
    assert kind.send(second, url="http://elsewhere.example/").status_code == 200
    limit.release(ticket)
    assert kind.send(second).status_code == 200
    assert pipeline.policies[0].snapshot()["in_flight"] == 0


# -- several servers ------------------------------------------------------------------------------------------------

GOOD, BAD = "http://good.example/", "http://bad.example/"


def two_servers(kind: Kind, log: list[str]) -> Any:
    """Two servers: one that answers, and one that fails."""

    def answer(request: Any) -> Any:
        log.append(request.url.host)
        return kind.library.Response(503 if request.url.host == "bad.example" else 200)

    return kind.library.MockTransport(answer)


def test_each_origin_has_a_budget_to_itself(kind: Kind) -> None:
    """Retries that one origin has earned are not spent on another's outage, for each value of `by`."""
    budget, log = Budget(0.5, reserve=0, cap=10, ttl=1e6), []
    pipeline = Pipeline(Retry(3, wait=0, budget=budget))
    client = kind.open(pipeline, transport=two_servers(kind, log), by="host")
    for _ in range(6):
        kind.send(client, url=GOOD)
    for _ in range(6):
        kind.send(client, url=BAD)
    assert log.count("bad.example") == 6
    assert budget.of("http://good.example:80").balance(0.0) == pytest.approx(3)
    assert budget.refused == 6


def test_copies_of_a_hedge_are_paid_for_by_their_origin(kind: Kind) -> None:
    """Hedges are paid for as retries are."""
    budget, log = Budget(0.5, reserve=0, cap=10, ttl=1e6), []
    pipeline = Pipeline(Hedge(3600, budget=budget, thread=not kind.is_async))
    client = kind.open(pipeline, transport=two_servers(kind, log))
    for url in (GOOD, GOOD, BAD):
        kind.send(client, url=url)
    assert log.count("bad.example") == 1


def test_transports_that_share_a_budget_share_that_of_each_origin(kind: Kind) -> None:
    """Transports that share the instance share its budgets."""
    budget, log = Budget(0.5, reserve=0, cap=10, ttl=1e6), []
    first, second = (
        kind.open(Pipeline(Retry(3, wait=0, budget=budget)), transport=two_servers(kind, log)) for _ in range(2)
    )
    for _ in range(2):
        kind.send(first, url=GOOD)
    kind.send(second, url=BAD)
    for _ in range(3):
        budget.of("http://bad.example:80").earn()
    kind.send(second, url=BAD)
    assert log.count("bad.example") == 3


def test_a_share_of_the_permits_for_each_host_keeps_one_that_hangs_from_taking_all(kind: Kind) -> None:
    """One set of permits is for the whole client, as its connections are; `Keyed` gives each host a share."""
    shares = Keyed(lambda: Bulkhead(2), key=lambda request: request.url.host)
    pipeline = Pipeline(shares, Bulkhead(4))
    client = kind.open(pipeline, kind.script())
    call = resilient.core.call.new_call(len, (kind.library.Request("GET", BAD),), {}, THREADS)
    for _ in range(2):
        shares.admit(call)
    with pytest.raises(kind.ours.BulkheadFull):
        kind.send(client, url=BAD)
    assert kind.send(client, url=GOOD).status_code == 200


# -- idempotency_key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_idempotency_key_is_the_same_on_every_attempt_and_another_for_each_request(kind: Kind, method: str) -> None:
    """So a server recognises only the repetition."""
    script = kind.script(503, 503, 200, 503)
    client = kind.open(retrying(), script, idempotency_key=True)
    assert kind.send(client, method).status_code == 200
    assert kind.send(client, method).status_code == 200
    first, second = script.headers("Idempotency-Key")[:3], script.headers("Idempotency-Key")[3:]
    assert (len(set(first)), len(set(second)), len(second)) == (1, 1, 2)
    assert first[0] != second[0]
    assert len(first[0] or "") == 36


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_idempotency_key_is_not_added_where_it_is_not_needed(kind: Kind, method: str) -> None:
    """Requests of idempotent methods get no key."""
    script = kind.script(503)
    kind.send(kind.open(retrying(), script, idempotency_key=True), method)
    assert script.headers("Idempotency-Key") == [None, None]


def test_idempotency_key_may_have_another_name(kind: Kind) -> None:
    """The standard header is not sent then."""
    script = kind.script(503)
    client = kind.open(retrying(), script, idempotency_key="X-Request-Token")
    assert kind.send(client, "POST").status_code == 200
    keys = script.headers("X-Request-Token")
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert keys[0]
    assert script.headers("Idempotency-Key") == [None, None]


def test_users_own_idempotency_key_is_kept(kind: Kind) -> None:
    """The case of its header does not matter; it makes the request repeatable without the option."""
    for options in ({}, {"idempotency_key": True}):
        script = kind.script(503)
        client = kind.open(retrying(), script, **options)
        assert kind.send(client, "POST", headers={"idempotency-key": "mine"}).status_code == 200
        assert script.headers("Idempotency-Key") == ["mine", "mine"]


def test_no_idempotency_key_by_default_and_no_repetition(kind: Kind) -> None:
    """A server without support for the key would do the work twice."""
    script = kind.script(503)
    assert kind.send(kind.open(retrying(), script), "POST").status_code == 503
    assert script.headers("Idempotency-Key") == [None]


def test_idempotency_key_allows_hedges(kind: Kind) -> None:
    """A POST with a key is hedged, and its copies have the same key."""
    script = kind.script(kind.late(201))
    client = kind.open(Pipeline(Hedge(0.05, thread=not kind.is_async)), script, idempotency_key=True)
    assert kind.send(client, "POST").status_code == 200
    assert len(script.sent) == 2
    assert len(set(script.headers("Idempotency-Key"))) == 1


def test_users_request_is_not_changed(kind: Kind) -> None:
    """Our headers are for the attempts only: the user may send the same object again, as a new request."""
    script = kind.script(503)
    client = kind.open(
        Pipeline(Timeout(5), Retry(2, wait=0)), script, idempotency_key=True, attempt_header=True, deadline_header=True
    )
    request = client.build_request("POST", URL, content=b"order")
    headers, extensions, limits = list(request.headers.raw), request.extensions, dict(request.extensions["timeout"])
    for _ in range(2):
        kind.run(lambda: client.send(request))
    assert list(request.headers.raw) == headers
    assert request.extensions is extensions
    assert request.extensions == {"timeout": limits}
    keys = script.headers("Idempotency-Key")
    assert keys[0] == keys[1] != keys[2]


def test_nothing_of_ours_goes_to_where_a_redirect_leads(kind: Kind) -> None:
    """Each request of a chain has its own key, deadline and attempts."""
    script = kind.script((307, {"Location": "http://elsewhere.example/"}), 503)
    client = kind.open(
        Pipeline(Timeout(5), Retry(2, wait=0)), script, idempotency_key=True, attempt_header=True, deadline_header=True
    )
    assert kind.send(client, "POST", content=b"order", follow_redirects=True).status_code == 200
    assert [request.url.host for request in script.sent] == ["example.com"] + ["elsewhere.example"] * 2
    here, there, again = script.headers("Idempotency-Key")
    assert here != there == again
    assert script.headers("X-Attempt") == ["1", "1", "2"]
    assert [request.read() for request in script.sent] == [b"order"] * 3


# -- buffer and body_timeout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("buffer", "requests"), [(8, 2), (7, 1), (0, 1)])
def test_buffer_bounds_the_streams_that_are_repeated(kind: Kind, buffer: int, requests: int) -> None:
    """The limit is exact to the byte."""
    script = kind.script(503)
    client = kind.open(retrying(2), script, buffer=buffer)
    kind.send(client, "PUT", content=kind.body(b"four", b"more"))
    assert [request.read() for request in script.sent] == [b"fourmore"] * requests


def test_body_timeout_ends_a_slow_body_and_counts_against_the_circuit(kind: Kind) -> None:
    """Its reader gets `TimedOut`, which is also the client's timeout error."""
    script = kind.script(lambda request: kind.library.Response(200, stream=kind.slow_stream(0.1, b"a", b"b", b"c")))
    client = kind.open(breaking(), script, body_timeout=0.15)
    with pytest.raises(kind.ours.TimedOut, match=r"the body took more than 0\.15 s") as caught:
        kind.send(client)
    assert isinstance(caught.value, kind.library.TimeoutException)
    assert refused(kind, client, URL)


# -- headers for the server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "name"), [(True, "X-Attempt"), ("x-try", "X-Try")])
def test_attempt_header_counts_attempts(kind: Kind, option: Any, name: str) -> None:
    """It counts from 1, for each request."""
    script = kind.script(503, 503, 200, 503)
    client = kind.open(retrying(), script, attempt_header=option)
    kind.send(client)
    kind.send(client)
    assert script.headers(name) == ["1", "2", "3", "1", "2"]


@pytest.mark.parametrize(("option", "name"), [(True, "X-Deadline-Ms"), ("x-left", "X-Left")])
def test_deadline_header_has_the_milliseconds_that_are_left(kind: Kind, option: Any, name: str) -> None:
    """The value is the shortest limit of this attempt, rounded down to whole milliseconds."""
    script = kind.script(503, 503)
    client = kind.open(
        Pipeline(Timeout(10), Retry(3, wait=4 if kind.is_async else 0.05)), script, deadline_header=option
    )
    kind.send(client)
    left = [int(value or "") for value in script.headers(name)]
    if kind.is_async:
        assert left == [10000, 6000, 2000]
    else:
        assert 10000 >= left[0] > 9000
        assert left[1] <= left[0] - 50


def test_deadline_header_is_not_sent_where_there_is_no_deadline(kind: Kind) -> None:
    """A request without a limit has no such header."""
    script = kind.script()
    kind.send(kind.open(retrying(), script, deadline_header=True))
    assert script.headers("X-Deadline-Ms") == [None]


def test_no_header_by_default(kind: Kind) -> None:
    """The server gets the user's request without headers of ours."""
    script = kind.script(503)
    client = kind.open(Pipeline(Timeout(5), Retry(2, wait=0)), script)
    expected = list(client.build_request("POST", URL).headers.raw)
    kind.send(client, "PUT", headers={"A": "b"})
    kind.send(client, "POST")
    assert script.sent[-1].headers.raw == expected
    assert {name for request in script.sent for name in request.headers if name.startswith("x-")} == set()


# -- the client's own timeouts --------------------------------------------------------------------------------------


def limits(script: Script) -> list[dict[str, float | None]]:
    return [request.extensions["timeout"] for request in script.sent]


def test_deadline_caps_the_clients_timeouts(kind: Kind) -> None:
    """Each phase gets the time that this attempt has left, or the user's shorter timeout."""
    script = kind.script(503)
    client = kind.open(
        Pipeline(Timeout(10), Retry(2, wait=4 if kind.is_async else 0.05)),
        script,
        client={"timeout": kind.library.Timeout(60, connect=2, pool=None)},
    )
    kind.send(client)
    first, second = limits(script)
    assert (first["connect"], second["connect"]) == (2, 2)
    if kind.is_async:
        assert first == {"connect": 2, "read": 10, "write": 10, "pool": 10}
        assert second == {"connect": 2, "read": 6, "write": 6, "pool": 6}
    else:
        assert all(9 < (first[phase] or 0) <= 10 for phase in ("read", "write", "pool"))
        assert all((second[phase] or 0) <= 9.96 for phase in ("read", "write", "pool"))


def test_clients_timeouts_are_untouched_where_the_deadline_is_later(kind: Kind) -> None:
    """The user's own request object is sent, not a copy."""
    script = kind.script()
    client = kind.open(Pipeline(Timeout(60)), script, client={"timeout": 5})
    request = client.build_request("GET", URL)
    kind.run(lambda: client.send(request))
    assert script.sent[0].extensions is request.extensions


def test_clients_timeouts_that_are_as_long_as_the_attempts_are_capped_for_plain_clients_only(kind: Kind) -> None:
    """The Timeout ends an asynchronous attempt, so its request is unchanged."""
    script = kind.script()
    client = kind.open(Pipeline(Timeout(10)), script, client={"timeout": 10})
    request = client.build_request("GET", URL)
    kind.run(lambda: client.send(request))
    assert (script.sent[0].extensions is request.extensions) is kind.is_async


def test_deadline_caps_a_client_without_timeouts(kind: Kind) -> None:
    """A plain client would hang forever otherwise."""
    script = kind.script()
    kind.send(kind.open(Pipeline(Timeout(10)), script, client={"timeout": None}))
    assert all(9 < (limit or 0) <= 10 for limit in limits(script)[0].values())
    assert set(limits(script)[0]) == {"connect", "read", "write", "pool"}


def test_deadline_caps_phases_without_a_timeout(kind: Kind) -> None:
    """A phase without a timeout gets the time of the attempt."""
    script = kind.script()
    kind.send(kind.open(Pipeline(Timeout(10)), script), extensions={"timeout": {"read": 2}})
    sent = limits(script)[0]
    assert sent["read"] == 2
    assert all(9 < (sent[phase] or 0) <= 10 for phase in ("connect", "write", "pool"))


@pytest.mark.parametrize("how", ["around", "of the request"])
def test_callers_deadline_caps_too(kind: Kind, how: str) -> None:
    """The deadline comes from `with deadline(...)`, or from the request's options."""
    script = kind.script()
    client = kind.open(Pipeline(Timeout(60)), script, client={"timeout": 30})
    if how == "around":
        kind.run(lambda: client.get(URL), lambda: deadline(2))
    else:
        kind.send(client, **own(deadline=2))
    assert all(1 < (limit or 0) <= 2 for limit in limits(script)[0].values())


def timing_out(kind: Kind) -> Callable[[Any], Any]:
    """A server that is silent until the client's own read timeout ends the request."""

    def plainly(request: Any) -> Any:
        limit = request.extensions["timeout"]["read"]
        kind.sleep_plainly(limit)
        raise kind.library.ReadTimeout("silent", request=request)

    async def later(request: Any) -> Any:
        limit = request.extensions["timeout"]["read"]
        await kind.sleep(limit)
        raise kind.library.ReadTimeout("silent", request=request)

    return later if kind.is_async else plainly


def test_callers_deadline_is_no_evidence_to_the_circuit(kind: Kind) -> None:
    """A short deadline says nothing about the server."""
    script = kind.script(timing_out(kind), timing_out(kind))
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    client = kind.open(Pipeline(breaker, Timeout(60)), script, client={"timeout": 30})
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.run(lambda: client.get(URL), lambda: deadline(0.05))
    assert caught.value.evidence is False
    with pytest.raises(kind.ours.TimedOut):
        kind.send(client, **own(deadline=0.05))
    assert not refused(kind, client, URL)


def test_attempts_own_limit_is_evidence_to_the_circuit(kind: Kind) -> None:
    """The server had the whole time of an attempt."""
    script = kind.script(timing_out(kind))
    client = kind.open(Pipeline(CircuitBreaker(fail_max=1, failure_rate=None), Timeout(0.05)), script)
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.send(client)
    assert caught.value.evidence is True
    assert refused(kind, client, URL)


@pytest.mark.parametrize("kind", [each for each in KINDS if not each.is_async], indirect=True)
def test_wait_for_a_connection_is_no_evidence_even_at_the_limit(kind: Kind) -> None:
    """It is a wait for our own pool; the server has not been asked. (The Timeout ends an asynchronous attempt.)"""

    def plainly(request: Any) -> Any:
        kind.sleep_plainly(request.extensions["timeout"]["pool"])
        raise kind.library.PoolTimeout("full", request=request)

    script = kind.script(plainly)
    client = kind.open(Pipeline(CircuitBreaker(fail_max=1, failure_rate=None), Timeout(0.05)), script)
    with pytest.raises(kind.ours.TimedOut) as caught:
        kind.send(client)
    assert caught.value.evidence is False
    assert not refused(kind, client, URL)


def test_deadline_that_has_passed_sends_nothing(kind: Kind) -> None:
    """`TimedOut` is raised before the request is sent."""
    script = kind.script(503)
    pipeline = Pipeline(Timeout(60), Retry(3, wait=0))
    client = kind.open(pipeline, script)

    def main() -> Any:
        kind.sleep_plainly(0.02)  # no loop runs on: its clock is stopped, or has gone on
        return client.get(URL)

    if kind.is_async:

        async def late() -> Any:
            await kind.sleep(0.02)
            return await client.get(URL)

        with pytest.raises(kind.ours.TimedOut):
            kind.run(late, lambda: deadline(0.01))
    else:
        with pytest.raises(kind.ours.TimedOut):
            kind.run(main, lambda: deadline(0.01))
    assert script.sent == []


# -- options of a request -------------------------------------------------------------------------------------------


def test_request_can_be_sent_past_the_pipeline(kind: Kind) -> None:
    """With `"off": True` even an open circuit does not stop it."""
    script = kind.script(503, 503)
    pipeline = breaking()
    heard, client = heard_by(pipeline), kind.open(pipeline, script)
    kind.send(client)
    assert refused(kind, client, URL)
    before = len(heard)
    assert kind.send(client, **own(off=True)).status_code == 503
    assert len(heard) == before
    assert refused(kind, client, URL, **own(off=False))


@pytest.mark.parametrize(
    ("method", "idempotent", "requests"), [("POST", True, 2), ("GET", False, 1), ("PUT", False, 1)]
)
def test_option_of_a_request_decides_whether_it_is_repeated(
    kind: Kind, method: str, idempotent: bool, requests: int
) -> None:
    """`idempotent` in the options overrides the method."""
    script = kind.script(503)
    kind.send(kind.open(retrying(), script), method, **own(idempotent=idempotent))
    assert len(script.sent) == requests


@pytest.mark.parametrize("idempotent", [True, False])
def test_option_of_a_request_overrides_its_key(kind: Kind, idempotent: bool) -> None:
    """`False` forbids the repetition that a key would allow."""
    script = kind.script(503)
    options = own(idempotent=idempotent, idempotency_key="order-7")
    kind.send(kind.open(retrying(), script), "POST", **options)
    assert script.headers("Idempotency-Key") == ["order-7"] * (2 if idempotent else 1)


def test_request_that_is_not_idempotent_is_still_repeated_where_it_never_left(kind: Kind) -> None:
    """A repetition is safe then, even with `"idempotent": False`."""
    script = kind.script(kind.library.ConnectError("nobody"))
    assert kind.send(kind.open(retrying(), script), "GET", **own(idempotent=False)).status_code == 200
    assert len(script.sent) == 2


def test_request_can_have_an_idempotency_key(kind: Kind) -> None:
    """It is sent in the transport's header, and makes the request repeatable."""
    for option, name in (({}, "Idempotency-Key"), ({"idempotency_key": "X-Token"}, "X-Token")):
        script = kind.script(503)
        client = kind.open(retrying(), script, **option)
        request = client.build_request("POST", URL, **own(idempotency_key="order-7"))
        assert kind.run(lambda client=client, request=request: client.send(request)).status_code == 200
        assert script.headers(name) == ["order-7"] * 2
        assert name not in request.headers


@pytest.mark.parametrize(
    ("there", "has_it"),
    [
        ("http://example.com/elsewhere", True),
        ("https://example.com/", True),
        ("http://example.com:81/", False),
        ("https://example.com:444/", False),
        ("http://evil.example/", False),
        ("http://example.com.evil.example/", False),
    ],
)
def test_idempotency_key_of_a_request_is_for_its_own_server(kind: Kind, there: str, has_it: bool) -> None:
    """A redirect to another origin has no key, and is not repeated there; the next request has it again."""
    script = kind.script((307, {"Location": there}), 503)
    client = kind.open(retrying(), script, client={"follow_redirects": True})
    options = own(idempotency_key="order-7")
    kind.send(client, "POST", **options)
    assert script.headers("Idempotency-Key") == (["order-7"] * 3 if has_it else ["order-7", None])
    kind.send(client, "POST", "http://evil.example/", **options)
    assert script.headers("Idempotency-Key")[-1] == "order-7"


def test_idempotency_key_does_not_go_with_a_redirect_that_its_user_follows(kind: Kind) -> None:
    """`response.next_request` goes to another server with the same extensions."""
    script = kind.script((307, {"Location": "http://evil.example/"}))
    client = kind.open(retrying(), script)
    response = kind.send(client, "POST", **own(idempotency_key="order-7"))
    kind.run(lambda: client.send(response.next_request))
    assert script.headers("Idempotency-Key") == ["order-7", None]


def test_transports_own_key_takes_its_place_at_another_server(kind: Kind) -> None:
    """So the request may be repeated there, too."""
    script = kind.script((307, {"Location": "http://evil.example/"}), 503)
    client = kind.open(retrying(), script, idempotency_key=True, client={"follow_redirects": True})
    assert kind.send(client, "POST", **own(idempotency_key="order-7")).status_code == 200
    first, *others = script.headers("Idempotency-Key")
    assert (first, len(others), len(set(others))) == ("order-7", 2, 1)
    assert others[0] not in (None, "order-7")


@pytest.mark.parametrize(("usual", "asked"), [(3, 1), (3, 5), (1, 2), (None, 2)])
def test_request_can_have_its_own_number_of_attempts(kind: Kind, usual: int | None, asked: int) -> None:
    """It may be smaller or larger than the pipeline's; the next request has the usual number."""
    retry = Retry(usual, wait=0) if usual else Retry(stop=tenacity.stop_never, wait=tenacity.wait_none())
    script = kind.script(*[503] * 5)
    client = kind.open(Pipeline(retry), script)
    assert kind.send(client, **own(attempts=asked)).status_code == (200 if asked > 5 else 503)
    assert len(script.sent) == asked
    if usual:
        kind.send(client)
        assert len(script.sent) == min(asked + usual, 6)


def test_attempts_of_a_request_are_bounded_by_all_else(kind: Kind) -> None:
    """An unsafe request is not repeated, the budget pays, and without a Retry there is no repetition."""
    for method, pipeline in (
        ("POST", retrying()),
        ("GET", Pipeline(Retry(3, wait=0, budget=Budget(reserve=0)))),
        ("GET", Pipeline(Timeout(5))),
    ):
        script = kind.script(503)
        assert kind.send(kind.open(pipeline, script), method, **own(attempts=5)).status_code == 503


def test_request_can_have_a_deadline(kind: Kind) -> None:
    """No wait begins that would outlive it; the next request has none."""
    script = kind.script((503, {"Retry-After": "10"}), (503, {"Retry-After": "10" if kind.is_async else "0.01"}))
    client = kind.open(Pipeline(Timeout(60), Retry(2, wait=0)), script)
    assert kind.send(client, **own(deadline=5)).status_code == 503
    assert len(script.sent) == 1
    assert kind.send(client).status_code == 200


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (7, TypeError, r'extensions\["resilient"\] must be a dict, got 7'),
        (["off"], TypeError, r"must be a dict, got \['off'\]"),
        ({"retries": 3}, ValueError, r"has no retries: it may have attempts, deadline, idempotency_key, idempotent"),
        ({7: 3}, ValueError, r"has no 7"),
        ({"off": 1}, TypeError, r"off must be True or False, got 1"),
        ({"idempotent": "yes"}, TypeError, r"idempotent must be True or False, got 'yes'"),
        ({"idempotency_key": 7}, ValueError, r"idempotency_key must be the value of a header"),
        ({"idempotency_key": None}, ValueError, r"idempotency_key must be the value of a header"),
        ({"idempotency_key": ""}, ValueError, r"idempotency_key must be the value of a header"),
        ({"idempotency_key": "secret "}, ValueError, r"printable ASCII characters$"),
        ({"idempotency_key": "a\r\nb: c"}, ValueError, r"idempotency_key must be the value of a header"),
        ({"idempotency_key": "\u20ac"}, ValueError, r"idempotency_key must be the value of a header"),
        ({"deadline": 0}, ValueError, r"deadline must be a finite number of seconds > 0, got 0"),
        ({"deadline": -1}, ValueError, r"got -1"),
        ({"deadline": "2"}, TypeError, r"got '2'"),
        ({"deadline": math.inf}, ValueError, r"got inf"),
        ({"deadline": True}, TypeError, r"got True"),
        ({"attempts": 0}, ValueError, r"attempts must be a whole number >= 1, got 0"),
        ({"attempts": 2.0}, TypeError, r"attempts must be a whole number >= 1, got 2\.0"),
        ({"attempts": True}, TypeError, r"got True"),
        ({"attempts": None}, TypeError, r"got None"),
        ({"key": ["a"]}, TypeError, r"key must be hashable, got \['a'\]"),
        ({"off": True, "deadline": 0}, ValueError, r"deadline must be"),
    ],
    ids=repr,
)
def test_invalid_options_of_a_request_are_refused(
    kind: Kind, options: Any, error: type[Exception], message: str
) -> None:
    """The error names the valid options; nothing is sent."""
    script = kind.script()
    client = kind.open(breaking(), script)
    with pytest.raises(error, match=message) as caught:
        kind.send(client, extensions={"resilient": options})
    assert script.sent == []
    assert "secret" not in str(caught.value)


def test_empty_options_of_a_request_change_nothing(kind: Kind) -> None:
    """The options are None, or an empty dict."""
    for options in (None, {}):
        script = kind.script(503)
        assert kind.send(kind.open(retrying(), script), extensions={"resilient": options}).status_code == 200
        assert len(script.sent) == 2


# -- invalid options ------------------------------------------------------------------------------------------------


async def a_coroutine(request: Any) -> str:
    return "key"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": "path"}, ValueError, r"by must be \"origin\", \"host\" or a function of the request, got 'path'"),
        ({"by": 7}, TypeError, r"by must be callable, got 7"),
        ({"by": None}, TypeError, r"by must be callable, got None"),
        ({"by": a_coroutine}, TypeError, r"by must be a plain function"),
        ({"max_keys": 0}, ValueError, r"max_keys must be a whole number >= 1, got 0"),
        ({"max_keys": 1.5}, TypeError, r"max_keys must be a whole number >= 1, got 1\.5"),
        ({"max_keys": True}, TypeError, r"max_keys must be a whole number"),
        ({"idle": 0}, ValueError, r"idle must be a finite number of seconds > 0, got 0"),
        ({"idle": math.nan}, ValueError, r"idle must be"),
        ({"idempotency_key": 1}, TypeError, r"idempotency_key must be a string, got 1"),
        ({"idempotency_key": None}, TypeError, r"idempotency_key must be a string, got None"),
        ({"idempotency_key": ""}, ValueError, r"idempotency_key must not be empty"),
        ({"idempotency_key": "a b"}, ValueError, r"must be True, False or the name of a header, got 'a b'"),
        ({"buffer": -1}, ValueError, r"buffer must be a whole number >= 0, got -1"),
        ({"buffer": 1e6}, TypeError, r"buffer must be a whole number >= 0, got 1000000\.0"),
        ({"body_timeout": 0}, ValueError, r"body_timeout must be a finite number of seconds > 0, got 0"),
        ({"body_timeout": math.inf}, ValueError, r"body_timeout must be"),
        ({"deadline_header": "x: y"}, ValueError, r"deadline_header must be True, False or the name of a header"),
        ({"deadline_header": 0}, TypeError, r"deadline_header must be a string, got 0"),
        ({"attempt_header": "x\n"}, ValueError, r"attempt_header must be True, False or the name of a header"),
        ({"attempt_header": b"x"}, TypeError, r"attempt_header must be a string"),
        ({"nested": "twice"}, ValueError, r"nested must be one of multiply, once, got 'twice'"),
        ({"nested": True}, ValueError, r"nested must be one of multiply, once, got True"),
        ({"nested": ["once"]}, ValueError, r"nested must be one of multiply, once"),
    ],
    ids=str,
)
def test_bad_option_is_refused_at_once(
    kind: Kind, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error has the value, and what would be right; our client raises it, too."""
    with pytest.raises(error, match=message):
        kind.transport_of(retrying(), **options)
    with pytest.raises(error, match=message):
        kind.guarded_client_of(retrying(), **options)


def test_numbers_of_other_types_are_taken(kind: Kind) -> None:
    """A fraction is a valid number of seconds."""
    from fractions import Fraction

    kind.transport_of(retrying(), idle=Fraction(1, 2), body_timeout=Fraction(1, 2))


def test_pipeline_and_its_events_are_unchanged_by_options(kind: Kind) -> None:
    """A request emits the same events with all options as with none."""
    stories = []
    for options in ({}, {"attempt_header": True, "deadline_header": True, "body_timeout": 5.0, "buffer": 1}):
        pipeline = Pipeline(Timeout(5), Retry(2, wait=0))
        heard = heard_by(pipeline)
        kind.send(kind.open(pipeline, kind.script(503, 503), **options))
        stories.append([type(event).__name__ for event in heard])
        assert named(heard, "GaveUp")[0].attempts == 2
    assert stories[0] == stories[1]


def test_transport_knows_what_it_was_made_with(kind: Kind) -> None:
    """It has its pipeline and each of its own options, so that another one like it can be made."""
    pipeline = retrying()
    transport = kind.transport_of(pipeline, transport=kind.script().inner, by="host", buffer=7)

    assert transport.given is pipeline
    assert transport.options.keys() == TRANSPORT_OPTIONS
    assert (transport.options["by"], transport.options["buffer"]) == ("host", 7)
