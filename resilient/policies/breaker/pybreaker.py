"""A real `pybreaker.CircuitBreaker` in front of our circuit, for pybreaker's listeners, storages and manual controls.

pybreaker holds a lock during the whole guarded call, so its own state machine cannot be used on an event loop. Here our
circuit decides, and this object shows it: listeners get it as their `cb`; `current_state`, `fail_counter`, `open()` and
the rest read and control our circuit. It never takes a lock that code outside may hold.

A storage that the user gives (`state_storage=`) is shared with synchronous pybreaker users: its state, and its count of
failures in a row. `resilient.stores.pybreaker` reads and writes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import pybreaker

from resilient import _validation
from resilient.core.call import Call
from resilient.errors import bare
from resilient.policies.breaker import circuit
from resilient.policies.breaker.circuit import Change, Circuit
from resilient.stores.pybreaker import SharedStorage

__all__ = ["Facade"]

_log = logging.getLogger("resilient")

_STATES: dict[str, Any] = {
    pybreaker.STATE_CLOSED: pybreaker.CircuitClosedState,
    pybreaker.STATE_OPEN: pybreaker.CircuitOpenState,
    pybreaker.STATE_HALF_OPEN: pybreaker.CircuitHalfOpenState,
}
_OURS: dict[str, circuit.State] = {
    pybreaker.STATE_CLOSED: circuit.CLOSED,
    pybreaker.STATE_OPEN: circuit.OPEN,
    pybreaker.STATE_HALF_OPEN: circuit.HALF_OPEN,
}


def pybreaker_state(state: circuit.State) -> str:
    """pybreaker's name of a state: an isolated circuit is "open"."""
    return pybreaker.STATE_OPEN if state is circuit.ISOLATED else state


def _state_object(facade: Facade, state: circuit.State) -> Any:
    """pybreaker's object for a state, as its listeners expect."""
    return _STATES[pybreaker_state(state)](facade, None)


class Owner(Protocol):
    """The part of a `CircuitBreaker` that its facade uses."""

    name: str

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]: ...
    def open(self) -> None: ...
    def half_open(self) -> None: ...
    def close(self) -> None: ...
    def _as_pipeline(self) -> Any: ...


class Facade(pybreaker.CircuitBreaker):
    """The pybreaker object of a `CircuitBreaker`.

    While it has a storage or listeners, the circuit is watched: each call goes through `Circuit.admit`, `before` and
    `after` here.

    Args:
        owner: the `CircuitBreaker`.
        machine: its circuit.
        listeners: pybreaker listeners.
        storage: a pybreaker storage to share, or None.
    """

    def __init__(
        self,
        owner: Owner,
        machine: Circuit,
        listeners: Sequence[pybreaker.CircuitBreakerListener],
        storage: pybreaker.CircuitBreakerStorage | None,
    ) -> None:
        if storage is not None and not isinstance(storage, pybreaker.CircuitBreakerStorage):
            raise TypeError(f"state_storage must be a pybreaker.CircuitBreakerStorage, got {storage!r}")
        if not isinstance(listeners, Sequence):
            raise TypeError(f"listeners must be a list of pybreaker.CircuitBreakerListener, got {listeners!r}")
        for listener in listeners:
            _check(listener)
        self._owner = owner
        self._machine = machine
        super().__init__(
            fail_max=machine.criteria.fail_max or 0,
            reset_timeout=machine.break_duration,
            success_threshold=machine.success_threshold,
            listeners=list(listeners),
            name=owner.name,
        )
        self._storage = None if storage is None else SharedStorage(storage)
        machine.watch(bool(listeners) or storage is not None)

    @property
    def name(self) -> str:
        """The name of the `CircuitBreaker`, which can be set here, too."""
        return self._owner.name

    @name.setter
    def name(self, name: str) -> None:
        self._owner.name = name

    # -- called by our gate -------------------------------------------------------------------------------------

    def synchronise(self, now: float) -> Change | None:
        """Adopt a state that others have written to the storage since the last call. Returns the change, if any."""
        foreign = None if self._storage is None else self._storage.foreign_state()
        if foreign is None or self._machine.state is circuit.ISOLATED:
            return None
        state, opened_at = foreign
        seconds = None
        if state == pybreaker.STATE_OPEN and opened_at is not None:
            passed = (datetime.now(UTC) - opened_at).total_seconds()
            whole = self._machine.break_duration
            seconds = min(whole, max(0.0, whole - passed))  # another machine's clock may be ahead of ours
        return self._machine.force(_OURS[state], now, "the shared storage says so", seconds=seconds)

    def excludes(self, error: Exception) -> bool:
        """Whether the error is one of the excluded exceptions, which count as success in pybreaker."""
        return bool(self._excluded_exceptions) and not self.is_system_error(bare(error))

    def exclude_as(self, other: Facade) -> None:
        """Exclude the same exceptions as another facade."""
        self._excluded_exceptions = list(other._excluded_exceptions)

    def before(self, call: Call) -> None:
        """Call `before_call` of the listeners: an admitted call begins."""
        for listener in self.listeners:
            _call(listener.before_call, self, call.fn, *call.args, **call.kwargs)

    def after(self, failed: bool, error: Exception | None, now: float, counts: bool) -> Change | None:
        """Call `success` or `failure` of the listeners, and update the shared count of failures in a row.

        Args:
            failed: whether the call counts as a failure.
            error: what it raised, if it raised.
            now: the time.
            counts: whether the call was admitted in the current generation of the circuit. Otherwise the shared count
                stays as it is.

        Returns the change of state, if the shared count has opened the circuit.
        """
        change = None
        storage, fail_max = (self._storage if counts else None), self._machine.criteria.fail_max
        if storage is not None and failed:
            storage.count("increment_counter")
            if fail_max is not None and storage.counter >= fail_max and self._machine.state is circuit.CLOSED:
                change = self._machine.force(circuit.OPEN, now, f"{fail_max} failures in a row, by all who share it")
        elif storage is not None and storage.counter:
            storage.count("reset_counter")
        for listener in self.listeners:
            if not failed:
                _call(listener.success, self)
            elif error is None:
                failure = pybreaker.CircuitBreakerError("the outcome was judged a failure")
                _call(listener.failure, self, failure)
            else:
                _call(listener.failure, self, bare(error))
        return change

    def changed(self, change: Change, *, mirror: bool) -> None:
        """Call `state_change` of the listeners, and with `mirror` write the new state to the storage."""
        if self._storage is not None and mirror:
            self._storage.write_state(pybreaker_state(change.new))
        old = _state_object(self, change.old)
        for listener in self.listeners:
            _call(listener.state_change, self, old, _state_object(self, change.new))

    # -- pybreaker's interface -----------------------------------------------------------------------------------

    @property
    def current_state(self) -> str:
        return pybreaker_state(self._machine.state) if hasattr(self, "_machine") else pybreaker.STATE_CLOSED

    @property
    def state(self) -> Any:
        return _STATES[self.current_state](self, None)

    @state.setter
    def state(self, state_str: str) -> None:
        if state_str not in _OURS:
            raise ValueError(f"state must be one of {', '.join(_OURS)}, got {state_str!r}")
        {"open": self.open, "closed": self.close, "half-open": self.half_open}[state_str]()

    @property
    def fail_counter(self) -> int:
        return self._machine.consecutive

    @property
    def success_counter(self) -> int:
        return self._machine.successes

    @property
    def success_threshold(self) -> int:
        return self._machine.success_threshold

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        self._machine.success_threshold = _validation.count("success_threshold", threshold)

    @property
    def fail_max(self) -> int:
        return self._machine.criteria.fail_max or 0

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._machine.criteria = replace(self._machine.criteria, fail_max=_validation.count("fail_max", number))

    @property
    def reset_timeout(self) -> float:
        return self._machine.break_duration

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        self._machine.break_duration = _validation.seconds("reset_timeout", timeout)

    def open(self) -> bool:
        self._owner.open()
        return True

    def half_open(self) -> None:
        self._owner.half_open()

    def close(self) -> None:
        self._owner.close()

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._owner(func)(*args, **kwargs)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        for attempt in self._owner._as_pipeline().attempts("calling"):
            with attempt:
                yield

    def __call__(self, *call_args: Any, **call_kwargs: bool) -> Callable[..., Any]:
        return self._owner(call_args[0]) if call_args else self._owner

    def call_async(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(func, *args, **kwargs)

    def add_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        _check(listener)
        self._listeners: list[Any] = [*self._listeners, listener]
        self._machine.watch(True)

    def remove_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        remaining = list(self._listeners)
        remaining.remove(listener)
        self._listeners = remaining
        self._machine.watch(bool(remaining) or self._storage is not None)


def _check(listener: object) -> None:
    if not isinstance(listener, pybreaker.CircuitBreakerListener):
        raise TypeError(f"listeners must be pybreaker.CircuitBreakerListener, got {listener!r}")
    for name in ("before_call", "success", "failure", "state_change"):
        if _validation.is_async(getattr(listener, name)):
            raise TypeError(
                f"{name} must be a plain function, whose answer is not awaited, in the listener {listener!r}"
            )


def _call(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    try:
        method(*args, **kwargs)
    except Exception:
        _log.exception("resilient: a pybreaker listener raised")
