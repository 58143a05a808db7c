"""Policies: the base of gates and wraps, and the wrap.

A **Gate** (`resilient.core.gate`) decides before a call and learns after it, and never runs the call itself: bulkhead,
breaker, rate limit. A **Wrap** runs the rest zero, one or many times: retry, timeout, hedge, fallback.

`resilient.pipeline.compose` binds a list of policies into one function. A policy's *instance* is its state: pipelines
that share the instance share the circuit, the permits, the limit.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextvars import ContextVar
from copy import copy
from dataclasses import fields
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from resilient import _validation
from resilient._atomic import module_lock
from resilient.core.call import Call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Layer, Recovery, Watch
from resilient.core.stop import AnyOf, Runs, Unknown
from resilient.core.worst_case import Bound, Ending, InnerCost, Pause, Reaction, Surroundings, WorstCase, sequential
from resilient.events import Channel
from resilient.runtime import Runtime

__all__ = [
    "Policy",
    "Wrap",
    "effect_substitute",
]

P = ParamSpec("P")
Q = TypeVar("Q", bound="Policy")
R = TypeVar("R")
T = TypeVar("T")

_lock = module_lock()

effect_substitute: ContextVar[Callable[[Policy, str, Any], Any] | None] = ContextVar(
    "resilient_effect_substitute", default=None
)
"""A function that replaces the `effects` of policies that are constructed while it is set. It gets the policy, the name
of the argument and the value, and returns the value to use."""


_STATED_ELSEWHERE = {
    **dict.fromkeys((field.name for field in fields(Facts)), "by `facts = Facts(...)`"),
    **dict.fromkeys(("effects", "judgements"), "in the class statement"),
}
"""For each name that an author could take for an attribute of a policy: where it is stated. As a class attribute it
would be ignored."""


class Policy:
    """The base of gates and wraps. Every policy is also a decorator by itself.

    The names that a user calls, and those that an author of a policy overrides, are public. Methods with a leading
    underscore are the contract between the policies of this library and their pipeline; each has a default here.

    A subclass may state three things about the arguments of its constructor, in its class statement:
    `class Mirror(Wrap, judgements=("choose",), effects=("send",))`.

    Args:
        name: the policy's name in events, errors and snapshots; default: the name of its class.

    Class arguments:
        judgements: names of arguments that may be the user's code and only answer: predicates, keys, delays. A dry run
            (`resilient.lab`) calls them.
        effects: names of arguments with effects outside the process: hooks, listeners, storages. In a dry run a
            substitute that only counts replaces each callable that is not in `judgements`. An argument that is not
            callable is replaced only if the constructor passes it through `_effect`, as those of the library do.
        example: the arguments with which the policy is written above a function, if its first argument is never a
            function: "2" for `@Timeout(2)`. Then `@Timeout` without parentheses raises `TypeError` and shows this.
    """

    facts: Facts = Facts()
    """The facts that the policy states about itself, for the pipeline, `lint` and `explain`."""

    name: str

    _example: ClassVar[str | None] = None
    _judgements: ClassVar[frozenset[str]] = frozenset()
    _effects: ClassVar[frozenset[str]] = frozenset()

    _pipeline_of: ClassVar[Callable[[Policy], Any]]
    """Makes a pipeline of one policy (set by `resilient.pipeline`)."""

    _init_args: tuple[tuple[Any, ...], dict[str, Any]]
    """The arguments with which the policy was made."""

    _pipeline: Any = None
    """The pipeline of this policy alone, made when it first guards a function. (Not an attribute of each instance: a
    `Keyed` has many, of which none guards a function.)"""

    _copies: dict[Any, Any] | None = None
    """The policies that `_per_key` has made, by table."""

    def __init_subclass__(
        cls,
        *,
        judgements: Collection[str] | None = None,
        effects: Collection[str] | None = None,
        example: str | None = None,
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        for name, where in _STATED_ELSEWHERE.items():
            value = vars(cls).get(name, cls)
            if value is not cls and not hasattr(type(value), "__get__"):  # methods and properties may have any name
                raise TypeError(f"{cls.__name__} states {name} as an attribute, which is not read: state it {where}")
        if judgements is not None:
            cls._judgements = frozenset(judgements)
        if effects is not None:
            cls._effects = frozenset(effects)
        if example is not None:
            cls._example = example

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls._example is not None and args and inspect.isroutine(args[0]):
            name = cls.__name__
            raise TypeError(
                f"{name} got {args[0]!r}: to decorate it, write @{name}({cls._example}), with the parentheses"
            )
        policy = object.__new__(cls)
        policy._init_args = args, kwargs
        return policy

    def __init__(self, name: str | None = None) -> None:
        self.name = type(self).__name__ if name is None else _validation.name("name", name)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` guarded by a pipeline of this policy alone."""
        return self._as_pipeline()(fn)  # type: ignore[no-any-return]

    def clone(self, change: Callable[[str, Any], Any] | None = None) -> Self:
        """Make another policy with the same settings, in its first state. Objects that it was given (a `Budget`, hooks,
        listeners) are shared.

        `change(argument, value)` is called for each argument of the constructor, defaults included, and returns the
        value for the other policy.
        """
        args, kwargs = self._init_args
        if change is not None:
            args, kwargs = _changed(_signature(type(self).__init__).bind(self, *args, **kwargs), change)
        return type(self)(*args, **kwargs)

    def snapshot(self) -> dict[str, Any]:
        """The present state of the policy, as plain data (`dict`, numbers, strings)."""
        return {}

    def describe(self) -> str:
        """The settings of the policy in one line, for people."""
        return type(self).__name__

    def __repr__(self) -> str:
        return self.describe()

    # -- making others like it ------------------------------------------------------------------------------------

    def _as_pipeline(self) -> Any:
        """The pipeline of this policy alone, made at the first call."""
        if self._pipeline is None:
            self._pipeline = Policy._pipeline_of(self)
        return self._pipeline

    def _derived(self, **arguments: Any) -> Self:
        """Another policy that shares the state of this one, as if made with these arguments."""
        derived = copy(self)
        derived._pipeline = derived._copies = None
        args, kwargs = self._init_args
        derived._init_args = args, {**kwargs, **arguments}
        return derived

    def _per_key(self, table: Hashable, make: Callable[[], Q]) -> Q:
        """The policy that keeps a copy of this one for each key: `make()` of the first call with this `table`, and the
        same object for every later call. `table` says where keys come from, and how many are kept."""
        with _lock:
            if self._copies is None:
                self._copies = {}
        copies: dict[Any, Q] = self._copies
        if table not in copies:
            copies.setdefault(table, make())  # `make` runs the user's code: under no lock
        return copies[table]

    def _effect(self, argument: str, value: T) -> T:
        """The value that the constructor has to use for one of its `effects`: the one that it was given, or in a dry
        run a substitute for it (`effect_substitute`)."""
        substitute = effect_substitute.get()
        return value if substitute is None else substitute(self, argument, value)

    # -- what a pipeline asks -------------------------------------------------------------------------------------

    def _unfit(self, *, is_async: bool, block: bool) -> str | None:
        """The reason why the policy cannot guard an `async def`, a `def`, or a block of either; None: it can."""
        return None

    def _attach(self, channel: Channel) -> None:
        """Called when the policy becomes part of a pipeline. Its events go to `channel`."""

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        """The layer that applies this policy around `inner`. Not called for a gate."""
        raise NotImplementedError

    @property
    def _is_transparent(self) -> bool:
        """Whether a run of its layer is one run of `inner`, in the same task; then it passes `inner.attempts` on."""
        return False

    def _failure_only(self, context: PipelineContext) -> bool:
        """Whether the policy does nothing on success, and acts by `_recovery`: none of its code runs unless the call
        raises."""
        return False

    def _recovery(self, inner: BoundLayer, context: PipelineContext) -> Recovery:
        """The handler of an `Exception` that `inner(call)` has raised, of a policy that is `_failure_only`."""
        raise NotImplementedError

    def _watch(self, context: PipelineContext) -> Watch | None:
        """A function that is called with the end of each call, as the caller gets it."""
        return None

    def _key_text(self, call: Call) -> str:
        """The key of a call as text, where the policy keeps a gate for each key; else "". For errors. Raises a
        `CallbackError` where the key function raises."""
        return ""

    async def _drain(self, runtime: Runtime) -> None:
        """Wait until all work that it left behind has ended (losers of hedges, abandoned calls)."""

    def _renew(self) -> None:
        """In a forked child: drop the calls in flight, which are the parent's, and take new locks. What the policy has
        learnt stays. May be called more than once."""
        if self.facts.budget is not None:
            self.facts.budget.renew()

    # -- what lint and explain ask --------------------------------------------------------------------------------

    @property
    def _noun(self) -> str:
        """The name of this kind of policy, for the sentences of lint and explain."""
        return type(self).__name__

    def _takes(self, each: float) -> float:
        """The most seconds that the runs of this policy take, if each run takes up to `each`, and unknown pauses take
        none. 0 if the number of runs is unknown."""
        facts = self.facts
        return (1 if facts.overlaps else facts.runs or 0) * each + (facts.pause or 0.0)

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        """The worst case of a call through this policy and all that is inside it. The default is computed from the
        policy's facts."""
        facts = self.facts
        once = inner(around if facts.time_limit is None else around.sooner(facts.time_limit))
        runs = math.inf if facts.runs is None else facts.runs
        waits = math.inf if facts.pause is None else facts.pause
        stop = AnyOf((Runs(runs), Unknown(str(self))))
        in_sequence = sequential(lambda _: once, Surroundings(), stop, lambda _: Pause(0, 0, 0), lambda *_: "")
        seconds = once.seconds.most if facts.overlaps else in_sequence.seconds.most
        return WorstCase(
            Bound(0, min(seconds + waits, math.inf if facts.time_limit is None else facts.time_limit)),
            Bound(0, once.attempts.most if facts.overlaps else in_sequence.attempts.most),
            Bound(0, in_sequence.requests.most),
            f"{self} is not known here, and taken at its word",
            max_failing_runs=1,
            fails=False,
        )

    def meets(self, end: Ending) -> Reaction | None:
        """The reaction of the policy to an outcome of something inside it; None if the policy passes the outcome on."""
        return None


class Wrap(Policy):
    """Runs the rest of the pipeline zero, one or many times. A subclass defines `run`."""

    def run(self, call: Call, inner: Layer, context: PipelineContext) -> Coroutine[Any, Any, Any]:
        """Run `inner(call)` as often as it takes, and return (awaitably) what the caller gets.

        `context.on_error(call, error)` and `context.on_result(call, result)` are the verdicts of the classifier. Before
        `inner` runs again, set `call.verdict = None`, add 1 to `call.attempt`, and await what `call.again()` returns,
        unless that is None.
        """
        raise NotImplementedError

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        run, rest = self.run, inner.run
        return BoundLayer(lambda call: run(call, rest, context))


def _changed(
    bound: inspect.BoundArguments, change: Callable[[str, Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a constructor, each as `change` returns it. The first one is the policy itself."""
    bound.apply_defaults()
    for parameter in list(bound.signature.parameters.values())[1:]:
        argument, value = parameter.name, bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[argument] = {name: change(name, each) for name, each in value.items()}
        else:
            bound.arguments[argument] = change(argument, value)
    return bound.args[1:], bound.kwargs


@functools.cache
def _signature(init: Callable[..., None]) -> inspect.Signature:
    """The signature of a constructor; its first parameter is the policy itself."""
    return inspect.signature(init)
