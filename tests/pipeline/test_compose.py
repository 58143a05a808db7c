"""Gates of one pipeline: all or nothing, no stale admissions, and evidence only of the dependency."""

from __future__ import annotations

import asyncio
import types
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import (
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    Classifier,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Rejected,
    Retry,
    Timeout,
    Verdict,
    events,
)
from resilient.core.call import Call
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.core.lifecycle import EndObserver, ResultLifecycle
from resilient.runtime import virtual
from tests.hypothesis_settings import search
from tests.properties.stacks import Turnstile
from tests.worlds import World

Journal = list[tuple[str, str]]

FOR_EVER = ((0.0, float("inf")),)


def stack(*policies: Any, classify: Classifier | None = None, name: str | None = None) -> Pipeline:
    """A pipeline whose order gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return Pipeline(*policies, classify=classify, name=name)


def dependency(
    *, seconds: float = 0.0, error: BaseException | None = None, answer: object = "done"
) -> Callable[[], Any]:
    """A function that takes some time on an asyncio loop, then raises or answers."""

    async def fetch() -> object:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return answer

    return fetch


# -- all or nothing ---------------------------------------------------------------------------------------------------


def test_gates_are_passed_outermost_first_and_left_innermost_first(world: World) -> None:
    """Gates admit a call outermost first and are settled innermost first; all hold it while the function runs."""
    journal: Journal = []
    outer, middle, inner = (Turnstile(name=name, journal=journal) for name in ("outer", "middle", "inner"))
    assert world.call(stack(outer, middle, inner)(world.dependency(7).fn)) == 7
    assert journal == [
        *[("outer", "admit"), ("middle", "admit"), ("inner", "admit")],
        *[("inner", "release"), ("middle", "release"), ("outer", "release")],
    ]


def test_refusal_by_a_later_gate_gives_earlier_tickets_back_last_first(world: World) -> None:
    """No ticket stays held, the function is not called, and gates further in are not asked."""
    journal: Journal = []
    first, second = Turnstile(name="first", journal=journal), Turnstile(name="second", journal=journal, learns=True)
    third, fourth = Turnstile(name="third", journal=journal, shut=FOR_EVER), Turnstile(name="fourth", journal=journal)
    fetch = world.dependency()
    error = world.outcome(stack(first, second, third, fourth)(fetch.fn)).error
    assert isinstance(error, Rejected)
    assert len(fetch.calls) == 0
    assert journal == [
        *[("first", "admit"), ("second", "admit"), ("third", "refuse")],
        *[("second", "release"), ("first", "release")],
    ]


def test_refusal_after_a_wait_gives_earlier_tickets_back_last_first(world: World) -> None:
    """Also when the gate that refuses, or one before it, made the call wait."""
    journal: Journal = []
    first, second = Turnstile(name="first", journal=journal, line=0.01), Turnstile(name="second", journal=journal)
    third = Turnstile(name="third", journal=journal, line=0.01, shut=FOR_EVER)
    fetch = world.dependency()
    assert isinstance(world.outcome(stack(first, second, third)(fetch.fn)).error, Rejected)
    assert len(fetch.calls) == 0
    assert journal == [
        *[("first", "admit"), ("second", "admit"), ("third", "refuse")],
        *[("second", "release"), ("first", "release")],
    ]


def test_gate_that_raises_something_else_gives_earlier_tickets_back(world: World) -> None:
    """An unexpected error in a gate costs no permit."""

    class Broken(Gate):
        def admit(self, call: Call) -> object:
            raise LookupError("broken")

    outer = Turnstile()
    assert isinstance(world.outcome(stack(outer, Broken())(world.dependency().fn)).error, LookupError)
    assert outer.tickets
    assert outer.mistakes == []


@pytest.mark.virtual_time
async def test_call_cancelled_in_a_queue_gives_earlier_tickets_back_last_first() -> None:
    """The caller's cancellation gets through, and the function is not called."""
    journal: Journal = []
    outer, inner = Turnstile(name="outer", journal=journal), Turnstile(name="inner", journal=journal)
    called: list[int] = []

    async def fetch() -> None:
        called.append(1)

    task = asyncio.create_task(stack(outer, inner, Turnstile(line=1.0)).call(fetch))
    asyncio.get_running_loop().call_later(0.5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal == [("outer", "admit"), ("inner", "admit"), ("inner", "release"), ("outer", "release")]
    assert not called


@pytest.mark.parametrize("others", [[], [CircuitBreaker(window_calls=10)]], ids=["holding", "learning"])
def test_coroutine_that_is_dropped_where_no_event_loop_runs_gives_tickets_back(others: list[Gate]) -> None:
    """Tasks of a loop that was closed too early are dropped in this way."""

    @types.coroutine
    def never() -> Generator[None, None, None]:
        yield

    async def fetch() -> None:
        await never()

    bulkhead = Bulkhead(1)
    coroutine = stack(bulkhead, *others).call(fetch)
    coroutine.send(None)
    assert bulkhead.snapshot()["in_use"] == 1
    coroutine.close()
    assert bulkhead.snapshot()["in_use"] == 0


class Raises(Gate):
    """A gate that raises `error` at the end of each call."""

    def __init__(self, error: BaseException, *, learns: bool) -> None:
        super().__init__()
        self.error = error
        self.facts = Facts(timed=False, learns=learns)

    def admit(self, call: Call) -> object:
        return self

    def release(self, ticket: object) -> None:
        raise self.error

    def settle(self, *_: object) -> None:
        raise self.error


HOLDS_OR_LEARNS = pytest.mark.parametrize("learns", [False, True], ids=["holds", "learns"])


@HOLDS_OR_LEARNS
@pytest.mark.parametrize(
    "answer", [7, OSError("down"), TypeError("a mistake")], ids=["result", "failure", "no evidence"]
)
def test_gate_that_raises_at_the_end_is_logged_and_affects_nothing_else(
    world: World, answer: Any, learns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The gates on both sides get their tickets back, and the caller gets the call's own result or error."""
    outer, inner = Turnstile(learns=True), Turnstile()
    outcome = world.outcome(
        stack(outer, Raises(LookupError("broken"), learns=learns), inner)(world.dependency(answer).fn)
    )
    assert (outcome.value, outcome.error) == ((answer, None) if answer == 7 else (None, answer))
    assert (outer.out, inner.out) == (0, 0)
    [record] = caplog.records
    assert record.name == "resilient"
    assert "Raises raised at the end of a call" in record.message
    assert record.exc_info
    assert isinstance(record.exc_info[1], LookupError)


@HOLDS_OR_LEARNS
def test_gate_that_raises_when_a_later_gate_refuses_affects_nothing_else(world: World, learns: bool) -> None:
    """The caller gets the rejection of the later gate."""
    outer = Turnstile()
    policies = outer, Raises(LookupError("broken"), learns=learns), Turnstile(shut=FOR_EVER, name="shut")
    error = world.outcome(stack(*policies)(world.dependency().fn)).error
    assert isinstance(error, Rejected)
    assert error.policy == "shut"
    assert outer.tickets
    assert outer.out == 0


@HOLDS_OR_LEARNS
@pytest.mark.virtual_time
async def test_gate_that_raises_when_a_call_is_cancelled_affects_nothing_else(learns: bool) -> None:
    """The cancellation gets through: in the function, in a queue, and where a gate is asked again after a wait."""
    for more in ([], [Turnstile(line=1.0)], [Turnstile(line=0.1)]):
        outer, raises = Turnstile(), Raises(LookupError("broken"), learns=learns)
        raises.facts = replace(raises.facts, by_evidence=True)
        task = asyncio.create_task(stack(outer, raises, *more).call(dependency(seconds=2.0)))
        asyncio.get_running_loop().call_later(0.5, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outer.tickets
        assert outer.out == 0


@pytest.mark.parametrize("answer", [7, OSError("down")], ids=["result", "failure"])
def test_gate_that_is_interrupted_at_the_end_gives_the_others_their_tickets_first(world: World, answer: Any) -> None:
    """A Ctrl-C is raised, and costs no permit."""
    outer, inner = Turnstile(learns=True), Turnstile()
    guarded = stack(outer, Raises(KeyboardInterrupt(), learns=True), inner)(world.dependency(answer).fn)
    with pytest.raises(KeyboardInterrupt):
        world.outcome(guarded)
    assert (outer.out, inner.out) == (0, 0)


class Streams(ResultLifecycle):
    """Results are open until the `observers` are told of their end."""

    may_be_open = True

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.observers: list[EndObserver] = []

    def is_open(self, result: Any) -> bool:
        if self.error is not None:
            raise self.error
        return True

    def follow(self, result: Any, observer: EndObserver) -> None:
        self.observers.append(observer)


@pytest.mark.parametrize(
    "end", [lambda each: each.learn(None), lambda each: each.learn(OSError()), lambda each: each.drop()]
)
def test_gate_that_raises_at_the_end_of_an_open_result_affects_nothing_else(
    world: World, end: Callable[[Any], None]
) -> None:
    """Gates that follow the result, and gates that do not, get their tickets back."""
    lifecycle, outer, holds = Streams(), Turnstile(learns=True), Turnstile()
    raises = Raises(LookupError("broken"), learns=False), Raises(LookupError("broken"), learns=True)
    policies = holds, outer, *raises
    pipeline = stack(*policies)._derive(policies, lifecycle=lifecycle)
    assert world.call(pipeline(world.dependency(7).fn)) == 7
    assert (outer.out, holds.out) == (1, 0)
    for observer in lifecycle.observers:
        end(observer)
    assert outer.out == 0


def test_lifecycle_that_raises_about_an_open_result_costs_no_ticket(world: World) -> None:
    """The caller gets the error of the lifecycle, and every gate gets its ticket back."""
    outer = Turnstile(learns=True)
    pipeline = stack(outer)._derive((outer,), lifecycle=Streams(LookupError("broken")))
    assert isinstance(world.outcome(pipeline(world.dependency(7).fn)).error, LookupError)
    assert outer.tickets
    assert outer.out == 0


# -- no stale admissions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["by_evidence", "learns"])
def test_only_gates_by_evidence_are_asked_again_after_a_wait_further_in(world: World, kind: str) -> None:
    """Gates that decide by evidence are asked again; gates that only count are not."""
    journal: Journal = []
    outer = Turnstile(name="outer", journal=journal, **{kind: True})
    queue = Turnstile(name="queue", journal=journal, line=0.01)
    assert world.call(stack(outer, queue)(world.dependency(7).fn)) == 7
    again = [("outer", "release"), ("outer", "admit")] if kind == "by_evidence" else []
    end = "release" if kind == "by_evidence" else "settle"
    assert journal == [("outer", "admit"), ("queue", "admit"), *again, ("queue", "release"), ("outer", end)]


def test_gate_by_evidence_is_not_asked_again_after_a_wait_further_out(world: World) -> None:
    """It was asked after that wait, so its evidence is fresh."""
    journal: Journal = []
    queue, gate = Turnstile(line=0.01), Turnstile(name="gate", journal=journal, by_evidence=True)
    assert world.call(stack(queue, gate)(world.dependency(7).fn)) == 7
    assert journal == [("gate", "admit"), ("gate", "release")]


@pytest.mark.virtual_time
async def test_gate_by_evidence_is_asked_again_after_each_wait_further_in() -> None:
    """Its answer after the first wait is stale after the second one."""
    journal: Journal = []
    queues = [Turnstile(name=f"queue {number}", journal=journal, line=0.5) for number in (1, 2, 3)]
    gate = Turnstile(name="gate", journal=journal, by_evidence=True)
    await stack(queues[0], gate, queues[1], queues[2]).call(dependency())
    again = [("gate", "release"), ("gate", "admit")]
    assert journal[:-4] == [
        *[("queue 1", "admit"), ("gate", "admit")],
        *[("queue 2", "admit"), *again, ("queue 3", "admit"), *again],
    ]


@pytest.mark.virtual_time
async def test_gate_by_evidence_that_makes_a_call_wait_again_releases_the_inner_permits() -> None:
    """A call that has to wait at an outer gate releases its inner permits; otherwise both gates would stay taken."""

    class Judging(Bulkhead):
        def __init__(self, permits: int, *, queue: int) -> None:
            super().__init__(permits, queue=queue)
            self.facts = replace(self.facts, by_evidence=True)

    inside = Bulkhead(1, queue=9)
    guarded = stack(Judging(1, queue=9), inside)(dependency(seconds=1))
    other = asyncio.ensure_future(stack(inside)(dependency(seconds=1))())
    await asyncio.sleep(0)
    assert await asyncio.gather(*(guarded() for _ in range(3)), other) == ["done"] * 4


@pytest.mark.virtual_time
async def test_gate_whose_evidence_has_changed_during_a_wait_refuses() -> None:
    """The ticket of the inner gate is released, too, and no call goes to a dependency that is known to be dead."""
    journal: Journal = []
    gate = Turnstile(name="gate", journal=journal, by_evidence=True, shut=((0.5, 8.0),))
    queue = Turnstile(name="queue", journal=journal, line=1.0)
    called: list[int] = []

    async def fetch() -> None:
        called.append(1)

    with pytest.raises(Rejected, match="gate refuses"):
        await stack(gate, queue).call(fetch)
    assert not called
    assert sorted(journal) == sorted(
        [("gate", "admit"), ("queue", "admit"), ("gate", "release"), ("gate", "refuse"), ("queue", "release")]
    )


@pytest.mark.virtual_time
async def test_queue_behind_a_breaker_sends_nothing_after_the_breaker_has_opened() -> None:
    """Calls that queued while it was closed are refused when they leave the queue."""
    requests = 0

    async def fetch() -> None:
        nonlocal requests
        requests += 1
        await asyncio.sleep(1)
        raise OSError

    breaker, bulkhead = CircuitBreaker(fail_max=1), Bulkhead(1, queue=9)
    pipeline = stack(breaker, bulkhead)
    ends = await asyncio.gather(*(pipeline.call(fetch) for _ in range(10)), return_exceptions=True)
    assert requests == 1
    assert [type(end).__name__ for end in ends] == ["OSError", *["CircuitOpen"] * 9]
    assert bulkhead.snapshot()["in_use"] == 0


# -- what gates learn -------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_success_is_learnt_once_with_the_time_that_it_took() -> None:
    """A success settles every gate that learns, once."""
    outer, inner = Turnstile(learns=True), Turnstile(learns=True)
    await stack(outer, inner).call(dependency(seconds=0.5))
    assert outer.lessons == inner.lessons == [("settled", 0.5, False)]
    assert outer.mistakes == inner.mistakes == []


@pytest.mark.virtual_time
async def test_failure_is_learnt_once_with_the_time_that_it_took() -> None:
    """A failure settles every gate that learns, once, and its error goes on to the caller."""
    gate = Turnstile(learns=True)
    error = OSError()
    with pytest.raises(OSError) as caught:
        await stack(gate).call(dependency(seconds=0.5, error=error))
    assert caught.value is error
    assert gate.lessons == [("settled", 0.5, True)]
    assert gate.mistakes == []


class _Exit(BaseException):
    """An error that is a `BaseException`, but no `Exception`."""


@pytest.mark.parametrize("error", [TypeError(), BulkheadFull(), _Exit()], ids=["programming", "rejection", "base"])
@pytest.mark.virtual_time
async def test_error_that_says_nothing_gives_tickets_back_without_learning(error: BaseException) -> None:
    """Programming errors, local rejections and errors that are no `Exception` are not evidence."""
    learning, holding = Turnstile(learns=True), Turnstile()
    with pytest.raises(type(error)):
        await stack(holding, learning).call(dependency(error=error))
    assert [ticket.ends for ticket in learning.tickets] == [["released"]]
    assert [ticket.ends for ticket in holding.tickets] == [["released"]]


@pytest.mark.parametrize(
    ("verdict", "end"),
    [
        (False, ("settled", False)),
        (True, ("settled", True)),
        (Verdict("failure"), ("settled", True)),
        (Verdict("nothing"), None),
    ],
)
@pytest.mark.virtual_time
async def test_result_is_classified_before_gates_learn_it(
    verdict: bool | Verdict, end: tuple[str, bool] | None
) -> None:
    """A result can be a failure, or no evidence; its caller gets it in either case."""
    gate = Turnstile(learns=True)
    pipeline = stack(gate, classify=Classifier(results=lambda result: verdict))
    assert await pipeline.call(dependency()) == "done"
    assert [(told, failed) for told, _, failed in gate.lessons] == ([] if end is None else [end])
    assert gate.mistakes == []


def _raise(_: object) -> bool:
    raise LookupError("the classifier is broken")


@pytest.mark.parametrize(
    ("classify", "error"), [(Classifier(results=_raise), None), (Classifier(failures=_raise), OSError())]
)
@pytest.mark.virtual_time
async def test_classifier_that_raises_costs_no_ticket(classify: Classifier, error: Exception | None) -> None:
    """Its error goes to the caller, and tickets are released (in interlock the place of a probe stayed taken)."""
    outer, inner = Turnstile(), Turnstile(learns=True)
    with pytest.raises(LookupError):
        await stack(outer, inner, classify=classify).call(dependency(error=error))
    assert [ticket.ends for gate in (outer, inner) for ticket in gate.tickets] == [["released"], ["released"]]


@pytest.mark.virtual_time
async def test_gate_that_does_not_learn_is_only_released() -> None:
    """It is released also where a neighbouring gate learns."""
    journal: Journal = []
    pipeline = stack(Turnstile(name="holding", journal=journal), Turnstile(learns=True))
    await pipeline.call(dependency())
    with pytest.raises(OSError):
        await pipeline.call(dependency(error=OSError()))
    await _cancel_after(0.5, pipeline.call(dependency(seconds=1)))
    assert journal == [("holding", "admit"), ("holding", "release")] * 3


# -- the age of a call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "around",
    [
        stack,
        lambda learning, queue: stack(learning, Timeout(30), queue),
        lambda learning, queue: stack(learning, stack(queue)),
        lambda learning, queue: stack(stack(learning), queue),
        lambda learning, queue: stack(stack(learning), stack(queue)),
    ],
    ids=["neighbours", "apart", "queue nested", "learner nested", "both nested"],
)
@pytest.mark.virtual_time
async def test_time_in_a_local_queue_further_in_does_not_count_as_the_age_of_a_call(
    around: Callable[[Gate, Gate], Pipeline],
) -> None:
    """A healthy dependency behind a long queue is not slow, at whichever gate the queue is."""
    learning = Turnstile(learns=True)
    pipeline = around(learning, Turnstile(line=4.0))
    await pipeline.call(dependency(seconds=0.5))
    with pytest.raises(OSError):
        await pipeline.call(dependency(seconds=0.25, error=OSError()))
    assert learning.lessons == [("settled", 0.5, False), ("settled", 0.25, True)]


@pytest.mark.virtual_time
async def test_age_of_a_call_begins_when_the_last_gate_has_admitted_it() -> None:
    """A wait at a neighbouring gate is not the dependency's time."""
    learning = Turnstile(learns=True)
    await stack(Turnstile(line=1.0), learning, Turnstile(line=2.0)).call(dependency(seconds=0.5))
    assert learning.lessons == [("settled", 0.5, False)]


async def _cancel_after(seconds: float, call: Any) -> None:
    """Cancel the call from outside, after some time."""
    task = asyncio.ensure_future(call)
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("around", "limit"),
    [
        (lambda gate: [gate], None),
        (lambda gate: [gate, Timeout(4)], 4),
        (lambda gate: [Timeout(8), gate], 8),
        (lambda gate: [Timeout(9), Timeout(8), gate], 8),
        (lambda gate: [Timeout(8), gate, Retry(2), Timeout(4), Timeout(3)], 4),
        (lambda gate: [Timeout(8), stack(gate)], None),
        (lambda gate: [gate, stack(Timeout(4))], None),
    ],
    ids=["none", "inside", "outside", "nearest outside", "inside first", "another's outside", "another's inside"],
)
@pytest.mark.virtual_time
async def test_cut_short_call_is_measured_by_the_nearest_timeout_of_its_pipeline(
    around: Callable[[Gate], list[Any]], limit: float | None
) -> None:
    """The Timeout inside comes first, then the one outside; Timeouts of other pipelines do not count."""
    gate = Turnstile(learns=True)
    await _cancel_after(0.5, stack(*around(gate)).call(dependency(seconds=64)))
    assert gate.lessons == [("cut", 0.5, limit)]
    assert gate.mistakes == []


class Learner(Gate):
    """A gate with the default meaning of a call that was cut short."""

    def __init__(self, slow: float | None = None) -> None:
        super().__init__()
        self.facts = Facts(learns=True, slow=slow)
        self.learnt: list[bool] = []
        self.released = 0

    def admit(self, call: Call) -> object:
        return self

    def settle(self, ticket: object, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        self.learnt.append(failed)

    def release(self, ticket: object) -> None:
        self.released += 1


@pytest.mark.parametrize(
    ("slow", "limit", "age", "failed"),
    [
        (None, None, 60.0, False),
        (2.0, None, 1.9, False),
        (2.0, None, 2.0, True),
        (None, 2.0, 1.9, False),
        (1.0, 2.0, 1.9, False),
        (1.0, 2.0, 1.99, True),
        (9.0, 2.0, 1.99, True),
    ],
)
@pytest.mark.virtual_time
async def test_cut_short_call_is_a_failure_at_its_configured_limit_and_nothing_before(
    slow: float | None, limit: float | None, age: float, failed: bool
) -> None:
    """The limit is the nearest Timeout, else `slow`. A caller who goes away early is no evidence."""
    gate = Learner(slow)
    pipeline = stack(gate) if limit is None else stack(Timeout(limit), gate)
    await _cancel_after(age, pipeline.call(dependency(seconds=64)))
    assert gate.learnt == [True] * failed
    assert gate.released == (not failed)


@pytest.mark.virtual_time
async def test_call_that_outlived_its_limit_is_a_failure_though_its_result_is_used() -> None:
    """A callee that swallows the cancellation still counts as too slow."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(64)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
        return "late"

    gate = Turnstile(learns=True)
    assert await stack(gate, Timeout(1)).call(stubborn) == "late"
    assert gate.lessons == [("settled", 1.5, True)]


# -- events -----------------------------------------------------------------------------------------------------------


def test_refusal_carries_the_name_of_its_own_pipeline_and_is_one_event(world: World) -> None:
    """Pipelines around it pass the rejection on unchanged."""
    heard: list[Any] = []
    inner = stack(Turnstile(name="gate", shut=FOR_EVER), name="inner")
    outer = stack(Turnstile(learns=True), inner, name="outer")
    stops = [pipeline.listen(heard.append) for pipeline in (outer, inner)]
    error = world.outcome(outer(world.dependency().fn)).error
    for stop in stops:
        stop()
    assert isinstance(error, Rejected)
    assert (error.pipeline, error.policy) == ("inner", "gate")
    (event,) = (event for event in heard if isinstance(event, events.CallRejected))
    assert (event.pipeline, event.policy, event.reason, event.retry_after) == ("inner", "gate", "gate refuses", None)


@pytest.mark.virtual_time
async def test_wait_in_a_queue_is_an_event_with_its_duration() -> None:
    """An event says how long the call waited, and where."""
    heard: list[Any] = []
    pipeline = stack(Turnstile(learns=True), Turnstile(name="waiting", line=0.5), name="waits")
    pipeline.listen(heard.append)
    begin = asyncio.get_running_loop().time()
    await pipeline.call(dependency())
    (event,) = (event for event in heard if isinstance(event, events.Waited))
    assert event == events.Waited("waits", begin + 0.5, "waiting", "queue", 0.5)


# -- any stack of gates -----------------------------------------------------------------------------------------------


def turnstiles(journal: Journal) -> st.SearchStrategy[list[Turnstile]]:
    """Gates of every kind, in any order, named by their positions."""
    shut = st.sampled_from([(), (), ((0.25, 0.5),), ((0.5, 8.0),)])
    kind = st.one_of(
        st.fixed_dictionaries({"learns": st.booleans(), "by_evidence": st.booleans(), "shut": shut}),
        st.fixed_dictionaries({"learns": st.booleans(), "line": st.sampled_from([0.25, 0.5]), "shut": shut}),
    )
    kinds = st.lists(kind, min_size=1, max_size=6)
    return kinds.map(lambda kinds: [Turnstile(name=str(at), journal=journal, **kind) for at, kind in enumerate(kinds)])


ENDS = {"release", "settle", "cut"}


@search(150)
@given(data=st.data(), error=st.sampled_from([None, OSError(), TypeError()]), cancel=st.sampled_from([None, 0.3, 0.8]))
def test_any_stack_of_gates_is_passed_by_all_or_nothing(
    data: st.DataObject, error: Exception | None, cancel: float | None
) -> None:
    """Tickets are held together, fresh where they depend on evidence, and returned together, innermost first, once
    each."""
    journal: Journal = []
    gates = data.draw(turnstiles(journal), label="gates")
    held: list[tuple[list[int], float]] = []
    issued: dict[str, float] = {}

    class Clocked(list[tuple[str, str]]):
        """Records when the latest ticket of each gate was issued."""

        def append(self, entry: tuple[str, str]) -> None:
            super().append(entry)
            if entry[1] == "admit":
                issued[entry[0]] = asyncio.get_running_loop().time()

    clocked = Clocked()
    for gate in gates:
        gate.journal = clocked

    async def fetch() -> None:
        held.append(([gate.out for gate in gates], asyncio.get_running_loop().time()))
        await asyncio.sleep(0.25)
        if error is not None:
            raise error

    async def main() -> None:
        task = asyncio.ensure_future(stack(*gates).call(fetch))
        if cancel is not None:
            asyncio.get_running_loop().call_later(cancel, task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()

    virtual.run(main())

    assert [gate.mistakes for gate in gates] == [[]] * len(gates)
    for outs, begun in held:
        assert outs == [1] * len(gates), "the function ran without a ticket of every gate"
        for at, gate in enumerate(gates):
            if gate.facts.by_evidence and any(later.facts.waits for later in gates[at:]):
                assert issued[gate.name] == begun, "it was asked before a wait only"
    last_act = max((at for at, (_, verb) in enumerate(clocked) if verb not in ENDS), default=-1)
    given_back = [int(name) for name, _ in clocked[last_act + 1 :]]
    assert given_back == sorted(given_back, reverse=True), "tickets did not come back last first"


def test_names_are_never_code() -> None:
    """A gate layer is generated as source. Names and keys of users are not part of it."""
    evil = '''"""\n'); raise SystemExit("gone")\n#{0} %s {evil!r}\\'''
    gates = (Bulkhead(1, name=evil), CircuitBreaker(name=evil), RateLimit(5, name=evil))
    keyed = Keyed(lambda: Bulkhead(1), key=lambda key: key, name=evil)
    pipeline = Pipeline(Retry(2, name=evil), *gates, keyed, Timeout(1, name=evil), name=evil)
    guarded = pipeline(lambda key: key)
    assert guarded(evil) == evil
    assert pipeline.snapshot()["name"] == evil
