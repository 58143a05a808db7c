"""What `resilient.lab.explain` has found: as text, as data, and as a diagram."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from resilient.explain.diagram import cost, entered, mermaid, number
from resilient.explain.records import Behind, Idle, LongRun, Part, Route
from resilient.foresight import Bound, Worst
from resilient.plan import Finding

__all__ = ["WIDTH", "Explanation", "data", "text"]


@dataclass(frozen=True)
class Explanation:
    """All that can be told. `str()` of it is for people, `data()` for programs, `mermaid()` a diagram."""

    name: str
    function: Literal["async def", "def"]
    function_limit: float | None
    worst: Worst
    parts: tuple[Part, ...]
    long_run: LongRun
    routes: tuple[Route, ...]
    idle: tuple[Idle, ...]
    findings: tuple[Finding, ...]
    assumes: tuple[str, ...]
    behind: Behind | None

    @property
    def overall(self) -> Worst:
        """The worst case of a call: through the other pipeline too, where there is one."""
        return self.worst if self.behind is None else self.behind.worst

    def __str__(self) -> str:
        return text(self)

    def data(self) -> dict[str, Any]:
        """As plain data, with stable keys that say their units. Infinite figures are None."""
        return data(self)

    def mermaid(self) -> str:
        """A diagram, outermost first, in Mermaid's language."""
        return mermaid(self.name, self.function, self.parts)


Fold = Callable[..., list[str]]
"""Breaks a text into lines: of the text, the indent of the first line, and that of the others."""

WIDTH, NARROW = 110, 80
"""Columns of the text; and those below which the figures of a policy have a line of their own."""
INDENT, NARROW_INDENT = 28, 4


# -- text -----------------------------------------------------------------------------------------------------------


def text(found: Explanation, width: int = WIDTH) -> str:
    """For people, in lines of `width` columns: the figures first, then the tree, what ends meet, what never acts, what
    to change."""
    fold = partial(_wrapped, width)
    limit = "" if found.function_limit is None else f" that takes {found.function_limit:g} s at most"
    alone = "" if found.behind is None else " alone"
    lines = fold(f"{found.name}{alone}: the worst case of one call of {_a(found.function)}{limit}", "")
    lines += _figures(fold, found.worst, found.long_run)
    if found.behind is not None:
        lines += ["", *fold(f"{found.name} behind {found.behind.name}: the worst case of both together", "")]
        lines += _figures(fold, found.behind.worst, found.behind.long_run)
        lines += _line(fold, "layers", _layers(found, found.behind))
        alone = f" of {found.name}, alone"
    lines += [
        "",
        *fold(f"Policies{alone}, outermost first, and the worst that each, and all inside it, can cost", ""),
    ]
    lines += _tree(fold, found, INDENT if width >= NARROW else NARROW_INDENT)
    where = "" if found.behind is None else f" in {found.name}, alone"
    lines += ["", *fold(f"What comes up{where}, and what it meets on its way outward", "")]
    for route in found.routes:
        origin = "" if route.origin == "the function" else f", from {route.origin}"
        lines += fold(f"{route.end}{origin}", "  ")
        for step in route.steps:
            lines += fold(f"{step.policy}: {step.does}", "      ")
        lines.append(f"      the caller {route.caller}")
    if found.idle:
        lines += ["", "Never acts"]
        for idle in found.idle:
            lines += fold(f"{idle.policy}: {idle.why}", "  ")
    lines += ["", "To change" if found.findings else "To change: nothing was found"]
    for finding in found.findings:
        lines += fold(f"{finding.what}: {finding.why}.", "  ")
        lines += fold(f"Instead: {finding.instead}.", "      ")
    lines += ["", "Taken for granted"]
    for each in found.assumes:
        lines += fold(each, "  ")
    return "\n".join(lines)


def _layers(found: Explanation, behind: Behind) -> str:
    """Whether the attempts of two pipelines multiply."""
    outer, inner, both = behind.alone.most, found.worst.requests.most, behind.worst.requests.most
    if behind.once:
        return f"{found.name} leaves the repeating to {behind.name}, so attempts do not multiply"
    if outer == inner == 1:
        return "neither of them repeats"
    if outer == 1 or inner == 1:
        return "only one of them repeats, so nothing multiplies"
    said = f"they multiply: {number(outer)} x {number(inner)} requests"
    if both < outer * inner:
        said += f", of which limits leave {number(both)}"
    if any(part.kind == "Retry" and part.idle is None for part in found.parts):
        said += f'; with Retry(nested="once") {found.name} would leave the repeating to {behind.name}'
    return said


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _figures(fold: Fold, worst: Worst, long_run: LongRun) -> list[str]:
    return [
        *_line(fold, "latency", f"{_said(worst.seconds, ' s')}: {worst.why}"),
        *_line(fold, "attempts", _said(worst.attempts)),
        *_line(fold, "requests", _said(worst.requests)),
        *_line(fold, "long run", _long_run(long_run)),
    ]


def _line(fold: Fold, label: str, content: str) -> list[str]:
    return fold(content, f"  {label:<10}", " " * 12)


def _wrapped(width: int, content: str, indent: str, further: str | None = None) -> list[str]:
    further = indent + "    " if further is None else further
    return textwrap.wrap(content, width, initial_indent=indent, subsequent_indent=further, break_long_words=False)


def _said(bound: Bound, unit: str = "") -> str:
    if math.isinf(bound.most):
        return "no limit"
    if bound.exact:
        return f"{number(bound.most)}{unit} (exact)"
    possible = f"; {number(bound.sure)}{unit} can happen" if bound.sure else ""
    return f"at most {number(bound.most)}{unit} (a bound{possible})"


def _long_run(long_run: LongRun) -> str:
    requests = long_run.requests_per_call
    if math.isinf(requests):
        return "no limit to the requests a call: nothing pays for them"
    said = f"at most {number(requests)} request{'' if requests == 1 else 's'} a call"
    if requests == 1:
        return said
    if not long_run.budgets:
        return f"{said}, when all fail: no budget bounds them"
    return f"{said}, and {number(long_run.burst)} more at once: {'; '.join(long_run.budgets)}"


def _tree(fold: Fold, found: Explanation, indent: int) -> list[str]:
    """Each policy under the pipeline that it stands in, with its figures beside it."""
    lines = fold(found.name, " " * indent)
    for before, part in zip((None, *found.parts), found.parts, strict=False):
        for depth in entered(before, part):
            lines += fold(part.pipelines[depth], " " * (indent + 3 * depth))
        figures = f"  {cost(part, ' ', 12)}"
        further = " " * (indent + 3 * len(part.path))
        if len(figures) >= len(further):  # they need the line for themselves
            lines.append(figures)
            figures = ""
        lines += fold(part.text, f"{figures:<{len(further)}}", further + "    ")
    return lines


# -- data -----------------------------------------------------------------------------------------------------------


def data(found: Explanation) -> dict[str, Any]:
    """For programs. Infinite figures are None."""
    return {
        "pipeline": found.name,
        "function": found.function,
        "function_limit_seconds": found.function_limit,
        **_worst(found.worst),
        "long_run": _long_run_data(found.long_run),
        "policies": [
            {
                "policy": part.policy,
                "kind": part.kind,
                "text": part.text,
                "path": list(part.path),
                "pipelines": list(part.pipelines),
                "idle": part.idle,
                **({} if part.worst is None else _worst(part.worst)),
            }
            for part in found.parts
        ],
        "outcomes": [
            {
                "outcome": route.end,
                "origin": route.origin,
                "meets": [{"policy": step.policy, "does": step.does} for step in route.steps],
                "caller": route.caller,
            }
            for route in found.routes
        ],
        "never_act": [{"policy": idle.policy, "why": idle.why} for idle in found.idle],
        "findings": [{"what": each.what, "why": each.why, "instead": each.instead} for each in found.findings],
        "assumes": list(found.assumes),
        "behind": None
        if found.behind is None
        else {
            "pipeline": found.behind.name,
            **_worst(found.behind.worst),
            "long_run": _long_run_data(found.behind.long_run),
            "requests_alone": _figure(found.behind.alone.most),
            "leaves_repeating": found.behind.once,
        },
    }


def _worst(worst: Worst) -> dict[str, Any]:
    return {
        "latency": {
            "at_most_seconds": _figure(worst.seconds.most),
            "can_happen_seconds": _figure(worst.seconds.sure),
            "exact": worst.seconds.exact,
            "why": worst.why,
        },
        "attempts": _count(worst.attempts),
        "requests": _count(worst.requests),
    }


def _count(bound: Bound) -> dict[str, Any]:
    return {"at_most": _figure(bound.most), "can_happen": _figure(bound.sure), "exact": bound.exact}


def _long_run_data(long_run: LongRun) -> dict[str, Any]:
    return {
        "requests_per_call": _figure(long_run.requests_per_call),
        "burst_requests": _figure(long_run.burst),
        "budgets": list(long_run.budgets),
    }


def _figure(value: float) -> float | int | None:
    if math.isinf(value):
        return None
    return int(value) if value == int(value) else round(value, 9)
