"""Pipeline: several policies, outermost first, as one decorator.

users = Pipeline(Timeout(10), Retry(attempts=3), Bulkhead(50, queue=100), CircuitBreaker(), Timeout(2), name="users")

@users
async def get_user(user_id: int) -> User: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

from resilient import _validation
from resilient.core.budget import Budget
from resilient.core.call import Call, name_of
from resilient.core.call_key import key_of
from resilient.core.call_options import NO_OPTIONS, CallOptions
from resilient.core.classify import DEFAULT, Classifier
from resilient.core.context import Mode, PipelineContext
from resilient.core.current_call import Enclosing, enclosing, is_guarded, waiting
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer
from resilient.core.levels import levels
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.core.policy import Policy
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import Deadlock
from resilient.events import Event, Listener
from resilient.pipeline.attempts import Attempts
from resilient.pipeline.bindings import Bindings
from resilient.pipeline.compose import check_policies
from resilient.pipeline.functions import copy_signature, unwrapped
from resilient.pipeline.in_flight import InFlight
from resilient.pipeline.lint import Finding, examine, examine_stack, report
from resilient.pipeline.names import register
from resilient.pipeline.switching import Switch
from resilient.runtime import current
from resilient.runtime.threads import THREADS, drive

__all__ = ["Pipeline", "flat", "own_budgets"]

P = ParamSpec("P")
R = TypeVar("R")


class Pipeline(Policy, judgements=("classify",)):
    """Guards functions with policies, outermost first.

    A pipeline is a policy too, so pipelines nest: the inner one keeps its own name, classifier, mode and listeners.

    Args:
        policies: one or more. Their instances are their state: share an instance, share its circuit or its permits.
        name: for events, errors and the registry.
        classify: what a failure is; default `Classifier()`.
        strict: raise `PipelineError` for an order or a plan that cannot work, instead of warning (`PipelineWarning`).
    """

    def __init__(
        self,
        *policies: Policy,
        name: str | None = None,
        classify: Classifier | None = None,
        strict: bool = False,
    ) -> None:
        self._set_up(policies, name, classify, strict)
        if self.name:
            register(self)

    def _set_up(
        self,
        policies: tuple[Policy, ...],
        name: str | None,
        classify: Classifier | None,
        strict: bool,
        original: Pipeline | None = None,
        attempt: Callable[[PipelineContext], Callable[[Call], Any] | BoundLayer] | None = None,
        lifecycle: ResultLifecycle = PLAIN_RESULTS,
        call_options: CallOptions = NO_OPTIONS,
    ) -> None:
        check_policies(policies)
        if not policies:
            raise ValueError("a pipeline without policies guards nothing: give it at least one")
        if callable(classify) and not isinstance(classify, type):
            raise TypeError(f"classify must be a Classifier, got {classify!r}: write Classifier(results=...)")
        _validation.instance("classify", classify, Classifier)
        super().__init__(name)
        self.name = self.name if name else ""
        self.policies = policies
        self.classify = classify or DEFAULT
        every = flat(policies)
        self.findings: list[Finding] = examine(every)
        """The findings of lint: what cannot work in the order of the policies, or in their settings. Usually empty."""
        repeats = any(each.facts.runs != 1 for each in every)
        self._strict = _validation.flag("strict", strict)
        if original is None:
            where = f"pipeline {self.name!r}: " if self.name else ""
            report(self.findings, where, strict=self._strict)
            self._context: PipelineContext = PipelineContext(
                self.name, self.classify, repeats=repeats, lifecycle=lifecycle, call_options=call_options
            )
            self._in_flight: InFlight = InFlight(self._context)
        else:
            self._context = PipelineContext(
                self.name,
                self.classify,
                repeats=repeats,
                lifecycle=lifecycle,
                call_options=call_options,
                derived_from=original._context,
            )
            self._in_flight = original._in_flight
        self._context.parts = (self._in_flight, *policies)
        self._context.renewals = (self._in_flight.renew, *(policy._renew for policy in policies))
        made = None if attempt is None else attempt(self._context)
        layer = made if made is None or isinstance(made, BoundLayer) else BoundLayer(made)
        self._bindings = Bindings(policies, every, own_budgets(policies), self._context, self._in_flight, layer)
        for policy in policies:
            policy._attach(self._context.channel)
        self.facts = Facts(
            timed=any(policy.facts.timed for policy in policies),
            waits=any(policy.facts.waits for policy in policies),
            substitutes=any(policy.facts.substitutes for policy in policies),
        )

    # -- guarding -----------------------------------------------------------------------------------------------

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Guard `fn`: a coroutine function, function, method, partial, or an object with `__call__`.

        Raises `TypeError` for what cannot be guarded (generators, classes, coroutines).
        """
        if isinstance(fn, classmethod | staticmethod):
            return type(fn)(self(fn.__func__))  # pyright: ignore[reportReturnType]
        beneath = _policies_beneath(fn)
        if beneath:
            found = examine_stack(flat(self.policies), beneath)
            report(found, f"the decorators of {name_of(fn)}: ", strict=self._strict)
        guarded = copy_signature(self._bindings.guard(fn), fn)
        guarded.__dict__["__pipeline__"] = self  # so the registry finds it while the function is in use
        return guarded

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` guarded. Returns a coroutine for an `async def`, else the result."""
        return self._bindings.guard(fn)(*args, **kwargs)  # type: ignore[no-any-return]

    def attempts(self, name: str = "block") -> Attempts:
        """Guard a block: `async for attempt in pipeline.attempts(): async with attempt: ...`, or without `async`."""
        bindings = self._bindings
        return Attempts(_validation.name("name", name), self._context, bindings.start_block, bindings.refuse_block)

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        return self._bindings.nest(inner)

    def _key_text(self, call: Call) -> str:
        return key_of(call, self._context)

    # -- variations ---------------------------------------------------------------------------------------------

    def with_(
        self,
        *policies: Policy,
        without: tuple[type[Policy], ...] = (),
        name: str | None = None,
        classify: Classifier | None = None,
        strict: bool = False,
    ) -> Pipeline:
        """A variation for one call site that shares the state of all policies that it does not replace.

        Args:
            policies: each replaces the policy of the same class (and, if there are several, of the same name).
            without: classes of policies to leave out.
            name, classify: as for `Pipeline`; default: as in this pipeline (the registry keeps the original).
            strict: as for `Pipeline`.

        Raises `ValueError` if a policy could replace none, or more than one.
        """
        check_policies(policies)
        left_out = without if isinstance(without, tuple) else (without,)
        if not all(isinstance(each, type) and issubclass(each, Policy) for each in left_out):
            raise TypeError(f"without must be classes of policies, got {without!r}")
        mine = [policy for policy in self.policies if not isinstance(policy, left_out)]
        for policy in policies:
            places = [at for at, old in enumerate(mine) if type(old) is type(policy)]
            if len(places) > 1:
                places = [at for at in places if mine[at].name == policy.name]
            if len(places) != 1:
                kind = type(policy).__name__
                raise ValueError(
                    f"{self!r} has no {kind} that {policy!r} could replace"
                    if not places
                    else f"{self!r} has {len(places)} {kind}s: give them names, and {policy!r} the one it replaces"
                )
            mine[places[0]] = policy
        classifier = self.classify if classify is None else classify
        varied = Pipeline.__new__(Pipeline)
        varied._set_up(
            tuple(mine),
            (self.name or None) if name is None else name,
            classifier,
            strict,
            lifecycle=self._context.lifecycle if classify is None else PLAIN_RESULTS,
            call_options=self._context.call_options if classify is None else NO_OPTIONS,
        )
        if name is not None:
            register(varied)
        varied._context.switch(self._context.own_mode)
        return varied

    def clone(self, change: Callable[[str, Any], Any] | None = None) -> Self:
        """Make another pipeline with clones of its policies, switched to the same mode and not registered. It has no
        listeners. `change(argument, value)` is called for "classify" and "strict" only."""
        clones: dict[int, Policy] = {}
        for policy in self.policies:
            if id(policy) not in clones:
                clones[id(policy)] = policy.clone()
        policies = tuple(clones[id(policy)] for policy in self.policies)
        classify, strict = self.classify, self._strict
        if change is not None:
            classify, strict = change("classify", classify), change("strict", strict)
        clone = type(self).__new__(type(self))
        clone._set_up(
            policies,
            self.name or None,
            classify,
            strict,
            lifecycle=self._context.lifecycle,
            call_options=self._context.call_options,
        )
        clone._context.switch(self._context.own_mode)
        return clone

    def _derive(
        self,
        policies: tuple[Policy, ...],
        classify: Classifier | None = None,
        attempt: Callable[[PipelineContext], Callable[[Call], Any] | BoundLayer] | None = None,
        lifecycle: ResultLifecycle | None = None,
        call_options: CallOptions | None = None,
    ) -> Pipeline:
        """A pipeline with the same listeners, mode and count of calls, which is closed with this one, but with other
        policies and another classifier. Our transports derive pipelines whose policies fit their own kind of calls.

        Args:
            attempt: `attempt(context)` makes what each attempt calls with the `Call`, in place of the guarded function.
                It can read the deadline and the number of the attempt, and classify its result by `context.on_result`.
            lifecycle, call_options: of its results and calls; None: as in this pipeline.
        """
        derived = Pipeline.__new__(Pipeline)
        derived._set_up(
            policies,
            self.name or None,
            classify or self.classify,
            strict=False,
            original=self,
            attempt=attempt,
            lifecycle=lifecycle or self._context.lifecycle,
            call_options=call_options or self._context.call_options,
        )
        return derived

    # -- operations ---------------------------------------------------------------------------------------------

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call `listener` with each of this pipeline's events of these kinds (classes of `resilient.events`); without
        kinds, with all events. Returns a function that removes the listener. Fewer kinds cost less: an event that no
        listener wants is not built."""
        return self._context.channel.listen(listener, *kinds)

    @property
    def listeners(self) -> list[Listener]:
        """The listeners of this pipeline, and those of all pipelines, as they were given."""
        return [listener for listener, _ in self._context.channel.heard_by()]

    @property
    def own_mode(self) -> Mode | None:
        """This pipeline's own mode; None: it follows the global one."""
        return self._context.own_mode

    @property
    def mode(self) -> Mode:
        """The mode that holds now: the pipeline's own mode, else the global one, else "on"."""
        return self._context.mode

    def switch(self, mode: Mode | None) -> Switch:
        """Set the pipeline's own mode; None: follow the global one. In `with pipeline.switch("off"):`, for the block
        only."""
        before = self.own_mode
        self._context.switch(mode)
        return Switch(lambda: self._context.switch(before))

    async def aclose(self) -> None:
        """Refuse new calls (`PipelineClosed`), and wait until those in flight have ended.

        No call is cancelled: put your own timeout around this if calls may hang. Closing twice does no harm. Raises
        `Deadlock` inside one of the pipeline's own calls, because it would wait for that call.
        """
        self._refuse_from_inside("aclose")
        await self._close(current())

    def close(self) -> None:
        """Close the pipeline, as `aclose` does, from plain code: blocks until calls in other threads have ended.

        Raises `Deadlock` in the thread of an event loop that has calls in flight: they could not end while it is
        blocked.
        """
        self._refuse_from_inside("close")
        if any(self._has_part_in(waiting(task)) for task in current().tasks()):
            raise Deadlock("close() would block the event loop on which calls are in flight: await aclose() instead")
        drive(self._close(THREADS))

    def _refuse_from_inside(self, verb: str) -> None:
        if self._has_part_in(enclosing(3)):
            raise Deadlock(
                f"{verb}() inside a call of {self.name or 'this pipeline'} would wait for that call, which "
                "waits for it: close the pipeline outside, or in a task that the call does not wait for"
            )

    def _has_part_in(self, calls: Enclosing) -> bool:
        return self._in_flight.inside > 0 and any(self._is_part_of(context) for _, context in calls)

    def _is_part_of(self, context: PipelineContext) -> bool:
        return any(
            part is self._in_flight or (isinstance(part, Pipeline) and self._is_part_of(part._context))
            for part in context.parts
        )

    async def _close(self, runtime: Any) -> None:
        await self._in_flight.close(runtime)
        for policy in self.policies:
            await policy._drain(runtime)

    async def _drain(self, runtime: Any) -> None:
        for policy in self.policies:
            await policy._drain(runtime)

    def snapshot(self) -> dict[str, Any]:
        """The state now, as plain data: name, mode, calls `in_flight`, and the snapshot of each policy."""
        return {
            "name": self.name,
            "mode": self.mode,
            "closed": self._in_flight.closed,
            "in_flight": self._in_flight.inside,
            "policies": [
                {"policy": policy.name, "kind": type(policy).__name__, **policy.snapshot()} for policy in self.policies
            ],
        }

    def describe(self) -> str:
        """A tree of the pipeline's policies, outermost first, as text for people."""
        return "\n".join(self._tree())

    def _tree(self) -> list[str]:
        lines = [self.name or "pipeline"]
        for at, policy in enumerate(self.policies):
            last = at == len(self.policies) - 1
            head, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
            first, *more = policy._tree() if isinstance(policy, Pipeline) else [policy.describe()]
            lines += [head + first, *(rest + line for line in more)]
        return lines

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"Pipeline({', '.join(map(repr, self.policies))}{name})"

    # Asked by `explain`: see `resilient.core.worst_case`.

    def worst(self, inner: InnerCost, around: Surroundings) -> WorstCase:
        return levels([(policy, self._context) for policy in self.policies], inner)[0](around)


def _policies_beneath(fn: Any) -> list[Policy]:
    """The policies of decorators that guard a function already; outermost first."""
    found: list[Policy] = []
    for each in unwrapped(fn):
        if is_guarded(each):
            found += flat(each.__pipeline__.policies)
    return found


def own_budgets(policies: Sequence[Policy]) -> list[Budget]:
    """The budgets that a success of a pipeline of these policies pays into. Budgets of nested pipelines are left out:
    the nested pipelines pay into them, and a success counts once."""
    nested = {each.facts.budget for each in flat(policy for policy in policies if isinstance(policy, Pipeline))}
    found = dict.fromkeys(policy.facts.budget for policy in policies)
    return [budget for budget in found if budget is not None and budget not in nested]


def flat(policies: Iterable[Policy]) -> list[Policy]:
    """All policies, in order; a nested pipeline is replaced by its own policies."""
    found: list[Policy] = []
    for policy in policies:
        found += flat(policy.policies) if isinstance(policy, Pipeline) else [policy]
    return found


Policy._pipeline_of = Pipeline
