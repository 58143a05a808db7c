"""Our `AsyncClient` and `Client`: the library's own clients, with each of their transports guarded; and the transports
that may stand beneath them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from resilient import Bulkhead, CircuitBreaker, Classifier, Pipeline, Retry, Timeout, standard, standard_hedged
from tests.http.kinds import URL, Kind, heard_by


def retrying(attempts: int = 3, **options: Any) -> Pipeline:
    return Pipeline(Retry(attempts, wait=0), **options)


def guarded(kind: Kind, *args: Any, **options: Any) -> Any:
    return kind.keep(kind.guarded_client_of(*args, **options))


# -- what it is -----------------------------------------------------------------------------------------------------


def test_client_is_the_librarys_own_with_the_standard_pipeline(kind: Kind) -> None:
    """Code that needs an httpx client accepts it."""
    client = guarded(kind)
    assert isinstance(client, kind.client_of)  # type: ignore[arg-type]
    assert isinstance(client._transport, kind.transport_of)  # type: ignore[arg-type]
    kinds = [type(policy).__name__ for policy in client._transport.pipeline.policies]
    assert kinds == ["Timeout", "Retry", "Bulkhead", "Keyed", "Timeout"]


def test_options_of_the_client_are_its_own(kind: Kind) -> None:
    """The options of the transport that sends go to that transport."""
    script = kind.script(503)
    client = guarded(
        kind,
        retrying(),
        transport=script.inner,
        base_url="http://example.org/api",
        headers={"X-Ours": "yes"},
        params={"a": "b"},
        follow_redirects=True,
    )
    assert kind.send(client, url="users").status_code == 200
    assert [str(request.url) for request in script.sent] == ["http://example.org/api/users?a=b"] * 2
    assert script.headers("X-Ours") == ["yes"] * 2
    limits = kind.library.Limits(max_connections=7)
    client = guarded(kind, retrying(), http2=True, limits=limits, verify=False)
    pool = client._transport.transport._pool
    assert (pool._max_connections, pool._http2) == (7, True)


def test_options_of_the_transport_are_ours(kind: Kind) -> None:
    """A client takes all of them, together with its own."""
    script = kind.script(503)
    client = guarded(
        kind,
        retrying(),
        transport=script.inner,
        by="host",
        max_keys=5,
        idle=1.0,
        idempotency_key="X-Token",
        buffer=10,
        body_timeout=5.0,
        deadline_header=True,
        attempt_header="X-Try",
        nested="multiply",
    )
    assert kind.send(client, "POST").status_code == 200
    assert script.headers("X-Try") == ["1", "2"]
    assert len(set(script.headers("X-Token"))) == 1


def test_unknown_option_is_refused_by_name(kind: Kind) -> None:
    """The library's own client raises for it."""
    with pytest.raises(TypeError, match="retries"):
        kind.guarded_client_of(retrying(), retries=3)


@pytest.mark.parametrize("wrong", [Retry(), "standard", 3], ids=repr)
def test_pipeline_must_be_one(kind: Kind, wrong: Any) -> None:
    """The error says that a pipeline is needed, and what was given."""
    with pytest.raises(TypeError, match="pipeline must be a Pipeline, got"):
        kind.guarded_client_of(wrong)


@pytest.mark.parametrize(
    ("pipeline", "seconds"),
    [
        (None, standard().policies[-1].seconds),  # type: ignore[attr-defined]
        (standard(attempt=3), 3),
        (standard_hedged(attempt=4), 4),
        (Pipeline(Timeout(50), Retry(2), Timeout(6)), 6),
        (Pipeline(Timeout(50), Pipeline(Retry(2), Timeout(7))), 7),
        (Pipeline(Timeout(9)), 9),
        (retrying(), 5),
    ],
)
def test_timeout_follows_the_innermost_one_of_the_pipeline(kind: Kind, pipeline: Any, seconds: float) -> None:
    """So the pipeline's Timeout ends an attempt; without one, the library's own default holds."""
    if pipeline is not None and not kind.is_async and "Hedge" in repr(pipeline):
        return
    assert guarded(kind, pipeline).timeout == kind.library.Timeout(seconds)


def test_timeout_of_the_user_is_kept(kind: Kind) -> None:
    """A timeout of None is kept, too."""
    assert guarded(kind, timeout=2).timeout == kind.library.Timeout(2)
    assert guarded(kind, timeout=None).timeout == kind.library.Timeout(None)
    phases = kind.library.Timeout(3, connect=1)
    assert guarded(kind, timeout=phases).timeout == phases


# -- proxies and mounts ---------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that answers for every host: 503 for a number of requests, and then 200. A context: it runs inside."""

    def __init__(self) -> None:
        proxy = self
        self.asked: list[str] = []
        self.failures = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout: ClassVar[float] = 10

            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                status = 503 if len(proxy.asked) <= proxy.failures else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Proxy() as made:
        yield made


@pytest.mark.parametrize("how", ["environment", "option"])
def test_requests_through_a_proxy_are_guarded(
    kind: Kind, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Proxies of the environment, which a client with `transport=` ignores, and of `proxy=`."""
    kind.real = True
    proxy.failures = 2
    if how == "environment":
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        client = guarded(kind, retrying())
    else:
        client = guarded(kind, retrying(), proxy=proxy.url)
    assert kind.send(client, url="http://nowhere.invalid/a").status_code == 200
    assert proxy.asked == ["http://nowhere.invalid/a"] * 3
    guards = [mounted for mounted in client._mounts.values() if mounted is not None]
    assert guards
    assert all(isinstance(mounted, kind.transport_of) for mounted in guards)  # type: ignore[arg-type]
    kind.close()


def test_proxies_of_the_environment_can_be_switched_off(
    kind: Kind, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trust_env=False` and `NO_PROXY` are obeyed."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert guarded(kind, retrying(), trust_env=False)._mounts == {}
    monkeypatch.setenv("NO_PROXY", "example.com")
    script = kind.script(503)
    client = guarded(kind, retrying())
    client._transport.transport, sends = script.inner, client._transport.transport
    kind.run(sends.aclose if kind.is_async else sends.close)
    direct = client._transport_for_url(kind.library.URL("http://example.com/"))
    assert direct is client._transport
    assert client._transport_for_url(kind.library.URL("http://example.org/")) is not direct


def test_mounts_are_guarded_and_share_the_circuits(kind: Kind) -> None:
    """Each origin has one circuit, for every transport that sends to it."""
    direct, special = kind.script(503), kind.script(503)
    pipeline = Pipeline(CircuitBreaker(fail_max=1, failure_rate=None))
    client = guarded(
        kind,
        pipeline,
        transport=direct.inner,
        mounts={"http://special.example": special.inner, "http://none.example": None},
    )
    kind.send(client)
    kind.send(client, url="http://special.example/")
    for url in (URL, "http://special.example/"):
        with pytest.raises(kind.ours.CircuitOpen):
            kind.send(client, url=url)
    assert kind.send(client, url="http://none.example/").status_code == 200
    assert (len(direct.sent), len(special.sent)) == (2, 1)


def test_options_reach_mounts_too(kind: Kind) -> None:
    """`idempotency_key` and all other options apply to mounted transports."""
    script = kind.script(503)
    client = guarded(kind, retrying(), idempotency_key=True, mounts={"http://": script.inner})
    assert kind.send(client, "POST").status_code == 200
    assert len(script.sent) == 2


def test_closing_closes_all_transports(kind: Kind) -> None:
    """The client's own and the mounted ones are closed once; leaving its context does the same."""
    for leave in (False, True):
        closed: list[str] = []

        def inner(name: str, closed: list[str] = closed) -> Any:
            class Inner(kind.library.AsyncBaseTransport, kind.library.BaseTransport):  # type: ignore[misc,name-defined]
                def close(self) -> None:
                    closed.append(name)

                async def aclose(self) -> None:
                    closed.append(name)

            return Inner()

        client = kind.guarded_client_of(retrying(), transport=inner("own"), mounts={"http://a": inner("mounted")})
        if not leave:
            kind.run(client.aclose if kind.is_async else client.close)
        elif kind.is_async:

            async def within(client: Any = client) -> None:
                async with client:
                    pass

            kind.run(within)
        else:
            with client:
                pass
        assert sorted(closed) == ["mounted", "own"]


def test_events_of_all_its_transports_are_the_pipelines(kind: Kind) -> None:
    """A listener of the pipeline gets them all."""
    pipeline = retrying(2)
    heard = heard_by(pipeline)
    scripts = [kind.script(503), kind.script(503)]
    client = guarded(kind, pipeline, transport=scripts[0].inner, mounts={"http://m.example": scripts[1].inner})
    kind.send(client)
    kind.send(client, url="http://m.example/")
    assert [type(event).__name__ for event in heard].count("Retrying") == 2


# -- other inner transports -----------------------------------------------------------------------------------------


def test_application_without_a_network_can_stand_beneath(kind: Kind) -> None:
    """ASGI under asynchronous clients, WSGI under plain ones; bodies and statuses are unchanged."""
    asked: list[str] = []
    kind.real = True

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked.append(body.decode())
        await send({"type": "http.response.start", "status": 503 if len(asked) == 1 else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"got " + body})

    def wsgi(environ: Any, start_response: Any) -> Any:
        asked.append(environ["wsgi.input"].read().decode())
        start_response("503 Service Unavailable" if len(asked) == 1 else "200 OK", [])
        return [b"got " + asked[-1].encode()]

    inner = kind.library.ASGITransport(asgi) if kind.is_async else kind.library.WSGITransport(wsgi)
    client = kind.open(retrying(2), None, transport=inner)
    response = kind.send(client, "PUT", content=kind.body(b"all ", b"of it"))
    assert (response.status_code, response.content) == (200, b"got all of it")
    assert asked == ["all of it"] * 2


def test_application_that_raises_is_a_failure(kind: Kind) -> None:
    """It is repeated, and its own exception is raised in the end."""
    kind.real = True

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    def wsgi(environ: Any, start_response: Any) -> Any:
        raise LookupError("broken")

    inner = kind.library.ASGITransport(asgi) if kind.is_async else kind.library.WSGITransport(wsgi)
    with pytest.raises(LookupError, match="broken") as caught:
        kind.send(kind.open(retrying(2), None, transport=inner))
    assert "after 2 attempts" in caught.value.__notes__[0]


def test_mock_can_stand_beneath(kind: Kind) -> None:
    """The library's own mock works, with streamed responses."""
    statuses = iter([503, 200])

    def answer(request: Any) -> Any:
        return kind.library.Response(next(statuses), stream=kind.slow_stream(0.0, b"one ", b"two"))

    client = kind.open(retrying(2), None, transport=kind.library.MockTransport(answer))
    assert kind.send(client).content == b"one two"


# -- the user's own classifier --------------------------------------------------------------------------------------


def test_users_classifier_is_used(kind: Kind) -> None:
    """It is the preset, `HttpClassifier(statuses=...)`, or any other `Classifier`."""
    ours = kind.ours.HttpClassifier
    for classify, statuses, requests in (
        (None, [404, 200], 1),
        (ours(statuses=[404]), [404, 200], 2),
        (ours(statuses=[404]), [503, 200], 1),
        (ours(statuses=()), [503, 200], 1),
        (Classifier(results=lambda response: response.status_code == 201), [201, 200], 2),
    ):
        script = kind.script(*statuses)
        kind.send(kind.open(retrying(classify=classify), script))
        assert len(script.sent) == requests


@pytest.mark.parametrize("statuses", [[99], [600], ["503"], [503.0], [True]], ids=str)
def test_bad_statuses_are_refused(kind: Kind, statuses: Any) -> None:
    """The error names the invalid status."""
    with pytest.raises(ValueError, match=rf"statuses must be whole numbers from 100 to 599, got {statuses[0]!r}"):
        kind.ours.HttpClassifier(statuses=statuses)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("of", ["results", "failures"])
def test_classifier_that_raises_is_the_callers_error(kind: Kind, method: str, of: str) -> None:
    """No permit and no probe is lost, no second request is sent, and the response is closed."""
    closed: list[bool] = []

    class Tells(kind.library.AsyncByteStream, kind.library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            yield b"body"

        async def __aiter__(self) -> Any:
            yield b"body"

        def close(self) -> None:
            closed.append(True)

        async def aclose(self) -> None:
            closed.append(True)

    def is_failure(outcome: Any) -> bool:
        raise LookupError("of the classifier")

    def fails(request: Any) -> Any:
        if of == "failures":
            raise kind.library.ReadError("broken")
        return kind.library.Response(503, stream=Tells())

    script = kind.script(fails, fails)
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    pipeline = Pipeline(Retry(3, wait=0), Bulkhead(1), breaker, classify=Classifier(**{of: is_failure}))
    client = kind.open(pipeline, script)
    for _ in range(2):
        with pytest.raises(LookupError, match="of the classifier"):
            kind.send(client, method)
    assert len(script.sent) == 2
    assert client._transport.pipeline.policies[1].snapshot()["in_use"] == 0
    assert client._transport.pipeline.policies[2].snapshot()["in_use"] == 0
    assert len(closed) == (2 if of == "results" else 0)


@pytest.mark.parametrize("nested", [False, True])
def test_classifier_of_a_nested_pipeline_that_raises_frees_the_response(kind: Kind, nested: bool) -> None:
    """This holds at every position of the pipeline."""
    closed: list[bool] = []

    class Tells(kind.library.AsyncByteStream, kind.library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            yield b"body"

        async def __aiter__(self) -> Any:
            yield b"body"

        def close(self) -> None:
            closed.append(True)

        async def aclose(self) -> None:
            closed.append(True)

    def is_failure(outcome: Any) -> bool:
        raise LookupError("of the classifier")

    inner = Pipeline(Retry(2, wait=0), classify=Classifier(results=is_failure))
    client = kind.open(
        Pipeline(Timeout(5), inner) if nested else inner,
        kind.script(lambda request: kind.library.Response(503, stream=Tells())),
    )
    with pytest.raises(LookupError):
        kind.send(client)
    assert closed == [True]


def test_clients_of_one_pipeline_share_its_permits(kind: Kind) -> None:
    """Clients that share the instance share its state."""
    if not kind.is_async:
        return
    pipeline = Pipeline(Bulkhead(1))
    clients = [kind.open(pipeline, kind.script(kind.wait(1, 200))) for _ in range(2)]

    async def both() -> list[Any]:
        return await asyncio.gather(*(client.get(URL) for client in clients), return_exceptions=True)

    outcomes = kind.run(both)
    assert outcomes[0].status_code == 200
    assert isinstance(outcomes[1], kind.ours.BulkheadFull)
