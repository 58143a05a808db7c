"""The latency distributions of `tail`, without a hedge: to draw from, and as formulas.

Each distribution comes as `draw_...`, which draws the milliseconds of one call, and `tail_...`, which computes the
share of calls that take longer than some milliseconds.

    lognormal  of bhope/hedge (E2): 5 ms on average with a deviation of 2 ms, and one time in twenty ten times as long
    published  of J. Dean and L. Barroso, The Tail at Scale (E1): straight lines between the published points, on
               logarithmic axes
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise

__all__ = [
    "DEVIATION",
    "FACTOR",
    "MEAN",
    "POINTS",
    "SLOW",
    "Backend",
    "draw_lognormal",
    "draw_published",
    "tail_lognormal",
    "tail_published",
]

MEAN, DEVIATION, SLOW, FACTOR = 5.0, 2.0, 0.05, 10.0
"""The lognormal distribution: mean and deviation in milliseconds, the share of slow calls, and how many times longer
they take."""
_VARIANCE = math.log1p((DEVIATION / MEAN) ** 2)
_NORMAL = statistics.NormalDist(math.log(MEAN) - _VARIANCE / 2, math.sqrt(_VARIANCE))
POINTS = ((1.0, 1.0), (3.0, 0.5), (10.0, 0.02), (69.0, 3.16e-3), (1_800.0, 1e-5), (20_000.0, 1e-7))
"""The published distribution: milliseconds, and the share of calls that take longer."""
_PIECES = [
    (math.log(x), math.log(y), (math.log(y) - math.log(later_y)) / (math.log(later_x) - math.log(x)))
    for (x, y), (later_x, later_y) in pairwise(POINTS)
]
_RISING = [-y for _, y, _ in _PIECES]


class Backend:
    """A service that sleeps for a drawn time and counts its requests. It never queues."""

    def __init__(self, draw: Callable[[random.Random], float], seed: str) -> None:
        self.draw = draw
        self.random = random.Random(seed)
        self.requests = 0

    async def ask(self) -> None:
        self.requests += 1
        await asyncio.sleep(self.draw(self.random) / 1000)


def draw_lognormal(generator: random.Random) -> float:
    """Draw the milliseconds of one request in E2."""
    milliseconds = generator.lognormvariate(_NORMAL.mean, _NORMAL.stdev)
    return milliseconds * FACTOR if generator.random() < SLOW else milliseconds


def tail_lognormal(milliseconds: float) -> float:
    """The share of requests in E2 that take longer."""
    if milliseconds <= 0:
        return 1.0
    at = math.log(milliseconds)
    return 1 - (1 - SLOW) * _NORMAL.cdf(at) - SLOW * _NORMAL.cdf(at - math.log(FACTOR))


def draw_published(generator: random.Random) -> float:
    """Draw the milliseconds of one call in E1. The last straight line continues without end."""
    share = math.log(1 - generator.random())
    x, y, steepness = _PIECES[bisect_right(_RISING, -share) - 1]
    return math.exp(x + (y - share) / steepness)


def tail_published(milliseconds: float) -> float:
    """The share of calls in E1 that take longer."""
    if milliseconds <= POINTS[0][0]:
        return 1.0
    at = math.log(milliseconds)
    x, y, steepness = _PIECES[bisect_right([x for x, _, _ in _PIECES], at) - 1]
    return math.exp(y - (at - x) * steepness)
