"""Layers: the parts of a pipeline whose policies are bound to each other.

A layer is a function of a `Call` that runs one policy and everything inside it. Policies are bound from the inside out,
so each one knows the layer inside it when it makes its own. How cheap its own layer can be depends on the inner one:
around a plain function, for example, it needs no coroutine. So a layer is passed on as a `BoundLayer`: the function,
and such facts about it. The facts are read while layers are bound, never at a call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from resilient.core.call import Call
from resilient.events.counters import Counters

__all__ = ["BoundLayer", "Layer", "Recovery", "Watch"]

Layer = Callable[[Call], Coroutine[Any, Any, Any]]
"""The rest of a pipeline, as the policy around it calls it."""

Recovery = Callable[[Call, Exception], Coroutine[Any, Any, Any] | None]
"""A function that handles a failure of the layer inside it. Returns a coroutine whose result or error the caller gets;
or None if it does not handle this error, which then goes on to the caller."""

Watch = Callable[[Call, Any, Exception | None], None]
"""Called at the end of each call: with the call's result and None, or with None and the call's error."""


@dataclass(frozen=True, slots=True)
class BoundLayer:
    """A layer, and the facts about it that the layers around it use.

    Attributes:
        run: the layer itself.
        plainly: a plain function of the call that does the same as `run` without a coroutine, and blocks its thread
            where it waits; None if there is no such form.
        is_leaf: whether there is no policy inside it.
        is_direct: whether it only calls the guarded function, so that the outermost gate layer can call it instead.
        waits: whether a call may wait inside it for a connection or a permit.
        limited: of a Timeout: the layer inside it and its limit, so that a gate layer can apply the limit itself; else
            None.
        attempts: of a leaf, and of a Timeout around it: each run is an attempt, which the layer around it counts here.
        observes_itself: of a leaf: whether it emits the events of its attempts itself.
    """

    run: Layer
    plainly: Callable[[Call], Any] | None = None
    is_leaf: bool = False
    is_direct: bool = False
    waits: bool = False
    limited: tuple[Layer, Any] | None = None
    attempts: Counters | None = None
    observes_itself: bool = False
