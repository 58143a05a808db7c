"""The source of the frames that guarded calls run through, as pure functions of a frame's shape.

`resilient.pipeline.gate_layer` compiles it and says why. Each function returns lines of Python. In a frame, `t0`, `t1`,
... are the tickets of its gates, outermost first, and `admit0`, `settle0`, `release0`, ... the methods of these gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient.runtime import TRIO, VIRTUAL

__all__ = ["Lines", "Shape", "inside", "outermost"]

Lines = list[str]


@dataclass(frozen=True, slots=True)
class Shape:
    """All that the source of a frame depends on.

    Attributes:
        kinds: the class names of the gates, outermost first.
        endings: for each gate, the method that takes its ticket back after a success: "settle", "release", or "" where
            there is nothing to take back.
        clocked, dated, waits, looks_at_results, follows: as in the `GateGroup` of these gates.
        is_async: whether the frame is a coroutine function.
        awaits: whether the layer inside the gates is awaited.
        limited: whether that layer is a Timeout, whose limit the frame applies itself.
        direct: whether the guarded function itself is inside the gates.
        recovers: whether the frame has a `Recovery`.
    """

    kinds: tuple[str, ...]
    endings: tuple[str, ...]
    clocked: bool
    dated: bool
    waits: bool
    looks_at_results: bool
    follows: bool
    is_async: bool
    awaits: bool
    limited: bool
    direct: bool
    recovers: bool

    @property
    def tickets(self) -> list[str]:
        """The names of the variables that hold the gates' tickets."""
        return [f"t{at}" for at in range(len(self.kinds))]

    @property
    def together(self) -> str:
        """A tuple of all tickets, as source."""
        return f"({', '.join(self.tickets)},)"

    @property
    def end(self) -> str:
        """The time at which the inner layer has returned, as source: the gates' own reading of the clock if there is
        one."""
        return "end" if self.kinds and (self.clocked or self.dated) else "call.runtime.now()"

    def waiting(self, coroutine: str) -> str:
        """The result of a coroutine, as source: awaited in a coroutine function, else run to its end in this thread."""
        return f"await {coroutine}" if self.is_async else f"finish({coroutine})"


_RECOVERED = ("    recovery = recover(call, error)", "    if recovery is None:", "        raise")


def inside(shape: Shape) -> Lines:
    """The source of a layer inside a policy that wraps: recovery, gates and inner layer, without what only the
    outermost frame does."""
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


def outermost(shape: Shape, *, earns: bool, needs_call: bool, timed: bool) -> Lines:
    """The source of the frame that stands in place of the function.

    It counts the calls in flight and raises mistakes of the caller's own code. Where a listener of `CallEnded` is all
    that differs from the common case, it emits that, too: `since` is then the time at which the call began. A call
    whose end is told is no longer counted as in flight.

    Args:
        earns: whether a success is paid into a budget.
        needs_call: whether it makes a `Call` at once, not only after a failure.
        timed: whether a policy needs the call's runtime even if the call succeeds.
    """
    runtime = "THREADS" if not shape.is_async else "running() or current_async()" if timed else "None"
    begin = f"call = in_flight.begin(fn, args, kwargs, {runtime})"
    made = [  # `InFlight.begin`, inlined
        *("call = Call()", "call.fn = fn", "call.args = args", "call.kwargs = kwargs", f"call.runtime = {runtime}"),
        *("call.attempt = 1", "call.deadline = None", "call.waited = 0.0", "call.error = None", "call.verdict = None"),
    ]
    earned = [f"earn({'call, result' if needs_call else ''})"] if earns else []
    section = pass_gates(shape)
    done = [*told(f"call_returned(call, begun, {shape.end}, result, good)"), "return result"]
    body = [*section, *earned, *done]
    if shape.recovers:
        begun = [] if needs_call else ["    if call is None:", f"        {begin}"]
        body = [
            *("try:", *deeper(section)),
            *("except Exception as error:", *begun, *_RECOVERED),
            *("else:", *deeper([*earned, *done])),
            f"result = {shape.waiting('recovery')}",
            *told("call_returned(call, begun, call.runtime.now(), result, good)"),
            "return result",
        ]
    forget = f"{'' if needs_call else 'if call is not None: '}call.verdict = None"
    unwrapped = "raise stopped.error from None"

    def failed(error: str) -> Lines:
        return [*told(f"call_failed(call, begun, {error})"), forget]

    tells_ends = (
        "in_flight.tells_ends and not context.channel.wants.attempts" if shape.direct else "in_flight.tells_ends"
    )
    return [
        "good = good_fields(name_of(fn))",
        f"{'async ' if shape.is_async else ''}def guarded(*args, **kwargs):",
        "    if in_flight.needs_full_path or (seen.any and inherited() is not None):",
        f"        if not ({tells_ends}) or (seen.any and inherited() is not None):",
        '            if context.mode == "off":',
        f"                return {'await ' if shape.is_async else ''}fn(*args, **kwargs)",
        f"            {begin}",
        f"            return {'await' if shape.is_async else 'drive'}(full_path(call))",
        *deeper(made if needs_call else [begin], 2),
        f"        call.requests = {int(shape.direct and not shape.kinds)}",  # without gates the function is called
        f"        since = call.{'runtime' if timed or not shape.is_async else 'begin()'}.now()",
        "    else:",
        *deeper([*made, "since = None"] if needs_call else ["call = since = None"], 2),
        "    count = in_flight.count",
        "    count.inside += 1",
        "    try:",
        *deeper(body, 2),
        "    except CallbackError as callback_error:",
        f"        {shape.waiting('raise_callback_error(call, callback_error, context, since, call_failed)')}",
        *([] if shape.is_async else deeper(["except Stopped as stopped:", *deeper([*failed("stopped"), unwrapped])])),
        "    except BaseException:",  # binding a name would cost each failure the code that unbinds it
        *deeper([*failed("exception()"), "raise"], 2),
        "    finally:",
        "        count.inside -= 1",
        "        if in_flight.notes_exits:",
        "            in_flight.exited()",
        "return guarded",
    ]


def told(tell: str) -> Lines:
    """The source that emits `CallEnded`, once, by the expression `tell`; before that the call leaves the count of calls
    in flight."""
    return [
        "if since is not None:",
        "    count.inside -= 1",
        "    count, begun, since = uncounted, since, None",
        f"    {tell}",
    ]


def pass_gates(shape: Shape) -> Lines:
    """The source that admits a call at the gates, calls the inner layer, and settles the tickets. Its variable `result`
    is what the call returned."""
    tickets, together = shape.tickets, shape.together
    if not tickets:
        return call_inner(shape)
    begin = "begin" if shape.clocked else "0.0"
    lines = [f"{' = '.join(tickets)} = None"]
    lines += ["begin = 0.0"] if shape.clocked else []
    lines += ["try:"]
    for at, ticket in enumerate(tickets):
        guard = f"if {tickets[at - 1]} is not None: " if at else ""
        lines += [f"    {guard}{ticket} = admit{at}(call)"]
    lines += [
        f"    if {tickets[-1]} is None:",
        f"        held = {together}",
        f"        {' = '.join(tickets)} = None",  # the queue owns them now
        f"        {together} = {shape.waiting('gate_group.queue(call, held)')}",
    ]
    waited = " - call.waited" if shape.waits else ""
    lines += ["    now = call.runtime.now", f"    begin = now(){waited}"] if shape.clocked else []
    lines += deeper(call_inner(shape))
    lines += [
        "except BaseException as error:",
        f"    gate_group.failed(call, {together}, error, {begin})",
        "    raise",
    ]
    late, elapsed, end = "False", "0.0", "None"
    if shape.clocked:
        lines += ["end = now()", f"elapsed = end - begin{waited}"]
        late, elapsed, end = "elapsed > too_late", "elapsed", "end"
    elif shape.dated:  # without trio and virtual time all runtimes share one clock
        lines += [f"end = call.begin().now() if {TRIO!r} in modules or {VIRTUAL!r} in modules else monotonic()"]
        end = "end"
    return lines + way_out(shape, late, elapsed, end)


def call_inner(shape: Shape) -> Lines:
    """The source that calls the layer inside the gates, or the guarded function itself."""
    if shape.limited:
        return ["result = await call.runtime.within(call, rest, limit)"]
    if not shape.direct:
        return [f"result = {'await ' if shape.awaits else ''}inner(call)"]
    counted = ["if since is not None:", "    call.requests = 1"] if shape.kinds else []
    if shape.is_async:
        return [*counted, "result = await (fn(*args, **kwargs) if kwargs else fn(*args))"]
    return [
        *counted,
        "try:",
        "    result = fn(*args, **kwargs) if kwargs else fn(*args)",
        "except StopIteration as stop:",
        "    raise Stopped(stop) from None",  # a coroutine of a Retry around would turn it into a RuntimeError
        "if type(result) not in plain_types:",
        "    refuse_awaitable(fn, result)",
    ]


def way_out(shape: Shape, late: str, elapsed: str, end: str) -> Lines:
    """The source that tells the gates, innermost first, how the inner layer has returned."""
    together = shape.together
    settled: Lines = []
    for at, ending in reversed([*enumerate(shape.endings)]):
        if ending:
            arguments = f"t{at}, {late}, {elapsed}, {end}, None" if ending == "settle" else f"t{at}"
            settled += [
                "try:",
                f"    {ending}{at}({arguments})",
                "except BaseException as error:",
                f"    gate_group.raised({at}, {together}, error)",
            ]
    if not (shape.looks_at_results or shape.follows):
        return settled
    asked: Lines = []
    ways: Lines = []
    if shape.looks_at_results:
        asked += ["verdict = verdict_on(call, result)"]
        ways += [
            'if verdict.kind != "success":',
            f"    gate_group.learn({together}, verdict.kind, {elapsed}, {end}, None)",
        ]
    if shape.follows:
        good = 'verdict.kind == "success" and ' if shape.looks_at_results else ""
        asked += [f"open_ended = {good}is_open(result)"]
        ways += [
            f"{'el' if ways else ''}if open_ended:",
            f"    gate_group.follow(call, {together}, result, {late}, {elapsed})",
        ]
    return [
        *("try:", *deeper(asked), "except BaseException:", f"    gate_group.give_back({together})", "    raise"),
        *ways,
        *(("else:", *deeper(settled)) if settled else ()),
    ]


def deeper(lines: Lines, levels: int = 1) -> Lines:
    """The lines, indented by so many levels."""
    return ["    " * levels + line for line in lines]
