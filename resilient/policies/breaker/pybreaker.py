"""A real `pybreaker.CircuitBreaker` that shows our circuit.

pybreaker holds a lock across the whole guarded call, so its own machine cannot stand on an event loop. Here ours
decides, and this object mirrors it: listeners get it as their `cb`; `current_state`, `fail_counter`, `open()` and the
rest answer for our circuit. No lock that someone else may hold is ever taken.

A storage that the user gives is shared with synchronous pybreaker users: the state is, and the count of failures in a
row. One in memory is looked at before each call. One that does I/O (Redis blocks on every read) is read and written by
a background thread; calls see its last word.

No storage is trusted to answer. pybreaker's Redis storage says "closed" when Redis does not answer, and a write that is
lost in a partition leaves an old word there. So a change of ours is written until it has been read back, and a word of
others is adopted only from a storage that knows of the latest opening that we know of, or of a later one. Errors are
logged once a minute, and calls go on with what is known here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import pybreaker

from resilient import _validation
from resilient._atomic import Wake, renew_in_forked_child
from resilient.core.call import Call
from resilient.core.policy import Policy
from resilient.errors import bare
from resilient.policies.breaker import circuit
from resilient.policies.breaker.circuit import Change, Circuit
from resilient.runtime.clock import monotonic

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
    """See the module. While it has a storage or listeners, the circuit is watched: calls pass by here."""

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
        self._storage = None if storage is None else _Shared(storage)
        machine.watch(bool(listeners) or storage is not None)

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
        news = None if self._storage is None else self._storage.news()
        if news is None or self._machine.state is circuit.ISOLATED:
            return None
        word, opened_at = news
        seconds = None
        if word == pybreaker.STATE_OPEN and opened_at is not None:
            passed = (datetime.now(UTC) - opened_at).total_seconds()
            whole = self._machine.break_duration
            seconds = min(whole, max(0.0, whole - passed))  # another machine's clock may be ahead of ours
        return self._machine.force(_OURS[word], now, "the shared storage says so", seconds=seconds)

    def excludes(self, error: Exception) -> bool:
        """Whether pybreaker's users have said that this error speaks well of the dependency."""
        return bool(self._excluded_exceptions) and not self.is_system_error(bare(error))

    def exclude_as(self, other: Face) -> None:
        """Exclude the same errors as another."""
        self._excluded_exceptions = list(other._excluded_exceptions)

    def before(self, call: Call) -> None:
        """Tell the listeners that an admitted call begins."""
        for listener in self.listeners:
            _tell(listener.before_call, self, call.fn, *call.args, **call.kwargs)

    def after(self, failed: bool, error: Exception | None, now: float, counts: bool) -> Change | None:
        """Tell the listeners how a call ended, and, if it `counts`, keep the shared count of failures in a row."""
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
                _tell(listener.success, self)
            elif error is None:
                judged = pybreaker.CircuitBreakerError("the outcome was judged a failure")
                _tell(listener.failure, self, judged)
            else:
                _tell(listener.failure, self, bare(error))
        return change

    def changed(self, change: Change, *, mirror: bool) -> None:
        """Tell the listeners of a change of state, and the storage too, unless it was the storage that said it."""
        if self._storage is not None and mirror:
            self._storage.say(word_for(change.new))
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


def _tell(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    try:
        method(*args, **kwargs)
    except Exception:
        _log.exception("resilient: a pybreaker listener raised")


Count = Literal["increment_counter", "reset_counter"]


class _Shared:
    """A storage as our circuit sees it: what we say is written until it has been read back, and news are what others
    have said since.

    One that does I/O is read and written by a thread, which starts with the first use, looks every `INTERVAL` seconds,
    and ends with the breaker.

    Attributes:
        counter: failures in a row, as last read, and those of ours since.
    """

    INTERVAL = 0.5
    MOST_COUNTS = 1000
    """How many counts wait for a storage that hangs; the oldest are given up."""
    QUIET = 60.0
    """Seconds between two lines in the log about a storage that does not answer."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage) -> None:
        self.counter = 0
        self._real = storage
        self._in_memory = isinstance(storage, pybreaker.CircuitMemoryStorage)
        self._word: str = pybreaker.STATE_CLOSED  # what we have said or taken over
        self._opened_at: datetime | None = None  # of the latest opening that we know of
        self._owed = False  # whether our word has not been read back yet
        self._said = 0  # how often we have said something
        self._news: tuple[str, datetime | None] | None = None
        self._counts: deque[Count] = deque(maxlen=self.MOST_COUNTS)
        self._counted = 0
        self._quiet_until = -math.inf
        self.renew()
        renew_in_forked_child(self)

    def renew(self) -> None:
        """Take up the exchange with the storage, also in a forked child: the parent's thread is not in it, and counts
        that this has not written yet are the parent's."""
        self._lock = threading.RLock()
        self._wake = Wake()
        self._thread: threading.Thread | None = None
        self._counts.clear()

    def news(self) -> tuple[str, datetime | None] | None:
        """What others have said, if it has not been taken yet: a state, and when the circuit was opened."""
        self._exchange()
        if self._news is None:
            return None
        with self._lock:
            news, self._news = self._news, None
        return news

    def say(self, word: str) -> None:
        """Our circuit has changed its state."""
        with self._lock:
            self._said += 1
            self._word, self._owed, self._news = word, True, None
            if word == pybreaker.STATE_OPEN:
                self._opened_at = datetime.now(UTC)
            elif word == pybreaker.STATE_CLOSED:
                self._counts.clear()
                self.counter = 0
        self._exchange(wake=True)

    def count(self, what: Count) -> None:
        """Add to the failures in a row, or begin a new row."""
        with self._lock:
            self.counter = self.counter + 1 if what == "increment_counter" else 0
            self._counted += 1
            if what == "reset_counter":
                self._counts.clear()
            self._counts.append(what)
        self._exchange(wake=True)

    def _exchange(self, *, wake: bool = False) -> None:
        """Write and read now; or have the thread do so, soon if it is to `wake`."""
        if self._in_memory:
            self.turn()
            return
        if wake:
            self._wake.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=_keep_turning,
                        args=(weakref.ref(self), self._wake),
                        name="resilient-storage",
                        daemon=True,
                    )
                    self._thread.start()

    def turn(self) -> None:
        """Write what is owed, then read. Never raises an `Exception`."""
        try:
            try:
                self._write()
            finally:
                self._read()
        except Exception:
            now = monotonic()
            if now >= self._quiet_until:
                self._quiet_until = now + self.QUIET
                _log.warning("resilient: the shared circuit storage does not answer", exc_info=True)

    def _write(self) -> None:
        with self._lock:
            word, opened_at, owed = self._word, self._opened_at, self._owed
        if owed:
            if opened_at is not None:
                self._real.opened_at = opened_at
            if word == pybreaker.STATE_CLOSED:
                self._real.reset_counter()
            self._real.reset_success_counter()
            self._real.state = word
        while True:
            try:
                count = self._counts.popleft()
            except IndexError:
                return
            try:
                getattr(self._real, count)()
            except BaseException:
                with self._lock:
                    if len(self._counts) < self.MOST_COUNTS and "reset_counter" not in self._counts:
                        self._counts.appendleft(count)
                raise

    def _read(self) -> None:
        said, counted = self._said, self._counted
        state = self._real.state
        opened_at = _aware(self._real.opened_at)
        counter = self._real.counter
        with self._lock:
            if counted == self._counted and not self._counts:
                self.counter = counter
            if said != self._said:
                return  # the word is older than ours
            if _before(opened_at, self._opened_at) or (self._owed and state != self._word):
                self._owed = True  # it is written again
                raise ConnectionError(f"the storage says {state!r}, and has lost that the circuit is {self._word!r}")
            self._owed = False
            if state == self._word:
                return
            if state not in _OURS:
                raise ValueError(f"the storage must say one of {', '.join(_OURS)}, not {state!r}")
            self._word, self._opened_at = state, opened_at
            self._news = state, opened_at


def _aware(when: datetime | None) -> datetime | None:
    """A time by UTC; one that names no zone is by UTC already, as pybreaker asks of storages."""
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def _before(opened_at: datetime | None, ours: datetime | None) -> bool:
    """Whether a storage knows only of an opening before ours. (Redis has whole seconds.)"""
    return ours is not None and (opened_at is None or opened_at.timestamp() < int(ours.timestamp()))


def _keep_turning(reference: weakref.ref[_Shared], wake: Wake) -> None:
    while (storage := reference()) is not None:
        storage.turn()
        del storage
        wake.wait(_Shared.INTERVAL)
