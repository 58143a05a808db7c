"""A real `pybreaker.CircuitBreaker` that shows our circuit.

pybreaker holds a lock across the whole guarded call, so its own machine cannot stand on an event loop. Here ours
decides, and this object mirrors it: listeners get it as their `cb`; `current_state`, `fail_counter`, `open()` and the
rest answer for our circuit. No lock that someone else may hold is ever taken.

A storage that the user gives is shared with synchronous pybreaker users: the state is, and the count of failures in a
row. One in memory is looked at before each call. One that does I/O (Redis blocks on every read) is read and written by
a background thread; calls see its last word.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import pybreaker

from resilient import arguments, circuit
from resilient.call import Call
from resilient.circuit import Change, Circuit
from resilient.policy import Policy

__all__ = ["Face"]

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


def word_for(state: circuit.State) -> str:
    """pybreaker's word for a state: an isolated circuit is "open"."""
    return pybreaker.STATE_OPEN if state is circuit.ISOLATED else state


def _state_object(face: Face, state: circuit.State) -> Any:
    """pybreaker's object for a state, as its listeners expect."""
    return _STATES[word_for(state)](face, None)


class Owner(Protocol):
    """What the face needs of the breaker behind it."""

    name: str

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]: ...
    def open(self) -> None: ...
    def half_open(self) -> None: ...
    def close(self) -> None: ...


class Face(pybreaker.CircuitBreaker):
    """See the module. `attentive` says whether calls have to pass by here at all."""

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
        self._storage: pybreaker.CircuitBreakerStorage | _Background | None = storage
        if storage is not None and not isinstance(storage, pybreaker.CircuitMemoryStorage):
            self._storage = _Background(storage)
        self._seen: str | None = pybreaker.STATE_CLOSED  # the storage's word when we last agreed
        self.attentive = bool(listeners) or storage is not None

    @property
    def name(self) -> str:
        """Its owner's."""
        return self._owner.name

    @name.setter
    def name(self, name: str) -> None:
        self._owner.name = name

    # -- what our gate calls ------------------------------------------------------------------------------------

    def synchronise(self, now: float) -> Change | None:
        """Adopt what somebody else has written to the storage since the last look."""
        storage = self._storage
        if storage is None:
            return None
        word = storage.state
        if word is None or word == self._seen:
            return None
        self._seen = word
        if self._machine.state is circuit.ISOLATED or word not in _OURS:
            return None
        seconds = None
        if word == pybreaker.STATE_OPEN and storage.opened_at is not None:
            passed = (datetime.now(UTC) - storage.opened_at).total_seconds()
            seconds = max(0.0, self._machine.break_duration - passed)
        return self._machine.force(_OURS[word], now, "the shared storage says so", seconds=seconds)

    def before(self, call: Call) -> None:
        """Tell the listeners that an admitted call begins."""
        for listener in self.listeners:
            _tell(listener.before_call, self, call.fn, *call.args, **call.kwargs)

    def after(self, failed: bool, error: Exception | None, now: float, counts: bool) -> Change | None:
        """Tell the listeners how a call ended, and, if it `counts`, keep the shared count of failures in a row."""
        change = None
        storage, fail_max = (self._storage if counts else None), self._machine.criteria.fail_max
        if storage is not None and failed:
            storage.increment_counter()
            if fail_max is not None and storage.counter >= fail_max and self._machine.state is circuit.CLOSED:
                change = self._machine.force(circuit.OPEN, now, f"{fail_max} failures in a row, by all who share it")
        elif storage is not None and storage.counter:
            storage.reset_counter()
        for listener in self.listeners:
            if failed:
                exc = error or pybreaker.CircuitBreakerError("the outcome was judged a failure")
                _tell(listener.failure, self, exc)
            else:
                _tell(listener.success, self)
        return change

    def changed(self, change: Change, *, mirror: bool) -> None:
        """Tell the listeners of a change of state, and the storage too, unless it was the storage that said it."""
        word = word_for(change.new)
        storage = self._storage
        if storage is not None and mirror:
            self._seen = word
            if word == pybreaker.STATE_OPEN:
                storage.opened_at = datetime.now(UTC)
            if word == pybreaker.STATE_CLOSED:
                storage.reset_counter()
            storage.reset_success_counter()
            storage.state = word
        old = _state_object(self, change.old)
        for listener in self.listeners:
            _tell(listener.state_change, self, old, _state_object(self, change.new))

    # -- what pybreaker's users call ----------------------------------------------------------------------------

    @property
    def current_state(self) -> str:
        return word_for(self._machine.state) if hasattr(self, "_machine") else pybreaker.STATE_CLOSED

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
    def fail_max(self) -> int:
        return self._machine.criteria.fail_max or 0

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._machine.criteria = replace(self._machine.criteria, fail_max=arguments.count("fail_max", number))

    @property
    def reset_timeout(self) -> float:
        return self._machine.break_duration

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        self._machine.break_duration = arguments.seconds("reset_timeout", timeout)

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
        for attempt in Policy.alone(self._owner).attempts("calling"):  # type: ignore[arg-type]  # it is a policy
            with attempt:
                yield

    def __call__(self, *call_args: Any, **call_kwargs: bool) -> Callable[..., Any]:
        return self._owner(call_args[0]) if call_args else self._owner

    def call_async(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(func, *args, **kwargs)

    def add_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        _check(listener)
        self._listeners: list[Any] = [*self._listeners, listener]
        self.attentive = True

    def remove_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        remaining = list(self._listeners)
        remaining.remove(listener)
        self._listeners = remaining
        self.attentive = bool(remaining) or self._storage is not None


def _check(listener: object) -> None:
    if not isinstance(listener, pybreaker.CircuitBreakerListener):
        raise TypeError(f"listeners must be pybreaker.CircuitBreakerListener, got {listener!r}")


def _tell(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    try:
        method(*args, **kwargs)
    except Exception:
        _log.exception("resilient: a pybreaker listener raised")


class _Background:
    """A storage that does I/O, as a calling thread may use it: reads are the last word, writes are left to a thread.

    The thread starts with the first use, looks every `INTERVAL` seconds, and ends with the breaker.
    """

    INTERVAL = 0.5
    MOST_WRITES = 1000
    """How many writes wait for a storage that hangs; the oldest are given up."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage) -> None:
        self._real = storage
        self._writes: deque[Callable[[], None]] = deque(maxlen=self.MOST_WRITES)
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._written = 0
        self._read = 0  # how much had been written when the last word was read
        self._thread: threading.Thread | None = None
        self._state: str | None = None
        self._opened_at: datetime | None = None
        self._counter = 0

    @property
    def state(self) -> str | None:
        """The last word; None while there is none, or while what we wrote has not been read back."""
        if self._thread is None:
            self._start()
        return self._state if self._read == self._written else None

    @state.setter
    def state(self, word: str) -> None:
        if word == pybreaker.STATE_CLOSED:
            self._opened_at = None
        self._write(lambda: setattr(self._real, "state", word))

    @property
    def opened_at(self) -> datetime | None:
        return self._opened_at

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        self._opened_at = when
        self._write(lambda: setattr(self._real, "opened_at", when))

    @property
    def counter(self) -> int:
        return self._counter

    def increment_counter(self) -> None:
        self._counter += 1
        self._write(self._real.increment_counter)

    def reset_counter(self) -> None:
        self._counter = 0
        self._write(self._real.reset_counter)

    def reset_success_counter(self) -> None:
        self._write(self._real.reset_success_counter)

    def _write(self, write: Callable[[], None]) -> None:
        with self._lock:
            self._written += 1
            self._writes.append(write)
        self._wake.set()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_synchronise, args=(weakref.ref(self), self._wake), name="resilient-storage", daemon=True
                )
                self._thread.start()

    def turn(self) -> None:
        """One round of the thread: do the writes, then read, unless more was written meanwhile."""
        while True:
            with self._lock:
                written = self._written
                write = self._writes.popleft() if self._writes else None
            if write is None:
                break
            write()
        state, opened_at, counter = self._real.state, self._real.opened_at, self._real.counter
        if opened_at is None and self._opened_at is not None:
            # pybreaker's Redis storage answers "closed" when Redis does not; but nobody takes an opening back.
            raise ConnectionError("the storage has forgotten when the circuit was opened")
        with self._lock:
            if self._written == written:
                self._state, self._opened_at, self._counter = state, opened_at, counter
                self._read = written


def _synchronise(reference: weakref.ref[_Background], wake: threading.Event) -> None:
    healthy = True
    while (storage := reference()) is not None:
        wake.clear()
        try:
            storage.turn()
            healthy = True
        except Exception:
            if healthy:  # once per outage: calls go on with what is known here
                _log.warning("resilient: the shared circuit storage does not answer", exc_info=True)
            healthy = False
        del storage
        wake.wait(_Background.INTERVAL)
