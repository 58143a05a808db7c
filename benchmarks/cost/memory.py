"""The memory rows of `scale`: bytes that Python allocates for one breaker, one key and one call in flight.

Measured by `tracemalloc`: the bytes held after many were made, divided by their number, so each includes its part of
what they share. A breaker has counted 100 calls, one in five a failure, so its window is full; the function that it
guarded no longer exists. A key is one of many, and has had one call. A call in flight waits in its own task; the bytes
of the task are subtracted.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.by_hand import Decorator
from benchmarks.harness.report import Bar, Figure

__all__ = ["OF_ALL_KEYS", "Plan", "Row", "memory"]

MANY = 100_000
"""Keys of a dependency with very many keys. `all_mb` is the memory of all of them."""
PER_BREAKER = Bar("object_bytes", 1_200)
OF_ALL_KEYS = Bar("all_mb", 190)


class Failed(Exception):
    """The error of one call in five, so that the window has successes and failures."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of breakers, keys and calls in flight that are made, to measure the mean."""

    breakers: int
    keys: int
    calls: int


@dataclass(frozen=True, slots=True)
class Row:
    """A breaker, a policy with keys, or policies around a call in flight; of resilient or of a peer."""

    name: str
    build: Callable[[], Any]
    ours: bool = False
    bar: Bar | None = None


def breakers() -> list[Row]:
    """The rows of breakers, one for each library that has one."""

    def ours() -> Any:
        from resilient import CircuitBreaker

        return CircuitBreaker(failure_rate=0.5, window_calls=100, min_calls=20)

    def nopanic() -> Any:
        import nopanic

        return nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0)

    def grit() -> Any:
        from grit import breaker

        return breaker()

    def interlock() -> Any:
        from interlock import CircuitBreaker, Config, WindowType

        config = Config(window_type=WindowType.COUNT_BASED, window_size=100)
        return CircuitBreaker(name="benchmark", config=config)

    def pybreaker() -> Any:
        from pybreaker import CircuitBreaker

        return CircuitBreaker(fail_max=5)

    return [
        Row("resilient", ours, True, PER_BREAKER),
        Row("nopanic, time window", nopanic),
        Row("interlock", interlock),
        Row("grit, failures in a row", grit),
        Row("pybreaker, failures in a row", pybreaker),
    ]


def memory(keyed: Sequence[Row], guards: Sequence[Row], plan: Plan) -> list[Figure]:
    """The memory figures: of breakers, of each key of the `keyed` policies, of each call in flight inside the
    `guards`."""
    return [
        *_each("a breaker with a full window of 100", breakers(), lambda row: breaker_bytes(row.build, plan.breakers)),
        *_each("a key", keyed, lambda row: key_bytes(row.build(), plan.keys), all_of=MANY),
        *_each("a call in flight, besides its task", guards, lambda row: call_bytes(row.build(), plan.calls)),
    ]


def _each(title: str, known: Sequence[Row], measure: Callable[[Row], float], all_of: int = 0) -> Iterator[Figure]:
    for row in known:
        try:
            size = measure(row)
        except ImportError:
            yield Figure(title, row.name, note="not installed")
            continue
        all_of_them = {"all_mb": round(size * all_of / 1e6, 1)} if all_of else {}
        yield Figure(title, row.name, {"object_bytes": round(size), **all_of_them}, row.bar, row.ours)


def breaker_bytes(build: Callable[[], Any], count: int) -> float:
    """The mean bytes of `count` breakers that have counted 100 calls each."""

    def function(number: int) -> int:
        if number % 5 == 0:
            raise Failed
        return number

    def judging() -> Any:
        breaker = build()
        guarded = _guard(breaker)(function)
        for number in range(100):
            with suppress(Failed):
                guarded(number)
        return breaker

    judging()
    kept: list[object] = [None] * count
    with _counted() as held:
        for at in range(count):
            kept[at] = judging()
        return held() / count


def _guard(breaker: Any) -> Any:
    """The decorator of a breaker. Ours decorates in a Pipeline, which ends with the function; by itself, a breaker
    keeps one pipeline for all its functions."""
    from resilient import Pipeline
    from resilient.core.policy import Policy

    return Pipeline(breaker) if isinstance(breaker, Policy) else breaker


def key_bytes(decorate: Decorator, count: int) -> float:
    """The mean bytes of `count` keys, without the key itself."""

    async def call(key: str) -> str:
        return key

    async def each(keys: Sequence[str]) -> None:
        for key in keys:
            await guarded(key)

    guarded = decorate(call)
    with asyncio.Runner() as runner:
        runner.run(each(["the first"]))
        keys = [f"host-{number}" for number in range(count)]
        with _counted() as held:
            runner.run(each(keys))
            return held() / count


def call_bytes(decorate: Decorator, count: int) -> float:
    """The mean bytes of `count` guarded calls in flight, without those of an unguarded call."""

    async def call(end: asyncio.Future[None]) -> None:
        await end

    async def inside(function: Callable[[Any], Any]) -> float:
        end = asyncio.get_running_loop().create_future()
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(function(end))]
        await asyncio.sleep(0)
        with _counted() as held:
            tasks += [asyncio.create_task(function(end)) for _ in range(count)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            size = held() / count
        end.set_result(None)
        await asyncio.gather(*tasks)
        return size

    return asyncio.run(inside(decorate(call))) - asyncio.run(inside(call))


@contextmanager
def _counted() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the bytes allocated inside the block and still held."""
    gc.collect()
    tracemalloc.start()
    try:
        yield lambda: (gc.collect(), tracemalloc.get_traced_memory()[0])[1]
    finally:
        tracemalloc.stop()
