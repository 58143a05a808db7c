"""Operations that virtual time could not repeat end the run: no policy, handler or forgotten task hides that."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import socket
import threading
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from resilient import Deadlock, Fallback, Hedge, Pipeline, Retry, Timeout
from resilient.errors import VirtualTimeError
from resilient.runtime import virtual
from resilient.runtime.virtual import VirtualLoop

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of anyio's threads

Run = Callable[[AbstractEventLoop], Awaitable[Any]]


def refused(main: Callable[[], Any]) -> str:
    """The message of the error with which a run of `main()` ends."""
    with pytest.raises(VirtualTimeError) as caught:
        virtual.run(main())
    return str(caught.value)


def _socket() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    return made


async def _connect(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _serve(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.start_server(print, "127.0.0.1", 0)


async def _datagram(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))


async def _unix(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_unix_connection(asyncio.Protocol, "/tmp/none")


async def _resolve(loop: asyncio.AbstractEventLoop) -> None:
    await loop.getaddrinfo("localhost", 80)


async def _receive(loop: asyncio.AbstractEventLoop) -> None:
    with _socket() as made:
        await loop.sock_recv(made, 1)


async def _sock_connect(loop: asyncio.AbstractEventLoop) -> None:
    with _socket() as made:
        await loop.sock_connect(made, ("127.0.0.1", 9))


async def _watch(loop: asyncio.AbstractEventLoop) -> None:
    with _socket() as made:
        loop.add_reader(made, list)


async def _http(loop: asyncio.AbstractEventLoop) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get("http://127.0.0.1:9/")


async def _to_thread(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.to_thread(list)


async def _executor(loop: asyncio.AbstractEventLoop) -> None:
    await loop.run_in_executor(None, list)


async def _process(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.create_subprocess_exec("true")


async def _shell(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.create_subprocess_shell("true")


async def _pipe(loop: asyncio.AbstractEventLoop) -> None:
    await loop.connect_read_pipe(asyncio.Protocol, None)


async def _anyio_thread(loop: asyncio.AbstractEventLoop) -> None:
    await anyio.to_thread.run_sync(list)


async def _signal(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(signal.SIGTERM, list)


REFUSED: list[tuple[Run, str]] = [
    (_connect, "sockets"),
    (_serve, "sockets"),
    (_datagram, "sockets"),
    (_unix, "sockets"),
    (_resolve, "sockets"),
    (_receive, "sockets"),
    (_sock_connect, "sockets"),
    (_watch, "sockets"),
    (_http, "sockets"),
    (_to_thread, "threads"),
    (_executor, "threads"),
    (_anyio_thread, "threads"),
    (_process, "processes"),
    (_shell, "processes"),
    (_pipe, "processes"),
    (_signal, "signals"),
]


@pytest.mark.parametrize(("use", "what"), REFUSED, ids=lambda each: getattr(each, "__name__", each))
def test_refusal_says_what_where_and_what_to_use_instead(use: Run, what: str) -> None:
    """The line of the user's own code, though a library asked; or where each task waits, if its task has none."""

    async def main() -> None:
        await use(asyncio.get_running_loop())

    text = refused(main)
    assert text.startswith(f"virtual time has no {what} (")
    assert f"{use.__name__} (test_virtual_refusals.py:" in text  # type: ignore[attr-defined]
    assert "or use a real event loop" in text
    assert {"sockets": "MockTransport", "signals": "the handler"}.get(what, "Dependency") in text


def test_every_operation_of_an_event_loop_is_refused_or_works() -> None:
    """A method of asyncio's loops that is neither would fail with `NotImplementedError`, which policies repeat."""
    loop = VirtualLoop()
    with contextlib.closing(loop):
        names = [name for name in vars(AbstractEventLoop) if not name.startswith("_")]
        missing = [name for name in names if getattr(type(loop), name) is getattr(AbstractEventLoop, name)]
    assert missing == []


@pytest.mark.parametrize("method", ["remove_reader", "remove_writer", "remove_signal_handler"])
def test_nothing_is_there_to_be_removed(method: str) -> None:
    """Libraries remove what they may have added when they close."""

    async def main() -> Any:
        return getattr(asyncio.get_running_loop(), method)(signal.SIGTERM)

    assert virtual.run(main()) is False


# -- nothing hides it --------------------------------------------------------------------------------------------


async def use_a_socket() -> str:
    await asyncio.open_connection("127.0.0.1", 9)
    return "real"


async def use_a_thread() -> str:
    return await asyncio.to_thread(str)


async def use_a_thread_of_anyio() -> str:
    return await anyio.to_thread.run_sync(str)


@pytest.mark.parametrize("use", [use_a_socket, use_a_thread, use_a_thread_of_anyio])
@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline(Fallback("cached"), Retry(attempts=3, wait=10)),
        Pipeline(Fallback("cached"), Timeout(5)),
        Pipeline(Fallback("cached"), Hedge(1)),
        Pipeline(Fallback("cached"), Retry(attempts=3), Timeout(5)),
    ],
    ids=str,
)
def test_refusal_is_handled_by_no_policy(pipeline: Pipeline, use: Callable[[], Awaitable[str]]) -> None:
    """The call is neither repeated nor answered for, and the run ends with the refusal."""
    assert f"{use.__name__} (" in refused(pipeline(use))  # type: ignore[attr-defined]


async def in_a_handler() -> None:
    with contextlib.suppress(Exception):
        await use_a_socket()


async def in_a_handler_of_everything() -> None:
    with contextlib.suppress(BaseException):
        await use_a_socket()


async def in_a_task_group() -> None:
    with contextlib.suppress(BaseException):
        async with asyncio.TaskGroup() as group:
            group.create_task(use_a_socket())


async def in_a_task_group_of_anyio() -> None:
    with contextlib.suppress(BaseException):
        async with anyio.create_task_group() as group:
            group.start_soon(use_a_socket)


async def in_gathered_results() -> None:
    await asyncio.gather(use_a_socket(), return_exceptions=True)


async def in_a_task_that_nobody_awaits() -> None:
    forgotten.append(asyncio.create_task(use_a_socket()))


async def in_a_task_that_ends_with_the_run() -> None:
    async def tidy() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await use_a_socket()

    forgotten.append(asyncio.create_task(tidy()))
    await asyncio.sleep(1)


async def in_a_client_that_maps_errors() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with contextlib.suppress(BaseException):
            await client.get("http://localhost:9/")


forgotten: list[Any] = []


@pytest.mark.parametrize(
    "main",
    [
        in_a_handler,
        in_a_handler_of_everything,
        in_a_task_group,
        in_a_task_group_of_anyio,
        in_gathered_results,
        in_a_task_that_nobody_awaits,
        in_a_task_that_ends_with_the_run,
        in_a_client_that_maps_errors,
    ],
)
def test_refusal_ends_the_run_however_it_was_handled(main: Callable[[], Any]) -> None:
    """The error names the line of the test that asked for it."""
    assert "(test_virtual_refusals.py:" in refused(main)
    forgotten.clear()


def test_loop_that_was_told_of_a_refusal_can_run_again() -> None:
    """One loop may serve several tests; the next one does not fail for the last."""
    loop = VirtualLoop()
    with contextlib.closing(loop):
        with pytest.raises(VirtualTimeError):
            loop.run_until_complete(in_a_handler())
        loop.run_until_complete(asyncio.sleep(1))
        assert loop.time() == 1.0


# -- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["call_soon_threadsafe", "run_coroutine_threadsafe"])
def test_calls_from_another_thread_are_refused(way: str) -> None:
    """The thread gets a `RuntimeError`, as from a closed loop; nothing is run; and the run ends."""
    errors: list[Exception] = []
    ran: list[str] = []

    async def late() -> None:
        ran.append("coroutine")

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def intrude() -> None:
            coroutine = late()
            try:
                if way == "call_soon_threadsafe":
                    loop.call_soon_threadsafe(ran.append, "callback")
                else:
                    asyncio.run_coroutine_threadsafe(coroutine, loop)
            except Exception as error:
                errors.append(error)
            finally:
                coroutine.close()

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        await asyncio.sleep(1)

    assert "call_soon_threadsafe from another thread" in refused(main)
    assert [type(error) for error in errors] == [RuntimeError]
    assert "another thread" in str(errors[0])
    assert ran == []


@pytest.mark.virtual_time
async def test_call_soon_threadsafe_from_the_loops_own_thread_is_fine() -> None:
    """Libraries use it for their own callbacks."""
    called = asyncio.Event()
    asyncio.get_running_loop().call_soon_threadsafe(called.set)
    await called.wait()


class Worker:
    """A thread that answers calls, as a driver of a database does (aiosqlite)."""

    def __init__(self, ready: threading.Event) -> None:
        self.asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ready = ready
        self.thread = threading.Thread(target=self.work, name="database")
        self.thread.start()

    def work(self) -> None:
        future = self.asked.get()
        self.ready.wait()
        with contextlib.suppress(RuntimeError):
            future.get_loop().call_soon_threadsafe(future.set_result, "real")

    async def ask(self) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.asked.put(future)
        return await future


def test_threads_that_answer_are_refused_whatever_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Timeout ends the wait for them before they could answer."""
    monkeypatch.setattr(virtual, "PATIENCE", 30)
    ready = threading.Event()
    ready.set()

    @Pipeline(Fallback("cached"), Timeout(5))
    async def main() -> Any:
        return await Worker(ready).ask()

    assert "call_soon_threadsafe from another thread, which is used in Worker.work (" in refused(main)


def test_deadlock_tells_of_threads_that_were_begun() -> None:
    """Virtual time does not wait for them."""
    ready = threading.Event()

    async def main() -> None:
        await Worker(ready).ask()

    with pytest.raises(Deadlock, match=r"run again \(virtual time does not wait for threads: database\) at t = 0 s"):
        virtual.run(main())
    ready.set()


@pytest.mark.virtual_time
async def test_threads_that_have_nothing_to_do_with_the_loop_are_left_alone() -> None:
    """The thread of a logger, say, which never calls the loop."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    await asyncio.sleep(60)
    stop.set()
    thread.join()


# -- what needs no I/O works -------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_http_without_a_network_works() -> None:
    """Mocks and applications in the process, slow ones too."""

    async def handle(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3)
        return httpx.Response(200, text="mock")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(4)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"application"})

    texts = []
    for transport in (httpx.MockTransport(handle), httpx.ASGITransport(application)):
        async with httpx.AsyncClient(transport=transport) as client:
            texts.append((await client.get("http://users.example/")).text)
    assert texts == ["mock", "application"]
    assert asyncio.get_running_loop().time() == 7.0


@pytest.mark.virtual_time
async def test_anyio_streams_events_and_limiters_work() -> None:
    """Streams, events and limiters of anyio, which need no I/O, work in virtual time."""
    send, receive = anyio.create_memory_object_stream[int](1)
    event, limiter = anyio.Event(), anyio.CapacityLimiter(1)

    async def produce() -> None:
        async with send, limiter:
            for number in range(3):
                await anyio.sleep(1)
                await send.send(number)
            event.set()

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        assert [number async for number in receive] == [0, 1, 2]
        await event.wait()
    receive.close()
    assert anyio.current_time() == 3.0
