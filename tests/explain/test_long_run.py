"""The limits of budgets over many calls, alone and shared by layers."""

from __future__ import annotations

import asyncio
import random
import warnings
from typing import Any

import httpx
import pytest

from resilient import Budget, Fallback, Hedge, Pipeline, PipelineWarning, Retry, Timeout, standard_hedged
from resilient.explain import explain
from resilient.explain.long_run import LongRun
from resilient.http.httpx import AsyncTransport
from resilient.runtime.virtual import VirtualLoop

NEVER_FADES = 1e9


def of(*policies: Any, behind: Any = None) -> LongRun:
    """The long run of a pipeline of these policies, alone and behind another pipeline."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        found = explain(Pipeline(*policies), behind=behind)
    return found.long_run if found.behind is None else found.behind.long_run


def test_shared_budget_is_spent_once() -> None:
    """Retries or hedges spend it."""
    assert explain(standard_hedged()).long_run.requests_per_call == pytest.approx(1.1)


def test_budgets_of_two_policies_add_up() -> None:
    """Each budget pays for its own policy."""
    long_run = of(Retry(3, budget=Budget(0.1)), Hedge(1, budget=Budget(0.2)), Timeout(3))
    assert long_run.requests_per_call == pytest.approx(1.3)
    assert long_run.burst == 20


def test_what_is_repeated_without_a_budget_multiplies_what_a_budget_pays_for() -> None:
    """The burst is multiplied too: each token pays for a run of two requests."""
    long_run = of(Retry(3, budget=Budget(0.1)), Pipeline(Retry(2)), Timeout(3))
    assert long_run.requests_per_call == pytest.approx(2 * 1.1)
    assert long_run.burst == 20


def test_budget_shared_by_layers_is_paid_for_by_both() -> None:
    """Each call succeeds twice, an attempt that the outer layer rejects may have succeeded inside, and tokens pay for
    attempts that earn again."""
    budget = Budget(0.1)
    long_run = of(Retry(3, budget=budget), behind=Pipeline(Retry(3, budget=budget)))
    assert long_run.requests_per_call == pytest.approx(1 + 0.2 / 0.9)
    assert long_run.burst == pytest.approx(10 / 0.9)


def test_budget_of_a_layer_that_leaves_the_repeating_is_paid_into_all_the_same() -> None:
    """So the outer layer may spend what both have earned."""
    budget = Budget(0.1)
    long_run = of(Retry(3, budget=budget, nested="once"), behind=Pipeline(Retry(3, budget=budget)))
    assert long_run.requests_per_call == pytest.approx(1 + 0.2 / 0.9)


def test_transport_earns_for_each_origin_by_itself() -> None:
    """An outer layer with the same budget earns separately, and the explanation says so."""
    budget = Budget(0.1)
    mock = httpx.MockTransport(lambda request: httpx.Response(200))
    once = AsyncTransport(Pipeline(Retry(3, budget=budget)), transport=mock)
    always = AsyncTransport(Pipeline(Retry(3, budget=budget)), transport=mock, nested="multiply")
    outer = Pipeline(Retry(3, budget=budget))

    alone = explain(once.pipeline).long_run
    assert alone.budgets == (f"{budget} for each origin",)
    behind = explain(once.pipeline, behind=outer).behind
    assert behind is not None
    assert behind.long_run.requests_per_call == pytest.approx(1.1)
    behind = explain(always.pipeline, behind=outer).behind
    assert behind is not None
    assert behind.long_run.requests_per_call == pytest.approx(1.1 * 1.1)
    assert behind.long_run.burst == pytest.approx(10 * 1.1 + 10)


def test_budget_that_earns_as_much_as_it_spends_bounds_nothing() -> None:
    """Then only the attempts of the Retries limit the requests."""
    budget = Budget(1.0)
    assert of(Retry(3, budget=budget), behind=Pipeline(Retry(2, budget=budget))).requests_per_call == 6
    assert of(Retry(3, budget=budget), behind=Pipeline(Retry(2, budget=budget))).burst == 0


STACKS: dict[str, Any] = {
    "one": lambda budget: [Pipeline(Retry(3, wait=0, budget=budget))],
    "two policies": lambda budget: [Pipeline(Retry(3, wait=0, budget=budget), Hedge(1, budget=budget))],
    "nested": lambda budget: [Pipeline(Retry(2, wait=0, budget=budget), Pipeline(Retry(3, wait=0, budget=budget)))],
    "two layers": lambda budget: [
        Pipeline(Retry(3, wait=0, budget=budget)),
        Pipeline(Retry(2, wait=0, budget=budget)),
    ],
    "outer spends": lambda budget: [
        Pipeline(Retry(3, wait=0, budget=budget)),
        Pipeline(Retry(2, wait=0, budget=budget, nested="once")),
    ],
    "three layers": lambda budget: [
        Pipeline(Retry(2, wait=0, budget=budget)),
        Pipeline(Fallback("x", on=KeyError), Retry(3, wait=0, budget=budget)),
        Pipeline(Hedge(1, budget=budget), Retry(2, wait=0)),
    ],
    "another budget inside": lambda budget: [
        Pipeline(Retry(3, wait=0, budget=budget)),
        Pipeline(Retry(3, wait=0, budget=Budget(0.3, ttl=NEVER_FADES)), Retry(2, wait=0, budget=budget)),
    ],
}


@pytest.mark.filterwarnings("ignore::resilient.PipelineWarning")
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("ratio", [0.1, 0.4])
def test_no_sequence_of_failures_costs_more_than_the_budgets_allow(stack: Any, ratio: float) -> None:
    """Failures at any rate, of requests, and of answers that a layer rejects; good times and bad times."""
    layers = stack(Budget(ratio, ttl=NEVER_FADES))
    outer = None
    for layer in layers[:-1]:  # `explain` takes two at a time
        outer = layer if outer is None else Pipeline(outer, layer)
    found = explain(layers[-1], behind=outer)
    long_run = found.long_run if found.behind is None else found.behind.long_run
    worst = 0.0
    for seed in range(12):
        dice = random.Random(seed)
        rates = [dice.choice([0.0, 0.05, 0.2, 0.5, 1.0]) for _ in layers]
        requests, calls = 0, 150

        async def fetch(dice: random.Random = dice, rates: list[float] = rates) -> None:
            nonlocal requests
            requests += 1
            if dice.random() < rates[0]:
                raise OSError("down")

        guarded: Any = fetch
        fresh = stack(Budget(ratio, ttl=NEVER_FADES))
        for number, layer in enumerate(reversed(fresh)):
            guarded = _picky(layer(guarded), dice, rates[number] if number else 0.0)

        async def main(guarded: Any = guarded, calls: int = calls) -> None:
            for _ in range(calls):
                try:
                    await guarded()
                except OSError:
                    pass

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
        assert requests <= calls * long_run.requests_per_call + long_run.burst + 1e-6
        worst = max(worst, requests / calls)
    assert worst > 1


def _picky(call: Any, dice: random.Random, rate: float) -> Any:
    """A function around a layer that rejects some answers."""

    async def picky() -> None:
        await call()
        if dice.random() < rate:
            raise OSError("not good enough")

    return picky
