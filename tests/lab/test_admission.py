"""Policies in front of a server of a world: what they refuse, what they see, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Keyed,
    Pipeline,
    RateLimit,
    Retry,
    Timeout,
    current_priority,
    priority,
    quantile,
    remaining,
)
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.faults import Crash, Errors, Stall
from resilient.lab.candidates import NONE, Candidate, candidate_from
from resilient.lab.distributions import Constant, Exponential, Uniform
from resilient.lab.load import Closed, Poisson, Replay
from resilient.lab.measures import Measures
from resilient.lab.scenario_file import ScenarioError, scenario_from
from resilient.lab.service import Link, ServicePlan
from resilient.lab.world import Run, Scenario, simulate
from resilient.limiters import Vegas
from resilient.server.asgi import ServerMiddleware


def plan(admission: Any, **more: Any) -> ServicePlan:
    """A service with one worker that takes a second for each request."""
    return ServicePlan(service_time=Constant(1.0), workers=1, admission=admission, **more)


def live(service: ServicePlan, moments: tuple[float, ...], candidate: Candidate = NONE, **more: Any) -> Run:
    return simulate(Scenario(duration=100, loads=(Replay(moments),), service=service, **more), candidate)


def calls(run: Run) -> list[tuple[float, float, str]]:
    """Start, end and outcome of each call, in the order of their starts."""
    ended = zip(run.begins, run.ends, run.outcomes, strict=True)
    return sorted((round(begin, 6), round(end, 6), run.names[outcome]) for begin, end, outcome in ended)


class Seen(Gate):
    """A policy that admits every call and records the calls."""

    facts = Facts(learns=True)

    def __init__(self, told: list[Any]) -> None:
        super().__init__()
        self.told = told

    def admit(self, call: Any) -> object:
        self.told.append((call.args[0], current_priority(), remaining()))
        return self

    def settle(self, ticket: object, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        self.told.append((failed, round(elapsed, 6)))

    def release(self, ticket: object) -> None:
        self.told.append("released")


def test_refused_calls_are_told_at_once_and_cost_no_worker() -> None:
    """Of four calls that come while one is executed, two find no place: they get a 503, and the workers never see
    them."""
    run = live(plan(lambda: Bulkhead(2)), (0.0, 0.1, 0.2, 0.3))

    assert calls(run) == [
        (0.0, 1.0, "success"),
        (0.1, 2.0, "success"),
        (0.2, 0.2, "ServiceError"),
        (0.3, 0.3, "ServiceError"),
    ]
    assert run.executed == 2


def test_refusal_says_when_to_come_back() -> None:
    """A client's Retry respects the `retry_after` of the server's rate limit, in whole seconds."""
    run = live(plan(lambda: RateLimit(0.5, burst=1)), (0.0, 0.5), candidate_from("retry", Retry(2, wait=0)))

    assert calls(run) == [(0.0, 1.0, "success"), (0.5, 3.5, "success")]


def test_policy_sees_the_time_in_the_queue_and_in_work() -> None:
    """The duration of the second call is half a second in the queue, and one second of work."""
    told: list[Any] = []
    live(plan(lambda: Seen(told)), (0.0, 0.5))

    assert [each for each in told if isinstance(each[0], bool)] == [(False, 1.0), (False, 1.5)]


def test_pipeline_judges_errors_of_the_work_and_the_client_has_them() -> None:
    """A breaker at the server opens after the second error, and refuses the third call."""
    breaker = plan(lambda: Pipeline(CircuitBreaker(fail_max=2)))
    run = live(breaker, (0.0, 2.0, 4.0), faults=(Errors(error="OSError"),))

    assert [outcome for _, _, outcome in calls(run)] == ["OSError", "OSError", "ServiceError"]


def test_single_gate_learns_nothing_of_errors_of_the_work() -> None:
    """A single gate ignores errors of the work, as in the middleware."""
    told: list[Any] = []
    run = live(plan(lambda: Seen(told)), (0.0,), faults=(Errors(error="OSError"),))

    assert told[1:] == ["released"]
    assert [outcome for _, _, outcome in calls(run)] == ["OSError"]


def test_each_server_has_policies_of_its_own_with_the_settings_of_the_pattern() -> None:
    """With a pattern of one permit, each of two shards has one permit."""
    pattern = Pipeline(Bulkhead(1))
    service = plan(pattern, servers=2, balance="key")
    scenario = Scenario(
        duration=9, loads=(Replay((0.0, 0.1, 0.2, 0.3), ("1", "2", "1", "2")),), service=service, keys=2
    )
    run = simulate(scenario, NONE)

    assert [outcome for _, _, outcome in calls(run)] == ["success", "success", "ServiceError", "ServiceError"]
    assert pattern.snapshot()["policies"][0]["in_use"] == 0


def test_keyed_policies_see_the_key() -> None:
    """A `Keyed` gives each tenant one permit."""
    keyed = Keyed(lambda: Bulkhead(1), key=lambda key: key)
    service = ServicePlan(service_time=Constant(1.0), admission=keyed)
    run = simulate(
        Scenario(duration=9, loads=(Replay((0.0, 0.1, 0.2), ("1", "2", "1")),), service=service, keys=2), NONE
    )

    assert [outcome for _, _, outcome in calls(run)] == ["success", "success", "ServiceError"]


def test_crash_resets_the_policies() -> None:
    """After a crash no call is inside, all permits are free, and an open circuit is closed."""
    service = plan(lambda: Pipeline(Bulkhead(1, queue=1), CircuitBreaker(fail_max=1, break_duration=60)))
    run = live(service, (0.0, 1.2, 1.5, 1.6, 4.0), faults=(Errors(end=1.0), Crash(start=2.0, end=3.0)))

    assert calls(run) == [
        (0.0, 1.0, "ServiceError"),
        (1.2, 1.2, "ServiceError"),
        (1.5, 1.5, "ServiceError"),
        (1.6, 1.6, "ServiceError"),
        (4.0, 5.0, "success"),
    ]


def test_crash_resets_what_waits_for_admission_too() -> None:
    """A crash resets the call that is executed, and the one in the policy's queue."""
    run = live(plan(lambda: Bulkhead(1, queue=1)), (0.0, 0.1, 2.0), faults=(Crash(start=0.5, end=1.5),))

    assert calls(run) == [
        (0.0, 0.5, "ConnectionResetError"),
        (0.1, 0.5, "ConnectionResetError"),
        (2.0, 3.0, "success"),
    ]


def test_timeout_at_the_server_frees_its_worker() -> None:
    """A Timeout at the server ends the work, unlike a client that gives up; the answer is 504."""
    run = live(plan(lambda: Timeout(0.5)), (0.0, 0.1))

    assert calls(run) == [(0.0, 0.5, "ServiceError"), (0.1, 0.6, "ServiceError")]
    assert run.executed == 0


def test_cancelled_request_gives_its_permit_back() -> None:
    """A cancelled request releases its permit, if the server learns of it."""
    service = plan(lambda: Bulkhead(1), abandoned="cancelled")
    run = live(service, (0.0, 0.7), candidate_from("impatient", Timeout(0.5)))

    assert calls(run) == [(0.0, 0.5, "TimedOut"), (0.7, 1.2, "TimedOut")]
    untold = live(plan(lambda: Bulkhead(1)), (0.0, 0.7), candidate_from("impatient", Timeout(0.5)))
    assert calls(untold)[1] == (0.7, 0.7, "ServiceError")


def test_nothing_of_a_client_reaches_the_server_but_its_priority() -> None:
    """A server gets the priority of a call, but not its deadline unless it respects deadlines."""
    told: list[Any] = []

    def important() -> Any:
        def decorate(function: Any) -> Any:
            guarded = Timeout(5)(Timeout(3)(function))

            async def call(key: str) -> Any:
                with priority("critical"):
                    return await guarded(key)

            return call

        return decorate

    live(plan(lambda: Seen(told)), (0.0,), Candidate("important", important))

    assert told == [("1", "critical", None), (False, 1.0)]


def test_deadline_that_travels_bounds_the_queue_of_the_policy() -> None:
    """The second call waits for admission as long as its client waits, and no worker sees a call that was given up."""
    told: list[Any] = []
    service = plan(lambda: Pipeline(Bulkhead(1, queue=5), Seen(told)), drop_expired=True)
    stalled = (Stall(start=0.0, end=3.0),)
    run = live(service, (0.1, 0.2, 4.0), candidate_from("impatient", Timeout(1.5)), faults=stalled)

    assert [outcome for _, _, outcome in calls(run)] == ["TimedOut", "TimedOut", "success"]
    assert run.executed == 1
    assert told[0] == ("1", "normal", pytest.approx(1.5))


def test_expired_request_is_refused_on_arrival() -> None:
    """The network takes longer than the client waits, so the policy never sees the request."""
    told: list[Any] = []
    service = plan(lambda: Seen(told), drop_expired=True, link=Link(latency=Constant(0.5)))
    run = live(service, (0.0,), candidate_from("quick", Timeout(0.4)))

    assert (told, run.executed) == ([], 0)


@pytest.mark.parametrize("wrong", [5, Bulkhead, lambda: 5])
def test_what_is_no_policy_is_refused_when_the_plan_is_made(wrong: Any) -> None:
    """A plan refuses an admission that is no policy, in one line."""
    with pytest.raises(TypeError, match="admission must"):
        plan(wrong)


def test_two_runs_of_a_seed_are_the_same_with_admission() -> None:
    """Every call of two runs with the same seed is the same."""
    service = ServicePlan(service_time=Exponential(0.1), workers=10, admission=lambda: Bulkhead(15, queue=10))
    scenario = Scenario(duration=20, loads=(Poisson(120),), service=service, clients=5)
    one, two = (simulate(scenario, candidate_from("t", Pipeline(Retry(3), Timeout(1))), 3) for _ in range(2))

    assert (one.begins, one.ends, one.outcomes) == (two.begins, two.ends, two.outcomes)
    assert len(one.names) > 3


def test_candidate_may_bring_its_own_admission_and_tell_no_deadlines() -> None:
    """A candidate's admission replaces that of the service; without its deadlines a server drops nothing."""
    service = plan(lambda: Bulkhead(1), drop_expired=True)
    moments, impatient = (0.0, 0.1, 9.0), candidate_from("impatient", Timeout(0.5))

    untold = replace(impatient, deadline_header=False)

    assert live(service, moments, impatient).executed == 0
    assert live(service, moments, untold).executed == 1
    assert live(service, moments, replace(untold, admission=lambda: Bulkhead(2))).executed == 2


def test_clients_and_runs_share_no_limit_and_no_histogram() -> None:
    """Each client has its own limit with the same settings; the pattern's limiter does not change."""
    pattern = Pipeline(Hedge(delay=quantile(0.9)), AdaptiveLimit(5, limiter=lambda: Vegas(window=0.5)))
    candidate = candidate_from("adaptive", pattern)
    (one_hedge, one), (other_hedge, other) = (candidate.make().policies for _ in range(2))  # type: ignore[union-attr]

    assert one.limiter is not other.limiter is not pattern.policies[1].limiter  # type: ignore[attr-defined]
    assert one_hedge._observed is not other_hedge._observed  # type: ignore[attr-defined]
    assert (one.describe(), one_hedge.describe()) == (pattern.policies[1].describe(), pattern.policies[0].describe())


def test_samples_tell_of_limits_and_observed_delays() -> None:
    """Samples have the limit that the servers have found, and the p90 of a service that takes 20 to 40 ms."""
    service = ServicePlan(service_time=Uniform(0.02, 0.04), workers=9, admission=lambda: AdaptiveLimit(4))
    scenario = Scenario(duration=40, loads=(Poisson(100),), service=service)
    run = simulate(scenario, candidate_from("hedge", Hedge(delay=quantile(0.9))))

    assert run.samples[0].limit == 4
    assert run.samples[0].hedge_delay is None
    assert run.samples[-1].limit != 4
    assert run.samples[-1].hedge_delay == pytest.approx(0.038, rel=0.1)
    mine = simulate(replace(scenario, service=ServicePlan()), candidate_from("mine", AdaptiveLimit(7)))
    assert mine.samples[0].limit == 7


def test_priority_of_a_load_reaches_the_limit_of_the_server() -> None:
    """Sheddable calls are refused while critical ones are admitted, and both are measured."""
    service = ServicePlan(
        service_time=Exponential(0.1), workers=10, admission=lambda: AdaptiveLimit(10, min_limit=10, max_limit=10)
    )
    loads = (Poisson(50, priority="critical"), Closed(users=50, think=Constant(0.1), priority="sheddable"))
    measures = Measures([simulate(Scenario(duration=30, loads=loads, service=service, clients=5), NONE)])
    critical, sheddable = measures.classes["critical"].success, measures.classes["sheddable"].success

    assert list(measures.classes) == ["critical", "sheddable"]
    assert critical > 0.9
    assert sheddable < 0.5
    assert measures.as_json()["priorities"]["critical"]["success"] == round(critical, 6)
    assert sum(each.calls for each in measures.classes.values()) == measures.calls
    assert min(share for share in measures.course("critical") if share is not None) > sheddable


def test_calls_of_one_class_are_not_told_apart() -> None:
    """With one priority there is nothing to compare."""
    measures = Measures([live(plan(lambda: Bulkhead(1)), (0.0,))])

    assert measures.classes == {}
    assert "priorities" not in measures.as_json()


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers nothing."""


def test_middleware_of_production_is_in_front_of_each_server() -> None:
    """Each server has the gate and the `max_deadline` of the middleware, and the gate learns from that limit."""
    middleware = ServerMiddleware(nothing, limit=Bulkhead(2), max_deadline=1.5)
    run = live(plan(middleware), (0.0, 0.1, 0.2, 3.0))

    assert calls(run) == [
        (0.0, 1.0, "success"),
        (0.1, 1.6, "ServiceError"),  # it would have ended at 2
        (0.2, 0.2, "ServiceError"),
        (3.0, 4.0, "success"),
    ]
    assert run.executed == 2


def test_middleware_is_a_candidate_by_itself() -> None:
    """A middleware as a candidate leaves the calls unguarded, and is in front of each server."""
    middleware = candidate_from("server", ServerMiddleware(nothing, limit=Bulkhead(1)))

    assert [outcome for _, _, outcome in calls(live(plan(None), (0.0, 0.1), middleware))] == ["success", "ServiceError"]


@pytest.mark.parametrize("imports", [True, False])
def test_admission_of_a_file_may_be_imported(imports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may import a middleware, a gate, a pipeline, or a function that makes one, for the service or for one
    candidate, if imports are allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "servers_of_a_test.py").write_text(
        "from resilient import Bulkhead, Pipeline\nfrom resilient.server.asgi import ServerMiddleware\n"
        "async def app(scope, receive, send): ...\n"
        "server = ServerMiddleware(app, limit=Bulkhead(3))\ngate = Bulkhead(4)\n"
        "def make(): return Pipeline(Bulkhead(5))\n"
    )
    for name, size in (("server", 3), ("gate", 4), ("make", 5)):
        given = {"import": f"servers_of_a_test:{name}"}
        world: dict[str, Any] = {
            "duration": 1,
            "load": {"kind": "burst", "calls": 9},
            "service": {"service_time": 0.5, "admission": given},
            "pipelines": {"a": {"preset": "standard", "admission": given}, "b": {"import": given["import"]}},
        }
        if not imports:
            with pytest.raises(ScenarioError, match=r"^service.admission.import names code"):
                scenario_from(world)
            continue
        read = scenario_from(world, imports=True)
        assert [outcome for _, _, outcome in calls(simulate(read, NONE))].count("success") == size
        assert read.candidates["a"].admission is not None
        assert (read.candidates["b"].admission is None) == (name != "server")
