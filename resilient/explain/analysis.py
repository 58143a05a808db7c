"""`explain`: what a pipeline costs at worst, computed from its settings alone.

How long a call takes, how often it is attempted, how many requests it makes; what each policy does with each error on
its way to the caller; which policies never act; and which order or combination of policies is wrong. The figures are
composed from the worst cases that the policies state (`resilient.core.worst_case`). A user's own policy is included if
it defines `worst` and `meets`.

A figure is *exact* if some dependency, and some traffic of other calls, does cause it; it is a *bound* if only a larger
value is excluded. The long run is another question: there budgets, and not attempts, limit the requests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from resilient.core.classify import FAILURE, Verdict
from resilient.core.gate import Gate
from resilient.core.levels import levels
from resilient.core.policy import Policy
from resilient.core.worst_case import Bound, Ending, InnerCost, Reaction, Surroundings, WorstCase
from resilient.events.channel import hidden_pipelines
from resilient.explain.explanation import Explanation
from resilient.explain.long_run import long_run
from resilient.explain.records import Behind, Idle, Part, Route, Step
from resilient.explain.subject import Function, subject_of
from resilient.pipeline import Pipeline

__all__ = ["explain"]


def explain(
    pipeline: Any,
    *,
    behind: Any = None,
    is_async: bool | None = None,
    function_limit: float | None = None,
) -> Explanation:
    """Explain what a pipeline does to a call in the worst case. Nothing is called.

    Args:
        pipeline: a pipeline, a policy, or something that has a pipeline: a guarded function, a transport, a client (see
            `resilient.explain.subject`).
        behind: the outer pipeline, if its function makes the call through this one.
        is_async: whether it guards an `async def`; a plain `def` cannot be stopped. None: as the pipeline's function or
            transport shows, else an `async def`.
        function_limit: the most seconds that the function takes by itself (for example, the timeout of its client);
            None: it may hang.

    Raises `TypeError` if there is no pipeline.
    """
    inner, guards = _examined("pipeline", pipeline)
    outer = None if behind is None else _examined("behind", behind)[0]
    is_async = guards != "def" if is_async is None else is_async
    places = _places(inner)
    policies = [place.policy for place in places]
    surroundings = Surroundings(is_async=is_async, once=inner._context.call_options.leaves_repeating)
    function = _function(function_limit, is_async=is_async)
    found = levels([(place.policy, place.pipeline._context) for place in places], function)
    worst = found[0](surroundings)
    idle = [Idle(str(policy), policy.facts.inactive) for policy in policies if policy.facts.inactive is not None]
    unfit = [(policy, policy._unfit(is_async=is_async, block=False)) for policy in policies]
    idle += [Idle(str(policy), f"it cannot guard this: {why}") for policy, why in unfit if why is not None]
    layered = None if outer is None else _layered(outer, inner, function, surroundings)
    if layered is not None and layered.once:
        leaves = f"behind {layered.name} it leaves retries to the outer pipeline"
        idle += [Idle(str(policy), leaves) for policy in policies if _may_leave(policy, surroundings)]
    return Explanation(
        name=inner.name or "pipeline",
        function="async def" if is_async else "def",
        function_limit=function_limit,
        worst=worst,
        parts=tuple(
            Part(
                place.policy.name,
                type(place.policy).__name__,
                str(place.policy),
                place.path,
                place.pipelines,
                level.seen,
                place.policy.facts.inactive,
            )
            for place, level in zip(places, found, strict=True)
        ),
        long_run=long_run([(inner, _never)], worst.requests.most),
        routes=tuple(_routes(places, is_async=is_async)),
        idle=tuple(idle),
        findings=tuple(inner.findings),
        assumes=tuple(_assumptions(places, surroundings)),
        behind=layered,
    )


def _examined(argument: str, thing: Any) -> tuple[Pipeline, Function | None]:
    """The pipeline that is explained, and the kind of function that it guards. Raises `TypeError` if there is none."""
    subject = subject_of(argument, thing, decorators=False)
    policy = subject.policy
    assert policy is not None
    if not isinstance(policy, Pipeline):
        with hidden_pipelines():
            policy = Pipeline(policy)
    return policy, subject.guards


def _function(limit: float | None, *, is_async: bool) -> InnerCost:
    if limit is None:
        why = "nothing ends the function: " + ("there is no Timeout" if is_async else "no Timeout stops a plain def")
        worst = WorstCase(Bound(math.inf, math.inf), why=why)
    else:
        worst = WorstCase(Bound(limit, limit), why=f"the function takes {limit:g} s")
    return lambda _: worst


@dataclass(frozen=True)
class _Place:
    policy: Policy
    pipeline: Pipeline
    path: tuple[int, ...]
    pipelines: tuple[str, ...]
    shown: str = ""


def _shown(policy: Policy, policies: Sequence[Policy]) -> str:
    """The name of a policy in the explanation: its own name; if several have that name, its kind (`Policy._noun`); if
    several are of that kind, its settings."""
    if [each.name for each in policies].count(policy.name) == 1:
        return policy.name
    return policy._noun if [each._noun for each in policies].count(policy._noun) == 1 else str(policy)


def _places(pipeline: Pipeline, path: tuple[int, ...] = (), around: tuple[str, ...] = ()) -> list[_Place]:
    """The policies of a pipeline in order, with those of nested pipelines in their places."""
    places: list[_Place] = []
    names = (*around, pipeline.name or "pipeline")
    for number, policy in enumerate(pipeline.policies, 1):
        here = (*path, number)
        if isinstance(policy, Pipeline):
            places += _places(policy, here, names)
        else:
            places.append(_Place(policy, pipeline, here, names))
    return places


# -- under another pipeline -----------------------------------------------------------------------------------------


def _layered(outer: Pipeline, inner: Pipeline, function: InnerCost, surroundings: Surroundings) -> Behind:
    policies = [place.policy for place in _places(outer)]
    repeated = any(policy.facts.runs != 1 for policy in policies)
    whole = levels([(inner, inner._context)], function)[0]
    # A Timeout directly around the function does not pass its deadline inward, but it still ends the inner calls.
    limits = [policy.facts.time_limit for policy in policies[:-1] if policy.facts.time_limit is not None]

    def call(around: Surroundings) -> WorstCase:
        seen = replace(surroundings, within=around.within, again=around.again, repeated=repeated)
        near = whole(seen)
        if policies[-1].facts.time_limit is None:
            return near
        far = whole(replace(seen, within=min(limits, default=math.inf)))
        return replace(
            near,
            seconds=Bound(near.seconds.sure, far.seconds.most),
            attempts=Bound(near.attempts.sure, far.attempts.most),
            requests=Bound(near.requests.sure, far.requests.most),
            why=far.why,
        )

    def leaves(policy: Policy) -> bool:
        """Whether a policy of the inner pipeline leaves retries to the outer one."""
        return _may_leave(policy, surroundings)

    once = repeated and any(leaves(place.policy) for place in _places(inner))
    worst = levels([(outer, outer._context)], call)[0](Surroundings(is_async=surroundings.is_async))
    return Behind(
        outer.name or "pipeline",
        worst,
        long_run([(outer, _never), (inner, leaves if once else _never)], worst.requests.most),
        outer.worst(function, Surroundings(is_async=surroundings.is_async)).requests,
        once,
    )


def _never(policy: Policy) -> bool:
    return False


def _may_leave(policy: Policy, surroundings: Surroundings) -> bool:
    """Whether a policy leaves retries to an outer pipeline that retries."""
    facts = policy.facts
    return facts.runs != 1 and not facts.overlaps and (surroundings.once or facts.leaves_repeating)


# -- routes of outcomes ---------------------------------------------------------------------------------------------


def _routes(places: Sequence[_Place], *, is_async: bool) -> list[Route]:
    """One route for each kind of outcome that can occur."""
    policies = [place.policy for place in places]
    places = [replace(place, shown=_shown(place.policy, policies)) for place in places]
    ends = _ENDS if is_async else _ENDS[:-1]  # a plain def is never cancelled
    routes = [_route(end, "the function", error, places) for end, error in ends]
    if any(place.pipeline.classify.judges_results for place in places):
        routes.insert(1, _route("an unacceptable result", "the function", None, places))
    for at, place in enumerate(places):
        facts = place.policy.facts
        if facts.inactive is None:
            routes += [_route(kind.__name__, place.shown, kind("in the lab"), places[:at]) for kind in facts.raises]
    return routes


_ENDS: tuple[tuple[str, BaseException], ...] = (
    ("a failure", ConnectionError("in the lab")),
    ("a programming error", TypeError("in the lab")),
    ("a cancellation", asyncio.CancelledError()),
)


def _route(end: str, origin: str, error: BaseException | None, places: Sequence[_Place]) -> Route:
    steps = []
    for place in reversed(places):
        if place.policy.facts.inactive is not None:
            continue
        reaction = _reaction(place, error)
        if reaction is None:
            continue
        steps.append(Step(place.shown, reaction.does))
        if reaction.stops:
            return Route(end, origin, tuple(steps), "gets the answer")
    return Route(end, origin, tuple(steps), "gets the result" if error is None else "gets it")


def _reaction(place: _Place, error: BaseException | None) -> Reaction | None:
    verdict: Verdict | None = None
    if error is None or isinstance(error, ConnectionError):
        verdict = FAILURE  # it stands for any error that the classifier takes for a failure
    elif isinstance(error, Exception):
        verdict = place.pipeline.classify.error(error)
    try:
        return place.policy.meets(Ending(error, verdict))
    except Exception:  # of a predicate that expects another class of errors
        return Reaction("asks a predicate of its user")


# -- assumptions ----------------------------------------------------------------------------------------------------


def _assumptions(places: Sequence[_Place], surroundings: Surroundings) -> list[str]:
    policies = [place.policy for place in places]
    modes = {place.pipelines[-1]: place.pipeline.mode for place in places if place.pipeline.mode != "on"}
    assumed = [f"{name} is switched on (it is switched to {mode!r} now)" for name, mode in modes.items()]
    if surroundings.is_async:
        assumed.append("the function ends when it is cancelled")
    else:
        assumed.append("a plain def runs to its end: a Timeout bounds the waits and the further attempts around it")
    assumed.append("hooks, predicates, strategies, key functions and listeners take no time")
    if not surroundings.is_async and any(place.pipeline.classify.judges_results for place in places):
        assumed.append("closing a discarded result takes no time, because a plain def waits for it")
    if any(policy.facts.repeats for policy in policies):
        assumed.append(
            "the function may fail in any way that is repeated, and ask for the longest pause that is respected"
        )
    if any(policy.facts.waits for policy in policies):
        assumed.append("queues are shared only with calls that hold their places no longer than this one")
    contexts = [place.pipeline._context for place in places]
    assumed += [each for context in contexts for each in (*context.call_options.assumes, *context.lifecycle.assumes)]
    assumed += [each for policy in policies for each in _assumed_of(policy)]
    return list(dict.fromkeys(assumed))


def _assumed_of(policy: Policy) -> tuple[str, ...]:
    """Sentences about the assumptions behind the figures of a policy."""
    if type(policy).worst in (Policy.worst, Gate.worst):
        return (f"{policy} is not known here: it is taken at its word",)
    return policy.facts.assumes
