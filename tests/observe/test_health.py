"""Liveness and readiness: the rule, and the endpoint under real servers and frameworks."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import litestar
import prometheus_client
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from resilient import AdaptiveLimit, CircuitBreaker, CircuitOpen, Keyed, Pipeline, Retry
from resilient.http.httpx import AsyncTransport
from resilient.observe.health import Dependency, Health, HealthEndpoint, health
from resilient.server.asgi import ServerMiddleware
from tests.server.running import SERVERS, Running

OK = Dependency("ok")


async def fail() -> None:
    raise OSError("down")


async def succeed() -> None:
    pass


async def call(pipeline: Pipeline, fn: Any = fail) -> None:
    try:
        await pipeline.call(fn)
    except (OSError, CircuitOpen):
        pass


# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_required_circuit_makes_it_unready_after_the_grace_and_until_a_probe_is_due() -> None:
    """Ready in the first 30 s of an outage; then while calls are refused; and ready when the break is over, because
    only a call can close the circuit."""
    users = Pipeline(CircuitBreaker(fail_max=1, break_duration=20, max_break=20), name="users")
    assert health(["users"]) == Health(True, False, (), {"users": OK})
    await call(users)
    await asyncio.sleep(10)
    assert health([users]) == Health(True, False, (), {"users": Dependency("ok", 10.0)})
    await asyncio.sleep(11)
    await call(users)  # the probe fails: open again
    await asyncio.sleep(10)
    found = health(["users"])
    assert found.required == {"users": Dependency("down", 31.0)}
    assert (found.ready, found.draining) == (False, False)
    assert found.reasons == ("users: its circuit, not closed for 31 s, refuses all calls",)
    assert health(["users"], grace=32).ready
    await asyncio.sleep(11)
    assert health(["users"]) == Health(True, False, (), {"users": OK})  # the next call may be the probe
    await call(users, succeed)
    await call(users)
    await asyncio.sleep(5)
    assert health(["users"]).required == {"users": Dependency("ok", 5.0)}  # counted anew since it was closed


@pytest.mark.virtual_time
async def test_circuit_with_a_probe_in_flight_is_ready() -> None:
    """A half-open circuit is on its way back."""
    users = Pipeline(CircuitBreaker(fail_max=1, break_duration=1), name="users")
    await call(users)
    await asyncio.sleep(2)
    assert health(["users"], grace=0).ready
    probe = asyncio.ensure_future(users.call(asyncio.sleep, 5))
    await asyncio.sleep(1)
    with pytest.raises(CircuitOpen):
        await users.call(fail)
    assert health(["users"], grace=0).ready
    await probe


def test_open_circuit_of_a_dependency_that_is_not_required_leaves_it_ready() -> None:
    """An outage of an optional dependency does not take the process out of service."""
    breaker = CircuitBreaker()
    optional = Pipeline(breaker, name="recommendations")
    required = Pipeline(CircuitBreaker(), name="users")
    breaker.isolate()
    assert health([required], grace=0).ready
    assert health(grace=0).ready
    assert not health([optional], grace=0).ready


def test_isolated_circuit_is_down_until_it_is_closed_by_hand() -> None:
    """Without the grace at once."""
    breaker = CircuitBreaker()
    users = Pipeline(Retry(), Pipeline(breaker), name="users")
    breaker.isolate()
    assert health([users]).ready
    assert health([users], grace=0).required["users"].state == "down"
    breaker.close()
    assert health([users], grace=0).ready


def test_circuit_that_refuses_nothing_leaves_it_ready() -> None:
    """In shadow mode, or in a pipeline that is switched off."""
    shadow, breaker = CircuitBreaker(shadow=True), CircuitBreaker()
    quiet, users = Pipeline(shadow, name="quiet"), Pipeline(breaker, name="users")
    shadow.isolate()
    breaker.isolate()
    assert health([quiet], grace=0).ready
    with users.switch("off"):
        assert health([users], grace=0).ready
    assert not health([users], grace=0).ready


def test_one_key_of_many_does_not_make_it_unready() -> None:
    """Of a circuit for each key all must refuse; without a key nothing does."""
    keyed = Keyed(CircuitBreaker, key=lambda key: key)
    tenants = Pipeline(keyed, name="tenants")
    assert health([tenants], grace=0).ready
    for key in ("a", "b"):
        tenants.call(lambda key: None, key)
    keyed.gate_for("a").isolate()  # type: ignore[attr-defined]
    assert health([tenants], grace=0).ready
    keyed.gate_for("b").isolate()  # type: ignore[attr-defined]
    assert not health([tenants], grace=0).ready


@pytest.mark.virtual_time
async def test_circuits_of_a_transport_count() -> None:
    """The circuit of each origin belongs to the pipeline's name, and to the pipeline that the transport was given."""
    users = Pipeline(CircuitBreaker(fail_max=1, break_duration=60), name="users")

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down")

    async with httpx.AsyncClient(transport=AsyncTransport(users, transport=httpx.MockTransport(refuse))) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://one")
        assert not health([users], grace=0).ready
        assert not health(["users"], grace=0).ready
        await asyncio.sleep(61)
        assert health(["users"], grace=0).ready


async def test_closed_pipeline_is_draining_if_it_is_required() -> None:
    """A closed pipeline that nobody named, beside one that works, is no reason."""
    users, other = Pipeline(Retry(), name="users"), Pipeline(Retry(), name="orders")
    await other.aclose()
    assert health([users]).ready
    await users.aclose()
    found = health([users])
    assert (found.ready, found.draining, found.required) == (False, True, {"users": Dependency("closed")})


def test_process_whose_pipelines_are_all_closed_is_draining() -> None:
    """In a process of its own, which has no other pipelines. Without any pipeline it is ready."""
    program = (
        "import resilient\n"
        "from resilient.observe.health import health\n"
        "print(health().data())\n"
        "a, b = (resilient.Pipeline(resilient.Retry(), name=name) for name in 'ab')\n"
        "a.close(); print(health().ready); b.close(); print(health().data(), health(['a']).reasons)\n"
    )
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    closed = ("all pipelines are closed",)
    assert lines.splitlines() == [
        str({"ready": True, "draining": False, "reasons": [], "required": {}}),
        "True",
        f"{ {'ready': False, 'draining': True, 'reasons': [*closed], 'required': {}} } {closed}",
    ]


def test_name_that_no_pipeline_has_is_shown_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may be made later; a misspelt one must be noticed."""
    users = Pipeline(CircuitBreaker(), name="users")
    endpoint = HealthEndpoint(["userz"])
    with caplog.at_level(logging.WARNING, "resilient"):
        assert [endpoint.health() for _ in range(3)] == [Health(True, False, (), {"userz": Dependency("unknown")})] * 3
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "resilient: health: no pipeline is called 'userz' (yet), so it is not watched"
    )
    assert record.getMessage().endswith("did you mean users?")
    assert users.name in record.getMessage()
    later = Pipeline(CircuitBreaker(), name="userz")
    later.policies[0].isolate()  # type: ignore[attr-defined]
    assert HealthEndpoint(["userz"], grace=0).health().required["userz"].state == "down"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"required": "users"}, TypeError, r"required must be a list .*, got 'users': write \['users'\]"),
        (
            {"required": Pipeline(Retry())},
            TypeError,
            r"required must be a list .*, got Pipeline\(.*: write it in a list",
        ),
        ({"required": 7}, TypeError, "required must be a list .*, got 7"),
        ({"required": [7]}, TypeError, "the name of a required pipeline must be a string, got 7"),
        ({"required": [" "]}, ValueError, "the name of a required pipeline must not be empty or blank, got ' '"),
        ({"required": [Pipeline(Retry())]}, ValueError, "a required pipeline must have a name, got Pipeline"),
        ({"grace": -1}, ValueError, "grace must be a finite number of seconds >= 0, got -1"),
        ({"grace": "30s"}, TypeError, "grace must be .*, got '30s': write 30"),
    ],
)
def test_bad_option_is_refused(options: Any, error: type[Exception], words: str) -> None:
    """By the function and by the endpoint, with a message that says what to write."""
    for make in (health, HealthEndpoint):
        with pytest.raises(error, match=words):
            make(**options)


# -- the endpoint -----------------------------------------------------------------------------------------------------


def in_starlette(endpoint: Any) -> Any:
    return Starlette(routes=[Mount("/internal", endpoint)])


def as_routes(endpoint: Any) -> Any:
    return Starlette(routes=[Route("/internal/livez", endpoint), Route("/internal/readyz", endpoint)])


def in_fastapi(endpoint: Any) -> Any:
    app = FastAPI()
    app.mount("/internal", endpoint)
    return app


def in_litestar(endpoint: Any) -> Any:
    @litestar.asgi("/internal", is_mount=True, copy_scope=True)
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await endpoint(scope, receive, send)

    return litestar.Litestar([mounted])


def behind_admission(endpoint: Any) -> Any:
    """A server that admits nothing more answers its health all the same, if it has the usual paths."""
    return ServerMiddleware(endpoint, limit=AdaptiveLimit(), name="server of the health tests")


APPS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "alone": (lambda endpoint: endpoint, ""),
    "starlette": (in_starlette, "/internal"),
    "routes": (as_routes, "/internal"),
    "fastapi": (in_fastapi, "/internal"),
    "litestar": (in_litestar, "/internal"),
    "middleware": (behind_admission, ""),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("uvicorn") as running:
        yield running


@pytest.mark.parametrize("kind", APPS)
def test_endpoint_answers_wherever_it_is_mounted(server: Running, kind: str) -> None:
    """200 and 503 with JSON, for GET and HEAD; liveness stays 200."""
    breaker = CircuitBreaker(name="circuit")
    users = Pipeline(breaker, name="users")
    make, path = APPS[kind]
    server.app = make(HealthEndpoint([users], grace=0))
    with server.client() as client:
        assert client.get(f"{path}/livez").json() == {"live": True}
        answer = client.get(f"{path}/readyz")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert answer.json() == {
            "ready": True,
            "draining": False,
            "reasons": [],
            "required": {"users": {"state": "ok", "refusing_seconds": None}},
        }
        breaker.isolate()
        refused, head = client.get(f"{path}/readyz"), client.head(f"{path}/readyz")
        assert (refused.status_code, head.status_code, head.content) == (503, 503, b"")
        assert head.headers["content-type"] == "application/json"
        assert refused.json()["required"]["users"]["state"] == "down"
        live = client.get(f"{path}/livez")
        assert (live.status_code, live.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize("kind", SERVERS[1:])
def test_endpoint_answers_under_every_server(kind: str) -> None:
    """uvicorn on uvloop, hypercorn on asyncio and on trio."""
    breaker = CircuitBreaker(fail_max=1, break_duration=60)
    users = Pipeline(breaker, name="users")
    with Running(kind) as running, running.client() as client:
        running.app = HealthEndpoint([users], grace=0)
        assert client.get("/readyz").status_code == 200
        breaker.open()
        answer = client.get("/readyz")
        assert (answer.status_code, client.get("/livez").status_code) == (503, 200)
        assert 0 <= answer.json()["required"]["users"]["refusing_seconds"] < 60
        breaker.close()


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_routes_of_the_endpoint_hide_no_other_mount(framework: Any) -> None:
    """`/metrics` leads to the application that is mounted there, because no mount for all paths answers it with 404."""
    app, endpoint = framework(), HealthEndpoint()
    app.mount("/metrics", prometheus_client.make_asgi_app())
    for path in ("/livez", "/readyz"):
        app.add_route(path, endpoint)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        client.follow_redirects = True
        answers = {path: await client.get(path) for path in ("/metrics", "/livez", "/readyz", "/elsewhere")}
        refused = await client.post("/livez")
    assert "python_info" in answers["/metrics"].text
    assert (answers["/livez"].json(), answers["/readyz"].json()["ready"]) == ({"live": True}, True)
    assert (answers["/elsewhere"].status_code, refused.status_code) == (404, 405)


def test_endpoint_refuses_other_paths_and_methods(server: Running) -> None:
    """404 and 405 with JSON."""
    server.app = HealthEndpoint()
    with server.client() as client:
        assert client.get("/").status_code == 404
        assert client.get("/livez/more").status_code == 404
        posted = client.post("/readyz", content=b"x" * 100_000)
        assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")
        assert client.get("/readyz/").status_code == 200


def test_answer_without_details_has_no_name(server: Running) -> None:
    """For an address that strangers can reach."""
    users = Pipeline(CircuitBreaker(), name="users")
    server.app = HealthEndpoint([users], details=False)
    with server.client() as client:
        assert client.get("/readyz").text == '{"ready": true}'


def test_body_has_no_keys_and_no_names_of_other_pipelines(server: Running) -> None:
    """Keys are tenants and origins."""
    keyed = Keyed(CircuitBreaker, key=lambda key: key)
    tenants, other = Pipeline(keyed, name="tenants"), Pipeline(Retry(), name="hush")
    tenants.call(lambda key: None, "secret tenant")
    keyed.gate_for("secret tenant").isolate()  # type: ignore[attr-defined]
    server.app = HealthEndpoint([tenants], grace=0)
    with server.client() as client:
        body = client.get("/readyz").text
    assert json.loads(body)["ready"] is False
    assert "secret" not in body
    assert other.name not in body


def test_drained_endpoint_is_not_ready_and_live(server: Running) -> None:
    """A balancer sends requests elsewhere before the server stops."""
    endpoint = server.app = HealthEndpoint()
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
        endpoint.drain()
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the process is draining"])
        assert client.get("/livez").status_code == 200


async def test_endpoint_as_the_only_application_of_uvicorn() -> None:
    """It answers the lifespan events, without which uvicorn with `lifespan="on"` does not start, and drains at the
    end."""
    endpoint = HealthEndpoint()
    config = uvicorn.Config(endpoint, port=0, lifespan="on", log_config=None, log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    server.should_exit = True
    await serving
    assert endpoint.draining


async def test_websocket_is_refused_and_an_unknown_scope_is_an_error() -> None:
    """By a close before the handshake, which servers answer with 403."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await HealthEndpoint()({"type": "websocket", "path": "/livez"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(ValueError, match="got a scope of type 'mail'"):
        await HealthEndpoint()({"type": "mail"}, receive, send)
