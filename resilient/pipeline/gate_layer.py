"""The frames that guarded calls run through, written out for the policies at hand.

Every guarded call runs through a frame, so what is known when a function is decorated is not asked at the call. As
`dataclasses` generates an `__init__`, the source of a frame is generated (`resilient.pipeline.gate_layer_source`) and
compiled for its gates and its kind of function: without a loop over gates, a clock that is not needed, or a coroutine
around a plain `def`. Measured for a bulkhead and a breaker, a loop over gates costs three bare awaits more than a
generated frame, and a second frame inside the outermost one costs two.

    guard_with   the frame that stands in place of a guarded function: `guarded(*args, **kwargs)`
    layer_of     a frame inside a policy that wraps: `layer(call)`

Both have the same parts, outermost first: a `Recovery`, which handles a failure; the gates; the layer inside them. A
frame with neither gates nor wraps makes no `Call` unless something fails.

A plain `def` needs no coroutine. So a layer that awaits nothing has a second form (`Marks.plainly`): a plain
function of the call that does the same, and blocks its thread where it has to wait.
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
from resilient.core.emit import Ends
from resilient.core.gate_group import FILE, GateGroup
from resilient.core.layer import BoundLayer, Layer, Recovery
from resilient.core.policy import PipelineContext
from resilient.errors import Stopped
from resilient.pipeline.functions import plain_types, refuse_awaitable
from resilient.pipeline.gate_layer_source import Lines, Shape, deeper, inside, outermost
from resilient.pipeline.in_flight import Count, Earn, InFlight, raise_callback_error
from resilient.runtime import current_async
from resilient.runtime.asyncio import running
from resilient.runtime.clock import monotonic
from resilient.runtime.inherited_deadline import inherited, seen
from resilient.runtime.threads import THREADS, drive, finish

__all__ = ["Composed", "guard_with", "layer_of"]


@dataclass(frozen=True, slots=True)
class Composed:
    """The policies of a pipeline, bound to each other, in the parts that the outermost frame is made of.

    Attributes:
        recover: the outermost policies that act only after a failure; None: there are none.
        passage: the gates inside those.
        inner: the layer inside the gates.
        layer: the gates around `inner`, as a layer of its own.
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
    """A decorator, which replaces a function by the frame that guards it.

    Args:
        full_path: `InFlight.full_path`, the full path of calls that the frame does not handle itself.
        earn: is given each success, to pay it into budgets.
        ends: emits `CallEnded`.
        timed: whether a policy needs the call's runtime even if the call succeeds.
    """
    recovers = composed.recover is not None
    shape, names = _shape_of(
        composed.gate_group, composed.inner, is_async=is_async, recovers=recovers, is_outermost=True
    )
    is_blind = earn is None or getattr(earn, "__func__", None) is Budget.earn  # `earn` ignores its arguments
    needs_call = bool(shape.kinds) or not shape.direct or not is_blind
    write = _outermost(shape, earns=earn is not None, needs_call=needs_call, timed=timed)
    mine = {
        "in_flight": in_flight,
        "context": context,
        "recover": composed.recover,
        "earn": earn,
        "full_path": full_path,
    }
    telling = {"call_returned": ends.returned, "call_failed": ends.failed, "good_fields": ends.good_fields}
    return write(names | mine | telling)  # type: ignore[no-any-return]


def layer_of(gate_group: GateGroup, inner: BoundLayer, recover: Recovery | None = None) -> BoundLayer:
    """The layer that applies these gates around `inner`, and `recover` around both."""
    if not gate_group.gates and recover is None:
        return inner

    def write(*, is_async: bool) -> Any:
        shape, names = _shape_of(gate_group, inner, is_async=is_async, recovers=recover is not None)
        return _inside(shape)({**names, "recover": recover})()

    return BoundLayer(write(is_async=True), plainly=None if inner.plainly is None else write(is_async=False))


def _shape_of(
    gate_group: GateGroup, inner: BoundLayer, *, is_async: bool, recovers: bool, is_outermost: bool = False
) -> tuple[Shape, dict[str, Any]]:
    """The shape of a frame, and the values of the names in its source."""
    awaits = is_async and inner.plainly is None
    rest, limit = (inner.limited if awaits else None) or (None, None)
    names = {
        **gate_group.names,
        "gate_group": gate_group,
        "inner": inner.plainly or (inner.run if is_async else _driven(inner.run)),
        "rest": rest,
        "limit": limit,
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
    )
    return shape, names


def _driven(layer: Layer) -> Callable[[Call], Any]:
    return lambda call: finish(layer(call))


# -- from text to functions -----------------------------------------------------------------------------------------

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
    "uncounted": Count(),
}

_OTHERS = re.compile(
    r"\b(?:(?:admit|settle|release)\d+|call_failed|call_returned|earn|full_path|good_fields|in_flight|inner|is_open|limit|gate_group"
    r"|recover|rest|context|too_late|verdict_on)\b"
)
"""The names in a frame's source that have another value in each frame."""

_number = itertools.count(1)

Write = Callable[[Mapping[str, Any]], Any]
"""Takes the values of the names in a frame's source, and returns the function that makes the frame."""


@functools.lru_cache(maxsize=256)
def _inside(shape: Shape) -> Write:
    return _written(shape, inside(shape), "")


@functools.lru_cache(maxsize=256)
def _outermost(shape: Shape, *, earns: bool, needs_call: bool, timed: bool) -> Write:
    return _written(shape, outermost(shape, earns=earns, needs_call=needs_call, timed=timed), "fn")


def _written(shape: Shape, body: Lines, argument: str) -> Write:
    """Compile the source of a frame.

    There are few shapes and many pipelines, so all frames of one shape share one code object, which CPython specializes
    while it runs. Values that differ between frames are closed over. The classes of gates are part of the shape,
    because code specialized for one class is slow with another."""
    used = sorted(set(_OTHERS.findall("\n".join(body))))
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
