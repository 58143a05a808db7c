"""The fixture `site`: each framework under each server, with a stage that its handlers share with the test."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.running import SERVERS, Running
from tests.server.stage import FRAMEWORKS, Stage, build

__all__ = ["Site"]


class Site:
    """A running server, its application, and a client.

    Attributes:
        server: the running server.
        stage: what the handlers do and have done.
    """

    def __init__(self, server: Running, framework: str) -> None:
        self.server = server
        self.framework = framework
        self.stage = Stage()
        self._client = server.client()
        self._pool = ThreadPoolExecutor(8)

    def open(self, **options: Any) -> None:
        """Serve the application under a middleware with these options."""
        self.server.app = build(self.framework, self.stage, **options)

    def get(self, path: str, deadline: Any = None, **headers: str) -> httpx.Response:
        """Send a GET request, with a deadline of so many milliseconds."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if deadline is not None:
            fields["X-Deadline-Ms"] = str(deadline)
        return self._client.get(path, headers=fields)

    def begin(self, path: str, deadline: Any = None, **headers: str) -> Future[httpx.Response]:
        """Send a GET request in another thread, on another connection. Returns when the handler has been called."""
        before = self.stage.called.count(path)
        asked = self._pool.submit(functools.partial(self.get, path, deadline, **headers))
        self.stage.until(lambda: asked.done() or self.stage.called.count(path) > before)
        return asked

    def stream(self, path: str, **options: Any) -> Any:
        return self._client.stream("GET", path, **options)

    def close(self) -> None:
        self.stage.go.set()
        self._client.close()
        self._pool.shutdown()


@pytest.fixture(scope="session")
def _running() -> Iterator[Callable[[str], Running]]:
    servers: dict[str, Running] = {}

    def running(kind: str) -> Running:
        if kind not in servers:
            servers[kind] = Running(kind).__enter__()
        return servers[kind]

    yield running
    for server in servers.values():
        server.__exit__()


@pytest.fixture(scope="session")
def other() -> Iterator[Running]:
    """A second server, which handlers call."""
    with Running("uvicorn-uvloop") as server:
        yield server


PAIRS = [(server, framework) for server in SERVERS for framework in FRAMEWORKS if server != "uvicorn-uvloop"]
PAIRS += [("uvicorn-uvloop", "starlette")]


@pytest.fixture(params=PAIRS, ids="-".join)
def site(request: pytest.FixtureRequest, _running: Callable[[str], Running]) -> Iterator[Site]:
    """Each framework under each server in turn."""
    server, framework = request.param
    made = Site(_running(server), framework)
    yield made
    made.close()
