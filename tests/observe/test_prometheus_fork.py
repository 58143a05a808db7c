"""A process that is forked while another thread scrapes: the child can scrape, and counts from 0."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROGRAM = """
import os, signal, sys, threading, time
from prometheus_client import CollectorRegistry, generate_latest
from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, Retry, _atomic
from resilient.observe import metrics
from resilient.observe.prometheus import register

registry = CollectorRegistry()
end = register(registry, keys=3, durations="attempts")
users = Pipeline(
    Retry(attempts=2, wait=0), Bulkhead(2), Keyed(CircuitBreaker, key=lambda key=7: key), name="users"
)(lambda key=7: key)
for key in range(5):
    users(key)

def calls(registry=registry):
    lines = [line for line in generate_latest(registry).decode().splitlines() if 'pipeline="users"' in line]
    return sum(float(line.split()[-1]) for line in lines if line.startswith("resilient_calls_total"))

assert calls() == 5, calls()
read = metrics.read
inside, go_on = threading.Event(), threading.Event()

def scrape():
    # all locks of modules are held, in the middle of a scrape, when the process is forked
    held = [lock for lock in _atomic._locks if lock.acquire(blocking=False)]
    def stopped(*, keys):
        found = read(keys=keys)
        inside.set()
        go_on.wait(30)
        return found
    metrics.read = stopped
    seen.append(calls())
    for lock in held:
        lock.release()

seen = []
thread = threading.Thread(target=scrape)
thread.start()
inside.wait(30)
metrics.read = read
forking = time.time()
child = os.fork()
if child == 0:
    signal.alarm(20)  # a child that hangs is killed
    try:
        assert calls() == 0, calls()
        users(1)
        assert calls() == 1, calls()
        at = {"pipeline": "users", "ending": "success", "verdict": "success"}
        assert forking <= registry.get_sample_value("resilient_calls_created", at) <= time.time()
        other = CollectorRegistry()
        register(other)
        assert calls(other) == 1
        end()
        assert generate_latest(registry) == b""
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
go_on.set()
thread.join()
assert seen == [5], seen
assert calls() == 5
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_child_that_is_forked_during_a_scrape_scrapes_its_own_figures() -> None:
    """Whatever locks another thread held, the child's scrape is whole; the parent's scrape goes on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
