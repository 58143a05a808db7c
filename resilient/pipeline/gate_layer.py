"""Gate layers: the functions that guarded calls run through, generated and compiled for the gates at hand.

What is known when a function is decorated need not be looked up at each call. As `dataclasses` generates an `__init__`,
the source of a gate layer is generated for its gates and its kind of function (`resilient.pipeline.call_path`,
`resilient.pipeline.gate_layer_source`): without a loop over gates, a clock read that no gate needs, or a coroutine
around a plain `def`. Measured for a bulkhead and a breaker, a loop over gates costs three bare awaits more than a
generated gate layer, and a second Python frame inside the outermost one costs two.

    guard_with   the gate layer that stands in place of a guarded function: `guarded(*args, **kwargs)`
    layer_of     a gate layer inside a policy that wraps: `layer(call)`

Both have the same parts, outermost first: a `Recovery`, which handles a failure; the gates; the layer inside them. Each
part but the last may be missing. So the outermost gate layer exists even in a pipeline without gates: it counts the
call, and does what the pipeline itself has to do. With neither gates nor wraps it makes no `Call` unless something
fails. A layer that awaits nothing has a second form (`BoundLayer.plainly`), because a plain `def` needs no coroutine: a
plain function of the call, which blocks its thread where it has to wait.

Around an `async def`, `Pipeline(Bulkhead(50), CircuitBreaker())` generates this (a test compares it):

    async def guarded(*args, **kwargs):
        if in_flight.needs_full_path or (seen.any and inherited() is not None):
            if not in_flight.tells_ends or context.channel.wants.attempts or (seen.any and inherited() is not None):
                if context.mode == "off":
                    return await fn(*args, **kwargs)
                call = in_flight.begin(fn, args, kwargs, None)
                return await full_path(call)
            call = Call()
            call.fn = fn
            call.args = args
            call.kwargs = kwargs
            call.runtime = None
            call.attempt = 1
            call.deadline = None
            call.waited = 0.0
            call.error = None
            call.verdict = None
            call.requests = 0
            since = call.begin().now()
        else:
            call = Call()
            call.fn = fn
            call.args = args
            call.kwargs = kwargs
            call.runtime = None
            call.attempt = 1
            call.deadline = None
            call.waited = 0.0
            call.error = None
            call.verdict = None
            since = None
        count = in_flight.count
        count.begun += 1
        try:
            t0 = t1 = None
            try:
                t0 = admit0(call)
                if t0 is not None: t1 = admit1(call)
                if t1 is None:
                    held = (t0, t1)
                    t0 = t1 = None
                    (t0, t1) = await gate_group.queue(call, held)
                try:
                    if since is not None:
                        call.requests = 1
                    result = await (fn(*args, **kwargs) if kwargs else fn(*args))
                except BaseException as raised:
                    attempt_failed(call, raised, None if since is None else since + call.waited)
                    raise
            except BaseException as error:
                gate_group.failed(call, (t0, t1), error, 0.0)
                raise
            end = call.begin().now() if 'trio' in modules or 'resilient.runtime.virtual' in modules else monotonic()
            try:
                settle1(t1, False, 0.0, end, None)
            except BaseException as error:
                gate_group.raised(1, (t0, t1), error)
            try:
                release0(t0)
            except BaseException as error:
                gate_group.raised(0, (t0, t1), error)
        except CallbackError as callback_error:
            count.ended += 1
            try:
                await raise_callback_error(call, callback_error, context, since, call_failed)
            finally:
                if in_flight.notes_exits:
                    in_flight.exited()
        except BaseException:
            count.ended += 1
            counter = decided.get(type(exception()))
            try:
                if counter is None or since is not None:
                    call_failed(call, since, exception())
                else:
                    counter.number += 1
            finally:
                if in_flight.notes_exits:
                    in_flight.exited()
            call.verdict = None
            raise
        count.at_once += 1
        if since is not None or in_flight.notes_exits:
            if in_flight.notes_exits:
                in_flight.exited()
            if since is not None:
                call_succeeded(call, since, end, good, True)
        return result
"""

from __future__ import annotations

import functools
import itertools
import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import exception, modules
from typing import Any

from resilient.core.budget import Budget
from resilient.core.call import Call, name_of
from resilient.core.callbacks import CallbackError
from resilient.core.context import PipelineContext
from resilient.core.emit import Ends
from resilient.core.endings import Endings
from resilient.core.gate_group import FILE, GateGroup
from resilient.core.layer import BoundLayer, Layer, Recovery
from resilient.errors import Stopped
from resilient.events.counters import CallCount
from resilient.pipeline.call_path import inside, outermost, raise_callback_error
from resilient.pipeline.earnings import Earn
from resilient.pipeline.functions import plain_types, refuse_awaitable
from resilient.pipeline.gate_layer_source import Lines, Shape, deeper
from resilient.pipeline.in_flight import InFlight
from resilient.runtime import current_async
from resilient.runtime.asyncio import running
from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import inherited, seen
from resilient.runtime.threads import THREADS, drive, finish

__all__ = ["Composed", "guard_with", "layer_of"]


@dataclass(frozen=True, slots=True)
class Composed:
    """The policies of a pipeline, bound to each other, as the parts of the outermost gate layer.

    Attributes:
        recover: the outermost policies that act only after a failure; None if there are none.
        gate_group: the gates inside those.
        inner: the layer inside the gates.
        layer: the gates around `inner`, as one layer.
    """

    recover: Recovery | None
    gate_group: GateGroup
    inner: BoundLayer
    layer: BoundLayer


def guard_with(
    in_flight: InFlight,
    context: PipelineContext,
    composed: Composed,
    full_path: Layer,
    earn: Earn | None,
    ends: Ends,
    *,
    is_async: bool,
    timed: bool,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a decorator that replaces a function by the gate layer that guards it.

    Args:
        full_path: the layer of calls that the gate layer does not handle itself (`call_path.full_path`).
        earn: called with each success, to pay into budgets.
        ends: emits `CallEnded`.
        timed: whether a policy needs the call's runtime even if the call succeeds.
    """
    recovers = composed.recover is not None
    shape, names = _shape_of(
        composed.gate_group, composed.inner, is_async=is_async, recovers=recovers, is_outermost=True
    )
    is_blind = earn is None or getattr(earn, "__func__", None) is Budget.earn  # `earn` ignores its arguments
    reads_results = shape.judges or shape.may_be_open
    needs_call = bool(shape.kinds) or not shape.direct or not is_blind or reads_results
    bind = _outermost(shape, earns=earn is not None, needs_call=needs_call, timed=timed, substitutes=ends.substitutes)
    values = {
        "in_flight": in_flight,
        "context": context,
        "recover": composed.recover,
        "earn": earn,
        "full_path": full_path,
    }
    events = {
        "call_succeeded": ends.succeeded,
        "call_returned": ends.returned,
        "emit_returned": ends.emit_returned,
        "call_failed": ends.failed,
        "decided": ends.endings.decided,
        "good_fields": ends.good_fields,
    }
    return bind(names | values | events)  # type: ignore[no-any-return]


def layer_of(gate_group: GateGroup, inner: BoundLayer, recover: Recovery | None = None) -> BoundLayer:
    """The layer that applies these gates around `inner`, and `recover` around both."""
    if not gate_group.gates and recover is None and inner.attempts is None:
        return inner

    def make(*, is_async: bool) -> Any:
        shape, names = _shape_of(gate_group, inner, is_async=is_async, recovers=recover is not None)
        return _inside(shape)({**names, "recover": recover})()

    plainly = None if inner.plainly is None else make(is_async=False)
    return BoundLayer(make(is_async=True), plainly, is_leaf=inner.is_leaf and not gate_group.gates and recover is None)


def _shape_of(
    gate_group: GateGroup, inner: BoundLayer, *, is_async: bool, recovers: bool, is_outermost: bool = False
) -> tuple[Shape, dict[str, Any]]:
    """The shape of a gate layer, and the values of the names in its source."""
    awaits = is_async and inner.plainly is None
    rest, limit = (inner.limited if awaits else None) or (None, None)
    names = {
        **gate_group.names,
        "gate_group": gate_group,
        "inner": inner.plainly or (inner.run if is_async else _driven(inner.run)),
        "rest": rest,
        "limit": limit,
    }
    context = gate_group.context
    if inner.attempts is not None:
        endings = Endings(context, inner.attempts)
        names |= {
            "counters": inner.attempts,
            "attempt_failed": endings.attempt_failed,
            "attempt_returned": endings.attempt_returned,
        }
    shape = Shape(
        kinds=gate_group.kinds,
        endings=gate_group.endings,
        clocked=gate_group.clocked,
        dated=gate_group.dated,
        waits=gate_group.waits,
        looks_at_results=gate_group.looks_at_results,
        follows=gate_group.follows,
        is_async=is_async,
        awaits=awaits,
        limited=limit is not None,
        direct=is_outermost and inner.is_direct,
        recovers=recovers,
        attempts=inner.attempts is not None,
        is_outermost=is_outermost,
        judges=context.classifier.judges_results,
        may_be_open=context.lifecycle.may_be_open,
    )
    return shape, names


def _driven(layer: Layer) -> Callable[[Call], Any]:
    return lambda call: finish(layer(call))


# -- from source to functions ----------------------------------------------------------------------------------------

_COMMON: dict[str, Any] = {
    "Call": Call,
    "CallbackError": CallbackError,
    "Stopped": Stopped,
    "THREADS": THREADS,
    "current_async": current_async,
    "drive": drive,
    "exception": exception,
    "finish": finish,
    "inherited": inherited,
    "modules": modules,
    "monotonic": monotonic,
    "name_of": name_of,
    "raise_callback_error": raise_callback_error,
    "plain_types": plain_types,
    "refuse_awaitable": refuse_awaitable,
    "running": running,
    "seen": seen,
    "uncounted": CallCount(),
}

_CLOSED_OVER = re.compile(
    r"\b(?:(?:admit|settle|release)\d+|attempt_failed|attempt_returned|call_failed|call_returned|call_succeeded|context"
    r"|counters|decided|earn|emit_returned|full_path|gate_group|good_fields|in_flight|inner|is_open|limit|recover|rest|too_late|verdict_on)\b"
)
"""The names in the source of a gate layer whose values differ between gate layers of one shape."""

_number = itertools.count(1)

Bind = Callable[[Mapping[str, Any]], Any]
"""Takes the values of the names in the source of a gate layer; returns the function that makes the gate layer."""


@functools.lru_cache(maxsize=256)
def _inside(shape: Shape) -> Bind:
    return _compiled(shape, inside(shape), "")


@functools.lru_cache(maxsize=256)
def _outermost(shape: Shape, **facts: bool) -> Bind:
    return _compiled(shape, outermost(shape, **facts), "fn")


def _compiled(shape: Shape, body: Lines, argument: str) -> Bind:
    """Compile the source of a gate layer.

    There are few shapes and many pipelines, so all gate layers of one shape share one code object, which CPython
    specializes while it runs. Values that differ between them are closed over. The classes of gates are part of the
    shape, because code specialized for one class is slow with another."""
    used = sorted(set(_CLOSED_OVER.findall("\n".join(body))))
    source = "\n".join(
        [
            f"# {', '.join(shape.kinds)}",
            f"def bind({', '.join(used)}):",
            f"    def make({argument}):",
            *deeper(body, 2),
            "    return make",
            "",
        ]
    )
    file = f"{FILE}{next(_number)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    space = dict(_COMMON)
    exec(compile(source, file, "exec"), space)
    bind = space["bind"]
    return lambda names: bind(*[names[name] for name in used])
