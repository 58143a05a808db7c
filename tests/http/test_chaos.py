"""Chaos transports: how a client sees each fault, its targets, its switch, and its objective."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, CircuitOpen, Pipeline, Retry, TimedOut, Timeout, events
from resilient.chaos.experiment import VARIABLE
from resilient.events import ChaosHalted, FaultInjected
from resilient.faults import (
    Crash,
    DrippingBody,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
    TruncatedBody,
)
from tests.http.clients import Http, is_free
from tests.http.kinds import KINDS, URL, Kind, Script, heard_by, named
from tests.http.server import Answer, Server

ON: dict[str, Any] = {"enabled": True, "halt_rate": None}
LONG = b"0123456789" * 50


def chaos_of(kind: Kind, script: Script, *faults: Fault, **options: Any) -> Any:
    """Return a chaos transport in front of a script."""
    made = kind.ours.AsyncChaosTransport if kind.is_async else kind.ours.ChaosTransport
    return made(*faults, transport=script.inner, **options)


def client_of(kind: Kind, script: Script, *faults: Fault, timeout: Any = 5, **options: Any) -> Any:
    """Return a client with only a chaos transport."""
    options = ON | options
    return kind.keep(kind.client_of(transport=chaos_of(kind, script, *faults, **options), timeout=timeout))


def guarded(kind: Kind, pipeline: Pipeline, chaos: Any, *, timeout: Any = 5) -> Any:
    """Return a client with one of our transports around it."""
    return kind.keep(kind.client_of(transport=kind.transport_of(pipeline, transport=chaos), timeout=timeout))


def streamed(kind: Kind, client: Any) -> list[bytes]:
    """Return the parts of a response's body."""

    async def later() -> list[bytes]:
        async with client.stream("GET", URL) as response:
            return [part async for part in response.aiter_raw()]

    def plainly() -> list[bytes]:
        with client.stream("GET", URL) as response:
            return list(response.iter_raw())

    return kind.run(later if kind.is_async else plainly)  # type: ignore[no-any-return]


def with_body(kind: Kind, *parts: bytes, **headers: str) -> Any:
    """A step of a script: a response whose body has not been read."""
    return lambda request: kind.library.Response(200, headers=headers, stream=kind.slow_stream(0, *parts))


def short(kind: Kind, seconds: float) -> float:
    """Return a shorter time for plain transports, which wait in real time."""
    return seconds if kind.is_async else seconds / 100


# -- faults of requests ---------------------------------------------------------------------------------------------


def test_errors_are_statuses(kind: Kind) -> None:
    """The response has the given status, default 503; the server gets no request."""
    script = kind.script()
    response = kind.send(client_of(kind, script, Errors(status=429, retry_after=2.5)))
    assert (response.status_code, response.headers["retry-after"]) == (429, "2.5")
    assert response.text == "injected by chaos: 100% 429"
    assert kind.send(client_of(kind, script, Errors())).status_code == 503
    assert script.sent == []


@pytest.mark.parametrize("name", ["WriteError", "ProxyError", "RemoteProtocolError"])
def test_errors_are_exceptions_where_that_was_asked_for(kind: Kind, name: str) -> None:
    """An exception may be the client's or any other; it has the request."""
    with pytest.raises(getattr(kind.library, name)) as caught:
        kind.send(client_of(kind, kind.script(), Errors(error=getattr(kind.library, name))))
    assert caught.value.request.url == URL
    with pytest.raises(OSError, match="injected by chaos: 100% OSError") as other:
        kind.send(client_of(kind, kind.script(), Errors(error=OSError, retry_after=3)))
    assert getattr(other.value, "retry_after", None) == 3


@pytest.mark.parametrize(
    ("fault", "name"),
    [(Reset(), "ReadError"), (Reset(phase="connect"), "ConnectError"), (Crash(), "ConnectError")],
    ids=["read", "connect", "crash"],
)
def test_resets_and_crashes_are_errors_of_the_client(kind: Kind, fault: Fault, name: str) -> None:
    """They are raised before the request is sent."""
    script = kind.script()
    with pytest.raises(getattr(kind.library, name)) as caught:
        kind.send(client_of(kind, script, fault))
    assert type(caught.value) is getattr(kind.library, name)
    assert caught.value.request.url == URL
    assert script.sent == []


def test_latency_makes_the_response_late(kind: Kind) -> None:
    """The response is late by the given time."""
    seconds, script, begin = short(kind, 3), kind.script(), kind.now()
    assert kind.send(client_of(kind, script, Latency(low=seconds, high=seconds))).status_code == 200
    assert script.at[0] - begin >= seconds - 0.001


def test_latency_beyond_the_client_s_read_timeout_is_that_timeout(kind: Kind) -> None:
    """The error and its time are those of a real timeout."""
    limit, begin, script = short(kind, 2), kind.now(), kind.script()
    with pytest.raises(kind.library.ReadTimeout):
        kind.send(client_of(kind, script, Latency(low=60, high=60), timeout=limit))
    assert limit - 0.001 <= kind.now() - begin < 60
    assert script.sent == []


def test_slowness_takes_its_multiple_of_the_server_s_time(kind: Kind) -> None:
    """The additional wait comes after the response."""
    seconds, begin = short(kind, 2), kind.now()
    client = client_of(kind, kind.script(kind.wait(seconds, 200)), Slowness(factor=3))
    assert kind.send(client).status_code == 200
    assert kind.now() - begin >= 2.9 * seconds


def test_stall_lets_requests_go_on_at_its_end(kind: Kind) -> None:
    """Requests wait until the end of the stall, and are sent then."""
    end, begin, script = short(kind, 2), kind.now(), kind.script()
    assert kind.send(client_of(kind, script, Stall(end=end))).status_code == 200
    assert script.at[0] - begin >= end - 0.001


@pytest.mark.parametrize(
    ("fault", "name"),
    [(Partition(), "ConnectTimeout"), (PacketLoss(share=1), "ReadTimeout"), (Stall(), "ReadTimeout")],
    ids=["partition", "packet loss", "stall"],
)
def test_lost_request_ends_with_the_client_s_timeout(kind: Kind, fault: Fault, name: str) -> None:
    """The client waits for a connection, or for a response that never comes."""
    limit, begin = short(kind, 2), kind.now()
    with pytest.raises(getattr(kind.library, name)):
        kind.send(client_of(kind, kind.script(), fault, timeout=limit))
    assert limit - 0.001 <= kind.now() - begin < 60


def test_lost_request_without_a_timeout_is_given_up_in_the_end(kind: Kind) -> None:
    """The kernel ends it, after a quarter of an hour."""
    if not kind.is_async:
        pytest.skip("in real time")
    begin = kind.now()
    with pytest.raises(kind.library.ReadTimeout):
        kind.send(client_of(kind, kind.script(), PacketLoss(share=1), timeout=None))
    assert kind.now() - begin == pytest.approx(900)


# -- bodies ---------------------------------------------------------------------------------------------------------


def test_truncated_body_breaks_off_after_its_bytes(kind: Kind) -> None:
    """The head of the response is right, and so are the first bytes."""
    client = client_of(kind, kind.script(with_body(kind, LONG, LONG, LONG)), TruncatedBody(keep=505))
    read: list[bytes] = []  # the data before the error

    async def later() -> None:
        async with client.stream("GET", URL) as response:
            assert response.status_code == 200
            async for part in response.aiter_raw():
                read.append(part)  # noqa: PERF401

    def plainly() -> None:
        with client.stream("GET", URL) as response:
            assert response.status_code == 200
            for part in response.iter_raw():
                read.append(part)  # noqa: PERF402

    with pytest.raises(kind.library.RemoteProtocolError, match="injected by chaos: 100% of bodies break off"):
        kind.run(later if kind.is_async else plainly)
    assert read == [LONG, LONG[:5]]


@pytest.mark.parametrize("keep", [0, 9, 10, 11, 10_000])
def test_truncated_body_never_ends_well(kind: Kind, keep: int) -> None:
    """This holds if all of its bytes arrived, and if the inner transport has the whole body in memory."""
    for step in (with_body(kind, b"0123456789"), lambda request: kind.library.Response(200, content=b"0123456789")):
        with pytest.raises(kind.library.RemoteProtocolError):
            kind.send(client_of(kind, kind.script(step), TruncatedBody(keep=keep)))


def test_dripping_body_comes_in_pieces_with_pauses(kind: Kind) -> None:
    """All of it arrives in the end."""
    pause, begin = short(kind, 1), kind.now()
    client = client_of(kind, kind.script(with_body(kind, b"01234", b"56789")), DrippingBody(piece=3, pause=pause))
    assert streamed(kind, client) == [b"012", b"34", b"567", b"89"]
    assert kind.now() - begin >= 3.9 * pause


def test_drip_slower_than_the_client_s_read_timeout_is_that_timeout(kind: Kind) -> None:
    """The timeout comes at the first pause."""
    limit, begin = short(kind, 2), kind.now()
    client = client_of(kind, kind.script(with_body(kind, LONG)), DrippingBody(pause=60), timeout=limit)
    with pytest.raises(kind.library.ReadTimeout):
        kind.send(client)
    assert limit - 0.001 <= kind.now() - begin < 60


def test_body_may_drip_and_break_off(kind: Kind) -> None:
    """Faults of bodies can be combined."""
    client = client_of(kind, kind.script(with_body(kind, LONG)), DrippingBody(piece=9, pause=0), TruncatedBody(keep=20))
    with pytest.raises(kind.library.RemoteProtocolError):
        streamed(kind, client)


def test_spoiled_response_keeps_everything_else(kind: Kind) -> None:
    """It keeps its status, headers and extensions."""

    def step(request: Any) -> Any:
        return kind.library.Response(
            201, headers={"x-mine": "7"}, content=b"body", extensions={"http_version": b"HTTP/2"}
        )

    response = kind.send(client_of(kind, kind.script(step), DrippingBody(pause=0)))
    assert (response.status_code, response.headers["x-mine"], response.text) == (201, "7", "body")
    assert response.http_version == "HTTP/2"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_response_that_has_no_body_has_none_to_break(kind: Kind, method: str, status: int) -> None:
    """It stays as it is, and no fault is reported."""
    chaos = chaos_of(kind, kind.script(lambda request: kind.library.Response(status)), TruncatedBody(keep=0), **ON)
    assert kind.send(kind.keep(kind.client_of(transport=chaos)), method).status_code == status
    assert chaos.snapshot()["injected"] == {}


def test_inner_body_is_closed_with_the_spoiled_one(kind: Kind) -> None:
    """The connection of the inner body is free then."""
    closed: list[bool] = []

    def step(request: Any) -> Any:
        stream = kind.slow_stream(0, LONG)

        async def aclose() -> None:
            closed.append(True)

        stream.aclose, stream.close = aclose, lambda: closed.append(True)
        return kind.library.Response(200, stream=stream)

    client = client_of(kind, kind.script(step, step), TruncatedBody(keep=1), DrippingBody(pause=0))
    with pytest.raises(kind.library.RemoteProtocolError):
        kind.send(client)
    assert closed == [True]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.is_async], ids=lambda kind: kind.name, indirect=True)
def test_slow_response_is_closed_when_its_caller_is_cancelled(kind: Kind) -> None:
    """The connection of the response is free then."""
    closed: list[bool] = []

    async def step() -> Any:
        await kind.sleep(1)
        stream = kind.slow_stream(0, LONG)

        async def aclose() -> None:
            closed.append(True)

        stream.aclose = aclose
        return kind.library.Response(200, stream=stream)

    script = kind.script(lambda request: step())
    client = guarded(kind, Pipeline(Timeout(2)), chaos_of(kind, script, Slowness(factor=9), **ON))
    with pytest.raises(TimedOut):
        kind.send(client)
    assert closed == [True]


def test_real_connections_are_free_after_every_fault(http: Http, server: Server) -> None:
    """This holds for faults of the request and of the body."""
    faults = [
        TruncatedBody(share=0.3, keep=100),
        DrippingBody(share=0.3, piece=5000, pause=0.001),
        Errors(share=0.2, status=503),
        Reset(share=0.2),
    ]
    made = http.ours.ChaosTransport if http.blocking else http.ours.AsyncChaosTransport
    chaos = made(*faults, seed=1, **ON)
    http.open(Pipeline(Retry(20, wait=0)), transport=chaos)
    fates = set()
    for number in range(60):
        server.script.append(Answer(200, LONG * 20))
        try:
            if number % 2:
                fates.add(len(http.send("GET", server.origin).content))
            else:
                fates.add(sum(map(len, http.stream(server.origin, lambda: None))))
        except http.library.RemoteProtocolError:
            fates.add(-1)
    assert len(LONG) * 20 in fates
    assert -1 in fates
    assert is_free(chaos)
    assert chaos.snapshot()["injected"].keys() == {"truncated_body", "dripping_body", "errors", "reset"}


# -- targets, shares, times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "hit"),
    [
        ("api.example.com", {1, 2}),
        ("*.example.com", {1, 2}),
        ("*.example.com:8443", {2}),
        ("/users/*", {1, 3}),
        ("api.example.com/users/*", {1}),
        (("/orders", "other.org"), {2, 3, 4}),
        ("*", {1, 2, 3, 4}),
        ("example.com", set()),
        ("/users", set()),
    ],
)
def test_targets_are_patterns_of_hosts_and_paths(kind: Kind, targets: Any, hit: set[int]) -> None:
    """The query of a URL is not compared."""
    urls = [
        "http://api.example.com/users/7?of=other.org",
        "https://api.example.com:8443/orders",
        "http://other.org/users/a/b",
        "http://other.org/",
    ]
    client = client_of(kind, kind.script(), Errors(targets=targets))
    assert {number for number, url in enumerate(urls, 1) if kind.send(client, url=url).status_code == 503} == hit


def test_function_may_choose_the_key_of_targets(kind: Kind) -> None:
    """A key may be a tenant."""
    client = client_of(kind, kind.script(), Errors(targets="a"), by=lambda request: request.headers.get("tenant"))
    assert kind.send(client, headers={"tenant": "a"}).status_code == 503
    assert kind.send(client, headers={"tenant": "b"}).status_code == 200
    assert kind.send(client).status_code == 200


def test_seed_decides_which_requests_are_hit(kind: Kind) -> None:
    """They are the same ones each time."""

    def pattern(seed: int) -> str:
        client = client_of(kind, kind.script(), Errors(share=0.3), seed=seed)
        return "".join(".x"[kind.send(client).status_code == 503] for _ in range(100))

    assert pattern(1) == pattern(1) != pattern(2)
    assert 15 < pattern(1).count("x") < 45


def test_faults_happen_in_their_time(kind: Kind) -> None:
    """Their time counts from the first request that draws them."""
    chaos = chaos_of(kind, kind.script(), Errors(start=10, end=30), **ON)
    client = kind.keep(kind.client_of(transport=chaos))
    statuses = []
    for _ in range(3):
        statuses.append(kind.send(client).status_code)
        chaos.experiment.began -= 20  # as if 20 s had passed
    assert statuses == [200, 503, 200]


# -- the switch -----------------------------------------------------------------------------------------------------


def test_nothing_happens_unless_it_is_switched_on(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument switches chaos on; without one the environment does."""

    def status(**options: Any) -> int:
        chaos = chaos_of(kind, kind.script(), Errors(), **options)
        return kind.send(kind.keep(kind.client_of(transport=chaos))).status_code  # type: ignore[no-any-return]

    monkeypatch.delenv(VARIABLE, raising=False)
    assert [status(), status(enabled=False), status(enabled=lambda: False)] == [200] * 3
    assert [status(enabled=True), status(enabled=lambda: True)] == [503] * 2
    monkeypatch.setenv(VARIABLE, "1")
    assert [status(), status(enabled=False)] == [503, 200]


@pytest.mark.parametrize("enabled", [False, lambda: False])
def test_chaos_that_is_off_adds_no_coroutine(kind: Kind, enabled: Any) -> None:
    """The awaitable is the inner transport's own."""
    if not kind.is_async:
        return
    script = kind.script()
    chaos = chaos_of(kind, script, Errors(), enabled=enabled)
    coroutine = chaos.handle_async_request(kind.library.Request("GET", URL))
    assert coroutine.cr_code is script.inner.handle_async_request.__code__
    coroutine.close()


# -- inside our transports ------------------------------------------------------------------------------------------


def test_retries_make_injected_statuses_good(kind: Kind) -> None:
    """Every policy takes them for the server's."""
    chaos = chaos_of(kind, kind.script(), Errors(share=0.5, status=503), seed=1, **ON)
    client = guarded(kind, Pipeline(Retry(attempts=20, wait=0)), chaos)
    assert [kind.send(client).status_code for _ in range(20)] == [200] * 20
    assert chaos.snapshot()["injected"]["errors"] > 0


def test_injected_resets_open_the_circuit(kind: Kind) -> None:
    """The circuit's rejection is one of the client's errors."""
    client = guarded(kind, Pipeline(CircuitBreaker(fail_max=2)), chaos_of(kind, kind.script(), Reset(), **ON))
    for _ in range(2):
        with pytest.raises(kind.library.ReadError):
            kind.send(client)
    with pytest.raises(CircuitOpen):
        kind.send(client)


def test_injected_reset_before_the_connection_is_proof_that_nothing_was_sent(kind: Kind) -> None:
    """So a POST is repeated after it, but not after other faults."""
    for phase, status in (("connect", 200), ("read", None)):
        chaos = chaos_of(kind, kind.script(), Reset(phase=phase, share=0.5), seed=3, **ON)  # type: ignore[arg-type]
        client = guarded(kind, Pipeline(Retry(attempts=20, wait=0)), chaos)
        outcomes: list[int | None] = []
        for _ in range(20):
            try:
                outcomes.append(kind.send(client, "POST").status_code)
            except kind.library.ReadError:
                outcomes.append(None)
        assert set(outcomes) == {200, status}


def test_broken_bodies_open_the_circuit(kind: Kind) -> None:
    """The circuit learns from them as from real ones."""
    script = kind.script(*[with_body(kind, LONG)] * 2)
    client = guarded(kind, Pipeline(CircuitBreaker(fail_max=2)), chaos_of(kind, script, TruncatedBody(), **ON))
    for _ in range(2):
        with pytest.raises(kind.library.RemoteProtocolError):
            kind.send(client)
    with pytest.raises(CircuitOpen):
        kind.send(client)


def test_injected_wait_ends_with_our_timeout(kind: Kind) -> None:
    """The shorter of the two times ends it."""
    limit, begin = short(kind, 2), kind.now()
    client = guarded(
        kind, Pipeline(Timeout(limit)), chaos_of(kind, kind.script(), PacketLoss(share=1), **ON), timeout=60
    )
    with pytest.raises(kind.library.TimeoutException):
        kind.send(client)
    assert limit - 0.001 <= kind.now() - begin < 30


def test_pipeline_shows_the_chaos_beneath_it(kind: Kind) -> None:
    """It is the innermost policy in the tree, the snapshot and the events; each event comes once."""
    pipeline = Pipeline(Bulkhead(5), name="users")
    heard, everywhere = heard_by(pipeline), []
    stop = events.listen(everywhere.append)
    try:
        chaos = chaos_of(kind, kind.script(), Errors(), **ON)
        client = guarded(kind, pipeline, chaos)
        kind.send(client)
    finally:
        stop()
    ours = client._transport.pipeline
    assert ours.describe().splitlines()[-1].endswith("ChaosTransport(100% errors)")
    assert ours.snapshot()["policies"][-1]["injected"] == {"errors": 1}
    assert ours.findings == []
    (event,) = named(heard, "FaultInjected")
    assert (event.pipeline, event.policy, event.kind) == ("users", "Chaos", "errors")
    assert len(named(everywhere, "FaultInjected")) == 1


# -- the objective --------------------------------------------------------------------------------------------------


def test_chaos_stops_when_more_requests_fail_than_its_objective_allows(kind: Kind) -> None:
    """Statuses and errors count; the halt is one event."""
    options = {"enabled": True, "halt_rate": 0.2, "halt_calls": 10, "name": "day"}
    chaos = chaos_of(kind, kind.script(), Errors(status=502), **options)
    heard = heard_by(chaos)
    client = kind.keep(kind.client_of(transport=chaos))
    statuses = [kind.send(client).status_code for _ in range(5)]
    assert statuses == [502, 502, 502, 200, 200]
    (event,) = named(heard, "ChaosHalted")
    assert type(event) is ChaosHalted
    assert (event.pipeline, event.policy) == ("day", "day")
    assert event.reason == chaos.halted == "3 of the last 3 calls failed, which is more than 20% of 10"
    assert [type(each) for each in heard] == [FaultInjected] * 3 + [ChaosHalted]


def test_resume_starts_chaos_again(kind: Kind) -> None:
    """The counts of the objective begin anew."""
    chaos = chaos_of(kind, kind.script(), Reset(), enabled=True, halt_rate=0.0)
    client = kind.keep(kind.client_of(transport=chaos))
    for _ in range(2):
        with pytest.raises(kind.library.ReadError):
            kind.send(client)
        assert kind.send(client).status_code == 200
        chaos.resume()


def test_responses_that_are_no_failures_do_not_stop_chaos(kind: Kind) -> None:
    """A 404 does not count for the objective."""
    chaos = chaos_of(kind, kind.script(404, 200), Latency(high=0), enabled=True, halt_rate=0.0)
    client = kind.keep(kind.client_of(transport=chaos))
    assert [kind.send(client).status_code for _ in range(2)] == [404, 200]
    assert (chaos.halted, chaos.snapshot()["calls"]) == (None, 2)


def test_inside_our_transport_calls_count_and_not_their_requests(kind: Kind) -> None:
    """A failure that a retry repairs does not count."""
    chaos = chaos_of(kind, kind.script(), Errors(share=0.7), seed=1, enabled=True, halt_rate=0.0)
    client = guarded(kind, Pipeline(Retry(attempts=50, wait=0)), chaos)
    assert [kind.send(client).status_code for _ in range(20)] == [200] * 20
    assert chaos.halted is None
    assert (chaos.snapshot()["calls"], chaos.snapshot()["failed"]) == (20, 0)


def test_inside_our_transport_chaos_stops_when_callers_get_failures(kind: Kind) -> None:
    """Rejections by an open circuit count, too."""
    chaos = chaos_of(kind, kind.script(), Errors(), enabled=True, halt_rate=0.3, halt_calls=10)
    pipeline = Pipeline(CircuitBreaker(fail_max=1), name="users")
    heard = heard_by(pipeline)
    client = guarded(kind, pipeline, chaos)
    kind.send(client)
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            kind.send(client)
    assert chaos.halted == "4 of the last 4 calls failed, which is more than 30% of 10"
    assert [event.pipeline for event in named(heard, "ChaosHalted")] == ["users"]


def test_broken_body_counts_as_a_failure(kind: Kind) -> None:
    """A broken body counts for the objective, even after a successful head."""
    script = kind.script(*[with_body(kind, LONG)] * 2)
    chaos = chaos_of(kind, script, TruncatedBody(), enabled=True, halt_rate=0.0)
    client = kind.keep(kind.client_of(transport=chaos))
    with pytest.raises(kind.library.RemoteProtocolError):
        kind.send(client)
    assert chaos.halted is not None
    assert kind.send(client).content == LONG


# -- what it is -----------------------------------------------------------------------------------------------------


def test_closing_chaos_closes_the_inner_transport(kind: Kind) -> None:
    """A client closes its transport so, too."""
    script, closed = kind.script(), []

    async def aclose() -> None:
        closed.append("aclose")

    script.inner.aclose, script.inner.close = aclose, lambda: closed.append("close")
    client = kind.client_of(transport=chaos_of(kind, script, Errors(), **ON))
    kind.run(client.aclose if kind.is_async else client.close)
    assert closed == ["aclose" if kind.is_async else "close"]


def test_chaos_makes_the_client_s_own_transport_by_default(kind: Kind) -> None:
    """The options are those of that transport."""
    made = kind.ours.AsyncChaosTransport if kind.is_async else kind.ours.ChaosTransport
    own = kind.library.AsyncHTTPTransport if kind.is_async else kind.library.HTTPTransport
    chaos = made(Errors(), enabled=True, retries=2)
    assert isinstance(chaos.transport, own)
    assert chaos.transport._pool._retries == 2
    assert repr(chaos) == f"{made.__name__}(100% errors)"
    kind.run(chaos.aclose if kind.is_async else chaos.close)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("option", ["rate", "halt_rate"])
def test_rate_outside_its_bounds_is_refused(kind: Kind, option: str, value: float) -> None:
    """The error of the constructor has the value."""
    with pytest.raises(ValueError, match=f"{option} must be a share from 0 to 1, got"):
        chaos_of(kind, kind.script(), Errors(), **{option: value})


def test_configuration_that_cannot_work_is_refused(kind: Kind) -> None:
    """The constructor raises, and says what would be right."""
    script = kind.script()
    with pytest.raises(ValueError, match="chaos without faults does nothing"):
        chaos_of(kind, script)
    with pytest.raises(TypeError, match=r"fault\[0\] must be one of Errors, Latency, .*, got Results"):
        chaos_of(kind, script, Results())
    with pytest.raises(ValueError, match=r"fault\[0\].targets must be patterns of hosts and paths, or give by=; got 1"):
        chaos_of(kind, script, Errors(targets=1))
    with pytest.raises(ValueError, match=r"fault\[0\] must have a factor of 1 or more here, got 0.5"):
        chaos_of(kind, script, Slowness(factor=0.5))
    with pytest.raises(TypeError, match="not both"):
        chaos_of(kind, script, Errors(), verify=False)
