"""A pybreaker storage that a circuit shares with synchronous pybreaker users: its state, and its count of failures in a
row.

A storage in memory is read and written at each call. One that does I/O (Redis blocks on every read) is read and written
by a background thread; calls use the latest values that it has read.

No storage is trusted to answer. pybreaker's Redis storage says "closed" when Redis does not answer, and a write that is
lost in a partition leaves an old state there. So each change of ours is written until it has been read back, and a
state that others wrote is adopted only if the storage knows of the latest opening that we know of, or of a later one.
Errors are logged once a minute, and calls go on with what is known here.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import deque
from datetime import UTC, datetime
from typing import Literal

import pybreaker

from resilient._atomic import Wake, renew_in_forked_child
from resilient.runtime.clock import monotonic

__all__ = ["SharedStorage"]

_log = logging.getLogger("resilient")

STATES = (pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN)

Count = Literal["increment_counter", "reset_counter"]
"""An update of the count of failures in a row: the name of the storage's method."""


class SharedStorage:
    """The local view of a pybreaker storage: writes the changes of our circuit to it, and reads those of others.

    A storage that does I/O is read and written by a thread. It starts with the first use, runs every `INTERVAL` seconds
    or at once after a change of ours, and ends when this object is collected.

    Attributes:
        counter: failures in a row: as last read, and those of ours since.
    """

    INTERVAL = 0.5
    """Seconds between two exchanges with a storage that does I/O."""
    MOST_COUNTS = 1000
    """Updates of the count that are kept for a storage that hangs; the oldest are dropped."""
    QUIET = 60.0
    """Seconds between two lines in the log about a storage that does not answer."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage) -> None:
        self.counter = 0
        self._storage = storage
        self._in_memory = isinstance(storage, pybreaker.CircuitMemoryStorage)
        self._state: str = pybreaker.STATE_CLOSED  # as we have written it, or adopted it from others
        self._opened_at: datetime | None = None  # the time of the latest opening that we know of
        self._unconfirmed = False  # whether our state has not been read back yet
        self._changes = 0  # how many changes of state were ours
        self._foreign: tuple[str, datetime | None] | None = None
        self._counts: deque[Count] = deque(maxlen=self.MOST_COUNTS)
        self._counted = 0
        self._quiet_until = -math.inf
        self.renew()
        renew_in_forked_child(self)

    def renew(self) -> None:
        """Prepare for a new thread, also in a forked child, where the parent's thread does not exist. Updates of the
        count that are not written yet are dropped there: the parent writes them."""
        self._lock = threading.RLock()
        self._wake = Wake()
        self._thread: threading.Thread | None = None
        self._counts.clear()

    def foreign_state(self) -> tuple[str, datetime | None] | None:
        """A state that others have written, and the time of the opening that they know of; None if there is none, or if
        an earlier call has returned it."""
        self._exchange_soon()
        if self._foreign is None:
            return None
        with self._lock:
            foreign, self._foreign = self._foreign, None
        return foreign

    def write_state(self, state: str) -> None:
        """Write a new state of our circuit: now, or soon in the thread."""
        with self._lock:
            self._changes += 1
            self._state, self._unconfirmed, self._foreign = state, True, None
            if state == pybreaker.STATE_OPEN:
                self._opened_at = datetime.now(UTC)
            elif state == pybreaker.STATE_CLOSED:
                self._counts.clear()
                self.counter = 0
        self._exchange_soon(wake=True)

    def count(self, update: Count) -> None:
        """Add to the failures in a row, or set them to 0: now, or soon in the thread."""
        with self._lock:
            self.counter = self.counter + 1 if update == "increment_counter" else 0
            self._counted += 1
            if update == "reset_counter":
                self._counts.clear()
            self._counts.append(update)
        self._exchange_soon(wake=True)

    def _exchange_soon(self, *, wake: bool = False) -> None:
        """Write and read a storage in memory now; for any other, see that the thread runs, and does so at once with
        `wake`."""
        if self._in_memory:
            self.exchange()
            return
        if wake:
            self._wake.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=_synchronise,
                        args=(weakref.ref(self), self._wake),
                        name="resilient-storage",
                        daemon=True,
                    )
                    self._thread.start()

    def exchange(self) -> None:
        """Write what has not been written, then read. Never raises an `Exception`."""
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
            state, opened_at, unconfirmed = self._state, self._opened_at, self._unconfirmed
        if unconfirmed:
            if opened_at is not None:
                self._storage.opened_at = opened_at
            if state == pybreaker.STATE_CLOSED:
                self._storage.reset_counter()
            self._storage.reset_success_counter()
            self._storage.state = state
        while True:
            try:
                update = self._counts.popleft()
            except IndexError:
                return
            try:
                getattr(self._storage, update)()
            except BaseException:
                with self._lock:
                    if len(self._counts) < self.MOST_COUNTS and "reset_counter" not in self._counts:
                        self._counts.appendleft(update)
                raise

    def _read(self) -> None:
        changes, counted = self._changes, self._counted
        state = self._storage.state
        opened_at = _aware(self._storage.opened_at)
        counter = self._storage.counter
        with self._lock:
            if counted == self._counted and not self._counts:
                self.counter = counter
            if changes != self._changes:
                return  # our circuit has changed since: what was read is older
            if _is_before(opened_at, self._opened_at) or (self._unconfirmed and state != self._state):
                self._unconfirmed = True  # it is written again
                raise ConnectionError(f"the storage says {state!r}, and has lost that the circuit is {self._state!r}")
            self._unconfirmed = False
            if state == self._state:
                return
            if state not in STATES:
                raise ValueError(f"the storage must say one of {', '.join(STATES)}, not {state!r}")
            self._state, self._opened_at = state, opened_at
            self._foreign = state, opened_at


def _aware(when: datetime | None) -> datetime | None:
    """A time with a time zone; one without is UTC, as pybreaker demands of storages."""
    return when.replace(tzinfo=UTC) if when is not None and when.tzinfo is None else when


def _is_before(opened_at: datetime | None, ours: datetime | None) -> bool:
    """Whether a storage knows only of an opening before ours. Redis stores whole seconds, so fractions do not count."""
    return ours is not None and (opened_at is None or opened_at.timestamp() < int(ours.timestamp()))


def _synchronise(reference: weakref.ref[SharedStorage], wake: Wake) -> None:
    """The thread: exchanges with the storage until the `SharedStorage` is collected."""
    while (storage := reference()) is not None:
        storage.exchange()
        del storage
        wake.wait(SharedStorage.INTERVAL)
