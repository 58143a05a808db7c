"""The processor time that a transport adds to a real request over loopback, in pairs with the plain client.

The server is uvicorn, in a process of its own, on another core if there is one. It answers with a small JSON. Clients
call it through `AsyncClient.get`, one request after the other on a kept connection: the client does least there, so an
addition weighs most. Each client has its own pool, and the same inner transport.

- A block is some requests of one client. Each guarded block stands between two plain ones. Its ratio is the processor
  time of this process per request (`time.process_time`, all threads), divided by the mean of those two. The order is
  drawn anew in each round. Blocks are short, two requests: other load on the machine changes within milliseconds, and
  so affects both. (On a busy machine the interval is a fifth of that with blocks of 25, for the same number of
  requests.)
- The figure is the median of the ratios, with its 95% interval by order statistics, which holds for every distribution.
- The garbage collector is on, as in a program. (A collection before each round made the next block slower by a quarter:
  it empties CPython's free lists and the processor's caches.)
"""

from __future__ import annotations

import gc
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness.statistics import median_interval

__all__ = ["Block", "Paired", "Plan", "Server", "compare", "serve"]

WARM = 50
"""Requests of each client before the first measured one."""
BODY = b'{"id": 17, "name": "Ada Lovelace", "roles": ["reader", "author"]}'


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a measurement: `rounds` rounds, in each a block of `requests` requests of every client
    (`judged_blocks` blocks of judged clients). No new round starts after `seconds`. All this in each of `processes`
    processes."""

    rounds: int
    requests: int
    judged_blocks: int = 1
    seconds: float = math.inf
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    """Nanoseconds per request: processor time and wall time."""

    processor: float
    wall: float


@dataclass(slots=True)
class Paired:
    """One client over all rounds: its blocks, and the ratio of each to the plain blocks around it."""

    blocks: list[Block] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @classmethod
    def pooled(cls, parts: Sequence[Paired]) -> Paired:
        """Join the samples of one client from several processes."""
        return cls(
            [block for part in parts for block in part.blocks], [ratio for part in parts for ratio in part.ratios]
        )

    def added(self) -> float:
        """The median added processor time, as a share of the plain client's."""
        return statistics.median(self.ratios) - 1

    def add(self, block: Block, before: Block, after: Block) -> None:
        self.blocks.append(block)
        self.ratios.append(2 * block.processor / (before.processor + after.processor))

    def values(self) -> dict[str, float]:
        """The values for a `Figure`: the added processor time with its interval, the number of pairs, and `costs`."""
        found = self.costs()
        low, high = median_interval(self.ratios)
        return {
            "added_percent": round(100 * self.added(), 3),
            "added_low_percent": round(100 * (low - 1), 3),
            "added_high_percent": round(100 * (high - 1), 3),
            "pairs": len(self.ratios),
            **found,
        }

    def costs(self) -> dict[str, float]:
        """The values that the plain client has as well: processor time per request, and requests per second."""
        return {
            "request_cpu_ns": round(statistics.median(block.processor for block in self.blocks)),
            "requests_per_s": round(1e9 / statistics.median(block.wall for block in self.blocks), 1),
        }


async def measure(client: Any, url: str, requests: int) -> Block:
    """Measure one block. Raises RuntimeError if a request is not answered with 200."""
    get, answered = client.get, 0
    wall, processor = time.perf_counter_ns(), time.process_time_ns()
    for _ in repeat(None, requests):
        answered += (await get(url)).status_code == 200
    block = Block((time.process_time_ns() - processor) / requests, (time.perf_counter_ns() - wall) / requests)
    if answered < requests:
        raise RuntimeError(f"{requests - answered} of {requests} requests were not answered with 200")
    return block


async def compare(
    plain: Any,
    clients: Mapping[str, Any],
    judged: Collection[str],
    url: str,
    plan: Plan,
    order: random.Random,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[Paired, dict[str, Paired]]:
    """Measure every client in pairs with the plain one. Returns the plain client's blocks, and the others by name."""
    for client in (plain, *clients.values()):
        await measure(client, url, WARM)
    turns = [name for name in clients for _ in range(plan.judged_blocks if name in judged else 1)]
    found = {name: Paired() for name in clients}
    gc.collect()
    before = await measure(plain, url, plan.requests)
    base = Paired([before])
    until = time.monotonic() + plan.seconds
    for _ in progress(range(plan.rounds)):
        order.shuffle(turns)
        for name in turns:
            block = await measure(clients[name], url, plan.requests)
            after = await measure(plain, url, plan.requests)
            found[name].add(block, before, after)
            base.blocks.append(after)
            before = after
        if time.monotonic() > until:
            break
    return base, found


class Server:
    """The server's process, as a context manager. It runs `module` as a program, with `arguments`."""

    def __init__(self, module: str = "benchmarks.harness.loopback", *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.__exit__()
            raise RuntimeError(f"the server did not start: its process ended with {self._process.returncode}")
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/users/17"

    def avoid(self, core: int | None) -> None:
        """Keep the server's process off this core if it may run on another one."""
        if core is not None and (others := os.sched_getaffinity(self._process.pid) - {core}):
            os.sched_setaffinity(self._process.pid, others)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        with self._process:  # closes the pipes, so the process ends, and waits for its end
            pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers every request at once."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def serve(application: Any) -> None:
    """Write the port to stdout, and serve the ASGI application until stdin closes."""
    import uvicorn

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    # asyncio sets TCP_NODELAY only if the protocol is named; without it, answers take 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # clients that connect before uvicorn runs wait
    threading.Thread(target=watch, daemon=True).start()
    config = uvicorn.Config(
        application,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_keep_alive=60,  # longer than a client keeps an idle connection, so none is closed under a request
    )
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(application)
