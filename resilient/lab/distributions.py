"""Distributions of durations: how long work takes.

A distribution is plain data. Its `sampler` is a function that draws one number of seconds, never below 0. In a scenario
file a distribution is a table with its `kind`, or a number for a constant:

    0.1                                                     always the same
    {kind = "uniform", low = 0.05, high = 0.2}              all values equally likely
    {kind = "normal", mean = 0.167, deviation = 0.005}      a value below 0 is drawn again
    {kind = "lognormal", mean = 0.005, deviation = 0.002}   most services: a hump and a tail
    {kind = "exponential", mean = 0.1}                      the usual choice of queueing theory
    {kind = "pareto", low = 0.001, shape = 1.5}             P(X > t) = (low / t)^shape: a heavy tail
    {kind = "empirical", file = "latencies.txt"}            measured values: one number of seconds a line
    {kind = "mixture", parts = [{weight = 95, ...}, {weight = 5, ...}]}
"""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from resilient import _validation
from resilient.lab.files import read_text

__all__ = [
    "KINDS",
    "Constant",
    "Distribution",
    "Empirical",
    "Exponential",
    "LogNormal",
    "Mixture",
    "Normal",
    "Pareto",
    "Uniform",
    "read_latencies",
]

Sampler = Callable[[], float]

LONGEST = 1e9
"""The largest number of seconds of a distribution: thirty years. Larger ones may overflow in sums and powers."""
LEAST_SHAPE = 0.1
"""The smallest shape of a Pareto distribution, whose largest possible value is `low * 2 ** (53 / shape)`."""


def _seconds(argument: str, value: object, *, zero: bool = False) -> float:
    if (seconds := _validation.seconds(argument, value, zero=zero)) > LONGEST:
        raise ValueError(f"{argument} must be at most {LONGEST:g} seconds, got {value!r}")
    return seconds


class Distribution:
    """A distribution of durations in seconds, from which samplers draw."""

    kind = ""

    def sampler(self, generator: random.Random) -> Sampler:
        """A function that draws one value after the other from `generator`."""
        raise NotImplementedError

    @property
    def expected(self) -> float:
        """The mean, in seconds; infinite if the distribution has no finite mean."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Constant(Distribution):
    """Always the same number of seconds, `value`."""

    kind = "constant"
    value: float

    def __post_init__(self) -> None:
        _seconds("value", self.value, zero=True)

    def sampler(self, generator: random.Random) -> Sampler:
        value = float(self.value)
        return lambda: value

    @property
    def expected(self) -> float:
        return float(self.value)


@dataclass(frozen=True, slots=True)
class Uniform(Distribution):
    """Values from `low` to `high`, all equally likely."""

    kind = "uniform"
    low: float
    high: float

    def __post_init__(self) -> None:
        _seconds("low", self.low, zero=True)
        if _seconds("high", self.high, zero=True) < self.low:
            raise ValueError(f"high must be at least low={self.low:g}, got {self.high!r}")

    def sampler(self, generator: random.Random) -> Sampler:
        low, span, draw = self.low, self.high - self.low, generator.random
        return lambda: low + span * draw()

    @property
    def expected(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class Normal(Distribution):
    """A normal distribution. A value below 0 is drawn again, so the mean must not be below 0."""

    kind = "normal"
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        _seconds("mean", self.mean, zero=True)
        _seconds("deviation", self.deviation, zero=True)

    def sampler(self, generator: random.Random) -> Sampler:
        mean, deviation, gauss = self.mean, self.deviation, generator.gauss

        def draw() -> float:
            while (drawn := gauss(mean, deviation)) < 0:
                pass
            return drawn

        return draw

    @property
    def expected(self) -> float:
        if not self.deviation:
            return float(self.mean)
        bell, edge = statistics.NormalDist(), -self.mean / self.deviation
        return self.mean + self.deviation * bell.pdf(edge) / (1 - bell.cdf(edge))  # the share that is not drawn again


@dataclass(frozen=True, slots=True)
class LogNormal(Distribution):
    """A lognormal distribution, by its own mean and standard deviation (not those of the logarithm)."""

    kind = "lognormal"
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        _seconds("mean", self.mean)
        if _seconds("deviation", self.deviation, zero=True) > 1e6 * self.mean:
            raise ValueError(f"deviation must be at most a million times mean={self.mean:g}, got {self.deviation!r}")

    def sampler(self, generator: random.Random) -> Sampler:
        variance = math.log1p((self.deviation / self.mean) ** 2)
        middle, spread, gauss, exp = math.log(self.mean) - variance / 2, math.sqrt(variance), generator.gauss, math.exp
        return lambda: exp(gauss(middle, spread))

    @property
    def expected(self) -> float:
        return float(self.mean)


@dataclass(frozen=True, slots=True)
class Exponential(Distribution):
    """An exponential distribution: it has no memory, so the remaining time does not depend on the time that has
    passed."""

    kind = "exponential"
    mean: float

    def __post_init__(self) -> None:
        _seconds("mean", self.mean)

    def sampler(self, generator: random.Random) -> Sampler:
        mean, log, draw = self.mean, math.log, generator.random
        return lambda: -mean * log(1.0 - draw())

    @property
    def expected(self) -> float:
        return float(self.mean)


@dataclass(frozen=True, slots=True)
class Pareto(Distribution):
    """A Pareto distribution: P(X > t) = (low / t)^shape, from `low` on."""

    kind = "pareto"
    low: float
    shape: float

    def __post_init__(self) -> None:
        _seconds("low", self.low)
        if _validation.amount("shape", self.shape) < LEAST_SHAPE:
            raise ValueError(f"shape must be a finite number >= {LEAST_SHAPE:g}, got {self.shape!r}")

    def sampler(self, generator: random.Random) -> Sampler:
        low, power, draw = self.low, -1.0 / self.shape, generator.random
        return lambda: low * (1.0 - draw()) ** power

    @property
    def expected(self) -> float:
        return self.low * self.shape / (self.shape - 1) if self.shape > 1 else math.inf


@dataclass(frozen=True, slots=True)
class Empirical(Distribution):
    """Measured durations in seconds, all equally likely."""

    kind = "empirical"
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("values must hold at least one number of seconds, got none")
        for at, value in enumerate(self.values):
            _seconds(f"values[{at}]", value, zero=True)

    def sampler(self, generator: random.Random) -> Sampler:
        values, count, draw = self.values, len(self.values), generator.random
        return lambda: values[int(count * draw())]

    @property
    def expected(self) -> float:
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True, slots=True)
class Mixture(Distribution):
    """One of several distributions, chosen by weight. The weights need not add up to 1."""

    kind = "mixture"
    weights: tuple[float, ...]
    parts: tuple[Distribution, ...]

    def __post_init__(self) -> None:
        for at, weight in enumerate(self.weights):
            _validation.amount(f"parts[{at}].weight", weight)
        if len(self.weights) != len(self.parts) or not sum(self.weights):
            raise ValueError(f"parts must have weights, at least one of them above 0, got {list(self.weights)}")

    def sampler(self, generator: random.Random) -> Sampler:
        draws = [part.sampler(generator) for part in self.parts]
        bounds = list(accumulate(weight / sum(self.weights) for weight in self.weights))[:-1]
        which = generator.random

        def draw() -> float:
            return draws[bisect(bounds, which())]()

        return draw

    @property
    def expected(self) -> float:
        shares = [weight / sum(self.weights) for weight in self.weights]
        return math.fsum(share * part.expected for share, part in zip(shares, self.parts, strict=True) if share)


KINDS: dict[str, type[Distribution]] = {
    each.kind: each for each in (Constant, Uniform, Normal, LogNormal, Exponential, Pareto, Empirical, Mixture)
}
"""All kinds of distributions, by their names in scenario files."""


LARGEST = 10_000_000
"""The most bytes that a file of latencies may have."""


def read_latencies(file: Path) -> Sequence[float]:
    """Read a file of latencies: one number of seconds a line. Empty lines and lines that begin with `#` are skipped.

    Raises `ValueError` with the name of the file if it cannot be read, and with the number of the line if that is not a
    number of seconds.
    """
    found = []
    for number, line in enumerate(read_text(file, LARGEST).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(_seconds("a latency", float(text), zero=True))
        except ValueError:
            got = (
                f", got {text[:20]!r}" if text[0] in "+-.0123456789" else ""
            )  # other text is not quoted: the file may be any file, with secrets in it
            raise ValueError(f"line {number} of {file} must be a number of seconds >= 0{got}") from None
    if not found:
        raise ValueError(f"{file} must hold at least one number of seconds, got none")
    return found
