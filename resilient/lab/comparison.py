"""Several pipelines in one scenario, with the same seeds; and all results as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resilient._validation import meant
from resilient.explain.object_reference import imported
from resilient.lab.candidates import NONE, Candidate, candidate_from
from resilient.lab.measures import Measures
from resilient.lab.objectives import check_tested
from resilient.lab.scenario import Scenario
from resilient.lab.service import MOST_REQUESTS
from resilient.lab.table import ScenarioError
from resilient.lab.world import simulate
from resilient.pipeline import Pipeline

__all__ = ["candidates", "compared", "report"]


def candidates(scenario: Scenario, names: Sequence[str]) -> list[Candidate]:
    """The candidates with these names: of the scenario, MODULE:NAME, or "none". Without names, all of the scenario.

    Raises `ScenarioError`.
    """
    if not names:
        return list(scenario.candidates.values()) or [NONE]
    found = []
    for name in names:
        if name in scenario.candidates:
            found.append(scenario.candidates[name])
        elif name == NONE.name:
            found.append(NONE)
        elif ":" in name:
            try:
                found.append(candidate_from(name, imported(name)))
            except (TypeError, ValueError) as error:
                raise ScenarioError(str(error)) from None
        else:
            known = ", ".join([*scenario.candidates, NONE.name])
            raise ScenarioError(
                f"there is no pipeline {name!r} in the scenario: it has {known}; or give MODULE:NAME"
                f"{meant(name, [*scenario.candidates, NONE.name])}"
            )
    if len({candidate.name for candidate in found}) < len(found):
        raise ScenarioError(f"each pipeline must be named once, got {', '.join(names)}")
    return found


def compared(
    scenario: Scenario,
    chosen: Sequence[Candidate],
    *,
    seed: int,
    runs: int,
    progress: Callable[[float], object] | None = None,
    watch: Callable[[Candidate], Callable[[Pipeline], object]] | None = None,
    most_requests: float = MOST_REQUESTS,
    run_hooks: bool = False,
) -> list[Measures]:
    """Each candidate in `runs` runs, with the seeds from `seed` on.

    Args:
        progress: is called with the share that is done.
        watch: is called with a candidate; returns a function that is called with each of its pipelines.
        most_requests: of one run.
        run_hooks: see `resilient.lab.world.simulate`.

    Raises `ScenarioError` if nothing was tested.
    """
    found, steps = [], len(chosen) * runs
    for number, candidate in enumerate(chosen):
        made = []
        for run in range(runs):
            done = number * runs + run
            tell = None if progress is None else _within(progress, done, steps)
            watching = None if watch is None else watch(candidate)
            made.append(
                simulate(
                    scenario,
                    candidate,
                    seed + run,
                    progress=tell,
                    watch=watching,
                    most_requests=most_requests,
                    run_hooks=run_hooks,
                )
            )
        try:
            found.append(Measures(made))
        except ValueError as error:
            raise ScenarioError(str(error)) from None
    try:
        check_tested(scenario, found)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}" if scenario.name else str(error)) from None
    return found


def _within(progress: Callable[[float], object], done: int, steps: int) -> Callable[[float], object]:
    return lambda share: progress((done + share) / steps)


def report(
    scenario: Scenario,
    measures: Sequence[Measures],
    verdicts: Sequence[dict[str, Any]],
    seed: int,
    runs: int,
    more: Mapping[str, Any] | None = None,
) -> str:
    """All results as JSON text, with those of `more`. The same seed gives the same text, byte for byte."""
    data = {
        "scenario": scenario.name,
        "title": scenario.title,
        "duration_s": scenario.duration,
        "clients": scenario.clients,
        "faults": [{**fault.as_json(), "description": fault.describe()} for fault in scenario.faults],
        "seed": seed,
        "runs": runs,
        "pipelines": {each.candidate.name: each.as_json() for each in measures},
        "objectives": list(verdicts),
        "verdict": ("pass" if all(verdict["met"] for verdict in verdicts) else "miss") if verdicts else None,
        **(more or {}),
    }
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
