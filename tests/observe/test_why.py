"""Why: the reason for which a call ended as it did, for errors of every kind, and on request for results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import json
import pickle
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Classifier,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    TimedOut,
    Timeout,
    deadline,
    why,
)
from resilient.core.call import new_call
from resilient.core.history import FIRST, LAST
from resilient.observe.timeline import WIDTH, duration
from resilient.observe.why import recording
from tests.worlds import World

pytestmark = pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")


async def raised(call: Callable[..., Any], *args: Any) -> BaseException:
    """The error that a call raises."""
    try:
        await call(*args)
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def lines(text: str) -> str:
    """A text as `why` writes it, from one that is indented in a test."""
    first = text.strip("\n").splitlines()[0]
    indent = len(first) - len(first.lstrip())
    return "\n".join(line[indent:] for line in text.strip("\n").splitlines()).rstrip()


def steps_of(outcome: BaseException) -> list[str]:
    """The kinds of the steps of the outermost call."""
    return [step["what"] for step in why(outcome).as_json()["calls"][0]["steps"]]


# -- the text --------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_text_of_retries_that_were_spent() -> None:
    """The timeline has attempts, pauses and the time that was left."""

    @Pipeline(Timeout(10), Retry(3, wait=0.25), CircuitBreaker(), Timeout(2), name="users")
    async def get_user(user_id: int) -> None:
        await asyncio.sleep(0.012)
        raise ConnectionError("refused by 10.0.0.1")

    error = await raised(get_user, 7)
    assert str(why(error)) == lines(
        """
        ConnectionError: get_user failed in pipeline users
          retries ended: attempts spent (Retry, 3 attempts in 536 ms)
          9.46 s were left until its deadline

              0 ms  attempt 1          12 ms  ConnectionError
             12 ms  pause             250 ms
            262 ms  attempt 2          12 ms  ConnectionError
            274 ms  pause             250 ms
            524 ms  attempt 3          12 ms  ConnectionError
        """
    )
    assert repr(why(error)) == "<ConnectionError: get_user failed in pipeline users>"


@pytest.mark.virtual_time
async def test_text_of_an_open_circuit_has_its_evidence() -> None:
    """A refusal says which circuit, for which key, since when, and what opened it."""

    @Pipeline(Retry(3), Keyed(lambda: CircuitBreaker(None, fail_max=2), key=lambda shard: shard), name="shards")
    async def read(shard: str) -> None:
        raise ConnectionResetError(104, "reset by peer")

    first = await raised(read, "eu-1")
    assert "retries ended: attempt 3 was rejected: CircuitBreaker for eu-1 is open" in str(why(first))
    assert "(opened: 2 failures in a row)" in " ".join(str(why(first)).split())
    await asyncio.sleep(1)
    error = await raised(read, "eu-1")
    found = why(error).as_json()
    assert (found["ended"], found["policy"], found["key"]) == ("rejected", "CircuitBreaker", "eu-1")
    assert found["circuit"]["opened"] == "2 failures in a row"
    assert found["circuit"]["for"] == 5
    assert found["circuit"]["ago"] == pytest.approx(5 - found["retry_after"])
    assert found["calls"][0]["steps"] == []
    text = str(why(error)).splitlines()
    assert text[0] == "CircuitOpen: read was refused in pipeline shards for eu-1"
    assert text[1].startswith("  CircuitBreaker for eu-1 is open; try again in ")
    assert text[2].startswith("  the circuit opened ")
    assert text[2].endswith(" before, for 5 s: 2 failures in a row")


def test_isolated_circuit_has_neither_an_age_nor_an_end() -> None:
    """Only an operator ends it."""
    breaker = CircuitBreaker()
    breaker.isolate()
    error = None
    try:
        Pipeline(breaker).call(lambda: None)
    except resilient.CircuitOpen as caught:
        error = caught
    assert error is not None
    assert why(error).as_json()["circuit"] == {"opened": "by hand", "ago": None, "for": None}
    assert "  the circuit opened: by hand" in str(why(error)).splitlines()


@pytest.mark.virtual_time
async def test_text_of_a_timeout_has_the_attempts_before_it() -> None:
    """The Timeout tells when the first attempt began; its wait in a queue counts as such."""

    calls: list[int] = []

    @Pipeline(Timeout(2), Retry(9, wait=0.7), name="late")
    async def slow() -> None:
        calls.append(1)
        await asyncio.sleep(0.2 if len(calls) < 3 else 9)
        raise OSError("secret")

    error = await raised(slow)
    assert str(why(error)) == lines(
        """
        TimedOut: slow timed out in pipeline late
          Timeout of 2 s expired

              0 ms  attempt 1         200 ms  OSError
            200 ms  pause             700 ms
            900 ms  attempt 2         200 ms  OSError
             1.1 s  pause             700 ms
               2 s  Timeout              2 s  expired during attempt 3
        """
    )


@pytest.mark.virtual_time
async def test_timeout_in_a_queue_says_that_it_is_no_evidence() -> None:
    """The wait in the queue is in the timeline."""
    bulkhead = Bulkhead(1, queue=1)

    @Pipeline(bulkhead)
    async def hold() -> None:
        await asyncio.sleep(5)

    @Pipeline(Timeout(2), bulkhead, name="crowded")
    async def queued() -> None:
        raise AssertionError

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    error = await raised(queued)
    assert str(why(error)) == lines(
        """
        TimedOut: queued timed out in pipeline crowded
          Timeout of 2 s expired
          it counts as no evidence against the dependency, which did not have that whole
            time

               2 s  Timeout              2 s  expired during attempt 1, 2 s of it in
                                              local queues
        """
    )
    await holder


@pytest.mark.virtual_time
async def test_attempts_that_timed_out_have_the_text_of_their_timeout() -> None:
    """The Timeout of an attempt is no step of its own."""

    @Pipeline(Retry(2, wait=1), Timeout(0.5), name="users")
    async def hang() -> None:
        await asyncio.sleep(9)

    error = await raised(hang)
    assert str(why(error)) == lines(
        """
        TimedOut: hang timed out in pipeline users
          Timeout of 0.5 s expired
          retries ended: attempts spent (Retry, 2 attempts in 2 s)

              0 ms  attempt 1         500 ms  Timeout of 0.5 s expired
            500 ms  pause                1 s
             1.5 s  attempt 2         500 ms  Timeout of 0.5 s expired
        """
    )


@pytest.mark.virtual_time
async def test_copies_of_a_hedge_are_steps() -> None:
    """When each started, why, and how it ended."""

    @Pipeline(Hedge(0.02, copies=3), name="hedged")
    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise OSError

    error = await raised(fails)
    assert str(why(error)) == lines(
        """
        OSError: fails failed in pipeline hedged

              0 ms  copy 2                    started: no answer yet
             20 ms  copy 3                    started: no answer yet
             30 ms  copy 1                    OSError
             50 ms  copy 2                    OSError
             70 ms  copy 3                    OSError
        """
    )


@pytest.mark.virtual_time
async def test_long_texts_stay_within_the_width() -> None:
    """Long names and long texts are folded."""
    key = "https://" + "very-long-host-name." * 3 + "example"

    @Pipeline(Keyed(lambda: CircuitBreaker(None, fail_max=1), key=lambda host: host), name="a-pipeline-" * 5)
    async def a_function_with_a_name_that_is_longer_than_most_names_are(host: str) -> None:
        raise OSError

    await raised(a_function_with_a_name_that_is_longer_than_most_names_are, key)
    text = str(why(await raised(a_function_with_a_name_that_is_longer_than_most_names_are, key)))
    assert max(map(len, text.splitlines())) <= max(WIDTH, len(key) + 10)
    assert " ".join(text.split()).count(key) >= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.00004, "0.04 ms"),
        (0.0012, "1.2 ms"),
        (0.0994, "99 ms"),
        (0.9996, "1 s"),
        (1.25, "1.25 s"),
        (119, "119 s"),
        (120, "2 min"),
        (200.4, "3 min 20 s"),
    ],
)
def test_durations_are_written_as_people_write_them(seconds: float, text: str) -> None:
    """Each has a unit and few digits."""
    assert duration(seconds) == text


# -- every way to fail -----------------------------------------------------------------------------------------------


def _used_up() -> Pipeline:
    return Pipeline(Retry(2), RateLimit(1, per=3600, burst=1), name="why")


def _isolated() -> Pipeline:
    breaker = CircuitBreaker()
    breaker.isolate()
    return Pipeline(Retry(2), breaker, name="why")


def _closed() -> Pipeline:
    pipeline = Pipeline(Bulkhead(1), name="why")
    pipeline.close()
    return pipeline


def _full(gate: Any) -> Callable[[], Pipeline]:
    def make() -> Pipeline:
        policy = gate()
        policy.admit(new_call(len, (), {}, None))
        return Pipeline(Retry(2), policy, name="why")

    return make


REFUSING: dict[str, tuple[Callable[[], Pipeline], str]] = {
    "CircuitOpen": (_isolated, "isolated"),
    "RateLimited": (_used_up, "no-token"),
    "PipelineClosed": (_closed, "closed"),
    "BulkheadFull": (_full(lambda: Bulkhead(1)), "full"),
    "LimitExceeded": (_full(lambda: AdaptiveLimit(1, max_limit=1)), "no-room"),
}


@pytest.mark.parametrize("name", REFUSING)
def test_refusals_of_all_kinds(world: World, name: str) -> None:
    """Each says its pipeline and its text, before and after it was pickled."""
    make, code = REFUSING[name]
    guarded = make()(world.dependency(7).fn)
    error: Any = world.outcome(guarded).error or world.outcome(guarded).error  # a RateLimit admits one
    assert error is not None
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        found = why(each).as_json()
        assert (found["error"], found["ended"]) == (f"resilient.errors:{name}", "rejected")
        assert (each.code, found["code"]) == (code, code)
        assert [call["pipeline"] for call in found["calls"]] == ["why"]
        assert f"why: {found['text']}" == str(error)


def test_error_of_the_function_after_retries(world: World) -> None:
    """In every runtime: attempts, and the reason that they ended."""
    guarded = Pipeline(Retry(3, wait=0.001), name="why")(world.dependency(OSError(), OSError(), ValueError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, ValueError)
    (call,) = why(error).as_json()["calls"]
    assert (call["attempts"], call["policy"], call["reason"], call["code"]) == (
        3,
        "Retry",
        "attempts spent",
        "attempts",
    )
    assert [step["what"] for step in call["steps"]] == ["attempt", "pause", "attempt", "pause", "attempt"]
    assert [step["error"] for step in call["steps"][::2]] == ["OSError", "OSError", "ValueError"]
    assert all(step["seconds"] == 0.001 for step in call["steps"][1::2])


def test_error_without_a_retry(world: World) -> None:
    """A pipeline that makes no `Call` unless something fails: its calls are found, too."""
    for policies in ((Bulkhead(1),), (Fallback(0, on=KeyError),), (Timeout(5),)):
        pipeline = Pipeline(*policies, name="why")
        error = world.outcome(pipeline(world.dependency(OSError()).fn)).error
        assert error is not None
        (call,) = why(error).as_json()["calls"]
        assert (call["pipeline"], call["attempts"]) == ("why", 1)
        assert call["reason"] == "no policy of the pipeline repeats a call"


def test_error_that_is_not_repeated(world: World) -> None:
    """The reason is the verdict."""
    guarded = Pipeline(Retry(3), name="why")(world.dependency(TypeError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert str(why(error)).splitlines()[1] == "  not repeated: not worth repeating"


def test_error_that_the_retry_leaves_out(world: World) -> None:
    """The classifier calls it worth repeating, but `on` does not name it."""
    guarded = Pipeline(Retry(3, on=KeyError), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert str(why(error)).splitlines()[1] == "  not repeated: no policy of the pipeline repeats this error"


def test_error_of_a_callback(world: World) -> None:
    """It is the caller's own, and the dependency has no part in it."""

    def predicate(error: BaseException) -> bool:
        raise ZeroDivisionError

    guarded = Pipeline(Retry(3, on=predicate), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, ZeroDivisionError)
    assert "not repeated: your own code raised it" in str(why(error))


@pytest.mark.virtual_time
async def test_failed_hedge_is_not_called_unrepeated() -> None:
    """Its copies were repetitions."""

    @Pipeline(Hedge(0.02), name="why")
    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise OSError

    assert "not repeated" not in str(why(await raised(fails)))


def test_classifier_that_raises_leaves_the_reason_open(world: World) -> None:
    """An error of the classifier, when it is asked for a report, changes nothing."""
    broken: list[bool] = []

    class Breaking(Classifier):
        def error(self, error: Exception) -> Any:
            if broken:
                raise KeyError
            return super().error(error)

    guarded = Pipeline(Retry(3), name="why", classify=Breaking())(world.dependency(TypeError()).fn)
    error = world.outcome(guarded).error
    assert isinstance(error, TypeError)
    assert "not repeated: not worth repeating" in str(why(error))
    broken.append(True)
    assert "not repeated" not in str(why(error))


def test_budget_that_is_exhausted(world: World) -> None:
    """The reason that retries ended is the budget's."""
    budget = Budget(reserve=0.0)
    guarded = Pipeline(Retry(3, wait=0, budget=budget), name="why")(world.dependency(OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert "  retries ended: the budget for extra requests is exhausted (Retry, 1 attempt)" in str(why(error))


@pytest.mark.virtual_time
async def test_deadline_of_the_caller() -> None:
    """A call that an outer deadline ends says so."""

    @Pipeline(Retry(3, wait=1), name="why")
    async def slow() -> None:
        await asyncio.sleep(5)

    with deadline(2):
        error = await raised(slow)
    assert str(why(error)).splitlines()[:2] == [
        "TimedOut: slow timed out in pipeline why",
        "  the deadline of 2 s, set by the caller, has passed",
    ]
    assert steps_of(error) == ["timeout"]


@pytest.mark.virtual_time
async def test_pause_that_would_outlive_the_deadline() -> None:
    """The time that was left is shown."""

    @Pipeline(Timeout(3), Retry(9, wait=2), name="why")
    async def fails() -> None:
        raise OSError

    text = str(why(await raised(fails)))
    reason = "retries ended: a wait of 2 s would outlive the deadline (Retry, 2 attempts in 2 s)"
    assert reason in " ".join(text.split())
    assert "  1 s were left until its deadline" in text.splitlines()


@pytest.mark.virtual_time
async def test_cancelled_call() -> None:
    """A cancellation through a guarded call is reported as such."""

    @Pipeline(Retry(3, wait=0), CircuitBreaker(), Timeout(9), name="why")
    async def hang() -> None:
        await asyncio.sleep(5)

    task = asyncio.create_task(hang())
    await asyncio.sleep(1)
    task.cancel()
    error = await raised(lambda: task)
    assert str(why(error)) == lines(
        """
        CancelledError: hang was cancelled in pipeline why

              0 ms  attempt 1            1 s  CancelledError
        """
    )


def test_block(world: World) -> None:
    """The attempts of a block have their pipeline and their name."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")

    async def main() -> None:
        async for attempt in pipeline.attempts("my block"):
            async with attempt:
                raise OSError

    def main_plainly() -> None:
        for attempt in pipeline.attempts("my block"):
            with attempt:
                raise OSError

    error = world.outcome(main if world.is_async else main_plainly).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    assert (call["pipeline"], call["function"], call["attempts"]) == ("why", "my block", 2)


def test_nested_calls_are_shown_from_the_outside_in(world: World) -> None:
    """Each has its own attempts."""
    inner = Pipeline(Retry(2, wait=0), name="inner")
    outer = Pipeline(Retry(2, wait=0), name="outer")
    error = world.outcome(outer(inner(world.dependency(*[OSError() for _ in range(4)]).fn))).error
    assert error is not None
    calls = why(error).as_json()["calls"]
    assert [(call["pipeline"], call["attempts"]) for call in calls] == [("outer", 2), ("inner", 2)]
    assert "  inside it, " in str(why(error))


def test_two_retries_of_one_call_record_each_attempt_once(world: World) -> None:
    """A pipeline inside a pipeline works on the same call."""
    inner = Pipeline(Retry(2, wait=0, name="inner retry"))
    outer = Pipeline(Retry(2, wait=0, name="outer retry"), inner, name="outer")
    error = world.outcome(outer(world.dependency(*[OSError() for _ in range(4)]).fn)).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    assert [step["number"] for step in call["steps"]] == [1, 2, 3, 4]
    assert (call["policy"], call["attempts"]) == ("outer retry", 4)


@pytest.mark.virtual_time
async def test_group_of_errors_has_the_reasons_of_its_members() -> None:
    """A group from a TaskGroup: each guarded call in it, and the call around it."""

    @Pipeline(Retry(2, wait=0), name="inner")
    async def fails() -> None:
        raise OSError

    @Pipeline(Bulkhead(5), name="outer")
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(fails())

    error = await raised(both)
    found = why(error).as_json()
    assert [call["pipeline"] for call in found["calls"]] == ["outer"]
    assert [member["calls"][0]["attempts"] for member in found["members"]] == [2, 2]
    assert "  1. OSError: fails failed in pipeline inner" in str(why(error)).splitlines()
    many = ExceptionGroup("", [ValueError() for _ in range(50)])
    assert len(why(many).as_json()["members"]) == 5
    assert not why(many).guarded


# -- errors that no pipeline has raised ------------------------------------------------------------------------------


def test_error_of_no_guarded_call_says_so() -> None:
    """That is an answer, too."""
    for error in (ValueError("x"), KeyboardInterrupt(), resilient.Rejected("by hand")):
        found = why(error)
        assert not found.guarded
        assert str(found).splitlines()[0] == f"{type(error).__name__}: no guarded call raised this error"


def test_error_raised_from_one_of_a_guarded_call(world: World) -> None:
    """An SDK's own error has the answer of its cause."""
    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    inner = world.outcome(guarded).error
    try:
        try:
            raise LookupError
        except LookupError:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as error:
        found = why(error)
        assert found.guarded
        assert found.as_json()["cause"]["calls"][0]["attempts"] == 2
        assert "  its cause:" in str(found).splitlines()


def test_pipeline_that_is_switched_off_says_so(world: World) -> None:
    """Then nothing is known of the call."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")
    with pipeline.switch("off"):
        error = world.outcome(pipeline(world.dependency(OSError()).fn)).error
    assert error is not None
    assert why(error).as_json()["switched_off"] == ["why"]
    assert "  the pipeline why was switched off" in str(why(error)).splitlines()


def test_error_whose_frames_were_cleared_says_so() -> None:
    """`unittest`'s `assertRaises` does that."""
    with pytest.raises(IndexError) as caught:
        Pipeline(Bulkhead(1), name="why").call([].pop)
    error, trace = caught.value, caught.value.__traceback__
    assert trace is not None
    traceback.clear_frames(trace.tb_next)
    assert "the frames of its traceback were cleared" in " ".join(str(why(error)).split())
    error.__traceback__ = None
    assert "no guarded call" in str(why(error))


@pytest.mark.parametrize("given", [7, None, "text", ValueError, object()])
def test_anything_else_is_refused(given: object) -> None:
    """The message says what to write instead."""
    with pytest.raises(TypeError, match=rf"got {type(given).__name__}: for other results write `with recording\(\)"):
        why(given)


# -- what it keeps ---------------------------------------------------------------------------------------------------


class Secret:
    """An argument or a result whose end can be seen."""

    def __repr__(self) -> str:
        return "s3cret-argument"


class Failure(ConnectionError):
    """An error whose end can be seen."""


def test_answer_and_the_call_keep_nothing_alive(world: World) -> None:
    """Arguments, results, errors and tracebacks end with the error, though the answer is kept."""
    argument = Secret()
    ends: list[weakref.ref[Any]] = [weakref.ref(argument)]

    async def fails(secret: Secret) -> None:
        failure = Failure("s3cret-message")
        ends.append(weakref.ref(failure))
        raise failure

    def fails_plainly(secret: Secret) -> None:
        failure = Failure("s3cret-message")
        ends.append(weakref.ref(failure))
        raise failure

    pipeline = Pipeline(Timeout(5), Retry(3, wait=0), CircuitBreaker(), name="why")
    outcome = world.outcome(pipeline(fails if world.is_async else fails_plainly), argument)
    assert outcome.error is not None
    answer = why(outcome.error)
    data, text = json.dumps(answer.as_json()), str(answer)
    del outcome, argument
    gc.collect()
    assert [end() for end in ends] == [None] * 4
    assert "s3cret" not in data + text + repr(answer)


def test_steps_are_bounded(world: World) -> None:
    """Of many attempts the first and the last are kept, and the number of the others."""
    guarded = Pipeline(Retry(200, wait=0), name="why")(world.dependency(*[OSError() for _ in range(200)]).fn)
    error = world.outcome(guarded).error
    assert error is not None
    (call,) = why(error).as_json()["calls"]
    numbers = [step["number"] for step in call["steps"]]
    assert numbers == [*range(1, FIRST + 1), *range(201 - LAST, 201)]
    assert (call["attempts"], call["left_out"]) == (200, 200 - FIRST - LAST)
    assert "       ...  185 more steps" in str(why(error)).splitlines()


def test_error_object_that_is_raised_again_and_again_has_the_last_call_only() -> None:
    """A shared exception object: Python makes its traceback longer each time, the answer stays the same."""
    shared = OSError("shared")

    def fail() -> None:
        raise shared

    guarded = Pipeline(Retry(2, wait=0), CircuitBreaker(min_calls=1000), name="why")(fail)

    def handle() -> int:
        try:
            guarded()
        except OSError as error:
            return len(json.dumps([call | {"seconds": 0, "steps": 0} for call in why(error).as_json()["calls"]]))
        raise AssertionError

    assert len({handle() for _ in range(50)}) == 1


def test_error_without_attributes_of_its_own(world: World) -> None:
    """Slots, a frozen class: nothing is written to the error."""

    class Slotted(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(Slotted(), Slotted()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    assert why(error).as_json()["calls"][0]["attempts"] == 2


def _work() -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    Pipeline(Retry(2), breaker, name="in another process").call(len, "")


def test_error_of_another_process_has_the_answer_with_it() -> None:
    """A process pool pickles errors."""
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        error = pool.submit(_work).exception()
    assert isinstance(error, resilient.CircuitOpen)
    found = why(error).as_json()
    assert [call["pipeline"] for call in found["calls"]] == ["in another process"]
    assert error.opening is not None
    assert error.opening.reason == "by hand"


def test_error_of_the_function_keeps_its_note_when_pickled(world: World) -> None:
    """Its answer is not pickled with it: the class is not ours. The note says why retries ended."""
    guarded = Pipeline(Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    error = pickle.loads(pickle.dumps(world.outcome(guarded).error))
    assert str(why(error)).splitlines() == [
        "OSError: no guarded call raised this error",
        "  pipeline 'why' gave up after 2 attempts: attempts spent",
    ]


def test_error_that_no_call_has_raised_pickles_as_it_is() -> None:
    """Nothing is added to it."""
    error = TimedOut("by hand", seconds=2)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_answer_is_data(world: World) -> None:
    """It is JSON, and pickles."""
    guarded = Pipeline(Timeout(5), Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    error = world.outcome(guarded).error
    assert error is not None
    answer = why(error)
    assert json.loads(json.dumps(answer.as_json())) == answer.as_json()
    assert str(pickle.loads(pickle.dumps(answer))) == str(answer)


# -- results ---------------------------------------------------------------------------------------------------------


def recorded(world: World, guarded: Callable[..., Any]) -> tuple[Any, list[Any]]:
    """The result of a call, and what `recording` has of it."""
    found: list[Any] = []

    async def main() -> Any:
        with recording() as calls:
            result = await guarded()
            found.extend(calls)
        return result

    def main_plainly() -> Any:
        with recording() as calls:
            result = guarded()
            found.extend(calls)
        return result

    return world.call(main if world.is_async else main_plainly), found


def test_result_of_a_further_attempt_is_recorded(world: World) -> None:
    """Its attempts are steps, the last of which succeeded."""
    guarded = Pipeline(Retry(3, wait=0), name="why")(world.dependency(OSError(), 7).fn)
    result, found = recorded(world, guarded)
    assert result == 7
    (report,) = found
    (call,) = report.as_json()["calls"]
    assert (call["ended"], call["attempts"]) == ("success", 2)
    assert [step["what"] for step in call["steps"]] == ["attempt", "success"]
    assert "succeeded in pipeline why" in str(report)


def test_result_of_a_first_attempt_is_not_recorded(world: World) -> None:
    """Nothing has failed."""
    _, found = recorded(world, Pipeline(Retry(3, wait=0), Hedge(60, thread=True), name="why")(world.dependency(7).fn))
    assert found == []


def test_answer_of_a_fallback_is_recorded(world: World) -> None:
    """It says what failed."""
    guarded = Pipeline(Fallback("stale"), Retry(2, wait=0), name="why")(world.dependency(OSError(), OSError()).fn)
    result, found = recorded(world, guarded)
    assert result == "stale"
    (call,) = found[0].as_json()["calls"]
    assert (call["ended"], call["reason"]) == ("fallback", "attempts spent")
    assert [step["what"] for step in call["steps"]] == ["attempt", "attempt", "fallback"]


def test_result_that_is_a_failure_is_recorded(world: World) -> None:
    """The reason that retries ended is there, although no error was raised."""
    classifier = Classifier(results=lambda result: result < 0)
    guarded = Pipeline(Retry(2, wait=0), name="why", classify=classifier)(world.dependency(-1, -2).fn)
    result, found = recorded(world, guarded)
    assert result == -2
    (call,) = found[0].as_json()["calls"]
    assert (call["ended"], call["reason"], call["attempts"]) == ("failure", "attempts spent", 2)


@pytest.mark.virtual_time
async def test_copy_that_won_is_recorded() -> None:
    """With the copies that had started."""
    begun: list[int] = []

    @Pipeline(Hedge(0.02), name="why")
    async def late_once() -> int:
        begun.append(1)
        number = len(begun)
        await asyncio.sleep(5 if number == 1 else 0.01)
        return number

    with recording() as calls:
        assert await late_once() == 2
    assert [step["what"] for step in calls[0].as_json()["calls"][0]["steps"]] == ["copy started", "copy won"]
    assert len(calls[:5]) == 1


@pytest.mark.virtual_time
async def test_recordings_are_bounded_and_of_their_context_only() -> None:
    """The last calls are kept; calls of other tasks are not seen."""
    pipeline = Pipeline(Retry(2, wait=0), name="why")

    async def fails_once() -> None:
        state: list[int] = []

        @pipeline
        async def flaky() -> None:
            state.append(1)
            if len(state) == 1:
                raise OSError

        await flaky()

    outside = asyncio.Event()

    async def other() -> None:
        await outside.wait()
        await fails_once()

    task = asyncio.create_task(other())
    with recording(most=3) as calls:
        outside.set()
        await task
        assert len(calls) == 0
        for _ in range(5):
            await fails_once()
        assert len(calls) == 3
    await fails_once()
    assert len(calls) == 3


@pytest.mark.parametrize("most", [0, -1, 1.5, "many"])
def test_recording_of_no_number_is_refused(most: Any) -> None:
    """The message names the argument and the value."""
    with pytest.raises((TypeError, ValueError), match=f"most must be .*{most}"), recording(most):
        pass
