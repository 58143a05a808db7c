"""Repairs of the connection pools of httpx's and httpx2's own transports, for requests that are cancelled.

Timeouts, deadlines, hedges and callers that leave cancel requests all the time, and httpcore loses connections when
they do. `repair_pool` repairs the pool of one transport, for the connections that it opens from then on:

- HTTP/2: see `resilient.http.http2`.
- HTTP/1.1 (httpcore 1.0): a request that is cancelled in the tick in which it gets a new connection leaves it in the
  pool forever, neither free nor closed. Repair: a new connection that belongs to no request counts as expired.
- Both: a request can be cancelled while it takes a connection's state lock, at its beginning and when it is given up,
  and leaves the connection between two states forever. Repair: there is no lock, because the code under it never waits.
- Both: each request takes the lock under which its connection is opened, which costs a turn of the event loop. Repair:
  the lock is removed once the connection is open, because it guards nothing after that.
- Both: a request that is cancelled while another one connects removes the connection from the pool, and it is never
  closed. Repair: it stays in the pool while it belongs to a request.
- Both: the wait of a request for a free connection is recorded as a local wait, not as slowness of the server: see
  `http2.LocalWait`.

Other transports (mocks, an ASGI application, another library) stay as they are, and so does an httpcore without the
names that are needed. Then the defects above remain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from functools import cache
from types import ModuleType
from typing import Any

from resilient.http.delegate import AsyncDelegatingTransport, SyncDelegatingTransport
from resilient.http.http2 import NEEDED, Http2, LocalWait
from resilient.http.sockets import Socket, WithoutTurns
from resilient.runtime import current_async
from resilient.runtime.threads import THREADS

__all__ = ["repair_pool"]

CORES = ("httpcore", "httpcore2")

NEEDED_OF_POOL = ("create_connection", "_requests", "_max_connections")
"""The attributes of a pool that the repairs need."""


def repair_pool(transport: Any) -> None:
    """Repair the connection pool of a transport, if it is one of httpcore's. A second call does nothing."""
    while isinstance(transport, AsyncDelegatingTransport | SyncDelegatingTransport):
        transport = transport.transport
    pool: Any = getattr(transport, "_pool", None)
    core = _core(pool)
    if core is not None and all(hasattr(pool, name) for name in NEEDED_OF_POOL) and not hasattr(pool, "repaired"):
        pool.repaired = _Pool(pool, core)


def _core(pool: Any) -> ModuleType | None:
    for kind in type(pool).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in CORES:
            return sys.modules[name]
    return None


class _Pool:
    """The repairs of one pool: replaces its `create_connection` and `handle_async_request` (or `handle_request`).

    Args:
        pool: httpcore's.
        core: httpcore or httpcore2.
    """

    def __init__(self, pool: Any, core: ModuleType) -> None:
        self.core = core
        self.is_async = hasattr(pool, "handle_async_request")
        self.waiting: dict[int, LocalWait] = {}
        self._pool = pool
        self._create, pool.create_connection = pool.create_connection, self.create_connection
        if self.is_async:
            self._handle, pool.handle_async_request = pool.handle_async_request, self.handle_async_request
        else:
            self._handle, pool.handle_request = pool.handle_request, self.handle_request

    def create_connection(self, origin: Any) -> Any:
        """Return a new, repaired connection, which the pool assigns to a request at once."""
        connection = self._create(origin)
        if hasattr(connection, "_connection"):
            _repair_connection(connection, self)
            connection.has_expired = lambda: self._is_lost(connection)  # until it has answered
        return connection

    def _is_lost(self, connection: Any) -> bool:
        """Whether a connection without an answer so far has expired, or belongs to no request and can get none."""
        if type(connection).has_expired(connection):
            return True
        of_use = connection.is_idle() or connection.is_available()
        return not of_use and all(request.connection is not connection for request in self._pool._requests)

    @property
    def _is_full(self) -> bool:
        return len(self._pool._requests) >= self._pool._max_connections  # type: ignore[no-any-return]

    def handle_async_request(self, request: Any) -> Any:
        return self._waiting_async(request) if self._is_full else self._handle(request)

    async def _waiting_async(self, request: Any) -> Any:
        self.waiting[id(request)] = wait = LocalWait(current_async())
        try:
            return await self._handle(request)
        finally:
            wait.end()
            self.waiting.pop(id(request), None)

    def handle_request(self, request: Any) -> Any:
        if not self._is_full:
            return self._handle(request)
        self.waiting[id(request)] = wait = LocalWait(THREADS)
        try:
            return self._handle(request)
        finally:
            wait.end()
            self.waiting.pop(id(request), None)

    def got_connection(self, request: Any) -> None:
        """End the local wait of a request, which has got a connection."""
        wait = self.waiting.pop(id(request), None)
        if wait is not None:
            wait.end()


class _Connection:
    """Mixin for httpcore's connection class. `_connection` is the HTTP/1.1 or HTTP/2 object inside the connection, set
    on connecting."""

    repaired: _Pool
    first_requests: set[int]
    """Requests on a connection that has not answered any, by their `id`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_connect_failed" and value and len(self.first_requests) > 1:
            return  # a request was cancelled: another one connects, or will
        super().__setattr__(name, value)
        if name == "_connection":
            _repair_protocol(value, self.repaired)
            if self.repaired.is_async and hasattr(self, "_request_lock"):
                self._request_lock = _NoLock()  # requests that wait for the old lock keep it


class _AsyncConnection(_Connection):
    def handle_async_request(self, request: Any) -> Any:
        if self.repaired.waiting:
            self.repaired.got_connection(request)
        handle: Callable[[Any], Any] = super().handle_async_request  # type: ignore[misc]
        return self._first(request, handle) if "has_expired" in self.__dict__ else handle(request)

    async def _first(self, request: Any, handle: Callable[[Any], Any]) -> Any:
        self.first_requests.add(id(request))
        try:
            response = await handle(request)
        finally:
            self.first_requests.discard(id(request))
        self.__dict__.pop("has_expired", None)
        return response


class _SyncConnection(_Connection):
    def handle_request(self, request: Any) -> Any:
        if self.repaired.waiting:
            self.repaired.got_connection(request)
        handle: Callable[[Any], Any] = super().handle_request  # type: ignore[misc]
        if "has_expired" not in self.__dict__:
            return handle(request)
        self.first_requests.add(id(request))
        try:
            response = handle(request)
        finally:
            self.first_requests.discard(id(request))
        self.__dict__.pop("has_expired", None)
        return response


@cache
def _repaired_class(kind: Hashable, mixin: type) -> type:
    return type(kind.__name__, (mixin, kind), {})  # type: ignore[attr-defined, arg-type]


def _repair_connection(connection: Any, pool: _Pool) -> None:
    connection.__dict__.update(repaired=pool, first_requests=set())
    kind: Any = type(connection)
    connection.__class__ = _repaired_class(kind, _AsyncConnection if pool.is_async else _SyncConnection)
    _repair_protocol(connection._connection, pool)


def _repair_protocol(protocol: Any, pool: _Pool) -> None:
    """Repair an HTTP/1.1 or HTTP/2 protocol, or the connection to a proxy that contains one."""
    if hasattr(protocol, "_connection"):
        if not isinstance(protocol, _Connection):
            _repair_connection(protocol, pool)
        return
    if not hasattr(protocol, "_network_stream"):
        return
    socket = None
    if pool.is_async:
        socket = Socket(protocol._network_stream)
        if hasattr(protocol, "_state_lock"):
            protocol._state_lock = _NoLock()
    if all(hasattr(protocol, name) for name in NEEDED):
        Http2(protocol, pool.core, socket)
    elif pool.is_async and hasattr(protocol, "_response_closed"):
        closed = protocol._response_closed
        protocol._response_closed = lambda **which: WithoutTurns(closed(**which))


class _NoLock:
    """Replaces a lock around code that never waits."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        pass
