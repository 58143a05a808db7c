"""Finds the runtime of the calling code: of any code, or of code on an event loop only."""

from __future__ import annotations

import sys

from resilient.runtime import asyncio as _asyncio
from resilient.runtime import threads as _threads
from resilient.runtime.protocol import Runtime

__all__ = ["TRIO", "VIRTUAL", "current", "current_async"]

TRIO, VIRTUAL = "trio", "resilient.runtime.virtual"
"""The modules of runtimes with clocks of their own. While neither module is loaded there is only one clock. Then code
that only reads the time need not find its runtime, which would cost more than all the rest."""


def current_async() -> Runtime:
    """Return the runtime of the running event loop. Raises `RuntimeError` when there is none."""
    runtime = _asyncio.running() or _of_loop()
    if runtime is None:
        raise RuntimeError("an async function guarded by resilient needs a running asyncio or trio event loop")
    return runtime


def current() -> Runtime:
    """Return the runtime of the running event loop, or that of threads where no loop runs."""
    return _of_loop() or _threads.THREADS


def _of_loop() -> Runtime | None:
    runtime: Runtime | None = _asyncio.running()
    if runtime is None and "trio" in sys.modules:
        from resilient.runtime import trio as _trio

        runtime = _trio.running()
    return runtime
