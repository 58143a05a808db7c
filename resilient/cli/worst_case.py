"""The run of `resilient explain`: imports the named pipeline, explains it, and compares its worst case with limits."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import TextIO

from resilient.errors import PipelineWarning
from resilient.explain import Explanation, explain
from resilient.explain.error_location import located
from resilient.explain.object_reference import named
from resilient.explain.subject import Function, Subject
from resilient.lab.files import write

__all__ = ["exceeded", "explained"]


def explained(
    target: str,
    *,
    behind: str | None = None,
    function: Function | None = None,
    function_limit: float | None = None,
    json_file: Path | TextIO | None = None,
) -> Explanation:
    """Explain the pipeline that `MODULE:NAME` names, and write the explanation to `json_file`.

    Args:
        function: the kind of function that the pipeline guards; None: as the target shows, else an `async def`.

    Raises `ValueError`, in one line, if it cannot be explained.
    """
    found, other = _named(target), None if behind is None else _named(behind)
    is_async = None if function is None else function == "async"
    try:
        explanation = explain(found, behind=other, is_async=is_async, function_limit=function_limit)
    except (Exception, SystemExit) as error:  # of the user's own classifier, predicate or policy
        raise ValueError(f"{target!r} cannot be explained: {located(error)}") from error
    if json_file is not None:
        write(json_file, json.dumps(explanation.data(), indent=2) + "\n")
    return explanation


def _named(target: str) -> Subject:
    """The subject that a name refers to; decorators of other libraries are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)  # the explanation shows the same findings
        return named(target, decorators=False)


def exceeded(found: Explanation, *, max_latency: float | None, max_requests: int | None) -> list[str]:
    """The limits that the worst case exceeds, in words."""
    worst, missed = found.overall, []
    if max_latency is not None and worst.seconds.most > max_latency * (1 + 1e-9):
        missed.append(
            f"latency: {_at_most(worst.seconds.most, ' s')}, over --max-latency {max_latency:g} s ({worst.why})"
        )
    if max_requests is not None and worst.requests.most > max_requests:
        missed.append(f"requests: {_at_most(worst.requests.most)}, over --max-requests {max_requests}")
    return missed


def _at_most(value: float, unit: str = "") -> str:
    return "no limit" if math.isinf(value) else f"at most {value:.6g}{unit}"
