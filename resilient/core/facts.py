"""The facts that a policy states about itself, for code that examines a pipeline without running it.

`resilient.pipeline.lint` checks the order of policies by these facts alone, not by the classes of the policies.
`resilient.explain` reports what the facts mean for a call. `resilient.pipeline.gate_layer` generates code only for what
the facts ask for. That code reads no fact during a call. `GateGroup` reads a few outside it: after a wait in a queue,
after a failure, and for a response that is still open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from resilient.core.budget import Budget

__all__ = ["IN_SHADOW", "Facts", "shared_facts"]

IN_SHADOW = "in shadow mode it only counts"
"""The `inactive` of a policy in shadow mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that a policy states about itself. A policy that states nothing runs a call once, at once, and learns
    nothing.

    How its code is bound:

    Attributes:
        timed: needs `call.runtime` even if the call succeeds. A policy without it calls `call.begin()` when it needs
            the runtime after all.
        learns: a gate that learns how calls end: the pipeline calls `settle`. Without it, only `release` is called.
        follows: a gate that learns of a good result only when the result has ended, if it is a stream; else it learns
            when the result is returned.
        dated: a gate that learns, and needs the time at which a call ended (`now` of `settle`). This costs one reading
            of the clock; a gate that is `timed` gets `elapsed`, too, and costs two.
        holds: a gate that takes something back at the end of a call: the pipeline calls `release`. Without it, only
            `undo` is called, for calls that were not made.
        slow: seconds after which a gate counts a call as slow. A call that is cut short at this age is a failure, if
            its pipeline has no Timeout.

    How often it runs what is inside it, and for how long:

    Attributes:
        runs: the most runs of one call; None if a strategy of the user decides.
        overlaps: runs overlap in time (the copies of a hedge); else each begins after the one before it.
        head_start: seconds from one run to the next, at least and on average, where runs overlap.
        ends_after: seconds after which it begins no further run.
        extra: the share of calls for which it intends a further run.
        pause: seconds it may wait between runs, all together; None if unknown.
        least_pause: the least seconds it waits before the second run.
        time_limit: seconds after which it ends what is inside it.
        budget: the budget that pays for further runs.
        leaves_repeating: makes one run if a policy outside repeats calls.
        lingers: lets runs whose outcome is no longer needed end by themselves.
        outlived: what is inside it may go on after the call has ended: an abandoned call, a thread, a late loser.

    Which calls it admits:

    Attributes:
        waits: may make a call wait in a queue.
        longest_wait: seconds after which it refuses a call that waits; None if only the call's deadline ends the wait.
        permits: limits the number of calls inside it at a time.
        metered: counts calls against a quota when they begin.
        pace: the number of calls that it admits at once after a pause, and the number per second after that.
        by_evidence: decides by evidence, which may be stale after a wait: then the pipeline calls `admit` again.
        needs: a number of calls, and the seconds within which it must see them before it can decide.
        slow_from: seconds from which a call counts as slow, if slow calls are the only thing that it acts on.

    What its callers meet:

    Attributes:
        raises: the classes of errors that it raises itself.
        substitutes: answers for calls that failed; then it sets `call.substituted_at = call.attempt`.
        injects: stands for the dependency: what it does to a call counts as the dependency's doing.
        inactive: why it does nothing, with its present settings; None if it acts.
        assumes: sentences about what its `worst` assumes, or does not know, about the user's own code.
    """

    timed: bool = True
    learns: bool = False
    follows: bool = True
    dated: bool = False
    holds: bool = True
    slow: float | None = None

    runs: int | None = 1
    overlaps: bool = False
    head_start: float = 0.0
    ends_after: float = math.inf
    extra: float = 0.0
    pause: float | None = 0.0
    least_pause: float = 0.0
    time_limit: float | None = None
    budget: Budget | None = None
    leaves_repeating: bool = False
    lingers: bool = False
    outlived: bool = False

    waits: bool = False
    longest_wait: float | None = None
    permits: bool = False
    metered: bool = False
    pace: tuple[float, float] | None = None
    by_evidence: bool = False
    needs: tuple[int, float] | None = None
    slow_from: float | None = None

    raises: tuple[type[Exception], ...] = ()
    substitutes: bool = False
    injects: bool = False
    inactive: str | None = None
    assumes: tuple[str, ...] = ()

    @property
    def repeats(self) -> bool:
        """Whether the policy may run a call more than once, with its present settings."""
        return self.runs != 1 and self.inactive is None


shared_facts: Callable[..., Facts] = lru_cache(maxsize=256)(Facts)
"""`Facts(...)`, but the same object for the same facts: the 100,000 gates of a `Keyed` share one."""
