"""The source of a gate layer's gates: how they admit a call, and how they learn of its end.

A `Shape` says all that the source depends on; each function takes one and returns lines of Python. In them `t0`, `t1`,
... are the tickets of the gates, outermost first, and `admit0`, `settle0`, `release0`, ... are methods of these gates.
`resilient.pipeline.call_path` has the source around that, and `resilient.pipeline.gate_layer` shows an example.
"""

from __future__ import annotations

from dataclasses import dataclass

from resilient._atomic import GIL
from resilient.runtime import TRIO, VIRTUAL

__all__ = ["Lines", "Shape", "deeper", "pass_gates"]

Lines = list[str]


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties on which the source of a gate layer depends.

    Attributes:
        kinds: the class names of the gates, outermost first.
        endings: for each gate, the method that takes its ticket back after a success: "settle", "release", or "" where
            there is nothing to take back.
        clocked, dated, waits, looks_at_results, follows: as in the `GateGroup` of these gates.
        is_async: whether the gate layer is a coroutine function.
        awaits: whether the layer inside the gates is awaited.
        limited: whether that layer is a Timeout, whose limit the gate layer applies itself.
        direct: whether the guarded function itself is inside the gates.
        recovers: whether the gate layer has a `Recovery`.
        attempts: whether each run of the layer inside the gates is an attempt, which this one counts.
        is_outermost: whether the gate layer stands in place of the guarded function.
        judges: whether results are classified.
        may_be_open: whether a result can be open when it is returned.
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
    attempts: bool = False
    is_outermost: bool = False
    judges: bool = False
    may_be_open: bool = False

    @property
    def tickets(self) -> list[str]:
        """The names of the variables that hold the gates' tickets."""
        return [f"t{at}" for at in range(len(self.kinds))]

    @property
    def together(self) -> str:
        """A tuple of all tickets, as source."""
        return f"({', '.join(self.tickets)}{',' if len(self.kinds) == 1 else ''})"

    @property
    def end(self) -> str:
        """The time at which the inner layer has returned, as source: as the gates have read it, if they have."""
        return "end" if self.kinds and (self.clocked or self.dated) else "call.runtime.now()"

    def waiting(self, coroutine: str) -> str:
        """The result of a coroutine, as source: awaited in a coroutine function, else run to its end in the thread."""
        return f"await {coroutine}" if self.is_async else f"finish({coroutine})"


def pass_gates(shape: Shape, begin_call: Lines | None = None) -> Lines:
    """The source that admits a call at the gates, calls the inner layer, and settles the tickets. Its variable `result`
    is what the call returned. `begin_call`: makes the call, where that is done only after a failure."""
    tickets, together = shape.tickets, shape.together
    if not tickets:
        return call_inner(shape, begin_call)
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
    read = f"now(){waited}" + (" if since is None else since" if shape.is_outermost else "")  # one reading is enough
    lines += ["    now = call.runtime.now", f"    begin = {read}"] if shape.clocked else []
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


def call_inner(shape: Shape, begin_call: Lines | None = None) -> Lines:
    """The source that calls the layer inside the gates, or the guarded function itself; and that counts the attempt.
    An attempt that succeeds at once is counted by `CallCount.at_once`, in an outermost gate layer."""
    run = run_inner(shape)
    if not shape.attempts:
        return run
    begun: Lines = []
    begin = "None if since is None else since + call.waited" if shape.is_outermost else "started"
    if not shape.is_outermost:
        begun = ["started = call.begin().now() if counters.records_attempts else None"]
    count = [*(begin_call or []), f"attempt_failed(call, raised, {begin})", "raise"]
    failed = ["except BaseException as raised:", *deeper(count)]
    if shape.judges or shape.may_be_open:
        succeeded = [f"attempt_returned(call, result, {begin})"]
    elif shape.is_outermost:
        succeeded = []
    else:
        counted = "counters.attempts += 1" if GIL else "counters.attempt_succeeded()"
        recorded = "counters.record_attempt('success', call.runtime.now() - started)"
        succeeded = [counted, "if started is not None:", f"    {recorded}"]
    return [*begun, "try:", *deeper(run), *failed, *succeeded]


def run_inner(shape: Shape) -> Lines:
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
    """The source that settles or releases the tickets, innermost first, after the inner layer has returned."""
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
            *(["    if call.attempt == 1:", "        call.elapsed = elapsed"] if shape.clocked else []),
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
        *("try:", *deeper(asked), "except BaseException:", f"    gate_group.release_all({together})", "    raise"),
        *ways,
        *(("else:", *deeper(settled)) if settled else ()),
    ]


def deeper(lines: Lines, levels: int = 1) -> Lines:
    """The lines, indented by a number of levels."""
    return ["    " * levels + line for line in lines]
