"""Policies made anew for a rehearsal: the settings of production, none of its state, and nothing that it touches.

A pipeline that runs in production pages people, writes to Redis, counts metrics and asks replicas. A run of a world
makes thousands of calls, so of the user's own code it runs judgement only: classifiers, predicates, keys, and
strategies of tenacity and of limits (`Policy.judgements`). For all else (`Policy.effects`, listeners of pipelines, and
callables that a policy of one's own takes) something stands in that counts, and does nothing. It does so in every
policy that is constructed meanwhile (`Policy.effect`), whoever constructs it:

    hooks of a Retry, listeners of a CircuitBreaker or of a pipeline     return nothing
    Fallback(call=)                                                      an answer that counts as stood in
    Chaos(enabled=)                                                      says that it is off
    the factory of a Keyed                                               makes gates like its first one
    a storage of a CircuitBreaker                                        is one in memory, for each circuit by itself
    the faults of a chaos transport                                      are left out: the world has its own

`rehearsal` counts what would have run; with `run_hooks=True` all but storages and factories do run.
"""

from __future__ import annotations

import operator
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pybreaker

from resilient import events
from resilient.budget import Budget
from resilient.call import name_of
from resilient.errors import PipelineWarning
from resilient.faults import Results
from resilient.http.chaos import Witness
from resilient.pipeline import Pipeline
from resilient.policies.chaos import Chaos
from resilient.policies.keyed import Keyed
from resilient.policy import Policy, standing_in

__all__ = ["Rehearsal", "Twins", "rehearsal"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run does with code of the user's that may do something in the world.

    Attributes:
        run_hooks: it runs.
        not_run: how often it would have, by what it is: `"Fallback(call=ask_replica)"`.
    """

    run_hooks: bool = False
    not_run: Counter[str] = field(default_factory=Counter)

    def stand_in(self, policy: Policy, argument: str, value: Any) -> Any:
        """What stands in for an argument of a policy, as far as that may do something."""
        return self.harmless(f"{type(policy).__name__}({argument}=%s)", value)

    def harmless(self, what: str, value: Any) -> Any:
        """A value without what may do something; `what` says whose it is, with `%s` for its name."""
        kind = type(value)
        if isinstance(value, Results):
            return replace(value, call=self.harmless(what, value.call))
        if isinstance(value, type) or kind.__module__.partition(".")[0] in ("resilient", "tenacity"):
            return value  # classes, strategies, and what stands in already
        if isinstance(value, pybreaker.CircuitBreakerStorage):
            return _Storage(self._counting(what % kind.__qualname__, kind))
        if self.run_hooks:
            return value
        if isinstance(value, tuple | list):
            made = [self.harmless(what, each) for each in value]
            return value if all(map(operator.is_, made, value)) else kind(made)
        if isinstance(value, pybreaker.CircuitBreakerListener):
            theirs = [name for name in _Listener.METHODS if getattr(kind, name) is not getattr(_Listener, name)]
            return _Listener({name: self._counting(what % f"{kind.__qualname__}.{name}", kind) for name in theirs})
        return self._counting(what % name_of(value), value) if callable(value) else value

    def _counting(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts in the place of another one."""
        not_run = self.not_run

        def count(*args: Any, **kwargs: Any) -> Any:
            not_run[what] += 1
            return _answer(*args)

        count.__qualname__ = name_of(function)
        return count


_current: ContextVar[Rehearsal | None] = ContextVar("resilient_rehearsal", default=None)


@contextmanager
def rehearsal(*, run_hooks: bool = False) -> Iterator[Rehearsal]:
    """Policies that are made inside do nothing in the world, and count in the `Rehearsal` that this yields. Pipelines
    that are made inside are apart from the program's (`events.apart`)."""
    made = Rehearsal(run_hooks)
    token = _current.set(made)
    try:
        with _standing_in(made), events.apart():
            yield made
    finally:
        _current.reset(token)


@contextmanager
def _standing_in(rehearsed: Rehearsal) -> Iterator[None]:
    token = standing_in.set(rehearsed.stand_in)
    try:
        yield
    finally:
        standing_in.reset(token)


class Twins:
    """Makes policies anew, for the rehearsal that is going on. What belongs together does so again: a policy that
    stands in two places, or a `Budget` that several policies share.

    Args:
        shadow: make those that have a shadow mode in shadow mode.
    """

    def __init__(self, *, shadow: bool = False) -> None:
        self._shadow = shadow
        self._rehearsal = _current.get() or Rehearsal()
        self._made: dict[int, tuple[object, Any]] = {}  # with what it was made of, whose id nothing else has meanwhile

    def of(self, policy: Policy) -> Any:
        """The twin of a policy."""
        with _standing_in(self._rehearsal):
            return self._once(policy, self._pipeline if isinstance(policy, Pipeline) else self._policy)

    def _once(self, thing: Any, make: Callable[[Any], Any]) -> Any:
        if id(thing) not in self._made:
            self._made[id(thing)] = thing, make(thing)
        return self._made[id(thing)][1]

    def _pipeline(self, pipeline: Pipeline) -> Pipeline:
        policies = (self.of(each) for each in pipeline.policies if not isinstance(each, Witness))
        twin = Pipeline(*policies, classify=pipeline.classify)
        twin.switch(pipeline.own_mode)
        for listener, kinds in pipeline._scope.channel.heard_by():
            twin.listen(self._rehearsal.harmless("listen(%s)", listener), *kinds)
        return twin

    def _policy(self, policy: Policy) -> Policy:
        return policy.again(partial(self._argument, policy))

    def _argument(self, policy: Policy, name: str, value: Any) -> Any:
        """What the twin of a policy is made with for one of its arguments. What its constructor hands to `effect` is
        left to that; what may do something in a policy of a user's own is not."""
        if name == "shadow" and self._shadow:
            return True
        if name == "factory" and isinstance(policy, Keyed):
            return partial(self._policy, policy.pattern)
        if name == "seed" and isinstance(policy, Chaos) and value is None:
            return random.getrandbits(64)  # which the seed of the run decides
        if isinstance(value, Policy):
            return self.of(value)
        if isinstance(value, Budget):
            return self._once(value, _like)
        ours = type(policy).__module__.partition(".")[0] == "resilient"
        return value if ours or name in policy.judgements else self._rehearsal.stand_in(policy, name, value)


def fresh(pattern: Policy, *, shadow: bool = False) -> Policy:
    """A new policy with the settings of `pattern`; with `shadow`, in shadow mode where it has one. Warnings about the
    order of policies are not repeated: they were given when the pattern was made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return Twins(shadow=shadow).of(pattern)  # type: ignore[no-any-return]


class _Listener(pybreaker.CircuitBreakerListener):
    """A listener of pybreaker whose methods are these functions."""

    METHODS = ("before_call", "success", "failure", "state_change")

    def __init__(self, methods: dict[str, Callable[..., Any]]) -> None:
        vars(self).update(methods)


class _Storage(pybreaker.CircuitMemoryStorage):
    """A storage of one circuit alone. `count` is called for each state that it is told."""

    def __init__(self, count: Callable[[], object]) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._count = count

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._count()
        self._state = state


def _answer(error: object = None, request: object = None, *_: object) -> Any:
    """What stands in for the answer of a Fallback's function: None, or for a request of httpx or httpx2 an empty
    response of that library, because its clients can take nothing else."""
    library: Any = sys.modules.get(type(request).__module__.partition(".")[0])
    return library.Response(200) if type(request).__name__ == "Request" and hasattr(library, "Response") else None


def _like(budget: Budget) -> Budget:
    """Another budget with the same settings, as it is at first."""
    return Budget(budget.ratio, reserve=budget.reserve, cap=budget.cap, ttl=budget.ttl)
