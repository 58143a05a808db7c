"""The explanation of a pipeline, as text and as data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from resilient.core.worst_case import Bound, WorstCase
from resilient.explain.diagram import cost, entered, mermaid, number
from resilient.explain.records import Behind, Idle, LongRun, Part, Route
from resilient.pipeline.lint import Finding

__all__ = ["WIDTH", "Explanation", "data", "text"]


@dataclass(frozen=True)
class Explanation:
    """The worst case of a pipeline. `str()` is for people, `data()` for programs, `mermaid()` is a diagram.

    Attributes:
        name: of the pipeline.
        function: the kind of function that the pipeline guards.
        function_limit: the most seconds that the function takes by itself, or None.
        worst: latency, attempts and requests of one call.
        parts: the policies, outermost first.
        long_run: the requests that budgets allow over many calls.
        routes: the way of each kind of outcome.
        idle: policies that never act.
        findings: what to change.
        assumes: the assumptions behind the figures.
        behind: the outer pipeline, and the figures of both together; None without an outer pipeline.
    """

    name: str
    function: Literal["async def", "def"]
    function_limit: float | None
    worst: WorstCase
    parts: tuple[Part, ...]
    long_run: LongRun
    routes: tuple[Route, ...]
    idle: tuple[Idle, ...]
    findings: tuple[Finding, ...]
    assumes: tuple[str, ...]
    behind: Behind | None

    @property
    def overall(self) -> WorstCase:
        """The worst case of a call; through both pipelines, if there is another one."""
        return self.worst if self.behind is None else self.behind.worst

    def __str__(self) -> str:
        return text(self)

    def data(self) -> dict[str, Any]:
        """The explanation as plain data with stable keys that name their units. Infinite figures are None."""
        return data(self)

    def mermaid(self) -> str:
        """A flow chart in Mermaid's language, outermost policy first."""
        return mermaid(self.name, self.function, self.parts)


Fold = Callable[..., list[str]]
"""Breaks a text into lines: called with the text, the indent of the first line, and that of the others."""

WIDTH, NARROW = 110, 80
"""Columns of the text; and columns below which the figures of a policy have their own line."""
INDENT, NARROW_INDENT = 28, 4


# -- text -----------------------------------------------------------------------------------------------------------


def text(found: Explanation, width: int = WIDTH) -> str:
    """The explanation for people, in lines of `width` columns: figures, policies, outcomes, policies that never act,
    findings, assumptions."""
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
        *fold(f"Policies{alone}, outermost first, each with the worst case of it and everything inside", ""),
    ]
    lines += _tree(fold, found, INDENT if width >= NARROW else NARROW_INDENT)
    where = "" if found.behind is None else f" in {found.name}, alone"
    lines += ["", *fold(f"Each outcome{where}, and what policies do with it, innermost first", "")]
    for route in found.routes:
        origin = "" if route.origin == "the function" else f", from {route.origin}"
        lines += fold(f"{route.end}{origin}", "  ")
        for step in route.steps:
            lines += fold(f"{step.policy}: {step.does}", "      ")
        lines.append(f"      the caller {route.caller}")
    if found.idle:
        lines += ["", "Policies that never act"]
        for idle in found.idle:
            lines += fold(f"{idle.policy}: {idle.why}", "  ")
    lines += ["", "To change" if found.findings else "To change: nothing"]
    for finding in found.findings:
        lines += fold(f"{finding.what}: {finding.why}.", "  ")
        lines += fold(f"Instead: {finding.instead}.", "      ")
    lines += ["", "Assumptions"]
    for each in found.assumes:
        lines += fold(each, "  ")
    return "\n".join(lines)


def _layers(found: Explanation, behind: Behind) -> str:
    """Whether the attempts of two pipelines multiply, in words."""
    outer, inner, both = behind.alone.most, found.worst.requests.most, behind.worst.requests.most
    if behind.once:
        return f"{found.name} leaves retries to {behind.name}, so attempts do not multiply"
    if outer == inner == 1:
        return "neither pipeline repeats calls, so nothing multiplies"
    if outer == 1 or inner == 1:
        return "only one pipeline repeats calls, so nothing multiplies"
    said = f"they multiply: {number(outer)} x {number(inner)} requests"
    if both < outer * inner:
        said += f", of which limits leave {number(both)}"
    if any(part.kind == "Retry" and part.idle is None for part in found.parts):
        said += f'; with Retry(nested="once") {found.name} would leave retries to {behind.name}'
    return said


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _figures(fold: Fold, worst: WorstCase, long_run: LongRun) -> list[str]:
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
        return "no limit to the requests per call: no budget limits them"
    said = f"at most {number(requests)} request{'' if requests == 1 else 's'} per call"
    if requests == 1:
        return said
    if not long_run.budgets:
        return f"{said}, if all fail: no budget limits them"
    return f"{said}, and {number(long_run.burst)} more at once: {'; '.join(long_run.budgets)}"


def _tree(fold: Fold, found: Explanation, indent: int) -> list[str]:
    """A line for each policy, below its pipeline, with the policy's figures."""
    lines = fold(found.name, " " * indent)
    for before, part in zip((None, *found.parts), found.parts, strict=False):
        for depth in entered(before, part):
            lines += fold(part.pipelines[depth], " " * (indent + 3 * depth))
        figures = f"  {cost(part, ' ', 12)}"
        further = " " * (indent + 3 * len(part.path))
        if len(figures) >= len(further):  # the figures get their own line
            lines.append(figures)
            figures = ""
        lines += fold(part.text, f"{figures:<{len(further)}}", further + "    ")
    return lines


# -- data -----------------------------------------------------------------------------------------------------------


def data(found: Explanation) -> dict[str, Any]:
    """The explanation as plain data. Infinite figures are None."""
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


def _worst(worst: WorstCase) -> dict[str, Any]:
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
