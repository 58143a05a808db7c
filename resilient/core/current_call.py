"""The current call: facts about its call for a guarded function, such as the attempt, and the time that is left.

    @users
    async def get_user(user_id):
        call = current_call()
        headers = {"X-Request-Id": call.id, "X-Attempt": str(call.attempt)}

To set a variable for every call would cost each of them as much as a retry does. So none is set: `current_call` finds
the frames of the guarded calls on the stack. Copies of hedges and abandoned work, which run in the background, keep the
calls that enclosed their caller. In a task that the function itself starts there is no current call.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any, Protocol

from resilient._atomic import in_forked_child, module_lock
from resilient.core.call import Call
from resilient.core.context import PipelineContext

__all__ = [
    "BackgroundFrame",
    "CurrentCall",
    "Enclosing",
    "block_begins",
    "block_ends",
    "current_call",
    "enclosing",
    "frames_of",
    "guarded_frames",
    "is_guarded",
    "register_background",
    "register_guard",
    "stack",
    "waiting",
]

# By identity: a code object computes its hash anew each time, from all of its contents.
_guards: dict[int, CodeType] = {}
_elsewhere: dict[int, CodeType] = {}
_lock = module_lock()


def register_guard(code: CodeType) -> None:
    """Register code whose frames guard a call: they have the call in the variable `call`, and the context of its
    pipeline in `context`."""
    _guards[id(code)] = code


def is_guarded(fn: object) -> bool:
    """Whether a function is a gate layer, which guards another function."""
    return id(getattr(fn, "__code__", None)) in _guards


_blocks: dict[FrameType, list[tuple[Call, PipelineContext]]] = {}
"""The guarded blocks of each frame, outermost first. (The key is the frame, not its id: the id of a frame that has
ended is soon reused.)"""

_STACKS = contextlib.__file__


def block_begins(frame: FrameType | None, call: Call, context: PipelineContext) -> FrameType:
    """Record that `frame` is inside a guarded block from now on; for a frame of an exit stack, the frame that uses the
    stack. Returns the frame that `block_ends` takes."""
    while frame is not None and frame.f_code.co_filename == _STACKS and frame.f_back is not None:
        frame = frame.f_back
    assert frame is not None
    with _lock:
        _blocks.setdefault(frame, []).append((call, context))
    return frame


def block_ends(frame: FrameType, call: Call) -> None:
    """Record that a block of this frame has ended: its call is no longer current there."""
    with _lock:
        left = [block for block in _blocks.pop(frame, ()) if block[0] is not call]
        if left:
            _blocks[frame] = left


class BackgroundFrame(Protocol):
    """A call in the background: the outermost frame of its task or thread has this object as `self` (see
    `register_background`)."""

    call: Call
    context: PipelineContext

    def outer(self) -> Enclosing:
        """Return the guarded calls that enclose this one, innermost first."""
        ...


Enclosing = Sequence[tuple[Call, PipelineContext]]
"""Guarded calls, each with the context of its pipeline, innermost first."""


def register_background(code: CodeType) -> None:
    """Register code whose frames are the outermost of a `BackgroundFrame`, in the variable `self`."""
    _elsewhere[id(code)] = code


def enclosing(depth: int = 1, *, keep: bool = False) -> Enclosing:
    """Return the guarded calls around the frame of the caller, innermost first. `keep`: the same `Call` objects are
    returned the next time, so what is stored on them stays."""
    return _calls_in(stack(sys._getframe(depth)), keep=keep)


def waiting(caller: Any) -> Enclosing:
    """Return the guarded calls in which a task (asyncio's or trio's), or a thread by its number, waits; innermost
    first."""
    if isinstance(caller, int):
        frame = _frames_of_threads().get(caller)
        return () if frame is None else _calls_in(stack(frame))
    return _calls_in(frames_of(caller))


def _frames_of_threads() -> dict[int, FrameType]:
    """The innermost frame of each thread, by the thread's number.

    Python collects them under a lock that each new thread needs. Before 3.13 the garbage collector can run under that
    lock; if a finalizer then lets another thread run, and that thread needs the lock, all threads wait for each other
    for ever. So the collector is switched off until the frames are collected.
    """
    with _lock:
        was_on = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_on:
                gc.enable()


def frames_of(task: Any) -> Iterator[FrameType]:
    """The frames in which a task (asyncio's or trio's) waits, innermost first."""
    coroutine = task.get_coro() if hasattr(task, "get_coro") else task.coro
    frames: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return reversed(frames)


_forked_in: FrameType | None = None
"""In a forked child: the frame that forked. It and its callers belong to the parent."""


@in_forked_child
def _leave_the_parents_calls() -> None:
    """In a forked child: the calls on the stack so far belong to the parent."""
    global _forked_in
    _forked_in = sys._getframe(2)  # past the function that calls this one


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame, and its callers in this process."""
    while frame is not None and frame is not _forked_in:
        yield frame
        frame = frame.f_back


def _calls_in(frames: Iterable[FrameType], *, keep: bool = False) -> Enclosing:
    """Return the guarded calls in these frames, and in the frames around those, innermost first. `keep`: as for
    `enclosing`."""
    found: list[tuple[Call, PipelineContext]] = []
    for frame in frames:
        if _blocks and frame in _blocks:
            found += reversed(_blocks.get(frame, ()))
        code = id(frame.f_code)
        if code in _guards:
            names = frame.f_locals
            call = names.get("call")
            if call is None and "count" in names:  # an outermost gate layer: it makes no `Call` until something fails
                call = names["in_flight"].call_of(frame, keep=keep)
            if call is not None and not (found and found[-1][0] is call):  # two frames of one call
                found.append((call, names["context"]))
        elif code in _elsewhere:
            work: BackgroundFrame = frame.f_locals["self"]
            if found and found[-1][0] is work.call:
                found.pop()
            return [*found, (work.call, work.context), *work.outer()]
    return found


MOST_FRAMES = 1_000
"""The most frames of a traceback that are looked at: of an exception object that is raised again and again, Python
makes the traceback longer each time."""


def guarded_frames(trace: TracebackType | None) -> Iterator[FrameType]:
    """Yield the frames of a traceback that are gate layers, outermost first.

    An exception object that is raised again keeps its older traceback, behind the new one. So the frames end where a
    gate layer comes a second time.
    """
    seen: set[tuple[CodeType, int]] = set()
    for _ in range(MOST_FRAMES):
        if trace is None:
            return
        frame = trace.tb_frame
        if id(frame.f_code) in _guards and "count" in frame.f_code.co_varnames:
            layer = frame.f_code, id(frame.f_locals.get("fn"))
            if layer in seen:
                return
            seen.add(layer)
            yield frame
        trace = trace.tb_next


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
    """Return the innermost guarded call around the code that calls this, or None outside all."""
    view: CurrentCall | None = None
    for call, context in reversed(enclosing(2, keep=True)):
        remaining = None if call.deadline is None else max(0.0, call.deadline - call.begin().now())
        view = CurrentCall(context.name, call.attempt, remaining, _id(call), context.repeats, view)
    return view


def _id(call: Call) -> str:
    origin = call.origin
    with _lock:  # copies in threads may ask at once
        if not hasattr(origin, "identity"):
            origin.identity = uuid.uuid4().hex
    return origin.identity
