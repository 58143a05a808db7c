"""Retries and hedges with a budget: what one pays for, who shares it, and what a fleet of clients then sends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import Budget, CircuitBreaker, Classifier, Fallback, Hedge, Pipeline, Retry, TimedOut, Timeout
from resilient.events import BudgetExhausted, GaveUp, Retrying
from resilient.runtime import virtual
from tests.worlds import Slow, World


def successes(budget: Budget, number: int) -> None:
    for _ in range(number):
        budget.earn()


def empty() -> Budget:
    return Budget(reserve=0)


# -- a retry --------------------------------------------------------------------------------------------------------


def test_retry_is_paid_for(world: World) -> None:
    """Each further attempt takes one token."""
    budget = Budget(reserve=5)
    dependency = world.dependency(OSError(), OSError(), 7)
    assert world.call(Retry(3, wait=0, budget=budget)(dependency.fn)) == 7
    assert budget.spent == 2


def test_retry_without_a_token_ends_with_the_last_real_error(world: World) -> None:
    """The first attempt is always made; without a token its error comes back with a note of the reason."""
    budget = Budget(reserve=1)
    first, second = OSError("first"), OSError("second")
    dependency = world.dependency(first, second)
    error = world.outcome(Pipeline(Retry(5, wait=0, budget=budget), name="users")(dependency.fn)).error
    assert error is second
    assert error.__notes__ == [
        "resilient: pipeline 'users' gave up after 2 attempts: the budget for extra requests is exhausted"
    ]
    assert (budget.spent, budget.refused) == (1, 1)


def test_retry_without_a_token_ends_with_the_last_result(world: World) -> None:
    """Without a token, a result that was judged a failure comes back."""
    judge = Classifier(results=lambda result: result == "bad")
    pipeline = Pipeline(Retry(5, wait=0, budget=empty()), classify=judge)
    assert world.call(pipeline(world.dependency("bad").fn)) == "bad"


def test_exhausted_budget_is_told_of(world: World) -> None:
    """BudgetExhausted is emitted, then GaveUp, and no Retrying."""
    pipeline = Pipeline(Retry(5, wait=0, budget=empty(), name="patience"), name="users")
    heard: list[Any] = []
    pipeline.listen(heard.append)
    world.outcome(pipeline(world.dependency(OSError()).fn))
    exhausted, gave_up, _ = heard[-3:]
    assert type(exhausted) is BudgetExhausted
    assert (exhausted.pipeline, exhausted.policy, exhausted.what) == ("users", "patience", "retry")
    assert type(gave_up) is GaveUp
    assert gave_up.reason == "the budget for extra requests is exhausted"
    assert not any(type(event) is Retrying for event in heard)


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_what_ends_retries_anyway_spends_nothing(world: World) -> None:
    """No token is taken after the last attempt, for an error not worth repeating, or for a wait that would outlive the
    deadline."""
    budget = Budget(reserve=5)
    world.outcome(Retry(1, budget=budget)(world.dependency(OSError()).fn))
    world.outcome(Retry(3, budget=budget)(world.dependency(TypeError()).fn))
    world.outcome(Pipeline(Timeout(1), Retry(3, wait=5, budget=budget))(world.dependency(OSError()).fn))
    assert (budget.spent, budget.refused) == (0, 0)


def test_shadow_spends_nothing(world: World) -> None:
    """In shadow mode nothing is repeated, and no token is taken."""
    budget = Budget(reserve=5)
    world.outcome(Retry(3, wait=0, budget=budget, shadow=True)(world.dependency(OSError()).fn))
    assert budget.spent == 0


def test_snapshot_of_a_retry_has_its_budgets() -> None:
    """The snapshot of a Retry has that of its budget."""
    budget = Budget()
    assert Retry(budget=budget).snapshot() == {"retried": 0, "budget": budget.snapshot()}


# -- what earns -----------------------------------------------------------------------------------------------------


def test_call_that_succeeds_earns(world: World) -> None:
    """A call that succeeds earns a tenth of a token."""
    budget = empty()
    world.call(Retry(budget=budget)(world.dependency(7).fn))
    assert budget.balance(0.0) == pytest.approx(0.1)


def test_call_that_fails_earns_nothing(world: World) -> None:
    """A call that fails earns nothing, however many attempts it took."""
    budget = Budget(reserve=1, ratio=0.5)
    world.outcome(Retry(3, wait=0, budget=budget)(world.dependency(OSError(), OSError()).fn))
    assert budget.balance(0.0) == pytest.approx(0)


def test_results_that_are_judged_failures_earn_nothing(world: World) -> None:
    """Only results that are judged successes earn."""
    budget = empty()
    pipeline = Pipeline(
        Retry(1, budget=budget),
        Hedge(1, thread=True, budget=budget),
        classify=Classifier(results=lambda result: not result),
    )
    fn = pipeline(world.dependency(0, 0, 1).fn)
    for _ in range(3):
        world.call(fn)
    assert budget.balance(0.0) == pytest.approx(0.1)


def test_success_is_counted_once_where_retry_and_hedge_share_a_budget(world: World) -> None:
    """One call earns once, although two policies of its pipeline have the budget."""
    budget = empty()
    world.call(Pipeline(Retry(budget=budget), Hedge(5, thread=True, budget=budget))(world.dependency(7).fn))
    assert budget.balance(0.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "nest",
    [
        lambda retry, hedge: [Pipeline(retry, hedge)],
        lambda retry, hedge: [retry, Pipeline(hedge)],
        lambda retry, hedge: [Pipeline(Pipeline(retry, hedge))],
    ],
    ids=["inner", "both", "deep"],
)
def test_success_is_counted_once_in_nested_pipelines(world: World, nest: Callable[..., list[Any]]) -> None:
    """One call earns once, wherever in nested pipelines the policies with the budget stand."""
    budget = empty()
    inside = nest(Retry(budget=budget), Hedge(5, thread=True, budget=budget))
    world.call(Pipeline(Timeout(60), *inside)(world.dependency(7).fn))
    assert budget.balance(0.0) == pytest.approx(0.1)


def test_block_that_succeeds_earns() -> None:
    """A block that succeeds earns as a call does."""
    budget = empty()
    for attempt in Pipeline(Retry(budget=budget)).attempts():
        with attempt:
            pass
    assert budget.balance(0.0) == pytest.approx(0.1)


def test_success_under_a_deadline_earns(world: World) -> None:
    """A call that inherits a deadline takes the full path, and earns as well."""
    budget = empty()
    outer = Pipeline(Timeout(60), Retry(1))
    guarded = Retry(budget=budget)(world.dependency(7).fn)

    def call() -> Any:
        return guarded()

    async def call_async() -> Any:
        return await guarded()

    world.call(outer(call_async if world.is_async else call))
    assert budget.balance(0.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("outside", "judge"),
    [
        ([], None),
        ([], Classifier(results=lambda result: False)),
        ([Fallback(0)], None),
        ([Timeout(60)], None),
        ([Timeout(60), Fallback(0)], Classifier(results=lambda result: False)),
    ],
    ids=["alone", "results judged", "in a fallback", "in a timeout", "in both, results judged"],
)
@pytest.mark.parametrize("deadline", [False, True], ids=["", "under a deadline"])
def test_success_after_a_retry_earns_once(
    world: World, outside: list[Any], judge: Classifier | None, deadline: bool
) -> None:
    """A call earns once, at whichever attempt it succeeds."""
    budget = Budget(reserve=1, ratio=0.5)
    pipeline = Pipeline(*outside, Retry(2, wait=0, budget=budget), classify=judge)
    dependency = world.dependency(OSError(), 7)
    with resilient.deadline(60) if deadline and world.name != "virtual" else contextlib.nullcontext():
        assert world.call(pipeline(dependency.fn)) == 7
    assert budget.balance(0.0) == pytest.approx(0.5)


def test_block_that_succeeds_after_a_retry_earns() -> None:
    """A block that succeeds at its second attempt earns as a call does."""
    budget = Budget(reserve=1, ratio=0.5)
    for attempt in Pipeline(Retry(2, wait=0, budget=budget)).attempts():
        with attempt:
            if attempt.number == 1:
                raise OSError
    assert budget.balance(0.0) == pytest.approx(0.5)


RESULTS = Classifier(results=lambda result: result == "bad")


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.parametrize("judge", [None, RESULTS], ids=["errors", "results too"])
@pytest.mark.parametrize(
    "arrange",
    [
        lambda fallback, retry: [fallback, retry],
        lambda fallback, retry: [Timeout(60), fallback, retry],
        lambda fallback, retry: [retry, fallback],
        lambda fallback, retry: [retry, Pipeline(fallback)],
        lambda fallback, retry: [fallback, Pipeline(retry)],
        lambda fallback, retry: [retry, Timeout(60, thread=True), fallback],
        lambda fallback, retry: [retry, Hedge(60, thread=True), fallback],
    ],
    ids=["outside", "in a timeout", "inside", "nested inside", "nested outside", "in a thread", "in a copy"],
)
def test_fallbacks_earn_nothing(world: World, judge: Classifier | None, arrange: Callable[..., list[Any]]) -> None:
    """A substitute of a Fallback is no success of the dependency, wherever it stands; the next call's success is."""
    budget = empty()
    pipeline = Pipeline(*arrange(Fallback(0), Retry(1, budget=budget)), classify=judge)
    fn = pipeline(world.dependency(OSError(), 7).fn)
    assert world.call(fn) == 0
    assert budget.balance(0.0) == 0
    assert world.call(fn) == 7
    assert budget.balance(0.0) == pytest.approx(0.1)


def test_fallback_for_a_result_earns_nothing(world: World) -> None:
    """A substitute for a result that was judged a failure earns nothing."""
    budget = empty()
    pipeline = Pipeline(Fallback("good"), Retry(1, budget=budget), classify=RESULTS)
    assert world.call(pipeline(world.dependency("bad").fn)) == "good"
    assert budget.balance(0.0) == 0


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
def test_success_after_a_fallback_that_was_repeated_earns(world: World) -> None:
    """A call whose last attempt the dependency has answered earns, although an earlier one had a substitute."""
    budget = Budget(reserve=1, ratio=0.5)
    pipeline = Pipeline(Retry(2, wait=0, budget=budget), Fallback("bad"), classify=RESULTS)
    assert world.call(pipeline(world.dependency(OSError(), 7).fn)) == 7
    assert budget.balance(0.0) == pytest.approx(0.5)


# -- sharing --------------------------------------------------------------------------------------------------------


def test_two_pipelines_share_a_budget(world: World) -> None:
    """A token that one pipeline has taken is not there for the other."""
    budget = Budget(reserve=1)
    one, other = (Pipeline(Retry(2, wait=0, budget=budget)) for _ in range(2))
    assert world.call(one(world.dependency(OSError(), 7).fn)) == 7
    assert isinstance(world.outcome(other(world.dependency(OSError()).fn)).error, OSError)


def test_success_of_one_pipeline_pays_for_the_retry_of_another(world: World) -> None:
    """Successes of one pipeline earn tokens for the Retry of the other."""
    budget = Budget(1.0, reserve=0)
    world.call(Retry(budget=budget)(world.dependency(7).fn))
    assert world.call(Retry(2, wait=0, budget=budget)(world.dependency(OSError(), 8).fn)) == 8


def test_retry_and_hedge_of_one_pipeline_share_a_budget(world: World) -> None:
    """The hedge's copy takes the token that the Retry would have needed."""
    budget = Budget(reserve=1)
    pipeline = Pipeline(Retry(2, wait=0, budget=budget), Hedge(5, thread=True, budget=budget))
    dependency = world.dependency(OSError(), OSError())
    assert isinstance(world.outcome(pipeline(dependency.fn)).error, OSError)
    assert len(dependency.calls) == 2
    assert (budget.spent, budget.refused) == (1, 1)


def test_hedge_without_a_token_leaves_what_is_running_alone(world: World) -> None:
    """Without a token, the running copy goes on and its result comes back."""
    budget = empty()
    pipeline = Pipeline(Hedge(0.005, thread=True, budget=budget, name="haste"), name="users")
    heard: list[Any] = []
    pipeline.listen(heard.append)
    dependency = world.dependency(Slow(0.03, 7))
    assert world.call(pipeline(dependency.fn)) == 7
    assert len(dependency.calls) == 1
    (event,) = (event for event in heard if type(event) is BudgetExhausted)
    assert (event.pipeline, event.policy, event.what) == ("users", "haste", "hedge")


def test_hedge_that_fails_without_a_token_ends_with_its_error(world: World) -> None:
    """Without a token, a copy's failure comes back, and no second copy starts."""
    error = OSError()
    pipeline = Pipeline(Hedge(5, copies=3, thread=True, budget=empty()))
    assert world.outcome(pipeline(world.dependency(error).fn)).error is error


def test_eight_threads_never_send_more_than_was_earned() -> None:
    """Eight pipelines in eight threads share one budget, and repeat no more calls than it has earned."""
    budget = Budget(0.1, reserve=1, cap=1000, ttl=1e9)
    calls, threads = 600, 8
    sent = [0] * threads
    begin = threading.Barrier(threads)

    def work(number: int) -> None:
        draw = random.Random(number)

        @Retry(4, wait=0, budget=budget)
        def fetch() -> None:
            sent[number] += 1
            if draw.random() < 0.3:
                raise OSError

        begin.wait()
        for _ in range(calls):
            try:
                fetch()
            except OSError:
                pass

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    extra = sum(sent) - calls * threads
    assert extra == budget.spent
    assert 0.05 * calls * threads < extra <= 1 + 0.1 * calls * threads
    assert budget.refused > 0


# -- fleets, in virtual time ----------------------------------------------------------------------------------------


async def fleet(
    clients: int,
    requests: int,
    rate: float,
    failing: float,
    make: Callable[[], Pipeline],
    *,
    warm: int = 0,
    seed: int = 1,
) -> tuple[float, float]:
    """Attempts per request, and the share of requests that succeed: `clients` each with a pipeline of its own, Poisson
    `rate` a second each, after `warm` that succeed. An attempt fails with probability `failing`, whatever the load."""
    draw = random.Random(seed)
    attempts = successful = 0

    async def serve() -> None:
        nonlocal attempts
        attempts += 1
        if draw.random() < failing:
            raise OSError

    async def client() -> None:
        nonlocal successful
        guard = make()

        @guard
        async def work() -> None: ...

        for _ in range(warm):
            await asyncio.sleep(draw.expovariate(rate))
            await work()
        fetch = guard(serve)
        for _ in range(requests):
            await asyncio.sleep(draw.expovariate(rate))
            try:
                await fetch()
                successful += 1
            except OSError:
                pass

    await asyncio.gather(*(client() for _ in range(clients)))
    return attempts / (clients * requests), successful / (clients * requests)


def bucket() -> Pipeline:
    """Brooker's token bucket: a tenth of a token for each success, at most 5, and full at first; three retries."""
    return Pipeline(Retry(4, wait=0, budget=Budget(0.1, reserve=5, cap=5)))


@pytest.mark.parametrize(
    ("failing", "most", "least_success"),
    [(0.0, 1.0, 1.0), (0.05, 1.07, 0.999), (0.3, 1.15, 0.75), (0.5, 1.15, 0.5), (1.0, 1.11, 0.0)],
)
def test_bucket_of_a_tenth_bounds_retries_and_hides_rare_failures(
    failing: float, most: float, least_success: float
) -> None:
    """The result of M. Brooker's simulation (Fixing retries with token buckets and circuit breakers): 100 clients, 10
    requests a second each."""
    attempts, success = virtual.run(fleet(100, 100, 10.0, failing, bucket))
    assert attempts <= most
    assert success >= least_success


def test_default_budget_hides_rare_failures_once_it_is_warm() -> None:
    """Ten seconds of ten requests each warm it up; total failure then costs the saved tokens, once."""
    attempts, success = virtual.run(
        fleet(50, 100, 10.0, 0.05, lambda: Pipeline(Retry(4, wait=0, budget=Budget())), warm=100)
    )
    assert attempts <= 1.07
    assert success >= 0.999
    attempts, _ = virtual.run(fleet(50, 100, 10.0, 1.0, lambda: Pipeline(Retry(4, wait=0, budget=Budget())), warm=100))
    assert 1.01 < attempts <= 1.1


def test_retries_without_a_budget_multiply_an_outage() -> None:
    """Without a budget, an outage multiplies the requests by four."""
    attempts, _ = virtual.run(fleet(10, 20, 10.0, 1.0, lambda: Pipeline(Retry(4, wait=0))))
    assert attempts == 4.0


def test_thousand_new_clients_in_an_outage_send_one_request_more_each() -> None:
    """In total failure no client sends more further requests than its reserve, however long it lasts."""
    attempts, success = virtual.run(
        fleet(1000, 10, 0.1, 1.0, lambda: Pipeline(Retry(4, wait=0, budget=Budget())), seed=2)
    )
    assert success == 0
    assert attempts == 1 + 1 / 10


@pytest.mark.virtual_time
async def test_savings_of_good_times_do_not_feed_an_outage_for_long() -> None:
    """After an hour of success at 100 a second, total failure costs the cap of the budget, once."""
    budget = Budget()
    down = False
    attempts = 0

    @Retry(4, wait=0, budget=budget)
    async def fetch() -> None:
        nonlocal attempts
        attempts += 1
        if down:
            raise OSError

    for _ in range(1000):
        await asyncio.sleep(3.6)
        await fetch()
    down, attempts = True, 0
    for _ in range(200):
        await asyncio.sleep(0.01)
        with pytest.raises(OSError):
            await fetch()
    assert 200 + 1 <= attempts <= 200 + 10


@pytest.mark.virtual_time
async def test_retries_come_back_when_the_dependency_does() -> None:
    """Ten successes pay for the next retry."""
    budget = Budget()
    script: list[Any] = []

    @Retry(2, wait=0, budget=budget)
    async def fetch() -> Any:
        outcome = script.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    script += [OSError(), OSError(), OSError()]  # the reserve, and a call without a token
    for _ in range(2):
        with pytest.raises(OSError):
            await fetch()
    script += [1] * 10 + [OSError(), 7]
    for _ in range(10):
        await fetch()
    assert await fetch() == 7


@pytest.mark.virtual_time
async def test_breaker_behind_a_budgeted_retry_sees_every_attempt() -> None:
    """A breaker inside counts each attempt that is sent."""
    breaker = CircuitBreaker(fail_max=3, failure_rate=None)
    pipeline = Pipeline(Retry(4, wait=0, budget=Budget(reserve=1)), breaker, Timeout(1))

    @pipeline
    async def fetch() -> None:
        await asyncio.sleep(5)

    with pytest.raises(TimedOut):
        await fetch()
    assert breaker.fail_counter == 2
    with pytest.raises(TimedOut):
        await fetch()
    assert breaker.state == "open"
