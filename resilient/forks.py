"""What a forked child process makes of what it finds in memory.

A fork (`os.fork`, multiprocessing's and ProcessPoolExecutor's "fork") copies everything, and keeps one thread. So the
child finds calls in flight that go on in the parent only, event loops that do not run, and locks that are held by
threads that it does not have. What was learnt (windows, open circuits, tokens) is as true in the child as in the
parent, and stays; what belongs to calls in flight (permits, probes, lines, stragglers) does not, and locks are new.

Policies are renewed by `Policy.renew`, which reaches them by the pipelines that they are in.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["in_forked_child"]


def in_forked_child(renew: Callable[[], None]) -> None:
    """Call `renew()` in each child process that is forked from now on, before any other code runs in it.

    It is kept for good: for modules, not for instances.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        os.register_at_fork(after_in_child=renew)
