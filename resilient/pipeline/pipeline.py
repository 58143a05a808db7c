"""Pipeline: several policies, outermost first, as one decorator.

users = Pipeline(Timeout(10), Retry(attempts=3), Bulkhead(50, queue=100), CircuitBreaker(), Timeout(2), name="users")

@users
async def get_user(user_id: int) -> User: ...
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, ParamSpec, Self, TypeVar

from resilient import _validation
from resilient.core.budget import Budget
from resilient.core.call import Call, name_of
from resilient.core.call_options import NO_OPTIONS, CallOptions
from resilient.core.classify import DEFAULT, Classifier
from resilient.core.context import Mode, PipelineContext
from resilient.core.current_call import Enclosing, enclosing, is_guard, is_guarded, waiting
from resilient.core.emit import Ends
from resilient.core.facts import Facts
from resilient.core.layer import BoundLayer, Layer
from resilient.core.levels import levels
from resilient.core.lifecycle import PLAIN_RESULTS, ResultLifecycle
from resilient.core.policy import Policy
from resilient.core.worst_case import InnerCost, Surroundings, WorstCase
from resilient.errors import Deadlock
from resilient.events import Event, Listener
from resilient.pipeline.attempts import Attempts, block_call, block_leaf
from resilient.pipeline.call_path import full_path, unless_off
from resilient.pipeline.compose import check_policies, compose
from resilient.pipeline.earnings import earning, earnings, watched_earnings, watched_recovery
from resilient.pipeline.functions import async_leaf, call_kind, copy_signature, sync_leaf, unwrapped
from resilient.pipeline.gate_layer import Composed, guard_with
from resilient.pipeline.in_flight import InFlight
from resilient.pipeline.lint import Finding, examine, examine_stack, report
from resilient.pipeline.names import register
from resilient.pipeline.switching import Switch
from resilient.runtime import current, current_async
from resilient.runtime.inherited_deadline import seen
from resilient.runtime.threads import THREADS, drive

__all__ = ["Pipeline", "flat", "own_budgets"]

Kind = Literal["async", "sync", "block"]
"""What is guarded: a coroutine function, another function, a block."""

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
        options: CallOptions = NO_OPTIONS,
    ) -> None:
        check_policies(policies)
        if not policies:
            raise ValueError("a pipeline without policies guards nothing: give it at least one")
        if callable(classify) and not isinstance(classify, type):
            raise TypeError(f"classify must be a Classifier, got {classify!r}: write Classifier(results=...)")
        _validation.instance("classify", classify, Classifier)
        super().__init__(name)
        self.name = name or ""
        self.policies = policies
        self.classify = classify or DEFAULT
        self.findings: list[Finding] = examine(flat(policies))
        """What is wrong with the order of its policies or with their plan."""
        repeats = any(each.facts.runs != 1 for each in flat(policies))
        self._strict = _validation.flag("strict", strict)
        if original is None:
            where = f"pipeline {self.name!r}: " if self.name else ""
            report(self.findings, where, strict=self._strict)
            self._context: PipelineContext = PipelineContext(
                self.name, self.classify, repeats=repeats, lifecycle=lifecycle, options=options
            )
            self._in_flight: InFlight = InFlight(self._context)
        else:
            self._context = PipelineContext(
                self.name,
                self.classify,
                repeats=repeats,
                lifecycle=lifecycle,
                options=options,
                derived_from=original._context,
            )
            self._in_flight = original._in_flight
        self._context.parts = (self._in_flight, *policies)
        self._context.renewals = (self._in_flight.renew, *(policy._renew for policy in policies))
        substitutes = any(policy.facts.substitutes for policy in policies)
        self._paid = self._earn = earnings(own_budgets(policies), self._context, substitutes=substitutes)
        self._watches = [watch for watch in (policy._watch(self._context) for policy in policies) if watch is not None]
        if self._watches:
            self._earn = watched_earnings(self._paid, self._watches)
        for policy in policies:
            policy._attach(self._context.channel)
        made = None if attempt is None else attempt(self._context)
        self._attempt = made if made is None or isinstance(made, BoundLayer) else BoundLayer(made)
        self._ends = Ends(self._context, substitutes=substitutes)
        self._composed: dict[Kind, tuple[Composed, Layer]] = {}
        self._guards: dict[Kind, Callable[[Any], Callable[..., Any]]] = {}
        self._unfit_for: dict[tuple[bool, bool], str | None] = {}
        self._is_deadline = attempt is None and any(policy.facts.time_limit is not None for policy in flat(policies))
        self.facts = Facts(
            timed=any(policy.facts.timed for policy in policies),
            waits=any(policy.facts.waits for policy in policies),
            substitutes=substitutes,
        )

    def _composed_for(self, kind: Kind) -> tuple[Composed, Layer]:
        """The policies bound around one kind of function, and their full path. Bound when the first such function is
        guarded."""
        if kind not in self._composed:
            if kind == "block":
                leaf = block_leaf(self._context)
                composed, path = self._compose(leaf)
                self._composed[kind] = composed, unless_off(self._context, leaf.run, path)
            else:
                leaf = (async_leaf if kind == "async" else sync_leaf)(self._context, self._attempt)
                self._composed[kind] = self._compose(leaf)
        return self._composed[kind]

    def _compose(self, leaf: BoundLayer, *, waits: bool = False) -> tuple[Composed, Layer]:
        """Bind the policies around `leaf`. Returns them, and the full path of a call through the pipeline."""
        composed = compose(self.policies, self._context, leaf, waits=waits)
        recover = composed.recover
        if recover is not None and self._paid is not None:
            recover = earning(recover, self._paid)
        if self._watches:
            recover = watched_recovery(recover, self._watches)
        composed = replace(composed, recover=recover)
        ends = None if waits else self._ends
        return composed, full_path(self._in_flight, self._context, composed.layer.run, recover, self._earn, ends)

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
        guarded = copy_signature(self._guard(fn), fn)
        guarded.__dict__["__pipeline__"] = self  # the registry finds it as long as somebody uses the function
        return guarded

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` guarded, once: a coroutine to await for an `async def`, else its result."""
        return self._guard(fn)(*args, **kwargs)  # type: ignore[no-any-return]

    def attempts(self, name: str = "block") -> Attempts:
        """Guard a block: `async for attempt in pipeline.attempts(): async with attempt: ...`, or without `async`."""
        seen.limits = seen.limits or self._is_deadline
        return Attempts(_validation.name("name", name), self._context, self._start_block, self._refuse_block)

    def _guard(self, fn: Any) -> Callable[..., Any]:
        kind = call_kind(fn)
        self._refuse_unfit(is_async=kind == "async", block=False)
        seen.limits = seen.limits or self._is_deadline
        if kind not in self._guards:
            composed, path = self._composed_for(kind)
            parts = (self._in_flight, self._context, composed, path, self._earn, self._ends)
            self._guards[kind] = guard_with(*parts, is_async=kind == "async", timed=self.facts.timed)
        guarded = self._guards[kind](fn)
        is_guard(guarded.__code__)
        return guarded

    def _refuse_unfit(self, *, is_async: bool, block: bool) -> None:
        key = is_async, block
        if key not in self._unfit_for:
            reasons = ((policy, policy._unfit(is_async=is_async, block=block)) for policy in flat(self.policies))
            said = (f"{policy!r} cannot guard this: {why}" for policy, why in reasons if why is not None)
            self._unfit_for[key] = next(said, None)
        why = self._unfit_for[key]
        if why is not None:
            raise TypeError(why)

    def _refuse_block(self, is_async: bool) -> None:
        self._refuse_unfit(is_async=is_async, block=True)

    def _start_block(self, block: Callable[..., Any], is_async: bool) -> tuple[Call, Coroutine[Any, Any, Any]]:
        call = block_call(block, current_async() if is_async else THREADS, repeats=self._context.repeats)
        _, path = self._composed_for("block")
        return call, path(call)

    def _bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        _, path = self._compose(inner, waits=True)  # what is in `inner` belongs to another pipeline
        return BoundLayer(unless_off(self._context, inner.run, path))

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
            policies: each takes the place of the one of its class (and of its name, where there are several).
            without: classes of policies to leave out.
            name, classify, strict: as for `Pipeline`; by default as they are here (the registry keeps the original).

        Raises `ValueError` when there is no policy to replace, or more than one that it could be.
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
            options=self._context.options if classify is None else NO_OPTIONS,
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
            options=self._context.options,
        )
        clone._context.switch(self._context.own_mode)
        return clone

    def _derive(
        self,
        policies: tuple[Policy, ...],
        classify: Classifier | None = None,
        attempt: Callable[[PipelineContext], Callable[[Call], Any] | BoundLayer] | None = None,
        lifecycle: ResultLifecycle | None = None,
        options: CallOptions | None = None,
    ) -> Pipeline:
        """The same pipeline with other policies and another classifier. Whoever listens to this one, switches it,
        counts its calls or closes it, does so to the derived one, too. Our transports derive pipelines whose policies
        fit their own kind of calls.

        `attempt(context)` makes what an attempt calls with the call, instead of the guarded function: it sees the
        deadline, and the number, and `context.on_result` has its result judged. `lifecycle` and `options` are those of
        its results and calls; None: this one's.
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
            options=options or self._context.options,
        )
        return derived

    # -- operations ---------------------------------------------------------------------------------------------

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Send this pipeline's events of these kinds (classes of `resilient.events`) to `listener`; without kinds, all
        events. Returns a function that ends that. Fewer kinds cost less: an event that no listener wants is not
        built."""
        return self._context.channel.listen(listener, *kinds)

    @property
    def listeners(self) -> list[Listener]:
        """The listeners of this pipeline and of all pipelines, as they were given."""
        return [listener for listener, _ in self._context.channel.heard_by()]

    @property
    def own_mode(self) -> Mode | None:
        """The mode of this pipeline alone; None: it follows the global one."""
        return self._context.own_mode

    @property
    def mode(self) -> Mode:
        """How it is switched now: its own mode, else the global one, else "on"."""
        return self._context.mode

    def switch(self, mode: Mode | None) -> Switch:
        """Set its mode; None: follow the global one. Also as `with pipeline.switch("instant"): ...`."""
        before = self.own_mode
        self._context.switch(mode)
        return Switch(lambda: self._context.switch(before))

    async def aclose(self) -> None:
        """Take no more calls (`PipelineClosed`), and wait until those that are in flight have ended.

        It never cancels them: bound it with your own timeout if they may hang. Closing twice does no harm. Raises
        `Deadlock` in the midst of one of its own calls, which it would wait for.
        """
        self._refuse_from_inside("aclose")
        await self._close(current())

    def close(self) -> None:
        """The same for plain code: blocks until calls in other threads have ended.

        Raises `Deadlock` in the thread of an event loop on which there are such: they could never end meanwhile.
        """
        self._refuse_from_inside("close")
        if any(self._has_part_in(waiting(task)) for task in current().tasks()):
            raise Deadlock("close() would block the event loop on which calls are in flight: await aclose() instead")
        drive(self._close(THREADS))

    def _refuse_from_inside(self, verb: str) -> None:
        if self._has_part_in(enclosing(3)):
            raise Deadlock(
                f"{verb}() in the midst of a call of {self.name or 'this pipeline'} would wait for that call, which "
                "waits for it: close it outside, or in a task that the call does not wait for"
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

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        return levels([(policy, self._context) for policy in self.policies], inner)[0](view)

    def snapshot(self) -> dict[str, Any]:
        """Its state now, as plain data: name, mode, calls `in_flight`, and each policy's own snapshot."""
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
        """A tree of its policies, outermost first, for people."""
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


def _policies_beneath(fn: Any) -> list[Policy]:
    """The policies of decorators beneath, which guard a function already; outermost first."""
    found: list[Policy] = []
    for each in unwrapped(fn):
        if is_guarded(each):
            found += flat(each.__pipeline__.policies)
    return found


def own_budgets(policies: Sequence[Policy]) -> list[Budget]:
    """The budgets that a success of a pipeline of these policies pays into. Those of nested pipelines are left out:
    these pay into them, and a success counts once."""
    nested = {each.facts.budget for each in flat(policy for policy in policies if isinstance(policy, Pipeline))}
    found = dict.fromkeys(policy.facts.budget for policy in policies)
    return [budget for budget in found if budget is not None and budget not in nested]


def flat(policies: Iterable[Policy]) -> list[Policy]:
    """The policies, with those of nested pipelines in place of these."""
    found: list[Policy] = []
    for policy in policies:
        found += flat(policy.policies) if isinstance(policy, Pipeline) else [policy]
    return found


Policy._pipeline_of = Pipeline
