"""The path of a call through a pipeline, written four times; each writing adds something to the one before.

A call of a pipeline takes one of two paths: the short one (2), or the full one (3). Both lead through the gate layers
between the policies (1). The fourth writing is the full path for calls to which the short one does not apply (4).

A call goes inward through the policies, outermost first, to the guarded function, and its result or error goes outward
again. There is more than one writing because each addition costs time that most calls do not need:

1. **Inside a policy that wraps** (`inside`). The gates admit the call, or it waits in a queue. The layer inside them
   runs. Then the gates learn how it ended and take their tickets back, innermost first. A failure goes to the policies
   that act only after a failure (`Recovery`); they may run the gates again.
2. **In place of the function** (`outermost`): the common case of a whole call. Added to 1: the call is counted when it
   begins and when it ends. A `Call` is made, at once if gates need it, else after a failure. A success is paid into
   budgets. An error of the caller's own code (a predicate, a key) is raised as itself. If no listener wants events of
   attempts, the duration is recorded and `CallEnded` emitted, where that is wanted. While the pipeline is switched off,
   only the function is called. All other calls are handed to 3.
3. **The full path** (`full_path`). Added to 2: a closed pipeline refuses the call. A deadline inherited from an outer
   call or a request limits it. Listeners get all events, also those of attempts. Without a GIL, calls are counted under
   a lock. `InFlight.needs_full_path` says when calls may have to take it.
4. **Nested pipelines and blocks** (`unless_off`). They have no gate layer outside the full path. Added to 3: while the
   pipeline is switched off, only what is inside it runs.

1 and 2 are generated as source, for the gates at hand: `resilient.pipeline.gate_layer_source` has the part that differs
with the gates; `resilient.pipeline.gate_layer` compiles it, and shows an example. 3 and 4 are plain functions around
the same gates.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, NoReturn

from resilient._atomic import GIL
from resilient.core.background import discard, is_own
from resilient.core.call import Call
from resilient.core.callbacks import CallbackError, raise_original
from resilient.core.classify import IGNORED
from resilient.core.context import PipelineContext
from resilient.core.deadline import under
from resilient.core.emit import Ends, observed_call, recorded_call
from resilient.core.layer import Layer, Recovery
from resilient.events import CallEnded
from resilient.pipeline.earnings import Earn
from resilient.pipeline.gate_layer_source import Lines, Shape, deeper, pass_gates
from resilient.pipeline.in_flight import InFlight
from resilient.runtime.inherited_deadline import inherited

__all__ = ["full_path", "inside", "outermost", "raise_callback_error", "unless_off"]


# -- 1: inside a policy that wraps ----------------------------------------------------------------------------------


def inside(shape: Shape) -> Lines:
    """The source of a layer inside a policy that wraps: recovery, gates and inner layer."""
    section = pass_gates(shape)
    lines = [f"{'async ' if shape.is_async else ''}def layer(call):"]
    if not shape.recovers:
        return [*lines, *deeper([*section, "return result"]), "return layer"]
    body = [
        *("try:", *deeper([*section, "return result"])),
        *("except Exception as error:", *_RECOVERED),
        f"return {shape.waiting('recovery')}",  # outside the clause, so that what it raises has no false context
    ]
    return [*lines, *deeper(body), "return layer"]


_RECOVERED = ("    recovery = recover(call, error)", "    if recovery is None:", "        raise")


# -- 2: in place of the function ------------------------------------------------------------------------------------


def outermost(shape: Shape, *, earns: bool, needs_call: bool, timed: bool, substitutes: bool) -> Lines:
    """The source of the gate layer that stands in place of the guarded function.

    Its variable `since` is the time at which the call began if it reports the end of the call, else None. It does that
    after the call has left the count of calls in flight.

    Args:
        earns: whether a success is paid into a budget.
        needs_call: whether it makes a `Call` at once, not only after a failure.
        timed: whether a policy needs the call's runtime even if the call succeeds.
        substitutes: whether a policy can answer in place of the dependency.
    """
    runtime = "THREADS" if not shape.is_async else "running() or current_async()" if timed else "None"
    begin = f"call = in_flight.begin(fn, args, kwargs, {runtime})"
    made = [  # `InFlight.begin`, inlined
        *("call = Call()", "call.fn = fn", "call.args = args", "call.kwargs = kwargs", f"call.runtime = {runtime}"),
        *("call.attempt = 1", "call.deadline = None", "call.waited = 0.0", "call.error = None", "call.verdict = None"),
    ]
    earned = [f"earn({'call, result' if needs_call else ''})"] if earns else []
    begin_call = None if needs_call else ["if call is None:", f"    {begin}"]
    section = pass_gates(shape, begin_call)
    left = _leave(shape, substitutes=substitutes)
    body = [*section, *earned]
    if shape.recovers:
        body = [
            *("try:", *deeper(section)),
            *("except Exception as error:", *_RECOVERED),
            *("else:", *deeper([*earned, *left])),
            f"result = {shape.waiting('recovery')}",
        ]
        left = _leave(shape, substitutes=substitutes, recovered=True)
    forget = f"{'' if needs_call else 'if call is not None: '}call.verdict = None"
    unwrapped = "raise stopped.error from None"

    already = ["if count is uncounted:", "    raise"] if shape.recovers else []  # ended, then interrupted in a report

    def failed(error: str) -> Lines:
        return [
            *already,
            "count.ended += 1",
            f"counter = decided.get(type({error}))",
            "try:",
            "    if counter is None or since is not None:",
            f"        call_failed(call, since, {error})",
            "    else:",  # to refuse a call must cost little
            "        counter.number += 1",
            "finally:",
            "    if in_flight.notes_exits:",
            "        in_flight.exited()",
            forget,
        ]

    others = " or context.channel.wants.attempts" if shape.direct else ""  # else the leaf emits events of attempts
    return [
        "good = good_fields(name_of(fn))",
        f"{'async ' if shape.is_async else ''}def guarded(*args, **kwargs):",
        "    if in_flight.needs_full_path or (seen.any and inherited() is not None):",
        f"        if not in_flight.tells_ends{others} or (seen.any and inherited() is not None):",
        '            if context.mode == "off":',
        f"                return {'await ' if shape.is_async else ''}fn(*args, **kwargs)",
        f"            {begin}",
        f"            return {'await full_path(call)' if shape.is_async else 'drive(full_path(call))'}",
        *deeper(made if needs_call else [begin], 2),
        f"        call.requests = {int(shape.direct and not shape.kinds)}",  # without gates the function is called
        f"        since = call.{'runtime' if timed or not shape.is_async else 'begin()'}.now()",
        "    else:",
        *deeper([*made, "since = None"] if needs_call else ["call = since = None"], 2),
        "    count = in_flight.count",
        "    count.begun += 1",
        "    try:",
        *deeper(body, 2),
        "    except CallbackError as callback_error:",
        *deeper(already, 2),
        "        count.ended += 1",
        "        try:",
        f"            {shape.waiting('raise_callback_error(call, callback_error, context, since, call_failed)')}",
        "        finally:",
        "            if in_flight.notes_exits:",
        "                in_flight.exited()",
        *([] if shape.is_async else deeper(["except Stopped as stopped:", *deeper([*failed("stopped"), unwrapped])])),
        "    except BaseException:",  # binding a name would cost each failure the code that unbinds it
        *deeper([*failed("exception()"), "raise"], 2),
        *deeper(left),
        "return guarded",
    ]


def _leave(shape: Shape, *, substitutes: bool, recovered: bool = False) -> Lines:
    """The source of the end of a call that has returned `result`: the call leaves the count of calls in flight, then
    its end is reported. `recovered`: not by the first attempt.

    In the `else` clause of a `try` statement: whatever is raised here is not the failure of the call."""
    exited = ["    if in_flight.notes_exits:", "        in_flight.exited()"]
    uncounted = ["count = uncounted"] if shape.recovers and not recovered else []
    report = "call_returned(call, since, result, good)"
    if shape.judges or shape.may_be_open or (recovered and substitutes):
        return [*("count.ended += 1", *uncounted, "try:"), f"    {report}", "finally:", *exited, "return result"]
    kind = "returned" if recovered or not shape.attempts else "at_once"
    if not recovered:
        report = f"call_succeeded(call, since, {shape.end}, good, {shape.attempts})"
    else:
        report = "emit_returned(call, since, result, good)"
    return [
        f"count.{kind} += 1",
        "if since is not None or in_flight.notes_exits:",
        *deeper(uncounted),
        *exited,
        "    if since is not None:",
        f"        {report}",
        "return result",
    ]


async def raise_callback_error(
    call: Call,
    callback_error: CallbackError,
    context: PipelineContext,
    since: float | None,
    failed: Callable[[Call, float | None, BaseException], None],
) -> NoReturn:
    """Raise the error that the user's own code (a classifier, a predicate) raised when the pipeline called it.

    Only the outermost pipeline does so. A result that was being classified is closed first, in the background: no
    Timeout of the pipeline bounds this function.

    Args:
        since: the time at which the call began, if `failed` has to know it.
        failed: counts and reports the call.
    """
    call.verdict = context.classifier, callback_error.error, IGNORED
    if is_own(callback_error.about, call, context.classifier):
        await discard(callback_error.about, call.begin(), patience=0.0)
    failed(call, since, callback_error.error)
    if not (context.channel.wants[CallEnded] or context.channel.wants.surrounds):  # else these look at the verdict
        call.verdict = None
    raise_original(callback_error)


# -- 3: the full path -----------------------------------------------------------------------------------------------


def full_path(
    in_flight: InFlight,
    context: PipelineContext,
    gates: Layer,
    recover: Recovery | None,
    earn: Earn | None,
    ends: Ends,
    *,
    nested: bool,
) -> Layer:
    """The layer of calls that the outermost gate layer does not handle itself.

    Args:
        context: of the pipeline, or of one derived from it: its classifier decides what a failure is.
        gates: the outermost gates and everything inside them.
        recover: handles failures of `gates`.
        earn: called with each success.
        ends: counts calls, and emits `CallEnded`.
        nested: whether the pipeline is part of another one: only the outermost pipeline emits `CallEnded`, and raises
            errors of the caller's own code as themselves.
    """
    endings = ends.endings
    succeeded = endings.succeeded

    async def unlimited(call: Call) -> Any:
        try:
            result = await gates(call)
        except Exception as error:
            recovery = None if recover is None else recover(call, error)
            if recovery is None:
                raise
        else:
            if earn is not None:
                earn(call, result)
            return result
        return await recovery

    async def counted(call: Call) -> Any:
        if in_flight.closed:
            refusal = in_flight.refusal(call)
            endings.call_failed(call, refusal)
            raise refusal
        count = in_flight.count
        if GIL:
            count.begun += 1
        else:
            in_flight.begun(count)
        try:
            limit = inherited()
            if limit is None or limit.at == inf or (call.deadline is not None and call.deadline <= limit.at):
                result = await unlimited(call)
            else:
                result = await under(call, context, unlimited, limit)
        except CallbackError as callback_error:
            if nested:
                call.verdict = context.classifier, callback_error.error, IGNORED
                endings.call_failed(call, callback_error.error)
                raise
            await raise_callback_error(call, callback_error, context, None, ends.failed)
        except BaseException as error:
            endings.call_failed(call, error)
            if not (nested or context.channel.wants[CallEnded] or context.channel.wants.surrounds):
                call.verdict = None
            raise
        else:
            if succeeded is not None:
                succeeded.number += 1  # `Endings.call_returned`, inlined
            else:
                endings.call_returned(call, result)
            return result
        finally:
            if GIL:
                count.ended += 1
            else:
                in_flight.ended(count)
            if in_flight.closed:
                in_flight.wake()

    def full_path(call: Call) -> Coroutine[Any, Any, Any]:
        run = counted(call)
        wants = context.channel.wants
        if not nested and (context.counters.records or wants[CallEnded]):
            run = observed_call(call, ends, run)
        elif nested and context.counters.records:
            run = recorded_call(call, endings, run)
        for surround in wants.surrounds:
            run = surround.around_call(call, context, run, nested=nested)
        return run

    return full_path


# -- 4: nested pipelines and blocks ---------------------------------------------------------------------------------


def unless_off(context: PipelineContext, inner: Layer, full_path: Layer) -> Layer:
    """The layer of a nested pipeline or of a block: `full_path`; while the pipeline is switched off, only `inner`."""

    def layer(call: Call) -> Coroutine[Any, Any, Any]:
        return inner(call) if context.mode == "off" else full_path(call)

    return layer
