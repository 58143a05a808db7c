"""Transports and clients that do not fit together: a clear error, as early as possible."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import pytest

import resilient.http.httpx
import resilient.http.httpx2
from resilient import Pipeline, Retry, standard
from resilient.faults import Errors
from tests.http.kinds import URL, Kind


def chaos_of(kind: Kind) -> Any:
    return kind.ours.AsyncChaosTransport if kind.is_async else kind.ours.ChaosTransport


def ours_of(ours: Any, name: str, library: Any) -> Any:
    """Return one of our transports."""
    faults = (Errors(),) if "Chaos" in name else ()
    return getattr(ours, name)(*faults, transport=library.MockTransport(print))


def others(kind: Kind) -> list[Any]:
    """Return transports that cannot be inside one of this kind."""
    library, ours = kind.library, kind.ours
    other, other_ours = (httpx2, resilient.http.httpx2) if library is httpx else (httpx, resilient.http.httpx)
    right, wrong = ("Async", "") if kind.is_async else ("", "Async")
    return [
        getattr(library, f"{wrong}HTTPTransport")(verify=False),
        ours_of(ours, f"{wrong}Transport", library),
        ours_of(ours, f"{wrong}ChaosTransport", library),
        getattr(other, f"{right}HTTPTransport")(verify=False),
        ours_of(other_ours, f"{right}Transport", other),
        other.MockTransport(print),
        library.MockTransport,
        standard(),
        "http",
        1,
    ]


def test_transport_of_another_kind_or_library_is_refused(kind: Kind) -> None:
    """The constructor raises, with the name of a right one."""
    right = f"one for {kind.library.__name__}.{'Async' if kind.is_async else ''}Client, such as"
    for wrong in others(kind):
        for make in (kind.transport_of, lambda transport: chaos_of(kind)(Errors(), transport=transport)):
            with pytest.raises(TypeError, match=f"transport must be {right}"):
                make(transport=wrong)


def test_library_of_a_transport_is_known_where_its_base_goes_by_another_name(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDKs re-export classes of client libraries under their own name."""
    other, other_ours = (httpx2, resilient.http.httpx2) if kind.library is httpx else (httpx, resilient.http.httpx)
    monkeypatch.setattr(other.BaseTransport, "__module__", "sdk")
    monkeypatch.setattr(other.AsyncBaseTransport, "__module__", "sdk._client")
    wrong = ours_of(other_ours, "AsyncTransport" if kind.is_async else "Transport", other)
    with pytest.raises(TypeError, match=f"got one of {other.__name__}: <"):
        kind.transport_of(transport=wrong)


def test_error_names_what_is_wrong(kind: Kind) -> None:
    """It names the wrong library, the missing method, or the class that was given instead of an instance."""
    other = httpx2 if kind.library is httpx else httpx
    method = "handle_async_request" if kind.is_async else "handle_request"
    for wrong, words in (
        (other.MockTransport(print), f"got one of {other.__name__}: <"),
        (object(), f"got one without {method}: <object"),
        (kind.library.MockTransport, "got the class MockTransport: an instance is due"),
    ):
        with pytest.raises(TypeError, match=words):
            kind.transport_of(transport=wrong)


def test_client_with_a_transport_of_the_other_kind_is_refused(kind: Kind) -> None:
    """The library's own client fails in the same way, but later."""
    with pytest.raises(TypeError, match="transport must be one for"):
        kind.guarded_client_of(standard(), transport=others(kind)[0])


def test_transport_needs_no_base_class(kind: Kind) -> None:
    """The client needs none either; one transport may serve both libraries."""

    class Plain:
        async def handle_async_request(self, request: Any) -> Any:
            return kind.library.Response(200)

        def handle_request(self, request: Any) -> Any:
            return kind.library.Response(200)

        async def aclose(self) -> None: ...

        def close(self) -> None: ...

    class Both(
        Plain, httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport, httpx.BaseTransport, httpx2.BaseTransport
    ): ...

    for inner in (Plain(), Both()):
        assert kind.send(kind.open(Pipeline(Retry(1)), transport=inner)).status_code == 200


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("name", ["Transport", "ChaosTransport"])
def test_plain_client_cannot_have_an_asynchronous_transport(library: Any, name: str) -> None:
    """The error names the transport that it needs."""
    ours = resilient.http.httpx if library is httpx else resilient.http.httpx2
    client = library.Client(transport=ours_of(ours, f"Async{name}", library))
    with pytest.raises(TypeError, match=rf"Async{name} is for an AsyncClient; a plain Client needs {name}"):
        client.get(URL)
    client = library.Client(transport=ours_of(ours, f"Async{name}", library))
    with pytest.raises(TypeError, match=rf"Async{name} is for an AsyncClient"), client:
        pass


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("name", ["Transport", "ChaosTransport"])
def test_asynchronous_client_cannot_have_a_plain_transport(library: Any, name: str) -> None:
    """The error names the transport that it needs."""
    ours = resilient.http.httpx if library is httpx else resilient.http.httpx2

    async def main() -> None:
        client = library.AsyncClient(transport=ours_of(ours, name, library))
        with pytest.raises(TypeError, match=rf"{name} is for a plain Client; an AsyncClient needs Async{name}"):
            await client.get(URL)
        client = library.AsyncClient(transport=ours_of(ours, name, library))
        with pytest.raises(TypeError, match=rf"{name} is for a plain Client"):
            async with client:
                pass

    asyncio.run(main())


def test_error_for_a_client_of_the_other_library_names_its_transport(kind: Kind) -> None:
    """The error shows nothing of its request."""
    other = httpx2 if kind.library is httpx else httpx
    script = kind.script()
    transport = kind.transport_of(Pipeline(Retry(1)), transport=script.inner)
    client = kind.keep((other.AsyncClient if kind.is_async else other.Client)(transport=transport))
    for method in ("GET", "POST"):
        with pytest.raises(TypeError, match=f"resilient.http.{kind.library.__name__} was given a Request") as caught:
            kind.send(client, method, "http://user:s3cret@example.com/?token=s3cret")
        assert f"need the transports of resilient.http.{other.__name__}" in str(caught.value)
        assert "s3cret" not in str(caught.value)
    assert script.sent == []
