"""Transports for httpx: policies under any of its clients, in two lines.

    transport = AsyncTransport(standard("users"))
    client = httpx.AsyncClient(transport=transport)

or in one, with the client's own options, proxies of the environment included:

    client = AsyncClient(standard("users"), http2=True)

A guarded client behaves as httpx does: the response of the last attempt is returned, error statuses included, and all
exceptions are httpx's own, our rejections (`CircuitOpen`, ...) and `TimedOut` included. The client handles redirects,
authentication and cookies, so each request of a redirect chain is a call of its own.

A client with `transport=` ignores `verify=`, `limits=`, `http2=` and the proxies of the environment, and sends the
requests of `proxy=` and `mounts=` past that transport. Give those options to the transport instead, or use
`AsyncClient` and `Client` of this module.
"""

from __future__ import annotations

from typing import Any, ClassVar

import httpx

from resilient import errors
from resilient.http.async_transport import AsyncHttpTransport
from resilient.http.chaos import AsyncHttpChaos, SyncHttpChaos
from resilient.http.classify import HttpClassifier as _HttpClassifier
from resilient.http.client import client_timeout, install, split_options, standard_for
from resilient.http.library import Library
from resilient.http.sync_transport import SyncHttpTransport
from resilient.pipeline import Pipeline

__all__ = [
    "AsyncChaosTransport",
    "AsyncClient",
    "AsyncTransport",
    "BulkheadFull",
    "ChaosTransport",
    "CircuitOpen",
    "Client",
    "HttpClassifier",
    "LimitExceeded",
    "PipelineClosed",
    "RateLimited",
    "Rejected",
    "TimedOut",
    "Transport",
]


class HttpClassifier(_HttpClassifier):
    """The classifier of `resilient.http.classify` with httpx's exceptions."""

    library: ClassVar[Any] = httpx


class Rejected(errors.Rejected, httpx.TransportError):
    """Our `Rejected`, which is also a `httpx.TransportError`: nothing was sent."""


class CircuitOpen(errors.CircuitOpen, httpx.ConnectError):
    """Our `CircuitOpen`, which is also a `httpx.ConnectError`: `except` catches it by both names."""


class BulkheadFull(errors.BulkheadFull, httpx.PoolTimeout):
    """Our `BulkheadFull`, which is also a `httpx.PoolTimeout`: `except` catches it by both names."""


class LimitExceeded(errors.LimitExceeded, httpx.PoolTimeout):
    """Our `LimitExceeded`, which is also a `httpx.PoolTimeout`: `except` catches it by both names."""


class RateLimited(errors.RateLimited, httpx.TransportError):
    """Our `RateLimited`, which is also a `httpx.TransportError`: `except` catches it by both names."""


class PipelineClosed(errors.PipelineClosed, httpx.TransportError):
    """Our `PipelineClosed`, which is also a `httpx.TransportError`: `except` catches it by both names."""


class TimedOut(errors.TimedOut, httpx.TimeoutException):
    """Our `TimedOut`, which is also a `httpx.TimeoutException`: `except` catches it by both names."""

    _request: httpx.Request | None = None  # `TimeoutError` keeps httpx's own `__init__` from setting it


_LIBRARY = Library(
    httpx,
    HttpClassifier,
    {
        errors.Rejected: Rejected,
        errors.CircuitOpen: CircuitOpen,
        errors.BulkheadFull: BulkheadFull,
        errors.LimitExceeded: LimitExceeded,
        errors.RateLimited: RateLimited,
        errors.PipelineClosed: PipelineClosed,
        errors.TimedOut: TimedOut,
    },
)


class AsyncTransport(
    AsyncHttpTransport[httpx.Request, httpx.Response, httpx.AsyncBaseTransport], httpx.AsyncBaseTransport
):
    """Guards all requests of an `httpx.AsyncClient` with a pipeline; see `resilient.http.transport.HttpTransport`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(**options)


class Transport(SyncHttpTransport[httpx.Request, httpx.Response, httpx.BaseTransport], httpx.BaseTransport):
    """Guards all requests of an `httpx.Client` with a pipeline; see `resilient.http.transport.HttpTransport`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(**options)


class AsyncChaosTransport(
    AsyncHttpChaos[httpx.Request, httpx.Response, httpx.AsyncBaseTransport], httpx.AsyncBaseTransport
):
    """Injects faults into the requests of an `httpx.AsyncClient`; see `resilient.http.chaos.HttpChaos`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(**options)


class ChaosTransport(SyncHttpChaos[httpx.Request, httpx.Response, httpx.BaseTransport], httpx.BaseTransport):
    """Injects faults into the requests of an `httpx.Client`; see `resilient.http.chaos.HttpChaos`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(**options)


class AsyncClient(httpx.AsyncClient):
    """`httpx.AsyncClient` with an `AsyncTransport` around each of its transports: its own, and those of `proxy=`,
    `mounts=` and the environment.

    Args:
        pipeline: default `standard()`, with a permit for each connection (or HTTP/2 stream).
        timeout: of each phase of an attempt. Default: the seconds of the pipeline's innermost Timeout, so that the
            Timeout ends the attempt; without a Timeout httpx's 5 s.
        options: for the transports (`by`, `idempotency_key`, `body_timeout`, ...) and for `httpx.AsyncClient`.
    """

    def __init__(self, pipeline: Pipeline | None = None, *, timeout: Any = ..., **options: Any) -> None:
        ours, theirs = split_options(options)
        pipeline = standard_for(**theirs) if pipeline is None else pipeline
        super().__init__(timeout=client_timeout(timeout, pipeline, httpx), **theirs)
        install(AsyncTransport, self, pipeline, ours)


class Client(httpx.Client):
    """`httpx.Client` with a `Transport` around each of its transports; the arguments are those of `AsyncClient`."""

    def __init__(self, pipeline: Pipeline | None = None, *, timeout: Any = ..., **options: Any) -> None:
        ours, theirs = split_options(options)
        pipeline = standard_for(**theirs) if pipeline is None else pipeline
        super().__init__(timeout=client_timeout(timeout, pipeline, httpx), **theirs)
        install(Transport, self, pipeline, ours)
