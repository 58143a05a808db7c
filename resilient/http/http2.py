"""Repairs of one HTTP/2 connection of httpcore, for requests that are cancelled.

Each defect of httpcore, and its repair:

- A request that is given up (cancelled, timed out, its body not read to the end) leaves its stream open: after 100 of
  them the connection refuses to send anything. Repair: the stream is reset, and the bytes that had arrived for it are
  acknowledged, so that they take nothing of the connection's window.
- A read timeout of one request ends all requests of its connection. Repair: it ends that request. The others go on
  reading, and new requests get a new connection.
- A dead connection stays in use if requests end by cancellation. Repair: if nothing has arrived on it for `SILENCE`
  seconds when a request is cancelled, it gets no new requests, and is closed with its last one.
- Requests beyond the server's limit of streams wait inside httpcore, where the wait looks like a slow answer. Repair:
  they wait in a queue here. The wait is a local one (`Call.waited`), is no evidence about the server, and ends with
  the client's pool timeout.

`NEEDED` lists the attributes of httpcore that the repairs use: a connection without one of them stays as it is.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import Any, ClassVar

from resilient.core.call import Call, new_call
from resilient.core.current_call import enclosing
from resilient.http.sockets import Socket, WithoutTurns, run_until_blocked
from resilient.runtime import Parking, Runtime, current_async
from resilient.runtime.asyncio import AsyncioRuntime
from resilient.runtime.clock import monotonic
from resilient.runtime.threads import THREADS, drive

__all__ = ["NEEDED", "SILENCE", "Http2", "LocalWait"]

SILENCE = 0.5
"""Seconds without data after which a connection counts as dead: shorter than attempts, longer than a round trip. A
connection that is replaced without need costs a handshake."""

NEEDED = (
    "_connection_error",
    "_events",
    "_h2_state",
    "_network_stream",
    "_read_exception",
    "_read_incoming_data",
    "_response_closed",
    "_write_outgoing_data",
)

CANCEL = 8
"""RST_STREAM's code for a response that is no longer wanted (RFC 9113, section 7)."""


class _ShortTimeout:
    """Stands for a request while a reset is written: httpcore reads only its timeouts, in seconds."""

    extensions: ClassVar[dict[str, Any]] = {"timeout": {"write": 0.1}}


class LocalWait:
    """A wait of the current call for a local resource (a connection, a stream). It is added to `Call.waited`, so its
    time is no evidence about the server.

    Args:
        runtime: measures the wait, from now on.
    """

    def __init__(self, runtime: Runtime) -> None:
        calls = enclosing(2)
        self.call: Call | None = calls[0][0] if calls else None
        self._now = runtime.now
        self._begin = runtime.now()
        if self.call is not None:
            self.call.queued_at = self._begin

    def end(self) -> None:
        """End the wait. Further calls do nothing."""
        call, self.call = self.call, None
        if call is not None:
            call.waited += self._now() - self._begin
            call.queued_at = None


class _Waiter:
    """A request in the queue for a stream."""

    __slots__ = ("granted", "parking")

    def __init__(self, parking: Parking) -> None:
        self.parking = parking
        self.granted = False


class Http2:
    """The repairs of one HTTP/2 connection. It replaces some methods of `protocol`.

    Args:
        protocol: httpcore's `HTTP2Connection` or `AsyncHTTP2Connection`.
        core: httpcore or httpcore2.
        socket: the writes of an asynchronous connection; else None.
    """

    def __init__(self, protocol: Any, core: Any, socket: Socket | None) -> None:
        self.protocol = protocol
        self.core = core
        self.socket = socket
        self.state = protocol._h2_state
        self.retired = False
        self._since, self._heard = monotonic(), True
        self._lock = threading.Lock()
        self._in_use = 0
        self._answered: set[int] = set()
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._receive, self.state.receive_data = self.state.receive_data, self.receive
        self._closed, self._read = protocol._response_closed, protocol._read_incoming_data
        if hasattr(protocol, "handle_async_request"):
            self._handle, protocol.handle_async_request = protocol.handle_async_request, self.handle_async
            protocol._response_closed, protocol._read_incoming_data = self.closed_async, self.read_async
        else:
            self._handle, protocol.handle_request = protocol.handle_request, self.handle
            protocol._response_closed, protocol._read_incoming_data = self.closed, self.read

    # -- a request --------------------------------------------------------------------------------------------------

    async def handle_async(self, request: Any) -> Any:
        """Replaces `handle_async_request`: waits for a stream, and sends the request on it."""
        if not self._take_stream():
            await self._queue(request, current_async())
        try:
            response = await WithoutTurns(self._handle(request))
        except BaseException as error:
            if self._failed(error):
                await WithoutTurns(self.protocol.aclose())
            self._reroute(error)
            raise
        self._answered.add(response.extensions["stream_id"])
        return response

    def handle(self, request: Any) -> Any:
        """Replaces `handle_request`: waits for a stream, and sends the request on it."""
        if not self._take_stream():
            drive(self._queue(request, THREADS))
        try:
            response = self._handle(request)
        except BaseException as error:
            if self._failed(error):
                self.protocol.close()
            self._reroute(error)
            raise
        self._answered.add(response.extensions["stream_id"])
        return response

    def _failed(self, error: BaseException) -> bool:
        """Note that a request has failed. Returns whether the connection must be closed."""
        if not isinstance(error, self.core.ConnectionNotAvailable):
            refused = type(error.args[0] if error.args else None).__name__ == "TooManyStreamsError"
            if refused or self._is_silent or not self.protocol.is_available():
                self.retire()  # the requests in the queue need another one, too
        self._free_stream()
        return self._must_close

    def _reroute(self, error: BaseException) -> None:
        """Raise `ConnectionNotAvailable` if `error` says that the connection was found closed before anything was
        sent: httpcore then uses another connection for the request."""
        if isinstance(error, self.core.LocalProtocolError) and "SEND_HEADERS in state" in str(error):
            raise self.core.ConnectionNotAvailable from error

    @property
    def _must_close(self) -> bool:
        """Whether the connection must be closed: it is broken; or it has no requests, and is retired or in a state that
        is neither idle nor closed."""
        protocol = self.protocol
        if protocol.is_closed():
            return False
        if self.socket is not None and self.socket.torn:
            return True
        return not (self._in_use or protocol._events) and (self.retired or not protocol.is_idle())

    @property
    def _is_silent(self) -> bool:
        return monotonic() - self._since >= SILENCE

    def retire(self) -> None:
        """Retire the connection: it takes no new requests, and the present ones go on to their end."""
        self.retired = True
        self.protocol.is_available = _never
        with self._lock:
            waiters, self._waiters = list(self._waiters), OrderedDict()
        for waiter in waiters:
            waiter.parking.wake()

    # -- streams ----------------------------------------------------------------------------------------------------

    async def closed_async(self, stream_id: int) -> None:
        """Replaces `_response_closed`: resets the stream if it has not ended, and frees it."""
        if self._reset_stream(stream_id):
            sending = self.protocol._write_outgoing_data(_ShortTimeout)
            if isinstance(current_async(), AsyncioRuntime):
                run_until_blocked(sending)
            else:
                with suppress(Exception):  # the connection has recorded it
                    await sending
        await WithoutTurns(self._closed(stream_id))
        if self._must_close:
            await WithoutTurns(self.protocol.aclose())

    def closed(self, stream_id: int) -> None:
        """Replaces `_response_closed` of the blocking connection, as `closed_async` does that of the async one."""
        if self._reset_stream(stream_id):
            with suppress(Exception):  # the connection has recorded it
                self.protocol._write_outgoing_data(_ShortTimeout)
        self._closed(stream_id)
        if self._must_close:
            self.protocol.close()

    def _reset_stream(self, stream_id: int) -> bool:
        """Reset a stream that has not ended, and acknowledge the data that had arrived for it. Returns whether there
        is something to send."""
        if stream_id in self._answered:
            self._answered.discard(stream_id)
            self._free_stream()
        state, unread = self.state, 0
        for event in self.protocol._events.get(stream_id, ()):
            unread += getattr(event, "flow_controlled_length", None) or 0
        stream = state.streams.get(stream_id)
        open_ = stream is not None and not stream.closed
        if open_ and self._is_silent:
            self.retire()
        try:
            if open_:
                state.reset_stream(stream_id, CANCEL)
            if unread:
                state.acknowledge_received_data(unread, stream_id)
        except sys.modules["h2.exceptions"].ProtocolError:
            return False  # the connection is closed
        return open_ or unread > 0

    def receive(self, data: bytes) -> Any:
        """Replaces `receive_data` of h2: notes that the connection lives, and grants streams to waiting requests."""
        self._since, self._heard = monotonic(), True
        events = self._receive(data)
        if self._waiters:
            self._grant_streams()  # the server may have allowed more
        return events

    async def read_async(self, request: Any) -> Any:
        """Replaces `_read_incoming_data`: a read timeout ends this request only."""
        try:
            return await self._read(request)
        except self.core.ReadTimeout:
            self._timed_out()
            raise

    def read(self, request: Any) -> Any:
        """Replaces `_read_incoming_data` of the blocking connection, as `read_async` does that of the async one."""
        try:
            return self._read(request)
        except self.core.ReadTimeout:
            self._timed_out()
            raise

    def _timed_out(self) -> None:
        """Undo the read timeout of one request for the others: the connection is retired, but not broken."""
        self.protocol._read_exception = None
        self.protocol._connection_error = False
        self.retire()

    # -- the queue for streams --------------------------------------------------------------------------------------

    @property
    def _has_stream(self) -> bool:
        state = self.state
        return bool(
            self._in_use < state.local_settings.max_concurrent_streams  # httpcore's own limit
            and self._in_use < state.remote_settings.max_concurrent_streams
        )

    def _take_stream(self) -> bool:
        with self._lock:
            if self._waiters or not self._has_stream:
                return False
            self._count_request()
        return True

    def _count_request(self) -> None:
        self._in_use += 1
        if self._heard:
            self._since, self._heard = monotonic(), False

    def _free_stream(self) -> None:
        with self._lock:
            self._in_use -= 1
        if self._waiters:
            self._grant_streams()

    def _grant_streams(self) -> None:
        woken = []
        with self._lock:
            while self._waiters and self._has_stream:
                waiter, _ = self._waiters.popitem(last=False)
                waiter.granted = True
                self._count_request()
                woken.append(waiter)
        for waiter in woken:
            waiter.parking.wake()

    async def _queue(self, request: Any, runtime: Runtime) -> None:
        """Wait for a stream. Raises the client's `PoolTimeout`, or `ConnectionNotAvailable` after a retirement."""
        waiter, wait = _Waiter(runtime.park()), LocalWait(runtime)
        with self._lock:
            self._waiters[waiter] = None
        try:
            self._grant_streams()  # one may have ended meanwhile
            if not waiter.granted:
                call = wait.call or new_call(self._queue, (), {}, runtime)
                await waiter.parking.wait(request.extensions.get("timeout", {}).get("pool"), call)
        except BaseException:
            self._leave_queue(waiter)
            raise
        finally:
            wait.end()
        if not self._leave_queue(waiter, keep=not self.retired):
            raise self.core.ConnectionNotAvailable if self.retired else self.core.PoolTimeout

    def _leave_queue(self, waiter: _Waiter, *, keep: bool = False) -> bool:
        """Leave the queue. Returns whether the request keeps a stream; without `keep`, a granted stream is freed."""
        with self._lock:
            self._waiters.pop(waiter, None)
            granted = waiter.granted
        if granted and not keep:
            self._free_stream()
        return granted and keep


def _never() -> bool:
    return False
