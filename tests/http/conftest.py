"""A real server with a script, and all kinds of client in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.clients import CLIENTS, Http
from tests.http.kinds import KINDS, Kind
from tests.http.raw import RawHttp2Server, RawServer
from tests.http.server import Server


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers, on two ports of one host."""
    with Server() as one, Server() as other:
        yield one, other


@pytest.fixture
def server(servers: tuple[Server, Server]) -> Server:
    """One server, with an empty script."""
    servers[0].reset()
    return servers[0]


@pytest.fixture
def other(servers: tuple[Server, Server]) -> Server:
    """The other server."""
    servers[1].reset()
    return servers[1]


@pytest.fixture(scope="session")
def protocols(servers: tuple[Server, Server]) -> Iterator[dict[str, Server]]:
    """One server for each protocol."""
    with Server("httptools") as httptools, Server("h2") as h2:
        yield {"h11": servers[0], "httptools": httptools, "h2": h2}


@pytest.fixture(scope="session")
def _raw() -> Iterator[RawServer]:
    with RawServer() as running:
        yield running


@pytest.fixture
def raw(_raw: RawServer) -> RawServer:
    """A server that misbehaves, with an empty script."""
    _raw.reset()
    return _raw


@pytest.fixture(scope="session")
def _raw_http2() -> Iterator[RawHttp2Server]:
    with RawHttp2Server() as running:
        yield running


@pytest.fixture
def raw_http2(_raw_http2: RawHttp2Server) -> RawHttp2Server:
    """A server that misbehaves over HTTP/2, with an empty script."""
    _raw_http2.reset()
    return _raw_http2


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.name)
def http(request: pytest.FixtureRequest) -> Iterator[Http]:
    """`AsyncClient` and `Client` of httpx and of httpx2 in turn."""
    made: Http = request.param()
    yield made
    made.close()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each of our transports in turn: for both libraries, asynchronous (in virtual time) and plain."""
    made: Kind = request.param()
    yield made
    made.close()
