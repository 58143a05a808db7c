"""Waits that nothing could end, found before they begin.

A plain `def` that waits blocks its thread. Where an event loop runs in that thread, none of its tasks goes on
meanwhile; so a permit that they hold never comes back, nor does one that the waiting call itself holds further out.
Other threads may hold permits, too, and theirs come back.

Who holds what is written down nowhere, for that would cost every call. So it is looked for only where a call is about
to block without a limit: in the stack and in the tasks of the loop, where the frames of the gates have their tickets.
"""

from __future__ import annotations

import sys
from itertools import chain

from resilient.core.call import Call
from resilient.core.current_call import frames_of, stack
from resilient.core.gate_group import givers
from resilient.core.policy import Gate
from resilient.errors import Deadlock
from resilient.runtime import current
from resilient.runtime.threads import THREADS

__all__ = ["refuse_endless_wait"]


def refuse_endless_wait(gate: Gate, call: Call, permits: int) -> None:
    """Raise `Deadlock` if a call is about to block its thread, without a limit, for one of a gate's `permits`, and all
    of them are held in this very thread. (All that there are: one that another thread gives back just now is free.)"""
    if call.runtime is THREADS and call.deadline is None and held_in_this_thread(gate) >= permits:
        raise Deadlock(
            f"a plain def would wait in the queue of {gate.name}, for ever: all {permits} inside are calls of its own "
            "thread, which cannot go on while it waits. Make it an async def, run it in a thread "
            "(asyncio.to_thread), or bound its wait (queue_timeout=, Timeout)"
        )


def held_in_this_thread(gate: Gate) -> int:
    """Permits of a gate that are held in the stack, and in the tasks of the event loop that runs in this thread."""
    frames = chain(stack(sys._getframe(1)), *(frames_of(task) for task in current().tasks()))
    found = {id(frame): frame for frame in frames}  # those of the running task are in its stack, too
    return sum(giver is gate for frame in found.values() for giver in givers(frame))
