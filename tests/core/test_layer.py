"""Layers tell the layers around them what these can do without."""

import asyncio

import pytest

from resilient import Bulkhead, Pipeline, Retry, Timeout
from resilient.core.call import Call, new_call
from resilient.core.context import PipelineContext
from resilient.core.layer import Marks, marked, marks_of
from resilient.core.policy import Policy
from resilient.pipeline.compose import compose
from resilient.pipeline.functions import async_leaf, sync_leaf
from resilient.runtime.threads import THREADS


async def layer(call: Call) -> None:
    """A layer that nothing is known of."""


def test_layer_without_marks_promises_nothing() -> None:
    """A layer of somebody's own policy has the defaults."""
    assert marks_of(layer) == Marks()


def test_marked_layer_is_the_layer_itself() -> None:
    """There is no frame around it."""

    async def known(call: Call) -> None: ...

    assert marked(known, Marks(is_leaf=True)) is known
    assert marks_of(known).is_leaf


@pytest.mark.parametrize("policy", [Bulkhead(3), Timeout(2), Retry(2)], ids=repr)
def test_policies_around_a_plain_function_have_a_plain_form(policy: Policy) -> None:
    """It gives the function's result without a coroutine."""
    context = PipelineContext("", Pipeline(policy).classify)
    plainly = marks_of(compose([policy], context, sync_leaf(context)).layer).plainly
    assert plainly is not None
    assert plainly(new_call(len, ([1, 2],), {}, THREADS)) == 2


def test_policies_around_a_coroutine_function_have_none() -> None:
    """What has to be awaited cannot be called plainly."""
    policy = Bulkhead(3)
    context = PipelineContext("", Pipeline(policy).classify)
    bound = compose([policy], context, async_leaf(context)).layer
    assert marks_of(bound).plainly is None

    async def answer() -> int:
        return 7

    async def called() -> int:
        call = new_call(answer, (), {}, None)
        call.begin()
        return await bound(call)  # type: ignore[no-any-return]

    assert asyncio.run(called()) == 7
