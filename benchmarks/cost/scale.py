"""The cost of a call beside up to 100,000 others, or beside as many keys; and the memory of each of these.

*In flight*: many calls wait inside a guarded function, each in its own task. Meanwhile, calls through the same policies
that return at once are measured. *Keys*: many keys have been called. Then all keys are called in turn, or one key again
and again. Figures are multiples of the bare call of the same run. The method is in `measure`.

The bar is on `growth`: the cost beside 100,000 divided by the cost beside one, at most 1.25. A linear search would miss
it by far, and so would a binary search, which takes 17 steps. Work of constant time only waits longer for memory that
is in no cache of the processor, some tens of nanoseconds. When all keys are called in turn, no key is in a cache: that
row has no bar, but a peer beside it.

Objects that stay are frozen for the garbage collector. In a program it traverses 100,000 tasks now and then, with any
library. The memory rows are in `memory`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.contenders.by_hand import Decorator, inside
from benchmarks.contenders.targets import Function, Stage
from benchmarks.cost import memory
from benchmarks.cost.scale_plot import draw_scale
from benchmarks.harness.measure import Plan, Subject, Timing, compare, conditions, one_core
from benchmarks.harness.options import Options
from benchmarks.harness.processes import fresh
from benchmarks.harness.report import Bar, Column, Figure, Report

__all__ = ["run"]

QUICK = Plan(rounds=12, batch=0.004)
FULL = Plan(rounds=8, batch=0.008, processes=6)
QUICK_MEMORY = memory.Plan(breakers=200, keys=10_000, calls=2_000)
FULL_MEMORY = memory.Plan(breakers=1_000, keys=memory.MANY, calls=10_000)
SIZES = (1, 100, 10_000, 100_000)
GROWTH = Bar("growth_x", 1.25)
COLUMNS = (
    Column("multiple_x", "multiple"),
    Column("multiple_low_x", "from"),
    Column("multiple_high_x", "to"),
    Column("growth_x", "growth", "{:,.2f}"),
    Column("growth_low_x", "from", "{:,.2f}"),
    Column("growth_high_x", "to", "{:,.2f}"),
    Column("call_ns", "ns", "{:,.0f}"),
    Column("object_bytes", "bytes", "{:,.0f}"),
    Column("all_mb", "MB of all", "{:,.0f}"),
)
LONG = 600.0
"""Seconds of each timeout and deadline. None expires during a measurement."""


@dataclass(frozen=True, slots=True)
class Row:
    """Policies, of resilient or of a peer, measured beside growing numbers of `what`."""

    what: str
    name: str
    build: Callable[[], Decorator]
    ours: bool = False
    judged: bool = False
    turns: bool = False
    """All keys are called in turn; otherwise the first one again and again."""

    @property
    def group(self) -> str:
        return f"{self.what}: {self.name}"


def run(options: Options) -> Report:
    """Measure every row beside every size in each of several processes, then the memory."""
    plan = replace(QUICK if options.quick else FULL, seed=options.seed)
    with one_core() as core:
        samples = fresh(sample, plan.each(), options)
        figures = [figure for row in rows() if row.group in samples[0] for figure in _figures(row, samples)]
        figures += memory.memory(*_held(), QUICK_MEMORY if options.quick else FULL_MEMORY)
    found = conditions(plan, core) | {"garbage_collector": "off within a batch; objects that stay are frozen"}
    return Report("scale", COLUMNS, figures, found, plot=draw_scale)


def sample(plan: Plan) -> dict[str, dict[int, Timing]]:
    """Time every installed row beside each size, in this process."""
    found = {}
    for row in rows():
        try:
            decorate = row.build()
        except ImportError:
            continue
        with Stage(is_async=True) as stage:
            beside = _calls if row.what == "in flight" else _keys
            found[row.group] = dict(beside(row, decorate(call), plan, stage))
    return found


def rows() -> list[Row]:
    """Our policies, and peers that do the same."""
    from resilient import Bulkhead, CircuitBreaker, Hedge, Keyed, Pipeline, Retry, Timeout, deadline, quantile

    many = 2 * memory.MANY

    def breaker() -> CircuitBreaker:
        return CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)

    def keyed() -> Decorator:
        return Keyed(breaker, key=lambda key: key, max_keys=many)

    def hedge() -> Decorator:
        return Hedge(quantile(0.95, floor=LONG), inline=True, key=lambda key: key, max_keys=many)

    def dated(function: Function) -> Function:
        return inside(deadline, LONG)(Retry(attempts=3)(function))

    def stack() -> Decorator:
        return Pipeline(Retry(attempts=3), Bulkhead(many), breaker(), Timeout(LONG))

    ours = partial(Row, ours=True, judged=True)
    return [
        ours("in flight", "Bulkhead", lambda: Bulkhead(many)),
        ours("in flight", "Timeout", lambda: Timeout(LONG)),
        Row("in flight", "asyncio.timeout", _asyncio_timeout),
        ours("in flight", "a deadline, a Retry beneath", lambda: dated),
        ours("in flight", "Retry + Bulkhead + CircuitBreaker + Timeout", stack),
        Row("in flight", "Retry + Bulkhead + CircuitBreaker + Timeout, nopanic", partial(_nopanic_stack, many)),
        ours("one of the keys", "Keyed, a CircuitBreaker each", keyed),
        Row("one of the keys", "Keyed, a CircuitBreaker each, nopanic", partial(_nopanic_keyed, many)),
        ours("one of the keys", "Hedge by observed latency, inline", hedge),
        Row("keys in turn", "Keyed, a CircuitBreaker each", keyed, ours=True, turns=True),
        Row("keys in turn", "Keyed, a CircuitBreaker each, nopanic", partial(_nopanic_keyed, many), turns=True),
        Row("keys in turn", "Hedge by observed latency, inline", hedge, ours=True, turns=True),
    ]


def _asyncio_timeout() -> Decorator:
    def decorate(function: Function) -> Function:
        async def guarded(stays: Any) -> Any:
            async with asyncio.timeout(LONG):
                return await function(stays)

        return guarded

    return decorate


def _nopanic_breaker() -> Any:
    import nopanic

    return nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0)


def _nopanic_stack(many: int) -> Decorator:
    import nopanic

    gates = nopanic.bulkhead(many), _nopanic_breaker()
    return nopanic.compose(nopanic.retry(attempts=3), *gates, nopanic.timeout(LONG))  # type: ignore[no-any-return]


def _nopanic_keyed(many: int) -> Decorator:
    import nopanic

    return nopanic.keyed(lambda key: _nopanic_breaker(), key=lambda key: key, maxsize=many)  # type: ignore[no-any-return]


async def call(stays: Any) -> int:
    """The guarded function: await the argument if it is a future, and return."""
    if isinstance(stays, asyncio.Future):
        await stays
    return 1


def _calls(row: Row, guarded: Callable[[Any], Any], plan: Plan, stage: Stage) -> Iterator[tuple[int, Timing]]:
    async def enter(end: asyncio.Future[None], more: int) -> None:
        tasks.extend(loop.create_task(guarded(end)) for _ in range(more))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def leave(end: asyncio.Future[None]) -> None:
        end.set_result(None)
        await asyncio.gather(*tasks)

    loop = stage.runner.get_loop()
    tasks: list[asyncio.Task[Any]] = []
    end = loop.create_future()
    with _unseen() as hide:
        for size in SIZES:
            stage.runner.run(enter(end, size - len(tasks)))
            hide()
            yield size, _timing(call, guarded, None, plan, stage)
        stage.runner.run(leave(end))


def _keys(row: Row, guarded: Callable[[Any], Any], plan: Plan, stage: Stage) -> Iterator[tuple[int, Timing]]:
    async def first(keys: list[str]) -> None:
        for key in keys:
            await guarded(key)

    def turning(function: Callable[[Any], Any], keys: list[str]) -> Callable[[Any], Any]:
        following = itertools.cycle(keys).__next__

        async def turn(_: Any) -> Any:
            return await function(following())

        return turn

    known: list[str] = []
    with _unseen() as hide:
        for size in SIZES:
            more = [f"host-{number}" for number in range(len(known), size)]
            stage.runner.run(first(more))
            known += more
            hide()
            bare, measured = (turning(each, known) if row.turns else each for each in (call, guarded))
            yield size, _timing(bare, measured, known[0], plan, stage)


def _timing(
    bare: Callable[[Any], Any], guarded: Callable[[Any], Any], argument: Any, plan: Plan, stage: Stage
) -> Timing:
    base = Subject("bare", bare, True, argument=argument)
    return compare(base, [replace(base, name="guarded", call=guarded)], plan, stage.runner)["guarded"]


@contextmanager
def _unseen() -> Iterator[Callable[[], None]]:
    """Yields a function that freezes all current objects. Otherwise the garbage collector would traverse them before
    each round."""
    gc.disable()
    try:
        yield gc.freeze
    finally:
        gc.unfreeze()
        gc.enable()


def _held() -> tuple[list[memory.Row], list[memory.Row]]:
    """The memory rows of the policies with keys, and of those with calls in flight."""
    keyed = [row for row in rows() if row.what == "one of the keys"]
    bars = {"Keyed, a CircuitBreaker each": memory.OF_ALL_KEYS}
    inside = [row for row in rows() if row.what == "in flight"]
    return (
        [memory.Row(row.name, row.build, row.ours, bars.get(row.name)) for row in keyed],
        [memory.Row(row.name, row.build, row.ours) for row in inside],
    )


def _figures(row: Row, samples: list[dict[str, dict[int, Timing]]]) -> list[Figure]:
    figures = []
    pooled = {size: Timing.pooled([each[row.group][size] for each in samples]) for size in SIZES}
    for size, timing in pooled.items():
        values, bar = {f"beside_{'calls' if row.what == 'in flight' else 'keys'}": size, **timing.values()}, None
        if size == max(SIZES):
            values |= timing.against(pooled[1]).values("growth_x")
            bar = GROWTH if row.judged else None
        figures.append(Figure(row.group, f"{size:,}", values, bar, row.ours))
    return figures
