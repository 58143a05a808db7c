"""What a policy costs a call that needs none: multiples of a bare await, and of a plain call.

All through the public API with its defaults, events compiled in, the function doing nothing. The
patterns and the peers' equivalents are described in `peers`, the method in `measure`.

The bars of the figures of `async def` come from hand-tuned prototypes, measured on Python 3.11 on one
core: retry 7.3, bulkhead 8.8, retry + bulkhead + windowed breaker + timeout 21 (29 if every update
took a lock), where a straightforward version took 31, nopanic 107 to 110 and interlock 790. The best
windowed breaker of a peer took 17, and asyncio.timeout itself 49. A hedge that does not fire took the
best peer 179, its first copy inline a prototype 20; a rate limit 12.6; the stack with a rate limit and a
fallback 129. `def` has one bar: the stack, without threads. Rejections, and one failure before the
success, have none.

Once a deadline was set in a process, guarded calls look for one: here one was, before anything is timed.
A rate limit costs 4 more once trio or virtual time was imported: here neither was.
"""

from __future__ import annotations

import asyncio
import functools
import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import measure, targets
from benchmarks.measure import Plan, Subject, Timing, compare, one_core
from benchmarks.options import Options
from benchmarks.patterns import PATTERNS, rows
from benchmarks.peers import Mode
from benchmarks.report import Column, Figure, Report
from benchmarks.targets import Stage

__all__ = ["run"]

QUICK = Plan(rounds=15, batch=0.006)
FULL = Plan(rounds=60, batch=0.008)
COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("lower_quartile_x", "quartile 1"),
    Column("upper_quartile_x", "quartile 3"),
    Column("added_x", "added", "{:+,.2f}"),
    Column("call_ns", "ns", "{:,.0f}"),
)


def run(options: Options) -> Report:
    """Time every pattern, async first."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    figures: list[Figure] = []
    with one_core() as core:
        figures += _mode("async", plan, options)
        figures += _mode("def", plan, options)
    conditions = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": core,
        "rounds": plan.rounds,
        "batch_s": plan.batch,
        "seed": plan.seed,
        "clock": measure.clock.__name__,
        "garbage_collector": "off within a batch, run between rounds",
    }
    return Report("overhead", COLUMNS, figures, conditions)


def _mode(mode: Mode, plan: Plan, options: Options) -> list[Figure]:
    """The figures of one mode: first those without a policy, then pattern by pattern."""
    bare, floors = _floors(mode)
    known = [row for pattern in PATTERNS if mode in pattern.modes for row in rows(pattern, mode)]
    with Stage(mode == "async") as stage:
        subjects = {row.key: row.subject(stage) for row in known}
        measured = [subject for subject in subjects.values() if isinstance(subject, Subject)]
        track = functools.partial(options.track, label=mode)
        timings = compare(bare, [*floors, *measured], plan, stage.runner, track)
    figures = [
        Figure(f"{mode}: no policy", subject.name, _values(timings[subject.name])) for subject in (bare, *floors)
    ]
    for row in known:
        subject = subjects[row.key]
        if isinstance(subject, Subject):
            figures.append(row.figure(mode, _values(timings[row.key], timings.get(row.base))))
        else:
            figures.append(row.figure(mode, {}, subject))
    return _sorted(figures)


def _values(timing: Timing, base: Timing | None = None) -> dict[str, float]:
    values = {
        "multiple_x": round(timing.multiple, 3),
        "lower_quartile_x": round(timing.lower_quartile, 3),
        "upper_quartile_x": round(timing.upper_quartile, 3),
        "call_ns": round(timing.nanoseconds, 1),
    }
    if base is not None:
        values["added_x"] = round(timing.beyond(base), 3)
    return values


def _sorted(figures: list[Figure]) -> list[Figure]:
    """Groups as they come; in each ours first, then the fastest."""
    groups = list(dict.fromkeys(figure.group for figure in figures))

    def place(figure: Figure) -> tuple[int, bool, float]:
        multiple = figure.values.get("multiple_x", float("inf"))
        return groups.index(figure.group), not figure.ours, 0.0 if figure.ours else multiple

    return sorted(figures, key=place)


def _floors(mode: Mode) -> tuple[Subject, list[Subject]]:
    """The bare call, and what any wrapper costs."""
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
