"""The only place that waits: where a call runs decides how it sleeps, is timed out, and waits for its turn.

A policy is written once, as a coroutine, and never touches asyncio, trio or threads; it asks `call.runtime`. There are
four runtimes, with the same few verbs:

    asyncio   any asyncio event loop, uvloop included
    virtual   an asyncio event loop whose time jumps: minutes of waiting in no time, always the same way
    threads   a plain `def`: the coroutine is run in the caller's thread and never suspends; waiting blocks the thread
    trio      trio's event loop

`current()` finds the one that is running, at the call. `now` is one clock (`resilient.runtime.clock`) for all of them
but virtual time, so that an instance used from several of them keeps one state.
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
