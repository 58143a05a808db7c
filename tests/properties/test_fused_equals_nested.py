"""Neighbouring gates share one gate layer, which changes nothing: one pipeline behaves as nested pipelines do.

Two rules make a difference by design, so stacks in which they apply are not compared:

- The age at which a cut-short call is a failure is the limit of the nearest Timeout *of its own pipeline*. A gate that
  learns must have the same nearest limit in both shapes.
- A gate that decides by evidence is asked again after a wait at an inner gate only if both are in one gate group. (Lint
  warns of such a gate outside a queue.) No such gate stands outside a queue here, unless both are in one pipeline in
  both shapes.

All pipelines of a stack have equal classifiers, because each pipeline has its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from resilient import CircuitBreaker, Pipeline, Retry, Timeout, events
from resilient.pipeline import flat
from resilient.runtime import virtual
from tests.hypothesis_settings import search
from tests.properties import stacks
from tests.properties.stacks import Nest, Recipe, Stage, Traffic

Record = dict[str, Any]

SAMPLED = [0.0625 + 0.25 * number for number in range(12)]
"""When the state is looked at, in seconds: between the ticks in which things happen."""


def run(pipeline: Pipeline, traffic: Traffic, seed: int) -> Record:
    """What there is to see from outside: outcomes and their times, events, states on the way and at the end."""
    stage = Stage(pipeline, traffic.script)
    record: Record = {"outcomes": {}, "events": [], "states": []}

    async def call(number: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            ended: Any = await stage.call(number)
        except Exception as error:
            ended = (type(error).__name__, str(error), getattr(error, "__notes__", []), repr(error.__cause__))
        record["outcomes"][number] = (ended, loop.time())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = []
        for at in SAMPLED:
            loop.call_at(at, lambda: record["states"].append(states(pipeline)))
        async with asyncio.TaskGroup() as group:
            for number, start in enumerate(traffic.starts):
                loop.call_at(start, lambda number=number: tasks.append(group.create_task(call(number))))
            await asyncio.sleep(max(traffic.starts) + 0.25)
        record["states"].append(states(pipeline))

    random.seed(seed)
    stop = events.listen(lambda event: record["events"].append(plain(event)))
    try:
        virtual.run(main())
    finally:
        stop()
    record["requests"], record["most"] = stage.requests, stage.most
    return record


def plain(event: events.Event) -> tuple[Any, ...]:
    """An event as plain data, but for the pipeline's name."""
    values = [getattr(event, field.name) for field in fields(event) if field.name != "pipeline"]
    return type(event).__name__, *(repr(value) if isinstance(value, BaseException) else value for value in values)


def states(pipeline: Pipeline) -> list[Any]:
    """How many calls are inside, and the state of each policy, outermost first."""
    inside = pipeline.snapshot()["in_flight"]
    return [inside, *(policy.snapshot() for policy in flat(pipeline.policies))]


# -- where a difference would be legitimate --------------------------------------------------------------------------


def nearest_limits(parts: Sequence[Recipe | Nest]) -> list[float | None]:
    """For each gate that learns, outermost first: the limit that its own pipeline has for it."""
    limits: list[float | None] = []
    own = [part.args[0] if isinstance(part, Recipe) and part.make is Timeout else None for part in parts]
    for at, part in enumerate(parts):
        if isinstance(part, Nest):
            limits += nearest_limits(part.parts)
        elif learns(part):
            near = [limit for limit in (*own[at + 1 :], *reversed(own[:at])) if limit is not None]
            limits.append(near[0] if near else None)
    return limits


def asked_again(parts: Sequence[Recipe | Nest]) -> list[int]:
    """For each judge, outermost first: after how many gates it is asked again, if they made the call wait."""
    found: list[int] = []
    for at, part in enumerate(parts):
        if isinstance(part, Nest):
            found += asked_again(part.parts)
        elif by_evidence(part):
            again = 0
            for inner in parts[at + 1 :]:
                if isinstance(inner, Nest) or inner.make in (Timeout, Retry):
                    break
                again += waits(inner)
            found.append(again)
    return found


def learns(part: Recipe) -> bool:
    return part.make is CircuitBreaker or bool(dict(part.options).get("learns"))


def by_evidence(part: Recipe) -> bool:
    return part.make is CircuitBreaker or bool(dict(part.options).get("by_evidence"))


def waits(part: Recipe) -> bool:
    options = dict(part.options)
    return bool(options.get("queue")) or options.get("line") is not None


# -- the property ---------------------------------------------------------------------------------------------------


@search(150)
@given(
    parts=st.lists(
        st.one_of(stacks.bulkheads(), stacks.breakers(), stacks.turnstiles(), stacks.policies()), min_size=2, max_size=6
    ),
    traffic=stacks.traffics(),
    classify=stacks.classifiers(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_pipeline_behaves_as_its_policies_nested_do(
    parts: list[Recipe], traffic: Traffic, classify: Any, seed: int, data: st.DataObject
) -> None:
    """The same outcomes at the same times, the same events, the same states on the way and at the end."""
    nested = data.draw(stacks.nests(parts), label="nested")
    assume(nested != tuple(parts))
    assume(nearest_limits(parts) == nearest_limits(nested))
    assume(asked_again(parts) == asked_again(nested))
    fused = run(stacks.build(parts, classify()), traffic, seed)
    assert run(stacks.build(nested, classify()), traffic, seed) == fused
