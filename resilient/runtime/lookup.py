"""Finds the runtime of the calling code."""

from __future__ import annotations

import sys

from resilient.runtime import asyncio as _asyncio
from resilient.runtime import threads as _threads
from resilient.runtime.protocol import Runtime

__all__ = ["TRIO", "VIRTUAL", "current", "current_async"]

TRIO, VIRTUAL = "trio", "resilient.runtime.virtual"
"""The modules with clocks of their own. While neither is loaded there is one clock, and who only wants to read it need
not find its runtime, which would cost more than all else."""


def current_async() -> Runtime:
    """The runtime of the running event loop. Raises `RuntimeError` when there is none."""
    runtime = _asyncio.running() or _of_loop()
    if runtime is None:
        raise RuntimeError("an async function guarded by resilient needs a running asyncio or trio event loop")
    return runtime


def current() -> Runtime:
    """The runtime of the running event loop, or threads where none runs."""
    return _of_loop() or _threads.THREADS


def _of_loop() -> Runtime | None:
    runtime: Runtime | None = _asyncio.running()
    if runtime is None and "trio" in sys.modules:
        from resilient.runtime import trio as _trio

        runtime = _trio.running()
    return runtime
