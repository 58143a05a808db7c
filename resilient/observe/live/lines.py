"""Events as lines of the live page: the kinds that matter, and a bounded number of them.

A listener runs on the path of the call that failed, so it only counts here; texts are made by the feed's thread. Events
of one kind, policy and pipeline between two readings are one line with their count. Changes of circuits are lines one
by one.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from resilient import events
from resilient.events import Event
from resilient.observe.event_text import level_of, text_of

__all__ = ["KINDS", "EventLines"]

KINDS = (
    events.CircuitChanged,
    events.CallRejected,
    events.CallTimedOut,
    events.GaveUp,
    events.Retrying,
    events.Hedging,
    events.BudgetExhausted,
    events.FellBack,
    events.AbandonedEnded,
    events.LimitChanged,
    events.FaultInjected,
    events.ChaosHalted,
)
"""The kinds that are shown. No call that succeeds at once has one of them."""

URGENT = (events.CircuitChanged, events.ChaosHalted)
"""Kinds that are lines one by one, and that the page shows at once."""

MOST = 100
"""The most lines between two readings. Further events are only counted, in a line of their own."""


class EventLines:
    """A listener that collects lines until they are taken."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lines: dict[Any, list[Any]] = {}
        self._more = 0
        self.urgent = False
        """Whether there is a line that the page shows at once."""

    def __call__(self, event: Event) -> None:
        """Note one event, from any thread."""
        single = isinstance(event, URGENT)
        key = id(event) if single else (event.pipeline, getattr(event, "policy", ""), type(event))
        with self._lock:
            self.urgent = self.urgent or single
            line = self._lines.get(key)
            if line is not None:
                line[2] += 1
            elif len(self._lines) < MOST:
                self._lines[key] = [event, time.time(), 1]
            else:
                self._more += 1

    def take(self) -> list[dict[str, Any]]:
        """Return the lines since the last call, oldest first, as the stream has them, without their numbers."""
        with self._lock:
            noted, self._lines = self._lines, {}
            more, self._more = self._more, 0
            self.urgent = False
        lines = [_line(*each) for each in noted.values()]
        if more:
            lines.append(_fields(time.time(), "", "", "", "info", "more events than are shown", more))
        return lines


def _fields(at: float, pipeline: str, policy: str, kind: str, level: str, text: str, count: int) -> dict[str, Any]:
    return {
        "at": round(at, 3),
        "pipeline": pipeline,
        "policy": policy,
        "kind": kind,
        "level": level,
        "text": text,
        "count": count,
    }


def _line(event: Event, at: float, count: int) -> dict[str, Any]:
    policy = str(getattr(event, "policy", ""))
    try:
        text = text_of(event)
    except Exception as error:  # raised by a kind of event, or by an error's class, that is the user's
        text = f"{type(event).__name__}, whose text could not be made: {type(error).__name__}"
    text = text.removeprefix(f"{event.pipeline}: ").removeprefix(f"{policy}: ")
    level = "warning" if level_of(event) >= logging.WARNING else "info"
    return _fields(at, event.pipeline, policy, type(event).__name__, level, text, count)
