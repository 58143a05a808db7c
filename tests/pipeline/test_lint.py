"""Lint: each finding says what cannot work, why, and what to write instead."""

from __future__ import annotations

import dataclasses
import functools
import linecache
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity

from resilient import (
    AdaptiveLimit,
    Budget,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    FullJitter,
    Hedge,
    Keyed,
    Pipeline,
    PipelineError,
    PipelineWarning,
    RateLimit,
    Retry,
    Timeout,
    registry,
    standard,
    standard_hedged,
)
from resilient.http.httpx import AsyncTransport, Client
from resilient.pipeline.lint import Finding


def findings(*policies: Any) -> list[Finding]:
    """The findings about a pipeline of these policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return Pipeline(*policies).findings


def only(*policies: Any) -> Finding:
    """The only finding about a pipeline of these policies."""
    (finding,) = findings(*policies)
    return finding


# -- limits -----------------------------------------------------------------------------------------------------------


def test_inner_timeout_longer_than_the_outer_is_found() -> None:
    """The inner Timeout could never act."""
    finding = only(Timeout(2), Bulkhead(5), Timeout(10))
    assert finding.what == "Timeout(10 s) stands inside Timeout(2 s)"
    assert "the outer limit ends the call first" in finding.why
    assert "an inner Timeout shorter than 2 s" in finding.instead


def test_inner_timeout_equal_to_the_outer_is_found() -> None:
    """The inner Timeout would act by chance only."""
    assert only(Timeout(2), Timeout(2)).what == "Timeout(2 s) stands inside Timeout(2 s)"


def test_inner_timeout_shorter_than_the_outer_is_right() -> None:
    """The outer Timeout bounds the whole call, the inner one each attempt."""
    assert findings(Timeout(10), Timeout(2)) == []


def test_each_inner_timeout_is_compared_with_each_outer() -> None:
    """Two Timeouts are compared also if another one stands between them."""
    assert [finding.what for finding in findings(Timeout(5), Timeout(3), Timeout(4))] == [
        "Timeout(4 s) stands inside Timeout(3 s)"
    ]


# -- gates by evidence ------------------------------------------------------------------------------------------------


def test_breaker_outside_a_queue_is_found() -> None:
    """It admits calls that are sent when it may have opened since."""
    finding = only(CircuitBreaker(), Bulkhead(5, queue=10))
    assert finding.what.startswith("CircuitBreaker(")
    assert finding.what.endswith("stands outside Bulkhead(5, queue 10)")
    assert "wait in a queue" in finding.why
    assert finding.instead == "Bulkhead first, then CircuitBreaker"


def test_breaker_outside_a_bulkhead_without_a_queue_is_right() -> None:
    """Without a queue no call waits inside the breaker."""
    assert findings(CircuitBreaker(), Bulkhead(5)) == []


def test_breaker_inside_a_queue_is_right() -> None:
    """Queues stand outside gates that decide by evidence."""
    assert findings(Bulkhead(5, queue=10), CircuitBreaker()) == []


def test_breaker_outside_a_retry_is_found() -> None:
    """It would see one failure where several attempts failed."""
    finding = only(CircuitBreaker(), Retry(attempts=3))
    assert "stands outside Retry(3 attempts" in finding.what
    assert "sees one failure where several attempts failed" in finding.why
    assert finding.instead == "Retry first, then CircuitBreaker"


def test_breaker_outside_a_retry_of_one_attempt_is_right() -> None:
    """A Retry of one attempt repeats nothing."""
    assert findings(CircuitBreaker(), Retry(attempts=1)) == []


def test_breaker_inside_a_retry_is_right() -> None:
    """An open circuit then ends the retries."""
    assert findings(Retry(attempts=3), CircuitBreaker()) == []


def test_breaker_outside_both_is_found_twice() -> None:
    """A queue and a Retry inside a breaker are two findings."""
    found = findings(CircuitBreaker(), Retry(attempts=3), Bulkhead(5, queue=10))
    assert [finding.instead for finding in found] == [
        "Retry first, then CircuitBreaker",
        "Bulkhead first, then CircuitBreaker",
    ]


# -- retries that multiply --------------------------------------------------------------------------------------------


def test_two_retries_are_found_with_what_they_multiply_to() -> None:
    """Three times four attempts are twelve requests for one call."""
    finding = only(Retry(attempts=3), Retry(attempts=4))
    assert "their attempts multiply: one call may be sent 12 times" in finding.why
    assert finding.instead == "one Retry with the number of attempts that you want"


def test_two_retries_of_which_one_has_no_limit_are_found() -> None:
    """A stop strategy of tenacity states no number of attempts."""
    finding = only(Retry(attempts=3), Retry(stop=tenacity.stop_after_delay(5)))
    assert "one call may be sent without limit" in finding.why


def test_a_retry_beside_one_of_one_attempt_is_right() -> None:
    """Attempts do not multiply if one of the two Retries makes one attempt only."""
    assert findings(Retry(attempts=3), Retry(attempts=1)) == []


# -- one instance twice -----------------------------------------------------------------------------------------------


def test_one_instance_in_two_places_is_found() -> None:
    """A call would hold two of its permits."""
    bulkhead = Bulkhead(5)
    finding = only(bulkhead, Timeout(2), bulkhead)
    assert finding.what == "the same Bulkhead(5) stands in the pipeline twice"
    assert "hold two of its permits" in finding.why
    assert "two instances" in finding.instead


def test_two_instances_alike_are_right() -> None:
    """Each instance has a state of its own."""
    assert findings(Bulkhead(5), Bulkhead(5)) == []


# -- retry plans ------------------------------------------------------------------------------------------------------


def test_retry_plan_that_does_not_fit_its_total_is_found() -> None:
    """Attempts that all time out, and the pauses between them, take longer than the total limit."""
    finding = only(Timeout(10), Retry(attempts=3, wait=1), Timeout(4))
    assert finding.what == "Retry(3 attempts, 1 s) with 4 s an attempt does not fit into 10 s"
    assert "3 attempts that time out, with up to 2 s between them, take 14 s" in finding.why
    assert "a total of at least 14 s, fewer attempts, or shorter limits and waits" in finding.instead


def test_retry_plan_that_just_fits_is_right() -> None:
    """3 x 4 s and 2 x 1 s are 14 s."""
    assert findings(Timeout(14), Retry(attempts=3, wait=1), Timeout(4)) == []


def test_retry_plan_counts_the_longest_jitter() -> None:
    """Full jitter of 1 s waits up to 1 s and 2 s between three attempts."""
    retry = Retry(attempts=3, wait=FullJitter(base=1, cap=60))
    assert findings(Timeout(6), retry, Timeout(1)) == []
    assert "up to 3 s between them, take 6 s" in only(Timeout(5.9), retry, Timeout(1)).why


def test_retry_plan_whose_waits_alone_do_not_fit_is_found() -> None:
    """This holds also where an attempt has no limit."""
    finding = only(Timeout(10), Retry(attempts=4, wait=5))
    assert finding.what == "Retry(4 attempts, 5 s) does not fit into 10 s"
    assert "4 attempts, with up to 15 s between them, take 15 s" in finding.why


def test_retry_plan_without_a_limit_for_each_attempt_is_right_where_its_waits_fit() -> None:
    """The duration of the attempts is then unknown."""
    assert findings(Timeout(10), Retry(attempts=3, wait=5)) == []


def test_retry_plan_whose_attempts_alone_do_not_fit_is_found() -> None:
    """This holds also where the pauses come from a function of the user, and are unknown."""
    finding = only(Timeout(5), Retry(attempts=3, wait=lambda state: 1), Timeout(2))
    assert "3 attempts that time out take 6 s" in finding.why


_TWO, _NONE = tenacity.wait_fixed(2), tenacity.wait_none()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"attempts": 4, "wait": 2}, {"stop": tenacity.stop_after_attempt(4), "wait": tenacity.wait_fixed(2)}),
        ({"attempts": 3, "wait": 9}, {"attempts": 3, "wait": tenacity.wait_fixed(timedelta(seconds=9))}),
        ({"attempts": 2, "wait": 2}, {"stop": tenacity.stop_after_attempt(2), "wait": tenacity.wait_chain(_TWO)}),
        (
            {"attempts": 4, "wait": 2},
            {"stop": tenacity.stop_any(tenacity.stop_after_attempt(4), tenacity.stop_never), "wait": _TWO + _NONE},
        ),
    ],
)
@pytest.mark.parametrize("total", [3, 10, 100])
def test_retry_plan_by_tenacity_strategies_has_the_same_findings(
    ours: dict[str, Any], theirs: dict[str, Any], total: float
) -> None:
    """The text is the same, except for the description of the Retry."""
    mine, others = Retry(**ours), Retry(**theirs)
    found = findings(Timeout(total), mine, Timeout(2))
    expected = [dataclasses.replace(each, what=each.what.replace(str(mine), str(others))) for each in found]
    assert findings(Timeout(total), others, Timeout(2)) == expected


def test_retry_plan_that_would_go_on_beyond_its_total_is_found() -> None:
    """The stop condition of such a Retry is never reached."""
    late = Retry(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_fixed(1))
    assert "is never reached" in only(Timeout(10), late, Timeout(2)).why
    soon = Retry(stop=tenacity.stop_before_delay(9), wait=tenacity.wait_fixed(1))
    assert findings(Timeout(10), soon, Timeout(2)) == []


def test_retry_plan_of_a_number_that_ends_at_a_time_is_found_where_that_does_not_fit() -> None:
    """The last attempt may time out two seconds after the end of the plan."""
    retry = Retry(9, stop=tenacity.stop_before_delay(4), wait=tenacity.wait_fixed(1))
    assert "take 6 s" in only(Timeout(5.5), retry, Timeout(2)).why
    assert findings(Timeout(6.5), retry, Timeout(2)) == []


def test_retry_plan_whose_end_is_the_total_is_right() -> None:
    """It is right as long as one pause fits into the total."""
    endless = Retry(stop=tenacity.stop_never, wait=tenacity.wait_fixed(5))
    assert findings(Timeout(9), endless, Timeout(2)) == []
    assert "there is never a second one" in only(Timeout(4), endless, Timeout(2)).why


def test_retry_plan_without_a_total_is_right() -> None:
    """Without a total limit nothing cuts the attempts off."""
    assert findings(Retry(attempts=10, wait=60), Timeout(30)) == []


def test_retry_plan_without_a_number_of_attempts_has_no_finding() -> None:
    """A stop strategy may end the attempts in time."""
    assert findings(Timeout(10), Retry(stop=tenacity.stop_after_delay(9), wait=5), Timeout(5)) == []


def test_retry_plan_of_the_standard_order_is_right() -> None:
    """The example of the documentation gives no warning."""
    assert (
        findings(Timeout(10), Retry(attempts=3), Bulkhead(50, queue=100), CircuitBreaker(failure_rate=0.5), Timeout(2))
        == []
    )


# -- hedges -----------------------------------------------------------------------------------------------------------


def test_hedge_plan_that_does_not_fit_its_total_is_found() -> None:
    """Copies overlap: the last one starts after all delays, and then has its whole limit."""
    assert findings(Timeout(9), Hedge([1, 3]), Timeout(5)) == []
    finding = only(Timeout(5.5), Hedge(1), Timeout(5))
    assert finding.what == "Hedge(2 copies, after 1 s) with 5 s an attempt does not fit into 5.5 s"
    assert "take 6 s" in finding.why


def test_hedge_whose_copies_never_come_is_found() -> None:
    """The first copy has ended when the second one is due."""
    finding = only(Hedge(2), Timeout(2))
    assert finding.what == "Hedge(2 copies, after 2 s) stands outside a limit of 2 s"
    assert "nothing is ever hedged" in finding.why
    assert finding.instead == "a delay well below 2 s"
    assert findings(Hedge(1.9), Timeout(2)) == []


def test_retry_of_hedges_counts_the_delays_of_each_attempt() -> None:
    """3 x (8 + 1) and 2 x 1 s are 29 s: each attempt is a whole race."""
    assert findings(Timeout(29), Retry(3, wait=1), Hedge(1), Timeout(8)) == []
    finding = only(Timeout(28), Retry(3, wait=1), Hedge(1), Timeout(8))
    assert "take 29 s" in finding.why


def test_breaker_outside_a_hedge_is_found() -> None:
    """It would see one outcome of several copies."""
    finding = only(CircuitBreaker(), Hedge(1))
    assert "stands outside Hedge(2 copies" in finding.what
    assert finding.instead == "Hedge first, then CircuitBreaker"


def test_hedge_inside_a_retry_is_right() -> None:
    """The policies of `standard_hedged` stand in this order."""
    assert findings(Retry(), Hedge(1), CircuitBreaker()) == []


# -- rate limits ------------------------------------------------------------------------------------------------------


def test_breaker_outside_a_rate_limit_that_waits_is_found() -> None:
    """Its calls are sent when the dependency may be known to be dead."""
    finding = only(CircuitBreaker(), RateLimit(5, max_wait=1))
    assert "wait in a queue" in finding.why
    assert finding.instead == "RateLimit first, then CircuitBreaker"


def test_breaker_outside_a_rate_limit_that_refuses_is_right() -> None:
    """No call waits inside the breaker."""
    assert findings(CircuitBreaker(), RateLimit(5)) == []
    assert findings(RateLimit(5, max_wait=1), CircuitBreaker()) == []


# -- substitutes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", [Retry(), CircuitBreaker(), Hedge(1)])
def test_fallback_inside_what_acts_on_failures_is_found(outer: Any) -> None:
    """It answers for every failure, so no policy outside it sees one."""
    finding = only(outer, Fallback(7))
    assert finding.what == f"Fallback(a value) stands inside {outer}"
    assert "never sees one" in finding.why
    assert finding.instead == f"Fallback first, then {type(outer).__name__}"


@pytest.mark.parametrize("outer", [Timeout(5), Bulkhead(5), RateLimit(5), Fallback(8), Retry(1)])
def test_fallback_inside_what_does_not_ask_for_failures_is_right(outer: Any) -> None:
    """The policy outside it needs no failures."""
    assert findings(outer, Fallback(7)) == []


def test_fallback_outermost_is_right() -> None:
    """A Fallback that is outermost answers for all policies."""
    assert findings(Fallback(7), Timeout(30), Retry(), Bulkhead(5), CircuitBreaker(), Timeout(5)) == []


# -- nested pipelines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nest",
    [
        lambda outer, inner: (Pipeline(outer), inner),
        lambda outer, inner: (outer, Pipeline(inner)),
        lambda outer, inner: (Pipeline(Pipeline(outer)), Pipeline(Pipeline(inner))),
    ],
)
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (Timeout(2), Timeout(10)),
        (CircuitBreaker(), Retry()),
        (CircuitBreaker(), Bulkhead(5, queue=5)),
        (Retry(), Retry()),
        (Timeout(1), Retry(attempts=3, wait=5)),
        (Retry(), Fallback(7)),
        (Hedge(5), Timeout(1)),
    ],
    ids=["limits", "breaker and retry", "breaker and queue", "retries", "plan", "stand-in", "hedge"],
)
def test_policies_of_nested_pipelines_are_examined(nest: Any, outer: Any, inner: Any) -> None:
    """The policies of a nested pipeline count as if they stood in its place."""
    assert len(findings(*nest(outer, inner))) == 1


def test_one_instance_in_a_pipeline_and_in_a_nested_one_is_found() -> None:
    """A call would pass the same instance twice."""
    breaker = CircuitBreaker()
    assert "stands in the pipeline twice" in only(breaker, Pipeline(breaker)).what


# -- the warning ------------------------------------------------------------------------------------------------------


def test_finding_is_a_warning_with_what_why_and_instead() -> None:
    """The warning begins with the pipeline's name, and has the three parts in this order."""
    with pytest.warns(PipelineWarning) as caught:
        pipeline = Pipeline(Timeout(2), Timeout(10), name="users")
    (finding,) = pipeline.findings
    message = str(caught[0].message)
    assert message == f"pipeline 'users': {finding}"
    at = [message.index(part) for part in (finding.what, finding.why, finding.instead)]
    assert at == sorted(at)


def test_several_findings_are_one_warning() -> None:
    """A pipeline with several findings gives one warning with all of them."""
    with pytest.warns(PipelineWarning) as caught:
        pipeline = Pipeline(CircuitBreaker(), Retry(attempts=3), Bulkhead(5, queue=10))
    assert len(caught) == 1
    assert len(pipeline.findings) == 2
    assert all(str(finding) in str(caught[0].message) for finding in pipeline.findings)


def place(warning: warnings.WarningMessage) -> tuple[str, str]:
    """The file that a warning points at, and the text of the line."""
    return warning.filename, linecache.getline(warning.filename, warning.lineno).strip()


def test_warning_points_at_the_line_that_built_the_pipeline() -> None:
    """The warning does not point into the library."""
    with pytest.warns(PipelineWarning) as caught:
        Pipeline(Timeout(2), Timeout(10))
    assert place(caught[0]) == (__file__, "Pipeline(Timeout(2), Timeout(10))")


def test_warning_of_a_variation_points_at_the_line_that_made_it() -> None:
    """`with_` builds a pipeline, too; the warning has the name of the original."""
    pipeline = Pipeline(Timeout(5, name="total"), Timeout(1, name="each"), name="users")
    with pytest.warns(PipelineWarning) as caught:
        pipeline.with_(Timeout(10, name="each"))
    assert place(caught[0]) == (__file__, 'pipeline.with_(Timeout(10, name="each"))')
    assert str(caught[0].message).startswith("pipeline 'users': ")


BUILT: dict[str, Callable[[], object]] = {
    "stacked on a function": lambda: Pipeline(Timeout(2), Timeout(10))(print),
    "of a preset": lambda: standard(total=5, attempt=9),
    "of a hedged preset": lambda: standard_hedged(total=5, attempt=9),
    "alone, as a decorator": lambda: Hedge(1, cancel="late")(_later),
    "of a transport": lambda: AsyncTransport(Pipeline(Timeout(2), Timeout(10))),
    "of a client": lambda: Client(Pipeline(Timeout(2), Timeout(10))),
    "of a subclass": lambda: _Mine(Timeout(2), Timeout(10)),
}


async def _later() -> None: ...


class _Mine(Pipeline):
    pass


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_warning_points_at_the_users_line(build: Callable[[], object]) -> None:
    """The pipeline is built by different functions of the library."""
    with pytest.warns(PipelineWarning) as caught:
        build()
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, build.__code__.co_firstlineno)]


def test_strict_raises_what_would_have_been_warned_of() -> None:
    """The error is a ValueError, and the pipeline is not registered."""
    with pytest.raises(PipelineError, match=r"pipeline 'refused': Timeout.* stands inside") as caught:
        Pipeline(Timeout(2), Timeout(10), name="refused", strict=True)
    assert isinstance(caught.value, ValueError)
    assert "refused" not in registry.pipelines()


def test_strict_variation_raises() -> None:
    """`with_` takes `strict=`, and does not inherit it."""
    pipeline = Pipeline(Timeout(5, name="total"), Timeout(1, name="each"), strict=True)
    with pytest.raises(PipelineError, match="stands inside"):
        pipeline.with_(Timeout(10, name="each"), strict=True)
    with pytest.warns(PipelineWarning):
        pipeline.with_(Timeout(10, name="each"))


def test_strict_pipeline_without_findings_is_built() -> None:
    """`strict=True` changes nothing where there are no findings."""
    assert Pipeline(Timeout(10), Retry(), strict=True).findings == []


def test_pipeline_that_was_warned_of_works_all_the_same() -> None:
    """A warning does not prevent a call."""
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(CircuitBreaker(), Retry(attempts=2, wait=0))
    assert pipeline.call(lambda: 7) == 7


# -- settings that never act ------------------------------------------------------------------------------------------


def test_retry_whose_pauses_outlive_the_total_is_found() -> None:
    """Such a Retry never makes a second attempt."""
    finding = only(Timeout(10), Retry(3, wait=10))
    assert finding.what == "Retry(3 attempts, 10 s) stands inside a limit of 10 s"
    assert "never a second one" in finding.why
    assert "pauses well below 10 s" in finding.instead


def test_retry_of_one_attempt_needs_no_pause() -> None:
    """A single attempt has no pause after it."""
    assert findings(Timeout(10), Retry(1, wait=10)) == []


def test_jitter_may_be_short_enough() -> None:
    """A second attempt is possible, though the plan as a whole does not fit."""
    assert "does not fit" in only(Timeout(10), Retry(2, wait=FullJitter(20, 20))).what


@pytest.mark.parametrize("gate", [Bulkhead(1, queue=5, queue_timeout=12), RateLimit(5, max_wait=12)])
def test_wait_in_a_queue_longer_than_the_total_is_right(gate: Any) -> None:
    """The deadline bounds the wait, and other calls may have another deadline."""
    assert findings(Timeout(10), gate) == []


def test_slow_beyond_the_limit_of_an_attempt_is_found() -> None:
    """The limit ends every call before it counts as slow."""
    breaker = CircuitBreaker(failure_rate=None, slow=5, slow_rate=0.5)
    finding = only(breaker, Timeout(2))
    assert "never opens" in finding.why
    assert finding.instead == "slow= below 2 s"


def test_slow_beside_failures_is_right() -> None:
    """Failures can still open the breaker."""
    assert findings(CircuitBreaker(slow=5, slow_rate=0.5), Timeout(2)) == []


@pytest.mark.parametrize("order", [1, -1])
def test_breaker_that_a_rate_limit_keeps_from_its_evidence_is_found(order: int) -> None:
    """Inside and outside the RateLimit, which refuses too many of its calls."""
    policies = [RateLimit(1), CircuitBreaker(min_calls=20)]
    finding = only(*policies[::order])
    assert "it needs 20 calls in 10 s, and never gets more than 11" in finding.why
    assert finding.instead.startswith("min_calls of at most 11")


def test_breaker_that_retries_bring_its_evidence_is_right() -> None:
    """Each call through the RateLimit may be two calls for the breaker."""
    assert all("it needs" not in each.why for each in findings(RateLimit(1), Retry(2), CircuitBreaker(min_calls=20)))
    of_each = Keyed(lambda: RateLimit(1), key=lambda tenant: tenant)  # there may be any number of tenants
    assert findings(of_each, CircuitBreaker(min_calls=20)) == []


def test_breaker_that_counts_failures_in_a_row_is_right() -> None:
    """It needs no number of calls in a window."""
    assert findings(RateLimit(1), CircuitBreaker(min_calls=20, fail_max=5)) == []


def test_budget_that_never_has_a_token_is_found() -> None:
    """One success every two seconds earns less than what fades."""
    finding = only(Retry(2, budget=Budget(0.1, reserve=0)), RateLimit(0.5))
    assert "0.6 tokens" in finding.why
    assert "a reserve of at least 1" in finding.instead


def test_budget_with_a_reserve_is_right() -> None:
    """The reserve is refilled by a tenth a success, and does not fade."""
    assert findings(Retry(2, budget=Budget(0.1)), RateLimit(0.5)) == []


# -- attempts and work that are not counted ---------------------------------------------------------------------------


@pytest.mark.parametrize("quota", [RateLimit(5), Keyed(lambda: RateLimit(5), key=str)])
@pytest.mark.parametrize("inner", [Retry(2), Hedge(1)])
def test_quota_outside_what_makes_more_requests_is_found(quota: Any, inner: Any) -> None:
    """It would count the first request of a call only."""
    finding = only(quota, inner)
    assert "beyond the quota" in finding.why
    assert finding.instead == f"{type(inner).__name__} first, then {type(quota).__name__}"
    assert findings(inner, quota) == []


@pytest.mark.parametrize("quota", [RateLimit(5, shadow=True)])
@pytest.mark.parametrize("inner", [Retry(2), Retry(1)])
def test_quota_that_refuses_nothing_may_stand_anywhere(quota: Any, inner: Any) -> None:
    """In shadow mode a RateLimit only counts."""
    assert findings(quota, inner) == []


@pytest.mark.parametrize("gate", [Bulkhead(5), AdaptiveLimit(), Keyed(lambda: Bulkhead(5), key=str)])
@pytest.mark.parametrize(
    "inner",
    [Timeout(1, thread=True), Timeout(1, abandon=True), Hedge(0.1, thread=True)],
    ids=["thread", "left", "hedge"],
)
def test_permits_outside_work_that_outlives_its_call_are_found(gate: Any, inner: Any) -> None:
    """The permit would be released while the work continues."""
    finding = only(gate, inner)
    assert finding.what == f"{gate} stands outside {inner}"
    assert "permit has been released" in finding.why
    assert finding.instead == f"{type(inner).__name__} first, then {type(gate).__name__}"
    assert findings(inner, gate) == []


def test_breaker_outside_work_that_outlives_its_call_is_right() -> None:
    """A breaker has no permits."""
    assert findings(CircuitBreaker(), Timeout(1, thread=True)) == []


# -- stacked decorators -----------------------------------------------------------------------------------------------


async def fetch() -> None:
    """A function to be guarded."""


def warned(guard: Callable[[], Any]) -> str:
    """The text of the warning, or nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guard()
    assert len(caught) <= 1
    assert all(each.category is PipelineWarning and each.filename == __file__ for each in caught)
    return "".join(str(each.message) for each in caught)


def test_stacked_decorators_get_the_findings_of_a_pipeline() -> None:
    """Each finding is reported once, by the outer decorator."""
    assert warned(lambda: Timeout(1)(Timeout(2)(fetch))).startswith(
        "the decorators of fetch: Timeout(2 s) stands inside Timeout(1 s): "
    )
    assert "stands outside" in warned(lambda: CircuitBreaker()(Retry(2)(fetch)))
    assert "multiply" in warned(lambda: Timeout(60)(Retry(2)(Bulkhead(5)(Retry(3)(fetch)))))
    assert "does not fit into 0.8 s" in warned(lambda: Timeout(0.8)(Retry(5, wait=0.5)(fetch)))


def test_stacked_decorators_in_the_right_order_are_right() -> None:
    """They give no warning, as in a pipeline."""
    assert warned(lambda: Timeout(30)(Retry(2)(Bulkhead(5)(CircuitBreaker()(Timeout(5)(fetch)))))) == ""
    assert warned(lambda: Retry(2)(Retry(3, nested="once")(fetch))) == ""


def test_decorators_with_another_one_in_between_are_a_stack() -> None:
    """A decorator of the user's own stands between them, and keeps the function's metadata."""

    @functools.wraps(fetch)
    async def between() -> None: ...

    between.__wrapped__ = Timeout(2)(fetch)  # type: ignore[attr-defined]
    assert "stands inside" in warned(lambda: Timeout(1)(between))


def test_strict_pipeline_refuses_a_stack() -> None:
    """A strict pipeline raises for decorators as for an order."""
    with pytest.raises(PipelineError, match="the decorators of fetch"):
        Pipeline(Timeout(1), strict=True)(Timeout(2)(fetch))
