"""The counters of a pipeline: plain integers that calls increment, and that exporters of metrics read.

Counting must cost next to nothing. A call that succeeds at once increments two integers, which also say how many calls
are in flight (`CallCount`). Everything else is counted where something has gone wrong, or in a wait, in a dictionary by
the name of the metric and its labels (`resilient.observe.metrics` has the table of metrics). Durations cost more, so
they are recorded only while someone asks for them (`record_durations`).

Pipelines of one name share their counters, because their series have one name, too: variations of a pipeline, the
pipelines that a transport derives, and a pipeline that is made anew for each client. Unnamed pipelines share the
counters of `UNNAMED`. Counters stay when their pipelines are gone; otherwise a rate computed from them would be wrong.

A forked child counts from 0.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from resilient._atomic import GIL, in_forked_child, members, module_lock
from resilient.stats.durations import LONGEST, DurationHistogram

__all__ = [
    "MOST_NAMES",
    "OTHER",
    "UNNAMED",
    "CallCount",
    "Counter",
    "Counters",
    "Wanted",
    "all_counters",
    "counters_of",
    "dropped_names",
    "record_durations",
]

_log = logging.getLogger("resilient")

UNNAMED = "unnamed"
"""The name of the series of all unnamed pipelines."""

OTHER = "other"
"""The name of the series of all pipelines beyond the first `MOST_NAMES` names."""

MOST_NAMES = 1_000
"""The most names of pipelines that have counters of their own. Names of pipelines come from code and are few; but a
program may name one after each tenant."""

MOST_KEYS = 10_000
"""The most counters, and sums of seconds, of one name. Beyond that all labels of a new one are `OTHER`: a policy of a
user may give reasons without end, and a program may name the policies of a pipeline after its tenants."""

MOST_DROPPED = 10_000
"""The most names beyond `MOST_NAMES` that are remembered, to count them."""

Key = tuple[str, ...]
"""The name of a metric without its first part, "resilient.", and the values of its labels after the pipeline."""

SUCCEEDED: Key = ("calls", "success", "success")
ATTEMPT_SUCCEEDED: Key = ("attempts", "success", "success")


_lock = module_lock()


class CallCount:
    """The calls of one pipeline and its derivations, in one process. (A forked child makes a new `CallCount`: a call
    that was in flight at the fork and ends in the child is counted in the old one.)

    Attributes:
        begun: calls that have begun.
        at_once: calls that succeeded with one attempt, which nothing else counts.
        returned: other calls that succeeded, and are counted nowhere else.
        ended: all other calls that have ended. `Counters.totals` has their endings.
    """

    __slots__ = ("at_once", "begun", "ended", "returned")

    def __init__(self) -> None:
        self.begun = self.at_once = self.returned = self.ended = 0

    @property
    def inside(self) -> int:
        """The number of calls in flight."""
        ended = self.at_once + self.returned + self.ended  # read first: the result is never too small
        return self.begun - ended


def _sum(counts: list[CallCount]) -> CallCount:
    total = CallCount()
    for each in counts:
        total.begun += each.begun
        total.at_once += each.at_once
        total.returned += each.returned
        total.ended += each.ended
    return total


class Counter:
    """One number that only grows. Code that counts often keeps it, instead of looking it up."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    if GIL:

        def add(self) -> None:
            """Count one. (Where this is too slow: `number += 1`, if there is a GIL.)"""
            self.number += 1

    else:

        def add(self) -> None:
            """Count one."""
            with _lock:
                self.number += 1


def _limited(key: Key, known: Mapping[Key, object]) -> Key:
    """The key under which something is counted. (Endings of calls and attempts are few.)"""
    if len(known) < MOST_KEYS or key in known or key[0] in ("calls", "attempts"):
        return key
    return key[0], *[OTHER] * (len(key) - 1)


def _nobody() -> None:
    """What the sum of the counts belongs to whose pipelines are gone."""


class _Durations(dict[str, DurationHistogram]):
    """Durations by ending. (A `defaultdict` replaces what another thread has made meanwhile.)"""

    def __missing__(self, ending: str) -> DurationHistogram:
        return self.setdefault(ending, DurationHistogram())


class Counters:
    """The counters of the pipelines of one name.

    Attributes:
        name: of the series.
        seconds: sums of seconds, by `Key`.
        attempts: successful attempts that `CallCount.at_once` does not include.
        records, records_attempts: whether durations of calls, and of attempts, are recorded now.
        slow: seconds from which a call that succeeded is an example; the longest duration where none is wanted.
        call_durations, attempt_durations: the durations, by ending.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.records = self.records_attempts = False
        self.slow = LONGEST
        self._counters: dict[Key, Counter] = {}
        self.renew()

    def renew(self) -> None:
        """Count from 0, in a forked child."""
        self._lock = _lock if GIL else threading.RLock()  # where there is a GIL, it is only taken to read
        for counter in members(self._counters.values()):
            counter.number = 0
        self.seconds: defaultdict[Key, float] = defaultdict(float)
        self.attempts = 0
        self.call_durations = _Durations()
        self.attempt_durations = _Durations()
        self._entered: list[tuple[Callable[[], object], CallCount]] = [(_nobody, CallCount())]

    def enter(self, owner: object, calls: CallCount) -> None:
        """Add a count of calls. It is part of the sums also when `owner`, which all calls in flight refer to, is
        gone."""
        entry = weakref.ref(owner), calls
        with self._lock:
            number = len(self._entered)
            if number >= 16 and not number & (number - 1):  # now and then
                self._fold()
            self._entered.append(entry)

    def _fold(self) -> None:
        """Add up the counts whose pipelines are gone: the first part of the list is replaced at once. If a signal
        handler or a finalizer has done the same meanwhile, the first entry is another one, and it is done again. (No
        handler runs between the comparison and the replacement, which are one line without a call of Python code.)"""
        entered, done = self._entered, False
        while not done:
            seen = entered.copy()
            live = [entry for entry in seen if entry[0]() is not None]
            known = {id(calls) for _, calls in live}
            gone = _sum([calls for _, calls in seen if id(calls) not in known])
            part, folded = slice(0, len(seen)), [(_nobody, gone), *live]
            _ = (done := entered[0] is seen[0]) and entered.__setitem__(part, folded)

    def counter(self, *key: str) -> Counter:
        """Return the counter of how often something happened, by `Key`. It stays the same."""
        key = _limited(key, self._counters)
        found = self._counters.get(key)
        return self._counters.setdefault(key, Counter()) if found is None else found

    def count(self, *key: str) -> None:
        """Count one."""
        counter = self._counters.get(key)
        if counter is None:
            counter = self.counter(*key)
        if GIL:
            counter.number += 1
        else:
            counter.add()

    if GIL:

        def add_seconds(self, seconds: float, *key: str) -> None:
            """Add a duration to a sum."""
            key = _limited(key, self.seconds)
            self.seconds[key] += seconds

        def attempt_succeeded(self) -> None:
            """Count a successful attempt. (Generated gate layers inline this method.)"""
            self.attempts += 1

    else:

        def add_seconds(self, seconds: float, *key: str) -> None:
            """Add a duration to a sum."""
            with self._lock:
                self.seconds[_limited(key, self.seconds)] += seconds

        def attempt_succeeded(self) -> None:
            """Count a successful attempt."""
            with self._lock:
                self.attempts += 1

    def record_call(self, ending: str, seconds: float) -> None:
        """Record the duration of a call; and an example, if it failed or was slow."""
        durations = self.call_durations[ending]
        durations.record(seconds)
        if ending != "success" or seconds >= self.slow:
            _recording.note(durations, seconds)

    def record_attempt(self, ending: str, seconds: float) -> None:
        """Record the duration of an attempt."""
        self.attempt_durations[ending].record(seconds)

    def totals(self) -> dict[Key, int]:
        """All counts now, those of calls and attempts that succeeded included."""
        with self._lock:
            counts = {key: counter.number for key, counter in self._counters.copy().items() if counter.number}
            self._fold()
            calls = _sum([each for _, each in self._entered.copy()])
            attempts = self.attempts + calls.at_once
            succeeded = calls.at_once + calls.returned
        if succeeded:
            counts[SUCCEEDED] = counts.get(SUCCEEDED, 0) + succeeded
        if attempts:
            counts[ATTEMPT_SUCCEEDED] = counts.get(ATTEMPT_SUCCEEDED, 0) + attempts
        return counts

    def sums(self) -> dict[Key, float]:
        """All sums of seconds now."""
        return self.seconds.copy()

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        with self._lock:
            return sum(calls.inside for _, calls in self._entered.copy())


# -- by name ---------------------------------------------------------------------------------------------------------

_by_name: dict[str, Counters] = {}
_dropped: set[int] = set()


def counters_of(name: str, *, hidden: bool = False) -> Counters:
    """The counters of the pipelines of this name. `hidden`: of one pipeline of a simulation, which no exporter sees."""
    if hidden:
        return Counters(name)
    with _lock:
        name = name or UNNAMED
        if name not in _by_name and len(_by_name) >= MOST_NAMES:
            if len(_dropped) < MOST_DROPPED:
                _dropped.add(hash(name))  # not the name, which may be long
            name = OTHER
        if name not in _by_name:
            counters = Counters(name)
            _recording.applies_to(counters)
            _by_name.setdefault(name, counters)  # a signal handler may have made a pipeline of this name
        return _by_name[name]


@in_forked_child
def _renew() -> None:
    """Runs before pipelines are renewed, which then enter their new counts."""
    for counters in _by_name.values():
        counters.renew()


def dropped_names() -> int:
    """The number of names whose pipelines are counted together, as `OTHER`. Counted up to `MOST_DROPPED`."""
    return len(_dropped)


def all_counters() -> list[Counters]:
    """The counters of all names, by name."""
    with _lock:
        return [_by_name[name] for name in sorted(_by_name)]


# -- durations -------------------------------------------------------------------------------------------------------

Example = Callable[[], Mapping[str, str] | None]


class Wanted(NamedTuple):
    """The durations that an exporter wants.

    Attributes:
        attempts: whether those of attempts, too.
        exemplar: returns the labels of an example; None: there are no examples.
        slow: seconds from which a call that succeeded is an example.
    """

    attempts: bool
    exemplar: Example | None
    slow: float


class _Recording:
    """The durations that are recorded now, and the calls that are noted as examples."""

    def __init__(self) -> None:
        self.wanted: dict[object, Wanted] = {}
        self.update()

    def update(self) -> None:
        """Follow a change of `wanted`."""
        wanted = members(self.wanted.values())
        self.calls = bool(wanted)
        self.attempts = any(each.attempts for each in wanted)
        examples = [each for each in wanted if each.exemplar is not None]
        self.exemplar = examples[-1].exemplar if examples else None
        self.slow = examples[-1].slow if examples else math.inf

    def applies_to(self, counters: Counters) -> None:
        """Record in `counters` what is wanted now."""
        counters.records, counters.records_attempts = self.calls, self.attempts
        counters.slow = min(self.slow, LONGEST)

    def note(self, durations: DurationHistogram, seconds: float) -> None:
        """Note a call as an example, with the labels that the exporter's function returns."""
        try:
            labels = None if self.exemplar is None else self.exemplar()
            if labels:
                durations.note(dict(labels), seconds, time.time())
        except Exception:
            _log.exception("resilient: %r raised, which returns the labels of an exemplar", self.exemplar)


_recording = _Recording()


def record_durations(owner: object, wanted: Wanted | None) -> None:
    """Record the durations that `owner` wants from now on; None: it wants none any more. (The function for exporters is
    `resilient.observe.metrics.record_durations`.)"""
    with _lock:
        if wanted is None:
            _recording.wanted.pop(owner, None)
        else:
            _recording.wanted[owner] = wanted
        _recording.update()
        for counters in _by_name.values():
            _recording.applies_to(counters)
