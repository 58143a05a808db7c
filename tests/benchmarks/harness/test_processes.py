"""Functions run in fresh processes, one for each argument."""

from __future__ import annotations

import os

from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh


def test_each_argument_is_handled_in_its_own_process() -> None:
    """A single argument is handled in the current process."""
    here = os.getpid()
    first, second = fresh(_process, [1, 2], Options())
    assert len({here, first, second}) == 3
    assert fresh(_process, [1], Options()) == [here]


def _process(number: int) -> int:
    return os.getpid()
