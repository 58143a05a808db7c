"""The server of `metastable`: a bounded pool of workers, with or without the server middleware.

A request waits for a worker, and holds it for a drawn time (exponential). The application does not learn that a client
has left: it finishes the work, as most servers do. After `/stall/SECONDS`, no worker begins anything for that time.

    python -m benchmarks.effect.metastable_server WORKERS MEAN_SECONDS off|deadline|limit
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

from benchmarks.harness import loopback

__all__ = ["Pool", "guarded"]


class Pool:
    """The ASGI application, with `workers` workers and `mean` seconds per request on average."""

    def __init__(self, workers: int, mean: float) -> None:
        self._workers = asyncio.Semaphore(workers)
        self._mean = mean
        self._begins = asyncio.Event()
        self._begins.set()
        self._generator = random.Random("pool")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, what, *rest = scope["path"].split("/")
        if what == "stall":
            self._begins.clear()
            asyncio.get_running_loop().call_later(float(rest[0]), self._begins.set)
        else:
            async with self._workers:
                await self._begins.wait()
                await asyncio.sleep(self._generator.expovariate(1 / self._mean))
        await loopback.application(scope, receive, send)


def guarded(application: Any, how: str) -> Any:
    """The application alone ("off"), under the middleware with deadlines ("deadline"), or with an adaptive limit
    ("limit"). Raises ValueError for another `how`."""
    from resilient import AdaptiveLimit
    from resilient.server.asgi import ServerMiddleware

    def exempt(scope: Any) -> bool:
        return bool(scope["path"].startswith("/stall"))

    match how:
        case "off":
            return application
        case "deadline":
            return ServerMiddleware(application, deadline_header=True, exempt=exempt)
        case "limit":
            return ServerMiddleware(application, limit=AdaptiveLimit(), exempt=exempt)
    raise ValueError(f"the middleware must be off, deadline or limit, got {how!r}")


if __name__ == "__main__":
    loopback.serve(guarded(Pool(int(sys.argv[1]), float(sys.argv[2])), sys.argv[3]))
