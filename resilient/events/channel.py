"""Listeners, and the channel that takes a pipeline's events to them."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from resilient._atomic import members, module_lock
from resilient._validation import callback
from resilient.events.counters import Counters, Wanted, counters_of
from resilient.events.counters import record_durations as _record_durations
from resilient.events.records import (
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    CallEnded,
    Event,
)

__all__ = [
    "Channel",
    "Emitter",
    "Listener",
    "Surround",
    "emit",
    "hidden_pipelines",
    "listen",
    "log_listener_error",
    "record_durations",
]

_log = logging.getLogger("resilient")

Listener = Callable[[Any], object]

_ATTEMPTS = (AttemptStarted, AttemptReturned, AttemptFailed)

_lock = module_lock()
_hidden: ContextVar[bool] = ContextVar("resilient_hidden", default=False)
_everywhere: dict[_Entry, None] = {}
_channels: weakref.WeakSet[Channel]


class Surround:
    """A listener that also surrounds each call and each attempt, in the context in which it runs: for spans, which are
    current while it runs. While one listens, calls take the full path. (`resilient.core.surround` has the code.)"""

    def __call__(self, event: Any) -> None:
        raise NotImplementedError

    def around_call(self, call: Any, context: Any, rest: Any, *, nested: bool) -> Any:
        """Return a coroutine that awaits `rest`, a whole call. `nested`: it is the part of a nested pipeline."""
        raise NotImplementedError

    def around_attempt(self, call: Any, context: Any, rest: Any) -> Any:
        """Return a coroutine that awaits `rest`, an attempt."""
        raise NotImplementedError

    def run_attempt(self, call: Any, context: Any, attempt: Callable[[], Any]) -> Any:
        """Call `attempt`, which is an attempt of a plain function, and return its result."""
        raise NotImplementedError

    def exchange(self, saved: Any) -> Any:
        """Make `saved` current, and return what was current before. None: change nothing."""
        raise NotImplementedError


class _Entry:
    """A listener as registered, and the kinds of events it wants: the same function may listen twice, and each
    registration ends by itself."""

    __slots__ = ("kinds", "listener")

    def __init__(self, listener: Listener, kinds: tuple[type[Event], ...]) -> None:
        callback("listener", listener)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Event)):
                hint = f": write {type(kind).__name__}" if isinstance(kind, Event) else ""
                raise TypeError(f"a listener wants classes of events, as events.CallEnded, got {kind!r}{hint}")
        self.listener = listener
        self.kinds = kinds or (Event,)


class _Wants(dict[type[Event], tuple[_Entry, ...]]):
    """Registrations by the kind of event they want. Each kind is looked up once, when it is first asked for."""

    __slots__ = ("attempts", "ended", "entries", "observed", "surrounds")

    def __init__(self, entries: tuple[_Entry, ...]) -> None:
        self.entries = entries
        listeners = dict.fromkeys(entry.listener for entry in entries if isinstance(entry.listener, Surround))
        self.surrounds: tuple[Surround, ...] = (*listeners,)
        """The listeners that surround calls and attempts."""
        self.attempts = any(self[kind] for kind in _ATTEMPTS)
        """Whether an event of attempts is wanted."""
        self.ended = self[CallEnded]
        """The registrations that want `CallEnded`."""
        self.observed = self.attempts or bool(self.ended) or bool(self.surrounds)
        """Whether successful calls are observed: by listeners of their events, or by surrounds. Then calls count their
        requests."""

    def __missing__(self, kind: type[Event]) -> tuple[_Entry, ...]:
        found = self[kind] = tuple([entry for entry in self.entries if issubclass(kind, entry.kinds)])
        return found


_SILENCE = _Wants(())


class Channel:
    """One pipeline's listeners, the global ones included.

    Code that emits an event first looks whether it is wanted, because an event that no listener gets is not built:

        if channel.wants[Waited]:
            channel.emit(Waited(...))

    Attributes:
        pipeline: the pipeline's name, or "".
        wants: the registrations that want an event, by its kind. Replaced when listeners change.
        hidden: whether its pipeline was made under `hidden_pipelines()`.
        counters: of the pipelines of this name.
        later: functions that emit events of objects which the garbage collector has found. The collector must run no
            listener, so these functions are called before the next event.
    """

    __slots__ = ("__weakref__", "_own", "_watch", "counters", "hidden", "later", "pipeline", "wants")

    def __init__(self, pipeline: str = "") -> None:
        self.pipeline = pipeline
        self.hidden: bool = _hidden.get()
        self.counters: Counters = counters_of(pipeline, hidden=self.hidden)
        self._own: dict[_Entry, None] = {}
        self._watch: weakref.WeakMethod[Callable[[], None]] | None = None
        self.later: deque[Callable[[], None]] = deque()
        with _lock:
            _channels.add(self)
            self._spread()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call the method `changed` now, and again whenever a listener is added or removed, or `notify_watcher` is
        called. Refers to its object weakly."""
        with _lock:
            self._watch = weakref.WeakMethod(changed)
            changed()

    def _spread(self) -> None:
        entries: tuple[_Entry, ...] | None = None  # again if a signal handler adds a listener meanwhile
        while entries != (now := (*self._own,) if self.hidden else (*self._own, *_everywhere)):
            entries = now
            self.wants = _Wants(entries) if entries else _SILENCE
        self.notify_watcher()

    def notify_watcher(self) -> None:
        """Call the method that `watch` was given, because something has changed on which its object depends."""
        changed = self._watch and self._watch()
        if changed is not None:
            changed()

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Send the events of these kinds (without any: all events) to `listener` from now on. Returns a function that
        ends that; a second call of it has no effect."""
        entry = _Entry(listener, kinds)
        with _lock:
            self._own[entry] = None
            self._spread()

        def stop() -> None:
            with _lock:
                self._own.pop(entry, None)
                self._spread()

        return stop

    def heard_by(self) -> list[tuple[Listener, tuple[type[Event], ...]]]:
        """Return the listeners of this pipeline and of all pipelines, as they were given, each with the kinds that it
        wants."""
        return [(entry.listener, entry.kinds) for entry in self.wants.entries]

    def emit(self, event: Event) -> None:
        """Send an event to the listeners that want it. Never raises an `Exception`."""
        if self.later:
            self.catch_up()
        emit(self.wants[type(event)], event)

    def catch_up(self) -> None:
        """Emit the events that wait in `later`, oldest first."""
        while self.later:
            try:
                tell = self.later.popleft()
            except IndexError:  # another thread took it
                return
            tell()


_channels = weakref.WeakSet()


class Emitter:
    """An object that several pipelines share, and that emits events on the channel of each.

    It does not keep pipelines in memory: it holds weak references to their channels. (In a tuple: a `WeakSet` of one
    channel takes twenty times as much memory.)
    """

    _channels: tuple[weakref.ref[Channel], ...] = ()

    def _attach(self, channel: Channel) -> None:
        """Emit events on the channel of one more pipeline from now on."""
        with _lock:
            others = (each for each in self._channels if each() not in (None, channel))
            self._channels = (*others, weakref.ref(channel))

    def _attached(self) -> list[Channel]:
        """Return the channels of those pipelines that still exist."""
        return [channel for each in self._channels if (channel := each()) is not None]

    def _count_event(self, *key: str) -> None:
        """Count something for each name of these pipelines."""
        for counters in dict.fromkeys(channel.counters for channel in self._attached()):
            counters.count(*key)

    def _emit(self, kind: type[Any], now: float, *fields: Any) -> None:
        """Emit an event for each pipeline. A listener of several pipelines with one name gets it once.

        Args:
            kind: of the event.
            now: the time.
            fields: of the event, after the pipeline's name and the time.
        """
        channels = [channel for channel in self._attached() if channel.wants[kind]]
        for channel in channels:
            channel.catch_up()
        entries = dict.fromkeys((channel.pipeline, entry) for channel in channels for entry in channel.wants[kind])
        for pipeline, entry in entries:
            emit((entry,), kind(pipeline, now, *fields))


def emit(entries: tuple[_Entry, ...], event: Event) -> None:
    """Send an event to registered listeners. If one raises, that is logged, and the others still get the event."""
    for entry in entries:
        try:
            entry.listener(event)
        except Exception:
            log_listener_error(event)


def log_listener_error(event: Event) -> None:
    """Log the current exception, which a listener raised for this event, with its traceback."""
    _log.exception("resilient: a listener raised on %s", type(event).__name__)


@contextmanager
def hidden_pipelines() -> Iterator[None]:
    """Pipelines that are made inside are hidden from the rest of the program: listeners of all pipelines get no events
    of them, and the registry does not list them. For dry runs (`resilient.lab`)."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def listen(listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
    """Send the events of these kinds (without any: all events) of every pipeline, also of later ones, to `listener`.
    Returns a function that ends that."""
    entry = _Entry(listener, kinds)
    with _lock:
        _everywhere[entry] = None
        _spread()

    def stop() -> None:
        with _lock:
            _everywhere.pop(entry, None)
            _spread()

    return stop


def record_durations(owner: object, wanted: Wanted | None) -> None:
    """As `resilient.events.counters.record_durations`; calls take the path on which their duration is recorded."""
    with _lock:
        _record_durations(owner, wanted)
        for channel in members(_channels):
            channel.notify_watcher()


def _spread() -> None:
    for channel in members(_channels):
        channel._spread()
