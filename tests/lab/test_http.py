"""HTTP in a world: transports of production with methods, statuses, origins and broken connections."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import httpx
import pytest

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    quantile,
    standard,
)
from resilient.faults import Crash, Errors, Fault, PacketLoss, Partition, Reset, Stall
from resilient.http.httpx import AsyncClient, AsyncTransport, HttpClassifier
from resilient.lab.calls import Calls
from resilient.lab.candidates import NONE, Candidate, candidate_from, shadowed
from resilient.lab.distributions import Constant
from resilient.lab.http import HttpCalls
from resilient.lab.load import Burst, Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.service import Quota, ServicePlan
from resilient.lab.world import CandidateError, Run, Scenario, simulate

LIBRARIES = ("httpx", "httpx2")


def scenario(calls: Calls | None = None, *faults: Fault, **more: Any) -> Scenario:
    plan = ServicePlan(service_time=Constant(0.05), workers=20)
    made = {"duration": 8, "loads": (Poisson(20),), "clients": 2, "service": plan, "calls": calls, "faults": faults}
    return Scenario(**made | more)


def live(candidate: Any, calls: Calls | None = None, *faults: Fault, **more: Any) -> Measures:
    if not isinstance(candidate, Candidate):
        candidate = candidate_from("theirs", candidate)
    return Measures([simulate(scenario(calls, *faults, **more), candidate)])


def at_once(run: Run) -> list[str]:
    return [run.names[outcome] for outcome in run.outcomes]


GETS, POSTS = HttpCalls(), HttpCalls(methods="POST", content="an order")
RETRY = Pipeline(Retry(3, wait=0.1))


def test_statuses_are_judged_by_the_transports_classifier() -> None:
    """A 503 is a failure and retried, a 404 is an answer; without a pipeline both count by their status."""
    calls = HttpCalls(statuses={200: 0.9, 404: 0.1})
    bare, guarded = (live(each, calls, Errors(share=0.3)) for each in (NONE, RETRY))

    assert bare.outcomes.keys() == {"success", "status 503"}
    assert bare.requests_per_call == 1
    assert guarded.requests_per_call == pytest.approx(1.39, abs=0.1)
    assert guarded.success > 0.95


def test_classifier_of_the_pipelines_own_is_kept() -> None:
    """A classifier may judge a 404 a failure."""
    strict = Pipeline(Retry(3, wait=0.1), classify=HttpClassifier(statuses=[404]))
    calls = HttpCalls(statuses={200: 0.5, 404: 0.5})

    assert live(strict, calls).requests_per_call == pytest.approx(1.75, abs=0.15)


@pytest.mark.parametrize(
    ("calls", "fault", "requests"),
    [
        (GETS, Errors(), 3),
        (POSTS, Errors(), 1),
        (HttpCalls(methods="POST", headers={"Idempotency-Key": "{key}"}), Errors(), 3),
        (GETS, Reset(), 3),
        (POSTS, Reset(), 1),
        (HttpCalls(methods={"GET": 0.5, "POST": 0.5}), Errors(), 2),
    ],
)
def test_only_what_may_be_sent_twice_is(calls: HttpCalls, fault: Fault, requests: float) -> None:
    """The method, an idempotency key, and whether the request has left decide."""
    assert live(RETRY, calls, fault).requests_per_call == pytest.approx(requests, abs=0.3)


def test_post_whose_connection_was_refused_is_repeated() -> None:
    """A refused request has provably not left: three attempts until the crash is over."""
    measures = live(Pipeline(Retry(3, wait=1)), POSTS, Crash(end=1.5), loads=(Burst(calls=4),))

    assert measures.outcomes == {"success": 4}
    assert len(measures.runs[0].sent) == 12


def test_retry_after_is_kept() -> None:
    """The pause of a 429 from a quota is respected, rounded up to whole seconds by the transport."""
    plan = ServicePlan(rate_limit=Quota(0.5, burst=1))
    run = simulate(scenario(GETS, loads=(Replay((0.0, 0.1)),), service=plan), candidate_from("retry", RETRY))

    assert at_once(run) == ["success", "success"]
    assert [round(at, 3) for at in run.sent] == [0, 0.1, 2.1]


def test_each_origin_has_a_circuit() -> None:
    """Only the circuit of the failing origin opens."""
    calls = HttpCalls(url="https://{key}.users.example/orders")
    plan = ServicePlan(service_time=Constant(0.05), servers=3, balance="key")
    run = simulate(
        scenario(calls, Crash(targets=2), service=plan, keys=3, clients=1, loads=(Poisson(60),)),
        candidate_from("circuits", Pipeline(CircuitBreaker(fail_max=3))),
    )

    assert Measures([run]).outcomes.keys() == {"success", "ConnectError", "CircuitOpen"}
    assert run.samples[-1].open == pytest.approx(1 / 3)
    assert 0.6 < Measures([run]).success < 0.73


@pytest.mark.parametrize(
    ("fault", "name"), [(Partition(), "ConnectTimeout"), (PacketLoss(share=1), "ReadTimeout"), (Stall(), "ReadTimeout")]
)
def test_silence_ends_with_the_timeout_of_the_client(fault: Fault, name: str) -> None:
    """The timeout is that of `AsyncClient`, from the pipeline's Timeout, or httpx's own; in a partition, the one for
    connecting."""
    for candidate, seconds, error in (
        (Pipeline(Retry(1), Timeout(2)), 2, {"TimedOut", name}),
        (RETRY, 15.2, {name}),
    ):
        measures = live(candidate, GETS, fault, loads=(Burst(calls=1),))
        assert measures.outcomes.keys() <= error
        assert measures.runs[0].ends[0] == pytest.approx(seconds)


def test_copies_of_a_hedge_are_requests() -> None:
    """Only requests that are safe to repeat are hedged, and the answer of either copy is the call's."""
    plan = ServicePlan(service_time=Constant(0.5))
    hedge = Pipeline(Hedge(0.1, copies=2))

    assert live(hedge, GETS, service=plan).requests_per_call == 2
    assert live(hedge, POSTS, service=plan).requests_per_call == 1


def test_fallback_is_substitute() -> None:
    """A substitute response is counted separately."""
    fallback = Pipeline(Fallback(httpx.Response(200, text="yesterday's")))

    assert live(fallback, GETS, Errors()).outcomes.keys() == {"stood in"}


def test_keys_are_made_of_requests() -> None:
    """A pipeline with a key function for requests needs a transport, and the message says so."""
    users = Pipeline(Retry(3), Keyed(lambda: Bulkhead(20, queue=200), key=lambda request: request.url.host))

    assert live(users, GETS).outcomes.keys() == {"success"}
    with pytest.raises(CandidateError, match="has no attribute 'url'"):
        live(users)


def test_other_libraries_guard_requests() -> None:
    """Their decorators are put around the client's `request`."""

    def twice(function: Any) -> Any:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            response = await function(*args, **kwargs)
            return response if response.status_code < 500 else await function(*args, **kwargs)

        return guarded

    assert live(Candidate("twice", lambda: twice), GETS, Errors(share=0.5)).requests_per_call == pytest.approx(1.5, 0.2)


def test_answers_may_be_made_by_a_function() -> None:
    """Answers may have headers that a classifier or a policy reads, or be exceptions."""

    def answer(status: int, retry_after: float | None) -> Any:
        if status == 503:
            return httpx.ReadError("gone")
        return httpx.Response(status, headers={"x-ratelimit-reset": "1"}, text="an answer")

    measures = live(NONE, HttpCalls(answer=answer), Errors(share=0.5))
    assert measures.outcomes.keys() == {"success", "ReadError"}


def test_requests_may_be_made_by_a_function() -> None:
    """The function returns the arguments of the client's `request`."""
    seen: list[str] = []

    def by_path(request: httpx.Request) -> str:
        seen.append(request.url.path)
        return request.url.path

    keyed = Pipeline(Keyed(CircuitBreaker, key=by_path))
    calls = HttpCalls(arguments=lambda key: ("DELETE", f"https://service.example/users/{key}"))

    assert live(keyed, calls, keys=2).outcomes.keys() == {"success"}
    assert set(seen) == {"/users/1", "/users/2"}


def test_one_seed_is_one_result() -> None:
    """Methods, statuses and jitter are the same in every call."""
    calls = HttpCalls(methods={"GET": 0.5, "POST": 0.5}, statuses={200: 0.7, 404: 0.1, 503: 0.2})
    runs = [simulate(scenario(calls, keys=3), candidate_from("standard", standard()), seed) for seed in (1, 1, 2)]

    assert runs[0].ends == runs[1].ends
    assert runs[0].outcomes == runs[1].outcomes
    assert runs[0].ends != runs[2].ends


# -- transports and clients of production ---------------------------------------------------------------------------


def guarded(library: str, kind: str, pipeline: Pipeline, **options: Any) -> Any:
    """A transport or a client of production."""
    return getattr(importlib.import_module(f"resilient.http.{library}"), kind)(pipeline, **options)


@pytest.fixture(params=[(library, kind) for library in LIBRARIES for kind in ("AsyncTransport", "AsyncClient")])
def make(request: pytest.FixtureRequest) -> Any:
    """Makes transports and clients, asynchronous and synchronous, with a pipeline and options."""
    library, kind = request.param
    return lambda pipeline, **options: guarded(library, kind, pipeline, **options)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["AsyncTransport", "AsyncClient", "Transport", "Client"])
def test_transport_of_production_is_tried_as_it_is(library: str, kind: str) -> None:
    """Without HTTP in the scenario, the transport keeps its pipeline, classifier and circuits, and nothing is sent."""
    pattern = guarded(library, kind, Pipeline(Retry(3, wait=0.1), CircuitBreaker(fail_max=200), name="users"))
    measures = live(pattern, None, Errors(share=0.3))

    assert measures.outcomes.keys() <= {"success", "status 503"}
    assert measures.requests_per_call == pytest.approx(1.39, abs=0.1)
    assert measures.runs[0].samples[-1].open == 0


def test_options_of_the_transport_are_kept(make: Any) -> None:
    """Every POST has an idempotency key, and circuits are separated by `by`."""
    retry = Pipeline(Retry(3, wait=0.1), CircuitBreaker(fail_max=5))
    plain, keyed = (live(make(retry, **each), POSTS, Errors(share=0.1)) for each in ({}, {"idempotency_key": True}))

    assert plain.requests_per_call == 1
    assert keyed.requests_per_call > 1.05
    urls = HttpCalls(url="https://{key}.users.example/")
    (one,) = live(make(retry, by=lambda request: "all"), urls, Errors(), keys=3).runs
    (each,) = live(make(retry, by="host"), urls, Errors(targets="1"), keys=3).runs
    assert (one.samples[-1].open, each.samples[-1].open) == (1, pytest.approx(1 / 3))


def test_servers_hear_of_what_the_transport_sends(make: Any) -> None:
    """Servers get deadlines from a transport with `deadline_header`, and drop expired requests without work."""
    plan = ServicePlan(service_time=Constant(1.0), workers=1, drop_expired=True)
    loads = (Burst(calls=4), Burst(calls=1, at=6))
    timeout = Pipeline(Timeout(1.5))
    executed = []
    for options in ({}, {"deadline_header": True}, {"deadline_header": "X-Until"}):
        (run,) = live(make(timeout, **options), GETS, service=plan, loads=loads).runs
        executed.append(run.executed)

    assert executed == [5, 3, 3]
    told = replace(candidate_from("told", make(timeout, deadline_header=True)), deadline_header=False)
    assert live(told, GETS, service=plan, loads=loads).runs[0].executed == 5


@pytest.mark.parametrize(("options", "admitted"), [({}, 0), ({"priority_header": True}, 1)])
def test_servers_hear_of_priorities_where_they_are_sent(make: Any, options: dict[str, Any], admitted: int) -> None:
    """The last places of a limit are for critical requests."""
    limit = AdaptiveLimit(20, min_limit=20, max_limit=20)
    plan = ServicePlan(service_time=Constant(3.0), admission=limit)
    loads = (Burst(calls=40), Burst(calls=4, at=1.0, priority="critical"))
    (run,) = live(make(Pipeline(Retry(1)), **options), GETS, service=plan, loads=loads, clients=1).runs
    successes = [outcome == 0 for outcome, rank in zip(run.outcomes, run.priorities, strict=True) if rank == 0]

    assert (sum(successes) > 0) == bool(admitted)


@pytest.mark.parametrize("candidate", [NONE, Pipeline(Retry(1))])
def test_servers_hear_of_priorities_as_they_do_without_http(candidate: Any) -> None:
    """Servers get the priority of the call if the candidate has no transport."""
    plan = ServicePlan(service_time=Constant(3.0), admission=AdaptiveLimit(20, min_limit=20, max_limit=20))
    loads = (Burst(calls=40), Burst(calls=4, at=1.0, priority="critical"))
    for calls in (GETS, None):
        assert live(candidate, calls, service=plan, loads=loads, clients=1).classes["critical"].success > 0


def test_policies_of_a_server_see_a_request() -> None:
    """The request is an ASGI scope, so a limit can be by path."""
    seen: list[Any] = []

    def path(scope: Any) -> str:
        seen.append(scope)
        return str(scope["path"])

    plan = ServicePlan(service_time=Constant(1.0), admission=Keyed(lambda: Bulkhead(1), key=path))
    calls = HttpCalls(url="http://service.example:8080/users/{key}?full=1", headers={"X-Tenant": "t-{key}"})
    (run,) = live(NONE, calls, service=plan, loads=(Replay((0.0, 0.1, 0.2), ("1", "2", "1")),), keys=2).runs

    assert sorted(at_once(run)) == ["status 503", "success", "success"]
    scope = seen[0]
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "GET", "/users/1")
    assert (scope["query_string"], scope["server"]) == (b"full=1", ("service.example", 8080))
    assert (b"x-tenant", b"t-1") in scope["headers"]


def test_timeouts_of_a_client_of_production_are_kept() -> None:
    """The client's read timeout ends a request without an answer."""
    for client, seconds in (
        (AsyncClient(RETRY, timeout=1), 3.2),
        (httpx.AsyncClient(transport=AsyncTransport(RETRY)), 15.2),
    ):
        (run,) = live(client, None, Partition(), loads=(Burst(calls=1),)).runs
        assert run.ends[0] == pytest.approx(seconds)


def test_nothing_of_a_client_of_production_runs() -> None:
    """Neither its transport, nor its hooks, nor its authentication runs."""

    def never(*_: Any) -> Any:
        raise AssertionError("it ran")

    client = AsyncClient(
        RETRY,
        transport=httpx.MockTransport(never),
        event_hooks={"request": [never], "response": [never]},
        auth=never,
        base_url="https://production.example",
    )

    assert live(client).outcomes.keys() == {"success"}
    assert RETRY.snapshot()["in_flight"] == 0


def test_simulated_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Simulated requests are not logged; real ones are, before and after the simulation."""
    caplog.set_level("INFO", "httpx")
    live(NONE, GETS, loads=(Burst(calls=1),))
    assert caplog.records == []

    httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200))).get("https://service.example")
    assert len(caplog.records) == 1


def test_samples_tell_of_every_origin() -> None:
    """Under a transport each origin has its own budget, limit and observed delays; samples have their means."""
    policies = Retry(3, wait=0.1, budget=Budget(reserve=2)), Hedge(quantile(0.9)), AdaptiveLimit(7)
    calls = HttpCalls(url="https://{key}.users.example/")
    (run,) = live(AsyncTransport(Pipeline(*policies)), calls, keys=2, duration=40).runs

    assert run.samples[0].limit is None  # no origin is known yet
    assert run.samples[1].limit == 7
    assert run.samples[1].hedge_delay is None
    assert run.samples[-1].hedge_delay == pytest.approx(0.05, rel=0.1)
    assert run.samples[1].tokens is not None
    assert run.samples[1].tokens < run.samples[-1].tokens  # type: ignore[operator]


def test_transport_in_a_scenario_of_other_calls_is_refused() -> None:
    """A transport cannot send calls that are no requests."""
    with pytest.raises(CandidateError, match=r"^theirs: its transport sends HTTP requests: it needs "):
        live(AsyncTransport(RETRY), Calls(lambda key: (key,)))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ({"methods": "GET IT"}, "methods must be a method (GET, POST, ...), got 'GET IT'"),
        ({"methods": {}}, "methods must have at least one share above 0, got {}"),
        ({"methods": {"GET": "x"}}, "methods['GET'] must be"),
        ({"url": "service.example"}, "url must begin with http:// or https:// and a host, got 'service.example'"),
        ({"url": "https://"}, "url must begin with http:// or https:// and a host, got 'https://'"),
        ({"url": "http://a:b/"}, "url must be a URL, got 'http://a:b/': "),
        ({"url": 7}, "url must be"),
        ({"headers": ["x"]}, "headers must be a mapping of names to values, got ['x']"),
        ({"headers": {"a b": "x"}}, "headers must have names of headers, got 'a b'"),
        ({"headers": {"a": "x\n"}}, "headers['a'] must be a printable text, got 'x\\n'"),
        ({"response_headers": {"a": 7}}, "response_headers['a'] must be a printable text, got 7"),
        ({"content": b"x"}, "content must be a text, got b'x'"),
    ],
)
def test_calls_that_make_no_sense_are_refused(calls: dict[str, Any], message: str) -> None:
    """Bad arguments are refused in the constructor, with their value."""
    with pytest.raises((TypeError, ValueError)) as caught:
        HttpCalls(**calls)

    assert str(caught.value).startswith(message)


def test_key_that_is_no_part_of_a_url_ends_the_run() -> None:
    """It is not a failure of the service."""
    loads = (Replay((0.0, 0.1), ("1", "one")),)

    with pytest.raises(CandidateError, match=r"^theirs: calls.url, 'https://a:\{key\}', is no URL for the key 'one': "):
        live(RETRY, HttpCalls(url="https://a:{key}"), loads=loads)


@pytest.mark.parametrize("kind", ["AsyncTransport", "AsyncClient"])
def test_transport_may_be_tried_in_shadow_mode(kind: str) -> None:
    """Its policies count, and neither repeat nor refuse."""
    users = guarded("httpx", kind, Pipeline(Retry(3, wait=0.1), CircuitBreaker(fail_max=2)))
    measures = live(shadowed(candidate_from("users", users)), None, Errors())

    assert measures.outcomes.keys() == {"status 503"}
    assert measures.requests_per_call == 1


def test_answer_that_is_no_response_is_refused() -> None:
    """Such an answer is refused when the scenario is made, before the run."""
    with pytest.raises(ValueError, match=r"^calls.answer\(200, None\) raised TypeError: answer must return"):
        scenario(HttpCalls(answer=lambda status, retry_after: status))
