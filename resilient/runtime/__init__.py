"""Runtimes: the only code that waits. Each runtime says how to sleep, to apply a timeout and to wait for a permit.

A policy is written once, as a coroutine, and never uses asyncio, trio or threads itself: it uses `call.runtime`. There
are four runtimes, with the same methods:

    asyncio             any asyncio event loop, uvloop included
    virtual             an asyncio event loop whose time jumps: minutes of waiting take no time, every run is the same
    threads             a plain `def`: the coroutine runs in the caller's thread, and waiting blocks that thread
    trio                trio's event loop

What they share:

    protocol            the methods of a runtime, and the records that it exchanges with its callers
    lookup              finds the runtime of the calling code
    clock               the monotonic clock of the real runtimes
    timers              the timers of an asyncio event loop, shared by timeouts of one length
    inherited_deadline  a deadline, and the context variable that holds the current one

`current()` finds the running one at each call. All runtimes except virtual time have one clock (`clock`), so an
instance that is used from several runtimes keeps one state.
"""

from resilient.runtime.lookup import TRIO, VIRTUAL, current, current_async
from resilient.runtime.protocol import Limit, Parking, Runtime, Timed, Woken, Work

__all__ = [
    "TRIO",
    "VIRTUAL",
    "Limit",
    "Parking",
    "Runtime",
    "Timed",
    "Woken",
    "Work",
    "current",
    "current_async",
]
