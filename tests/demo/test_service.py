"""The two clients that the demo compares, against scripted processes in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import pytest

from resilient import CircuitOpen, events
from resilient.demo.service import InTurn, get_item, plain_client, resilient_client

pytestmark = pytest.mark.virtual_time

ONE, TWO, THREE = PROCESSES = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

Behaviour = Callable[[], Awaitable[httpx.Response]]


async def well() -> httpx.Response:
    """A healthy answer."""
    await asyncio.sleep(0.012)
    return httpx.Response(200, json={"item": 7})


async def slow() -> httpx.Response:
    """A late answer."""
    await asyncio.sleep(1.0)
    return httpx.Response(200, json={"item": 7})


async def overloaded() -> httpx.Response:
    """A 503."""
    return httpx.Response(503)


async def dead() -> httpx.Response:
    """A refused connection."""
    raise httpx.ConnectError("refused")


class Processes(httpx.AsyncBaseTransport):
    """Three scripted processes, and the requests that they got."""

    def __init__(self, **behaviours: Behaviour) -> None:
        told = {"one": ONE, "two": TWO, "three": THREE}
        self.behaviours = dict.fromkeys(PROCESSES, well) | {told[each]: does for each, does in behaviours.items()}
        self.asked: list[str] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Behave as scripted."""
        origin = f"{request.url.scheme}://{request.url.host}:{request.url.port}"
        self.asked.append(origin)
        self.requests.append(request)
        return await self.behaviours[origin]()


async def test_in_turn_sends_each_request_to_the_next_process() -> None:
    """Path, method, headers and body stay; the original request does not change."""
    processes = Processes()
    async with httpx.AsyncClient(transport=InTurn(PROCESSES, processes)) as client:
        answers = [await client.put("http://inventory/items/7?full=1", content=b"new") for _ in range(4)]
    assert processes.asked == [ONE, TWO, THREE, ONE]
    sent = processes.requests[1]
    assert (sent.method, str(sent.url), sent.headers["Host"]) == ("PUT", f"{TWO}/items/7?full=1", "inventory")
    assert await sent.aread() == b"new"
    assert str(answers[1].request.url) == "http://inventory/items/7?full=1"


async def test_in_turn_goes_past_a_process_whose_circuit_is_open() -> None:
    """Nothing was sent, so the next process gets the request at once."""

    async def refused() -> httpx.Response:
        raise CircuitOpen("open")

    processes = Processes(one=refused, two=refused)
    async with httpx.AsyncClient(transport=InTurn(PROCESSES, processes)) as client:
        assert (await client.get("http://inventory/items/7")).status_code == 200
        assert processes.asked == PROCESSES
        processes.behaviours[THREE] = refused
        with pytest.raises(CircuitOpen):
            await client.get("http://inventory/items/7")
        assert len(processes.asked) == 6


async def test_plain_client_is_at_the_mercy_of_the_process_it_meets() -> None:
    """One request per call, and its failure is that of the call."""
    processes = Processes(two=dead, three=overloaded)
    async with plain_client(PROCESSES, processes) as client:
        assert await get_item(client, 7) == {"item": 7}
        with pytest.raises(httpx.ConnectError):
            await get_item(client, 7)
        with pytest.raises(httpx.HTTPStatusError):
            await get_item(client, 7)
    assert processes.asked == PROCESSES


@pytest.mark.parametrize("behaviour", [dead, overloaded])
async def test_failure_has_its_second_copy_at_the_next_process_at_once(behaviour: Behaviour) -> None:
    """There is neither a hedge delay nor a pause of the Retry."""
    heard: list[events.Event] = []
    processes = Processes(one=behaviour)
    async with resilient_client(PROCESSES, processes, 100, heard.append) as client:
        began = asyncio.get_running_loop().time()
        assert await get_item(client, 7) == {"item": 7}
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.012)
    assert processes.asked == [ONE, TWO]
    assert [event.reason for event in heard if isinstance(event, events.Hedging)] == ["failure"]


async def test_slow_answer_is_overtaken_by_a_second_copy() -> None:
    """The call takes 50 ms and the 12 ms of a healthy answer."""
    heard: list[events.Event] = []
    processes = Processes(one=slow)
    async with resilient_client(PROCESSES, processes, 100, heard.append) as client:
        began = asyncio.get_running_loop().time()
        assert await get_item(client, 7) == {"item": 7}
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.062)
    assert [(event.copy, event.copies) for event in heard if isinstance(event, events.HedgeWon)] == [(2, 2)]


@pytest.mark.parametrize("behaviour", [dead, overloaded, slow])
async def test_process_that_fails_or_hangs_is_left_alone_by_its_circuit(behaviour: Behaviour) -> None:
    """After ten failures in a row it gets no more requests for a while; no other circuit opens."""
    heard: list[events.Event] = []
    processes = Processes()
    async with resilient_client(PROCESSES, processes, 100, heard.append) as client:
        for _ in range(150):  # earns a budget
            await get_item(client, 7)
        processes.behaviours[TWO] = behaviour
        for _ in range(3 * 10):
            await get_item(client, 7)
        asked = Counter(processes.asked)[TWO]
        for _ in range(10):
            await get_item(client, 7)
        assert Counter(processes.asked)[TWO] == asked
    changed = [(event.policy, event.new) for event in heard if isinstance(event, events.CircuitChanged)]
    assert changed == [(f"CircuitBreaker[{TWO}]", "open")]
