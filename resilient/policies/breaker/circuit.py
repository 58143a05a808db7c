"""The circuit: the state machine that decides when to stop calling a failing dependency, and when to call it again.

Pure decisions: no I/O, no clock, no callbacks under its lock. `CircuitBreaker` is the gate around it.

    state      on                                         to         remark
    closed     a failure, with a criterion met            open       for `break_duration`
    open       admission, once the break is over          half-open  a new episode of probes
    half-open  `success_threshold` probes succeeded       closed     windows start empty, the break is short again
    half-open  a probe failed                             open       a longer break (doubled, with jitter, capped)
    any        isolate()                                  isolated
    isolated   close()                                    closed     nothing else ends it
    any other  open() · half_open() · close()             as named

Each change of state begins a new *generation*. The ticket of a closed circuit is its generation: a result of an earlier
generation is dropped. The ticket of a half-open circuit is a `Probe`: it counts only while it is in the table of
probes, which each change of state empties. So late results can neither trip nor close the circuit (Polly #216-#218).

A probe holds its place under a *lease*: when it has not ended within `lease` seconds, its place goes to another call,
and its own late result is dropped (Polly #1979, resilience4j #544).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from resilient._atomic import atomic, rare_lock
from resilient.errors import Opening
from resilient.stats.window import CLOCK_CHANGE, Window

__all__ = ["CLOSED", "HALF_OPEN", "ISOLATED", "OPEN", "Change", "Circuit", "Criteria", "Probe", "State"]

State = Literal["closed", "open", "half-open", "isolated"]
CLOSED: State = "closed"
OPEN: State = "open"
HALF_OPEN: State = "half-open"
ISOLATED: State = "isolated"


@dataclass(frozen=True, slots=True)
class Criteria:
    """The criteria that open the circuit: any one of the three, where given.

    Attributes:
        fail_max: this many failures in a row.
        failure_rate: this share of failures among the calls in the window, once there are `min_calls`.
        slow_rate: this share of slow calls among them.
    """

    fail_max: int | None
    failure_rate: float | None
    slow_rate: float | None
    min_calls: int


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a circuit's state, and its reason."""

    old: State
    new: State
    reason: str


class Probe:
    """The ticket of a call that tests a half-open circuit. It counts until the time `expires`, when its lease ends."""

    __slots__ = ("expires",)

    def __init__(self, expires: float) -> None:
        self.expires = expires


class Circuit:
    """The state machine. Times are seconds; a caller uses one clock throughout.

    Attributes:
        opening: the latest opening; None: it has never opened.
        ticket: the ticket of a call without `admit`: the generation, while the circuit is closed and not watched. Else
            None: `admit` decides.
        watched: whether each call must go through `admit`, because a listener or a shared storage needs it.
    """

    __slots__ = (
        "_asked_at",
        "_break",
        "_failed_probes",
        "_left_closed_at",
        "_lock",
        "_probes",
        "_reopens_at",
        "_successes",
        "break_duration",
        "consecutive",
        "criteria",
        "generation",
        "lease",
        "max_break",
        "opening",
        "probes",
        "state",
        "success_threshold",
        "ticket",
        "watched",
        "window",
    )

    def __init__(
        self,
        window: Window,
        criteria: Criteria,
        *,
        break_duration: float,
        max_break: float,
        probes: int,
        success_threshold: int,
        lease: float,
    ) -> None:
        self.window = window
        self.criteria = criteria
        self.break_duration = break_duration
        self.max_break = max_break
        self.probes = probes
        self.success_threshold = success_threshold
        self.lease = lease
        self.state: State = CLOSED
        self.generation = 0
        self.watched = False
        self.ticket: int | None = 0
        self.consecutive = 0
        self._probes: dict[Probe, None] = {}  # a dict, because an empty set takes three times the memory
        self._successes = 0
        self._failed_probes = 0
        self._break = 0.0
        self._reopens_at = 0.0
        self._asked_at = 0.0
        self._left_closed_at = 0.0
        self.opening: Opening | None = None
        self.renew()

    def renew(self) -> None:
        """Take a new lock. In a forked child no probe is in flight; those of the parent are dropped."""
        self._lock = rare_lock()
        self._probes.clear()
        self.window.renew()

    # -- admission and outcome ----------------------------------------------------------------------------------

    def refuses_for(self, now: float) -> float:
        """Seconds for which an open circuit is certain to refuse every call; 0 where only `admit` can decide. Takes no
        lock: the end of a break is written before the state becomes "open"."""
        left = self._reopens_at - now
        if self.state is not OPEN or not 0.0 < left <= self._break + CLOCK_CHANGE:
            return 0.0
        self._asked_at = now
        return left

    def admit(self, now: float) -> tuple[int | Probe | None, Change | None]:
        """Decide on one call. Returns its ticket, or None to refuse it; and the change of state, if there was one."""
        with self._lock:
            self._asked_at = now
            change = None
            if self.state is OPEN and self._left(now) <= 0.0:
                change = self._become(HALF_OPEN, "the break is over", now)
            if self.state is CLOSED:
                return self.generation, change
            if self.state is not HALF_OPEN:
                return None, change
            self._expire(now)
            if len(self._probes) >= self.probes:
                return None, change
            probe = Probe(now + self.lease)
            self._probes[probe] = None
            return probe, change

    @atomic
    def settle(self, ticket: int | Probe, failed: bool, slow: bool, now: float) -> Change | None:
        """Learn the outcome of an admitted call. Returns the change of state, if there was one."""
        if ticket != self.generation:
            return self._settle_probe(ticket, failed or slow, now) if isinstance(ticket, Probe) else None
        if not failed:
            if self.consecutive:
                self.consecutive = 0
            self.window.record(False, slow, now)
            return self._trip(now) if slow else None
        self.consecutive += 1
        self.window.record(True, slow, now)
        return self._trip(now)

    def release(self, ticket: int | Probe) -> None:
        """Give a ticket back without learning anything."""
        if isinstance(ticket, Probe):
            with self._lock:
                self._probes.pop(ticket, None)

    def _settle_probe(self, probe: Probe, failed: bool, now: float) -> Change | None:
        with self._lock:
            if probe not in self._probes:
                return None  # its lease expired, or the circuit has changed since
            self._probes.pop(probe, None)
            if now > probe.expires:
                return None  # and no other call has taken its place yet
            if failed:
                self._failed_probes += 1
                return self._open_for(self._next_break(), now, "a probe failed")
            self._successes += 1
            if self._successes < self.success_threshold:
                return None
            return self._become(CLOSED, "the probes succeeded", now)

    # -- by hand ------------------------------------------------------------------------------------------------

    def force(self, state: State, now: float, reason: str, *, seconds: float | None = None) -> Change | None:
        """Change to `state` regardless of the evidence. Returns the change; None if there was none.

        An open circuit stays open for `seconds` (default: its break). An isolated one changes only to closed.
        """
        with self._lock:
            if self.state is ISOLATED and state is not CLOSED:
                return None
            self._asked_at = now
            if state is OPEN:
                return self._open_for(self.break_duration if seconds is None else seconds, now, reason)
            if state is ISOLATED:
                self.opening = Opening(reason, now, math.inf)
            return self._become(state, reason, now)

    def watch(self, watched: bool) -> None:
        """Set whether each call must go through `admit` from now on."""
        with self._lock:
            self.watched = watched  # no call between these two lines: threads see both or neither
            self.ticket = None if self.state is not CLOSED or self.watched else self.generation

    # -- questions ----------------------------------------------------------------------------------------------

    def retry_after(self, now: float) -> float | None:
        """Seconds until a refused call may be admitted; None if that is not known."""
        with self._lock:
            if self.state is OPEN:
                return max(0.0, self._left(now))
            if self.state is HALF_OPEN and self._probes:
                return max(0.0, min(probe.expires for probe in self._probes) - now)
            return None

    def wanted(self, now: float) -> bool:
        """Whether the circuit's state must be kept: of a circuit that is not closed, until no call has come for
        `max_break` seconds after its break; of an isolated one, for ever."""
        with self._lock:
            if self.state in (CLOSED, ISOLATED):
                return self.state is ISOLATED
            last = max(self._reopens_at, self._asked_at, *(probe.expires for probe in self._probes))
            return now - last < self.max_break

    def refusing_since(self, now: float) -> float | None:
        """Seconds since the circuit was last closed, if it refuses every call now: it is isolated, or its break is not
        over. None: it admits calls, or the next call may be a probe."""
        with self._lock:
            if self.state is ISOLATED or (self.state is OPEN and self._left(now) > 0.0):
                return max(0.0, now - self._left_closed_at)
            return None

    @property
    def successes(self) -> int:
        """The number of probes that have succeeded since the circuit became half-open."""
        return self._successes

    @property
    def probes_out(self) -> int:
        """The number of probes of a half-open circuit in flight."""
        return len(self._probes)

    # -- transitions, all under the lock ------------------------------------------------------------------------

    def _trip(self, now: float) -> Change | None:
        """Open if a criterion is met. Called only after a failure or a slow call: a good call never opens a circuit."""
        reason = self._met()
        if reason is None:
            return None
        with self._lock:
            if self.state is not CLOSED:
                return None  # another thread was first
            return self._open_for(self.break_duration, now, reason)

    def _met(self) -> str | None:
        """The criterion that is met, in words; None: none."""
        criteria, window = self.criteria, self.window
        if criteria.fail_max is not None and self.consecutive >= criteria.fail_max:
            return f"{self.consecutive} failures in a row"
        calls = window.calls
        if calls < criteria.min_calls:
            return None
        if criteria.failure_rate is not None and window.failures / calls >= criteria.failure_rate:
            return f"{window.failures} of {calls} calls failed"
        if criteria.slow_rate is not None and window.slows / calls >= criteria.slow_rate:
            return f"{window.slows} of {calls} calls were slow"
        return None

    def _next_break(self) -> float:
        """The break after the n-th failed probe: doubled n times, capped, with equal jitter (half fixed, half random).

        So it is never shorter than the shortest possible break before it, and instances that opened together do not
        probe together. After Finagle's failure accrual (5 s to 300 s, equal jittered).
        """
        grown = min(self.max_break, self.break_duration * 2.0 ** min(self._failed_probes, 60))
        return max(self.break_duration, grown * random.uniform(0.5, 1.0))

    def _left(self, now: float) -> float:
        """Seconds of the break that are left. When the clock has changed, the break begins again."""
        left = self._reopens_at - now
        if left > self._break + CLOCK_CHANGE:
            self._reopens_at, left = now + self._break, self._break
        return left

    def _open_for(self, seconds: float, now: float, reason: str) -> Change | None:
        self._break = seconds
        self._reopens_at = now + seconds
        self.opening = Opening(reason, now, seconds)
        return self._become(OPEN, reason, now)

    def _become(self, state: State, reason: str, now: float) -> Change | None:
        old = self.state
        if old is CLOSED:
            self._left_closed_at = now
        self.state = state  # no call from here to the ticket, which the gate reads without the lock
        self.generation += 1
        self.ticket = None if state is not CLOSED or self.watched else self.generation
        self._probes.clear()
        self._successes = 0
        if state is CLOSED:
            self._failed_probes = 0
            self.consecutive = 0
            self.window.clear()
        return None if old == state else Change(old, state, reason)

    def _expire(self, now: float) -> None:
        for probe in list(self._probes):
            if now >= probe.expires or now + self.lease + CLOCK_CHANGE < probe.expires:  # or set by another clock
                self._probes.pop(probe, None)
