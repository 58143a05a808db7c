"""The frames that guarded calls run through, written out for the policies at hand.

Every guarded call passes here, so what can be known when a function is decorated is not asked at the call. As
`dataclasses` writes out an `__init__`, a frame is written for just these gates, this kind of function, these watchers:
no loop, no pairs of pairs, no clock that nobody reads, no coroutine around a plain `def`. Measured for a bulkhead and a
breaker, a loop over gates costs three bare awaits more, and a frame of their own inside the outermost one two.

    guard_with   the frame that stands in place of a guarded function: `guarded(*args, **kwargs)`
    layer_of     a frame inside a policy that wraps: `layer(call)`

Both have the same parts, outermost first: `recover`, which goes on after a failure; the gates; what is inside them. A
frame with neither gates nor wraps inside makes no `Call` before something fails.

A plain `def` needs no coroutine as long as nothing waits. So a layer whose inside is plain has a twin, `plainly(call)`,
that does the same in its caller's frame, and blocks where it waits.
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

from resilient.budget import Budget
from resilient.call import Call, name_of
from resilient.clock import monotonic
from resilient.deadlines import inherited, seen
from resilient.flow import Count, Earn, Flow, own_up
from resilient.frame_text import Lines, Shape, deeper, inside, outermost
from resilient.guard import plain_types, refuse_awaitable
from resilient.mistakes import Mistake
from resilient.outcome import Stopped
from resilient.passage import FILE, Passage
from resilient.policy import Layer, Recovery, Scope
from resilient.runtime import current_async
from resilient.runtime.asyncio import running
from resilient.runtime.threads import THREADS, drive, finish
from resilient.telling import Ends

__all__ = ["Woven", "guard_with", "layer_of"]


@dataclass(frozen=True, slots=True)
class Woven:
    """The policies of a pipeline, outermost first.

    Attributes:
        recover: the outermost policies that act only after a failure: goes on when the layer has raised an `Exception`;
            or None.
        passage: the gates inside those.
        inner: what is inside the gates.
        layer: gates and `inner`.
    """

    recover: Recovery | None
    passage: Passage
    inner: Layer
    layer: Layer


def guard_with(
    flow: Flow, scope: Scope, woven: Woven, whole: Layer, earn: Earn | None, ends: Ends, *, is_async: bool, timed: bool
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What guards a function: the whole way through a pipeline, where all is as usual.

    Args:
        whole: the way of all other calls: those of whose attempts somebody hears, that inherited a deadline, ...
        ends: tells how calls have ended.
        timed: a policy needs the call's runtime also when all goes well.
    """
    recovers = woven.recover is not None
    shape, names = _shape_of(woven.passage, woven.inner, is_async=is_async, recovers=recovers, is_outermost=True)
    is_blind = earn is None or getattr(earn, "__func__", None) is Budget.earn  # it looks neither at call nor result
    needs_call = bool(shape.kinds) or not shape.direct or not is_blind
    write = _outermost(shape, earns=earn is not None, needs_call=needs_call, timed=timed)
    mine = {"flow": flow, "scope": scope, "recover": woven.recover, "earn": earn, "whole": whole}
    telling = {"call_returned": ends.returned, "call_failed": ends.failed, "of_good": ends.of_good}
    return write(names | mine | telling)  # type: ignore[no-any-return]


def layer_of(passage: Passage, inner: Layer, recover: Recovery | None = None) -> Layer:
    """The layer that passes these gates, if there are any, around `inner`; and goes on by `recover` when that fails."""
    if not passage.gates and recover is None:
        return inner

    def write(*, is_async: bool) -> Any:
        shape, names = _shape_of(passage, inner, is_async=is_async, recovers=recover is not None)
        return _inside(shape)({**names, "recover": recover})()

    layer: Layer = write(is_async=True)
    if hasattr(inner, "plainly"):
        layer.plainly = write(is_async=False)  # type: ignore[attr-defined]
    return layer


def _shape_of(
    passage: Passage, inner: Layer, *, is_async: bool, recovers: bool, is_outermost: bool = False
) -> tuple[Shape, dict[str, Any]]:
    """The shape of a frame, and what the names in its text stand for."""
    plainly: Layer | None = getattr(inner, "plainly", None)
    awaits = is_async and plainly is None
    rest, limit = getattr(inner, "limited", (None, None)) if awaits else (None, None)
    names = {
        **passage.names,
        "passage": passage,
        "inner": plainly or (inner if is_async else _driven(inner)),
        "rest": rest,
        "limit": limit,
    }
    shape = Shape(
        *(passage.kinds, passage.endings, passage.clocked, passage.dated, passage.waits),
        *(passage.looks_at_results, passage.follows),
        is_async=is_async,
        awaits=awaits,
        limited=limit is not None,
        direct=is_outermost and getattr(inner, "is_direct", False),
        recovers=recovers,
    )
    return shape, names


def _driven(layer: Layer) -> Callable[[Call], Any]:
    return lambda call: finish(layer(call))


# -- from text to functions -----------------------------------------------------------------------------------------

_COMMON: dict[str, Any] = {
    "Call": Call,
    "Mistake": Mistake,
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
    "own_up": own_up,
    "plain_types": plain_types,
    "refuse_awaitable": refuse_awaitable,
    "running": running,
    "seen": seen,
    "uncounted": Count(),
}

_OTHERS = re.compile(
    r"\b(?:(?:admit|settle|release)\d+|call_failed|call_returned|earn|flow|inner|is_open|limit|of_good|passage|recover|rest|scope"
    r"|too_late|verdict_on|whole)\b"
)
"""Names that each frame has its own meaning of."""

_number = itertools.count(1)

Write = Callable[[Mapping[str, Any]], Any]
"""Makes the function of a text that makes a frame, by what the names in the text mean."""


@functools.lru_cache(maxsize=256)
def _inside(shape: Shape) -> Write:
    return _written(shape, inside(shape), "")


@functools.lru_cache(maxsize=256)
def _outermost(shape: Shape, *, earns: bool, needs_call: bool, timed: bool) -> Write:
    return _written(shape, outermost(shape, earns=earns, needs_call=needs_call, timed=timed), "fn")


def _written(shape: Shape, body: Lines, argument: str) -> Write:
    """There are few shapes of frames, and many pipelines. All frames of one shape, around gates of the same classes,
    run one code, which the interpreter adapts to what it meets; so what differs is closed over."""
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
