"""Puts transports into a whole client, with a pipeline and timeouts that suit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient.http.time_limits import attempt_limit
from resilient.pipeline import Pipeline
from resilient.presets import standard

__all__ = ["client_timeout", "install", "split_options", "standard_for"]

TRANSPORT_OPTIONS = frozenset(
    (
        "by",
        "max_keys",
        "idle",
        "idempotency_key",
        "buffer",
        "body_timeout",
        "deadline_header",
        "attempt_header",
        "priority_header",
        "nested",
    )
)
"""The options of our transports, which our clients pass on to them."""

CONNECTIONS = 100
"""The default of httpx and httpx2 for the connections of a transport."""

STREAMS = 100
"""The limit of httpcore, and of most servers, for the concurrent requests of an HTTP/2 connection."""


def standard_for(*, limits: Any = None, http2: bool = False, **options: Any) -> Pipeline:
    """Return `standard()` with a permit for each request that a transport with these options can send at a time: one
    for each connection over HTTP/1.1, one for each stream over HTTP/2. So a request waits for a permit before its
    attempt begins, and not for a connection or a stream while the time of its attempt runs."""
    connections = CONNECTIONS if limits is None else limits.max_connections
    if http2:
        return standard(max_concurrent=STREAMS, queue=1000)
    if connections is None:
        return standard()
    return standard(max_concurrent=connections, queue=1000)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split `options` into those of our transports and those of the client."""
    ours = {name: value for name, value in options.items() if name in TRANSPORT_OPTIONS}
    return ours, {name: value for name, value in options.items() if name not in TRANSPORT_OPTIONS}


def install(kind: Callable[..., Any], client: Any, pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Wrap each transport of a client in a transport of this library.

    Args:
        kind: the class of transport.
        client: an httpx or httpx2 client.
        options: of the transports.
    """
    client._transport = kind(pipeline, transport=client._transport, **options)
    for pattern, mounted in client._mounts.items():
        if mounted is not None:
            client._mounts[pattern] = kind(pipeline, transport=mounted, **options)


def client_timeout(timeout: Any, pipeline: Pipeline, library: Any) -> Any:
    """Return the client's own timeout: `timeout`, or if the user gave none (`...`), the limit of the pipeline's
    attempts (without one the client's default, 5 s)."""
    if timeout is not ...:
        return timeout
    limit = attempt_limit(pipeline) if isinstance(pipeline, Pipeline) else None  # else the transport raises
    return library.Timeout(5.0 if limit is None else limit)
