"""A record of the events of a test, and assertions about them, whose messages show the events that happened instead.

    with record(users) as recorder:
        await get_user(7)
    recorder.assert_happened(Retrying, times=2, policy="Retry")

An assertion that fails shows the whole timeline:

    AssertionError: Retrying (policy='Retry') should have happened 2 times, and happened once:
           0.000 s  AttemptStarted   users: attempt 1 of get_user
           0.000 s  AttemptFailed    users: attempt 1 of get_user failed after 0 s with OSError
        >  0.000 s  Retrying         users: Retry: attempt 1 failed with OSError, the next follows in 0.5 s
           ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import TracebackType
from typing import Any, TypeVar, overload

from resilient import _validation, events
from resilient.events import Event
from resilient.observe.logging import text_of
from resilient.pipeline import Pipeline

__all__ = ["Recorder", "record"]

E = TypeVar("E", bound=Event)

_KINDS: dict[str, type[Event]] = {
    name: kind for name in events.__all__ if isinstance(kind := getattr(events, name), type) and issubclass(kind, Event)
}


def record(*of: Pipeline | Callable[..., Any]) -> Recorder:
    """Record events from now on: of these pipelines or guarded functions; without any, of all pipelines, later ones
    too.

    Recording ends with `stop()`, or with the block of `with record(...) as recorder:`.
    """
    pipelines = [_pipeline_of(each) for each in of]
    recorder = Recorder()
    listens = [pipeline.listen for pipeline in dict.fromkeys(pipelines)] or [events.listen]
    recorder._stops = [listen(recorder.events.append) for listen in listens]
    return recorder


def _pipeline_of(guarded: Any) -> Pipeline:
    pipeline = getattr(guarded, "__pipeline__", guarded)
    if not isinstance(pipeline, Pipeline):
        raise TypeError(f"can record a Pipeline, or a function that is guarded by one, got {guarded!r}")
    return pipeline


class Recorder:
    """The events of a test, in order. Made by `record`.

    Attributes:
        events: the events themselves (`resilient.events`).
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._stops: list[Callable[[], None]] = []

    def stop(self) -> None:
        """End the recording. The recorded events stay."""
        for stop in self._stops:
            stop()

    def clear(self) -> None:
        """Remove the events that were recorded so far; recording goes on."""
        self.events.clear()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def kinds(self) -> list[str]:
        """The names of the recorded events, in order: `["AttemptStarted", "AttemptFailed", "GaveUp"]`."""
        return [type(event).__name__ for event in self.events]

    @overload
    def of(self, kind: type[E], **fields: Any) -> list[E]: ...
    @overload
    def of(self, kind: str, **fields: Any) -> list[Any]: ...
    def of(self, kind: type[E] | str, **fields: Any) -> list[Any]:
        """The events of a kind (a class of `resilient.events`, or its name) whose fields have these values.

        A class of exceptions as a value fits its instances: `of(AttemptFailed, error=OSError)`. Raises `ValueError`
        for a kind or a field that does not exist.
        """
        fits = _fits(kind, fields)
        return [event for event in self.events if fits(event)]

    def assert_happened(self, kind: type[Event] | str, *, times: int | None = None, **fields: Any) -> None:
        """Assert that an event happened `times` times (0: never; None: at least once). `fields`: as in `of`."""
        __tracebackhide__ = True
        if times is not None:
            _validation.count("times", times, least=0)
        found = self.of(kind, **fields)
        if len(found) != times if times is not None else not found:
            due = "have happened" if times is None else f"have happened {_times(times)}"
            self._fail(f"{_words(kind, fields)} should {due}, and happened {_times(len(found))}", found)

    def assert_not_happened(self, kind: type[Event] | str, **fields: Any) -> None:
        """Assert that an event never happened. `fields`: as in `of`."""
        __tracebackhide__ = True
        self.assert_happened(kind, times=0, **fields)

    def assert_order(self, *kinds: type[Event] | str) -> None:
        """Assert that these events happened in this order; others may have happened before, between and after."""
        __tracebackhide__ = True
        found: list[Any] = []
        left = iter(self.events)
        for kind in kinds:
            fits = _fits(kind, {})
            event = next((event for event in left if fits(event)), None)
            if event is None:
                after = f" after {type(found[-1]).__name__}" if found else ""
                order = ", ".join(_name(each) for each in kinds)
                self._fail(f"{order} should have happened in this order, and there is no {_name(kind)}{after}", found)
            found.append(event)

    def timeline(self, marked: list[Any] | None = None) -> str:
        """Return the events as text, a line each; times are seconds since the first one. Lines of `marked` events begin
        with ">"."""
        if not self.events:
            return "  (nothing happened)"
        marks = {id(event) for event in marked or ()}
        begin = self.events[0].at
        width = max(map(len, self.kinds))
        return "\n".join(
            f"  {'>' if id(event) in marks else ' '}{event.at - begin:9.3f} s  {type(event).__name__:{width}}  "
            f"{text_of(event)}"
            for event in self.events
        )

    def _fail(self, message: str, marked: list[Any]) -> None:
        __tracebackhide__ = True
        raise AssertionError(f"{message}:\n{self.timeline(marked)}")

    def __repr__(self) -> str:
        return f"<Recorder of {len(self.events)} events>\n{self.timeline()}"


def _class_of(kind: type[Event] | str) -> type[Event]:
    if isinstance(kind, str):
        if kind not in _KINDS:
            hint = _validation.meant(kind, _KINDS)
            raise ValueError(f"there is no event {kind!r}: there are {', '.join(_KINDS)}{hint}")
        return _KINDS[kind]
    if not isinstance(kind, type) or not issubclass(kind, Event):
        raise TypeError(f"kind must be a class of resilient.events or its name, got {kind!r}")
    return kind


def _fits(kind: type[Event] | str, values: dict[str, Any]) -> Callable[[Event], bool]:
    cls = _class_of(kind)
    names = [each.name for each in fields(cls)]
    for name in values:
        if name not in names:
            raise ValueError(f"{cls.__name__} has no {name!r}: it has {', '.join(names)}")

    def fits(event: Event) -> bool:
        return isinstance(event, cls) and all(_equal(getattr(event, name), due) for name, due in values.items())

    return fits


def _equal(value: Any, due: Any) -> bool:
    if isinstance(due, type) and issubclass(due, BaseException):
        return isinstance(value, due)
    return bool(value == due)


def _name(kind: type[Event] | str) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _words(kind: type[Event] | str, values: dict[str, Any]) -> str:
    listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return f"{_name(kind)} ({listed})" if listed else _name(kind)


def _times(number: int) -> str:
    return {0: "never", 1: "once"}.get(number, f"{number} times")
