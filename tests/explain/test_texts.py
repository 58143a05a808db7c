"""The forms of an explanation: text for people, data for programs, and a diagram."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import pytest
import tenacity

from resilient import (
    AdaptiveLimit,
    Bulkhead,
    Chaos,
    CircuitBreaker,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    PipelineWarning,
    RateLimit,
    Retry,
    Timeout,
    standard,
)
from resilient.explain import Explanation, explain
from resilient.faults import Latency, Slowness
from resilient.http.httpx import AsyncTransport
from resilient.server.asgi import ServerMiddleware


def of(*policies: Any, **options: Any) -> Explanation:
    """The explanation of a pipeline of these policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return explain(Pipeline(*policies), **options)


# -- for people and programs ----------------------------------------------------------------------------------------


def test_text_says_what_is_exact_and_what_a_bound() -> None:
    """The figures at the top say so."""
    said = str(of(Timeout(10), Retry(3, wait=lambda state: 1.0), Timeout(2)))
    assert "latency   at most 10 s (a bound; 2 s can happen): Timeout(10 s) ends it" in said
    assert "latency   10 s (exact)" in str(of(Timeout(10)))
    assert all(len(line) <= 110 for line in said.splitlines())


def test_tree_shows_pipelines_in_pipelines() -> None:
    """Each policy is below its own pipeline, even if neighbours are nested too."""
    inner = Pipeline(Retry(2), name="a"), Pipeline(Timeout(1), name="b")
    lines = str(explain(Pipeline(Timeout(9), *inner, name="users"))).splitlines()
    start = next(at for at, line in enumerate(lines) if line.strip() == "users")
    tree = [line.rpartition("  ")[2].strip().split("(")[0] for line in lines[start : start + 6]]
    assert tree == ["users", "Timeout", "a", "Retry", "b", "Timeout"]


def test_data_is_json_with_units_and_without_infinities() -> None:
    """A figure without limit is `null`."""
    data = json.loads(json.dumps(of(Retry(3)).data(), allow_nan=False))
    assert data["latency"] == {
        "at_most_seconds": None,
        "can_happen_seconds": None,
        "exact": True,
        "why": "nothing ends the function: there is no Timeout",
    }
    assert data["requests"] == {"at_most": 3, "can_happen": 3, "exact": True}
    assert data["long_run"] == {"requests_per_call": 3, "burst_requests": 0, "budgets": []}
    assert data["policies"][0]["kind"] == "Retry"
    assert list(data) == [
        "pipeline",
        "function",
        "function_limit_seconds",
        "latency",
        "attempts",
        "requests",
        "long_run",
        "policies",
        "outcomes",
        "never_act",
        "findings",
        "assumes",
        "behind",
    ]


def test_diagram_has_a_box_for_each_pipeline_and_no_loose_end() -> None:
    """Every box is closed, and special characters of Mermaid are escaped."""
    inner = Pipeline(Retry(2), Pipeline(CircuitBreaker(), name='say "hi"'), name="a"), Pipeline(Timeout(1), name="b")
    lines = of(Timeout(9), *inner).mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    assert sum(line.strip().startswith("subgraph") for line in lines) == 4
    assert sum(line.strip() == "end" for line in lines) == 4
    assert 'subgraph box2_2["say #quot;hi#quot;"]' in "\n".join(lines)
    assert "#gt;= 10 in 10 s" in "\n".join(lines)
    assert [line.strip() for line in lines if "-->" in line] == [
        "caller --> p0",
        "p0 --> p1",
        "p1 --> p2",
        "p2 --> p3",
        "p3 --> function",
    ]


# -- wording -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ((Chaos(Slowness(factor=3), enabled=True),), "nothing bounds how late Chaos(work takes 3 times as long) is"),
        ((Retry(stop=tenacity.stop_never),), "nothing bounds the attempts of Retry(attempts without end, "),
        ((Retry(3, wait=lambda state: 1),), "nothing is known of the waits of Retry(3 attempts, "),
        ((AdaptiveLimit(5, queue=3),), "nothing bounds the wait in the queue of AdaptiveLimit("),
        ((Fallback(call=print),), "nothing ends print, which answers instead"),
    ],
)
def test_reason_for_no_limit_is_not_that_the_function_has_one(policies: Any, why: str) -> None:
    """The reason names the part without a limit."""
    worst = of(*policies, function_limit=1).worst
    assert worst.seconds.most == float("inf")
    assert worst.why.startswith(why)


@pytest.mark.parametrize(
    "gate",
    [Bulkhead(1, queue=1, queue_timeout=2), AdaptiveLimit(1, queue=1, queue_timeout=2), RateLimit(1, max_wait=1)],
)
def test_wait_of_known_length_before_what_is_endless_is_not_the_reason(gate: Any) -> None:
    """The reason is the function, which nothing ends."""
    assert of(gate).worst.why == "nothing ends the function: there is no Timeout"


def test_lateness_of_chaos_is_a_part_of_the_reason() -> None:
    """The reason has the delay of the chaos and what follows it."""
    late = Chaos(Latency(share=0.5, low=1, high=2), enabled=True)
    assert of(late, function_limit=1).worst.why == "Chaos(50% of answers 1-2 s late) is up to 2 s late, then 1 s"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers nothing."""


def test_servers_say_whose_deadline_it_is() -> None:
    """A server without its own limit is described as having none."""
    assert explain(ServerMiddleware(application).pipeline).worst.why == (
        "nothing ends the request: a client need not send a deadline, and there is no max_deadline"
    )
    assert explain(ServerMiddleware(application, max_deadline=5).pipeline).worst.why == "max_deadline of 5 s ends it"


def test_figure_of_no_chance_is_not_said_to_be_possible() -> None:
    """A Chaos that lets no request through is not what a reader wants to know."""
    said = str(of(Chaos(Latency(high=1), enabled=True), Timeout(1)))
    assert "  requests  at most 1 (a bound)\n" in said


def test_long_figures_have_a_line_of_their_own() -> None:
    """They never touch the text after them."""
    lines = str(of(Retry(stop=tenacity.stop_never))).splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith("unlimited requests"))
    assert lines[at + 1].strip().startswith("Retry(attempts without end")


def test_long_names_are_wrapped() -> None:
    """Long names of pipelines, policies and the outer layer are wrapped everywhere."""
    name = "a name that is " + "rather " * 12 + "long"
    inner = Pipeline(Retry(2, name=f"retry, {name}"), Timeout(1, name=f"timeout, {name}"), name=f"inner, {name}")
    outer = Pipeline(Timeout(9), Retry(2), name=f"outer, {name}")
    nested = Pipeline(Timeout(5, name=name), inner, name=name)
    assert max(map(len, str(explain(nested, behind=outer)).splitlines())) <= 110


def test_keyed_gates_are_told_apart_by_what_they_keep() -> None:
    """In the routes, and in the suggestions of findings."""
    with pytest.warns(PipelineWarning):
        pipeline = Pipeline(
            Keyed(CircuitBreaker, key=lambda: "k"), Keyed(lambda: RateLimit(5, max_wait=1), key=lambda: "k"), Timeout(1)
        )
    found = explain(pipeline)
    assert [step.policy for step in found.routes[0].steps] == ["Keyed(CircuitBreaker)"]
    assert found.findings[0].instead == "Keyed(RateLimit) first, then Keyed(CircuitBreaker)"


def test_shadow_is_no_part_of_a_plan() -> None:
    """A policy that repeats nothing takes no time, and adds no assumption."""
    found = of(Timeout(5), Retry(3, shadow=True), Hedge(1, shadow=True), Timeout(2))
    assert found.findings == ()
    assert not any("may fail in any way that is repeated" in each for each in found.assumes)


def test_nobody_cancels_a_plain_def() -> None:
    """A plain def has no route for a cancellation."""
    assert any(route.end == "a cancellation" for route in of(Retry(2)).routes)
    assert not any(route.end == "a cancellation" for route in of(Retry(2), is_async=False).routes)


def test_pipeline_that_is_switched_says_so() -> None:
    """The figures are those of the mode "on"."""
    pipeline = standard("switched pipeline")
    assert not any("switched" in each for each in explain(pipeline).assumes)
    with pipeline.switch("off"):
        assert "switched pipeline is switched on (it is switched to 'off' now)" in explain(pipeline).assumes


# -- layers ----------------------------------------------------------------------------------------------------------


def layers(inner: Pipeline, outer: Pipeline) -> str:
    """The line about two layers."""
    said = str(explain(inner, behind=outer)).split("  layers    ")[1].split("\n\n")[0]
    return " ".join(said.split())


def test_layers_are_said_not_to_contradict_the_pipeline_alone() -> None:
    """The figures of one pipeline alone are marked so; behind another one it leaves retries to that one."""
    inner, outer = Pipeline(Retry(3, nested="once"), name="inner"), Pipeline(Retry(2), name="outer")
    said = str(explain(inner, behind=outer, function_limit=1))
    assert said.startswith("inner alone: the worst case of one call of an async def")
    assert "inner behind outer: the worst case of both together" in said
    assert "Policies of inner, alone, outermost first" in said
    assert "once): behind outer it leaves retries to the outer pipeline" in said
    assert layers(inner, outer) == "inner leaves retries to outer, so attempts do not multiply"


def test_layers_that_multiply_say_what_limits_leave_of_it() -> None:
    """Nine requests, of which a total allows three because no pause fits into it; only a Retry gets the hint."""
    inner = Pipeline(Retry(3, wait=2, max_retry_after=0), name="inner")
    assert layers(inner, Pipeline(Retry(3), name="outer")) == (
        'they multiply: 3 x 3 requests; with Retry(nested="once") inner would leave retries to outer'
    )
    short = Pipeline(Timeout(1), Retry(3, wait=0, max_retry_after=0), name="outer")
    assert "3 x 3 requests, of which limits leave 3;" in layers(inner, short)
    hedged = Pipeline(Hedge(1), Timeout(2), name="inner")
    assert layers(hedged, Pipeline(Retry(3), name="outer")) == "they multiply: 3 x 2 requests"


def test_layers_that_do_not_repeat_are_said_so() -> None:
    """Both layers, or one of them, do not repeat."""
    once, often = Pipeline(Timeout(1), name="once"), Pipeline(Retry(2), name="often")
    assert layers(once, Pipeline(Timeout(2), name="outer")) == "neither pipeline repeats calls, so nothing multiplies"
    assert layers(once, often) == "only one pipeline repeats calls, so nothing multiplies"


# -- transports ------------------------------------------------------------------------------------------------------


def test_what_is_not_repeated_under_a_transport_is_said() -> None:
    """For example, a POST without a key; the request's own options matter too."""
    transport = AsyncTransport(standard(), transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    said = " ".join(str(explain(transport.pipeline)).split())
    assert "another one (a POST or PATCH without a key) is never hedged, and repeated only when it provably was" in said
    assert "the request does not say how many attempts it may have" in said
    assert "POST" not in str(explain(standard()))
