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

import contextlib
import gc
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Protocol

from resilient._atomic import in_forked_child, module_lock
from resilient.core.call import Call
from resilient.core.policy import PipelineContext

__all__ = [
    "CurrentCall",
    "Elsewhere",
    "Enclosing",
    "block_begins",
    "block_ends",
    "current_call",
    "enclosing",
    "frames_of",
    "is_guard",
    "is_guarded",
    "runs_elsewhere",
    "stack",
    "waiting",
]

# By identity: a code object works its hash out anew each time, from all it has.
_guards: dict[int, CodeType] = {}
_elsewhere: dict[int, CodeType] = {}
_lock = module_lock()


def is_guard(code: CodeType) -> None:
    """Frames of this code guard a call; they have it as `call`, and its pipeline's scope as `context`."""
    _guards[id(code)] = code


def is_guarded(fn: object) -> bool:
    """Whether a function is itself the frame that guards another one."""
    return id(getattr(fn, "__code__", None)) in _guards


_blocks: dict[FrameType, list[tuple[Call, PipelineContext]]] = {}
"""The guarded blocks that a frame is in, outermost first. (The frame itself is the key, not its number: that of a frame
which has ended is another one's soon.)"""

_STACKS = contextlib.__file__


def block_begins(frame: FrameType | None, call: Call, context: PipelineContext) -> FrameType:
    """From here on `frame` is inside a guarded block; or, if that is an exit stack's, the frame that fills the stack.
    Returns what `block_ends` needs."""
    while frame is not None and frame.f_code.co_filename == _STACKS and frame.f_back is not None:
        frame = frame.f_back
    assert frame is not None
    with _lock:
        _blocks.setdefault(frame, []).append((call, context))
    return frame


def block_ends(frame: FrameType, call: Call) -> None:
    """Note that a block of this frame has ended: its call is no longer current there."""
    with _lock:
        left = [block for block in _blocks.pop(frame, ()) if block[0] is not call]
        if left:
            _blocks[frame] = left


class Elsewhere(Protocol):
    """A call that runs beside its caller: in its own task or thread the stack ends with a frame that has this as
    `self` (see `runs_elsewhere`)."""

    call: Call
    context: PipelineContext

    def outer(self) -> Enclosing:
        """The calls that enclose it."""
        ...


Enclosing = Sequence[tuple[Call, PipelineContext]]


def runs_elsewhere(code: CodeType) -> None:
    """Frames of this code are the outermost of an `Elsewhere`."""
    _elsewhere[id(code)] = code


def enclosing(depth: int = 1, *, keep: bool = False) -> Enclosing:
    """The guarded calls around the caller's frame, innermost first. `keep`: the same `Call` is returned when they are
    asked for again, so what is noted on it stays."""
    return _calls_in(stack(sys._getframe(depth)), keep=keep)


def waiting(caller: Any) -> Enclosing:
    """The guarded calls in which a task (asyncio's or trio's), or a thread by its number, waits; innermost first."""
    if isinstance(caller, int):
        frame = _frames_of_threads().get(caller)
        return () if frame is None else _calls_in(stack(frame))
    return _calls_in(frames_of(caller))


def _frames_of_threads() -> dict[int, FrameType]:
    """The innermost frame of each thread, by the thread's number.

    Python collects them under a lock that each new thread needs. Before 3.13 the garbage collector can run meanwhile;
    if a finalizer then lets another thread run, and that one needs the lock, all threads wait for each other for ever.
    So the collector is switched off meanwhile.
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
"""In a forked child: the frame in which it was forked. It and those that it was called from belong to the parent."""


@in_forked_child
def _leave_the_parents_calls() -> None:
    global _forked_in
    _forked_in = sys._getframe(2)  # past `forks`


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, and those that it is called from in this process."""
    while frame is not None and frame is not _forked_in:
        yield frame
        frame = frame.f_back


def _calls_in(frames: Iterable[FrameType], *, keep: bool = False) -> Enclosing:
    """The guarded calls in these frames, and in those outside them, innermost first. `keep`: as for `enclosing`."""
    found: list[tuple[Call, PipelineContext]] = []
    for frame in frames:
        if _blocks and frame in _blocks:
            found += reversed(_blocks.get(frame, ()))
        code = id(frame.f_code)
        if code in _guards:
            names = frame.f_locals
            call = names.get("call")
            if call is None and "count" in names:  # an outermost frame that makes no `Call` before something fails
                call = names["in_flight"].call_of(frame, keep=keep)
            if call is not None and not (found and found[-1][0] is call):  # a call may have two frames
                found.append((call, names["context"]))
        elif code in _elsewhere:
            work: Elsewhere = frame.f_locals["self"]
            if found and found[-1][0] is work.call:
                found.pop()
            return [*found, (work.call, work.context), *work.outer()]
    return found


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
