"""A trace: a compact record of real calls in a file, to be read or replayed (`resilient simulate --trace FILE`).

    recording = record_trace("users.trace.gz", users)    # without a pipeline: of all of them
    ...
    recording.close()                                    # or `with record_trace(...):`

JSON Lines, gzipped where the name ends in ".gz"; the first line is the header, the last line says that it is complete:

    {"trace": 2, "began": "2026-11-24T16:41:59.250+00:00"}
    {"t": 0.0, "s": 1.0, "try": 1, "e": "OSError", "zero": 3.5}       an attempt: begin, seconds, number, error
    {"kind": "app:Busy", "is": ["app:Refused", "OSError"]}            the first error of a class: its base classes
    {"t": 0.1, "s": 0.1, "try": 1, "e": "app:Busy", "has": {"status": 503}}     with facts for a classifier
    {"t": 0.5, "s": 0.1, "try": 1, "e": "app:NotFound", "says": "nothing"}    which is ignored by the classifier
    {"t": 2.0, "s": 0.03, "try": 2, "k": "eu-1", "p": "users"}        with its key, and the name of its pipeline
    {"t": 0.0, "s": 2.03, "n": 2, "end": "success"}                   a call: begin, seconds, requests, how it ended
    {"t": 7.0, "would": "refuse", "by": "RateLimit"}                  what a policy in shadow mode would have done
    {"end": "closed", "dropped": 0}

It contains no argument, no result and no message of an error; a key only if you give a function that makes one. An
error is the `module:Qualified.Name` of its class, and a few numbers and codes (`resilient.observe.evidence`).

Begins count from the first event, which came `zero` seconds after `began`. So recordings of several processes, or of
one after the other, can be read as one: `read_trace(a, b)`, or one file that has them one after the other.

Calls never wait for a recording: lines are put into a buffer, and a thread writes them. When the buffer is full (the
disk is slower than the calls), lines are dropped and counted; when the file has reached `max_bytes`, or the disk is
full, the recording ends, which is logged once. Calls go on in any case. A file belongs to one process: start the
recording after a fork, not before.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from resilient import _validation, events
from resilient._atomic import Wake, renew_in_forked_child
from resilient.core.call import name_of
from resilient.core.current_call import enclosing
from resilient.errors import leaves
from resilient.events import Event
from resilient.observe import evidence
from resilient.observe.trace_file import VERSION, opened, read_trace
from resilient.observe.trace_records import Trace, TracedAttempt, TracedCall, TraceError, WouldHave
from resilient.pipeline import Pipeline

__all__ = [
    "Recording",
    "Trace",
    "TraceError",
    "TracedAttempt",
    "TracedCall",
    "WouldHave",
    "read_trace",
    "record_trace",
]

_log = logging.getLogger("resilient")

BATCH = 1_000
"""Waiting lines that wake the writer before its interval is over."""

MOST_KINDS = 1_000
"""The most classes of errors that a trace describes."""

LONGEST_KEY = 200
"""The most characters of a key."""


def record_trace(
    path: str | Path,
    *pipelines: Pipeline,
    key: Callable[..., Hashable] | None = None,
    buffer: int = 100_000,
    max_bytes: int = 100 * 2**20,
    interval: float = 0.5,
) -> Recording:
    """Write a record of the calls of these pipelines (without any: of all pipelines, later ones too) to a new file.

    Args:
        path: of the file, which is overwritten; gzipped if it ends in ".gz".
        key: returns the key of a call by its arguments, as for `Keyed`: `lambda host, *rest: host`. It is written to
            the file as text, so it should not be a secret. Default: no keys, and nothing of the arguments.
        buffer: the most lines that wait to be written; further ones are dropped.
        max_bytes: the most bytes of the file, uncompressed. Default 100 MiB, about a million lines.
        interval: seconds between two writes; a crash loses no more than that.

    Raises `OSError` when the file cannot be made. A later error is in `Recording.error`.
    """
    for pipeline in pipelines:
        if not isinstance(pipeline, Pipeline):
            raise TypeError(f"pipelines must be Pipelines, got {pipeline!r}")
    recording = Recording(path, key=key, buffer=buffer, max_bytes=max_bytes, interval=interval)
    listens = [pipeline.listen for pipeline in dict.fromkeys(pipelines)] or [events.listen]
    # `AttemptStarted` has no line, but times count from the first event, which it often is.
    kinds: list[type[Event]] = [events.AttemptStarted, *_LINES]
    recording._stops = [listen(recording, *kinds) for listen in listens]
    return recording


class Recording:
    """A trace that is being written: the listener behind `record_trace`.

    Attributes:
        path: of the file.
        written: lines in it. dropped: lines that were not written.
        error: why the recording has ended before `close()`, or None.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        key: Callable[..., Hashable] | None = None,
        buffer: int = 100_000,
        max_bytes: int = 100 * 2**20,
        interval: float = 0.5,
    ) -> None:
        self.path = Path(path)
        self._key = None if key is None else _validation.callback("key", key)
        self._room = _validation.count("buffer", buffer)
        self._bytes_left = _validation.count("max_bytes", max_bytes)
        self._interval = _validation.seconds("interval", interval)
        self.written = 0
        self.dropped = 0
        self.error: Exception | None = None
        self._origin: float | None = None
        self._zero: float | None = None
        self._opened_at = time.monotonic()
        self._introduced: set[str] = set()
        self._waiting: deque[dict[str, Any]] = deque()
        self._stops: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self._woken = Wake()
        self._closed = False
        self._file = opened(self.path, "wb")
        self._put({"trace": VERSION, "began": datetime.now(UTC).isoformat(timespec="milliseconds")})
        self._thread = threading.Thread(target=self._write, name="resilient trace", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: end the recording, because the parent writes the file. No line of the child gets into
        it."""
        self._lock = threading.RLock()
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for stop in self._stops:
            stop()
        self._waiting.clear()
        with open(os.devnull, "wb") as nowhere:  # at its exit the child flushes its copy of the parent's buffer there
            os.dup2(nowhere.fileno(), self._file.fileno())

    # -- events ---------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        if self._origin is None:
            self._zero = round(time.monotonic() - self._opened_at, 6)
            self._origin = event.at
        say = _LINES.get(type(event))
        line = None if say is None else say(event)
        if line is None:
            return
        line["t"] = round(line["t"] - self._origin, 6)
        if self._zero is not None:
            line["zero"], self._zero = self._zero, None
        if event.pipeline:
            line["p"] = event.pipeline
        if self._key is not None and "by" not in line:
            line["k"] = self._key_of(event, self._key)
        waiting = self._waiting
        if len(waiting) >= self._room or self._closed or self.error is not None:
            with self._lock:
                self.dropped += 1
            return
        if "e" in line and "try" in line and "cut" not in line:
            self._introduce(event.error)  # type: ignore[attr-defined]
        waiting.append(line)
        if len(waiting) == BATCH:
            self._woken.set()

    def _introduce(self, error: BaseException) -> None:
        """Write the base classes of each class of errors, when the first error of it comes."""
        for kind in {type(each) for each in (error, *leaves(error))}:
            name = evidence.qualified_name(kind)
            if name in self._introduced or len(self._introduced) >= MOST_KINDS:
                continue
            self._introduced.add(name)
            about: dict[str, Any] = {"kind": name, "is": evidence.lineage(kind)}
            if not evidence.is_findable(kind):
                about["local"] = True
            if evidence.module_of(kind) != "builtins":
                self._waiting.append(about)

    def _key_of(self, event: Event, key: Callable[..., Hashable]) -> str | None:
        """Return the key of the call of this event, from the arguments in the frames around the listener; None: the
        call has no key."""
        for call, context in enclosing(3):
            if context.name == event.pipeline and name_of(call.fn) == getattr(event, "function", None):
                if getattr(call.fn, "is_block", False):
                    return None
                try:
                    return str(key(*call.args, **call.kwargs))[:LONGEST_KEY]
                except Exception as error:
                    self._key = None
                    _log.warning("resilient: key of the trace %s raised %r: no more keys", self.path, error)
                    return None
        return None

    # -- the thread that writes -------------------------------------------------------------------------------------

    def _write(self) -> None:
        while not self._closed:
            self._woken.wait(self._interval)
            self._drain()

    def _drain(self) -> None:
        waiting = self._waiting
        if self.error is None:
            try:
                while waiting:
                    self._put(waiting[0])
                    waiting.popleft()
                self._file.flush()
            except (OSError, ValueError, _Full) as error:
                self._fail(error)
        while self.error is not None and waiting:
            waiting.popleft()
            with self._lock:
                self.dropped += 1

    def _put(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if len(data) > self._bytes_left:
            raise _Full("it has reached max_bytes")
        self._file.write(data)
        self._bytes_left -= len(data)
        self.written += 1

    def _fail(self, error: Exception) -> None:
        self.error = error
        _log.warning("resilient: the trace %s ends here: %s", self.path, error)

    def close(self) -> None:
        """Stop listening, write the waiting lines, and end the file. Raises nothing; see `error`. A second call has no
        effect."""
        for stop in self._stops:
            stop()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._woken.set()
        self._thread.join()
        self._drain()
        try:
            if self.error is None or isinstance(self.error, _Full):
                self._bytes_left = BATCH  # for the last line there is always room
                self._put({"end": "closed" if self.error is None else "full", "dropped": self.dropped})
            self._file.close()
        except (OSError, ValueError) as error:
            if self.error is None:
                self._fail(error)

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Full(Exception):
    """Raised by the writer when the file would become longer than `max_bytes`."""


def _call(event: events.CallEnded) -> dict[str, Any]:
    seconds = event.elapsed
    named = {} if event.error is None else {"e": evidence.qualified_name(type(event.error))}
    return {"t": event.at - seconds, "s": round(seconds, 6), "n": event.requests, "end": event.ending, **named}


def _attempt(event: events.AttemptReturned | events.AttemptFailed) -> dict[str, Any]:
    seconds = event.elapsed
    return {"t": event.at - seconds, "s": round(seconds, 6), "try": event.attempt}


def _returned(event: events.AttemptReturned) -> dict[str, Any]:
    line = _attempt(event)
    if event.failed:
        line["bad"] = True
        line |= evidence.as_json(evidence.evidence_of(event))  # the event has a status, as a response has
    return line


def _failed(event: events.AttemptFailed) -> dict[str, Any]:
    line, error = _attempt(event), event.error
    line["e"] = evidence.qualified_name(type(error))
    if not isinstance(error, Exception):
        line["cut"] = True
        return line
    line |= evidence.as_json(evidence.evidence_of(error))
    if event.verdict == "nothing":
        line["says"] = "nothing"
    return line


def _shadowed(what: str) -> Callable[[Any], dict[str, Any] | None]:
    def would(event: Any) -> dict[str, Any] | None:
        return {"t": event.at, "would": what, "by": event.policy} if event.shadow else None

    return would


def _refused(event: events.CallRejected) -> dict[str, Any] | None:
    what = "wait" if event.would_wait else "refuse"
    return _shadowed(what)(event)


_LINES: Mapping[type[Event], Callable[[Any], dict[str, Any] | None]] = {
    events.CallEnded: _call,
    events.AttemptReturned: _returned,
    events.AttemptFailed: _failed,
    events.Retrying: _shadowed("retry"),
    events.Hedging: _shadowed("hedge"),
    events.CallRejected: _refused,
}
"""Makes the line of an event, with a time that is not yet rounded; None: the event has no line."""
