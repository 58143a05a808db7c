"""What every transport does with its pipeline, whatever the client: it judges by HTTP, keeps one circuit for each
origin, and repeats only what may be repeated.

A transport serves all the servers that its client talks to, and one dead server must not shut out the others. So each
`CircuitBreaker` of its pipeline becomes the pattern for one circuit for each origin. The pattern remembers them: who
shares a breaker between transports shares the circuits. A breaker that is inside a `Keyed`, or that has a
`state_storage`, is as its user wanted it and stays.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from resilient import registry
from resilient.outcome import DEFAULT, Classifier
from resilient.pipeline import Pipeline
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.keyed import Keyed
from resilient.policy import Policy
from resilient.runtime import current_async

__all__ = ["fitted", "guarded", "once", "uncut"]

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("resilient")


def fitted(pipeline: Pipeline, judge: Classifier, origin: Callable[..., str]) -> Pipeline:
    """`pipeline` as a transport needs it: one circuit for each origin, and judged by `judge` where it has no judge of
    its own. In the registry, by its name, is then the one that is in use.
    """
    policies = tuple(_fitted(policy, judge, origin) for policy in pipeline.policies)
    twin = pipeline.twin(policies, judge if pipeline.classify is DEFAULT else None)
    if twin.name:
        registry.register(twin)
    return twin


def _fitted(policy: Policy, judge: Classifier, origin: Callable[..., str]) -> Policy:
    if isinstance(policy, Pipeline):
        return fitted(policy, judge, origin)
    if isinstance(policy, CircuitBreaker) and not policy.stored:
        circuits: Keyed = vars(policy).setdefault("by_origin", Keyed(policy.fresh, key=origin, name=policy.name))
        return circuits
    return policy


def once(pipeline: Pipeline) -> Pipeline | None:
    """`pipeline` without all that may send a request more than once; None: nothing is left of it."""
    kept: list[Policy] = []
    for policy in pipeline.policies:
        left: Policy | None = once(policy) if isinstance(policy, Pipeline) else policy
        if left is not None and (isinstance(left, Pipeline) or left.runs == 1):
            kept.append(left)
    return pipeline.twin(tuple(kept)) if kept else None


def guarded(pipeline: Pipeline | None, send: Callable[P, R]) -> Callable[P, R]:
    """`send` under a pipeline, if there is one."""
    return send if pipeline is None else pipeline(send)


class _NoDeadline:
    deadline: float | None = None
    waited: float = 0.0


_closing: dict[object, object] = {}


async def uncut(close: Callable[[], Awaitable[object]]) -> None:
    """Await `close()`, which goes on when the caller is cancelled: httpcore forgets a connection for ever whose closing
    is cut short. What it raises is logged: there is nobody who could do anything about it.
    """
    runtime = current_async()
    parking = runtime.park()

    async def work() -> None:
        try:
            await close()
        except Exception:
            _log.debug("resilient: closing a response failed", exc_info=True)
        finally:
            _closing.pop(parking, None)
            parking.wake()

    # An event loop keeps only weak references to its tasks.
    _closing[parking] = runtime.spawn(work, contextvars.copy_context())
    await parking.wait(None, _NoDeadline())
