"""Chaos: the faults that it injects, the calls that they hit and when, its switch, and its halt."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    Chaos,
    CircuitBreaker,
    CircuitOpen,
    Classifier,
    Fallback,
    Pipeline,
    PipelineWarning,
    Retry,
    TimedOut,
    Timeout,
    remaining,
)
from resilient.chaos.experiment import VARIABLE
from resilient.core.layer import BoundLayer
from resilient.core.worst_case import Bound, Surroundings, WorstCase
from resilient.events import AttemptStarted, ChaosHalted, FaultInjected
from resilient.faults import (
    Crash,
    DrippingBody,
    Errors,
    Fault,
    Latency,
    PacketLoss,
    Partition,
    Reset,
    Results,
    Slowness,
    Stall,
    TruncatedBody,
)
from resilient.faults.exceptions import LOST
from tests.properties.cancellation_driver import assert_idle, cancel_at_every_point
from tests.worlds import Outcome, Slow, VirtualWorld, World

ON: dict[str, Any] = {"enabled": True, "halt_rate": None}


@pytest.fixture
def virtual() -> Iterator[VirtualWorld]:
    """A world with virtual time only."""
    made = VirtualWorld()
    yield made
    made.close()


def heard_by(pipeline: Pipeline, kind: type) -> list[Any]:
    heard: list[Any] = []
    pipeline.listen(lambda event: heard.append(event) if type(event) is kind else None)
    return heard


def spent(world: World, guarded: Callable[..., Any], *args: Any) -> tuple[float, Outcome]:
    """The seconds that a call took, and its outcome."""
    begin = world.now()
    outcome = world.outcome(guarded, *args)
    return world.now() - begin, outcome


def pattern(world: World, chaos: Chaos, calls: int) -> str:
    """Which of this many calls failed."""
    guarded = chaos(world.dependency(*[7] * calls).fn)
    return "".join(".x"[world.outcome(guarded).error is not None] for _ in range(calls))


# -- what it injects, in every runtime ------------------------------------------------------------------------------


def test_errors_are_raised_instead_of_the_call(world: World) -> None:
    """The error is of the given type, and the call does not reach the dependency."""
    dependency = world.dependency()
    error = world.outcome(Chaos(Errors(error=OSError), **ON)(dependency.fn)).error
    assert type(error) is OSError
    assert str(error) == "injected by chaos: 100% OSError"
    assert type(world.outcome(Chaos(Errors(), **ON)(dependency.fn)).error) is ConnectionError
    assert len(dependency.calls) == 0


def test_errors_carry_the_pause_that_the_dependency_asks_for(world: World) -> None:
    """Retry and the breaker see the pause as from a real dependency."""
    error = world.outcome(Chaos(Errors(retry_after=3), **ON)(world.dependency().fn)).error
    assert getattr(error, "retry_after", None) == 3


def test_results_are_returned_instead_of_the_dependency_s(world: World) -> None:
    """The result is a value, or comes from a function of the arguments."""
    dependency = world.dependency()
    assert world.call(Chaos(Results(value=[]), **ON)(dependency.fn)) == []
    double = Chaos(Results(call=lambda number: 2 * number), **ON)(dependency.fn)
    assert world.call(double, 21) == 42
    assert len(dependency.calls) == 0


def test_latency_makes_the_answer_late(world: World) -> None:
    """The delay is at least `low`; the answer is the dependency's own."""
    seconds, outcome = spent(world, Chaos(Latency(low=0.03, high=0.03), **ON)(world.dependency(7).fn))
    assert outcome == Outcome(7)
    assert seconds >= 0.029


def test_slowness_takes_its_multiple_of_the_dependency_s_time(world: World) -> None:
    """Also where the call fails in the end."""
    guarded = Chaos(Slowness(factor=3), **ON)(world.dependency(Slow(0.02, 7), Slow(0.02, OSError())).fn)
    seconds, outcome = spent(world, guarded)
    assert (outcome.value, seconds >= 0.055) == (7, True)
    seconds, outcome = spent(world, guarded)
    assert (type(outcome.error), seconds >= 0.055) == (OSError, True)


@pytest.mark.virtual_time
async def test_slow_result_is_closed_when_its_caller_is_gone() -> None:
    """It may hold a connection."""
    closed: list[bool] = []

    class Result:
        status_code = 200

        async def aclose(self) -> None:
            await asyncio.sleep(0.5)
            closed.append(True)

    async def dependency() -> Result:
        await asyncio.sleep(1)
        return Result()

    with pytest.raises(TimedOut):
        await Pipeline(Timeout(2), Chaos(Slowness(factor=9), **ON))(dependency)()
    assert asyncio.get_running_loop().time() == 2, "the closing has taken none of its caller's time"
    await asyncio.sleep(1)
    assert closed == [True]


def test_stall_lets_calls_go_on_at_its_end(world: World) -> None:
    """Calls wait until the end of the stall, and are made then."""
    seconds, outcome = spent(world, Chaos(Stall(end=0.04), **ON)(world.dependency(7).fn))
    assert outcome == Outcome(7)
    assert seconds >= 0.035


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Crash(), ConnectionRefusedError),
        (Reset(), ConnectionResetError),
        (Reset(phase="connect"), ConnectionRefusedError),
    ],
    ids=["crash", "reset", "reset while connecting"],
)
def test_crashes_and_resets_are_errors_of_connections(world: World, fault: Fault, error: type[Exception]) -> None:
    """They are Python's own errors, raised at once, with a text that names the fault."""
    raised = world.outcome(Chaos(fault, **ON)(world.dependency().fn)).error
    assert type(raised) is error
    assert str(raised) == fault.words


def test_two_slownesses_multiply(virtual: VirtualWorld) -> None:
    """The same rule holds in a scenario."""
    guarded = Chaos(Slowness(factor=3), Slowness(factor=2), **ON)(virtual.dependency(Slow(1, 7)).fn)
    assert spent(virtual, guarded) == (pytest.approx(6), Outcome(7))


@pytest.mark.parametrize("fault", [Partition(), PacketLoss(share=1), Stall()], ids=lambda fault: fault.kind)
def test_lost_call_waits_for_nothing_until_its_timeout(world: World, fault: Fault) -> None:
    """Around a plain `def`, whose thread cannot be stopped, it ends at the deadline all the same."""
    guarded = Pipeline(Timeout(0.05), Chaos(fault, **ON))(world.dependency().fn)
    seconds, outcome = spent(world, guarded)
    assert isinstance(outcome.error, TimedOut if world.is_async else TimeoutError)
    assert 0.045 <= seconds < 60


def test_lost_call_without_a_timeout_is_given_up_after_a_quarter_of_an_hour(virtual: VirtualWorld) -> None:
    """A kernel gives up a connection after about that time."""
    seconds, outcome = spent(virtual, Chaos(Partition(), **ON)(virtual.dependency().fn))
    assert seconds == pytest.approx(LOST)
    assert type(outcome.error) is TimeoutError


def test_faults_happen_in_their_order_until_one_ends_the_call(virtual: VirtualWorld) -> None:
    """The order decides whether errors come late or at once."""
    late = Chaos(Latency(low=2, high=2), Errors(), Latency(low=5, high=5), **ON)(virtual.dependency().fn)
    seconds, outcome = spent(virtual, late)
    assert seconds == pytest.approx(2)
    assert type(outcome.error) is ConnectionError
    seconds, _ = spent(virtual, Chaos(Errors(), Latency(low=2, high=2), **ON)(virtual.dependency().fn))
    assert seconds == 0


def test_stop_iteration_of_a_guarded_function_still_gets_through() -> None:
    """It also passes the coroutines that inject faults."""

    def fetch() -> None:
        raise StopIteration(7)

    for policies in ([], [CircuitBreaker()]):
        with pytest.raises(StopIteration):
            Pipeline(*policies, Chaos(Latency(high=0), **ON))(fetch)()


# -- targets, shares and times --------------------------------------------------------------------------------------


def test_share_of_calls_is_hit_and_the_seed_says_which(virtual: VirtualWorld) -> None:
    """The same calls in the same order meet the same faults; another seed has others."""
    first = pattern(virtual, Chaos(Errors(share=0.3), seed=1, **ON), 1000)
    assert first == pattern(virtual, Chaos(Errors(share=0.3), seed=1, **ON), 1000)
    assert first != pattern(virtual, Chaos(Errors(share=0.3), seed=2, **ON), 1000)
    assert 240 < first.count("x") < 360


def test_share_of_0_hits_no_call_and_of_1_every_call(virtual: VirtualWorld) -> None:
    """Both ends are allowed, and exact."""
    assert pattern(virtual, Chaos(Errors(share=0), **ON), 200) == "." * 200
    assert pattern(virtual, Chaos(Errors(share=1), **ON), 200) == "x" * 200


def test_rate_bounds_the_calls_that_meet_any_fault(virtual: VirtualWorld) -> None:
    """One number limits the calls that an experiment touches."""
    assert pattern(virtual, Chaos(Errors(), rate=0, **ON), 200) == "." * 200
    assert 60 < pattern(virtual, Chaos(Errors(), rate=0.4, seed=1, **ON), 200).count("x") < 100


def test_faults_with_targets_hit_those_keys_only(world: World) -> None:
    """`by` computes the key of a call from its arguments."""
    chaos = Chaos(Errors(targets="eu"), Crash(targets=(2, "us")), by=lambda region: region, **ON)
    guarded = chaos(world.dependency(*[7] * 2).fn)
    assert type(world.outcome(guarded, "eu").error) is ConnectionError
    assert type(world.outcome(guarded, "us").error) is ConnectionRefusedError
    assert type(world.outcome(guarded, 2).error) is ConnectionRefusedError
    assert world.call(guarded, "asia") == world.call(guarded, 3) == 7


def test_faults_happen_in_their_time_from_the_first_call_on(virtual: VirtualWorld) -> None:
    """They happen from their start, and no more at their end."""
    guarded = Chaos(Errors(start=10, end=20), **ON)(virtual.dependency(*[7] * 3).fn)
    failed = []
    virtual.run(lambda: virtual.sleep(1000))
    for _ in range(5):
        failed.append(virtual.outcome(guarded).error is not None)
        virtual.run(lambda: virtual.sleep(5))
    assert failed == [False, False, True, True, False]


def test_another_clock_begins_the_times_anew() -> None:
    """An instance that is used in two runs of virtual time has its faults in both."""
    chaos = Chaos(Errors(start=10, end=20), **ON)
    for later in (100, 0):
        world = VirtualWorld()
        guarded = chaos(world.dependency(7).fn)
        world.run(lambda world=world, later=later: world.sleep(later))
        assert world.outcome(guarded).error is None
        world.run(lambda world=world: world.sleep(15))
        assert type(world.outcome(guarded).error) is ConnectionError
        world.close()


# -- the switch -----------------------------------------------------------------------------------------------------


def is_on(world: World, **options: Any) -> bool:
    return world.outcome(Chaos(Errors(), **options)(world.dependency(7).fn)).error is not None


def test_nothing_happens_unless_it_is_switched_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is off by default, and with `enabled=False`."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not is_on(world)
    assert not is_on(world, enabled=False)
    assert not is_on(world, enabled=lambda: False)
    assert is_on(world, enabled=True)
    assert is_on(world, enabled=lambda: True)


@pytest.mark.parametrize(
    ("value", "on"),
    [("1", True), ("true", True), ("YES", True), (" on ", True), ("", False), ("0", False), ("no", False)],
)
def test_environment_switches_on_what_has_no_switch_of_its_own(
    virtual: VirtualWorld, monkeypatch: pytest.MonkeyPatch, value: str, on: bool
) -> None:
    """`enabled=` takes precedence over the variable."""
    monkeypatch.setenv(VARIABLE, value)
    assert is_on(virtual) is on
    assert not is_on(virtual, enabled=False)
    assert not is_on(virtual, enabled=lambda: False)
    assert is_on(virtual, enabled=True)


def test_environment_that_says_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user need not guess whether it is on."""
    monkeypatch.setenv(VARIABLE, "perhaps")
    with pytest.raises(ValueError, match="RESILIENT_CHAOS must be 1 or 0, got 'perhaps'"):
        Chaos(Errors())
    Chaos(Errors(), enabled=False)


def test_function_switches_it_while_it_runs_and_its_times_begin_anew(virtual: VirtualWorld) -> None:
    """The times of faults count from each time it is switched on."""
    switch = [True]
    guarded = Chaos(Errors(end=10), enabled=lambda: switch[0], halt_rate=None)(virtual.dependency(7, 7).fn)
    assert virtual.outcome(guarded).error is not None
    virtual.run(lambda: virtual.sleep(20))
    assert virtual.outcome(guarded).error is None
    switch[0] = False
    assert virtual.outcome(guarded).error is None
    switch[0] = True
    assert type(virtual.outcome(guarded).error) is ConnectionError


def test_what_can_never_be_on_has_no_part_in_a_call() -> None:
    """The pipeline leaves its layer out, so it costs nothing."""
    chaos = Chaos(Errors(), enabled=False)

    async def inner(call: Any) -> Any: ...

    layer = BoundLayer(inner)
    assert chaos._bind(layer, Pipeline(chaos)._context) is layer


def test_calls_while_it_is_off_do_not_count(world: World) -> None:
    """The experiment has no effect on them."""
    chaos = Chaos(Errors(), enabled=lambda: False, halt_rate=0.0)
    guarded = chaos(world.dependency(OSError(), 7).fn)
    world.outcome(guarded)
    world.call(guarded)
    assert chaos.snapshot()["calls"] == 0
    assert chaos.halted is None


# -- it stands for the dependency -----------------------------------------------------------------------------------


def test_injected_errors_are_retried_as_the_dependency_s_own(world: World) -> None:
    """Each attempt may meet another fault."""
    chaos = Chaos(Errors(share=0.5), seed=1, **ON)
    guarded = Pipeline(Retry(attempts=20, wait=0), chaos)(world.dependency(*[7] * 10).fn)
    assert [world.call(guarded) for _ in range(10)] == [7] * 10
    assert chaos.snapshot()["injected"]["errors"] > 0


def test_injected_errors_open_the_circuit(world: World) -> None:
    """The circuit cannot tell them from real ones, and should not."""
    guarded = Pipeline(CircuitBreaker(fail_max=3), Chaos(Errors(), **ON))(world.dependency().fn)
    for _ in range(3):
        assert type(world.outcome(guarded).error) is ConnectionError
    assert type(world.outcome(guarded).error) is CircuitOpen


def test_injected_latency_runs_into_the_timeout(virtual: VirtualWorld) -> None:
    """A Timeout ends it as the latency of a slow dependency."""
    guarded = Pipeline(Timeout(2), Chaos(Latency(low=30, high=30), **ON))(virtual.dependency().fn)
    seconds, outcome = spent(virtual, guarded)
    assert seconds == pytest.approx(2)
    assert isinstance(outcome.error, TimedOut)


def test_it_sees_each_attempt_as_the_dependency_would(world: World) -> None:
    """Other attempts reach the function, with its arguments and its own events."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), Chaos(Latency(high=0), **ON), name="users")
    started = heard_by(pipeline, AttemptStarted)
    dependency = world.dependency(OSError(), 7)
    assert world.call(pipeline(dependency.fn), 1, key=2) == 7
    assert dependency.arguments == [((1,), {"key": 2})] * 2
    assert [event.attempt for event in started] == [1, 2]


def test_timeout_of_an_attempt_stays_one_with_chaos_inside_it(virtual: VirtualWorld) -> None:
    """It is no total timeout for that: it bounds the function, and tasks that the function starts inherit no
    deadline."""
    seen: list[tuple[float | None, float | None]] = []

    async def ask() -> float | None:
        return remaining()

    async def fetch() -> None:
        seen.append((await ask(), await asyncio.create_task(ask())))

    for policies in ([Timeout(5)], [Timeout(5), Chaos(Latency(high=0), **ON)], [Timeout(5), Retry()]):
        virtual.call(Pipeline(*policies)(fetch))
    assert seen == [(5, None), (5, None), (5, 5)]


@pytest.mark.parametrize("policy", [Retry(), CircuitBreaker(), Timeout(1), Fallback(1)], ids=lambda each: each.name)
def test_pipeline_warns_where_it_does_not_stand_innermost(policy: Any) -> None:
    """Policies inside it never meet its faults."""
    with pytest.warns(PipelineWarning, match=r"Chaos\(100% errors\) stands outside") as caught:
        Pipeline(Chaos(Errors(), **ON), policy)
    assert f"Instead: {policy.name} first, then Chaos, innermost" in str(caught[0].message)
    assert Pipeline(policy, Chaos(Errors(), **ON), Chaos(Crash(), **ON)).findings == []


def test_block_meets_faults_too_but_no_results() -> None:
    """Errors come before the block; a block has no result to replace."""
    entered = []
    pipeline = Pipeline(Retry(attempts=20, wait=0), Chaos(Errors(share=0.9), seed=1, **ON))
    for attempt in pipeline.attempts():
        with attempt:
            entered.append(attempt.number)
    assert len(entered) == 1
    assert entered[0] > 1
    with pytest.raises(TypeError, match="guard a function"):
        next(iter(Pipeline(Chaos(Results(value=1), **ON)).attempts()))


def test_switched_off_pipeline_has_no_chaos(world: World) -> None:
    """A pipeline that is switched off injects no faults."""
    pipeline = Pipeline(Chaos(Errors(), **ON))
    guarded = pipeline(world.dependency(7).fn)
    with pipeline.switch("off"):
        assert world.call(guarded) == 7


class Scene:
    """Calls that are late, queue, are slow, fail and are retried."""

    starts = (0.0, 0.0, 0.125)

    def __init__(self) -> None:
        chaos = Chaos(Latency(low=0.125, high=0.125), Slowness(factor=2), Errors(share=0.3), seed=1, enabled=True)
        self.pipeline = Pipeline(Bulkhead(1, queue=2), Retry(2, wait=0.125), Timeout(1), chaos)

        @self.pipeline
        async def fetch() -> None:
            await asyncio.sleep(0.125)

        self.call = lambda number: fetch()

    async def drain(self) -> None:
        """Nothing to wait for: no work goes on after the calls."""

    def assert_idle(self) -> None:
        """Assert that the permit is back."""
        assert_idle(self.pipeline.snapshot())


def test_cancelled_call_leaves_nothing_behind() -> None:
    """The cancellation gets through in every wait, and permits go back."""
    for victim in range(3):
        assert cancel_at_every_point(Scene, victim) > 3


# -- the objective --------------------------------------------------------------------------------------------------


def test_it_stops_when_more_calls_fail_than_it_may_cost(world: World) -> None:
    """It emits one event, and injects no more faults."""
    chaos = Chaos(Errors(), enabled=True, halt_rate=0.2, halt_calls=10, name="game day")
    pipeline = Pipeline(chaos, name="users")
    halted = heard_by(pipeline, ChaosHalted)
    guarded = pipeline(world.dependency(7, 7).fn)
    failed = [world.outcome(guarded).error is not None for _ in range(5)]
    assert failed == [True, True, True, False, False]
    (event,) = halted
    assert (event.pipeline, event.policy) == ("users", "game day")
    assert event.reason == chaos.halted == "3 of the last 3 calls failed, which is more than 20% of 10"


def test_halt_is_one_event_though_calls_are_in_flight(world: World) -> None:
    """Calls that fail after the halt emit no further event."""
    chaos = Chaos(Latency(low=0.1, high=0.1), Errors(), enabled=True, halt_rate=0.0)
    pipeline = Pipeline(chaos)
    halted = heard_by(pipeline, ChaosHalted)
    guarded = pipeline(world.dependency().fn)
    outcomes = world.together(*[guarded] * 3)
    assert [type(outcome.error) for outcome in outcomes] == [ConnectionError] * 3
    assert len(halted) == 1


def test_objective_is_about_callers_and_not_about_attempts(virtual: VirtualWorld) -> None:
    """Failures that retries and fallbacks hide from callers do not count."""
    for outer in (Retry(attempts=50, wait=0), Fallback(7)):
        chaos = Chaos(Errors(share=0.8), enabled=True, seed=1, halt_rate=0.05, halt_calls=20)
        guarded = Pipeline(outer, chaos)(virtual.dependency(*[7] * 100).fn)
        assert [virtual.call(guarded) for _ in range(100)] == [7] * 100
        assert chaos.halted is None
        assert chaos.snapshot()["injected"]["errors"] > 20


def test_failures_of_the_dependency_itself_count_too(virtual: VirtualWorld) -> None:
    """An experiment should not go on while the dependency itself fails."""
    chaos = Chaos(Latency(high=0), enabled=True, halt_rate=0.5, halt_calls=4)
    guarded = chaos(virtual.dependency(OSError(), OSError(), OSError(), 7).fn)
    for _ in range(4):
        virtual.outcome(guarded)
    assert chaos.halted == "3 of the last 3 calls failed, which is more than 50% of 4"


def test_refusals_are_failures_for_callers(virtual: VirtualWorld) -> None:
    """Refusals by a circuit that chaos has opened count, too."""
    chaos = Chaos(Errors(), enabled=True, halt_rate=0.5, halt_calls=10)
    guarded = Pipeline(CircuitBreaker(fail_max=1), chaos)(virtual.dependency().fn)
    for _ in range(6):
        virtual.outcome(guarded)
    assert chaos.halted is not None
    assert chaos.snapshot()["injected"] == {"errors": 1}


def test_errors_that_say_nothing_do_not_stop_it(virtual: VirtualWorld) -> None:
    """A "not found" is an answer."""
    chaos = Chaos(Latency(high=0), enabled=True, halt_rate=0.0)
    pipeline = Pipeline(chaos, classify=Classifier(ignore=KeyError))
    guarded = pipeline(virtual.dependency(KeyError(), 7, OSError()).fn)
    virtual.outcome(guarded)
    virtual.call(guarded)
    assert chaos.halted is None
    virtual.outcome(guarded)
    assert chaos.halted == "1 of the last 3 calls failed, which is more than 0% of 100"


def test_results_that_are_judged_failures_stop_it(world: World) -> None:
    """Injected and real results count."""
    chaos = Chaos(Results(value="bad"), enabled=True, halt_rate=0.5, halt_calls=2)
    guarded = Pipeline(chaos, classify=Classifier(results=lambda result: result == "bad"))(world.dependency(7).fn)
    assert [world.call(guarded) for _ in range(3)] == ["bad", "bad", 7]


def test_old_failures_are_forgotten(virtual: VirtualWorld) -> None:
    """Only the last calls count."""
    chaos = Chaos(Latency(high=0), enabled=True, halt_rate=0.5, halt_calls=2)
    script = [OSError(), 7, 7] * 5 + [OSError(), OSError()]
    guarded = chaos(virtual.dependency(*script).fn)
    for _ in range(len(script) - 1):
        virtual.outcome(guarded)
    assert chaos.halted is None
    virtual.outcome(guarded)
    assert chaos.halted is not None


def test_resume_starts_it_again_with_nothing_remembered(virtual: VirtualWorld) -> None:
    """The times of its faults start again."""
    chaos = Chaos(Errors(end=10), enabled=True, halt_rate=0.5, halt_calls=2)
    guarded = chaos(virtual.dependency(7).fn)
    virtual.outcome(guarded)
    virtual.outcome(guarded)
    virtual.run(lambda: virtual.sleep(20))
    assert virtual.call(guarded) == 7
    chaos.resume()
    assert chaos.halted is None
    assert virtual.outcome(guarded).error is not None
    assert chaos.snapshot()["calls"] == 1


def test_halt_is_an_event_in_every_pipeline_that_shares_it(virtual: VirtualWorld) -> None:
    """Each pipeline emits the event, as for a circuit."""
    chaos = Chaos(Errors(), enabled=True, halt_rate=0.0)
    one, other = Pipeline(chaos, name="one"), Pipeline(chaos, name="other")
    heard = [heard_by(one, ChaosHalted), heard_by(other, ChaosHalted)]
    virtual.outcome(one(virtual.dependency().fn))
    assert [event.pipeline for [event] in heard] == ["one", "other"]


# -- what it says ---------------------------------------------------------------------------------------------------


def test_each_injected_fault_is_an_event(virtual: VirtualWorld) -> None:
    """The event has the kind, the description, and the seconds of a latency."""
    chaos = Chaos(Latency(low=2, high=2), Errors(targets="eu"), by=lambda key: key, **ON)
    pipeline = Pipeline(chaos, name="users")
    heard = heard_by(pipeline, FaultInjected)
    virtual.outcome(pipeline(virtual.dependency().fn), "eu")
    assert [(event.kind, event.fault, event.seconds, event.at) for event in heard] == [
        ("latency", "100% of answers 2 s late", 2.0, 0.0),
        ("errors", "100% errors on eu", 0.0, 2.0),
    ]
    assert {(event.pipeline, event.policy) for event in heard} == {("users", "Chaos")}


def test_snapshot_says_how_it_is_and_what_it_did(virtual: VirtualWorld) -> None:
    """A snapshot is plain data."""
    chaos = Chaos(Errors(), enabled=True)
    assert chaos.snapshot() == {"enabled": True, "halted": None, "injected": {}, "calls": 0, "failed": 0}
    virtual.outcome(chaos(virtual.dependency().fn))
    assert chaos.snapshot() == {"enabled": True, "halted": None, "injected": {"errors": 1}, "calls": 1, "failed": 1}
    assert Chaos(Errors(), enabled=False).snapshot()["enabled"] is False


def test_it_describes_its_faults_with_their_times() -> None:
    """The description also says whether it is off."""
    faults = Latency(share=0.1, low=1, high=3), Errors(share=0.05, start=60, end=120)
    assert repr(Chaos(*faults, enabled=True)) == "Chaos(10% of answers 1-3 s late, 5% errors 60-120 s)"
    assert repr(Chaos(Crash(), rate=0.5, enabled=False)) == "Chaos(crash, to 50% of calls, off)"


def test_what_it_can_cost_a_call_is_known_in_advance() -> None:
    """`explain` counts its latencies, and no request where it fails the call itself; nothing while it is off."""
    inside = WorstCase(Bound(1, 1))

    def worst(*faults: Fault, **options: Any) -> WorstCase:
        return Chaos(*faults, **options).worst(lambda around: inside, Surroundings())

    late, stalled = worst(Latency(low=1, high=3), Latency(high=4), **ON), worst(Latency(high=3), Stall(end=5), **ON)
    assert late == replace(inside, seconds=Bound(1, 8), requests=Bound(0, 1), why=late.why)
    assert late.why.endswith("is up to 7 s late, then 1 s")
    assert stalled.seconds == Bound(1, math.inf)
    assert stalled.why.startswith("nothing bounds how late Chaos(")
    assert worst(Latency(high=3), enabled=False) is inside


def test_what_it_may_raise_is_known_in_advance() -> None:
    """Each type is listed once; and whether it is active at all."""
    chaos = Chaos(Errors(error=OSError), Errors(), Crash(), Stall(end=3), Partition(), PacketLoss(share=1), **ON)
    assert chaos.facts.raises == (OSError, ConnectionError, ConnectionRefusedError, TimeoutError)
    assert chaos.facts.inactive is None
    off = Chaos(Errors(), enabled=False)
    assert (off.facts.raises, off.facts.inactive) == ((), "it is switched off")


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("option", ["rate", "halt_rate"])
def test_rate_outside_its_bounds_is_refused(option: str, value: float) -> None:
    """The message has the value."""
    with pytest.raises(ValueError, match=f"{option} must be a share from 0 to 1, got"):
        Chaos(Errors(), **{option: value})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (TruncatedBody(), r"fault\[1\] must be one of Errors, Results, .*, got TruncatedBody"),
        (DrippingBody(), r"fault\[1\] must be one of"),
        (Errors, r"an instance is due, not the class"),
        ({"kind": "errors"}, r"fault\[1\] must be one of"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_fault_of_another_kind_is_refused(fault: Any, message: str) -> None:
    """Faults of HTTP need the chaos transports."""
    with pytest.raises(TypeError, match=message):
        Chaos(Crash(), fault)


@pytest.mark.parametrize(
    ("faults", "options", "message"),
    [
        ((), {}, "chaos without faults does nothing"),
        ((Errors(status=503),), {}, r"fault\[0\] has status=503, which only HTTP has"),
        ((Crash(targets="eu"),), {}, r"fault\[0\] has targets=\('eu',\): give by="),
        ((Slowness(factor=0.5),), {}, r"fault\[0\] must have a factor of 1 or more here, got 0.5"),
        ((Crash(),), {"halt_calls": 0}, "halt_calls must be a whole number >= 1, got 0"),
        ((Crash(),), {"seed": -1}, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_configuration_that_cannot_work_is_refused(faults: Any, options: Any, message: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=message):
        Chaos(*faults, **options)


@pytest.mark.parametrize("option", ["enabled", "by"])
def test_option_that_cannot_be_called_is_refused(option: str) -> None:
    """The message has the value."""
    with pytest.raises(TypeError, match=f"{option} must be callable, got 'yes'"):
        Chaos(Errors(), **{option: "yes"})


@pytest.mark.parametrize("inner", [(), (Retry(2, wait=0),)], ids=["alone", "after a retry"])
async def test_error_of_a_call_that_failed_is_not_kept_alive(inner: tuple[Any, ...]) -> None:
    """No frame in its own traceback refers to it, so it is freed without garbage collection."""

    class Down(OSError):
        pass

    async def down() -> None:
        raise Down

    guarded = Pipeline(*inner, Chaos(Errors(share=0.0), enabled=True))(down)
    gc.disable()
    try:
        try:
            await guarded()
        except Down as error:
            kept = weakref.ref(error)
        assert kept() is None
    finally:
        gc.enable()
