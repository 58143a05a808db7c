"""The readings so far: trends of each pipeline, the latest events, and whether the source answers."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

from resilient.cli.watch.reading import Line, Reading, SourceError

__all__ = ["Board"]

TREND = 300
"""The most values of a trend; one a second."""

EVENTS = 50
"""The most events that are kept."""

TOGETHER = 10.0
"""Seconds: a later event of the same kind, policy and pipeline is counted in the line of the one before."""


class Board:
    """What a screen shows.

    Attributes:
        source: the address, for people.
        reading: the latest; None: none so far.
        rates, latencies: of each pipeline, the calls a second and the p99 in seconds, oldest first.
        events: the latest, in the order of their last occurrence. Changes of state have a line each; other events of
            one kind, policy and pipeline are in one line while they go on.
        failure: why the source does not answer; None: it does. `failing_since`: when that began, in seconds since 1970.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.reading: Reading | None = None
        self.rates: dict[str, deque[float | None]] = {}
        self.latencies: dict[str, deque[float | None]] = {}
        self.events: list[Line] = []
        self.failure: SourceError | None = None
        self.failing_since = 0.0

    def take(self, news: Reading | SourceError) -> None:
        """Take the next reading, or the reason why there is none."""
        if isinstance(news, SourceError):
            if self.failure is None:
                self.failing_since = time.time()
            self.failure = news
            return
        self.failure = None
        self.reading = news
        for line in news.lines:
            self._add(line)
        if not news.fresh:
            return
        for trends in (self.rates, self.latencies):
            for name in trends.keys() - news.pipelines.keys():
                del trends[name]
        for name, each in news.pipelines.items():
            self.rates.setdefault(name, deque(maxlen=TREND)).append(each.rate)
            self.latencies.setdefault(name, deque(maxlen=TREND)).append(each.p99)

    def _add(self, line: Line) -> None:
        for at, old in enumerate(self.events):
            same = (old.kind, old.pipeline, old.policy) == (line.kind, line.pipeline, line.policy)
            if same and not line.is_change and line.at - old.at < TOGETHER:
                del self.events[at]
                line = replace(line, count=old.count + line.count)
                break
        self.events.append(line)
        del self.events[:-EVENTS]

    @property
    def has_rates(self) -> bool:
        """Whether the latest reading has rates; the first one of a source has none."""
        return self.reading is not None and any(each.rate is not None for each in self.reading.pipelines.values())
