"""CircuitBreaker: stops calling a failing dependency for a while, then calls it again carefully.

The circuit (`resilient.policies.breaker.circuit`) decides; this is the gate around it. A pybreaker object in front of
it (`resilient.policies.breaker.pybreaker`) serves pybreaker's listeners, storages and manual controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from sys import modules
from typing import Any, Self

import pybreaker
from pybreaker import CircuitBreakerListener

from resilient import _validation
from resilient._atomic import GIL, module_lock
from resilient.core.call import Call
from resilient.core.facts import IN_SHADOW, shared_facts
from resilient.core.gate import Gate
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import CircuitOpen, Template, refusal
from resilient.events import CircuitChanged
from resilient.events.channel import Emitter
from resilient.policies.breaker import circuit
from resilient.policies.breaker.circuit import Change, Circuit, Criteria
from resilient.policies.breaker.pybreaker import Facade
from resilient.runtime import TRIO, VIRTUAL, current
from resilient.runtime.clock import monotonic
from resilient.stats.window import CountWindow, TimeWindow

__all__ = ["CircuitBreaker"]

_lock = module_lock()

_REFUSING = (circuit.OPEN, circuit.HALF_OPEN, circuit.ISOLATED, circuit.CLOSED)  # closed meanwhile by another thread
REFUSED = {state: Template("{} is {}", state) for state in _REFUSING}
TRY_AGAIN = {state: Template("{} is {}; try again in {:.3g} s", state) for state in _REFUSING}

_criteria = lru_cache(maxsize=256)(Criteria)
"""Makes one object for equal settings: the circuits of a `Keyed` share it."""


class CircuitBreaker(Emitter, Gate, example="", effects=("listeners", "state_storage")):
    """Opens when calls fail too often, refuses calls while open, and closes when probes succeed.

    It learns only from what the dependency did: not from rejections, local queues, inherited deadlines or young calls
    that were cancelled. Put it inside Retry and inside policies with a queue.

    Args:
        failure_rate: share of failures in the window that opens it. Default 0.5 (Hystrix, resilience4j).
            None: not by rate.
        fail_max: this many failures in a row open it. Default None: not by count (pybreaker's default is 5).
        slow: seconds from which a call is slow, and `slow_rate`: the share of slow calls that opens it. Default None.
        window_seconds: the seconds of the sliding window. Default 10 (Hystrix), unless `window_calls` is given.
        window_calls: the last calls in the window, instead of seconds.
        min_calls: calls in the window before a rate counts. Default 10: with Microsoft's 100 in 30 s the circuits of
            small services never open (Polly #1854).
        break_duration: seconds it stays open at first. Default 5 (Hystrix, Microsoft).
        max_break: each failed probe doubles the break, with jitter, up to this many seconds. Default 60.
        probes: calls admitted at a time while half-open. Default 1.
        success_threshold: successful probes that close it. Default 1.
        lease: seconds after which a probe that has not ended loses its place. Default 30.
        shadow: count the calls that it would have refused, and admit all.
        listeners: pybreaker listeners.
        state_storage: a pybreaker storage, shared with pybreaker users. One in memory is read at each call; any other
            is synchronised in the background, at most a second late.
        name: for events and errors; default "CircuitBreaker".

    Raises `CircuitOpen`, with `retry_after`, to refuse a call.
    """

    _stored = False
    """Whether the breaker has a `state_storage`."""
    _mirror: Facade | None = None

    def __init__(
        self,
        failure_rate: float | None = 0.5,
        *,
        fail_max: int | None = None,
        slow: float | None = None,
        slow_rate: float | None = None,
        window_seconds: float | None = None,
        window_calls: int | None = None,
        min_calls: int | None = None,
        break_duration: float = 5.0,
        max_break: float = 60.0,
        probes: int = 1,
        success_threshold: int = 1,
        lease: float = 30.0,
        shadow: bool = False,
        listeners: Sequence[CircuitBreakerListener] = (),
        state_storage: pybreaker.CircuitBreakerStorage | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(failure_rate, int) and 1 < failure_rate <= 100:
            raise ValueError(
                f"failure_rate must be a share above 0 and at most 1, got {failure_rate}: for {failure_rate} failures "
                f"in a row write fail_max={failure_rate}, for {failure_rate}% write {failure_rate / 100:g}"
            )
        super().__init__(name, shadow=shadow)
        if slow is not None:
            slow = _validation.seconds("slow", slow)
        if window_calls is not None and window_seconds is not None:
            raise ValueError(f"give window_calls={window_calls!r} or window_seconds={window_seconds!r}, not both")
        window: CountWindow | TimeWindow
        enough = 10
        if window_calls is not None:
            window = CountWindow(_validation.count("window_calls", window_calls))
            enough = min(enough, window_calls)
        else:
            window = TimeWindow(
                10.0 if window_seconds is None else _validation.seconds("window_seconds", window_seconds)
            )
        criteria = _criteria(
            fail_max=None if fail_max is None else _validation.count("fail_max", fail_max),
            failure_rate=None if failure_rate is None else _validation.share("failure_rate", failure_rate),
            slow_rate=None if slow_rate is None else _validation.share("slow_rate", slow_rate),
            min_calls=enough if min_calls is None else _validation.count("min_calls", min_calls),
        )
        if window_calls is not None and criteria.min_calls > window_calls:
            raise ValueError(f"min_calls={min_calls!r} can never be reached in window_calls={window_calls!r}")
        if slow_rate is not None and slow is None:
            raise ValueError(f"slow_rate={slow_rate!r} needs slow=, the seconds from which a call is slow")
        if (criteria.fail_max, criteria.failure_rate, criteria.slow_rate) == (None, None, None):
            raise ValueError("failure_rate=None leaves nothing that could open the circuit: give fail_max or slow_rate")
        break_duration = _validation.seconds("break_duration", break_duration)
        max_break = _validation.seconds("max_break", max_break)
        if max_break < break_duration:
            if max_break != 60.0:
                raise ValueError(f"max_break={max_break!r} is shorter than break_duration={break_duration!r}")
            max_break = break_duration
        self._refused = 0
        self._channels = ()
        self._circuit = Circuit(
            window,
            criteria,
            break_duration=break_duration,
            max_break=max_break,
            probes=_validation.count("probes", probes),
            success_threshold=_validation.count("success_threshold", success_threshold),
            lease=_validation.seconds("lease", lease),
        )
        self._slow_from = math.inf if slow is None or slow_rate is None else slow
        by_time, by_rate = isinstance(window, TimeWindow), criteria.fail_max is None
        self.facts = shared_facts(
            timed=slow is not None,
            learns=True,
            dated=by_time,
            slow=slow,
            by_evidence=True,
            needs=(criteria.min_calls, window.seconds) if by_rate and isinstance(window, TimeWindow) else None,
            slow_from=slow if by_rate and criteria.failure_rate is None else None,
            raises=(CircuitOpen,),
            inactive=IN_SHADOW if shadow else None,
        )
        # Every breaker sets the attributes above, in one order, so that instances share the keys of their
        # dictionaries.
        if state_storage is not None:
            self._stored = True
        listeners, storage = self._effect("listeners", listeners), self._effect("state_storage", state_storage)
        if listeners != () or storage is not None:
            self._mirror = Facade(self, self._circuit, listeners, storage)

    @property
    def _facade(self) -> Facade:
        """The pybreaker object of this breaker, made when it is first needed: most breakers never need one."""
        if self._mirror is None:
            with _lock:
                if self._mirror is None:
                    self._mirror = Facade(self, self._circuit, (), None)
        return self._mirror

    # -- the gate -----------------------------------------------------------------------------------------------

    def admit(self, call: Call) -> Any:
        machine = self._circuit
        ticket = machine.ticket
        if ticket is not None:
            return ticket
        if machine.watched:
            return self._admit_watched(call)
        now = call.begin().now() if TRIO in modules or VIRTUAL in modules else monotonic()
        seconds = machine.refuses_for(now)
        if seconds:
            raise self._refusal(seconds)
        return self._admit_by_circuit(now)

    def _admit_watched(self, call: Call) -> Any:
        """Admit a call of a watched circuit: read the storage before, and call the listeners after."""
        now = call.begin().now()
        self._announce(self._facade.synchronise(now), mirror=False)
        ticket = self._admit_by_circuit(now)
        self._facade.before(call)
        return ticket

    def _admit_by_circuit(self, now: float) -> Any:
        ticket, change = self._circuit.admit(now)
        self._announce(change)
        if ticket is not None:
            return ticket
        raise self._refusal(self._circuit.retry_after(now))

    def _refusal(self, retry_after: float | None) -> CircuitOpen:
        if not self.shadow:
            self._refused += 1
        name, state = self.name, self._circuit.state
        message = (REFUSED[state], name, state) if retry_after is None else (TRY_AGAIN[state], name, state, retry_after)
        error = refusal(CircuitOpen, message, name, retry_after)
        error.opening = self._circuit.opening
        return error

    def settle(self, ticket: Any, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        machine = self._circuit
        if GIL and not failed and ticket == machine.ticket and elapsed < self._slow_from:
            window = machine.window
            if not window.steady:  # as `Circuit.settle` does
                machine.consecutive = 0
                window.record(False, False, now)
            return
        if failed and error is not None:
            failed = not self._excludes(ticket, error)
        if now is None:
            now = current().now()
        counts = ticket == machine.generation
        change = machine.settle(ticket, failed, elapsed >= self._slow_from, now)
        if not machine.watched:
            self._announce(change)
            return
        if not failed:
            self._announce(change)
        by_all = self._facade.after(failed, error, now, counts)
        if failed:  # the failure comes before the change that it caused, as in pybreaker
            self._announce(change)
        self._announce(by_all)

    def _excludes(self, ticket: Any, error: Exception) -> bool:
        try:
            return self._mirror is not None and self._mirror.excludes(error)
        except BaseException:  # raised by the user's predicate
            self.release(ticket)
            raise

    def release(self, ticket: Any) -> None:
        self._circuit.release(ticket)

    def _renew(self) -> None:
        super()._renew()
        self._circuit.renew()

    @property
    def _at_rest(self) -> bool:
        return self.state is circuit.CLOSED or not self._circuit.wanted(current().now())

    @property
    def _set_by_hand(self) -> bool:
        return self.state == circuit.ISOLATED

    def clone(self, change: Callable[[str, Any], Any] | None = None) -> Self:
        """A new circuit, closed and empty, with the same settings, excluded exceptions and listeners (those that were
        added later, too).

        Raises `ValueError` for one with a `state_storage`, unless `change` replaces that: two breakers with one storage
        are one circuit.
        """
        if change is not None:
            breaker = super().clone(
                lambda argument, value: change(argument, self.listeners if argument == "listeners" else value)
            )
        elif self._stored:
            raise ValueError(f"{self.name} has a state_storage: another with it would be the same circuit")
        else:
            args, kwargs = self._init_args
            breaker = type(self)(*args, **({**kwargs, "listeners": self.listeners} if self.listeners else kwargs))
        breaker._exclude_as(self)
        return breaker

    def _exclude_as(self, other: CircuitBreaker) -> None:
        """Take over the excluded exceptions of another breaker."""
        if other._mirror is not None:
            self._facade.exclude_as(other._mirror)

    # -- manual control, with pybreaker's names -------------------------------------------------------------------

    def open(self) -> None:
        """Open now, as after a failure: it admits probes after the break."""
        self._force(circuit.OPEN)

    def half_open(self) -> None:
        """Admit probes now, before the end of a break."""
        self._force(circuit.HALF_OPEN)

    def close(self) -> None:
        """Close now, with empty windows. Only this ends `isolate()`."""
        self._force(circuit.CLOSED)

    def isolate(self) -> None:
        """Refuse every call, without probes, until `close()`."""
        self._force(circuit.ISOLATED)

    def _force(self, state: circuit.State) -> None:
        self._announce(self._circuit.force(state, current().now(), "by hand"))

    @property
    def state(self) -> circuit.State:
        """The state of the circuit: "closed", "open", "half-open" or "isolated"."""
        return self._circuit.state

    @property
    def current_state(self) -> str:
        """pybreaker's name of the `state`: an isolated circuit is "open"."""
        return pybreaker.STATE_OPEN if self.state is circuit.ISOLATED else self.state

    @property
    def fail_max(self) -> int | None:
        """Failures in a row that open it, or None."""
        return self._circuit.criteria.fail_max

    @property
    def fail_counter(self) -> int:
        """Failures in a row since the last success."""
        return self._circuit.consecutive

    @property
    def pybreaker(self) -> pybreaker.CircuitBreaker:
        """This circuit as a real `pybreaker.CircuitBreaker`, for code that expects one."""
        return self._facade

    @property
    def listeners(self) -> tuple[CircuitBreakerListener, ...]:
        """The pybreaker listeners of this circuit, in the order in which they are called."""
        return () if self._mirror is None else self._mirror.listeners

    def add_listener(self, listener: CircuitBreakerListener) -> None:
        """Call a pybreaker listener from now on."""
        self._facade.add_listener(listener)

    def remove_listener(self, listener: CircuitBreakerListener) -> None:
        """Remove a pybreaker listener, which is called no more."""
        self._facade.remove_listener(listener)

    # -- events and reports ---------------------------------------------------------------------------------------

    def _announce(self, change: Change | None, *, mirror: bool = True) -> None:
        """Emit a change of state: to pybreaker's listeners (with `mirror` also to the storage) and to every pipeline
        that has this circuit."""
        if change is None:
            return
        if self._mirror is not None:
            self._mirror.changed(change, mirror=mirror)
        self._count_event("circuit.transitions", self._counted_as, change.new)
        self._emit(CircuitChanged, current().now(), self.name, change.old, change.new, change.reason)

    def snapshot(self) -> dict[str, Any]:
        """The state, the evidence in the window, and the number of refused calls."""
        machine = self._circuit
        return {
            "state": machine.state,
            "calls": machine.window.calls,
            "failures": machine.window.failures,
            "slow": machine.window.slows,
            "failures_in_a_row": machine.consecutive,
            "probes": machine.probes_out,
            "refused": self._refused,
            "would_have_refused": self._would_have_refused,
            "retry_after_seconds": machine.retry_after(current().now()),
        }

    def describe(self) -> str:
        criteria, window = self._circuit.criteria, self._circuit.window
        span = f"{window.size} calls" if isinstance(window, CountWindow) else f"{window.seconds:g} s"  # type: ignore[attr-defined]
        when = []
        if criteria.fail_max is not None:
            when.append(f"{criteria.fail_max} failures in a row")
        if criteria.failure_rate is not None:
            when.append(f"{criteria.failure_rate:.0%} failures")
        if criteria.slow_rate is not None:
            when.append(f"{criteria.slow_rate:.0%} slower than {self.facts.slow:g} s")
        rate = "" if when == when[:1] and criteria.fail_max is not None else f" of >= {criteria.min_calls} in {span}"
        shadow = ", shadow" if self.shadow else ""
        return (
            f"CircuitBreaker({' or '.join(when)}{rate}, break {self._circuit.break_duration:g} s{shadow}: {self.state})"
        )

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        rest = inner(around)
        if self.shadow:
            return rest
        criteria, counts = self._circuit.criteria, [rest.max_failing_runs]
        if criteria.fail_max is not None:
            counts.append(criteria.fail_max)
        if criteria.failure_rate is not None or criteria.slow_rate is not None:
            counts.append(criteria.min_calls)
        return replace(rest, max_failing_runs=min(counts))
