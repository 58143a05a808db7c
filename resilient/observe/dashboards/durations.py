"""Durations of PromQL, at their true length or, for tests, shortened."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY", "HOUR", "MINUTE", "SHORTEST_WINDOW", "Durations", "promql"]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

SHORTEST_WINDOW = 5.0
"""Seconds of the shortest window that rates are taken over: five scrapes of a test that scrapes once a second."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


@dataclass(frozen=True, slots=True)
class Durations:
    """The durations of rules: their true length times `scale`. Windows never get shorter than `SHORTEST_WINDOW`."""

    scale: float = 1.0

    def seconds(self, window: float) -> float:
        """The seconds of a window."""
        return max(window * self.scale, min(window, SHORTEST_WINDOW))

    def window(self, window: float) -> str:
        """A window, such as `5m`."""
        return promql(self.seconds(window))

    def wait(self, seconds: float) -> str:
        """The time that the condition of an alert must hold before the alert fires."""
        return promql(seconds * self.scale)


def promql(seconds: float) -> str:
    """The duration in PromQL, in the largest unit that gives a whole number."""
    milliseconds = round(seconds * 1000)
    for unit, length in _UNITS:
        if milliseconds and not milliseconds % length:
            return f"{milliseconds // length}{unit}"
    return "0s"
