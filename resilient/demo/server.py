"""One server process of the demo, with its faults: starlette under uvicorn.

    python -m resilient.demo.server --number 2 --seed 1 --duration 20

The parent controls it through its standard streams:

- it writes the port that it listens on to stdout, as one line;
- a line on stdin, a `time.time()`, says when the run began (or will begin): the times of faults count from there;
- when stdin closes it exits at once. However the parent ends, even by SIGKILL, the pipe closes too, so no process is
left behind, on any platform.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from resilient.demo.faults import draw_plan
from resilient.faults import Errors, Fault, Latency, Slowness, Stall
from resilient.faults.selection import met

__all__ = ["Inventory", "main"]

MEDIAN_SECONDS = 0.012  # a healthy answer; well above what the loopback itself adds
SERVED = (Errors, Latency, Slowness, Stall)  # a crash is done by the fleet, which kills the process
BIND_SECONDS = 5.0  # seconds that a restarted process tries to bind its old port


class Inventory:
    """The service: `GET /items/{number}`, after some work, or with its faults.

    Args:
        faults: of the kinds in `SERVED`, each with the numbers of the servers that it hits.
        server: the number of this server.
        seed: of everything random here.
        median, spread: seconds that the work on an item takes, and the deviation of their logarithm.
    """

    def __init__(
        self, faults: Sequence[Fault], server: int, seed: int, *, median: float = MEDIAN_SECONDS, spread: float = 0.25
    ) -> None:
        for at, fault in enumerate(faults):
            _check(f"fault[{at}]", fault)
        self._faults = tuple(faults)
        self._server = server
        self._median = median
        self._spread = spread
        self._draw = random.Random(f"{seed}/server/{server}")
        self._began = math.inf

    def begin(self, at: float) -> None:
        """Start the run at `at`, on the clock of the event loop (a `time.monotonic()`)."""
        self._began = at

    async def item(self, request: Request) -> Response:
        """Answer with one item, late, or with an error."""
        # Two draws a request whatever happens, so that the streams of both sides stay comparable.
        work = self._median * self._draw.lognormvariate(0.0, self._spread)
        draw = random.Random(self._draw.random())
        seconds = asyncio.get_running_loop().time() - self._began
        for fault, delay in met(self._faults, seconds, lambda fault: fault.hits(self._server), draw):
            await asyncio.sleep(delay)
            work *= fault.slowing
            if isinstance(fault, Errors):
                await asyncio.sleep(work / 4)  # a refusal is faster than work
                status, asked = fault.answer
                return JSONResponse({"error": "overloaded"}, status, asked)
        await asyncio.sleep(work)
        number = int(request.path_params["number"])
        return JSONResponse({"item": number, "stock": number % 7, "server": self._server})

    async def health(self, request: Request) -> Response:
        """Answer that the process takes requests; no fault affects it."""
        return JSONResponse({"server": self._server})

    def application(self) -> Starlette:
        """The service as an ASGI application, with `/items/{number}` and `/health`."""
        return Starlette(routes=[Route("/items/{number:int}", self.item), Route("/health", self.health)])


def _check(name: str, fault: Fault) -> None:
    """Refuse faults that a server cannot produce by itself."""
    if not isinstance(fault, SERVED):
        kinds = ", ".join(each.__name__ for each in SERVED)
        raise TypeError(f"{name} must be one of {kinds}, which a server can do by itself, got {fault!r}")
    if isinstance(fault, Errors) and fault.error is not None:
        raise ValueError(f"{name} has error={fault.error!r}, but the errors of a server are statuses: give it status=")
    if isinstance(fault, Stall) and fault.end is None:
        raise ValueError(f"{name} must have an end, or its requests are never answered, got {fault!r}")
    if any(isinstance(target, str) for target in fault.targeted):
        raise ValueError(f"{name}.targets must be numbers of servers, got {fault.targets!r}")


def _watch_stdin(inventory: Inventory) -> None:
    # A thread, because portable non-blocking reads of a pipe do not exist. os._exit, because there
    # is nothing to save and a graceful end would wait for slow answers to clients that are gone.
    for line in sys.stdin:
        inventory.begin(time.monotonic() + (float(line) - time.time()))
    os._exit(0)


def _listen(port: int) -> socket.socket:
    """A socket bound to the loopback interface: on any free port for 0, else on that port once it is free."""
    give_up = time.monotonic() + BIND_SECONDS
    while True:
        # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, answers
        # take 40 ms more.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere it would allow two listeners
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            # A client's connection may have been given the number while its owner was dead.
            listener.close()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return listener


def main() -> None:
    """Serve one process of the fleet until its standard input closes."""
    parser = argparse.ArgumentParser(prog="resilient.demo.server")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    plan = draw_plan(options.seed, options.duration)
    inventory = Inventory(plan.served, options.number, options.seed)
    listener = _listen(options.port)
    threading.Thread(target=_watch_stdin, args=(inventory,), daemon=True).start()
    config = uvicorn.Config(
        inventory.application(),
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
    )
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
