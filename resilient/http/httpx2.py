"""Transports for httpx2: policies under any of its clients, in two lines.

    transport = AsyncTransport(standard("users"))
    client = httpx2.AsyncClient(transport=transport)

or in one, with the client's own options, proxies of the environment included:

    client = AsyncClient(standard("users"), http2=True)

A guarded client behaves as httpx2 does: the response of the last attempt is returned, error statuses included, and all
exceptions are httpx2's own, our rejections (`CircuitOpen`, ...) and `TimedOut` included. The client handles redirects,
authentication and cookies, so each request of a redirect chain is a call of its own.

A client with `transport=` ignores `verify=`, `limits=`, `http2=` and the proxies of the environment, and sends the
requests of `proxy=` and `mounts=` past that transport. Give those options to the transport instead, or use
`AsyncClient` and `Client` of this module.
"""

from __future__ import annotations

from typing import Any, ClassVar

import httpx2

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
    """The classifier of `resilient.http.classify` with httpx2's exceptions."""

    library: ClassVar[Any] = httpx2


class Rejected(errors.Rejected, httpx2.TransportError):
    """Our `Rejected`, which is also a `httpx2.TransportError`: nothing was sent."""


class CircuitOpen(errors.CircuitOpen, httpx2.ConnectError):
    """Our `CircuitOpen`, which is also a `httpx2.ConnectError`: `except` catches it by both names."""


class BulkheadFull(errors.BulkheadFull, httpx2.PoolTimeout):
    """Our `BulkheadFull`, which is also a `httpx2.PoolTimeout`: `except` catches it by both names."""


class LimitExceeded(errors.LimitExceeded, httpx2.PoolTimeout):
    """Our `LimitExceeded`, which is also a `httpx2.PoolTimeout`: `except` catches it by both names."""


class RateLimited(errors.RateLimited, httpx2.TransportError):
    """Our `RateLimited`, which is also a `httpx2.TransportError`: `except` catches it by both names."""


class PipelineClosed(errors.PipelineClosed, httpx2.TransportError):
    """Our `PipelineClosed`, which is also a `httpx2.TransportError`: `except` catches it by both names."""


class TimedOut(errors.TimedOut, httpx2.TimeoutException):
    """Our `TimedOut`, which is also a `httpx2.TimeoutException`: `except` catches it by both names."""

    _request: httpx2.Request | None = None  # `TimeoutError` keeps httpx2's own `__init__` from setting it


_LIBRARY = Library(
    httpx2,
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
    AsyncHttpTransport[httpx2.Request, httpx2.Response, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport
):
    """Guards all requests of an `httpx2.AsyncClient` with a pipeline; see `resilient.http.transport.HttpTransport`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(**options)


class Transport(SyncHttpTransport[httpx2.Request, httpx2.Response, httpx2.BaseTransport], httpx2.BaseTransport):
    """Guards all requests of an `httpx2.Client` with a pipeline; see `resilient.http.transport.HttpTransport`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx2.HTTPTransport:
        return httpx2.HTTPTransport(**options)


class AsyncChaosTransport(
    AsyncHttpChaos[httpx2.Request, httpx2.Response, httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport
):
    """Injects faults into the requests of an `httpx2.AsyncClient`; see `resilient.http.chaos.HttpChaos`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(**options)


class ChaosTransport(SyncHttpChaos[httpx2.Request, httpx2.Response, httpx2.BaseTransport], httpx2.BaseTransport):
    """Injects faults into the requests of an `httpx2.Client`; see `resilient.http.chaos.HttpChaos`."""

    library = _LIBRARY

    def _new_transport(self, **options: Any) -> httpx2.HTTPTransport:
        return httpx2.HTTPTransport(**options)


class AsyncClient(httpx2.AsyncClient):
    """`httpx2.AsyncClient` with an `AsyncTransport` around each of its transports: its own, and those of `proxy=`,
    `mounts=` and the environment.

    Args:
        pipeline: default `standard()`, with a permit for each connection (or HTTP/2 stream).
        timeout: of each phase of an attempt. Default: the seconds of the pipeline's innermost Timeout, so that the
            Timeout ends the attempt; without a Timeout httpx2's 5 s.
        options: for the transports (`by`, `idempotency_key`, `body_timeout`, ...) and for `httpx2.AsyncClient`.
    """

    def __init__(self, pipeline: Pipeline | None = None, *, timeout: Any = ..., **options: Any) -> None:
        ours, theirs = split_options(options)
        pipeline = standard_for(**theirs) if pipeline is None else pipeline
        super().__init__(timeout=client_timeout(timeout, pipeline, httpx2), **theirs)
        install(AsyncTransport, self, pipeline, ours)


class Client(httpx2.Client):
    """`httpx2.Client` with a `Transport` around each of its transports; the arguments are those of `AsyncClient`."""

    def __init__(self, pipeline: Pipeline | None = None, *, timeout: Any = ..., **options: Any) -> None:
        ours, theirs = split_options(options)
        pipeline = standard_for(**theirs) if pipeline is None else pipeline
        super().__init__(timeout=client_timeout(timeout, pipeline, httpx2), **theirs)
        install(Transport, self, pipeline, ours)
