"""One HTTP/2 connection of httpcore, made fit for requests that are cut short.

What httpcore leaves undone, and what is done here instead:

- A request that is given up (cancelled, timed out, its body not read to the end) leaves its stream open: after 100 of
  them the connection refuses to send anything. Here the stream is reset, and what had arrived for it is acknowledged,
  so that it uses up nothing of the connection's window.
- A read timeout of one request ends all requests of its connection. Here it ends that request. The others read on, and
  new requests have a new connection.
- A connection that is dead is used on, if requests end by cancellation. Here one on which nothing was heard for
  `SILENCE` seconds, when a request is cut short, is given no new requests and is closed with its last one.
- More requests than the server allows streams wait inside httpcore, where nobody can tell the wait from a slow answer.
  Here they stand in a line: the wait is the call's own (`Call.waited`), says nothing about the server, and ends with
  the client's pool timeout.

The names of httpcore's that are needed are in `NEEDED`: without one of them a connection stays as httpcore made it.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from resilient.core.call import Call, new_call
from resilient.core.current_call import enclosing
from resilient.http.sockets import Socket, Whole, hurry
from resilient.runtime import Parking, Runtime, current_async
from resilient.runtime.asyncio import AsyncioRuntime
from resilient.runtime.clock import monotonic
from resilient.runtime.threads import THREADS, drive

__all__ = ["NEEDED", "SILENCE", "Http2", "LocalWait"]

SILENCE = 0.5
"""Seconds. Shorter than attempts are, longer than a round trip; a connection that is replaced without need costs a
handshake."""

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


class _Brief:
    """What httpcore asks of a request when it writes: its timeouts, in seconds."""

    extensions: ClassVar[dict[str, Any]] = {"timeout": {"write": 0.1}}


class LocalWait:
    """A wait of the call around for something of our own: its time is no evidence about the server."""

    def __init__(self, runtime: Runtime) -> None:
        calls = enclosing(2)
        self.call: Call | None = calls[0][0] if calls else None
        self._now = runtime.now
        self._begin = runtime.now()
        if self.call is not None:
            self.call.queued_at = self._begin

    def end(self) -> None:
        """It is over; only the first time counts."""
        call, self.call = self.call, None
        if call is not None:
            call.waited += self._now() - self._begin
            call.queued_at = None


class _Place:
    __slots__ = ("granted", "parking")

    def __init__(self, parking: Parking) -> None:
        self.parking = parking
        self.granted = False


class Http2:
    """Tends one HTTP/2 connection; `core` is httpcore or httpcore2. Replaces some methods of the object `protocol`."""

    def __init__(self, protocol: Any, core: Any, socket: Socket | None) -> None:
        self.protocol = protocol
        self.core = core
        self.socket = socket
        self.state = protocol._h2_state
        self.retired = False
        self._since, self._heard = monotonic(), True
        self._lock = threading.Lock()
        self._inside = 0
        self._answered: set[int] = set()
        self._line: OrderedDict[_Place, None] = OrderedDict()
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
        """In place of `handle_async_request`."""
        if not self._enter():
            await self._queue(request, current_async())
        try:
            response = await Whole(self._handle(request))
        except BaseException as error:
            if self._failed(error):
                await Whole(self.protocol.aclose())
            self._moved(error)
            raise
        self._answered.add(response.extensions["stream_id"])
        return response

    def handle(self, request: Any) -> Any:
        """In place of `handle_request`."""
        if not self._enter():
            drive(self._queue(request, THREADS))
        try:
            response = self._handle(request)
        except BaseException as error:
            if self._failed(error):
                self.protocol.close()
            self._moved(error)
            raise
        self._answered.add(response.extensions["stream_id"])
        return response

    def _failed(self, error: BaseException) -> bool:
        """A request has no answer. Returns whether the connection is of no use any more."""
        if not isinstance(error, self.core.ConnectionNotAvailable):
            refused = type(error.args[0] if error.args else None).__name__ == "TooManyStreamsError"
            if refused or self._silent or not self.protocol.is_available():
                self.retire()  # those in line are for another one, too
        self._leave()
        return self._over

    def _moved(self, error: BaseException) -> None:
        """A request that found its connection closed, and has sent nothing, is for another one."""
        if isinstance(error, self.core.LocalProtocolError) and "SEND_HEADERS in state" in str(error):
            raise self.core.ConnectionNotAvailable from error

    @property
    def _over(self) -> bool:
        """Whether the connection is to be closed: it is broken; or it is retired, or in doubt, and has no requests."""
        protocol = self.protocol
        if protocol.is_closed():
            return False
        if self.socket is not None and self.socket.torn:
            return True
        return not (self._inside or protocol._events) and (self.retired or not protocol.is_idle())

    @property
    def _silent(self) -> bool:
        return monotonic() - self._since >= SILENCE

    def retire(self) -> None:
        """Give it no new requests; those that it has may end."""
        self.retired = True
        self.protocol.is_available = _never
        with self._lock:
            line, self._line = list(self._line), OrderedDict()
        for place in line:
            place.parking.wake()

    # -- streams ----------------------------------------------------------------------------------------------------

    async def closed_async(self, stream_id: int) -> None:
        """In place of `_response_closed`."""
        if self._give_up(stream_id):
            sending = self.protocol._write_outgoing_data(_Brief)
            if isinstance(current_async(), AsyncioRuntime):
                hurry(sending)
            else:
                with _leniently():
                    await sending
        await Whole(self._closed(stream_id))
        if self._over:
            await Whole(self.protocol.aclose())

    def closed(self, stream_id: int) -> None:
        """In place of `_response_closed`."""
        if self._give_up(stream_id):
            with _leniently():
                self.protocol._write_outgoing_data(_Brief)
        self._closed(stream_id)
        if self._over:
            self.protocol.close()

    def _give_up(self, stream_id: int) -> bool:
        """Reset a stream that has not ended, and acknowledge what had arrived for it. Whether there is something to
        send."""
        if stream_id in self._answered:
            self._answered.discard(stream_id)
            self._leave()
        state, unread = self.state, 0
        for event in self.protocol._events.get(stream_id, ()):
            unread += getattr(event, "flow_controlled_length", None) or 0
        stream = state.streams.get(stream_id)
        open_ = stream is not None and not stream.closed
        if open_ and self._silent:
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
        """In place of `receive_data`."""
        self._since, self._heard = monotonic(), True
        events = self._receive(data)
        if self._line:
            self._hand_out()  # the server may have allowed more
        return events

    async def read_async(self, request: Any) -> Any:
        """In place of `_read_incoming_data`."""
        try:
            return await self._read(request)
        except self.core.ReadTimeout:
            self._timed_out()
            raise

    def read(self, request: Any) -> Any:
        """In place of `_read_incoming_data`."""
        try:
            return self._read(request)
        except self.core.ReadTimeout:
            self._timed_out()
            raise

    def _timed_out(self) -> None:
        """One request has waited long enough: the others have not."""
        self.protocol._read_exception = None
        self.protocol._connection_error = False
        self.retire()

    # -- the line of those for whom there is no stream --------------------------------------------------------------

    @property
    def _room(self) -> bool:
        state = self.state
        return bool(
            self._inside < state.local_settings.max_concurrent_streams  # which httpcore keeps to
            and self._inside < state.remote_settings.max_concurrent_streams
        )

    def _enter(self) -> bool:
        with self._lock:
            if self._line or not self._room:
                return False
            self._begin()
        return True

    def _begin(self) -> None:
        self._inside += 1
        if self._heard:
            self._since, self._heard = monotonic(), False

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
        if self._line:
            self._hand_out()

    def _hand_out(self) -> None:
        woken = []
        with self._lock:
            while self._line and self._room:
                place, _ = self._line.popitem(last=False)
                place.granted = True
                self._begin()
                woken.append(place)
        for place in woken:
            place.parking.wake()

    async def _queue(self, request: Any, runtime: Runtime) -> None:
        """Wait for a stream."""
        place, wait = _Place(runtime.park()), LocalWait(runtime)
        with self._lock:
            self._line[place] = None
        try:
            self._hand_out()  # one may have ended meanwhile
            if not place.granted:
                call = wait.call or new_call(self._queue, (), {}, runtime)
                await place.parking.wait(request.extensions.get("timeout", {}).get("pool"), call)
        except BaseException:
            self._step_out(place)
            raise
        finally:
            wait.end()
        if not self._step_out(place, keep=not self.retired):
            raise self.core.ConnectionNotAvailable if self.retired else self.core.PoolTimeout

    def _step_out(self, place: _Place, *, keep: bool = False) -> bool:
        """Leave the line. Whether with a stream, which it gives back unless it is to be kept."""
        with self._lock:
            self._line.pop(place, None)
            granted = place.granted
        if granted and not keep:
            self._leave()
        return granted and keep


def _never() -> bool:
    return False


@contextmanager
def _leniently() -> Iterator[None]:
    """What goes wrong with a farewell, the connection has noted."""
    try:
        yield
    except Exception:
        pass
