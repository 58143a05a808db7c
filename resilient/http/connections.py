"""The connections of httpx's and httpx2's own transports, made fit for requests that are cut short.

Timeouts, deadlines, hedges and callers who leave cancel requests as a matter of routine, and httpcore loses connections
when they do. `tend` mends the pool of one transport, of the connections that it opens from then on:

- HTTP/2: see `resilient.http.http2`.
- HTTP/1.1 (httpcore 1.0): a request that is cancelled in the tick in which it is given a new connection leaves it in
  the pool for ever: it is neither free nor closed. Here such a connection, which no request has, has expired.
- Both: a request can be cancelled while it takes a connection's state lock, at its beginning and when it is given up,
  and leaves the connection between two states for ever. What the lock guards waits for nothing, so here nobody waits.
- Both: each request takes the lock under which its connection is opened, which costs a turn of the event loop. Here
  that lock is dropped once the connection is open: there is nothing left that it guards.
- Both: a request that is cancelled while another one connects takes the connection out of the pool, where it is never
  closed. Here it stays while a request has it.
- Both: a request that waits for a free connection waits on its own account: see `http2.LocalWait`.

Nothing is done to other transports (mocks, an ASGI application, another library), nor where httpcore has none of the
names that are needed; then what is described above happens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from functools import cache
from types import ModuleType
from typing import Any

from resilient.http.delegate import AsyncAround, SyncAround
from resilient.http.http2 import NEEDED, Http2, LocalWait
from resilient.http.sockets import Socket, Whole
from resilient.runtime import current_async
from resilient.runtime.threads import THREADS

__all__ = ["tend"]

CORES = ("httpcore", "httpcore2")

OF_POOLS = ("create_connection", "_requests", "_max_connections")
"""The names that are needed of a pool."""


def tend(transport: Any) -> None:
    """Mend the connections of a transport, if it has a pool of httpcore's. Doing so twice does no harm."""
    while isinstance(transport, AsyncAround | SyncAround):
        transport = transport.transport
    pool: Any = getattr(transport, "_pool", None)
    core = _core(pool)
    if core is not None and all(hasattr(pool, name) for name in OF_POOLS) and not hasattr(pool, "tended"):
        pool.tended = _Pool(pool, core)


def _core(pool: Any) -> ModuleType | None:
    for kind in type(pool).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in CORES:
            return sys.modules[name]
    return None


class _Pool:
    """A pool that is tended: replaces its `create_connection` and `handle_async_request` (or `handle_request`)."""

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
        """A connection; the pool gives it to a request at once."""
        connection = self._create(origin)
        if hasattr(connection, "_connection"):
            _tend_connection(connection, self)
            connection.has_expired = lambda: self._is_lost(connection)  # until it has answered
        return connection

    def _is_lost(self, connection: Any) -> bool:
        """Whether a connection that has not answered yet has expired, or no request has it, nor could have."""
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

    def arrived(self, request: Any) -> None:
        """It has a connection."""
        wait = self.waiting.pop(id(request), None)
        if wait is not None:
            wait.end()


class _Connection:
    """Mixed into the class of a connection, which has its protocol, once it is connected, as `_connection`."""

    tended: _Pool
    beginning: set[int]
    """Requests on it while it has not answered any, by their `id`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_connect_failed" and value and len(self.beginning) > 1:
            return  # one has left: another one connects, or will
        super().__setattr__(name, value)
        if name == "_connection":
            _tend_protocol(value, self.tended)
            if self.tended.is_async and hasattr(self, "_request_lock"):
                self._request_lock = _Open()  # requests that wait for the old lock keep it


class _AsyncConnection(_Connection):
    def handle_async_request(self, request: Any) -> Any:
        if self.tended.waiting:
            self.tended.arrived(request)
        handle: Callable[[Any], Any] = super().handle_async_request  # type: ignore[misc]
        return self._first(request, handle) if "has_expired" in self.__dict__ else handle(request)

    async def _first(self, request: Any, handle: Callable[[Any], Any]) -> Any:
        self.beginning.add(id(request))
        try:
            response = await handle(request)
        finally:
            self.beginning.discard(id(request))
        self.__dict__.pop("has_expired", None)
        return response


class _SyncConnection(_Connection):
    def handle_request(self, request: Any) -> Any:
        if self.tended.waiting:
            self.tended.arrived(request)
        handle: Callable[[Any], Any] = super().handle_request  # type: ignore[misc]
        if "has_expired" not in self.__dict__:
            return handle(request)
        self.beginning.add(id(request))
        try:
            response = handle(request)
        finally:
            self.beginning.discard(id(request))
        self.__dict__.pop("has_expired", None)
        return response


@cache
def _tended(kind: Hashable, mixin: type) -> type:
    return type(kind.__name__, (mixin, kind), {})  # type: ignore[attr-defined, arg-type]


def _tend_connection(connection: Any, pool: _Pool) -> None:
    connection.__dict__.update(tended=pool, beginning=set())
    kind: Any = type(connection)
    connection.__class__ = _tended(kind, _AsyncConnection if pool.is_async else _SyncConnection)
    _tend_protocol(connection._connection, pool)


def _tend_protocol(protocol: Any, pool: _Pool) -> None:
    """Mend what speaks HTTP/1.1 or HTTP/2; or a connection to a proxy, which has that inside."""
    if hasattr(protocol, "_connection"):
        if not isinstance(protocol, _Connection):
            _tend_connection(protocol, pool)
        return
    if not hasattr(protocol, "_network_stream"):
        return
    socket = None
    if pool.is_async:
        socket = Socket(protocol._network_stream)
        if hasattr(protocol, "_state_lock"):
            protocol._state_lock = _Open()
    if all(hasattr(protocol, name) for name in NEEDED):
        Http2(protocol, pool.core, socket)
    elif pool.is_async and hasattr(protocol, "_response_closed"):
        closed = protocol._response_closed
        protocol._response_closed = lambda **which: Whole(closed(**which))


class _Open:
    """In place of a lock that guards nothing which waits."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        pass
