"""Deadlocks, found before they happen: a wait in a queue that nothing could end.

A plain `def` that waits blocks its thread. If an event loop runs in that thread, none of its tasks can continue; so a
permit that they hold is never released, nor is one that the waiting call holds itself, at an outer gate. Permits that
other threads hold are released.

A gate does not record who holds its permits, because that would cost every call. So holders are looked up only when a
call is about to block without a limit: in the stack and in the tasks of the loop, where the Python frames of gate
layers have their tickets.
"""

from __future__ import annotations

import sys
from itertools import chain

from resilient.core.call import Call
from resilient.core.current_call import frames_of, stack
from resilient.core.gate import Gate
from resilient.core.gate_group import givers
from resilient.errors import Deadlock
from resilient.runtime import current
from resilient.runtime.threads import THREADS

__all__ = ["refuse_endless_wait"]


def refuse_endless_wait(gate: Gate, call: Call, permits: int) -> None:
    """Raise `Deadlock` if a call is about to block its thread, without a limit, for one of a gate's `permits`, and all
    of them are held in this thread."""
    if call.runtime is THREADS and call.deadline is None and held_in_this_thread(gate) >= permits:
        raise Deadlock(
            f"a plain def would wait in the queue of {gate.name} for ever: all permits ({permits}) are held by calls "
            "of its own thread, which cannot continue while it waits. Make it an async def, run it in a thread "
            "(asyncio.to_thread), or bound its wait (queue_timeout=, Timeout)"
        )


def held_in_this_thread(gate: Gate) -> int:
    """The number of a gate's permits that are held in this thread: in its stack, and in the tasks of its event loop."""
    frames = chain(stack(sys._getframe(1)), *(frames_of(task) for task in current().tasks()))
    found = {id(frame): frame for frame in frames}  # frames of the running task are in the stack, too
    return sum(giver is gate for frame in found.values() for giver in givers(frame))
