"""The figures with real programs: workers of gunicorn, and a Prometheus that scrapes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from benchmarks.harness.prometheus import Prometheus
from resilient import Bulkhead, Pipeline, Retry
from tests.observe.scrapes import Families, NewRegistry, errors, make_calls, value
from tests.servers import find_program, free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
T = TypeVar("T")


def eventually(find: Callable[[], T | None], what: str) -> T:
    """Return what `find` finds, as soon as it finds something. A program that is starting refuses connections."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            found = find()
        except (OSError, urllib.error.URLError):
            found = None
        if found:
            return found
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        text: str = response.read().decode()
    return text


@contextmanager
def running(*command: str, log: Path, **environment: str) -> Iterator[None]:
    """Run a program, and end it by its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        yield
    except BaseException:
        print(log.read_text(errors="replace")[-2000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
def test_any_worker_of_gunicorn_shows_the_figures_of_all(tmp_path: Path) -> None:
    """The calls of a worker that was killed stay, its permits go, and the worker in its place is added."""
    files = tmp_path / "files"
    files.mkdir()
    url = f"http://127.0.0.1:{free_port()}"
    module = "tests.observe.gunicorn_application"
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", url.removeprefix("http://"), "-c", f"python:{module}"]
    made: Counter[str] = Counter()

    def scrape() -> Families:
        return {each.name: each for each in parse_text(get(f"{url}/metrics"))}

    def workers() -> set[str]:
        samples = scrape()["resilient_pipeline_mode"].samples
        return {sample.labels["pid"] for sample in samples if sample.labels["mode"] == "on"}

    def have_answered(workers: int) -> bool:
        made[get(url)] += 1
        return len(made) == workers

    def all_are_counted() -> bool:
        return value(scrape(), "resilient_calls_total", pipeline="users") == made.total()

    environment = {"PROMETHEUS_MULTIPROC_DIR": str(files), "PYTHONPATH": str(ROOT)}
    with running(*command, f"{module}:application", log=tmp_path / "log", **environment):
        eventually(lambda: have_answered(2), "two workers answer")
        eventually(all_are_counted, "all calls are counted")
        assert value(scrape(), "resilient_permits_limit", pipeline="users") == 10
        killed = min(made)
        os.kill(int(killed), signal.SIGKILL)
        eventually(lambda: have_answered(3), "a third worker answers")
        eventually(all_are_counted, "all calls are counted")
        eventually(lambda: workers() == set(made) - {killed}, "gauges are of the workers that live")
        assert value(scrape(), "resilient_permits_limit", pipeline="users") == 10


def test_prometheus_stores_the_figures_and_the_exemplars(new_registry: NewRegistry, tmp_path: Path) -> None:
    """A real Prometheus accepts each sample of a scrape, and finds the trace of a call that failed."""
    program = find_program("prometheus")
    registry = new_registry(durations="attempts", exemplars=lambda: {"trace_id": "t1"})
    users = Pipeline(Retry(attempts=2, wait=0), Bulkhead(9), name="scraped")
    make_calls(users, 5, failures=1)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    targets = {"test": [f"127.0.0.1:{server.server_port}"]}
    prometheus = Prometheus(program, tmp_path, targets, flags=["--enable-feature=exemplar-storage"])

    def query(expression: str) -> float | None:
        found = prometheus.query(expression)
        return float(found[0]["value"][1]) if found else None

    try:
        assert eventually(lambda: query('sum(resilient_calls_total{pipeline="scraped"})'), "calls are stored") == 6
        assert query('sum(resilient_retries_total{pipeline="scraped"})') == 1
        median = 'histogram_quantile(0.5, resilient_call_duration_seconds_bucket{ending="success"})'
        assert query(f"{median} < 1") is not None
        assert query("up") == 1
        assert query("scrape_samples_scraped") == sum(len(family.samples) for family in registry.collect())
        assert "\nprometheus_target_scrapes_sample_duplicate_timestamp_total 0\n" in prometheus.own_metrics()
        now = time.time()
        found = eventually(
            lambda: prometheus.exemplars("resilient_call_duration_seconds_bucket", now - 60, now + 60),
            "exemplars are stored",
        )
        of_ours = [each for each in found if each["seriesLabels"]["pipeline"] == "scraped"]
        assert [each["labels"] for series in of_ours for each in series["exemplars"]] == [{"trace_id": "t1"}]
        assert {each["seriesLabels"]["ending"] for each in of_ours} == {"failure"}
        assert errors(registry) == 0
    finally:
        prometheus.stop()
        server.shutdown()
        server.server_close()
        thread.join()
