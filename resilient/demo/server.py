"""One server process of the demo, and how it misbehaves: starlette under uvicorn.

    python -m resilient.demo.server --number 2 --seed 1 --duration 20

Its standard streams are its leash:

- it writes the port it listens on to stdout, as one line;
- a line on stdin, a `time.time()`, says when the run began (or will): from then on the plan's
  windows count;
- when stdin closes it exits at once. However the parent ends, SIGKILL included, the pipe closes
  with it, so no process stays behind, on any platform.
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

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from resilient.demo.faults import FaultPlan, draw_plan

__all__ = ["Inventory", "main"]

MEDIAN_SECONDS = 0.012  # a healthy answer; well above what the loopback itself adds
BIND_SECONDS = 5.0  # how long a restarted process tries for its old port


class Inventory:
    """The service: `GET /items/{number}`, after some work, or after the faults' whim."""

    def __init__(self, plan: FaultPlan, server: int, seed: int) -> None:
        self._plan = plan
        self._server = server
        self._draw = random.Random(f"{seed}/server/{server}")
        self._began = math.inf

    def begin(self, at: float) -> None:
        """Let the run begin at `at`, a `time.time()`."""
        self._began = time.monotonic() + (at - time.time())

    async def item(self, request: Request) -> Response:
        """One item, late or not at all."""
        # Three draws a request whatever happens, so that the streams of both sides stay comparable.
        work = MEDIAN_SECONDS * self._draw.lognormvariate(0.0, 0.25)
        tail, error = self._draw.random(), self._draw.random()
        seconds = time.monotonic() - self._began
        share, status = self._plan.error_share(self._server, seconds)
        if error < share:
            await asyncio.sleep(work / 4)  # refusing is quicker than working
            return JSONResponse({"error": "overloaded"}, status)
        latency = self._plan.latency
        if tail < latency.share and seconds >= 0:
            spread = latency.high - latency.low
            work += latency.low + spread * tail / latency.share
        await asyncio.sleep(work)
        number = int(request.path_params["number"])
        return JSONResponse({"item": number, "stock": number % 7, "server": self._server})

    async def health(self, request: Request) -> Response:
        """Says that the process takes requests; no fault touches it."""
        return JSONResponse({"server": self._server})

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(routes=[Route("/items/{number:int}", self.item), Route("/health", self.health)])


def _watch_stdin(inventory: Inventory) -> None:
    # A thread, because portable non-blocking reads of a pipe do not exist. os._exit, because there
    # is nothing to save and a graceful end would wait for slow answers that nobody awaits any more.
    for line in sys.stdin:
        inventory.begin(float(line))
    os._exit(0)


def _listen(port: int) -> socket.socket:
    """A socket bound to the loopback: to any free port for 0, else to that one, once it is free."""
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
    """Serve until stdin closes."""
    parser = argparse.ArgumentParser(prog="resilient.demo.server")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    plan = draw_plan(options.seed, options.duration)
    inventory = Inventory(plan, options.number, options.seed)
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
