"""The run: a guarded client through faults, scraped by a real Prometheus, and the results of a dashboard's queries."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import prometheus_client

from benchmarks.dashboards.server import SERVERS
from benchmarks.harness.prometheus import Prometheus
from resilient import Budget, Bulkhead, CircuitBreaker, Hedge, Pipeline, Retry, Timeout, quantile
from resilient.demo.load import Load, arrivals
from resilient.demo.service import InTurn, get_item
from resilient.http.httpx import AsyncTransport
from resilient.observe.prometheus import register

__all__ = ["Run", "legend", "resolved", "run"]

SECONDS, RATE = 160.0, 60.0
VARIABLES = {"pipeline": "inventory", "$__rate_interval": "6s"}


class Run(NamedTuple):
    """The results of a dashboard's queries.

    Attributes:
        start, end: Unix times.
        results: those of `Prometheus.query_range` by the id of the panel, for each of its targets.
    """

    start: float
    end: float
    results: dict[int, list[list[dict[str, Any]]]]


def run(dashboard: Mapping[str, Any], program: str, seconds: float = SECONDS) -> Run:
    """Run for some seconds, and ask a Prometheus (the path of its program) all queries of a dashboard."""
    unregister = register(durations="attempts")
    scraped, thread = prometheus_client.start_http_server(0, "127.0.0.1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            prometheus = Prometheus(program, Path(folder), {"shop": [f"127.0.0.1:{scraped.server_port}"]})
            try:
                start = time.time() + 5
                asyncio.run(_load(seconds + 5))
                end = time.time()
                return Run(start, end, _answers(dashboard, prometheus, start, end))
            finally:
                prometheus.stop()
    finally:
        scraped.shutdown()
        scraped.server_close()
        thread.join()
        unregister()


async def _load(seconds: float) -> None:
    pipeline = Pipeline(
        Timeout(4, name="total"),
        Retry(3, budget=(budget := Budget())),
        Hedge(quantile(0.95, initial=0.1, floor=0.05, ceiling=0.4), budget=budget),
        Bulkhead(50, queue=50),
        CircuitBreaker(failure_rate=0.5, window_seconds=5, min_calls=20, break_duration=2, max_break=4),
        Timeout(0.5, name="attempt"),
        name=VARIABLES["pipeline"],
    )
    began = time.monotonic()
    async with _servers(began) as urls:
        transport = AsyncTransport(pipeline, transport=InTurn(urls, httpx.AsyncHTTPTransport()))
        async with httpx.AsyncClient(transport=transport) as client:
            await Load("guarded").run(arrivals(1, seconds, RATE), partial(get_item, client), began)


@asynccontextmanager
async def _servers(began: float) -> AsyncIterator[list[str]]:
    processes: list[asyncio.subprocess.Process] = []
    try:
        urls = []
        for number in range(1, SERVERS + 1):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.dashboards.server", str(number), repr(began)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            urls.append(f"http://127.0.0.1:{int(await process.stdout.readline())}")
        yield urls
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


def _answers(
    dashboard: Mapping[str, Any], prometheus: Prometheus, start: float, end: float
) -> dict[int, list[list[dict[str, Any]]]]:
    return {
        panel["id"]: [
            prometheus.query_range(resolved(target["expr"], VARIABLES), start, end, 1.0) for target in panel["targets"]
        ]
        for panel in dashboard["panels"]
        if "targets" in panel
    }


def resolved(expression: str, variables: Mapping[str, str]) -> str:
    """An expression with values in place of Grafana's variables; a variable without a value matches everything."""
    for name, value in variables.items():
        expression = expression.replace(name if name.startswith("$") else f"${name}", value)
    return re.sub(r"\$\{?\w+\}?", ".*", expression)


def legend(template: str, labels: Mapping[str, str]) -> str:
    """The name of a series, as Grafana makes it from the template of a target."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)
