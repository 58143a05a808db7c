"""An overload that sustains itself, with real servers: uvicorn with a bounded pool of workers, httpx, and a standstill.

Experiment E4 of `storm` over loopback, a tenth in size: 10 workers take 200 ms (exponential), calls come as a Poisson
process, 35 a second, and an attempt times out after a second. The server, in its own process, finishes abandoned work.
For some seconds, no worker begins anything. Afterwards the queue holds requests whose clients have left.

Every row has its own server and client, each a process, and the same arrivals; all rows run at the same time.
*recovery*: seconds from the end of the standstill to the first of five seconds in each of which 92% of the calls made
then succeed. *goodput*: successes per call made, from the end of the standstill on.

- "4 attempts": clients retry without a budget, and the server never recovers. This row has a bar itself, because the
  recovery of the others shows nothing if this one recovers, too. Then the same clients with the middleware at the
  server: with deadlines (clients send the time they have left), or with `AdaptiveLimit()` and without deadlines.
- "budget": the same three with a `Budget()` in the clients. (Experiment E4 asks for recovery with a budget. Without
  one, recovery depends on how long calls are retried: in a simulation whose server drops expired requests, but does not
  end work in progress, it never comes.)
- "standard()": the defaults of our transports, whose attempts have 9 s instead of 1, and the server without middleware.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.effect import metastable_server
from benchmarks.effect.metastable_plot import draw_metastable
from benchmarks.harness.loopback import Server
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Column, Figure, Report

__all__ = ["run"]

COLUMNS = (
    Column("recovery_s", "recovery s", "{:.0f}"),
    Column("goodput_share_x", "goodput", "{:.3f}"),
    Column("before_share_x", "before", "{:.3f}"),
    Column("requests_per_call_x", "req/call", "{:.2f}"),
)
RATE, WORKERS, MEAN = 35.0, 10, 0.2
TRIES, LIMIT = 4, 1.0
ENOUGH, STREAK = 0.92, 5


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds before, in and after the standstill."""

    before: int
    stall: int
    after: int

    @property
    def end(self) -> int:
        return self.before + self.stall + self.after


QUICK, FULL = Plan(before=5, stall=5, after=25), Plan(before=20, stall=10, after=90)


@dataclass(frozen=True, slots=True)
class Row:
    """A client's pipeline, and the middleware of its server (see `metastable_server`)."""

    name: str
    pipeline: Callable[[], Any]
    server: str = "off"
    bar: Bar | None = None
    ours: bool = True


def retrying(budget: bool) -> Any:
    """A pipeline of four attempts of 1 s, with or without a Budget."""
    from resilient import Budget, FullJitter, Pipeline, Retry, Timeout

    retry = Retry(TRIES, wait=FullJitter(0.1, cap=2.0), budget=Budget() if budget else None)
    return Pipeline(retry, Timeout(LIMIT))


def standard() -> Any:
    """The pipeline of `resilient.standard()`, with its defaults."""
    from resilient import standard as made

    return made()


def without_budget() -> Any:
    """A pipeline that makes up to four attempts, without a Budget."""
    return retrying(budget=False)


def budgeted() -> Any:
    """A pipeline that makes up to four attempts, with a Budget."""
    return retrying(budget=True)


SOON = Bar("recovery_s", 1)
ROWS = (
    Row("4 attempts, server as it is", without_budget, bar=Bar("goodput_share_x", 0.05), ours=False),
    Row("4 attempts, server told of deadlines", without_budget, "deadline", SOON),
    Row("4 attempts, server AdaptiveLimit", without_budget, "limit", SOON),
    Row("budget, server as it is", budgeted),
    Row("budget, server told of deadlines", budgeted, "deadline", SOON),
    Row("budget, server AdaptiveLimit", budgeted, "limit", SOON),
    Row("standard(), server as it is", standard),
)


@dataclass(slots=True)
class Calls:
    """The calls of one row: when each was made, in seconds, and whether it succeeded; and the number of requests
    sent."""

    made: list[tuple[float, bool]] = field(default_factory=list)
    requests: int = 0

    def shares(self, seconds: int) -> list[float | None]:
        """The share of the calls made in each second that succeeded; None for a second without calls."""
        made, good = [0] * seconds, [0] * seconds
        for at, succeeded in self.made:
            if at < seconds:
                made[int(at)] += 1
                good[int(at)] += succeeded
        return [one / all_ if all_ else None for one, all_ in zip(good, made, strict=True)]

    def share(self, begin: float, end: float) -> float:
        """The share of the calls made between two times that succeeded; 0 if there were none."""
        found = [succeeded for at, succeeded in self.made if begin <= at < end]
        return sum(found) / max(1, len(found))


def recovery(shares: Sequence[float | None], end_of_fault: int) -> int | None:
    """Seconds from `end_of_fault` to the first of five consecutive good ones; None if there are no such five."""
    good = [share is None or share >= ENOUGH for share in shares]
    for second in range(end_of_fault, len(good) - STREAK + 1):
        if all(good[second : second + STREAK]):
            return second - end_of_fault
    return None


def run_row(number: int, origin: str, plan: Plan, seed: str) -> Calls:
    """Run one row. Each runs in its own process, so that an overloaded client does not delay the others."""
    return asyncio.run(offer(ROWS[number], origin, plan, seed))


async def offer(row: Row, origin: str, plan: Plan, seed: str) -> Calls:
    """Start the standstill, make the calls, and return them."""
    import httpx

    from resilient.http.httpx import AsyncTransport

    calls, generator, loop = Calls(), random.Random(seed), asyncio.get_running_loop()

    class Counting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            calls.requests += 1
            return await super().handle_async_request(request)

    inner = Counting(limits=httpx.Limits(max_connections=None, max_keepalive_connections=50))
    transport = AsyncTransport(row.pipeline(), transport=inner, deadline_header=row.server == "deadline")
    async with (
        httpx.AsyncClient(timeout=30) as control,
        httpx.AsyncClient(transport=transport, timeout=None) as client,
        asyncio.TaskGroup() as group,
    ):
        began = loop.time()

        async def call() -> None:
            at = loop.time() - began
            try:
                succeeded = (await client.get(f"{origin}/work")).status_code == 200
            except httpx.HTTPError:
                succeeded = False
            calls.made.append((at, succeeded))

        async def stall() -> None:
            await asyncio.sleep(plan.before)
            await control.get(f"{origin}/stall/{plan.stall}")

        group.create_task(stall())
        due = began
        while (due := due + generator.expovariate(RATE)) < began + plan.end:
            await asyncio.sleep(due - loop.time())
            group.create_task(call())
    return calls


def run(options: Options) -> Report:
    """Run all rows at the same time."""
    plan = QUICK if options.quick else FULL

    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(Server(metastable_server.__name__, str(WORKERS), str(MEAN), row.server)) for row in ROWS
        ]
        clients = stack.enter_context(
            concurrent.futures.ProcessPoolExecutor(len(ROWS), multiprocessing.get_context("spawn"))
        )
        running = [
            clients.submit(run_row, number, each.origin, plan, f"{options.seed}") for number, each in enumerate(servers)
        ]
        for _ in options.track(range(plan.end), "metastable"):
            concurrent.futures.wait(running, timeout=1)
        every = [each.result() for each in running]
    found = {row.name: calls.shares(plan.end) for row, calls in zip(ROWS, every, strict=True)}
    figures = [figure(row, calls, plan) for row, calls in zip(ROWS, every, strict=True)]
    conditions = {
        "python": platform.python_version(),
        "seed": options.seed,
        "load_calls_per_s": RATE,
        "workers": WORKERS,
        "service_mean_s": MEAN,
        "attempt_limit_s": LIMIT,
        "before_s": plan.before,
        "stall_s": plan.stall,
        "after_s": plan.after,
    }
    return Report(
        "metastable", COLUMNS, figures, conditions, plot=lambda report, file: draw_metastable(report, file, found)
    )


def figure(row: Row, calls: Calls, plan: Plan) -> Figure:
    """The figure of one row. The note says if it does not recover."""
    end_of_fault = plan.before + plan.stall
    values = {
        "goodput_share_x": round(calls.share(end_of_fault, plan.end), 4),
        "before_share_x": round(calls.share(0, plan.before), 4),
        "requests_per_call_x": round(calls.requests / max(1, len(calls.made)), 3),
    }
    seconds = recovery(calls.shares(plan.end), end_of_fault)
    if seconds is not None:
        values["recovery_s"] = seconds
    note = "" if seconds is not None else f"never within {plan.after} s"
    return Figure("nothing is begun for some seconds", row.name, values, row.bar, row.ours, note)
