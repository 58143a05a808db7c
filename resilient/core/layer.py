"""Layers: what a pipeline is made of, once its policies are bound to each other; and what they tell each other.

Policies are bound from the inside out, so a layer knows the one inside it. What it can do without depends on that one:
around a plain function, for example, it needs no coroutine. So each layer may carry `Marks`, which are read when the
next layer is made around it, never at a call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from resilient.core.call import Call

__all__ = ["Layer", "Marks", "Recovery", "Watch", "marked", "marks_of"]

F = TypeVar("F", bound=Callable[..., Any])

Layer = Callable[[Call], Coroutine[Any, Any, Any]]
"""The rest of a pipeline, seen from one of its policies."""

Recovery = Callable[[Call, Exception], Coroutine[Any, Any, Any] | None]
"""Handles the failure of a layer: returns a coroutine whose result or error the caller gets; or None, where it is not
for this error, which then goes on to the caller."""

Watch = Callable[[Call, Any, Exception | None], None]
"""Is told how a call ended: by its result and None, or by None and its error."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What a layer tells the layers around it.

    Attributes:
        plainly: a plain function of the call that does the same as the layer without a coroutine, and blocks its thread
            where it waits; or None.
        is_leaf: whether no policy is inside it.
        is_direct: whether it only calls the guarded function, so a frame may do that itself.
        waits: whether a call may wait inside it for a connection or a permit.
        limited: of a Timeout: the layer inside it and its limit, so that a frame may apply the limit itself; or None.
        observes_itself: of a leaf: whether it emits the events of its attempts.
    """

    plainly: Callable[[Call], Any] | None = None
    is_leaf: bool = False
    is_direct: bool = False
    waits: bool = False
    limited: tuple[Layer, Any] | None = None
    observes_itself: bool = False


_NONE = Marks()


def marked(layer: F, marks: Marks) -> F:
    """Give a layer its marks, and return it."""
    vars(layer)["marks"] = marks
    return layer


def marks_of(layer: Callable[..., Any]) -> Marks:
    """The marks of a layer, or of an attempt that stands in place of one; the defaults if it was given none."""
    marks: Marks = getattr(layer, "marks", _NONE)
    return marks
