"""A pipeline and its costs as a diagram, and the wording of costs for diagram and text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resilient.core.worst_case import Bound
from resilient.explain.records import Part

__all__ = ["cost", "entered", "mermaid", "number"]


def mermaid(name: str, function: str, parts: Sequence[Part]) -> str:
    """A flow chart in Mermaid's language, from the caller to the function, with nested pipelines as boxes."""
    lines = ["flowchart TD", '    caller(["the caller"])', f'    subgraph box["{_escaped(name)}"]']
    edges, last, depth = [], "caller", 1
    before: Part | None = None
    for at, part in enumerate(parts):
        nested = entered(before, part)
        lines += ["    end"] * (depth - nested.start)
        for each in nested:
            path = "_".join(map(str, part.path[:each]))
            lines.append(f'    subgraph box{path}["{_escaped(part.pipelines[each])}"]')
        lines.append(f'    p{at}["{_escaped(part.text)}<br/>{_escaped(cost(part))}"]')
        edges.append(f"    {last} --> p{at}")
        last, depth, before = f"p{at}", len(part.path), part
    lines += ["    end"] * depth
    lines += [f'    function(["{_escaped(function)}"])', *edges, f"    {last} --> function"]
    return "\n".join(lines)


def _escaped(label: str) -> str:
    for character, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        label = label.replace(character, entity)
    return label


def entered(before: Part | None, part: Part) -> range:
    """The depths of the nested pipelines that begin between the part `before` and this part."""
    common = 0
    if before is not None:
        while common < min(len(before.path), len(part.path)) - 1 and before.path[common] == part.path[common]:
            common += 1
    return range(common + 1, len(part.path))


def cost(part: Part, between: str = ", ", wide: int = 0) -> str:
    """The worst case of a policy and everything inside it, in words.

    Args:
        between: latency and requests.
        wide: columns of the latency.
    """
    if part.worst is None:
        return "never reached"
    seconds, requests = part.worst.seconds, part.worst.requests
    plural = "" if requests.most == 1 else "s"
    return f"{_brief(seconds, ' s'):<{wide}}{between}{_brief(requests)} request{plural}"


def _brief(bound: Bound, unit: str = "") -> str:
    if math.isinf(bound.most):
        return "no limit" if unit else "unlimited"
    return f"{'' if bound.exact else '<= '}{number(bound.most)}{unit}"


def number(value: float) -> str:
    """A figure in words, with up to six digits."""
    return "without limit" if math.isinf(value) else f"{value:.6g}"
