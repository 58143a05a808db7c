"""Listeners get the kinds of events that they want, in every runtime, and no other events are built."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    deadline,
    events,
)
from resilient.events import (
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    CallEnded,
    CallRejected,
    CircuitChanged,
    Event,
    GaveUp,
    Retrying,
    Waited,
)
from resilient.faults import Latency
from resilient.http.httpx import ChaosTransport
from resilient.observe.shadow import report_shadows
from tests.worlds import Joined, World

ATTEMPTS = (AttemptStarted, AttemptFailed, AttemptReturned)
FREQUENT = (AttemptStarted, AttemptReturned, CallEnded)


def kinds(heard: list[Any]) -> list[type]:
    return [type(event) for event in heard]


def test_listener_hears_the_kinds_that_it_wants(world: World) -> None:
    """In the order in which they happen."""
    pipeline, heard = Pipeline(Retry(3, wait=0.001)), []
    pipeline.listen(heard.append, CallEnded, Waited)
    world.call(pipeline(world.dependency(OSError(), OSError(), 7).fn))
    assert kinds(heard) == [Waited, Waited, CallEnded]


def test_listener_without_kinds_hears_all(world: World) -> None:
    """A listener without kinds gets all events, as one of `Event`, the base of all, does."""
    pipeline, heard, of_base = Pipeline(Retry(2, wait=0)), [], []
    pipeline.listen(heard.append)
    pipeline.listen(of_base.append, Event)
    world.call(pipeline(world.dependency(OSError(), 7).fn))
    assert kinds(heard) == [AttemptStarted, AttemptFailed, Retrying, AttemptStarted, AttemptReturned, CallEnded]
    assert of_base == heard


def test_listener_hears_a_kind_that_is_derived_from_one_it_wants() -> None:
    """A class of events that is defined later is wanted, too."""
    channel, heard = events.Channel("users"), []
    channel.listen(heard.append, Waited)

    class Parked(Waited):
        """A wait of a policy of one's own."""

    assert channel.wants[Parked]
    parked = Parked("users", 1.0, "mine", "parked", 2.0)
    channel.emit(parked)
    channel.emit(CallRejected("users", 1.0, "mine", "full", None))
    assert heard == [parked]


def test_listeners_hear_each_what_they_want(world: World) -> None:
    """Five of them, on one pipeline and on all."""
    pipeline = Pipeline(Retry(2, wait=0), Bulkhead(5), CircuitBreaker(None, fail_max=2))
    wanted = [(), (CallEnded,), (AttemptFailed, CircuitChanged), (CircuitChanged,), (GaveUp, CallRejected)]
    heard: list[list[Any]] = [[] for _ in wanted]
    stops = [events.listen(heard[0].append), events.listen(heard[1].append, *wanted[1])]
    stops += [pipeline.listen(heard[at].append, *wanted[at]) for at in (2, 3, 4)]
    try:
        for _ in range(2):
            world.outcome(pipeline(world.dependency(OSError(), OSError()).fn))
    finally:
        for stop in stops:
            stop()
    everything = heard[0]
    assert set(kinds(everything)) > {CallEnded, AttemptFailed, CircuitChanged, GaveUp, CallRejected}
    for each, of in zip(heard[1:], wanted[1:], strict=True):
        assert kinds(each) == [kind for kind in kinds(everything) if kind in of]


def test_listener_that_stops_takes_its_kinds_with_it() -> None:
    """Listeners that remain get the kinds of events that they want."""
    channel = Pipeline(Retry())._context.channel
    stops = [channel.listen(print, kind) for kind in (CallEnded, AttemptStarted, CallEnded)]
    assert (channel.wants.attempts, channel.wants.observed) == (True, True)
    stops[1]()
    assert (channel.wants.attempts, channel.wants.observed) == (False, True)
    stops[0]()
    assert len(channel.wants[CallEnded]) == 1
    stops[2]()
    assert not channel.wants.observed


@pytest.mark.parametrize("kind", ["CallEnded", 7, None, object, OSError, (CallEnded,), CallEnded | Waited])
def test_what_is_no_class_of_events_is_refused(kind: Any) -> None:
    """Where it is given, with what was given."""
    for listen in (events.listen, Pipeline(Retry()).listen, ChaosTransport(Latency(high=1)).listen):
        with pytest.raises(
            TypeError, match=r"a listener wants classes of events, as events\.CallEnded, got "
        ) as caught:
            listen(print, CallEnded, kind)
        assert str(caught.value).endswith(repr(kind))


def test_event_in_place_of_its_class_is_answered_with_the_class() -> None:
    """An event in place of its class is refused, and the message names the class to write."""
    with pytest.raises(TypeError, match="write Waited"):
        events.listen(print, Waited("", 0.0, "", "", 0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "script", "requests"),
    [
        ([Bulkhead(1)], [7], 1),
        ([Retry(3, wait=0), CircuitBreaker(), Timeout(5)], [OSError(), OSError(), 7], 3),
        ([Hedge(0.02, copies=3, thread=True)], [Joined(3, 1), Joined(3, 1), 2], 3),
        ([Hedge(5, thread=True), Retry(2, wait=0)], [OSError(), OSError(), OSError(), 7], 4),
        ([Timeout(5), Pipeline(Retry(4, wait=0), CircuitBreaker())], [OSError(), OSError(), OSError(), 7], 4),
    ],
)
def test_listener_of_ends_alone_hears_how_many_requests_a_call_took(
    world: World, policies: list[Any], script: list[Any], requests: int
) -> None:
    """The end of a call has its number of requests, though no event of attempts is wanted."""
    pipeline, heard = Pipeline(*policies, name="users"), []
    pipeline.listen(heard.append, CallEnded)
    dependency = world.dependency(*script)
    world.call(pipeline(dependency.fn))
    (event,) = heard
    assert (event.pipeline, event.function) == ("users", dependency.fn.__qualname__)
    assert (event.ending, event.requests, event.error, event.verdict) == ("success", requests, None, "success")


def test_listener_of_ends_alone_hears_of_a_refusal_without_a_request(world: World) -> None:
    """CallEnded of a refused call has the error that the caller gets, and no request."""
    breaker = CircuitBreaker()
    breaker.open()
    pipeline, heard = Pipeline(Retry(2), breaker), []
    pipeline.listen(heard.append, CallEnded)
    outcome = world.outcome(pipeline(world.dependency(7).fn))
    assert [(event.ending, event.requests, event.error) for event in heard] == [("rejected", 0, outcome.error)]


@pytest.mark.virtual_time
async def test_listener_that_comes_during_a_call_hears_of_the_next_one() -> None:
    """For a call in flight the new listener gets its further attempts, but not its end, because it missed the begin."""
    pipeline, ends, everything = Pipeline(Retry(2, wait=1), Bulkhead(5)), [], []
    steps = [OSError(), None, OSError(), None]

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(1)
        if error := steps.pop(0):
            raise error

    call = asyncio.create_task(fetch())
    await asyncio.sleep(0.5)
    pipeline.listen(ends.append, CallEnded)
    pipeline.listen(everything.append)
    await call
    assert ends == []
    assert kinds(everything) == [Retrying, Waited, AttemptStarted, AttemptReturned]
    await fetch()
    assert [(event.at, event.elapsed, event.requests) for event in ends] == [(6, 3, 2)]


@pytest.mark.virtual_time
async def test_listener_that_goes_during_a_call_hears_no_more() -> None:
    """The other one, which wants the end of the call alone, hears how many requests it took."""
    pipeline, ends, everything = Pipeline(Retry(2, wait=1), Bulkhead(5)), [], []
    steps = [OSError(), None]

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(1)
        if error := steps.pop(0):
            raise error

    pipeline.listen(ends.append, CallEnded)
    stop = pipeline.listen(everything.append)
    call = asyncio.create_task(fetch())
    await asyncio.sleep(0.5)
    stop()
    await call
    assert kinds(everything) == [AttemptStarted]
    assert [(event.at, event.elapsed, event.requests) for event in ends] == [(3, 3, 2)]


def test_observers_of_the_library_leave_attempts_untold() -> None:
    """Where they have no use for them."""
    pipeline = Pipeline(Retry(2, shadow=True), Bulkhead(5, shadow=True))
    with report_shadows(pipeline):
        assert pipeline._context.channel.wants[CallEnded]
        assert not pipeline._context.channel.wants.attempts


# -- records --------------------------------------------------------------------------------------------------------


def test_events_that_every_call_has_are_told_as_their_classes_make_them(world: World) -> None:
    """Events that are made without their `__init__` have all fields, in order."""
    pipeline, heard = Pipeline(Retry(2, wait=0), classify=Classifier(results=lambda result: result == "bad")), []
    pipeline.listen(heard.append, *FREQUENT)
    world.call(pipeline(world.dependency("bad", "good").fn))
    assert kinds(heard) == [AttemptStarted, AttemptReturned, AttemptStarted, AttemptReturned, CallEnded]
    for event in heard:
        names = [field.name for field in dataclasses.fields(event)]
        assert list(vars(event)) == names
        made = type(event)(*(getattr(event, name) for name in names))
        assert (made, repr(made), hash(made)) == (event, repr(event), hash(event))


@pytest.mark.parametrize("kind", [*FREQUENT, Waited])
def test_record_is_a_value(kind: Any) -> None:
    """A record can be copied, changed in a copy, pickled, compared, put into a set and shown."""
    fields = [field.name for field in dataclasses.fields(kind)]
    event = kind(**dict.fromkeys(fields, 0))
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == copy.copy(event) == event
    later = dataclasses.replace(event, at=1.0)
    assert (later.at, event.at) == (1.0, 0)
    assert {event, later, copy.copy(event)} == {event, later}
    assert repr(event) == f"{kind.__name__}({', '.join(f'{name}=0' for name in fields)})"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del event.at


# -- ends alone: calls take the frame that they take unheard ----------------------------------------------------------

SHAPES: dict[str, Callable[[], list[Any]]] = {
    "retry": lambda: [Retry(2, wait=0)],
    "retry with a budget": lambda: [Retry(2, wait=0, budget=Budget())],
    "fallback": lambda: [Fallback(7)],
    "gates": lambda: [Bulkhead(5), CircuitBreaker(None, fail_max=3)],
    "a clocked gate": lambda: [Bulkhead(5), CircuitBreaker(None, fail_max=3, slow=10)],
    "timeout": lambda: [Timeout(5)],
    "stack": lambda: [Fallback(7, on=OSError), Retry(2, wait=0), CircuitBreaker(None, fail_max=3), Timeout(5)],
    "nested": lambda: [Timeout(9), Pipeline(Retry(2, wait=0), CircuitBreaker(None, fail_max=3))],
}


class BadResults(Classifier):
    """ "bad" is a failure, a KeyError says nothing, and "odd" and a LookupError are too much for it."""

    def __init__(self) -> None:
        super().__init__(ignore=KeyError, results=lambda result: result == "bad")

    def error(self, error: Exception) -> Any:
        if type(error) is LookupError:
            raise ArithmeticError
        return super().error(error)

    def result(self, result: Any) -> Any:
        if result == "odd":
            raise ArithmeticError
        return super().result(result)


@pytest.mark.parametrize("judge", [None, BadResults()], ids=["default", "judge"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ends_are_told_alike_whatever_else_is_told(world: World, shape: str, judge: Classifier | None) -> None:
    """Of good calls, of failures, refusals and cancelled calls, and of mistakes of a classifier."""
    script = [7, OSError(), "bad", 8, KeyError(), LookupError(), "odd", TypeError(), OSError(), OSError(), OSError(), 9]
    told = []
    for wanted in ((CallEnded,), ()):
        pipeline, heard = Pipeline(*SHAPES[shape](), name="users", classify=judge), []
        pipeline.listen(heard.append, *wanted)
        guarded = pipeline(world.dependency(*script * 2).fn)
        outcomes = [world.outcome(guarded) for _ in range(10)]
        ends = [event for event in heard if type(event) is CallEnded]
        assert [event.error for event in ends] == [outcome.error for outcome in outcomes]
        told.append(
            [(event.function, event.requests, event.ending, type(event.error), event.verdict) for event in ends]
        )
    assert told[0] == told[1]


def test_call_is_no_longer_in_flight_when_its_end_is_told(world: World) -> None:
    """However it has ended: so a listener may close the pipeline."""
    breaker = CircuitBreaker(None, fail_max=1, break_duration=60)
    pipeline, in_flight = Pipeline(Retry(1), breaker), []
    pipeline.listen(lambda event: in_flight.append((event.ending, pipeline.snapshot()["in_flight"])), CallEnded)
    dependency = world.dependency(7, OSError())
    for _ in range(3):
        world.outcome(pipeline(dependency.fn))
    assert in_flight == [("success", 0), ("failure", 0), ("rejected", 0)]
    assert pipeline.snapshot()["in_flight"] == 0


@pytest.mark.parametrize("step", [7, OSError()])
def test_end_of_a_call_is_told_once_where_its_listener_is_interrupted(world: World, step: Any) -> None:
    """A call whose listener is interrupted emits CallEnded once, and is counted out once."""
    pipeline, heard = Pipeline(Retry(1), Bulkhead(1)), []

    def interrupted(event: Any) -> None:
        heard.append(event)
        raise Interrupt

    pipeline.listen(interrupted, CallEnded)
    with pytest.raises(Interrupt):
        world.call(pipeline(world.dependency(step).fn))
    assert kinds(heard) == [CallEnded]
    assert pipeline.snapshot()["in_flight"] == 0


class Interrupt(BaseException):
    """Stands for a Ctrl-C, which is no `Exception`."""


def test_end_of_a_plain_call_that_raised_stop_iteration_is_told_with_it() -> None:
    """CallEnded has the StopIteration of the function, not the error that carries it out of coroutines."""
    for policies in ([Retry(1)], [Bulkhead(1)], [Retry(1), Timeout(5)]):
        pipeline, heard, error = Pipeline(*policies), [], StopIteration(7)
        pipeline.listen(heard.append, CallEnded)

        def stop(error: StopIteration = error) -> None:
            raise error

        with pytest.raises(StopIteration) as caught:
            pipeline.call(stop)
        assert caught.value is error
        assert [(event.error, event.requests) for event in heard] == [(error, 1)]


@pytest.mark.virtual_time
async def test_end_of_a_call_under_a_deadline_is_told_with_the_deadlines_error() -> None:
    """A call that an inherited deadline ends has CallEnded with the deadline's error."""
    pipeline, heard = Pipeline(Retry(3, wait=0), Bulkhead(5)), []
    pipeline.listen(heard.append, CallEnded)
    with pytest.raises(TimedOut) as caught, deadline(2):
        await pipeline.call(asyncio.sleep, 60)
    assert [(event.error, event.ending, event.requests, event.elapsed) for event in heard] == [
        (caught.value, "timeout", 1, 2)
    ]
