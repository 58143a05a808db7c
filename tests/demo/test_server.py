"""The application of one server process: healthy, failing or slow, as planned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from resilient.demo.server import Inventory
from resilient.faults import Errors, Latency
from resilient.testing import now

BURST = Errors(end=60.0, targets=1, status=503)


@pytest_asyncio.fixture
async def burst() -> AsyncIterator[tuple[Inventory, httpx.AsyncClient]]:
    """A service whose run has not begun, and which answers 503 for its first minute."""
    inventory = Inventory([BURST], server=1, seed=1)
    transport = httpx.ASGITransport(inventory.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield inventory, client


@pytest.mark.asyncio
async def test_item_is_served_while_there_is_no_fault(
    burst: tuple[Inventory, httpx.AsyncClient],
) -> None:
    """Before the start of the run no fault is active."""
    response = await burst[1].get("/items/8")
    assert response.json() == {"item": 8, "stock": 1, "server": 1}


@pytest.mark.asyncio
async def test_burst_answers_its_status(burst: tuple[Inventory, httpx.AsyncClient]) -> None:
    """From the start of the run, every request of a full burst fails."""
    inventory, client = burst
    inventory.begin(asyncio.get_running_loop().time())
    assert [(await client.get("/items/8")).status_code for _ in range(3)] == [503] * 3


@pytest.mark.asyncio
async def test_health_is_spared_by_the_burst(burst: tuple[Inventory, httpx.AsyncClient]) -> None:
    """Readiness must not depend on the faults."""
    inventory, client = burst
    inventory.begin(asyncio.get_running_loop().time())
    assert (await client.get("/health")).status_code == 200


@pytest.mark.virtual_time
async def test_slow_tail_delays_its_share_of_answers() -> None:
    """With a share of one, every answer takes at least the lower end of the tail."""
    inventory = Inventory([Latency(low=1, high=2)], server=1, seed=1)
    inventory.begin(asyncio.get_running_loop().time())
    transport = httpx.ASGITransport(inventory.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        started = now()
        await client.get("/items/1")
    assert 1 <= now() - started < 2.1
