"""How calls are timed: in interleaved rounds, each as a multiple of a bare call next to it.

A time in nanoseconds says more about the machine, and about its other programs, than about the code. So each batch of
calls is timed between two batches of the bare call, and its multiple is the ratio to the mean of these two. The order
of the batches is drawn anew in each round. The reported figure is the median over the rounds, with its quartiles.

- The clock is the processor time of the process (all threads), so a busy machine does not count. Where that clock is
  too coarse, as on Windows, it is the wall clock.
- The process stays on one core, the idlest one at the start, where the system allows it.
- The garbage collector is off during a batch, as in `timeit`, and collects between rounds. This favours code that
  leaves reference cycles behind.
- The loop around the calls counts in the bare call and in the guarded call.
- Every subject has its own copy of that loop. CPython specialises bytecode by the types it has seen, so in a shared
  loop each subject would pay for the one before it.
- The layout of the heap is drawn anew in each round, too. Without this, a bare await was a third slower in one process
  of 25, for the life of that process, and every multiple a third lower. The likely cause: a call object alone in its
  pymalloc block, so that every call takes a block and gives it back.
- One event loop serves all asyncio subjects. It runs between batches, not within them.
- Subjects of one group are timed next to each other, in a random order, so the ratio of two of them is taken within
  milliseconds.
- `Timing.pooled` joins the samples of several processes: see `statistics`.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from types import FunctionType
from typing import Any

from benchmarks.harness.statistics import Spread

__all__ = ["Plan", "Subject", "Timing", "compare", "conditions", "one_core"]

_FINE = time.get_clock_info("process_time").resolution < 1e-6
clock = time.process_time_ns if _FINE else time.perf_counter_ns
"""The clock, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A call to time: `call(argument)`, awaited if `is_async`. `rejected` says that each call raises. Subjects of one
    group are timed next to each other."""

    name: str
    call: Callable[[Any], Any]
    is_async: bool
    rejected: bool = False
    argument: Any = 1
    group: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """The samples of one subject: nanoseconds and multiples of the bare call, by process, and by round within each."""

    nanoseconds: tuple[tuple[float, ...], ...]
    multiples: tuple[tuple[float, ...], ...]

    @classmethod
    def pooled(cls, timings: Sequence[Timing]) -> Timing:
        """Join the samples of one subject from several processes."""
        return cls(
            tuple(rounds for each in timings for rounds in each.nanoseconds),
            tuple(rounds for each in timings for rounds in each.multiples),
        )

    def multiple(self) -> Spread:
        return Spread.of(self.multiples)

    def beyond(self, other: Timing) -> Spread:
        """The difference to `other` in the same round, in bare calls."""
        return self._paired(operator.sub, other)

    def against(self, other: Timing) -> Spread:
        """The ratio to `other` in the same round."""
        return self._paired(operator.truediv, other)

    def _paired(self, how: Callable[[float, float], float], other: Timing) -> Spread:
        pairs = zip(self.multiples, other.multiples, strict=True)
        return Spread.of([list(map(how, mine, theirs)) for mine, theirs in pairs])

    def values(self) -> dict[str, float]:
        """The values for a `Figure`: the multiple with its interval and the quartiles of all rounds, and
        nanoseconds."""
        lower, _, upper = statistics.quantiles(chain(*self.multiples), n=4, method="inclusive")
        return {
            **self.multiple().values("multiple_x"),
            "lower_quartile_x": round(lower, 3),
            "upper_quartile_x": round(upper, 3),
            "call_ns": round(statistics.median(chain(*self.nanoseconds)), 1),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a measurement: `rounds` batches of about `batch` seconds each, in each of `processes` processes."""

    rounds: int
    batch: float
    seed: int = 1
    processes: int = 1

    def each(self) -> list[Plan]:
        """The plan of each process: the same with another seed, so the order differs."""
        return [replace(self, seed=self.seed + at, processes=1) for at in range(self.processes)]


async def _awaits(call: Callable[[Any], Any], argument: Any, count: int) -> int:
    start = clock()
    for _ in repeat(None, count):
        await call(argument)
    return clock() - start


async def _rejected_awaits(call: Callable[[Any], Any], argument: Any, count: int) -> int:
    start = clock()
    for _ in repeat(None, count):
        try:
            await call(argument)
        except Exception:
            pass
    return clock() - start


def _calls(call: Callable[[Any], Any], argument: Any, count: int) -> int:
    start = clock()
    for _ in repeat(None, count):
        call(argument)
    return clock() - start


def _rejected_calls(call: Callable[[Any], Any], argument: Any, count: int) -> int:
    start = clock()
    for _ in repeat(None, count):
        try:
            call(argument)
        except Exception:
            pass
    return clock() - start


_LOOPS: dict[tuple[bool, bool], FunctionType] = {}
for _loop, _key in (
    (_awaits, (True, False)),
    (_rejected_awaits, (True, True)),
    (_calls, (False, False)),
    (_rejected_calls, (False, True)),
):
    assert isinstance(_loop, FunctionType)
    _LOOPS[_key] = _loop


@dataclass(slots=True)
class _Track:
    """A subject with its own copy of the loop, its batch size and its samples."""

    subject: Subject
    runner: asyncio.Runner
    count: int = 1
    nanoseconds: list[float] = field(default_factory=list)
    multiples: list[float] = field(default_factory=list)
    loop: FunctionType = field(init=False)

    def __post_init__(self) -> None:
        shared = _LOOPS[self.subject.is_async, self.subject.rejected]
        self.loop = FunctionType(shared.__code__.replace(), shared.__globals__)

    def batch(self) -> float:
        """Run one batch of calls. Returns the nanoseconds per call."""
        elapsed: int
        if self.subject.is_async:
            elapsed = self.runner.run(self.loop(self.subject.call, self.subject.argument, self.count))
        else:
            elapsed = self.loop(self.subject.call, self.subject.argument, self.count)
        return max(elapsed, 1) / self.count

    def calibrate(self, seconds: float) -> None:
        """Find how many calls fill a batch. This also warms the subject up."""
        self.batch()
        while (spent := self.batch() * self.count) < 2e8 * seconds:
            self.count *= 4
        self.count = max(1, round(self.count * seconds * 1e9 / spent))

    def timing(self) -> Timing:
        return Timing((tuple(self.nanoseconds),), (tuple(self.multiples),))


def compare(
    bare: Subject,
    subjects: Sequence[Subject],
    plan: Plan,
    runner: asyncio.Runner,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Timing]:
    """Time `subjects` as multiples of `bare`. Returns the timings by name, that of `bare` included."""
    base = _Track(bare, runner)
    tracks = [_Track(subject, runner) for subject in subjects]
    base.calibrate(plan.batch / 2)
    for track in tracks:
        track.calibrate(plan.batch)
    order = random.Random(plan.seed)
    for _ in progress(range(plan.rounds)):
        order.shuffle(tracks)
        places = {group: order.random() for group in dict.fromkeys(track.subject.group for track in tracks)}
        tracks.sort(key=lambda track: places[track.subject.group])
        with _no_collector(), _ballast(order):
            before = base.batch()
            for track in tracks:
                each = track.batch()
                after = base.batch()
                track.nanoseconds.append(each)
                track.multiples.append(2 * each / (before + after))
                base.nanoseconds.append(after)
                base.multiples.append(2 * after / (before + after))
                before = after
    return {track.subject.name: track.timing() for track in (base, *tracks)}


def conditions(plan: Plan, core: int | None) -> dict[str, Any]:
    """The conditions for a `Report`: rounds, seconds of a batch, core and the like."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": core,
        "processes": plan.processes,
        "rounds": plan.rounds,
        "batch_s": plan.batch,
        "seed": plan.seed,
        "clock": clock.__name__,
    }


@contextmanager
def _ballast(order: random.Random) -> Iterator[None]:
    """Occupy a random part of a block (16 KiB) in each size class of pymalloc that holds call objects."""
    sizes = range(64, 513, 16)
    held = [bytes(size - 33) for size in sizes for _ in range(order.randrange(16384 // size))]
    yield
    held.clear()


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep the process on the idlest core. Yields its number, or None where a process cannot choose a core."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = _idlest(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def _idlest(cores: set[int]) -> int:
    """The core with the least work in a tenth of a second, by /proc/stat of Linux; elsewhere the last core."""

    def busy() -> dict[int, int]:
        found = {}
        with open("/proc/stat", encoding="ascii") as lines:
            for line in lines:
                name, *ticks = line.split()
                if name.startswith("cpu") and name[3:].isdigit():
                    found[int(name[3:])] = sum(map(int, ticks[:3] + ticks[5:8]))
        return found

    try:
        before = busy()
        time.sleep(0.1)
        after = busy()
    except (OSError, ValueError):
        return max(cores)
    return min(sorted(cores, reverse=True), key=lambda core: after.get(core, 0) - before.get(core, 0))
