"""The two shapes of a policy.

A **Gate** decides before a call and learns after it, and never runs the call itself: bulkhead, breaker, rate limit.
A **Wrap** runs the rest zero, one or many times: retry, timeout, hedge, fallback.

`resilient.pipeline.compose` binds a list of policies into one function. A policy's *instance* is its state: whoever
shares the instance shares the circuit, the permits, the limit.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from resilient import _validation
from resilient.core.budget import Budget
from resilient.core.call import Call
from resilient.core.context import Mode, PipelineContext
from resilient.core.layer import BoundLayer, Layer, Recovery, Watch
from resilient.core.stop import AnyOf, Runs, Unknown
from resilient.core.worst_case import Bound, Ending, InnerCost, Pause, Reaction, Surroundings, WorstCase, sequential
from resilient.errors import Rejected
from resilient.events import Channel
from resilient.runtime import Runtime

__all__ = [
    "Gate",
    "Layer",
    "Mode",
    "PipelineContext",
    "Policy",
    "Recovery",
    "Ticket",
    "Watch",
    "Withdrawn",
    "Wrap",
    "standing_in",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Ticket = Any
"""What a gate needs to know at the end of a call it admitted. Anything but None."""

NEARLY = 0.99
"""A Timeout outside a gate starts its clock a little earlier than the gate's: whoever had this share of a limit had it
all."""


class Withdrawn(BaseException):
    """Raised into an admitted call by the code that drives it: the call is taken back, and may be made later.

    Gates take their tickets back (`Gate.withdraw`) and learn nothing, and no event tells of an attempt that failed.

    Attributes:
        again: what is to be called when the call is made after all, just before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.again: list[Callable[[], None]] = []


standing_in: ContextVar[Callable[[Policy, str, Any], Any] | None] = ContextVar("resilient_standing_in", default=None)
"""What replaces `effects` of policies that are constructed where it is set; it is given the policy, the name of the
argument, and its value."""


class Policy:
    """What gates and wraps have in common. Every policy is also a decorator by itself.

    The class attributes are what `resilient.pipeline.lint` needs to know to judge an order; a policy sets those that
    apply.

    Args:
        name: how events, errors and snapshots call it; default: the class's name.
    """

    by_evidence: bool = False
    """Decides by evidence, which can be stale after a wait: it is asked again."""
    waits: bool = False
    """May make a call wait in a local queue."""
    timed: bool = True
    """Needs `call.runtime` even when all goes well. Others say `call.begin()` when they need it after all."""
    runs: int | None = 1
    """How often it runs the rest at most; None: as often as its user's strategy likes."""
    budget: Budget | None = None
    """What pays for the extra requests that it makes."""
    injects: bool = False
    """Stands for the dependency: what it does to a call is the dependency's doing."""
    permits: bool = False
    """Bounds how many calls are inside it at a time."""
    metered: bool = False
    """Counts calls as they begin, against a quota."""
    outlived: bool = False
    """What is inside it may go on after the call has ended: abandoned work, a thread, a late loser."""
    substitutes: bool = False
    """Answers for calls that failed; then it sets `call.substituted_at = call.attempt`."""
    overlaps: bool = False
    """Its runs overlap in time (copies of a hedge), rather than following each other."""
    head_start: float = 0.0
    """Seconds that a run has before the next one is due, at the least and on average, where they overlap."""
    ends_after: float = math.inf
    """Seconds after which it begins no further run."""
    extra: float = 0.0
    """The share of calls of which it means to make a further one."""
    lingers: bool = False
    """Leaves runs that nobody waits for any more to end by themselves."""
    limit: float | None = None
    """Seconds after which it ends what is inside it."""
    pause: float | None = 0.0
    """Seconds it may wait between attempts, all together; None: unknown."""
    least_pause: float = 0.0
    """Seconds it waits at the least before it runs the rest a second time."""
    longest_wait: float | None = None
    """Seconds after which it sends a call away that waits in its queue; None: a deadline of the call does."""
    pace: tuple[float, float] | None = None
    """How many calls it lets through at once after a pause, and how many a second after that."""
    needs: tuple[int, float] | None = None
    """How many calls in how many seconds it must see before it can judge."""
    slow_from: float | None = None
    """Seconds from which it takes a call for slow, where it can act upon nothing else."""
    raises: tuple[type[Exception], ...] = ()
    """What it may raise itself."""

    above: ClassVar[str | None] = None
    """The arguments with which it is written above a function, where its first one is never a function itself: "2" for
    `@Timeout(2)`. Then one without parentheses is told so."""

    alone: ClassVar[Callable[[Policy], Any]]
    """Makes a pipeline of one policy (set by `resilient.pipeline`)."""

    judgements: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that may be the user's code and only answer: predicates, keys, delays. A rehearsal
    (`resilient.lab`) calls them."""
    effects: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that may do something in the world: hooks, listeners, storages. The constructor hands them
    to `effect`. In a rehearsal, something that only counts stands in for them, and for callables that are in neither
    set."""

    given: tuple[tuple[Any, ...], dict[str, Any]]
    """The arguments that it was made with."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.above is not None and args and inspect.isroutine(args[0]):
            name = cls.__name__
            raise TypeError(f"{name} got {args[0]!r}: to decorate it, write @{name}({cls.above}), with the parentheses")
        policy = object.__new__(cls)
        policy.given = args, kwargs
        return policy

    def __init__(self, name: str | None = None) -> None:
        self.name = type(self).__name__ if name is None else _validation.name("name", name)
        self._as_pipeline: Any = None

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Guard `fn` with this policy alone."""
        if self._as_pipeline is None:
            self._as_pipeline = Policy.alone(self)
        return self._as_pipeline(fn)  # type: ignore[no-any-return]

    def effect(self, argument: str, value: T) -> T:
        """What the constructor has to use for one of its `effects`: the value that it was given, or what stands in for
        it in a rehearsal (`standing_in`)."""
        stand_in = standing_in.get()
        return value if stand_in is None else stand_in(self, argument, value)

    def again(self, change: Callable[[str, Any], Any]) -> Self:
        """Make another policy with the same settings, in its first state. `change(argument, value)` is asked for each
        argument of the constructor, defaults included, and returns the value that the other policy has."""
        args, kwargs = self.given
        bound = _signature(type(self).__init__).bind(self, *args, **kwargs)
        bound.apply_defaults()
        for parameter in list(bound.signature.parameters.values())[1:]:
            argument, value = parameter.name, bound.arguments[parameter.name]
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.arguments[argument] = {name: change(name, each) for name, each in value.items()}
            else:
                bound.arguments[argument] = change(argument, value)
        return type(self)(*bound.args[1:], **bound.kwargs)

    def unfit(self, *, is_async: bool, block: bool) -> str | None:
        """Why it cannot guard an `async def`, a `def`, or a block of either; None: it can."""
        return None

    def takes(self, each: float) -> float:
        """Seconds that its runs take at the most, where their number is known, if each takes up to `each` and unknown
        pauses take none."""
        return (1 if self.overlaps else self.runs or 0) * each + (self.pause or 0.0)

    @property
    def noun(self) -> str:
        """What kind of policy it is, for sentences."""
        return type(self).__name__

    # -- what `explain` asks: see `resilient.core.worst_case` --------------------------------------------------------

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        """The worst that it and the rest can cost a call. Here by the facts above, of which nothing is proved."""
        once = inner(view if self.limit is None else view.sooner(self.limit))
        runs = math.inf if self.runs is None else self.runs
        waits = math.inf if self.pause is None else self.pause
        stop = AnyOf((Runs(runs), Unknown(str(self))))
        told = sequential(lambda _: once, Surroundings(), stop, lambda _: Pause(0, 0, 0), lambda *_: "")
        seconds = once.seconds.most if self.overlaps else told.seconds.most
        return WorstCase(
            Bound(0, min(seconds + waits, math.inf if self.limit is None else self.limit)),
            Bound(0, once.attempts.most if self.overlaps else told.attempts.most),
            Bound(0, told.requests.most),
            f"{self} is not known here, and taken at its word",
            allowed=1,
            fails=False,
        )

    def meets(self, end: Ending) -> Reaction | None:
        """What it does when something inside it ends so; None: it lets it pass."""
        return None

    @property
    def assumes(self) -> tuple[str, ...]:
        """What `worst` takes for granted, or does not know, of code of its user's; in sentences."""
        if type(self).worst in (Policy.worst, Gate.worst):
            return (f"{self} is not known here: it is taken at its word",)
        return ()

    @property
    def inactive(self) -> str | None:
        """Why it does nothing, as it is set; None: it acts."""
        return None

    # -- in operation ------------------------------------------------------------------------------------------------

    async def drain(self, runtime: Runtime) -> None:
        """Wait until nothing that it left behind is running any more (losers of hedges, abandoned work)."""

    def renew(self) -> None:
        """In a forked child: forget the calls in flight, which are the parent's, and take new locks. What was learnt
        stays. It may be called more than once."""
        if self.budget is not None:
            self.budget.renew()

    def attach(self, channel: Channel) -> None:
        """Called when a pipeline takes this policy up: `channel` is where its events go."""

    def bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        """The layer that applies this policy around `inner`; where it is no gate."""
        raise NotImplementedError

    def watch(self, context: PipelineContext) -> Watch | None:
        """What wants to know how calls of the pipeline end for their callers, after all that its policies did."""
        return None

    def failure_only(self, context: PipelineContext) -> bool:
        """True if it does nothing on success and acts by `recovery`: no code of it runs unless the call raises."""
        return False

    def recovery(self, inner: BoundLayer, context: PipelineContext) -> Recovery:
        """What a policy that `failure_only` does when `inner(call)` has raised an `Exception`."""
        raise NotImplementedError

    def snapshot(self) -> dict[str, Any]:
        """Its state now, as plain data."""
        return {}

    def describe(self) -> str:
        """Its settings, for people, in one line."""
        return type(self).__name__

    def __repr__(self) -> str:
        return self.describe()


@functools.cache
def _signature(init: Callable[..., None]) -> inspect.Signature:
    """What a policy is made with; the first parameter is the policy itself."""
    return inspect.signature(init)


class Gate(Policy):
    """Decides before, learns after, never re-runs.

    All methods but `wait` are synchronous, do no I/O and must not raise except as said here.
    """

    learns: bool = False
    """Wants to know how calls end: `settle` and `cut` are called. Otherwise only `release` is."""

    follows: bool = True
    """Where it learns: a good result that goes on after it was returned (a stream) is known when that has ended. Else
    it is known with the result."""

    dated: bool = False
    """Where it learns: needs the time at which a call ended (`now` of `settle`), which costs one clock read. A gate
    that is `timed` needs `elapsed` as well, which costs two."""

    holds: bool = True
    """Has something to take back at the end of a call: `release` is called. Else only `undo` is, for calls not made."""

    slow: float | None = None
    """Seconds after which a call counts as slow: the age at which a cut-short call is a failure, where the pipeline
    has no Timeout to say so."""

    would_have_refused: int = 0
    would_have_queued: int = 0
    """Calls that it has counted in shadow mode."""

    shadow_queue: Any = None
    """In shadow mode: the gate that decides in this one's place, where calls would wait for each other; or None."""

    def __init__(self, name: str | None = None, *, shadow: bool = False) -> None:
        super().__init__(name)
        self.shadow = _validation.flag("shadow", shadow)
        """Decides and counts, but neither refuses a call nor makes it wait (`resilient.core.shadow` sees to it)."""
        self.made_for: object = None
        """The `resilient.policies.keyed.key_table.Keys` whose factory has made this gate, if one has."""

    def worst(self, inner: InnerCost, view: Surroundings) -> WorstCase:
        """A gate never repeats; what it may refuse is not known here, nor how long it has a call wait."""
        rest = inner(view)
        wait = min(math.inf if self.longest_wait is None else self.longest_wait, view.within)
        most = rest.seconds.most + (wait if self.waits and not self.shadow else 0.0)
        why = f"{self} is not known here, and may make a call wait" if self.waits else rest.why
        return replace(
            rest,
            seconds=Bound(0, most),
            attempts=Bound(0, rest.attempts.most),
            requests=Bound(0, rest.requests.most),
            why=why,
            allowed=1,
            fails=False,
        )

    def meets(self, end: Ending) -> Reaction | None:
        if not self.learns or self.shadow:
            return None
        if end.verdict is None:
            return Reaction("counts a failure if the limit of its Timeout had been reached, else nothing")
        return Reaction("counts a failure") if end.failed else None

    @property
    def inactive(self) -> str | None:
        return "in shadow mode it only counts" if self.shadow else None

    @property
    def at_rest(self) -> bool:
        """Whether it may be forgotten (by `Keyed`): nobody misses what it knows."""
        return True

    @property
    def steered(self) -> bool:
        """Whether it is as it is by somebody's hand: then `Keyed` never forgets it."""
        return False

    def would_have(self) -> dict[str, int]:
        """For snapshots: what it would have done in shadow mode."""
        if not self.shadow:
            return {}
        return {"would_have_refused": self.would_have_refused, "would_have_queued": self.would_have_queued}

    def admit(self, call: Call) -> Ticket | None:
        """A ticket; or None: the call must `wait`. Raises a `Rejected` to refuse."""
        raise NotImplementedError

    async def wait(self, call: Call, context: PipelineContext) -> Ticket:
        """Wait in line for a ticket. Raises a `Rejected` when there is no place in line, or no more time."""
        raise NotImplementedError

    def line_up(self, call: Call, refused: Callable[[Call, Rejected, bool | None], None]) -> Ticket | None:
        """In shadow mode, in place of `wait`: the ticket of a call that would wait; None: what becomes of it is not
        known. Raises a `Rejected` where there is no place in line. `refused(call, error, went_well)` is called later if
        the call would have been refused in line."""
        return None

    def foretell(self) -> None:
        """In shadow mode: tell of the calls in line that would be refused if no others came, unless some run."""
        if self.shadow_queue is not None:
            self.shadow_queue.foretell()

    def settle(self, ticket: Ticket, failed: bool, elapsed: float, now: float | None, error: Exception | None) -> None:
        """Learn from a call's end, and take the ticket back.

        `elapsed`: seconds the dependency had, local queues not counted; `now`: the time. Where the gate is not `timed`
        and its pipeline has no Timeout, nobody times a call that succeeds: `elapsed` is 0, and `now` is None unless the
        gate is `dated`. `error`: what the call raised, if it did.
        """
        self.release(ticket)

    def cut(self, ticket: Ticket, elapsed: float, now: float, limit: float | None) -> None:
        """A call was cut short at the age of `elapsed`: a failure if that was its configured limit (of the nearest
        Timeout of its pipeline, or else `slow`), and nothing if it was younger."""
        full_age = self.slow if limit is None else limit
        if full_age is not None and elapsed >= full_age * NEARLY:
            self.settle(ticket, True, elapsed, now, None)
        else:
            self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Take the ticket back without learning anything."""
        raise NotImplementedError

    def giver(self, ticket: Ticket) -> Gate | None:
        """The gate that has given this ticket: this one, or the one among its own that did; None: it is of no gate."""
        return self

    def undo(self, ticket: Ticket) -> None:
        """The call was never made: a gate behind this one refused it, or it was cancelled in a queue."""
        self.release(ticket)

    def withdraw(self, ticket: Ticket) -> Callable[[], None] | None:
        """The call is taken back, and may be made later: take back what others can use meanwhile. Returns what undoes
        the rest, if there is any, for when the call comes again."""
        self.undo(ticket)
        return None


class Wrap(Policy):
    """Runs the rest of the pipeline as often as it likes."""

    def run(self, call: Call, inner: Layer, context: PipelineContext) -> Coroutine[Any, Any, Any]:
        """Run `inner(call)` zero, one or many times and return (awaitably) what the caller shall get.

        What an outcome was, `context.on_error(call, error)` and `context.on_result(call, result)` know. Before `inner`
        runs again, set `call.verdict = None`.
        """
        raise NotImplementedError

    def bind(self, inner: BoundLayer, context: PipelineContext) -> BoundLayer:
        run, rest = self.run, inner.run
        return BoundLayer(lambda call: run(call, rest, context))
