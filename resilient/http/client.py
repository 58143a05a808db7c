"""How a client is fitted out: transports of ours before its own, a pipeline that suits its connections, and timeouts
that suit the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient.http.time_limits import attempt_limit
from resilient.pipeline import Pipeline
from resilient.presets import standard

__all__ = ["client_timeout", "install", "split", "standard_for"]

OWN = frozenset(
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
"""Options of our transports, which the clients pass on to them."""

CONNECTIONS = 100
"""The clients' default for the connections of a transport."""

STREAMS = 100
"""Requests that httpcore lets an HTTP/2 connection have at a time, and most servers."""


def standard_for(*, limits: Any = None, http2: bool = False, **options: Any) -> Pipeline:
    """`standard()`, with a permit for each request that a transport with these options can have on its way: one for a
    connection over HTTP/1.1, one for a stream over HTTP/2. So a request waits for a permit before its attempt begins,
    and not for a connection or a stream in the time that its attempt has."""
    connections = CONNECTIONS if limits is None else limits.max_connections
    if http2:
        return standard(max_concurrent=STREAMS, queue=1000)
    if connections is None:
        return standard()
    return standard(max_concurrent=connections, queue=1000)


def split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of our transports, and those of the client."""
    ours = {name: value for name, value in options.items() if name in OWN}
    return ours, {name: value for name, value in options.items() if name not in OWN}


def install(kind: Callable[..., Any], client: Any, pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Put a transport of ours before each transport of a client."""
    client._transport = kind(pipeline, transport=client._transport, **options)
    for pattern, mounted in client._mounts.items():
        if mounted is not None:
            client._mounts[pattern] = kind(pipeline, transport=mounted, **options)


def client_timeout(timeout: Any, pipeline: Pipeline, library: Any) -> Any:
    """The client's own timeout, where its user gave none (`...`)."""
    if timeout is not ...:
        return timeout
    limit = attempt_limit(pipeline) if isinstance(pipeline, Pipeline) else None  # else the transport complains
    return library.Timeout(5.0 if limit is None else limit)
