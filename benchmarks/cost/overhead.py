"""The cost that a policy adds to a call: multiples of a bare await, and of a plain call.

All policies are used through the public API with their defaults, events included. The guarded function does nothing.
The patterns and the peers' equivalents are described in `peers`, the method in `measure`.

The bars are in `bars`: ratios to a named peer, taken round by round in the same process, one row next to the other.
Each of several processes measures every row in some rounds. Figures are medians over the processes, with a 95% interval
by order statistics (`statistics`). A row misses its bar when its whole interval is beyond it.

Once a deadline has been set in a process, guarded calls look for one: here one is set before anything is timed. Once
trio or virtual time has been imported, a rate limit, a time window and the refusal of an open circuit each cost 4 bare
awaits more:
here neither is imported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.contenders import targets
from benchmarks.contenders.bars import Mode
from benchmarks.contenders.patterns import PATTERNS, Row, build, rows
from benchmarks.contenders.targets import Stage
from benchmarks.harness.measure import Plan, Subject, Timing, compare, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Column, Figure, Report

__all__ = ["known", "run", "sample", "values"]

QUICK = Plan(rounds=3, batch=0.003, processes=9)
FULL = Plan(rounds=8, batch=0.008, processes=9)
MODES: tuple[Mode, ...] = ("async", "def")
COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("lower_quartile_x", "quartile 1"),
    Column("upper_quartile_x", "quartile 3"),
    Column("added_x", "added", "{:+,.2f}"),
    Column("ratio_x", "ratio", "{:,.2f}"),
    Column("ratio_low_x", "from", "{:,.2f}"),
    Column("ratio_high_x", "to", "{:,.2f}"),
    Column("call_ns", "ns", "{:,.0f}"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The timings of one mode in one process: `floors` are calls without a policy by name, `rows` are by the row's key,
    and `problems` are the reasons why rows are missing."""

    floors: dict[str, Timing]
    rows: dict[str, Timing]
    problems: dict[str, str]


def run(options: Options) -> Report:
    """Measure every pattern, async first, in several processes one after the other."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    with one_core() as core:
        samples = fresh(sample, plan.each(), options)
    found = conditions(plan, core) | {"garbage_collector": "off within a batch, run between rounds"}
    figures = [figure for mode in MODES for figure in _figures(mode, [each[mode] for each in samples])]
    return Report("overhead", COLUMNS, figures, found)


def sample(plan: Plan, wanted: Collection[str] | None = None) -> dict[Mode, Sample]:
    """Time all rows in this process, or those whose keys are `wanted`."""
    return {mode: _sample(mode, plan, wanted) for mode in MODES}


def _sample(mode: Mode, plan: Plan, wanted: Collection[str] | None) -> Sample:
    bare, floors = _floors(mode)
    problems: dict[str, str] = {}
    with Stage(mode == "async") as stage:
        measured = []
        for row in known(mode):
            if wanted is not None and row.key not in wanted:
                continue
            subject = row.subject(stage)
            if isinstance(subject, str):
                problems[row.key] = subject
            else:
                measured.append(subject)
        timings = compare(bare, [*floors, *measured], plan, stage.runner)
    names = {subject.name for subject in (bare, *floors)}
    return Sample(
        {name: timing for name, timing in timings.items() if name in names},
        {name: timing for name, timing in timings.items() if name not in names},
        problems,
    )


def known(mode: Mode) -> list[Row]:
    """All rows of a mode, pattern by pattern."""
    built = build()
    return [row for pattern in PATTERNS if mode in pattern.modes for row in rows(pattern, mode, built)]


def _figures(mode: Mode, samples: Sequence[Sample]) -> list[Figure]:
    """The figures of one mode: the calls without a policy, then pattern by pattern."""
    figures = [
        Figure(f"{mode}: no policy", name, Timing.pooled([each.floors[name] for each in samples]).values())
        for name in samples[0].floors
    ]
    timings = {key: Timing.pooled([each.rows[key] for each in samples]) for key in samples[0].rows}
    for row in known(mode):
        if row.key in timings:
            figures.append(row.figure(mode, values(row, timings)))
        else:
            figures.append(row.figure(mode, {}, samples[0].problems[row.key]))
    return _sorted(figures)


def values(row: Row, timings: Mapping[str, Timing]) -> dict[str, float]:
    """The values of one row: its timing, what it adds to its `base` row, and the ratio to its `rival` row."""
    timing, base, rival = (timings.get(key) for key in (row.key, row.base, row.rival))
    assert timing is not None
    return {
        **timing.values(),
        **(timing.beyond(base).values("added_x") if base else {}),
        **(timing.against(rival).values("ratio_x") if rival else {}),
    }


def _sorted(figures: list[Figure]) -> list[Figure]:
    """Sort each group: our rows first, then the peers from the fastest. The order of the groups stays."""
    groups = list(dict.fromkeys(figure.group for figure in figures))

    def place(figure: Figure) -> tuple[int, bool, float]:
        multiple = figure.values.get("multiple_x", float("inf"))
        return groups.index(figure.group), not figure.ours, 0.0 if figure.ours else multiple

    return sorted(figures, key=place)


def _floors(mode: Mode) -> tuple[Subject, list[Subject]]:
    """The bare call, and calls without a policy to compare with: wrappers, a timer, a task."""
    if mode == "def":
        plain = targets.plain

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return plain(*args, **kwargs)

        return Subject("a plain call", plain, False), [Subject("def wrapper (*args, **kwargs)", wrapped, False)]
    return Subject("a bare await", targets.bare, True), [
        Subject(name, call, True) for name, call in _async_floors().items()
    ]


def _async_floors() -> dict[str, Callable[[int], Any]]:
    bare = targets.bare

    async def one(x: int) -> Any:
        return await bare(x)

    async def many(*args: Any, **kwargs: Any) -> Any:
        return await bare(*args, **kwargs)

    async def timer(x: int) -> Any:
        handle = asyncio.get_running_loop().call_later(2.0, print)
        try:
            return await bare(x)
        finally:
            handle.cancel()

    async def task(x: int) -> Any:
        return await asyncio.get_running_loop().create_task(bare(x))

    return {
        "async wrapper (x)": one,
        "async wrapper (*args, **kwargs)": many,
        "loop.call_later and cancel": timer,
        "create_task and await": task,
    }
