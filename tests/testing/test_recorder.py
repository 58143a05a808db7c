"""The recorder: the events that it records, and how its assertions fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import Pipeline, Retry, events
from resilient.events import AttemptFailed, AttemptStarted, GaveUp, Retrying
from resilient.testing import Dependency, Recorder, record
from tests.worlds import World


def answer() -> int:
    return 7


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Of a call that failed, waited, failed, and gave up."""
    pipeline = Pipeline(Retry(attempts=2, wait=0, name="patience"), name="users")
    with record(pipeline) as recorder:
        with pytest.raises(OSError):
            pipeline(Dependency(KeyError(), OSError("down"), name="get_user").plain)()
        yield recorder


def test_recorder_has_what_happened_in_order(world: World) -> None:
    """A recorder has the events, and their names, in order."""
    pipeline = Pipeline(Retry(attempts=2, wait=0))
    recorder = record(pipeline)
    dependency = Dependency(OSError(), 7)
    world.call(pipeline(dependency if world.is_async else dependency.plain))
    recorder.stop()
    assert recorder.kinds[:4] == ["AttemptStarted", "AttemptFailed", "Retrying", "AttemptStarted"]
    assert [type(event).__name__ for event in recorder.events] == recorder.kinds


def test_recorder_stops() -> None:
    """A recording ends at the end of its block, or at `stop()`."""
    pipeline = Pipeline(Retry())
    with record(pipeline) as recorder:
        pipeline.call(answer)
    before = len(recorder.events)
    pipeline.call(answer)
    assert len(recorder.events) == before > 0


def test_recorder_of_a_guarded_function() -> None:
    """Is one of its pipeline, also where it is a single policy."""

    @Retry()
    def fetch() -> int:
        return 7

    with record(fetch) as recorder:
        fetch()
        Retry()(answer)()
    assert len(recorder.of(AttemptStarted)) == 1


def test_recorder_of_several_pipelines() -> None:
    """Each event once, also if a pipeline is named twice."""
    one, two, three = (Pipeline(Retry(), name=name) for name in ("one", "two", "three"))
    with record(one, two, one) as recorder:
        for pipeline in (one, two, three):
            pipeline.call(answer)
    assert [event.pipeline for event in recorder.of("AttemptStarted")] == ["one", "two"]


def test_recorder_of_everything() -> None:
    """Pipelines made later too; and it ends."""
    with record() as recorder:
        Pipeline(Retry(), name="later").call(answer)
    Pipeline(Retry(), name="after").call(answer)
    assert {event.pipeline for event in recorder.events} == {"later"}


def test_recorder_forgets() -> None:
    """What happened before an outage is not the test's concern."""
    pipeline = Pipeline(Retry())
    with record(pipeline) as recorder:
        pipeline.call(answer)
        recorder.clear()
        assert recorder.kinds == []


@pytest.mark.parametrize("of", ["users", Retry(), None, len])
def test_recorder_of_something_else_is_refused(of: Any) -> None:
    """An object that is not guarded is refused with a message that names it."""
    with pytest.raises(TypeError, match="can record a Pipeline, or a function that is guarded by one, got"):
        record(of)


# -- looking --------------------------------------------------------------------------------------------------------


def test_of_finds_by_class_by_name_and_by_fields(recorder: Recorder) -> None:
    """An exception's class as a value fits its instances."""
    assert [event.attempt for event in recorder.of(AttemptFailed)] == [1, 2]
    assert recorder.of("AttemptFailed") == recorder.of(AttemptFailed)
    assert [event.attempt for event in recorder.of(AttemptFailed, error=OSError)] == [2]
    assert [event.policy for event in recorder.of(GaveUp, attempts=2)] == ["patience"]
    assert recorder.of(Retrying, attempt=1, policy="other") == []
    assert len(recorder.of(events.Event)) == len(recorder.events)


@pytest.mark.parametrize("look", [Recorder.of, Recorder.assert_happened, Recorder.assert_not_happened])
def test_mistake_in_an_assertion_is_no_success(recorder: Recorder, look: Any) -> None:
    """An unknown kind or field is refused, with a list of those that exist."""
    with pytest.raises(ValueError, match=r"there is no event 'Retring': there are .*Retrying"):
        look(recorder, "Retring")
    with pytest.raises(ValueError, match="Retrying has no 'number': it has pipeline, at, policy, attempt"):
        look(recorder, Retrying, number=1)
    with pytest.raises(TypeError, match=r"kind must be a class of resilient.events or its name, got <class 'int'>"):
        look(recorder, int)


# -- assertions -----------------------------------------------------------------------------------------------------


def test_assertions_that_hold(recorder: Recorder) -> None:
    """Assertions that hold raise nothing."""
    recorder.assert_happened(AttemptFailed)
    recorder.assert_happened(AttemptFailed, times=2)
    recorder.assert_happened("Retrying", times=1, error=KeyError, policy="patience")
    recorder.assert_happened("Hedging", times=0)
    recorder.assert_not_happened("Hedging")
    recorder.assert_not_happened(Retrying, attempt=2)
    recorder.assert_order("AttemptStarted", Retrying, "AttemptFailed", GaveUp)
    recorder.assert_order()


@pytest.mark.parametrize(
    ("check", "message", "marked"),
    [
        (
            lambda recorder: recorder.assert_happened("Hedging"),
            "Hedging should have happened, and happened never:",
            [],
        ),
        (
            lambda recorder: recorder.assert_happened(AttemptFailed, times=3),
            "AttemptFailed should have happened 3 times, and happened 2 times:",
            ["AttemptFailed", "AttemptFailed"],
        ),
        (
            lambda recorder: recorder.assert_happened(AttemptFailed, times=2, error=OSError),
            "AttemptFailed (error=<class 'OSError'>) should have happened 2 times, and happened once:",
            ["AttemptFailed"],
        ),
        (
            lambda recorder: recorder.assert_not_happened("GaveUp", policy="patience"),
            "GaveUp (policy='patience') should have happened never, and happened once:",
            ["GaveUp"],
        ),
        (
            lambda recorder: recorder.assert_order(Retrying, "GaveUp", "AttemptStarted"),
            "Retrying, GaveUp, AttemptStarted should have happened in this order, and there is no AttemptStarted after "
            "GaveUp:",
            ["Retrying", "GaveUp"],
        ),
        (
            lambda recorder: recorder.assert_order("Hedging"),
            "Hedging should have happened in this order, and there is no Hedging:",
            [],
        ),
    ],
)
def test_assertion_that_fails_shows_what_happened(
    recorder: Recorder, check: Any, message: str, marked: list[str]
) -> None:
    """A line an event, with those marked that the assertion is about."""
    with pytest.raises(AssertionError) as caught:
        check(recorder)
    first, *lines = str(caught.value).splitlines()
    assert first == message
    assert len(lines) == len(recorder.events)
    assert [line.split()[3] for line in lines if line.startswith("  >")] == marked


def test_timeline_is_made_for_reading(recorder: Recorder) -> None:
    """Seconds since the first event, its kind, and what happened."""
    recorder.events[1:] = recorder.of(Retrying)
    assert recorder.timeline().splitlines() == [
        "       0.000 s  AttemptStarted  users: attempt 1 of get_user",
        f"   {recorder.events[1].at - recorder.events[0].at:9.3f} s  Retrying        "
        "users: patience: attempt 1 failed with KeyError, the next follows in 0 s",
    ]
    assert recorder.timeline() in repr(recorder)


def test_timeline_of_nothing() -> None:
    """A timeline without events says that nothing happened."""
    with record() as recorder, pytest.raises(AssertionError, match=r"(?s)never:.*\(nothing happened\)"):
        recorder.assert_happened("Retrying")


@pytest.mark.parametrize("times", [-1, 1.5, True])
def test_times_must_be_a_count(recorder: Recorder, times: Any) -> None:
    """An invalid `times` is refused with a message that names the value."""
    with pytest.raises((TypeError, ValueError), match="times must be a whole number >= 0, got"):
        recorder.assert_happened("Retrying", times=times)
