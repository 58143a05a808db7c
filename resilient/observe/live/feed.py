"""The thread that reads the state of all pipelines while streams are open.

It is a thread, so that reading a thousand pipelines holds up no event loop, and that streams of several event loops
share one reading. It begins with the first stream and ends with the last one; only in between it listens to events, and
has durations of calls recorded.

It reads the state, and takes the new lines, each second, and a fifth of a second after a circuit has changed. When
reading takes long it reads less often: it is busy for at most a fifth of the time.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from resilient import events
from resilient._atomic import renew_in_forked_child
from resilient.observe.live.difference import difference
from resilient.observe.live.figures import Counts, figures, read_counts
from resilient.observe.live.lines import KINDS, EventLines
from resilient.observe.live.reader import Reader
from resilient.observe.live.reading import read_pipelines
from resilient.observe.metrics import record_durations
from resilient.runtime.clock import monotonic

__all__ = ["Feed", "split"]

_log = logging.getLogger("resilient")

FORMAT = 1
"""The number of the format of the state. It grows when a field changes its meaning."""

PAUSE = 0.2
"""Seconds between two looks of the thread: whether there are events, and whether streams are to end."""

TICK = 1.0
"""Seconds between two readings of the figures."""

BUSY = 5
"""Readings are this many times as far apart as one takes."""

PIPELINES = 25
"""The most pipelines of one message: a page takes in one message after the other, and shows a frame in between."""

LINES = 200
"""The latest lines that a new page gets."""


class Feed:
    """The state, and the streams that get it.

    Args:
        controls: whether pages may have buttons; it is part of the state.
    """

    def __init__(self, controls: bool) -> None:
        self._controls = controls
        self._tick = 0
        self._number = 0
        self._lines: deque[dict[str, Any]] = deque(maxlen=LINES)
        self._parts: dict[Any, bytes] = {}
        self._stop: Callable[[], None] = _nothing
        self.renew()
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: no stream is open, and the thread is the parent's."""
        self._lock = threading.Condition(threading.RLock())
        """Notified when a stream comes or goes."""
        self._readers: set[Reader] = set()
        self._thread: threading.Thread | None = None
        self._reading: _Reading | None = None
        self._stop()
        self._stop = _nothing

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return len(self._readers)

    @property
    def runs(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None

    def join(self, reader: Reader) -> None:
        """Add a stream, and start the thread if it is the first one."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="resilient-live", daemon=True)
                thread.start()  # it looks at the streams only when this lock is free
                self._thread = thread
            self._readers.add(reader)
            self._lock.notify_all()

    def leave(self, reader: Reader) -> None:
        """Remove a stream that has ended."""
        with self._lock:
            self._readers.discard(reader)
            self._lock.notify_all()

    def end_streams(self) -> None:
        """End all streams."""
        for reader in self._open():
            reader.end()

    def state(self) -> dict[str, Any]:
        """Read the state once; with rates only while the thread runs."""
        reading = self._reading
        if reading is not None:
            return self._with_figures(read_pipelines(), reading.figures)
        return self._with_figures(
            read_pipelines(), {name: figures(None, now, 0) for name, now in read_counts().items()}
        )

    def _open(self) -> list[Reader]:
        with self._lock:
            return list(self._readers)

    def _with_figures(self, pipelines: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        for name, each in pipelines.items():
            if name in found:
                each["figures"] = found[name]
        return {
            "format": FORMAT,
            "pid": os.getpid(),
            "at": round(time.time(), 2),
            "controls": self._controls,
            "tick": self._tick,
            "pipelines": pipelines,
        }

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        lines = EventLines()
        stops = [events.listen(lines, *KINDS), record_durations()]

        def stop() -> None:
            while stops:
                stops.pop()()

        self._stop = stop
        self._reading = reading = _Reading(self)
        try:
            while True:
                with self._lock:
                    seen = set(self._readers)
                    if not seen:
                        stop()
                        self._thread = self._reading = None
                        return
                try:
                    self._look(reading, lines)
                except Exception:  # a defect here must not end the streams silently
                    _log.exception("resilient: the live page could not read the state")
                    time.sleep(TICK)
                with self._lock:
                    if self._readers == seen:
                        self._lock.wait(PAUSE)
        finally:
            stop()

    def _look(self, reading: _Reading, lines: EventLines) -> None:
        """Look once: take new lines, read the state if it is time, and give both to the streams."""
        is_read = reading.read(lines.urgent)
        for line in lines.take() if is_read else ():
            self._number += 1
            self._lines.append({"number": self._number, **line})
        self._parts.clear()
        for reader in self._open():
            if reader.ends:
                reader.end()
            elif reader.is_free:
                part = self._part_for(reader, reading.state)
                if part:
                    reader.offer(part)

    def _part_for(self, reader: Reader, state: dict[str, Any]) -> bytes:
        """Make what a stream sends next, or b"" if its client has everything."""
        old, number = reader.state, reader.number
        reader.state, reader.number = state, self._number
        key = (id(old), number)  # most streams have the same state
        part = self._parts.get(key)
        if part is None:
            new = [line for line in self._lines if line["number"] > number]
            part = b""
            if old is None:
                first, *others = split(state)
                part = b"retry: 1000\n" + _message("state", first)
                part += b"".join(_message("change", each) for each in others)
            elif old is not state:
                part = b"".join(_message("change", each) for each in split(difference(old, state)))
            if new:
                part += _message("lines", new)
            self._parts[key] = part
        return part


class _Reading:
    """The latest state that the thread has read.

    Attributes:
        state: the state. It is replaced, never changed.
        figures: the figures of each pipeline in it.
    """

    state: dict[str, Any]

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._counts: dict[str, Counts] | None = None
        self.figures: dict[str, Any] = {}
        self._counted_at = self._read_at = -TICK
        self._took = 0.0
        self._changed = True

    def read(self, changed: bool) -> bool:
        """Read the state again if it is time, and return whether. `changed`: whether a circuit has changed."""
        self._changed = self._changed or changed
        began = monotonic()
        is_tick = self._counts is None or began - self._counted_at >= max(TICK, BUSY * self._took)
        if not is_tick and not (self._changed and began - self._read_at >= BUSY * self._took):
            return False
        self._changed = False
        if is_tick:
            counts, before = read_counts(), self._counts
            seconds = began - self._counted_at
            self.figures = {
                name: figures(None if before is None else before.get(name, Counts()), now, seconds)
                for name, now in counts.items()
            }
            self._counts, self._counted_at = counts, began
            self._feed._tick += 1
        self.state = self._feed._with_figures(read_pipelines(), self.figures)
        self._read_at = monotonic()
        self._took = self._read_at - began
        return True


def _nothing() -> None:
    """Stop nothing: while the thread does not run, nothing listens."""


def split(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a state, or a change, in parts of at most `PIPELINES` pipelines. The new number of a tick is in the last
    part, because it says that all figures are new."""
    names = list(state.get("pipelines", ()))
    if len(names) <= PIPELINES:
        return [state]
    groups = [names[at : at + PIPELINES] for at in range(0, len(names), PIPELINES)]
    parts = [{"pipelines": {name: state["pipelines"][name] for name in group}} for group in groups]
    tick = {"tick": state["tick"]} if "tick" in state else {}
    parts[0] = {**state, **parts[0]}
    if "format" not in state:
        parts[0].pop("tick", None)
        parts[-1] |= tick
    return parts


def _message(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
