"""What a guarded function can find out about the call that it is in: which attempt this is, and how long it has.

    @users
    async def get_user(user_id):
        call = current_call()
        headers = {"X-Request-Id": call.id, "X-Attempt": str(call.attempt)}

Telling every call what it is would cost each of them as much as a retry does. So nothing is told: whoever asks looks up
the stack, where the frames of the guarded calls stand. Copies of hedges and abandoned work, which run beside their
callers, are given what their callers saw. Tasks that the function itself begins are calls of their own: ask before.
"""

from __future__ import annotations

import sys
import threading
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from resilient.call import Call
from resilient.policy import Scope

__all__ = ["CurrentCall", "around", "beside", "current_call", "enclosing", "is_guard"]

_guards: dict[int, CodeType] = {}  # by identity: a code object works its hash out anew each time, from all it has
_lock = threading.Lock()
beside: ContextVar[tuple[tuple[Call, Scope], ...]] = ContextVar("resilient_enclosing", default=())
"""Tells what runs in this context, beside its caller, which calls enclose it."""


def is_guard(code: CodeType) -> None:
    """Frames of this code guard a call; they have it as `call`, and its pipeline's scope as `scope`."""
    _guards[id(code)] = code


def enclosing(depth: int = 1) -> tuple[tuple[Call, Scope], ...]:
    """The guarded calls around the caller's frame, innermost first."""
    found: list[tuple[Call, Scope]] = []
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if id(frame.f_code) in _guards:
            names = frame.f_locals
            if "call" in names:
                found.append((names["call"], names["scope"]))
        frame = frame.f_back
    return (*found, *beside.get())


def around(awaited: object, coroutine: Any) -> tuple[tuple[Call, Scope], ...]:
    """The guarded calls around the method of `awaited` that `coroutine`, which stands still, waits for."""
    found: list[tuple[Call, Scope]] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None or frame.f_locals.get("self") is awaited:
            break
        if id(frame.f_code) in _guards and "call" in frame.f_locals:
            found.append((frame.f_locals["call"], frame.f_locals["scope"]))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return (*reversed(found), *beside.get())


@dataclass(frozen=True, slots=True)
class CurrentCall:
    """One guarded call, as its function sees it.

    Attributes:
        pipeline: the pipeline's name, or "".
        attempt: number of the attempt, from 1.
        remaining: seconds until its deadline when this was asked (0 when it has passed); None without one.
        id: the same for all attempts and copies of this call, and for no other.
        repeats: whether its pipeline may run it again.
        outer: the guarded call that this one is part of, or None.
    """

    pipeline: str
    attempt: int
    remaining: float | None
    id: str
    repeats: bool
    outer: CurrentCall | None


def current_call() -> CurrentCall | None:
    """The innermost guarded call that the caller is in, or None outside all."""
    view: CurrentCall | None = None
    for call, scope in reversed(enclosing(2)):
        remaining = None if call.deadline is None else max(0.0, call.deadline - call.begin().now())
        view = CurrentCall(scope.name, call.attempt, remaining, _id(call), scope.repeats, view)
    return view


def _id(call: Call) -> str:
    origin = getattr(call, "origin", call)
    with _lock:  # copies in threads may ask at once
        if not hasattr(origin, "identity"):
            origin.identity = uuid.uuid4().hex
    return origin.identity
