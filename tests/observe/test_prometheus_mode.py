"""Multiprocess mode that cannot work is refused at once, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from resilient.observe.prometheus.multiprocess import KNOWN


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import prometheus_client, os\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = '/tmp'", "was set after"),
        ("import os\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = '/no/such/directory'", "got '/no/such/directory'"),
        (
            "import os\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = '/tmp'\nfrom prometheus_client import values\n"
            "values.ValueClass = type('Other', (), {'_multiprocess': True, '__init__': lambda self, name: None})",
            "files of an unknown kind",
        ),
    ],
)
def test_mode_that_cannot_work_is_an_error_at_once(program: str, message: str) -> None:
    """Registration says what is wrong, and leaves the registry empty."""
    program += (
        "\nfrom prometheus_client import CollectorRegistry, generate_latest\n"
        "from resilient.observe.prometheus import register\n"
        "registry = CollectorRegistry()\n"
        "try:\n    register(registry)\n"
        "except (RuntimeError, ValueError) as error:\n    print(error, generate_latest(registry))\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert message in done.stdout
    assert done.stdout.endswith("b''\n")


def test_installed_client_is_one_of_the_known_versions() -> None:
    """With a newer one these tests must be looked at, and the range be extended, which is part of an error."""
    first, last = (tuple(map(int, each.split("."))) for each in KNOWN.split(" to "))
    assert first <= tuple(map(int, version("prometheus-client").split(".")))[:2] <= last
