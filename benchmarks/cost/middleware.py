"""The processor time that the server middleware adds to a Starlette hello-world, measured in pairs.

First over loopback (`middleware_server`): every port gets the same requests, with the headers of an httpx client, a
deadline, a priority, and the `Origin` of a browser.

- Eight connections are kept busy at a port by a client that never sleeps: it sends the next request of a connection as
  soon as the answer is there, and polls for answers. So the server always has work. (With one request at a time, half
  of the server's time is the cost of waking its process.)
- A block is some requests to one port. Each guarded block stands between two plain ones. Its ratio is the processor
  time of the server's process (all threads) per request, divided by the mean of those two. The order is drawn anew in
  each round. The figure is the median of the ratios, with its 95% interval (as in `loopback`).
- The addition of a setting is also given as a multiple of that of `CORSMiddleware` in the same run, with a 95%
  bootstrap interval over the rounds.
- The bars hold on asyncio's own loop with httptools, which uvicorn's `standard` extra installs. A middleware without
  options adds 5% at most. With a deadline, a priority and a `Bulkhead` it adds no more than `CORSMiddleware`, and with
  an `AdaptiveLimit` 1.2 times as much. h11 takes longer for a request, uvloop less.

Then the bare call of the application in one process, without a server or a network. The addition there is the
middleware's own cost. Its share is larger than in any program that does more.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from benchmarks.cost.middleware_server import (
    ADAPTIVE,
    BULKHEAD,
    HEADERS,
    NOTHING,
    PEER,
    PLAIN,
    Server,
    applications,
)
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
BARS = {
    NOTHING: Bar("added_percent", 5),
    BULKHEAD: Bar("cors_x", 1, against="CORS"),
    ADAPTIVE: Bar("cors_x", 1.2, against="CORS"),
}
SAMPLES = 300
"""Bootstrap samples of the rounds."""
SERVERS = (("httptools", "asyncio"), ("h11", "asyncio"), ("httptools", "uvloop"))


def run(options: Options) -> Report:
    """Measure each kind of server, and then the bare call."""
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
            with Server(protocol, loop) as server:
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
    """The addition as a multiple of the peer's in the same rounds, with its interval. Infinite ends are left out."""

    def times(rounds: Sequence[int]) -> float:
        added = statistics.median(peer[at] for at in rounds) - 1
        return (statistics.median(ratios[at] for at in rounds) - 1) / added if added > 0 else math.inf

    rounds = range(len(ratios))
    samples = sorted(times(draw.choices(rounds, k=len(rounds))) for _ in range(SAMPLES))
    low, high = samples[SAMPLES // 40], samples[-1 - SAMPLES // 40]
    found = Spread(times(rounds), low, high).values("cors_x")
    return {key: value for key, value in found.items() if value < math.inf}


def _over_loopback(server: Server, group: str, plan: Pairs, options: Options, *, judged: bool) -> list[Figure]:
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
    """Measure the bare calls, without a server."""
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
        """Make `count` calls. The application never waits, so the coroutine ends at its first step."""
        coroutine = calls(count)
        try:
            coroutine.send(None)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        raise RuntimeError("the application waits")

    return block
