"""Iterators of ours are closed when a reader stops early, together with the iterators inside them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
import trio

from resilient import CircuitBreaker, Pipeline, Retry
from resilient.faults import DrippingBody, TruncatedBody
from resilient.http.delegate import close_iterator
from resilient.http.lifecycle import KEPT_BYTES
from tests.http.kinds import URL, AsyncHttpx, AsyncHttpx2, Kind

ASYNC: Any = pytest.mark.parametrize("kind", [AsyncHttpx, AsyncHttpx2], ids=lambda kind: kind.name)


def breaking() -> Pipeline:
    return Pipeline(Retry(2, wait=0), CircuitBreaker())


class Server:
    """Answers with bodies of two parts each, and records which of their iterators have ended."""

    def __init__(self, kind: type[Kind], *statuses: int, size: int = 1) -> None:
        self.ended: list[bool] = []
        server, library, left = self, kind.library, list(statuses)

        class Body(library.AsyncByteStream):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                self.number = len(server.ended)
                server.ended.append(False)

            async def __aiter__(self) -> AsyncIterator[bytes]:
                try:
                    yield b"a" * size
                    yield b"b" * size
                finally:
                    server.ended[self.number] = True

        def answer(request: Any) -> Any:
            return library.Response(left.pop(0) if left else 200, stream=Body())

        self.transport = library.MockTransport(answer)


def guarded(kind: type[Kind], server: Server, **options: Any) -> Any:
    return kind.ours.AsyncTransport(breaking(), transport=server.transport, **options)


def chaotic(kind: type[Kind], server: Server, fault: Any) -> Any:
    return kind.ours.AsyncChaosTransport(fault, transport=server.transport, enabled=True, halt_rate=None)


BODIES: dict[str, Callable[[type[Kind], Server], Any]] = {
    "followed": guarded,
    "bounded": lambda kind, server: guarded(kind, server, body_timeout=5.0),
    "truncated": lambda kind, server: chaotic(kind, server, TruncatedBody(keep=100)),
    "dripping": lambda kind, server: chaotic(kind, server, DrippingBody(pause=0.0001)),
}


def run(loop: str, main: Callable[[], Any]) -> None:
    asyncio.run(main()) if loop == "asyncio" else trio.run(main)


@ASYNC
@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_closing_the_iterator_of_a_body_closes_the_one_inside(kind: type[Kind], make: Any, loop: str) -> None:
    """This holds for each way to end a generator, without the garbage collector."""

    async def main() -> None:
        for way in ("aclose", "athrow", "read"):
            server = Server(kind)
            response = await make(kind, server).handle_async_request(kind.library.Request("GET", URL))
            parts = aiter(response.stream)
            assert isinstance(parts, AsyncGenerator)
            assert await parts.asend(None) == b"a"
            if way == "aclose":
                await parts.aclose()
            elif way == "athrow":
                with pytest.raises(LookupError):
                    await parts.athrow(LookupError())
            else:
                with pytest.raises((StopAsyncIteration, kind.library.RemoteProtocolError)):
                    for _ in range(3):
                        await anext(parts)
            assert server.ended == [True]
            await response.aclose()

    run(loop, main)


@ASYNC
def test_no_iterator_of_ours_is_left_to_the_garbage_collector(kind: type[Kind]) -> None:
    """A reader that breaks off leaves only the client's own iterators."""
    begun: list[Any] = []

    async def main() -> None:
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(begun.append, before.finalizer)
        for make in BODIES.values():
            async with (
                kind.library.AsyncClient(transport=make(kind, Server(kind))) as client,
                client.stream("GET", URL) as response,
            ):
                async for _ in response.aiter_raw():
                    break

    asyncio.run(main())
    assert begun
    assert not [each for each in begun if "/resilient/" in each.ag_code.co_filename]


@ASYNC
def test_response_that_is_superseded_half_read_leaves_no_iterator(kind: type[Kind]) -> None:
    """The rest of a long response is never read."""

    async def main() -> None:
        server = Server(kind, 503, size=KEPT_BYTES)
        async with kind.library.AsyncClient(transport=guarded(kind, server)) as client:
            assert (await client.get(URL)).status_code == 200
        assert server.ended == [True, True]

    asyncio.run(main())


async def test_iterator_that_is_being_read_is_left_to_its_reader() -> None:
    """It cannot be closed while it is read."""
    go_on = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        await go_on.wait()
        yield b"a"

    chunks = parts()
    reader = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    await close_iterator(chunks)
    go_on.set()
    assert await reader == b"a"
    await close_iterator(chunks)
    await close_iterator(iter(()))
