"""What the server middleware adds to a Starlette hello-world: the server's processor time, in pairs.

Over the loopback first: uvicorn, in a process of its own, serves the same application on several ports: plain, under
Starlette's `CORSMiddleware`, and under ours with several settings. All are asked the same: the headers of an httpx
client with a deadline and a priority, and the `Origin` of a browser.

- Eight connections are kept busy at a port by a client that never sleeps: it sends the next request of a connection as
  soon as its answer is there, and looks for answers all the time. So the server always has something to do. (One
  request at a time measures how a process is woken: half of the server's time then.)
- A block is some requests to one port. Each guarded block is between two plain ones, and its pair is the processor time
  of the server's process (all its threads) for a request, as a ratio to the mean of those two; the order is drawn anew
  in each round. The figure is the median of the pairs, with its 95% interval (as in `loopback`).
- What a setting adds is also told as a multiple of what `CORSMiddleware` adds in the same run, with an interval of 95%
  from rounds that are drawn again (a bootstrap).
- The bars: on asyncio's own loop with httptools, as uvicorn is installed with its `standard` extra. A middleware of
  which nothing is asked adds 5% at the most; with a deadline, a priority and a `Bulkhead` it adds no more than
  `CORSMiddleware`, and with an `AdaptiveLimit` 1.2 times as much. h11 takes longer for a request, uvloop less.

Then for honesty the bare call of the application in one process, without a server or a network: what is added there is
the middleware's own cost, and its share is that of a program that does nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import math
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.loopback import Block, Paired
from benchmarks.harness.loopback import Plan as Pairs
from benchmarks.harness.measure import one_core
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report
from benchmarks.harness.statistics import Spread

__all__ = ["run"]

COLUMNS = (
    Column("cors_x", "x CORS", "{:.2f}"),
    Column("cors_low_x", "from", "{:.2f}"),
    Column("cors_high_x", "to", "{:.2f}"),
    Column("added_percent", "added CPU %", "{:+.2f}"),
    Column("added_low_percent", "from", "{:+.2f}"),
    Column("added_high_percent", "to", "{:+.2f}"),
    Column("added_ns", "added ns", "{:+,.0f}"),
    Column("pairs", "pairs", "{:,.0f}"),
    Column("request_cpu_ns", "CPU ns", "{:,.0f}"),
    Column("requests_per_s", "req/s", "{:,.0f}"),
)
QUICK = Pairs(rounds=120, requests=100, seconds=14)
FULL = Pairs(rounds=800, requests=100, seconds=90)
CONNECTIONS = 8
"""Connections to each port, which are all busy at once."""
PLAIN = "Starlette alone"
PEER = "Starlette's CORSMiddleware"
NOTHING = "nothing asked"
BULKHEAD = "deadline, priority, Bulkhead"
ADAPTIVE = "deadline, priority, AdaptiveLimit"
BARS = {
    NOTHING: Bar("added_percent", 5),
    BULKHEAD: Bar("cors_x", 1, against="CORS"),
    ADAPTIVE: Bar("cors_x", 1.2, against="CORS"),
}
SAMPLES = 300
"""Samples that are drawn from the rounds to find an interval."""
SERVERS = (("httptools", "asyncio"), ("h11", "asyncio"), ("httptools", "uvloop"))
HEADERS = (
    ("host", "127.0.0.1"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("connection", "keep-alive"),
    ("user-agent", "python-httpx/0.28.1"),
    ("x-deadline-ms", "10000"),
    ("x-priority", "normal"),
    ("origin", "https://shop.example"),
)


def settings() -> dict[str, dict[str, Any]]:
    """The settings of our middleware that are measured, by the name of their row."""
    import resilient

    asked: dict[str, Any] = {"deadline_header": True, "priority": True, "max_deadline": 30}
    return {
        NOTHING: {},
        "deadline, priority": asked,
        BULKHEAD: {**asked, "limit": resilient.Bulkhead(100)},
        ADAPTIVE: {**asked, "limit": resilient.AdaptiveLimit()},
    }


def applications() -> dict[str, Any]:
    """The hello-world, plain and under each middleware, by name; the plain one first."""
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from resilient.http.asgi import ServerMiddleware

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("Hello, world")

    def made(middleware: Any = None, **options: Any) -> Starlette:
        application = Starlette(routes=[Route("/", hello)])
        if middleware is not None:
            application.add_middleware(middleware, **options)
        return application

    ours = {name: made(ServerMiddleware, **options) for name, options in settings().items()}
    return {PLAIN: made(), PEER: made(CORSMiddleware, allow_origins=["https://shop.example"]), **ours}


def run(options: Options) -> Report:
    """Each kind of server, and then the bare call."""
    plan = QUICK if options.quick else FULL
    figures: list[Figure] = []
    with one_core() as core:
        for protocol, loop in SERVERS:
            group = f"uvicorn, {protocol}, {loop}"
            try:
                importlib.import_module(protocol)
                importlib.import_module(loop)
            except ImportError as error:
                figures.append(Figure(group, PLAIN, note=f"not installed: {error.name}"))
                continue
            with _Server(protocol, loop) as server:
                server.avoid(core)
                figures += _over_loopback(server, group, plan, options, judged=loop == "asyncio")
        figures += asyncio.run(_bare(plan, options))
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": core,
        "rounds": plan.rounds,
        "requests_per_block": plan.requests,
        "seed": options.seed,
        "versions": {name: metadata.version(name) for name in ("starlette", "uvicorn", "h11")},
        "garbage_collector": "on",
    }
    return Report("middleware", COLUMNS, figures, conditions)


def _figures(group: str, base: Paired, found: Mapping[str, Paired], seed: int, judged: bool) -> list[Figure]:
    figures = [Figure(group, PLAIN, base.costs())]
    plain = statistics.median(block.processor for block in base.blocks)
    for name, paired in found.items():
        values = {**paired.values(), "added_ns": round(plain * (statistics.median(paired.ratios) - 1))}
        if name != PEER:
            values |= _beside(paired.ratios, found[PEER].ratios, random.Random(seed))
        figures.append(Figure(group, name, values, BARS.get(name) if judged else None, ours=name != PEER))
    return figures


def _beside(ratios: Sequence[float], peer: Sequence[float], draw: random.Random) -> dict[str, float]:
    """What is added, as a multiple of what the peer adds in the same rounds; ends without bounds are left out."""

    def times(rounds: Sequence[int]) -> float:
        added = statistics.median(peer[at] for at in rounds) - 1
        return (statistics.median(ratios[at] for at in rounds) - 1) / added if added > 0 else math.inf

    rounds = range(len(ratios))
    samples = sorted(times(draw.choices(rounds, k=len(rounds))) for _ in range(SAMPLES))
    low, high = samples[SAMPLES // 40], samples[-1 - SAMPLES // 40]
    found = Spread(times(rounds), low, high).values("cors_x")
    return {key: value for key, value in found.items() if value < math.inf}


def _over_loopback(server: _Server, group: str, plan: Pairs, options: Options, *, judged: bool) -> list[Figure]:
    def measure(name: str) -> Block:
        begin, wall = server.processor_time(), time.perf_counter_ns()
        server.clients[name].exchange(plan.requests)
        wall = time.perf_counter_ns() - wall
        return Block((server.processor_time() - begin) / plan.requests, wall / plan.requests)

    track = options.track(range(plan.rounds), group)
    found = _in_pairs(list(server.clients), measure, plan, random.Random(options.seed), track)
    return _figures(group, *found, options.seed, judged)


def _in_pairs(
    names: Sequence[str], measure: Callable[[str], Block], plan: Pairs, order: random.Random, rounds: Iterable[int]
) -> tuple[Paired, dict[str, Paired]]:
    for name in (*names,) * 3:
        measure(name)
    turns = [name for name in names if name != PLAIN]
    found = {name: Paired() for name in turns}
    gc.collect()
    before = measure(PLAIN)
    base = Paired([before])
    until = time.monotonic() + plan.seconds
    for _ in rounds:
        order.shuffle(turns)
        for name in turns:
            block, after = measure(name), measure(PLAIN)
            found[name].add(block, before, after)
            base.blocks.append(after)
            before = after
        if time.monotonic() > until:
            break
    return base, found


# -- the bare call --------------------------------------------------------------------------------------------------


async def _bare(plan: Pairs, options: Options) -> list[Figure]:
    """Without a server, on one event loop that turns between blocks only."""
    loops = {name: _calls(made) for name, made in applications().items()}

    def measure(name: str) -> Block:
        return loops[name](plan.requests)

    track = options.track(range(plan.rounds), "bare call")
    found = _in_pairs(list(loops), measure, plan, random.Random(options.seed), track)
    return _figures("the bare call in one process", *found, options.seed, judged=False)


def _calls(made: Any) -> Callable[[int], Block]:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS]

    def scope() -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
        }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def calls(count: int) -> Block:
        scopes = [scope() for _ in range(count)]
        wall, processor = time.perf_counter_ns(), time.process_time_ns()
        for each in scopes:
            await made(each, receive, send)
        return Block((time.process_time_ns() - processor) / count, (time.perf_counter_ns() - wall) / count)

    def block(count: int) -> Block:
        """Nothing in it waits, so it ends with its first step."""
        coroutine = calls(count)
        try:
            coroutine.send(None)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        raise RuntimeError("the application waits")

    return block


# -- the server -----------------------------------------------------------------------------------------------------


class _Client:
    """A client that keeps some connections to one port busy without pause."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)
        fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
        self._request = f"GET / HTTP/1.1\r\n{fields}\r\n".encode()

    def exchange(self, requests: int) -> None:
        """Send so many requests over all connections, and wait for the answers."""
        answers = {}
        for each in self._sockets[:requests]:
            each.send(self._request)
            answers[each] = b""
        left = requests - len(answers)
        while answers:
            for each in list(answers):
                try:
                    part = each.recv(4096)
                except BlockingIOError:
                    continue
                answers[each] += part
                if not part or not answers[each].startswith(b"HTTP/1.1 200"[: len(answers[each])]):
                    raise RuntimeError(f"not the answer that was expected: {answers[each]!r}")
                if answers[each].endswith(b"Hello, world"):
                    del answers[each]
                    if left:
                        left -= 1
                        each.send(self._request)
                        answers[each] = b""

    def close(self) -> None:
        for each in self._sockets:
            each.close()


class _Server:
    """A context: the server's process runs inside."""

    def __init__(self, protocol: str, loop: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.middleware", protocol, loop],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ports = self._line().split()
        self.clients = {name: _Client(int(port)) for name, port in zip(applications(), ports, strict=True)}

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server's process ended with {self._process.wait()}")
        return line

    def processor_time(self) -> int:
        """Nanoseconds of its process until now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def avoid(self, core: int | None) -> None:
        """Keep off this core, where there is another."""
        if core is not None and (others := os.sched_getaffinity(self._process.pid) - {core}):
            os.sched_setaffinity(self._process.pid, others)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for client in self.clients.values():
            client.close()
        with self._process:  # closes its pipes, at which it ends, and waits for that
            pass


def serve(protocol: str, loop: str) -> None:
    """Write the ports to stdout, and serve; for each line of stdin write the processor time so far; end with stdin."""
    import uvicorn

    def answer() -> None:
        for _ in sys.stdin:
            print(time.process_time_ns(), flush=True)
        os._exit(0)

    servers, listeners = [], []
    for made in applications().values():
        # The protocol is named because asyncio sets TCP_NODELAY only where it is: else answers take 40 ms more.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listeners.append(listener)
        config = uvicorn.Config(
            made,
            http=protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=60,  # longer than a connection waits for its turn, also on a busy machine
        )
        servers.append(uvicorn.Server(config))

    async def all_of_them() -> None:
        await asyncio.gather(*(server.serve([listener]) for server, listener in zip(servers, listeners, strict=True)))

    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    threading.Thread(target=answer, daemon=True).start()
    factory: Any = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(all_of_them())


if __name__ == "__main__":
    serve(*sys.argv[1:])
