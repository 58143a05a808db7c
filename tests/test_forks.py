"""A process that is forked inside a running event loop, with calls in flight in every policy: `tests/fork_program.py`.

It runs as a program of its own, because the threads of pytest must not be forked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROGRAM = Path(__file__).with_name("fork_program.py")
WAYS = ("os.fork", "multiprocessing", "ProcessPoolExecutor")
CHECKS = re.findall(r"^@check\(.*\)\nasync def (\w+)", PROGRAM.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str | None]]:
    """Return what each check found in a child, for each way to fork."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(PROGRAM)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, dict[str, str | None]] = json.loads(ran.stdout)
    return result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHECKS)
def test_policy_in_a_forked_child(found: dict[str, dict[str, str | None]], way: str, name: str) -> None:
    """A policy works in a forked child, knows what the parent had learnt, and has no calls in flight."""
    assert found[way][name] is None, found[way][name]


def test_every_check_was_made(found: dict[str, dict[str, str | None]]) -> None:
    """Each way to fork runs every check, and no other."""
    assert {way: sorted(found[way]) for way in found} == {way: sorted(CHECKS) for way in WAYS}
