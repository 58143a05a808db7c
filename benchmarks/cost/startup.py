"""The cost before the first call: importing the library, and decorating functions.

*Imports* run in fresh processes, in rounds whose order is drawn anew. The figure is the processor time from before the
import to after it, inside the process, so the start of the interpreter does not count. `modules` is the number of
modules that the import loads. `import resilient` loads tenacity and pybreaker: a row has their cost alone, and `beyond`
is our cost on top of that in the same round. (pybreaker imports redis if it is installed, as it is for our tests.)

*Decoration* is timed like the calls of `overhead`, in multiples of a plain call: an existing stack of four decorates an
`async def` or a `def`; or a stack of four is built first, as at the top of a module.
"""

from __future__ import annotations

import functools
import operator
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import targets
from benchmarks.contenders.bars import Mode
from benchmarks.contenders.patterns import PATTERNS, rows
from benchmarks.contenders.peers import Decorator
from benchmarks.contenders.targets import Stage
from benchmarks.harness.measure import Plan, Subject, Timing, compare, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Column, Figure, Report
from benchmarks.harness.statistics import Spread

__all__ = ["run"]

QUICK, FULL = 7, 40
"""Rounds of imports, in a quick and in a full run."""
QUICK_DECORATION = Plan(rounds=5, batch=0.005)
FULL_DECORATION = Plan(rounds=8, batch=0.008, processes=6)
DEPENDENCIES = "tenacity, pybreaker"
OURS = ("resilient", "resilient.http.httpx")
PEERS = ("nopanic", "grit", "pyresilience", "interlock", "stamina", "tenacity")
IMPORTS = (*OURS, DEPENDENCIES, "asyncio", "httpx", *PEERS)
COLUMNS = (
    Column("import_ms", "import ms"),
    Column("import_low_ms", "from"),
    Column("import_high_ms", "to"),
    Column("beyond_ms", "beyond", "{:+,.1f}"),
    Column("modules", "modules", "{:,.0f}"),
    Column("multiple_x", "multiple", "{:,.0f}"),
    Column("multiple_low_x", "from", "{:,.0f}"),
    Column("multiple_high_x", "to", "{:,.0f}"),
    Column("call_ns", "ns", "{:,.0f}"),
)
CODE = """
import sys, time
before, began = len(sys.modules), time.process_time_ns()
import {}
print(time.process_time_ns() - began, len(sys.modules) - before)
"""


def run(options: Options) -> Report:
    """Measure imports in fresh processes, then decoration in several processes."""
    plan = replace(QUICK_DECORATION if options.quick else FULL_DECORATION, seed=options.seed)
    rounds = QUICK if options.quick else FULL
    with one_core() as core:
        figures = imports(rounds, options)
        figures += decorations(fresh(decorate, plan.each(), options))
    found = conditions(plan, core) | {"import_rounds": rounds}
    return Report("startup", COLUMNS, figures, found)


def imports(rounds: int, options: Options) -> list[Figure]:
    """Measure the imports. Our figures come first, then the others from the cheapest."""
    # Once before, to write the bytecode.
    found = {name: cost for name in IMPORTS if (cost := _import(name)) is not None}
    times: dict[str, list[float]] = {name: [] for name in found}
    order, turns = random.Random(options.seed), list(found)
    for _ in options.track(range(rounds), "imports"):
        order.shuffle(turns)
        for name in turns:
            cost = _import(name)
            assert cost is not None
            times[name].append(cost[0])
    figures = []
    for name, taken in times.items():
        lower, _, upper = statistics.quantiles(taken, n=4, method="inclusive")
        values = {
            **Spread.of([taken]).values("import_ms"),
            "lower_quartile_ms": round(lower, 3),
            "upper_quartile_ms": round(upper, 3),
            "modules": found[name][1],
        }
        if name == OURS[0]:
            values |= Spread.of([list(map(operator.sub, taken, times[DEPENDENCIES]))]).values("beyond_ms")
        figures.append(Figure("import", name, values, ours=name in OURS))
    return sorted(figures, key=lambda figure: (not figure.ours, figure.values["import_ms"]))


def _import(name: str) -> tuple[float, int] | None:
    """Import a module in a fresh process. Returns milliseconds and the number of modules, or None if it is not
    installed."""
    command, root = [sys.executable, "-c", CODE.format(name)], Path(__file__).parents[2]
    # pip has compiled what it installed. With this variable set, each import would compile a checkout anew.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    if done.returncode:
        return None
    nanoseconds, modules = done.stdout.split()
    return int(nanoseconds) / 1e6, int(modules)


Samples = Mapping[tuple[str, str], Timing]
"""The timings by the group's title and the row's name."""


def decorate(plan: Plan) -> Samples:
    """Time in this process how long each decorator takes for a function."""
    with Stage(is_async=False) as stage:
        bare = Subject("a plain call", targets.plain, False)
        found = {}
        for title, subjects in _decorators().items():
            timings = compare(bare, [Subject(name, call, False) for name, call in subjects.items()], plan, stage.runner)
            found |= {(title, name): timing for name, timing in timings.items() if name in subjects}
    return found


def decorations(samples: Sequence[Samples]) -> list[Figure]:
    """The figures of decoration. In each group, those of resilient come first, then the others from the fastest."""
    pooled = {key: Timing.pooled([each[key] for each in samples]) for key in samples[0]}
    figures = [Figure(*key, timing.values(), ours=key[1] == OURS[0]) for key, timing in pooled.items()]
    titles = list(dict.fromkeys(figure.group for figure in figures))
    return sorted(figures, key=lambda each: (titles.index(each.group), not each.ours, each.values["multiple_x"]))


def _decorators() -> dict[str, dict[str, Callable[[Any], Any]]]:
    """By the group's title and the row's name: a function that decorates anew at each call."""
    (stack,) = (pattern for pattern in PATTERNS if pattern.key == "stack")
    found: dict[str, dict[str, Callable[[Any], Any]]] = {}
    modes: tuple[tuple[Mode, Any], ...] = (("async", targets.bare), ("def", targets.plain))
    for mode, function in modes:
        found[f"{mode}: a function put into a stack of four"] = {
            row.label: functools.partial(_put, row.decorate, function)
            for row in rows(stack, mode)
            if row.decorate is not None and row.label == row.label.partition(", ")[0]
        }
    built = {}
    for name, build in BUILDERS.items():
        try:
            build()
        except ImportError:
            continue
        built[name] = functools.partial(_build, build)
    found["async: a stack of four built, and a function put into it"] = built
    return found


def _put(decorator: Decorator, function: Any, _: Any) -> None:
    decorator(function)


def _build(build: Callable[[], Decorator], _: Any) -> None:
    build()(targets.bare)


def _ours() -> Decorator:
    from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout

    breaker = CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)
    return Pipeline(Retry(attempts=3), Bulkhead(50, queue=100), breaker, Timeout(2))


def _nopanic() -> Decorator:
    import nopanic

    breaker = nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0)
    return nopanic.compose(nopanic.retry(attempts=3), nopanic.bulkhead(50), breaker, nopanic.timeout(2.0))  # type: ignore[no-any-return]


def _grit() -> Decorator:
    from grit import breaker, bulkhead, policy, retry, timeout

    return policy(retry(tries=3), bulkhead(50), breaker(), timeout(2.0))  # type: ignore[no-any-return]


BUILDERS: Mapping[str, Callable[[], Decorator]] = {OURS[0]: _ours, "nopanic": _nopanic, "grit": _grit}
