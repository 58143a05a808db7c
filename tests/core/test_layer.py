"""Facts about a layer, which the layers around it use when they are bound."""

import asyncio
from typing import Any

import pytest

from resilient import Bulkhead, Pipeline, Retry, Timeout
from resilient.core.call import Call, new_call
from resilient.core.context import PipelineContext
from resilient.core.layer import BoundLayer, Layer
from resilient.core.policy import Policy, Wrap
from resilient.pipeline.compose import compose
from resilient.pipeline.functions import async_leaf, sync_leaf
from resilient.runtime.threads import THREADS


class PassThrough(Wrap):
    """A policy of a user, which adds nothing to a call."""

    async def run(self, call: Call, inner: Layer, context: PipelineContext) -> Any:
        return await inner(call)


def test_layer_of_a_users_policy_has_no_facts() -> None:
    """The layers around it then make no use of its kind: they await it."""
    policy = PassThrough()
    context = PipelineContext("", Pipeline(policy).classify)
    bound = policy._bind(sync_leaf(context), context)
    assert bound == BoundLayer(bound.run)


@pytest.mark.parametrize("policy", [Bulkhead(3), Timeout(2), Retry(2)], ids=repr)
def test_policies_around_a_plain_function_have_a_plain_form(policy: Policy) -> None:
    """It gives the function's result without a coroutine."""
    context = PipelineContext("", Pipeline(policy).classify)
    plainly = compose([policy], context, sync_leaf(context)).layer.plainly
    assert plainly is not None
    assert plainly(new_call(len, ([1, 2],), {}, THREADS)) == 2


def test_policies_around_a_coroutine_function_have_none() -> None:
    """What has to be awaited cannot be called plainly."""
    policy = Bulkhead(3)
    context = PipelineContext("", Pipeline(policy).classify)
    bound = compose([policy], context, async_leaf(context)).layer
    assert bound.plainly is None

    async def answer() -> int:
        return 7

    async def called() -> int:
        call = new_call(answer, (), {}, None)
        call.begin()
        return await bound.run(call)

    assert asyncio.run(called()) == 7
