"""What the server middleware adds to a Starlette hello-world: the server's processor time, in pairs.

Over the loopback first: uvicorn, in a process of its own, serves the same application on several ports, plain and under
middlewares of several settings. A plain socket on a kept connection asks one after the other, with the headers of an
httpx client, and the same ones of all of them: a deadline and a priority are among them.

- A block is some requests to one port. Each guarded block is between two plain ones, and its pair is the processor time
  of the server's process (all its threads) for a request, as a ratio to the mean of those two; the order is drawn anew
  in each round. The figure is the median of the pairs, with its 95% interval (as in `loopback`).
- The bar: 5% of processor time under uvicorn as it is installed with its `standard` extra but on asyncio's own loop
  (httptools), with a deadline, a priority and a limit. h11 takes longer for a request, so there the same is less;
  uvloop takes less.

Then for honesty the bare call of the application in one process, without a server or a network: what is added there is
the middleware's own cost, and its share is that of a program that does nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from benchmarks.loopback import Block, Paired
from benchmarks.loopback import Plan as Pairs
from benchmarks.measure import one_core
from benchmarks.options import Options
from benchmarks.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("added_percent", "added CPU %", "{:+.2f}"),
    Column("added_low_percent", "from", "{:+.2f}"),
    Column("added_high_percent", "to", "{:+.2f}"),
    Column("added_ns", "added ns", "{:+,.0f}"),
    Column("pairs", "pairs", "{:,.0f}"),
    Column("request_cpu_ns", "CPU ns", "{:,.0f}"),
    Column("requests_per_s", "req/s", "{:,.0f}"),
)
QUICK = Pairs(rounds=40, requests=100, judged_blocks=2, seconds=14)
FULL = Pairs(rounds=300, requests=100, judged_blocks=2, seconds=90)
PLAIN = "Starlette alone"
JUDGED = "deadline, priority, Bulkhead"
BAR = Bar("added_percent", 5)
SERVERS = (("httptools", "asyncio"), ("h11", "asyncio"), ("httptools", "uvloop"))
HEADERS = (
    ("host", "127.0.0.1"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("connection", "keep-alive"),
    ("user-agent", "python-httpx/0.28.1"),
    ("x-deadline-ms", "10000"),
    ("x-priority", "normal"),
)


def settings() -> dict[str, dict[str, Any]]:
    """The middlewares, by name."""
    import resilient

    asked: dict[str, Any] = {"deadline_header": True, "priority": True, "max_deadline": 30}
    found: dict[str, dict[str, Any]] = {
        "nothing asked": {},
        "deadline, priority": asked,
        JUDGED: {**asked, "limit": resilient.Bulkhead(100)},
    }
    adaptive: Any = getattr(resilient, "AdaptiveLimit", None)
    if adaptive is not None:
        found["deadline, priority, AdaptiveLimit"] = {**asked, "limit": adaptive()}
    return found


def application(options: Mapping[str, Any] | None) -> Any:
    """The hello-world, under a middleware or without (None)."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from resilient.http.asgi import ServerMiddleware

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("Hello, world")

    made = Starlette(routes=[Route("/", hello)])
    if options is not None:
        made.add_middleware(ServerMiddleware, **options)  # type: ignore[arg-type]
    return made


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


def _figures(group: str, base: Paired, found: Mapping[str, Paired], judged: bool) -> list[Figure]:
    figures = [Figure(group, PLAIN, base.costs())]
    plain = statistics.median(block.processor for block in base.blocks)
    for name, paired in found.items():
        values = {**paired.values(), "added_ns": round(plain * (statistics.median(paired.ratios) - 1))}
        bar = BAR if judged and name != "nothing asked" else None
        figures.append(Figure(group, name, values, bar, ours=True))
    return figures


def _over_loopback(server: _Server, group: str, plan: Pairs, options: Options, *, judged: bool) -> list[Figure]:
    def measure(name: str) -> Block:
        connection, clock = server.connections[name], server.processor_time
        begin, wall = clock(), time.perf_counter_ns()
        for _ in range(plan.requests):
            connection.exchange()
        wall = time.perf_counter_ns() - wall
        return Block((clock() - begin) / plan.requests, wall / plan.requests)

    track = options.track(range(plan.rounds), group)
    return _figures(group, *_in_pairs(list(settings()), measure, plan, random.Random(options.seed), track), judged)


def _in_pairs(
    names: list[str], measure: Callable[[str], Block], plan: Pairs, order: random.Random, rounds: Iterable[int]
) -> tuple[Paired, dict[str, Paired]]:
    for name in (PLAIN, *names) * 3:
        measure(name)
    turns = [name for name in names for _ in range(plan.judged_blocks if name == JUDGED else 1)]
    found = {name: Paired() for name in names}
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
    known = settings()
    applications = {PLAIN: application(None), **{name: application(known[name]) for name in known}}
    loops = {name: _calls(made) for name, made in applications.items()}

    def measure(name: str) -> Block:
        return loops[name](plan.requests)

    track = options.track(range(plan.rounds), "bare call")
    found = _in_pairs(list(known), measure, plan, random.Random(options.seed), track)
    return _figures("the bare call in one process", *found, judged=False)


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


class _Connection:
    """A kept connection to one port."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
        self._request = f"GET / HTTP/1.1\r\n{fields}\r\n".encode()

    def exchange(self) -> None:
        self._socket.sendall(self._request)
        answer = b""
        while not answer.endswith(b"Hello, world"):
            part = self._socket.recv(4096)
            if not part:
                raise RuntimeError(f"the server closed the connection after {answer!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not the answer that was expected: {answer!r}")

    def close(self) -> None:
        self._socket.close()


class _Server:
    """A context: the server's process runs inside."""

    def __init__(self, protocol: str, loop: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.middleware", protocol, loop],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ports = self._line().split()
        self.connections = {
            name: _Connection(int(port)) for name, port in zip((PLAIN, *settings()), ports, strict=True)
        }

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
        for connection in self.connections.values():
            connection.close()
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
    for options in (None, *settings().values()):
        # The protocol is named because asyncio sets TCP_NODELAY only where it is: else answers take 40 ms more.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listeners.append(listener)
        made = application(options)
        servers.append(
            uvicorn.Server(
                uvicorn.Config(made, http=protocol, lifespan="off", log_config=None, access_log=False)  # type: ignore[arg-type]
            )
        )

    async def all_of_them() -> None:
        await asyncio.gather(*(server.serve([listener]) for server, listener in zip(servers, listeners, strict=True)))

    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    threading.Thread(target=answer, daemon=True).start()
    factory: Any = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(all_of_them())


if __name__ == "__main__":
    serve(*sys.argv[1:])
