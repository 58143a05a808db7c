"""An outage of real processes, seen by a real Prometheus: exactly the expected alerts reach a webhook, and end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.harness.prometheus import Alertmanager, Prometheus
from resilient.demo.fleet import Fleet
from resilient.observe.dashboards import DashboardOptions, dashboard_files
from resilient.observe.dashboards.files import RULES
from tests.observe.promql import EXPORTED, metrics_in, queries
from tests.servers import find_program

ROOT = Path(__file__).parents[2]

SCALE = 1 / 4000
"""Of the times of the rules: six hours are 5.4 s. No window is shorter than 5 s, five scrapes."""

EXPECTED = {
    "ResilientErrorBudgetBurnsFast",
    "ResilientErrorBudgetBurns",
    "ResilientErrorBudgetBurnsSlowly",
    "ResilientCircuitOpen",
    "ResilientBudgetExhausted",
}
PATIENCE = 120.0
"""Seconds for an alert to fire or to end. It takes 5 to 20."""


class Webhook:
    """A server that Alertmanager sends alerts to.

    Attributes:
        url: for the configuration of Alertmanager.
        alerts: what it has sent, oldest first.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/"
        self.alerts: list[dict[str, Any]] = []

    @property
    def firing(self) -> list[dict[str, Any]]:
        """The alerts that have fired and not ended."""
        latest = {json.dumps(alert["labels"], sort_keys=True): alert for alert in self.alerts}
        return [alert for alert in latest.values() if alert["status"] == "firing"]

    @property
    def names(self) -> set[str]:
        """The names of all alerts that have ever fired."""
        return {alert["labels"]["alertname"] for alert in self.alerts}


@contextmanager
def listening() -> Iterator[Webhook]:
    """A webhook on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            webhook.alerts += body["alerts"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook = Webhook(server)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def application(urls: list[str]) -> AsyncIterator[str]:
    """The address at which a new process of the application is scraped."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.observe.outage_app", *urls),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(await asyncio.wait_for(process.stdout.readline(), 30))}"
        assert process.returncode is None, "the application has ended"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(holds: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait until something holds."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, what()
        await asyncio.sleep(0.2)


async def test_outage_fires_exactly_the_expected_alerts_and_they_end(tmp_path: Path) -> None:
    """Three servers are killed and come back. Two processes of one application call them. Each alert is one, not one
    for each process."""
    programs = [find_program(which) for which in ("prometheus", "alertmanager")]
    options = DashboardOptions(time_scale=SCALE)
    files = dashboard_files(options)
    (tmp_path / RULES).write_text(files[RULES])
    with listening() as webhook:
        async with Fleet(seed=1, duration=3600) as fleet:  # its faults never begin
            async with application(fleet.urls) as first, application(fleet.urls) as second:
                alertmanager = Alertmanager(programs[1], tmp_path, webhook.url)
                prometheus = Prometheus(
                    programs[0],
                    tmp_path,
                    {"shop": [first, second]},
                    rules=[tmp_path / RULES],
                    alertmanager=alertmanager.address,
                )
                try:
                    await scenario(fleet, prometheus, webhook)
                    check_queries(prometheus, files)
                finally:
                    prometheus.stop()
                    alertmanager.stop()
    assert webhook.names == EXPECTED
    check_texts(webhook)


async def scenario(fleet: Fleet, prometheus: Prometheus, webhook: Webhook) -> None:
    """Calm, outage until all alerts fire, calm until all have ended."""
    calm = 'min(count_over_time(resilient_calls_total{ending="success"}[1m]))'
    await until(
        lambda: any(float(each["value"][1]) >= 6 for each in prometheus.query(calm)), lambda: prometheus.log()[-2000:]
    )
    assert webhook.alerts == []

    for number in (1, 2, 3):
        fleet.kill(number)
    await until(
        lambda: {alert["labels"]["alertname"] for alert in webhook.firing} >= EXPECTED,
        lambda: f"firing: {webhook.firing}",
    )
    for alert in webhook.firing:
        labels = {label: value for label, value in alert["labels"].items() if label not in ("alertname", "severity")}
        assert labels.pop("policy", None) in (None, "CircuitBreaker", "Retry")
        assert labels == {"job": "shop", "pipeline": "inventory"}

    await asyncio.gather(*(fleet.restart(number) for number in (1, 2, 3)))
    await until(lambda: not webhook.firing, lambda: f"still firing: {webhook.firing}")


def check_queries(prometheus: Prometheus, files: dict[str, str]) -> None:
    """Prometheus itself takes every query of the dashboards, and has every metric that policies of the application
    feed; what it has is in the table."""
    scraped = {name for name in prometheus.series() if name.startswith("resilient_")}
    own = {name for name in scraped if name.endswith("_created")} | {"resilient_scrape_errors_total"}
    assert scraped - own <= EXPORTED
    assert scraped >= {
        "resilient_calls_total",
        "resilient_attempts_total",
        "resilient_rejections_total",
        "resilient_retries_total",
        "resilient_budget_exhausted_total",
        "resilient_circuit_state",
        "resilient_circuit_transitions_total",
        "resilient_permits_limit",
        "resilient_queue_limit",
        "resilient_call_duration_seconds_bucket",
    }
    answered = set()
    for name, text in files.items():
        for place, query in queries(json.loads(text)) if name.endswith(".json") else ():
            found = prometheus.query(query)
            if found:
                answered.add(place)
            assert found or not (metrics_in(query) <= scraped) or " > 0" in query or "ALERTS" in query, query
    assert {"Calls by ending", "Bad calls", "Attempts per call", "Circuits", "Permits", "Latency"} <= answered


def check_texts(webhook: Webhook) -> None:
    """The templates of the annotations were filled in."""
    for alert in webhook.alerts:
        texts = alert["annotations"]
        assert set(texts) == {"summary", "description", "runbook"}
        assert "inventory" in texts["summary"]
        for text in texts.values():
            assert "<no value>" not in text
            assert "error" not in text.lower() or "error budget" in text.lower() or "errors" in text.lower()
            assert "{{" not in text
