"""Multiprocess mode without room for its files: the process lives, and the figures that have a place go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, shutil, sys
from resilient import Bulkhead, Pipeline
from resilient.observe.prometheus import files, flush, register
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

def calls():
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return {
        sample.labels["pipeline"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "resilient_calls_total" and sample.labels["ending"] == "success"
    }

shown, before = [], Pipeline(Bulkhead(1), name="before")
stop = register(interval=3600)
for room in (0,) if "remove" in sys.argv else (2**62, 0):  # more than any disk has; and then enough
    files.ROOM = room
    later = Pipeline(Bulkhead(1), name="later")
    before.call(lambda: None)
    later.call(lambda: None)
    flush()
    shown.append(calls())
if "remove" in sys.argv:
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    unheard = Pipeline(Bulkhead(1), name="unheard of")
    shown.append(unheard.call(lambda: 7))
    flush()
stop()
print(json.dumps(shown))
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs the program; returns what it prints, and its log."""

    def run(*arguments: str) -> tuple[Any, str]:
        directory = tmp_path / "files"
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PROMETHEUS_MULTIPROC_DIR": str(directory),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout), done.stderr

    return run


def test_full_disk_costs_only_the_new_series_and_only_for_the_time(run: Any) -> None:
    """A place in a file that has never been written needs room: to write it without any would kill the process."""
    shown, log = run()
    assert shown == [{"before": 1.0}, {"before": 2.0, "later": 2.0}]
    assert "No space left on device" in log


def test_directory_that_is_removed_fails_no_call(run: Any) -> None:
    """The log names it."""
    shown, log = run("remove")
    assert shown[-1] == 7
    assert "FileNotFoundError" in log
