"""Mocks, recorders and tracers that replace a method of the client's transport, before or after the client was made: a
guarded client calls the replacement.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import respx
import vcr

from resilient import Hedge, Pipeline, Retry, Timeout, switch
from resilient.faults import Errors
from tests.http.kinds import KINDS, URL, Kind

NOWHERE = "http://service.invalid/"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each kind of client, on real event loops: if a mock fails, the network is real."""
    made: Kind = request.param()
    made.real = True
    yield made
    made.close()


@pytest.fixture(params=(0, 1), ids=("httpx.AsyncClient", "httpx.Client"))
def of_httpx(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Both kinds of client of httpx."""
    made = KINDS[request.param]()
    made.real = True
    yield made
    made.close()


def retrying(attempts: int = 3) -> Pipeline:
    return Pipeline(Timeout(10), Retry(attempts, wait=0))


def method_of(kind: Kind) -> tuple[type[Any], str]:
    """Return the method that mocks replace."""
    if kind.is_async:
        return kind.library.AsyncHTTPTransport, "handle_async_request"
    return kind.library.HTTPTransport, "handle_request"


def fake(kind: Kind, *statuses: int) -> Any:
    """Return a replacement of that method, for a class or an object, which answers with these, and then 200."""
    left = list(statuses)

    def answer(*args: Any) -> Any:
        return kind.library.Response(left.pop(0) if left else 200, text="mocked")

    async def later(*args: Any) -> Any:
        return answer(*args)

    return later if kind.is_async else answer


def chaotic(kind: Kind, inner: Any = None) -> Any:
    """Return a chaos transport that is switched off."""
    made = kind.ours.AsyncChaosTransport if kind.is_async else kind.ours.ChaosTransport
    return made(Errors(share=1.0), transport=inner, enabled=False)


CLIENTS = {
    "transport": lambda kind: kind.open(retrying()),
    "client": lambda kind: kind.keep(kind.guarded_client_of(retrying())),
    "chaos": lambda kind: kind.keep(kind.client_of(transport=chaotic(kind))),
    "with options": lambda kind: kind.open(retrying(), attempt_header=True),
}


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_class_that_is_patched_later_is_used(kind: Kind, make: Any) -> None:
    """After the patch the original method is used again."""
    client = make(kind)
    owner, name = method_of(kind)
    with patch.object(owner, name, fake(kind)):
        assert kind.send(client, url=NOWHERE).text == "mocked"
        made_meanwhile = make(kind)
        assert kind.send(made_meanwhile, url=NOWHERE).text == "mocked"
    with patch.object(owner, name, fake(kind, 404)):
        assert kind.send(made_meanwhile, url=NOWHERE).status_code == 404


def test_object_that_is_patched_later_is_used(kind: Kind) -> None:
    """Tracers of a single client patch its object."""
    client = kind.open(retrying())
    _, name = method_of(kind)
    with patch.object(client._transport.transport, name, fake(kind)):
        assert kind.send(client, url=NOWHERE).text == "mocked"


def test_transport_that_is_replaced_later_is_used(kind: Kind) -> None:
    """The test sets `transport.transport = MockTransport(...)`."""
    client = kind.open(retrying())
    client._transport.transport = kind.script(404).inner
    assert kind.send(client, url=NOWHERE).status_code == 404


def test_patch_is_used_by_every_attempt_and_by_requests_that_are_not_guarded(kind: Kind) -> None:
    """Failures of a mock are repeated like others."""
    client = kind.open(retrying(3))
    owner, name = method_of(kind)
    with patch.object(owner, name, fake(kind, 503, 503)):
        assert kind.send(client, url=NOWHERE).text == "mocked"
    with patch.object(owner, name, fake(kind, 503)):
        unguarded = kind.send(client, url=NOWHERE, extensions={"resilient": {"off": True}})
        assert unguarded.status_code == 503
    with patch.object(owner, name, fake(kind, 503)):
        assert kind.send(client, "POST", NOWHERE).status_code == 503


def test_copies_of_a_hedge_use_the_patch(kind: Kind) -> None:
    """Each copy calls the patched method."""
    client = kind.open(Pipeline(Hedge(0.001, thread=not kind.is_async)))
    owner, name = method_of(kind)
    with patch.object(owner, name, fake(kind, 503)):
        assert kind.send(client, url=NOWHERE).text == "mocked"


# -- ordinary faults ------------------------------------------------------------------------------------------------


def test_pytest_httpx(of_httpx: Kind, request: pytest.FixtureRequest) -> None:
    """Its fixture is set up after the client of a module."""
    client = of_httpx.open(retrying())
    httpx_mock: Any = request.getfixturevalue("httpx_mock")
    httpx_mock.add_response(status_code=503)
    httpx_mock.add_exception(httpx.ReadError("broken"))
    httpx_mock.add_response(json={"name": "Ada"})
    assert of_httpx.send(client, url=NOWHERE).json() == {"name": "Ada"}
    assert len(httpx_mock.get_requests()) == 3


def test_respx(of_httpx: Kind) -> None:
    """respx puts its mock beneath the client's transport."""
    client = of_httpx.open(retrying())
    with respx.mock:
        route = respx.get(NOWHERE).mock(side_effect=[httpx.Response(503), httpx.ReadError, httpx.Response(200)])
        assert of_httpx.send(client, url=NOWHERE).status_code == 200
        assert route.call_count == 3


def test_respx_as_a_transport(of_httpx: Kind) -> None:
    """The transport is that of a respx router."""
    router = respx.Router()
    router.get(URL).mock(side_effect=[httpx.Response(503), httpx.Response(200)])
    mock = httpx.MockTransport(router.async_handler if of_httpx.is_async else router.handler)
    assert of_httpx.send(of_httpx.open(retrying(), transport=mock)).status_code == 200


def test_vcrpy_records_each_attempt_and_plays_each_again(kind: Kind, tmp_path: Path) -> None:
    """The replay sends nothing to the network."""
    cassette = str(tmp_path / "users.yaml")
    statuses, asked = [503, 200], []

    def answer(request: Any) -> Any:
        asked.append(request)
        return kind.library.Response(statuses.pop(0), json={"name": "Ada"})

    client = kind.open(retrying(), transport=kind.library.MockTransport(answer))
    with switch("instant"), vcr.use_cassette(cassette):
        assert kind.send(client).json() == {"name": "Ada"}
    with switch("instant"), vcr.use_cassette(cassette, record_mode="none") as played:
        assert kind.send(client).json() == {"name": "Ada"}
        assert played.play_count == 2
    assert len(asked) == 2
