"""The worst case of a pipeline, from its settings alone."""

from __future__ import annotations

import math
import warnings
from typing import Any

import httpx
import pytest

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Classifier,
    Fallback,
    FullJitter,
    Hedge,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Rejected,
    Retry,
    Timeout,
    quantile,
    standard,
)
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.gate import Gate
from resilient.core.layer import Layer
from resilient.core.policy import Wrap
from resilient.core.worst_case import Bound, InnerCost, Surroundings, WorstCase
from resilient.explain import Explanation, Route, explain
from resilient.faults import Errors, Latency
from resilient.http.httpx import AsyncChaosTransport, AsyncTransport

INFINITE = Bound(math.inf, math.inf)


def of(*policies: Any, classify: Classifier | None = None, **options: Any) -> Explanation:
    """The explanation of a pipeline of these policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return explain(Pipeline(*policies, classify=classify), **options)


def exactly(value: float) -> Bound:
    """An exact worst case."""
    return Bound(value, value)


# -- latency --------------------------------------------------------------------------------------------------------


def test_without_a_timeout_nothing_bounds_a_call() -> None:
    """The explanation has the reason."""
    worst = of(Retry(3)).worst
    assert worst.seconds == INFINITE
    assert worst.why == "nothing ends the function: there is no Timeout"


def test_timeout_bounds_a_call() -> None:
    """The bound is exact, because the dependency may hang."""
    assert of(Timeout(2)).worst.seconds == exactly(2)


def test_attempts_and_the_waits_between_them_add_up() -> None:
    """Three times 2 s, twice 1 s, and twice the pause that the dependency may ask for."""
    worst = of(Retry(3, wait=1, max_retry_after=5), Timeout(2)).worst
    assert worst.seconds == exactly(3 * 2 + 2 * 1 + 2 * 5)
    assert worst.why == "3 attempts of 2 s, waits of 2 s, and the pauses asked for, 2 of up to 5 s"


def test_jitter_counts_with_its_longest_draws() -> None:
    """The longest default pauses are 0.1 s and 0.2 s."""
    seconds = of(Retry(3, max_retry_after=0), Timeout(2)).worst.seconds
    assert seconds.exact
    assert seconds.most == pytest.approx(6.3)


def test_total_ends_what_would_take_longer() -> None:
    """The total of the standard pipeline is shorter than 3 x 9 s and the requested pauses."""
    worst = explain(standard()).worst
    assert worst.seconds == exactly(30)
    assert worst.why == "Timeout(30 s) ends it"
    assert worst.requests == exactly(3)


def test_retry_whose_pause_outlives_the_total_makes_one_attempt() -> None:
    """A pause that would end after the deadline does not begin, so the total is never reached either."""
    worst = of(Timeout(10), Retry(3, wait=20), Timeout(2)).worst
    assert (worst.seconds, worst.attempts, worst.requests) == (exactly(2), exactly(1), exactly(1))


def test_pause_that_ends_at_the_very_deadline_leaves_a_bound() -> None:
    """Rounding decides whether there is another attempt."""
    assert of(Timeout(10), Retry(3, wait=5), Timeout(1)).worst.requests == Bound(2, 3)


def test_last_copy_of_a_hedge_begins_after_all_delays() -> None:
    """It begins so late only if no earlier copy fails."""
    worst = of(Hedge((1, 2)), Timeout(5)).worst
    assert (worst.seconds, worst.requests, worst.attempts) == (exactly(3 + 5), exactly(3), exactly(1))


def test_copy_that_fails_starts_the_next_at_once() -> None:
    """So a delay beyond the limit of the copy is never waited for."""
    assert of(Hedge(5), Timeout(2)).worst.seconds == exactly(2 + 2)


def test_queue_is_as_long_as_its_calls_take() -> None:
    """A hundred calls wait for five permits, of 2 s each."""
    assert of(Bulkhead(5, queue=100), Timeout(2)).worst.seconds == exactly(20 * 2 + 2)


def test_queue_timeout_bounds_the_wait() -> None:
    """A permit is released just before the queue timeout."""
    assert of(Bulkhead(5, queue=100, queue_timeout=3), Timeout(2)).worst.seconds == exactly(3 + 2)


def test_rate_limit_may_have_a_call_wait() -> None:
    """Other calls are in the queue before it."""
    assert of(RateLimit(10, max_wait=3), Timeout(2)).worst.seconds == exactly(3 + 2)


def test_fallback_that_asks_elsewhere_may_hang() -> None:
    """A Timeout inside the Fallback does not bound its function; one outside does."""

    async def elsewhere(error: Exception | None) -> str:
        return "elsewhere"

    worst = of(Fallback(call=elsewhere), Timeout(2)).worst
    assert worst.seconds == INFINITE
    assert "elsewhere, which answers instead" in worst.why
    assert of(Timeout(5), Fallback(call=elsewhere), Timeout(2)).worst.seconds == exactly(5)


def test_keyed_gates_cost_what_one_of_them_costs() -> None:
    """Each call uses only the gate of its key."""
    keyed = Keyed(lambda: Bulkhead(1, queue=1, queue_timeout=3), key=lambda: "k")
    assert of(keyed, Timeout(2)).worst.seconds == exactly(2 + 2)


def test_shadows_cost_nothing() -> None:
    """Policies in shadow mode neither wait nor repeat."""
    policies = (Retry(3, shadow=True), Hedge(1, shadow=True), Bulkhead(1, queue=5, shadow=True), Timeout(2))
    assert of(*policies).worst.seconds == exactly(2)


def test_breaker_that_opens_earlier_leaves_a_bound() -> None:
    """After two failures the third attempt is refused, unless other calls succeed in between."""
    worst = of(Retry(3, wait=0, max_retry_after=0), CircuitBreaker(fail_max=2), Timeout(1)).worst
    assert (worst.seconds, worst.requests) == (Bound(2, 3), Bound(2, 3))


def test_nested_pipelines_are_as_their_policies() -> None:
    """Nesting does not change the figures."""
    policies = (Timeout(9), Retry(2, wait=1), Bulkhead(2, queue=3), Timeout(2))
    flat = of(*policies).worst
    assert of(policies[0], Pipeline(policies[1], Pipeline(policies[2])), policies[3]).worst == flat


# -- a plain def ----------------------------------------------------------------------------------------------------


def test_timeout_does_not_stop_a_plain_def() -> None:
    """So nothing bounds the call."""
    worst = of(Timeout(2), is_async=False).worst
    assert worst.seconds == INFINITE
    assert worst.why == "nothing ends the function: no Timeout stops a plain def"


def test_thread_bounds_a_plain_def() -> None:
    """The caller of a `thread=True` Timeout stops waiting."""
    assert of(Timeout(2, thread=True), is_async=False).worst.seconds == exactly(2)


def test_function_that_ends_by_itself_bounds_a_plain_def() -> None:
    """A deadline bounds the attempts: the last one begins before it."""
    policies = (Timeout(10), Retry(5, wait=1, max_retry_after=0))
    assert of(*policies, is_async=False, function_limit=0.5).worst.seconds == exactly(5 * 0.5 + 4 * 1)
    assert of(*policies, is_async=False, function_limit=6).worst.seconds.most == 10 + 6


def test_hedge_that_cannot_guard_a_def_is_said() -> None:
    """It is among the policies that never act."""
    (idle,) = of(Hedge(1), is_async=False).idle
    assert "say Hedge(..., thread=True)" in idle.why


# -- requests over many calls, and layers ---------------------------------------------------------------------------


def test_budget_bounds_the_long_run() -> None:
    """A tenth of the successful calls, and a burst of saved-up tokens."""
    long_run = explain(standard()).long_run
    assert long_run.requests_per_call == pytest.approx(1.1)
    assert long_run.burst == 10


def test_without_a_budget_total_failure_costs_every_attempt() -> None:
    """Each call makes all its attempts."""
    assert of(Retry(4), Timeout(2)).long_run.requests_per_call == 4


def test_attempts_of_layers_multiply() -> None:
    """Three attempts outside and three inside are nine requests."""
    layered = of(Retry(3), Timeout(1), behind=Pipeline(Retry(3), Timeout(20))).behind
    assert layered is not None
    assert layered.worst.requests == exactly(9)
    assert layered.long_run.requests_per_call == 9


def test_inner_layer_that_leaves_the_repeating_does_not_multiply() -> None:
    """`Retry(nested="once")` leaves retries to the outer layer."""
    found = of(Retry(3, nested="once"), Timeout(1), behind=Retry(3))
    assert found.behind is not None
    assert found.behind.worst.requests == exactly(3)
    assert found.worst.requests == exactly(3)
    assert "leaves retries" in found.idle[0].why


def test_inner_layer_repeats_under_one_that_does_not() -> None:
    """The outer layer does not repeat, so the inner one does."""
    found = of(Retry(3, nested="once"), Timeout(1), behind=Timeout(10))
    assert found.behind is not None
    assert not found.behind.once
    assert found.behind.worst.requests == exactly(3)


def test_transport_leaves_the_repeating_to_the_call_around() -> None:
    """This is the default of a transport."""
    transport = AsyncTransport(standard(), transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    found = explain(transport.pipeline, behind=Retry(4))
    assert found.behind is not None
    assert found.behind.worst.requests == exactly(4)


# -- routes of outcomes ----------------------------------------------------------------------------------------------


def route(found: Explanation, end: str) -> Route:
    """The route of one kind of outcome."""
    (only,) = (each for each in found.routes if each.end == end)
    return only


def test_open_circuit_is_not_repeated() -> None:
    """A rejection is not retried by default."""
    found = route(of(Retry(3), CircuitBreaker()), "CircuitOpen")
    assert found.origin == "CircuitBreaker"
    assert [(step.policy, step.does.split(";")[0]) for step in found.steps] == [
        ("Retry", "does not repeat a rejection")
    ]
    assert found.caller == "gets it"


def test_rejection_that_is_named_is_repeated() -> None:
    """`on=` may name the rejection."""
    (step,) = route(of(Retry(3, on=(OSError, Rejected)), Bulkhead(1)), "BulkheadFull").steps
    assert step.does.startswith("repeats the call")


def test_failure_is_counted_and_repeated() -> None:
    """The steps of the route are innermost first."""
    found = route(of(Retry(3), CircuitBreaker(), Timeout(1)), "a failure")
    assert [step.policy for step in found.steps] == ["CircuitBreaker", "Retry"]


def test_programming_error_passes_everybody() -> None:
    """No policy acts on a programming error."""
    found = route(of(Fallback(0), CircuitBreaker()), "a programming error")
    assert (found.steps, found.caller) == ((), "gets it")


def test_stand_in_ends_the_way_of_a_failure() -> None:
    """A Fallback ends the route, so outer policies do not see the failure."""
    found = route(of(Retry(2), Fallback(0)), "a failure")
    assert [step.policy for step in found.steps] == ["Fallback"]
    assert found.caller == "gets the answer"


def test_unacceptable_result_has_a_way_where_results_are_judged() -> None:
    """The route exists only if the classifier judges results."""
    judging = of(Retry(2), classify=Classifier(results=lambda result: result is None))
    assert route(judging, "an unacceptable result").steps[0].does.startswith("repeats")
    assert all(each.end != "an unacceptable result" for each in of(Retry(2)).routes)


def test_cancellation_teaches_by_its_age() -> None:
    """Gates count an old cancelled call as a failure, and ignore a young one."""
    (step,) = route(of(CircuitBreaker(), Timeout(1)), "a cancellation").steps
    assert "limit of its Timeout" in step.does


def test_timeouts_are_told_apart() -> None:
    """Policies with the same name are shown by their settings."""
    ends = {each.origin: each.steps for each in of(Timeout(9), Retry(2), Timeout(1)).routes if each.end == "TimedOut"}
    assert ends["Timeout(9 s)"] == ()
    assert [step.policy for step in ends["Timeout(1 s)"]] == ["Retry"]


# -- policies that never act, and unknown ones -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Retry(1), Retry(3, shadow=True), Hedge(1, shadow=True), Bulkhead(5, shadow=True)])
def test_policy_that_does_nothing_is_said(policy: Any) -> None:
    """With the setting that makes it do nothing."""
    assert [idle.policy for idle in of(policy, Timeout(2)).idle] == [str(policy)]


def test_chaos_that_is_off_is_said_to_do_nothing() -> None:
    """As the innermost policy, and as the transport below one of ours."""
    off = Chaos(Errors(share=1.0), enabled=False)
    assert [idle.policy for idle in of(Retry(2), off).idle] == [str(off)]
    beneath = AsyncChaosTransport(Errors(share=1.0), enabled=False)
    assert [idle.why for idle in explain(AsyncTransport(transport=beneath).pipeline).idle] == ["it is switched off"]


def test_findings_are_those_of_the_plan() -> None:
    """The explanation and the warnings of a pipeline have the same findings."""
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(CircuitBreaker(), Retry(3))
    assert list(explain(pipeline).findings) == pipeline.findings != []


class Doubling(Wrap):
    """A wrap of a user."""

    facts = Facts(runs=2)

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        return await inner(call)


class Turnstile(Gate):
    """A gate of a user."""

    facts = Facts(waits=True, longest_wait=4.0)


class Telling(Doubling):
    """A policy of a user that defines its worst case."""

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        return inner(around.sooner(1))


def test_custom_policies_are_taken_at_their_word() -> None:
    """The explanation says that their settings are trusted."""
    found = of(Doubling(), Turnstile(), Timeout(2))
    assert found.worst.seconds == Bound(0, 2 * (4 + 2))
    assert found.worst.requests == Bound(0, 2)
    unknown = [each for each in found.assumes if "taken at its word" in each]
    assert [each.split(" ")[0] for each in unknown] == ["Doubling", "Turnstile"]


def test_custom_policy_takes_part_by_saying_its_worst() -> None:
    """A custom policy with `worst` is treated like a built-in one."""
    found = of(Telling(), Timeout(2))
    assert found.worst.seconds == exactly(2)
    assert not any("taken at its word" in each for each in found.assumes)


def test_chaos_is_known() -> None:
    """Switched off it costs nothing; switched on, it adds the longest delay of its faults."""
    late = Latency(share=0.5, low=1, high=3)
    assert of(Chaos(late, enabled=False), Timeout(2)).worst.seconds == exactly(2)
    assert of(Chaos(late, enabled=True), Timeout(2)).worst.seconds == Bound(2, 2 + 3)


def test_any_jitter_is_bounded_by_its_cap() -> None:
    """Ten thousand attempts are summed as well as three."""
    seconds = of(Retry(20_001, wait=FullJitter(1, 2), max_retry_after=0), Timeout(1)).worst.seconds
    assert seconds.most == 20_001 + 1 + 2 * 19_999


# -- adaptive policies ------------------------------------------------------------------------------------------------


def test_adaptive_limit_adds_the_time_in_its_queue_and_no_other() -> None:
    """Its limit is a number of calls, and no rule takes it for seconds."""
    plain, queued = of(AdaptiveLimit(5), Timeout(2)), of(AdaptiveLimit(5, queue=9, queue_timeout=0.5), Timeout(2))

    assert plain.worst.seconds == exactly(2)
    assert queued.worst.seconds == exactly(2.5)
    assert "0.5 s in the queue of AdaptiveLimit(Vegas from 5, 1 to 1000, queue 9 for up to 0.5 s)" in queued.worst.why
    assert "nothing bounds the wait" in of(AdaptiveLimit(5, queue=9), Timeout(2)).worst.why
    assert of(Timeout(10), AdaptiveLimit(5, queue=9, queue_timeout=0.5), Timeout(2)).findings == ()


def test_adaptive_limit_learns_and_its_refusal_is_told_of() -> None:
    """The text, the data and the diagram have it; in shadow mode it is listed as idle."""
    found = of(Retry(3), AdaptiveLimit(), Timeout(1))

    assert "  LimitExceeded, from AdaptiveLimit\n      Retry: does not repeat a rejection" in str(found)
    assert "  TimedOut, from Timeout\n      AdaptiveLimit: counts a failure" in str(found)
    assert any(route["origin"] == "AdaptiveLimit" for route in found.data()["outcomes"])
    assert '["AdaptiveLimit(Vegas from 20, 1 to 1000)<br/>1 s, 1 request"]' in found.mermaid()
    assert "in shadow mode it only counts" in str(of(AdaptiveLimit(shadow=True)))


def test_observed_hedge_is_shown_with_the_bounds_of_its_delay() -> None:
    """Its last copy begins at the ceiling at the latest, or when the copy before has failed."""
    found = of(Hedge(delay=quantile(0.95, floor=0.01, ceiling=0.5, initial=0.2, growth=1), copies=3), Timeout(2))

    assert found.worst.seconds.most == 3
    assert found.worst.requests == exactly(3)
    assert found.worst.why == "3 copies of 2 s, the last of which begins after 1 s"
    assert "Hedge(3 copies, after the observed p95 (0.01 to 0.5 s))" in str(found)
    assert "after the observed p95 (0.01 to 0.5 s)" in found.mermaid()
