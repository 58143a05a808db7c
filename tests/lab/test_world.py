"""The world: how a service handles requests, the effects of faults, and one result for one seed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import (
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    deadline,
    standard,
)
from resilient.faults import Crash, Errors, Latency, PacketLoss, Partition, Reset, Slowness, Stall
from resilient.lab.candidates import NONE, Candidate, candidate_from, shadowed
from resilient.lab.distributions import Constant, Exponential
from resilient.lab.http import HttpCalls
from resilient.lab.load import Burst, Closed, Poisson, Replay
from resilient.lab.service import Link, Quota, ServicePlan
from resilient.lab.world import CandidateError, Run, Scenario, simulate
from resilient.observe.shadow import ShadowReport

ONE = ServicePlan(service_time=Constant(1.0), workers=1)


def calls(run: Run) -> list[tuple[float, float, str]]:
    """Start, end and outcome of each call, in the order of their starts."""
    ended = zip(run.begins, run.ends, run.outcomes, strict=True)
    return sorted((round(begin, 6), round(end, 6), run.names[outcome]) for begin, end, outcome in ended)


def live(
    service: ServicePlan, moments: tuple[float, ...], *policies: Any, **more: Any
) -> list[tuple[float, float, str]]:
    """A run with calls at these moments, through these policies."""
    candidate = candidate_from("policies", Pipeline(*policies)) if policies else NONE
    return calls(simulate(Scenario(duration=100, loads=(Replay(moments),), service=service, **more), candidate))


def test_worker_takes_one_request_after_the_other() -> None:
    """Requests are served in the order of their arrival."""
    assert live(ONE, (0.0, 0.1, 0.2)) == [(0.0, 1.0, "success"), (0.1, 2.0, "success"), (0.2, 3.0, "success")]


def test_lifo_takes_who_came_last() -> None:
    """The second of three requests waits longest."""
    service = ServicePlan(service_time=Constant(1.0), workers=1, queue="lifo")

    assert [end for _, end, _ in live(service, (0.0, 0.1, 0.2))] == [1.0, 3.0, 2.0]


def test_call_may_become_as_many_requests_as_it_likes() -> None:
    """A call may become more than 65,535 requests, and the run has the number for each call."""

    def repeat(ask: Any) -> Any:
        async def call(key: Any) -> object:
            key.requests += 70_000
            return await ask(key)

        return call

    run = simulate(Scenario(duration=2, loads=(Replay((0.0, 1.0)),)), candidate_from("many", lambda: repeat))
    assert list(run.requests) == [70_001, 70_001]


def test_full_queue_refuses() -> None:
    """One request is executed, one waits, and the third is refused at once."""
    service = ServicePlan(service_time=Constant(1.0), workers=1, queue_limit=1)

    assert live(service, (0.0, 0.1, 0.2))[2] == (0.2, 0.2, "ServiceError")


def test_abandoned_work_is_done_all_the_same() -> None:
    """The next request waits for the end of work whose client has given up."""
    assert live(ONE, (0.0, 0.6), Timeout(0.5)) == [(0.0, 0.5, "TimedOut"), (0.6, 1.1, "TimedOut")]


def test_cancelled_work_frees_its_worker() -> None:
    """When their clients give up, the request in work and the one in the queue are removed."""
    service = ServicePlan(service_time=Constant(0.4), workers=1, abandoned="cancelled")
    candidate = Candidate("impatient", lambda: Timeout(0.3))
    slow = Slowness(factor=10, end=0.05)
    run = simulate(Scenario(duration=9, loads=(Replay((0.0, 0.1, 0.35)),), service=service, faults=(slow,)), candidate)

    assert calls(run) == [(0.0, 0.3, "TimedOut"), (0.1, 0.4, "TimedOut"), (0.35, 0.65, "TimedOut")]
    assert run.executed == 0
    assert live(service, (0.0, 0.1), Timeout(0.7), faults=(slow,))[1] == (0.1, 0.8, "TimedOut")


def test_expired_work_is_dropped_by_the_deadline_that_travels() -> None:
    """The second request has expired when the worker is free, so the third is taken at once."""
    drops = ServicePlan(service_time=Constant(1.0), workers=1, drop_expired=True)
    moments = (0.0, 0.1, 0.95)

    assert live(drops, moments, Timeout(0.5))[2] == (0.95, 1.45, "TimedOut")
    assert live(drops, moments, Timeout(0.8))[:2] == [(0.0, 0.8, "TimedOut"), (0.1, 0.9, "TimedOut")]
    executed = [
        simulate(
            Scenario(duration=9, loads=(Replay((*moments, 8.0)),), service=service), candidate_from("t", Timeout(0.8))
        ).executed
        for service in (drops, ONE)
    ]
    assert executed == [2, 3]


def test_deadline_of_a_total_timeout_travels_too() -> None:
    """The deadline of a Timeout around a Retry reaches the server with each attempt."""
    drops = ServicePlan(service_time=Constant(1.0), workers=1, drop_expired=True)
    pipeline = Pipeline(Timeout(0.8), Retry(1))
    run = simulate(
        Scenario(duration=9, loads=(Replay((0.0, 0.1, 8.0)),), service=drops), candidate_from("total", pipeline)
    )

    assert run.executed == 1


def test_stall_begins_nothing_and_ends_what_has_begun() -> None:
    """Waiting requests are taken after the stall."""
    faults = (Stall(start=0.5, end=3.0),)

    assert live(ONE, (0.0, 0.1, 4.5), faults=faults) == [
        (0.0, 1.0, "success"),
        (0.1, 4.0, "success"),
        (4.5, 5.5, "success"),
    ]


def test_slowness_concerns_what_is_begun_in_it() -> None:
    """Work takes three times as long during the fault, and as before afterwards."""
    found = live(ONE, (0.0, 2.0, 6.0), faults=(Slowness(factor=3, start=1.0, end=5.0),))

    assert [end for _, end, _ in found] == [1.0, 5.0, 7.0]


def test_crash_resets_what_is_inside_and_refuses_what_comes() -> None:
    """Requests in work and in the queue are reset; new ones are refused until the restart."""
    found = live(ONE, (0.0, 0.1, 0.7, 2.0), faults=(Crash(start=0.5, end=1.5),))

    assert found == [
        (0.0, 0.5, "ConnectionResetError"),
        (0.1, 0.5, "ConnectionResetError"),
        (0.7, 0.7, "ConnectionRefusedError"),
        (2.0, 3.0, "success"),
    ]


def test_partition_is_silence_in_both_directions() -> None:
    """A request that is sent during it, and an answer that is due during it, are lost."""
    found = live(ONE, (0.0, 1.2, 3.0), Timeout(1.5), faults=(Partition(start=0.5, end=2.0),))

    assert [outcome for _, _, outcome in found] == ["TimedOut", "TimedOut", "success"]


def test_answer_that_was_lost_does_not_come_when_the_loss_is_over() -> None:
    """The work of a request whose answer is lost is done, and the answer never arrives."""
    moments = tuple(number / 100 for number in range(20))
    service = ServicePlan(service_time=Constant(2.0))
    run = simulate(
        Scenario(duration=20, loads=(Replay(moments),), service=service, faults=(PacketLoss(share=1, end=1.0),)), NONE
    )

    assert {run.names[outcome] for outcome in run.outcomes} == {"unfinished"}
    assert 0 < run.executed < len(moments)


def test_lost_request_is_unfinished_where_nobody_gives_up() -> None:
    """The run still ends after its drain time."""
    found = live(ONE, (0.0,), faults=(Partition(end=5.0),), drain=10.0)

    assert found == [(0.0, 110.0, "unfinished")]


@pytest.mark.parametrize("fault", [Partition(), PacketLoss(share=1), Stall()], ids=lambda fault: fault.kind)
def test_request_without_an_answer_ends_after_a_quarter_of_an_hour(fault: Any) -> None:
    """Then the kernel gives the connection up, and a Retry sends another request."""
    scenario = Scenario(duration=3000, loads=(Replay((0.0,)),), service=ONE, faults=(fault,))
    run = simulate(scenario, candidate_from("retry", Retry(2, wait=0)))

    assert calls(run) == [(0.0, 1800.0, "TimeoutError")]
    assert list(run.sent) == [0.0, 900.0]


def test_programming_error_that_a_fault_names_is_the_service_s() -> None:
    """It ends its call, as with `Chaos`, and not the run; any other programming error ends the run."""
    fault = Errors(error=TypeError)

    assert live(ONE, (0.0,), Retry(3), faults=(fault,)) == [(0.0, 1.0, "TypeError")]
    with pytest.raises(CandidateError, match="NameError"):
        simulate(
            Scenario(duration=9, loads=(Replay((0.0,)),), service=ONE, faults=(fault,)),
            Candidate("broken", lambda: lambda ask: lambda key: undefined),  # noqa: F821
        )


def test_latency_of_the_link_counts_both_ways() -> None:
    """The latency of the network is added on the way there and on the way back."""
    service = ServicePlan(service_time=Constant(1.0), link=Link(latency=Constant(0.25)))

    assert live(service, (0.0,)) == [(0.0, 1.5, "success")]


def test_late_answers_keep_no_worker() -> None:
    """Latency delays answers in the network; slowness keeps the worker."""
    found = live(ONE, (0.0, 0.1), faults=(Latency(low=5, high=5),))

    assert [end for _, end, _ in found] == [6.0, 7.0]


@pytest.mark.parametrize(
    ("fault", "outcome", "executed"),
    [
        (Errors(share=0.3), "ServiceError", 1.0),
        (Errors(share=0.3, error="OSError"), "OSError", 1.0),
        (PacketLoss(share=0.3), "TimedOut", 0.85),
        (Reset(share=0.3), "ConnectionResetError", 1.0),
        (Reset(share=0.3, phase="connect"), "ConnectionRefusedError", 0.7),
    ],
)
def test_share_of_requests_is_hit(fault: Any, outcome: str, executed: float) -> None:
    """Three in ten requests are hit; half of the lost ones never arrive."""
    scenario = Scenario(duration=20, loads=(Poisson(500),), faults=(fault,))
    run = simulate(scenario, candidate_from("timeout", Timeout(1)))

    assert run.outcomes.count(run.names.index(outcome)) / len(run.begins) == pytest.approx(0.3, abs=0.02)
    assert run.executed / len(run.begins) == pytest.approx(executed, abs=0.02)


def test_fault_hits_its_targets_only() -> None:
    """A target is a server by its number, or a request by its key."""
    service = ServicePlan(servers=3, balance="key")
    scenario = Scenario(
        duration=20, loads=(Poisson(300),), service=service, keys=3, faults=(Errors(targets=2), Errors(targets="3"))
    )
    run = simulate(scenario, NONE)

    assert run.outcomes.count(0) / len(run.begins) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("balance", ["random", "round_robin", "least_busy"])
def test_balance_spreads_requests(balance: Any) -> None:
    """About a quarter of the requests meet a fault of one of four servers; least_busy avoids the server if requests
    wait there."""
    service = ServicePlan(service_time=Constant(0.01), servers=4, workers=1, balance=balance)
    faults = (Slowness(factor=100, targets=1),)
    run = simulate(Scenario(duration=20, loads=(Poisson(20),), service=service, faults=faults), NONE)
    slow = sum(end - begin > 0.5 for begin, end in zip(run.begins, run.ends, strict=True)) / len(run.begins)

    assert slow == pytest.approx(0.03 if balance == "least_busy" else 0.25, abs=0.05)


def test_quota_answers_429_with_the_time_to_come_back() -> None:
    """A Retry respects it: the second call is repeated when there is a token."""
    service = ServicePlan(rate_limit=Quota(rate=2, burst=1))
    found = live(service, (0.0, 0.1), Retry(2, wait=0))

    assert found == [(0.0, 0.0, "success"), (0.1, 0.5, "success")]


def test_closed_users_wait_for_their_answers_and_think() -> None:
    """Two users and one worker: one call a second each, in turn."""
    service = ServicePlan(service_time=Constant(1.0), workers=2)
    scenario = Scenario(duration=10, loads=(Closed(users=2, think=Constant(1.0)),), service=service)

    assert len(simulate(scenario, NONE).begins) == 10


def test_burst_comes_again() -> None:
    """A burst comes at its moment, and after each interval."""
    run = simulate(Scenario(duration=10, loads=(Burst(calls=3, at=1, every=4),)), NONE)

    assert sorted(run.begins) == [1.0] * 3 + [5.0] * 3 + [9.0] * 3


def test_rate_follows_its_steps() -> None:
    """The rate is a hundred a second, then zero, then three hundred."""
    run = simulate(Scenario(duration=30, loads=(Poisson(((0, 100), (10, 0), (20, 300))),)), NONE)
    counts = [sum(10 * part <= begin < 10 * part + 10 for begin in run.begins) for part in range(3)]

    assert counts[1] == 0
    assert counts[0] == pytest.approx(1000, rel=0.15)
    assert counts[2] == pytest.approx(3000, rel=0.1)


def test_replayed_keys_reach_the_pipeline() -> None:
    """The circuit of the failing shard's key opens, the other stays closed."""
    keys = ("1", "2") * 10
    scenario = Scenario(
        duration=30,
        loads=(Replay(tuple(float(at) for at in range(20)), keys),),
        service=ServicePlan(servers=2, balance="key"),
        keys=2,
        faults=(Errors(targets=2),),
    )
    breaker = Keyed(lambda: CircuitBreaker(fail_max=2, break_duration=60), key=lambda key: key)
    run = simulate(scenario, candidate_from("keyed", breaker))
    outcomes = dict(zip(run.names, map(run.outcomes.count, range(len(run.names))), strict=True))

    assert (outcomes["success"], outcomes["ServiceError"], outcomes["CircuitOpen"]) == (10, 2, 8)


def everything() -> Pipeline:
    """A scenario with randomness in every part."""
    return Pipeline(
        Timeout(3), Retry(4, budget=Budget()), CircuitBreaker(break_duration=1), RateLimit(1000), Timeout(0.4)
    )


SHAKEN = Scenario(
    duration=20,
    loads=(Poisson(200), Closed(users=5, think=Exponential(0.1)), Burst(calls=20, at=3, every=5)),
    service=ServicePlan(
        service_time=Exponential(0.05), workers=12, servers=2, link=Link(Exponential(0.001), loss=0.01)
    ),
    clients=7,
    keys=4,
    faults=(
        Slowness(factor=8, start=5, end=9),
        Crash(targets=1, start=10, end=12),
        Errors(share=0.3, start=14, end=16),
    ),
)


def test_two_runs_of_a_seed_are_the_same_in_every_call() -> None:
    """Another seed gives another result; the global `random` is restored."""
    state = random.getstate()
    runs = [simulate(SHAKEN, candidate_from("all", everything()), seed) for seed in (1, 1, 2)]
    first, again, other = ((run.begins, run.ends, run.outcomes, run.requests, run.samples) for run in runs)

    assert random.getstate() == state
    assert first == again
    assert first[0] != other[0]
    assert len({name for run in runs for name in run.names}) > 4


def test_runs_of_several_threads_are_as_if_alone() -> None:
    """Runs in several threads happen one after the other, and clients log again afterwards."""
    scenario = Scenario(duration=20, loads=(Poisson(20),), faults=(Errors(share=0.5),), calls=HttpCalls())
    candidate = candidate_from("retries", Pipeline(Retry(3)))

    def lived(_: object = None) -> list[tuple[float, float, str]]:
        return calls(simulate(scenario, candidate))

    alone, interval = lived(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lived, range(3))) == [alone] * 3
    finally:
        sys.setswitchinterval(interval)
    assert not logging.getLogger("httpx").disabled


def test_run_on_a_loop_that_runs_is_refused_with_what_to_write() -> None:
    """A world has its own loop; inside another loop it needs a thread."""
    scenario = Scenario(duration=1, loads=(Burst(1),))

    async def main() -> Run:
        with pytest.raises(RuntimeError, match=r"write await asyncio\.to_thread\(simulate, \.\.\.\)$"):
            simulate(scenario, NONE)
        return await asyncio.to_thread(simulate, scenario, NONE)

    assert len(asyncio.run(main()).begins) == 1


def test_lack_of_memory_that_a_fault_names_fails_calls() -> None:
    """It does not end the run, as a real MemoryError does."""
    faults = (Errors(error=MemoryError),)
    assert live(ONE, (0.0,), faults=faults) == [(0.0, 1.0, "MemoryError")]


def test_judgement_that_ends_the_process_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The error of the run reports it, and the event loop does not report it again."""
    pipeline = Pipeline(Retry(3, on=lambda error: sys.exit(5)))
    scenario = Scenario(duration=1, loads=(Burst(1),), faults=(Errors(),))
    with pytest.raises(CandidateError, match=r"^exits: the run ended with SystemExit: 5 \(.*test_world"):
        simulate(scenario, candidate_from("exits", pipeline))
    gc.collect()
    assert caplog.records == []


def test_candidates_meet_the_same_arrivals() -> None:
    """Arrivals do not depend on the pipeline."""
    scenario = Scenario(duration=20, loads=(Poisson(100),), service=ONE, clients=3)
    one, other = (simulate(scenario, candidate) for candidate in (NONE, candidate_from("timeout", Timeout(0.1))))

    assert sorted(one.begins) == sorted(other.begins)


def test_each_client_has_a_state_of_its_own_and_no_run_knows_of_another() -> None:
    """Each of ten clients has its own circuit; the original pipeline does not change."""
    breaker = CircuitBreaker(fail_max=1, break_duration=60)
    pattern = Pipeline(breaker)
    scenario = Scenario(duration=1, loads=(Burst(calls=100, spread=1.0),), clients=10, faults=(Errors(),))
    for _ in range(2):
        assert len(simulate(scenario, candidate_from("breaker", pattern)).sent) == 10
    assert breaker.state == "closed"
    shared = Candidate("shared", lambda: pattern)
    assert len(simulate(scenario, shared).sent) == 1


def test_fresh_pipelines_keep_their_settings_and_share_what_was_shared() -> None:
    """The shared budget of two policies becomes one shared new budget."""
    budget = Budget(0.5, cap=3)
    pattern = Pipeline(Retry(5, wait=0.5, budget=budget), Pipeline(Hedge(0.1, budget=budget), Timeout(2, name="inner")))
    made = candidate_from("nested", pattern).make()

    assert isinstance(made, Pipeline)
    outer, inner = made.policies
    assert isinstance(inner, Pipeline)
    assert made.describe() == pattern.describe()
    assert inner.policies[1].name == "inner"
    assert outer.budget is inner.policies[0].budget is not budget
    assert outer.budget is not None
    assert outer.budget.ratio == 0.5


def test_answers_of_a_fallback_are_counted_by_themselves() -> None:
    """They are not successes of the service."""
    assert live(ONE, (0.0,), Fallback(None), faults=(Errors(),)) == [(0.0, 1.0, "stood in")]


def test_watcher_is_given_every_pipeline() -> None:
    """`watch` is called with the pipeline of each client, for example to listen to it."""
    seen: list[Any] = []
    events: list[Any] = []

    def watch(pipeline: Pipeline) -> None:
        seen.append(pipeline)
        pipeline.listen(events.append)

    scenario = Scenario(duration=1, loads=(Burst(calls=4, spread=0.5),), clients=2, faults=(Errors(),))
    simulate(scenario, candidate_from("shadow", CircuitBreaker(fail_max=1, shadow=True)), watch=watch)

    assert len(seen) == 2
    assert any(getattr(event, "shadow", False) for event in events)


@pytest.mark.parametrize(
    "gate",
    [
        lambda: Bulkhead(7, queue=5, queue_timeout=0.05),
        lambda: RateLimit(70, burst=5, max_wait=0.1),
        lambda: Keyed(lambda: Bulkhead(2, queue=3), key=lambda key: key),
    ],
)
def test_shadow_mode_counts_what_the_acting_pipeline_does(gate: Any) -> None:
    """The same calls give the same counts if the service takes the same time for all."""
    scenario = Scenario(duration=20, loads=(Poisson(90),), keys=4, service=ServicePlan(service_time=Constant(0.1)))
    acting = candidate_from("acting", lambda: Pipeline(gate()))
    run = simulate(scenario, acting)
    refused = sum(name not in ("success", "unfinished") for name in (run.names[number] for number in run.outcomes))
    report = ShadowReport()
    simulate(scenario, shadowed(acting), watch=report.listen_to)
    (done,) = report.policies.values()
    assert 0 < refused == done.refused


def test_pipeline_that_does_not_fit_is_told_of_in_a_line() -> None:
    """Its key function needs an attribute that a key does not have."""
    keyed = Keyed(CircuitBreaker, key=lambda request: request.url)

    with pytest.raises(CandidateError, match=r"^theirs: its classifier, a key or a strategy raised AttributeError: "):
        simulate(Scenario(duration=1, loads=(Burst(calls=1),)), candidate_from("theirs", keyed))


def test_pipeline_that_does_real_io_is_told_of_in_a_line() -> None:
    """The run ends even if a policy would have handled the error."""

    def theirs(function: Any) -> Any:
        async def call(key: str) -> Any:
            await asyncio.to_thread(print)
            return await function(key)

        return Fallback("cached")(call)

    with pytest.raises(CandidateError, match=r"^theirs: virtual time has no threads \(run_in_executor\).*theirs.*$"):
        simulate(Scenario(duration=1, loads=(Burst(calls=1),)), candidate_from("theirs", lambda: theirs))


def test_pipeline_that_never_ends_is_told_of_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends request after request while virtual time stands still."""
    monkeypatch.setattr("resilient.runtime.virtual.STEPS", 10_000)
    monkeypatch.setattr("resilient.lab.event_loop.STEPS", 10_000)

    def theirs(function: Any) -> Any:
        async def call(key: str) -> Any:
            for _ in itertools.count():
                await asyncio.sleep(0)

        return call

    with pytest.raises(CandidateError, match=r"^theirs: the clock has stood still for 10,000 steps.*wait$"):
        simulate(Scenario(duration=1, loads=(Burst(calls=1),)), candidate_from("theirs", lambda: theirs))


@pytest.mark.parametrize("error", [RuntimeError("no\nhost"), MemoryError(), SystemExit(3)])
def test_whatever_ends_a_run_is_told_in_a_line(error: BaseException) -> None:
    """The line has the candidate, and the place in the code that raised the error."""

    def make() -> Pipeline:
        raise error

    with pytest.raises(CandidateError) as raised:
        simulate(Scenario(duration=1, loads=(Burst(1),)), Candidate("mine", make))
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    assert str(raised.value).startswith(f"mine: the run ended with {said} (")
    assert re.search(r"test_world\.py, line \d+\)$", str(raised.value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"duration": 1e8}, "duration must be at most 10,000,000 seconds, got 100000000.0"),
        ({"drain": 1e8}, "drain must be at most 10,000,000 seconds"),
    ],
)
def test_world_has_an_end(arguments: dict[str, float], message: str) -> None:
    """The duration of a world is limited, so that sums of seconds stay exact."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Scenario(**{"duration": 10.0, "loads": (Burst(1),), **arguments})


def test_samples_tell_of_circuits_and_budgets() -> None:
    """While all calls fail, circuits are open and budgets are empty."""
    scenario = Scenario(duration=60, loads=(Poisson(100),), faults=(Errors(start=20, end=40),))
    run = simulate(scenario, candidate_from("standard", standard()))
    shares = {sample.at: (sample.open, sample.tokens) for sample in run.samples}

    assert shares[15.0][0] == 0
    assert shares[15.0][1] > 5  # type: ignore[operator]
    assert shares[30.0][0] == 1
    assert shares[30.0][1] < 2  # type: ignore[operator]


def test_deadline_of_the_user_travels() -> None:
    """A deadline that the user sets inside a decorator of another library reaches the server."""
    drops = ServicePlan(service_time=Constant(1.0), workers=1, drop_expired=True)

    def hurried() -> Any:
        def decorate(function: Any) -> Any:
            guarded = Retry(1)(function)

            async def call(key: str) -> Any:
                with deadline(0.5):
                    return await guarded(key)

            return call

        return decorate

    run = simulate(Scenario(duration=9, loads=(Replay((0.0, 0.1)),), service=drops), Candidate("hurried", hurried))
    assert [outcome for _, _, outcome in calls(run)] == ["TimedOut", "TimedOut"]
