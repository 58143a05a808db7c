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
from sys import modules
from typing import Any

from resilient.budget import Budget
from resilient.call import Call
from resilient.clock import monotonic
from resilient.deadlines import inherited, seen
from resilient.flow import Earn, Flow, own_up
from resilient.guard import plain_types, refuse_awaitable
from resilient.mistakes import Mistake
from resilient.outcome import Stopped
from resilient.passage import FILE, Passage
from resilient.policy import Layer, Recovery, Scope
from resilient.runtime import TRIO, VIRTUAL, current_async
from resilient.runtime.asyncio import running
from resilient.runtime.threads import THREADS, drive, finish

__all__ = ["Woven", "guard_with", "layer_of"]

_number = itertools.count(1)

Lines = list[str]


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
    flow: Flow, scope: Scope, woven: Woven, whole: Layer, earn: Earn | None, *, is_async: bool, timed: bool
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What guards a function: the whole way through a pipeline, where all is as usual.

    Args:
        whole: the way of all other calls: those that somebody hears of, that inherited a deadline, ...
        timed: a policy needs the call's runtime also when all goes well.
    """
    is_direct = getattr(woven.inner, "is_direct", False)
    frame = _Frame(woven.passage, is_async=is_async, direct=is_direct, recovers=woven.recover is not None)
    is_blind = earn is None or getattr(earn, "__func__", None) is Budget.earn  # it looks neither at call nor result
    needs_call = bool(woven.passage.gates) or not is_direct or not is_blind
    inner = woven.inner if is_async else getattr(woven.inner, "plainly", None) or _driven(woven.inner)
    names = {
        **_COMMON,
        **frame.names(inner),
        "flow": flow,
        "scope": scope,
        "recover": woven.recover,
        "earn": earn,
        "whole": whole,
    }
    return _make(_outermost(frame, earn is not None, needs_call, timed), ("fn",), names, frame.kinds)  # type: ignore[no-any-return]


def _driven(layer: Layer) -> Callable[[Call], Any]:
    return lambda call: finish(layer(call))


def layer_of(passage: Passage, inner: Layer, recover: Recovery | None = None) -> Layer:
    """The layer that passes these gates, if there are any, around `inner`; and goes on by `recover` when that fails."""
    plainly: Layer | None = getattr(inner, "plainly", None)
    if not passage.gates and recover is None:
        return inner

    def write(*, is_async: bool) -> Any:
        frame = _Frame(passage, is_async=is_async, waits_inside=plainly is None, recovers=recover is not None)
        names = {**_COMMON, **frame.names(plainly or inner), "recover": recover}
        return _make(_inside(frame), (), names, frame.kinds)()

    layer: Layer = write(is_async=True)
    if plainly is not None:
        layer.plainly = write(is_async=False)  # type: ignore[attr-defined]
    return layer


# -- the parts of a frame -------------------------------------------------------------------------------------------

_COMMON: dict[str, Any] = {
    "Call": Call,
    "Mistake": Mistake,
    "Stopped": Stopped,
    "THREADS": THREADS,
    "current_async": current_async,
    "drive": drive,
    "finish": finish,
    "inherited": inherited,
    "modules": modules,
    "monotonic": monotonic,
    "own_up": own_up,
    "plain_types": plain_types,
    "refuse_awaitable": refuse_awaitable,
    "running": running,
    "seen": seen,
}


class _Frame:
    """One frame to be written.

    Args:
        direct: the guarded function itself is inside, not another layer.
        waits_inside: what is inside must be awaited.
    """

    def __init__(
        self, passage: Passage, *, is_async: bool, recovers: bool, direct: bool = False, waits_inside: bool = True
    ) -> None:
        self.passage = passage
        self.is_async = is_async
        self.recovers = recovers
        self.direct = direct
        self.inner = "await " if is_async and waits_inside else ""
        self.tickets = [f"t{at}" for at in range(len(passage.gates))]
        self.together = f"({', '.join(self.tickets)},)"
        self.kinds = ", ".join(type(gate).__name__ for gate in passage.gates)

    def names(self, inner: Callable[[Call], Any]) -> dict[str, Any]:
        """What the parts refer to."""
        names: dict[str, Any] = {"inner": inner, "passage": self.passage, **self.passage.names}
        for at, gate in enumerate(self.passage.gates):
            names |= {f"admit{at}": gate.admit, f"settle{at}": gate.settle, f"release{at}": gate.release}
        return names

    def waiting(self, coroutine: str) -> str:
        """The result of a coroutine, awaited or driven to its end."""
        return f"await {coroutine}" if self.is_async else f"finish({coroutine})"

    def call_inner(self) -> Lines:
        """The call of what is inside."""
        if not self.direct:
            return [f"result = {self.inner}inner(call)"]
        if self.is_async:
            return ["result = await (fn(*args, **kwargs) if kwargs else fn(*args))"]
        return [
            "try:",
            "    result = fn(*args, **kwargs) if kwargs else fn(*args)",
            "except StopIteration as stop:",
            "    raise Stopped(stop) from None",  # it must get past the coroutines of whoever repeats the call
            "if type(result) not in plain_types:",
            "    refuse_awaitable(fn, result)",
        ]

    def pass_gates(self) -> Lines:
        """The gates, on the way in and on the way out, and what is inside; it leaves its `result`."""
        passage, tickets, together = self.passage, self.tickets, self.together
        if not tickets:
            return self.call_inner()
        begin = "begin" if passage.clocked else "0.0"
        lines = [f"{' = '.join(tickets)} = None"]
        lines += ["begin = 0.0"] if passage.clocked else []
        lines += ["try:"]
        for at, ticket in enumerate(tickets):
            guard = f"if {tickets[at - 1]} is not None: " if at else ""
            lines += [f"    {guard}{ticket} = admit{at}(call)"]
        lines += [
            f"    if {tickets[-1]} is None:",
            f"        held = {together}",
            f"        {' = '.join(tickets)} = None",  # they are the queue's
            f"        {together} = {self.waiting('passage.queue(call, held)')}",
        ]
        waited = " - call.waited" if passage.waits else ""
        lines += ["    now = call.runtime.now", f"    begin = now(){waited}"] if passage.clocked else []
        lines += _deeper(self.call_inner())
        lines += [
            "except BaseException as error:",
            f"    passage.failed(call, {together}, error, {begin})",
            "    raise",
        ]
        late, elapsed, end = "False", "0.0", "None"
        if passage.clocked:
            lines += ["end = now()", f"elapsed = end - begin{waited}"]
            late, elapsed, end = "elapsed > too_late", "elapsed", "end"
        elif passage.dated:  # while there is one clock, its runtime need not be found
            lines += [f"end = call.begin().now() if {TRIO!r} in modules or {VIRTUAL!r} in modules else monotonic()"]
            end = "end"
        return lines + self._way_out(late, elapsed, end)

    def _way_out(self, late: str, elapsed: str, end: str) -> Lines:
        passage, together = self.passage, self.together
        settled: Lines = []
        for at in reversed(range(len(passage.gates))):
            gate = passage.gates[at]
            if gate.learns or gate.holds:
                ends = f"settle{at}(t{at}, {late}, {elapsed}, {end}, None)" if gate.learns else f"release{at}(t{at})"
                settled += [
                    "try:",
                    f"    {ends}",
                    "except BaseException as error:",
                    f"    passage.raised({at}, {together}, error)",
                ]
        if not (passage.looks_at_results or passage.follows):
            return settled
        asked: Lines = []
        ways: Lines = []
        if passage.looks_at_results:
            asked += ["verdict = verdict_on(call, result)"]
            ways += [
                'if verdict.kind != "success":',
                f"    passage.learn({together}, verdict.kind, {elapsed}, {end}, None)",
            ]
        if passage.follows:
            good = 'verdict.kind == "success" and ' if passage.looks_at_results else ""
            asked += [f"open_ended = {good}is_open(result)"]
            ways += [
                f"{'el' if ways else ''}if open_ended:",
                f"    passage.follow(call, {together}, result, {late}, {elapsed})",
            ]
        return [
            *("try:", *_deeper(asked), "except BaseException:", f"    passage.give_back({together})", "    raise"),
            *ways,
            *(("else:", *_deeper(settled)) if settled else ()),
        ]


def _inside(frame: _Frame) -> Lines:
    """A layer: its parts, and nothing else."""
    section = frame.pass_gates()
    lines = [f"{'async ' if frame.is_async else ''}def layer(call):"]
    if not frame.recovers:
        return [*lines, *_deeper([*section, "return result"]), "return layer"]
    body = [
        *("try:", *_deeper([*section, "return result"])),
        *("except Exception as error:", "    recovery = recover(call, error)"),
        f"return {frame.waiting('recovery')}",  # outside the clause, so that what it raises has no false context
    ]
    return [*lines, *_deeper(body), "return layer"]


def _outermost(frame: _Frame, earns: bool, needs_call: bool, timed: bool) -> Lines:
    """The frame in place of the function: it counts its calls, and owns up to mistakes."""
    runtime = "THREADS" if not frame.is_async else "running() or current_async()" if timed else "None"
    begin = f"call = flow.begin(fn, args, kwargs, {runtime})"
    made = [  # the same, written out
        *("call = Call()", "call.fn = fn", "call.args = args", "call.kwargs = kwargs", f"call.runtime = {runtime}"),
        *("call.attempt = 1", "call.deadline = None", "call.waited = 0.0", "call.error = None", "call.verdict = None"),
    ]
    earned = [f"earn({'call, result' if needs_call else ''})"] if earns else []
    section = frame.pass_gates()
    body = [*section, *earned, "return result"]
    if frame.recovers:
        begun = [] if needs_call else [f"    {begin}"]
        body = [
            *("try:", *_deeper(section)),
            *("except Exception as error:", *begun, "    recovery = recover(call, error)"),
            *("else:", *_deeper([*earned, "return result"])),
            f"return {frame.waiting('recovery')}",
        ]
    return [
        f"{'async ' if frame.is_async else ''}def guarded(*args, **kwargs):",
        "    if flow.special or (seen.any and inherited() is not None):",
        '        if scope.mode == "off":',
        f"            return {'await ' if frame.is_async else ''}fn(*args, **kwargs)",
        f"        {begin}",
        f"        return {'await' if frame.is_async else 'drive'}(whole(call))",
        *_deeper(made if needs_call else ["call = None"]),
        "    count = flow.count",
        "    count.inside += 1",
        "    try:",
        *_deeper(body, 2),
        "    except BaseException as error:",
        "        if type(error) is Mistake:",
        f"            {frame.waiting('own_up(call, error, scope)')}",
        f"        {'' if needs_call else 'if call is not None: '}call.verdict = None",
        *([] if frame.is_async else ["        if type(error) is Stopped:", "            raise error.error from None"]),
        "        raise",
        "    finally:",
        "        count.inside -= 1",
        "        if flow.special:",
        "            flow.left()",
        "return guarded",
    ]


def _deeper(lines: Lines, levels: int = 1) -> Lines:
    return ["    " * levels + line for line in lines]


def _make(body: Lines, arguments: tuple[str, ...], names: Mapping[str, Any], kinds: str) -> Any:
    """A function of these arguments that does this. What else it refers to it closes over: so all frames of one shape,
    around gates of the same `kinds`, run one code, which the interpreter adapts to what it meets."""
    words = {word for line in body for word in _WORD.findall(line)}
    used = sorted(words.intersection(names).difference(arguments))
    source = [
        f"# {kinds}",
        f"def bind({', '.join(used)}):",
        f"    def make({', '.join(arguments)}):",
        *_deeper(body, 2),
        "    return make",
        "",
    ]
    return _written("\n".join(source))(*(names[name] for name in used))


_WORD = re.compile(r"\w+")


@functools.lru_cache(maxsize=256)
def _written(source: str) -> Callable[..., Any]:
    """There are few shapes of frames, and many pipelines."""
    file = f"{FILE}{next(_number)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    scope: dict[str, Any] = {}
    exec(compile(source, file, "exec"), scope)
    return scope["bind"]  # type: ignore[no-any-return]
