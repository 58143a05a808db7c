"""A server that speaks HTTP/1.1 badly, by a script: it resets, breaks off, sends wrong lengths, drips, and sends
garbage.

Each request gets the next step of the script, and a successful response after the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

__all__ = [
    "Asked",
    "Http2Step",
    "RawHttp2Server",
    "RawServer",
    "Step",
    "Stream",
    "answer",
    "breaking_off",
    "closing",
    "dripping",
    "hanging",
    "hasty",
    "head",
    "resetting",
]

BEATS = 0.01
"""Seconds between the parts of what drips."""


@dataclass
class Asked:
    """One request, whose head has arrived, and a part of whose body has been read. `whole`: all of it."""

    method: str
    path: str
    fields: dict[str, str]
    body: bytes = b""
    whole: bool = False


class Exchange:
    """One request on its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> None:
        self._reader = reader
        self._writer = writer
        self.asked = asked

    @property
    def is_over(self) -> bool:
        """Whether the connection has been closed."""
        return self._writer.is_closing()

    async def read(self) -> None:
        """Read all of the body."""
        asked = self.asked
        if asked.fields.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):  # raises when the body breaks off
                asked.body += await self._reader.readexactly(size)
                await self._reader.readline()
            await self._reader.readline()
        else:
            asked.body += await self._reader.readexactly(int(asked.fields.get("content-length", "0")))
        asked.whole = True

    async def read_some(self) -> None:
        """Read the first part of the body, if there is one."""
        if asked := self.asked.fields.get("transfer-encoding") or self.asked.fields.get("content-length"):
            self.asked.body += b"" if asked == "0" else await self._reader.read(8)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """End the connection with an RST."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection in order: data that still arrives is read, and dropped."""
        self._writer.write_eof()
        while await self._reader.read(65536):
            pass
        self._writer.close()

    async def until_gone(self) -> None:
        """Wait until the other side has closed the connection."""
        await self._reader.read()
        self._writer.close()


Step = Callable[[Exchange], Awaitable[None]]


def head(status: int = 200, *fields: str) -> bytes:
    """Return the head of a response."""
    return "\r\n".join((f"HTTP/1.1 {status} Status", *fields, "", "")).encode()


def answer(status: int = 200, *fields: str, body: bytes = b"good") -> Step:
    """A good answer."""

    async def step(exchange: Exchange) -> None:
        await exchange.read()
        shown = b"" if exchange.asked.method == "HEAD" else body
        await exchange.send(head(status, f"Content-Length: {len(body)}", *fields) + shown)

    return step


def resetting(after: bytes = b"", *, early: bool = False) -> Step:
    """A step that sends some data, or none, and resets the connection; `early`: with the request half read."""

    async def step(exchange: Exchange) -> None:
        if early:
            await exchange.read_some()
        else:
            await exchange.read()
        await exchange.send(after)
        exchange.reset()  # Linux lets the other side read the earlier data first

    return step


def closing(after: bytes = b"") -> Step:
    """A step that sends some data, or none, and closes the connection."""

    async def step(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(after)
        await exchange.close()

    return step


def breaking_off(status: int = 200, *fields: str, sent: bytes = b"half of") -> Step:
    """A step that sends a shorter body than its head announces."""
    return closing(head(status, "Content-Length: 100", *fields) + sent)


def hasty(status: int, *fields: str) -> Step:
    """A step that answers without reading the body, and closes the connection."""

    async def step(exchange: Exchange) -> None:
        await exchange.send(head(status, "Connection: close", "Content-Length: 5", *fields) + b"hasty")
        await exchange.close()

    return step


def dripping(data: bytes, before: bytes = b"") -> Step:
    """A step that sends `before` at once, and `data` byte by byte."""

    async def step(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(before)
        for byte in data:
            await asyncio.sleep(BEATS)
            await exchange.send(bytes((byte,)))

    return step


def hanging(after: bytes = b"") -> Step:
    """A step that sends some data, or none, and then nothing more."""

    async def step(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(after)
        await exchange.until_gone()

    return step


class RawServer:
    """A context: the server runs inside, in its own thread, on a free port of the loopback interface."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque[Step] = deque()
        self.usual: Step = answer()
        """When the script is at its end."""
        self.seen: list[Asked] = []
        self.opened = 0
        """Connections so far."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]
        self.origin = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._port}"
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._at_work: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def reset(self) -> None:
        """Forget what was, and what was to be."""
        self.script.clear()
        self.usual = answer()
        self._settle()
        self.seen.clear()
        self.opened = 0

    def _settle(self) -> None:
        """Return when all who came before are dealt with: a test may end before its last connection is accepted."""
        with socket.create_connection(("127.0.0.1", self._port)) as last:
            last.sendall(b"GET / HTTP/1.1\r\n\r\n")
            last.recv(65536)

    def hang_up(self) -> None:
        """Close all connections, and return when they are closed."""

        async def close() -> None:
            for writer in list(self._writers):
                writer.close()
                await writer.wait_closed()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Return an origin that refuses connections, and a function that makes it accept them."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        servers: list[asyncio.Server] = []

        async def serve() -> None:
            servers.append(await asyncio.start_server(self._connected, sock=listener))

        async def end() -> None:
            for server in servers:
                server.close()

        yield (
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            lambda: asyncio.run_coroutine_threadsafe(serve(), self._loop).result(),
        )
        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        listener.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, ssl=self._tls)
        await self._over.wait()
        server.close()
        for task in list(self._at_work):
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        self._writers.add(writer)
        self.opened += 1
        try:
            while not writer.is_closing():
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()
            self._writers.discard(writer)
            self._at_work.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        asked = Asked(method, path, fields)
        self.seen.append(asked)
        step = self.script.popleft() if self.script else self.usual
        await step(Exchange(reader, writer, asked))

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()


class Stream:
    """One request on its stream of an HTTP/2 connection."""

    def __init__(
        self, connection: h2.connection.H2Connection, number: int, asked: Asked, writer: asyncio.StreamWriter
    ) -> None:
        self.connection = connection
        self.number = number
        self.asked = asked
        self._writer = writer

    def flush(self) -> None:
        """Send the frames that are ready; only needed outside a step."""
        self._writer.write(self.connection.data_to_send())

    def hang(self) -> None:
        """A step without a response."""

    def answer(self, status: int = 200, body: bytes = b"good") -> None:
        """A good answer."""
        self.connection.send_headers(self.number, [(":status", str(status)), ("content-length", str(len(body)))])
        self.connection.send_data(self.number, body, end_stream=True)

    def reset(self, code: h2.errors.ErrorCodes) -> None:
        """RST_STREAM."""
        self.connection.reset_stream(self.number, code)

    def go_away(self, last: int) -> None:
        """Send GOAWAY: streams after `last` have not been handled."""
        self.connection.close_connection(last_stream_id=last)


@dataclass(frozen=True)
class Http2Step:
    """A step for a request: at its end, or `early`, when its head has arrived; then nothing of its body is read."""

    act: Callable[[Stream], object]
    early: bool = False


class RawHttp2Server(RawServer):
    """A server that misbehaves over HTTP/2, for clients that expect HTTP/2, or learn it by TLS."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.steps: deque[Http2Step] = deque()
        self.paths: dict[str, Callable[[Stream], object]] = {}
        """What meets requests for a path when the steps are at their end; default: an answer."""
        self.held: list[Stream] = []
        self.cut: list[str] = []
        """The paths of streams that the client has reset."""
        self.most_streams = 100
        """That a connection may have at a time, beginning with the next one."""

    def reset(self) -> None:
        super().reset()
        self.steps.clear()
        self.paths = {"/hang": Stream.hang, "/held": self.held.append}
        self.held.clear()
        self.cut.clear()
        self.most_streams = 100

    def let_go(self) -> None:
        """Answer the requests that are held."""

        async def answer() -> None:
            while self.held:
                stream = self.held.pop(0)
                stream.answer()
                stream.flush()

        asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    def _settle(self) -> None:
        """As for HTTP/1; then end all connections: on a busy machine a request of the test before may still come."""
        if self._tls is None:
            with socket.create_connection(("127.0.0.1", self._port)) as last:
                last.recv(65536)  # its settings come when all connections before it have been accepted

        async def end() -> None:
            tasks = list(self._at_work)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        most = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.most_streams}
        connection.local_settings = h2.settings.Settings(client=False, initial_values=most)
        connection.initiate_connection()
        streams: dict[int, Stream] = {}
        early: set[int] = set()
        while True:
            writer.write(connection.data_to_send())
            data = await reader.read(65536)
            if not data:
                writer.close()
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    fields = {name.decode(): value.decode() for name, value in event.headers}
                    asked = Asked(fields[":method"], fields[":path"], fields)
                    self.seen.append(asked)
                    number = event.stream_id
                    streams[number] = Stream(connection, number, asked, writer)
                    if asked.path == "/deaf":  # later data is neither read nor answered
                        await reader.read()
                        writer.close()
                        return
                    if self.steps and self.steps[0].early:
                        early.add(number)
                        self.steps.popleft().act(streams[number])
                elif isinstance(event, h2.events.DataReceived) and event.stream_id not in early:
                    streams[event.stream_id].asked.body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id not in early:
                    stream = streams[event.stream_id]
                    stream.asked.whole = True
                    act = self.paths.get(stream.asked.path, Stream.answer)
                    if self.steps:
                        act = self.steps.popleft().act
                    with contextlib.suppress(h2.exceptions.ProtocolError):  # the client has reset it already
                        act(stream)
                elif isinstance(event, h2.events.StreamReset):
                    self.cut.append(streams[event.stream_id].asked.path)
                    self.held[:] = [stream for stream in self.held if stream is not streams[event.stream_id]]
                elif isinstance(event, h2.events.ConnectionTerminated):
                    writer.close()
                    return
