"""The policies of docs/custom-policies.md are complete: they run in every world, with lint, explain and dry runs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from resilient import CircuitBreaker, Keyed, Pipeline, PipelineWarning, Rejected, Retry, Timeout
from resilient.core import Call, Facts, Gate, Layer, PipelineContext, Wrap
from resilient.explain import explain
from resilient.lab.fresh_policies import FreshPolicies, dry_run
from tests.recorders import EventRecorder
from tests.worlds import Slow, World

DOCUMENT = (Path(__file__).parents[2] / "docs" / "custom-policies.md").read_text()
EXAMPLES: dict[str, Any] = {"__name__": "example"}
for _number, _block in enumerate(re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE), 1):
    exec(compile(_block, f"docs/custom-policies.md, example {_number}", "exec"), EXAMPLES)
WeightLimit, StaleIfError = EXAMPLES["WeightLimit"], EXAMPLES["StaleIfError"]


def first(weight: float, *_: object) -> float:
    """The weight of a call: its first argument."""
    return weight


# -- the gate -------------------------------------------------------------------------------------------------------


def test_gate_refuses_what_is_too_much_and_has_its_permits_back(world: World) -> None:
    """Calls beyond the limit are refused while others are in flight, and admitted afterwards."""
    gate = WeightLimit(10, weight=first)
    guarded = Pipeline(gate)(world.dependency(Slow(0.05, "done"), OSError(), "again").fn)
    one, other = world.together(lambda: guarded(6), lambda: guarded(5))
    assert one.value == "done"
    assert isinstance(other.error, Rejected)
    assert isinstance(world.outcome(guarded, 10).error, OSError)
    assert world.call(guarded, 10) == "again"
    assert gate.snapshot() == {"in_flight": 0, "limit": 10}


def test_gate_in_shadow_mode_counts_and_refuses_nothing(world: World) -> None:
    """No code of the gate is needed for that."""
    gate = WeightLimit(10, weight=first, shadow=True)
    guarded = Pipeline(gate)(world.dependency(7).fn)
    assert world.call(guarded, 11) == 7
    assert explain(gate).idle


def test_gate_serves_each_key_and_is_cloned() -> None:
    """Copies have the settings, and a state of their own."""
    gate = WeightLimit(10, weight=first, name="uploads")
    copy = gate.clone()
    assert (copy.name, copy.limit, copy._weight) == ("uploads", 10, first)
    assert copy.admit is not gate.admit
    keyed = Keyed(gate.clone, key=lambda weight, key: key)
    guarded = keyed(lambda weight, key: guarded(weight, "b") if key == "a" else "inside")
    assert guarded(9, "a") == "inside"


def test_error_of_the_gates_function_is_the_callers(world: World) -> None:
    """It is raised at once, not repeated and not counted."""
    dependency = world.dependency(7)
    guarded = Pipeline(Retry(3, on=Exception, wait=0), WeightLimit(10, weight=lambda: 1))(dependency.fn)
    assert isinstance(world.outcome(guarded, "unexpected").error, TypeError)
    assert not dependency.calls


# -- the wrap -------------------------------------------------------------------------------------------------------


def test_wrap_answers_with_the_last_good_result(world: World) -> None:
    """It has the same arguments; repeating has failed; and an event reports it."""
    pipeline = Pipeline(StaleIfError(60), Retry(2, wait=0))
    told = EventRecorder(pipeline)
    guarded = pipeline(world.dependency("fresh", OSError(), OSError(), OSError(), OSError(), KeyError()).fn)
    assert [world.call(guarded, "a"), world.call(guarded, "a")] == ["fresh", "fresh"]
    assert isinstance(world.outcome(guarded, "b").error, OSError)
    assert [type(event).__name__ for event in told.events].count("FellBack") == 1


class Twice(Wrap):
    """Runs a call again, once, if it is worth repeating: as the page says a wrap does."""

    facts = Facts(runs=2)

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        """Run `inner`, and once more after a failure."""
        try:
            return await inner(call)
        except Exception as error:
            if not context.on_error(call, error).worth_repeating:
                raise
        call.verdict = None
        call.attempt += 1
        ready = call.again()
        if ready is not None:
            await ready
        return await inner(call)


def test_wrap_runs_a_function_again(world: World) -> None:
    """The second attempt has the number 2."""
    dependency = world.dependency(OSError(), "second")
    assert world.call(Pipeline(Twice())(dependency.fn)) == "second"
    assert len(dependency.calls) == 2


async def test_wrap_runs_a_block_again() -> None:
    """`call.again()` waits until the block is entered a second time."""
    numbers = []
    async for attempt in Pipeline(Twice()).attempts():
        async with attempt:
            numbers.append(attempt.number)
            if len(numbers) == 1:
                raise OSError
    assert numbers == [1, 2]


def test_wrap_passes_on_what_is_no_failure(world: World) -> None:
    """A programming error is the caller's."""
    guarded = Pipeline(StaleIfError(60))(world.dependency("fresh", TypeError()).fn)
    assert world.call(guarded, "a") == "fresh"
    assert isinstance(world.outcome(guarded, "a").error, TypeError)


def test_wrap_forgets_what_is_old_or_too_many(world: World) -> None:
    """Results older than `max_age`, and the least recent beyond `max_keys`."""
    old = Pipeline(StaleIfError(0.01))(world.dependency("fresh", Slow(0.05, OSError())).fn)
    assert world.call(old, "a") == "fresh"
    assert isinstance(world.outcome(old, "a").error, OSError)
    few = Pipeline(StaleIfError(60, max_keys=1))(world.dependency(1, 2, OSError(), OSError()).fn)
    assert [world.call(few, "a"), world.call(few, "b"), world.call(few, "b")] == [1, 2, 2]
    assert isinstance(world.outcome(few, "a").error, OSError)


# -- what else policies do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in fields(Facts)])
def test_fact_that_is_stated_as_an_attribute_is_refused(name: str) -> None:
    """It would not be read: a gate with `learns = True` would silently learn nothing."""
    with pytest.raises(TypeError, match=rf"{name} .*facts = Facts"):
        type("Learner", (Gate,), {name: True})


def test_effects_that_are_stated_as_an_attribute_are_refused() -> None:
    """They belong into the class statement."""
    with pytest.raises(TypeError, match=r"effects .*class statement"):
        type("Notifier", (Wrap,), {"effects": frozenset({"notify"})})


def test_property_may_have_the_name_of_a_fact() -> None:
    """It states nothing."""
    assert type("Paced", (Gate,), {"pace": property(lambda self: 3)}) is not None


def test_lint_judges_them_by_their_facts() -> None:
    """A substitute inside a breaker hides failures from it; a permit outside abandoned work is given back too early."""
    with pytest.warns(PipelineWarning, match="answers for every failure"):
        Pipeline(CircuitBreaker(), StaleIfError(60))
    with pytest.warns(PipelineWarning, match="WeightLimit first|then WeightLimit"):
        Pipeline(WeightLimit(10, weight=first), Timeout(1, thread=True))


def test_explain_asks_what_they_cost_and_do() -> None:
    """The wrap says so itself; the gate is taken at its word."""
    known = explain(Pipeline(StaleIfError(60), Retry(2, wait=0), Timeout(1)))
    assert known.worst.requests.most == 2
    assert not [each for each in known.assumes if "StaleIfError" in each]
    assert "answers with the last good result" in str(known)
    assert [each for each in explain(WeightLimit(10, weight=first)).assumes if "taken at its word" in each]


def test_dry_run_calls_what_only_judges() -> None:
    """The function that weighs is a judgement, so a fresh gate has it."""
    with dry_run():
        fresh = FreshPolicies().of(WeightLimit(10, weight=first))
    assert fresh._weight is first
