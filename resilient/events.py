"""What happened to calls, as frozen records for those who listen: logs, metrics, tests.

A listener is any callable that takes one event. It listens to one pipeline (`pipeline.listen(fn)`) or to all of them
(`events.listen(fn)`); both return a function that ends it. Where nobody listens, no event is built. A listener that
raises is logged and forgiven: observing a call can never fail it. Listeners run synchronously, in the thread and task
of the call, with no lock held; they must be quick.

`at` is the time of the event in seconds on the clock of the call's runtime (`time.monotonic`, or virtual time).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from resilient.arguments import callback
from resilient.atomic import members
from resilient.forks import module_lock

__all__ = [
    "AbandonedEnded",
    "AttemptFailed",
    "AttemptReturned",
    "AttemptStarted",
    "BudgetExhausted",
    "CallEnded",
    "CallRejected",
    "CallTimedOut",
    "Channel",
    "ChaosHalted",
    "CircuitChanged",
    "Event",
    "FaultInjected",
    "FellBack",
    "GaveUp",
    "HedgeWon",
    "Hedging",
    "LimitChanged",
    "Listener",
    "Queued",
    "Retrying",
    "Waited",
    "listen",
]

_log = logging.getLogger("resilient")


@dataclass(frozen=True, slots=True)
class Event:
    """Common to all: the pipeline's name ("" when unnamed) and the time, in seconds."""

    pipeline: str
    at: float


Judged = Literal["success", "failure", "nothing"]
"""What an outcome says about the dependency, as the classifier has judged it for all policies. "nothing": an error that
it ignores, a refusal, a cancellation, an answer of a Fallback, a mistake of the caller's."""


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """The function itself is being called, for the `attempt`-th time (from 1)."""

    attempt: int
    function: str


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """The function raised, after `elapsed` seconds; also by cancellation (`error` is then no `Exception`).

    `verdict`: what the error says about the dependency. Of a cancelled attempt nobody knows that here: "nothing".
    """

    attempt: int
    function: str
    error: BaseException
    elapsed: float
    verdict: Judged = "nothing"


@dataclass(frozen=True, slots=True)
class AttemptReturned(Event):
    """The function returned, after `elapsed` seconds. `failed`: the classifier judges its result a failure. Then
    `status` is its HTTP status, if it has one, and `retry_after` the seconds that it asks for, if it does.

    Of a streamed response it is told when the body has ended, with the times of its head; `failed` if it broke off.
    """

    attempt: int
    function: str
    elapsed: float
    failed: bool
    status: int | None = None
    retry_after: float | None = None


Ending = Literal["success", "failure", "timeout", "rejected", "cancelled"]
"""How a call ended for its caller: what came back was good; an exception of the function, or a result that is judged a
failure; `TimedOut`; a `Rejected`; or something that is no `Exception`."""


@dataclass(frozen=True, slots=True)
class CallEnded(Event):
    """A call of the guarded function is over, `elapsed` seconds after it began, whatever its policies did meanwhile.

    `requests`: how often the function itself was called, hedges included; 0 when it was refused before. `error` is what
    the caller gets, or None. `verdict`: what that says about the dependency.

    Of a streamed response it is told when the body has ended, with the times of its head: a "failure", with its error,
    if it broke off; "cancelled" if its reader was, or never read it.
    """

    function: str
    requests: int
    elapsed: float
    ending: Ending
    error: BaseException | None
    verdict: Judged = "nothing"


@dataclass(frozen=True, slots=True)
class Retrying(Event):
    """Attempt number `attempt` failed and another will follow after `wait` seconds. `error` is None for a result.

    In shadow mode `shadow` is True, and there is none.
    """

    policy: str
    attempt: int
    wait: float
    error: BaseException | None
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """Retries ended without success after `attempts`, because of `reason`."""

    policy: str
    attempts: int
    reason: str
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Hedging(Event):
    """Copy number `copy` (from 2) of a call begins, because of `reason`: "delay" or "failure".

    In shadow mode `shadow` is True, and it does not.
    """

    policy: str
    copy: int
    reason: str
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class HedgeWon(Event):
    """Of the `copies` of a call, copy number `copy` (from 1, the primary) had the outcome that the caller gets."""

    policy: str
    copy: int
    copies: int


@dataclass(frozen=True, slots=True)
class BudgetExhausted(Event):
    """An extra request (`what`: "retry" or "hedge") was not made, because the budget has no token for it."""

    policy: str
    what: str


@dataclass(frozen=True, slots=True)
class FellBack(Event):
    """A Fallback stood in for a call that failed with `error` (None: with a result that was judged a failure)."""

    policy: str
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class AbandonedEnded(Event):
    """Work whose caller had gone (`Timeout(abandon=True)`) ended, `elapsed` seconds after it began."""

    policy: str
    error: BaseException | None
    elapsed: float


@dataclass(frozen=True, slots=True)
class Queued(Event):
    """The call waits for a permit, as number `position` (from 1) in the queue."""

    policy: str
    position: int


@dataclass(frozen=True, slots=True)
class Waited(Event):
    """A wait ended after `seconds`: in a queue (`why="queue"`) or between attempts (`why="backoff"`)."""

    policy: str
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A policy refused the call. In shadow mode `shadow` is True, and the call went on. Where it has ended by now (it
    would have been refused later, in a queue), `went_well` says how."""

    policy: str
    reason: str
    retry_after: float | None
    shadow: bool = False
    went_well: bool | None = None


@dataclass(frozen=True, slots=True)
class CallTimedOut(Event):
    """A Timeout of `seconds` ended the call."""

    policy: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CircuitChanged(Event):
    """A circuit went from state `old` to `new`. Sent to every pipeline that shares the circuit."""

    policy: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """An `AdaptiveLimit` found a new limit. Sent to every pipeline that shares it, once a window at the most."""

    policy: str
    old: int
    new: int
    reason: str


@dataclass(frozen=True, slots=True)
class FaultInjected(Event):
    """Chaos has a call meet a fault of this `kind` ("latency", "errors", ...); `fault` describes it.

    `seconds`: how late a latency makes the call; 0 for the others.
    """

    policy: str
    kind: str
    fault: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ChaosHalted(Event):
    """Chaos stopped by itself, because more calls failed than it may cost. Sent to every pipeline that it is in."""

    policy: str
    reason: str


Listener = Callable[[Any], object]

_lock = module_lock()
_apart: ContextVar[bool] = ContextVar("resilient_apart", default=False)
_everywhere: dict[_Entry, None] = {}
_channels: weakref.WeakSet[Channel]


class Channel:
    """One pipeline's listeners, the global ones included. `if channel.listeners:` is all that silence costs."""

    __slots__ = ("__weakref__", "_own", "_watch", "apart", "later", "listeners", "pipeline")

    def __init__(self, pipeline: str = "") -> None:
        self.pipeline = pipeline
        self.apart: bool = _apart.get()
        """Whether its pipeline was made under `apart()`."""
        self._own: dict[_Entry, None] = {}
        self._watch: weakref.WeakMethod[Callable[[], None]] | None = None
        self.later: deque[Callable[[], None]] = deque()
        """What the garbage collector had to tell, which may run no listener: it is told before the next event."""
        with _lock:
            _channels.add(self)
            self.listeners: tuple[_Entry, ...] = () if self.apart else (*_everywhere,)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call the method `changed` now and whenever somebody begins or ends to listen, while its object lives."""
        with _lock:
            self._watch = weakref.WeakMethod(changed)
            changed()

    def _spread(self) -> None:
        self.listeners = (*self._own,) if self.apart else (*self._own, *_everywhere)
        changed = self._watch and self._watch()
        if changed is not None:
            changed()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Send every event to `listener` from now on. Returns a function that ends that, however often called."""
        callback("listener", listener)
        entry = _Entry(listener)
        with _lock:
            self._own[entry] = None
            self._spread()

        def stop() -> None:
            with _lock:
                self._own.pop(entry, None)
                self._spread()

        return stop

    def heard_by(self) -> list[Listener]:
        """Those who listen now, to this pipeline or to all of them, as they were given."""
        return [entry.listener for entry in self.listeners]

    def emit(self, event: Event) -> None:
        """Tell every listener. Never raises an `Exception`."""
        if self.later:
            self.catch_up()
        emit(self.listeners, event)

    def catch_up(self) -> None:
        """Tell what waits to be told."""
        while self.later:
            try:
                tell = self.later.popleft()
            except IndexError:  # another thread was quicker
                return
            tell()


_channels = weakref.WeakSet()

Channels = tuple["weakref.ref[Channel]", ...]
"""Where a policy tells of itself: the pipelines that it is in, which it does not keep in memory. (A `WeakSet` of one
takes twenty times as much as this.)"""


def joined(channels: Channels, channel: Channel) -> Channels:
    """`channels` and one more, without those whose pipelines are gone."""
    return (*(each for each in channels if each() not in (None, channel)), weakref.ref(channel))


def heard(channels: Channels) -> list[Channel]:
    """Those of `channels` to which somebody listens."""
    return [channel for each in channels if (channel := each()) is not None and channel.listeners]


class _Entry:
    """A listener as registered: the same function may listen twice, and each registration ends by itself."""

    __slots__ = ("listener",)

    def __init__(self, listener: Listener) -> None:
        self.listener = listener


def emit(entries: tuple[_Entry, ...], event: Event) -> None:
    """Tell those who listen; one that raises is logged with its traceback, and the others are still told."""
    for entry in entries:
        try:
            entry.listener(event)
        except Exception:
            _log.exception("resilient: a listener raised on %s", type(event).__name__)


@contextmanager
def apart() -> Iterator[None]:
    """Pipelines that are made inside are none of the program's: those who listen to all pipelines do not hear them, and
    the registry does not know them. For rehearsals (`resilient.lab`)."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def listen(listener: Listener) -> Callable[[], None]:
    """Send the events of every pipeline, also of later ones, to `listener`. Returns a function that ends that."""
    callback("listener", listener)
    entry = _Entry(listener)
    with _lock:
        _everywhere[entry] = None
        _spread()

    def stop() -> None:
        with _lock:
            _everywhere.pop(entry, None)
            _spread()

    return stop


def _spread() -> None:
    for channel in members(_channels):
        channel._spread()
