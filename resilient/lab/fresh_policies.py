"""Fresh policies for a dry run: with the settings of production, without its state, and without effects on it.

A pipeline in production pages people, writes to Redis, counts metrics and calls replicas. A run of a world makes
thousands of calls, so of the user's own code it runs only the parts that decide: classifiers, predicates, key
functions, and strategies of tenacity and of limits (the `judgements` of a `Policy`). Everything else (its `effects`,
listeners of pipelines, and callables that a policy of one's own takes) is replaced by a substitute that counts and does
nothing. This holds for every policy that is constructed during the dry run (`Policy._effect`), by the library or by the
user:

    hooks of a Retry, listeners of a CircuitBreaker or of a pipeline     return nothing
    Fallback(call=)                                                      an answer that counts as a substitute
    Chaos(enabled=)                                                      returns False
    the factory of a Keyed                                               makes gates like its first one
    the storage of a CircuitBreaker                                      is one in memory, for each circuit
    the faults of a chaos transport                                      are left out: the world has its own

`dry_run` counts the code that would have run. With `run_hooks=True` it does run, except storages and factories.
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

from resilient.core.budget import Budget
from resilient.core.call import name_of
from resilient.core.policy import Policy, effect_substitute
from resilient.errors import PipelineWarning
from resilient.events.channel import hidden_pipelines
from resilient.faults import Results
from resilient.http.chaos import Witness
from resilient.pipeline import Pipeline
from resilient.policies.chaos import Chaos
from resilient.policies.keyed import Keyed

__all__ = ["DryRun", "FreshPolicies", "dry_run"]


@dataclass(frozen=True, slots=True)
class DryRun:
    """The treatment of the user's code that may have effects outside the simulation, in one run.

    Attributes:
        run_hooks: whether this code runs.
        not_run: how often each piece of this code would have run, by name: `"Fallback(call=ask_replica)"`.
    """

    run_hooks: bool = False
    not_run: Counter[str] = field(default_factory=Counter)

    def substitute(self, policy: Policy, argument: str, value: Any) -> Any:
        """The substitute for an argument of a policy, or the argument itself if it has no effects."""
        return self.without_effects(f"{type(policy).__name__}({argument}=%s)", value)

    def without_effects(self, what: str, value: Any) -> Any:
        """A value without its effects. `what` names the value in the count, with `%s` in place of its own name."""
        kind = type(value)
        if isinstance(value, Results):
            return replace(value, call=self.without_effects(what, value.call))
        if isinstance(value, type) or kind.__module__.partition(".")[0] in ("resilient", "tenacity"):
            return value  # classes, strategies, and substitutes
        if isinstance(value, pybreaker.CircuitBreakerStorage):
            return _Storage(self._counting(what % kind.__qualname__, kind))
        if self.run_hooks:
            return value
        if isinstance(value, tuple | list):
            made = [self.without_effects(what, each) for each in value]
            return value if all(map(operator.is_, made, value)) else kind(made)
        if isinstance(value, pybreaker.CircuitBreakerListener):
            theirs = [name for name in _Listener.METHODS if getattr(kind, name) is not getattr(_Listener, name)]
            return _Listener({name: self._counting(what % f"{kind.__qualname__}.{name}", kind) for name in theirs})
        return self._counting(what % name_of(value), value) if callable(value) else value

    def _counting(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts its calls and does nothing else, in place of another one."""
        not_run = self.not_run

        def count(*args: Any, **kwargs: Any) -> Any:
            not_run[what] += 1
            return _answer(*args)

        count.__qualname__ = name_of(function)
        return count


_current: ContextVar[DryRun | None] = ContextVar("resilient_dry_run", default=None)


@contextmanager
def dry_run(*, run_hooks: bool = False) -> Iterator[DryRun]:
    """Policies that are made inside have no effects, and count in the `DryRun` that this yields. Pipelines that are
    made inside are not registered (`apart`)."""
    made = DryRun(run_hooks)
    token = _current.set(made)
    try:
        with _substituting(made), hidden_pipelines():
            yield made
    finally:
        _current.reset(token)


@contextmanager
def _substituting(dry: DryRun) -> Iterator[None]:
    token = effect_substitute.set(dry.substitute)
    try:
        yield
    finally:
        effect_substitute.reset(token)


class FreshPolicies:
    """Makes fresh policies for the current dry run, and keeps what is shared: a policy in two places becomes one new
    policy, and a `Budget` of several policies becomes one new budget.

    Args:
        shadow: put policies in shadow mode if they have one.
    """

    def __init__(self, *, shadow: bool = False) -> None:
        self._shadow = shadow
        self._dry_run = _current.get() or DryRun()
        self._made: dict[int, tuple[object, Any]] = {}  # with the original, so that its id stays in use

    def of(self, policy: Policy) -> Any:
        """The fresh policy or pipeline in place of `policy`: the same one each time."""
        with _substituting(self._dry_run):
            return self._once(policy, self._pipeline if isinstance(policy, Pipeline) else self._policy)

    def _once(self, thing: Any, make: Callable[[Any], Any]) -> Any:
        if id(thing) not in self._made:
            self._made[id(thing)] = thing, make(thing)
        return self._made[id(thing)][1]

    def _pipeline(self, pipeline: Pipeline) -> Pipeline:
        policies = (self.of(each) for each in pipeline.policies if not isinstance(each, Witness))
        fresh_one = Pipeline(*policies, classify=pipeline.classify)
        fresh_one.switch(pipeline.own_mode)
        for listener, kinds in pipeline._context.channel.heard_by():
            fresh_one.listen(self._dry_run.without_effects("listen(%s)", listener), *kinds)
        return fresh_one

    def _policy(self, policy: Policy) -> Policy:
        return policy.clone(partial(self._argument, policy))

    def _argument(self, policy: Policy, name: str, value: Any) -> Any:
        """The argument of a fresh policy, from that of the original. The library's own constructors pass effects to
        `Policy._effect` themselves; for a policy of the user's, they are replaced here."""
        if name == "shadow" and self._shadow:
            return True
        if name == "factory" and isinstance(policy, Keyed):
            return partial(self._policy, policy._pattern)
        if name == "seed" and isinstance(policy, Chaos) and value is None:
            return random.getrandbits(64)  # `random` is seeded by the run
        if isinstance(value, Policy):
            return self.of(value)
        if isinstance(value, Budget):
            return self._once(value, _like)
        ours = type(policy).__module__.partition(".")[0] == "resilient"
        return value if ours or name in policy._judgements else self._dry_run.substitute(policy, name, value)


def fresh(pattern: Policy, *, shadow: bool = False) -> Policy:
    """A fresh policy with the settings of `pattern`; with `shadow`, in shadow mode if it has one. Warnings about the
    order of policies are not repeated: they were given when the pattern was made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return FreshPolicies(shadow=shadow).of(pattern)  # type: ignore[no-any-return]


class _Listener(pybreaker.CircuitBreakerListener):
    """A pybreaker listener with these functions as methods."""

    METHODS = ("before_call", "success", "failure", "state_change")

    def __init__(self, methods: dict[str, Callable[..., Any]]) -> None:
        vars(self).update(methods)


class _Storage(pybreaker.CircuitMemoryStorage):
    """A storage of a single circuit, in memory. `count` is called each time its state is set."""

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
    """The answer of a substitute for a Fallback's function: None, or for a request of httpx or httpx2 an empty response
    of that library, because its clients accept nothing else."""
    library: Any = sys.modules.get(type(request).__module__.partition(".")[0])
    return library.Response(200) if type(request).__name__ == "Request" and hasattr(library, "Response") else None


def _like(budget: Budget) -> Budget:
    """A new budget with the same settings."""
    return Budget(budget.ratio, reserve=budget.reserve, cap=budget.cap, ttl=budget.ttl)
