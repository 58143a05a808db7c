"""Who has the connections, after many retried requests and after requests that were cut short."""

from __future__ import annotations

import os

import pytest

from resilient import Pipeline, Retry
from tests.http.clients import Http
from tests.http.server import Answer, Server

REQUESTS = int(os.environ.get("RESILIENT_RETRIED_REQUESTS", "1000"))
"""So many are retried. With 10,000 it takes minutes."""

PROTOCOLS = {"httptools": {}, "h2": {"http1": False, "http2": True}}


def retrying(http: Http, protocol: str) -> Http:
    return http.open(Pipeline(Retry(2, wait=0)), **PROTOCOLS[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pool_is_as_before_after_many_retried_requests(http: Http, protocols: dict[str, Server], protocol: str) -> None:
    """One connection did it all, and is free."""
    server = protocols[protocol]
    server.reset()
    retrying(http, protocol)
    http.send("GET", server.origin)
    before = http.connections
    for _ in range(REQUESTS):
        server.script.append(503)
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.seen) == 1 + 2 * REQUESTS
    assert http.connections == before
    assert len(server.peers) == len(before) == 1
    assert http.all_free()


def test_long_errors_over_http2_do_not_use_up_the_connections_window(http: Http, protocols: dict[str, Server]) -> None:
    """What is not read of a body is no longer allowed to come; 80 times 300 kB are more than 16 MiB."""
    server = protocols["h2"]
    server.reset()
    retrying(http, "h2")
    for _ in range(80):
        server.script.append(Answer(503, b"x" * 300_000))
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.peers) == 1
    assert http.all_free()


def test_long_errors_over_http1_cost_a_connection_each_and_leave_none(http: Http, protocols: dict[str, Server]) -> None:
    """What is longer than is worth reading is closed."""
    server = protocols["httptools"]
    server.reset()
    retrying(http, "httptools")
    for _ in range(20):
        server.script.append(Answer(503, b"x" * 3_000_000))
        assert http.send("GET", server.origin).status_code == 200
    assert len(server.peers) == 21
    assert len(http.connections) == 1
    assert http.all_free()
