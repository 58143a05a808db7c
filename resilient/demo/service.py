"""The service that the demo calls, written twice: as most code has it, and with the four policies.

Both take an `httpx.AsyncClient` and call the server processes in turn, and both raise on an error
status. What `resilient_inventory` adds is all there is to it, and what a real service would have:

    call ─ Timeout 10 s ─ Retry ─ Bulkhead ─┬─ CircuitBreaker ─ Timeout 0.4 s ─ process 1
                                            ├─ CircuitBreaker ─ Timeout 0.4 s ─ process 2
                                            └─ CircuitBreaker ─ Timeout 0.4 s ─ process 3
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    FullJitter,
    Pipeline,
    Retry,
    Timeout,
    events,
)

__all__ = ["GetItem", "plain_inventory", "resilient_inventory"]

Item = dict[str, Any]
GetItem = Callable[[int], Awaitable[Item]]


def plain_inventory(client: httpx.AsyncClient, urls: Sequence[str]) -> GetItem:
    """`get_item` without any policy: the client's own timeout is all that guards it."""
    turn = itertools.cycle(urls)

    async def get_item(number: int) -> Item:
        response = await client.get(f"{next(turn)}/items/{number}")
        response.raise_for_status()
        item: Item = response.json()
        return item

    return get_item


def resilient_inventory(
    client: httpx.AsyncClient,
    urls: Sequence[str],
    on_event: Callable[[events.Event], object],
) -> GetItem:
    """`get_item` with all four; `on_event` hears what happens in it."""
    processes = [_guarded(client, url, f"inventory-{i}", on_event) for i, url in enumerate(urls, 1)]
    turn = itertools.cycle(processes)
    pipeline = Pipeline(
        # The whole call, waits included. The retry plan needs 5.5 s at worst (6 x 0.4 s, and 3.1 s
        # of waits).
        Timeout(10),
        # Waits of up to 0.1, 0.2, 0.4, 0.8 and 1.6 s: 3.1 s, longer than a process takes to be
        # restarted. Random all the way down to 0, so that calls which failed together do not come
        # back together.
        Retry(attempts=6, wait=FullJitter(base=0.1, cap=2.0)),
        # Two calls are in flight when all is well (100/s of 16 ms each). 200 is trouble that more
        # would only make worse.
        Bulkhead(200, queue=500),
        name="inventory",
    )
    pipeline.listen(on_event)

    @pipeline
    async def get_item(number: int) -> Item:
        refusal: CircuitOpen | None = None
        for _ in processes:
            process = next(turn)
            try:
                return await process(number)
            except CircuitOpen as error:
                refusal = error  # nothing was sent, so the next process may have the call at once
        assert refusal is not None
        raise refusal

    return get_item


def _guarded(
    client: httpx.AsyncClient,
    url: str,
    name: str,
    on_event: Callable[[events.Event], object],
) -> GetItem:
    """One process behind its own circuit: one over all three would shut out the good ones too."""
    pipeline = Pipeline(
        CircuitBreaker(
            fail_max=10,  # in a row: a dead process does that at once, a shared hiccup hardly ever
            failure_rate=0.5,  # over the window: a process that is half dead
            window_seconds=10.0,
            min_calls=20,  # half of fewer calls is chance
            break_duration=0.5,  # about what a restart takes; calls go elsewhere meanwhile
            max_break=5.0,  # doubled at every failed probe, but no longer than a deploy
            probes=2,
            success_threshold=2,  # two good answers, because one may be luck
            name=name,
        ),
        # One attempt. A healthy answer takes 10 to 30 ms, so only the slow tail is cut off.
        Timeout(0.4),
        name=name,
    )
    pipeline.listen(on_event)

    @pipeline
    async def fetch(number: int) -> Item:
        response = await client.get(f"{url}/items/{number}")
        response.raise_for_status()
        item: Item = response.json()
        return item

    return fetch
