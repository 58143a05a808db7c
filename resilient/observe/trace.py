"""A trace: what real calls were like, in a compact file, to be read or replayed (`resilient simulate --trace FILE`).

    recording = record_trace("users.trace.gz", users)    # without a pipeline: of all of them
    ...
    recording.close()                                    # or `with record_trace(...):`

JSON Lines, gzipped where the name ends in ".gz"; the first line is the header, the last one says that it is complete:

    {"trace": 1, "began": "2026-11-24T16:41:59+00:00"}
    {"t": 0.0, "s": 1.0, "try": 1, "e": "OSError"}                    an attempt: begin, seconds, number, error
    {"t": 0.5, "s": 0.1, "try": 1, "e": "NotFound", "says": "nothing"}    which is ignored by the classifier
    {"t": 2.0, "s": 0.03, "try": 2, "k": "eu-1", "p": "users"}        with its key, and the name of its pipeline
    {"t": 0.0, "s": 2.03, "n": 2, "end": "success"}                   a call: begin, seconds, requests, how it ended
    {"t": 7.0, "would": "refuse", "by": "RateLimit"}                  what a policy in shadow mode would have done
    {"end": "closed", "dropped": 0}

No argument, no result and no message of an error is in it; a key only if you give a function that makes one.

Calls never wait for it: what happened is put into a buffer, and a thread writes it. When the buffer is full (the disk
is slower than the calls), lines are dropped and counted; when the file has reached `max_bytes`, or the disk is full, it
ends there, which is logged once. No call notices. A file belongs to one process: begin after a fork, not before.
"""

from __future__ import annotations

import atexit
import gzip
import json
import logging
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, cast, get_args

from resilient import arguments, events
from resilient.atomic import Wake
from resilient.call import name_of
from resilient.current import enclosing
from resilient.events import Ending, Event
from resilient.forks import renew_in_forked_child
from resilient.pipeline import Pipeline

__all__ = ["Recording", "Trace", "TraceError", "TracedAttempt", "TracedCall", "WouldHave", "read_trace", "record_trace"]

_log = logging.getLogger("resilient")

BATCH = 1_000
"""Lines that wake the writer before its time."""

LONGEST_KEY = 200
"""Characters of a key."""

LONGEST_LINE = 65_536
"""Bytes of a line that is read: what was written is far shorter, and a file may come from anybody."""

BY_SHADOW = "would have made it wait"
"""How the reason ends that a gate in shadow mode gives where it would have had a call wait (`resilient.frame`)."""


def record_trace(
    path: str | Path,
    *pipelines: Pipeline,
    key: Callable[..., Hashable] | None = None,
    buffer: int = 100_000,
    max_bytes: int = 100 * 2**20,
    interval: float = 0.5,
) -> Recording:
    """Write what the calls of these pipelines are like (without any: of all there are and will be) to a new file.

    Args:
        path: where to; overwritten. Gzipped if it ends in ".gz".
        key: the key of a call by its arguments, as `Keyed` has it: `lambda host, *rest: host`. It is written to the
            file as text, so it should be no secret. Default: no keys, nothing of the arguments.
        buffer: so many lines may wait to be written; more are dropped.
        max_bytes: how long the file may become, before it is compressed. Default 100 MiB, about a million lines.
        interval: seconds between two writes; a crash costs no more.

    Raises `OSError` when the file cannot be made. What goes wrong later is in `Recording.error`.
    """
    for pipeline in pipelines:
        if not isinstance(pipeline, Pipeline):
            raise TypeError(f"pipelines must be Pipelines, got {pipeline!r}")
    recording = Recording(path, key=key, buffer=buffer, max_bytes=max_bytes, interval=interval)
    listens = [pipeline.listen for pipeline in dict.fromkeys(pipelines)] or [events.listen]
    recording._stops = [listen(recording) for listen in listens]
    return recording


class Recording:
    """A trace that is being written; the listener behind `record_trace`.

    Attributes:
        path: of the file.
        written: lines in it. dropped: lines that are not in it, but should be.
        error: why nothing more is written, or None.
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
        self._key = None if key is None else arguments.callback("key", key)
        self._room = arguments.count("buffer", buffer)
        self._bytes_left = arguments.count("max_bytes", max_bytes)
        self._interval = arguments.seconds("interval", interval)
        self.written = 0
        self.dropped = 0
        self.error: Exception | None = None
        self._origin: float | None = None
        self._waiting: deque[dict[str, Any]] = deque()
        self._stops: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self._woken = Wake()
        self._closed = False
        self._file = _opened(self.path, "wb")
        self._put({"trace": 1, "began": datetime.now(UTC).isoformat(timespec="seconds")})
        self._thread = threading.Thread(target=self._write, name="resilient trace", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        renew_in_forked_child(self)

    def renew(self) -> None:
        """In a forked child: the file is the parent's, who writes it; nothing of the child's gets into it."""
        self._lock = threading.RLock()
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for stop in self._stops:
            stop()
        self._waiting.clear()
        with open(
            os.devnull, "wb"
        ) as nowhere:  # where the end of this process writes what the parent had in its buffer
            os.dup2(nowhere.fileno(), self._file.fileno())

    # -- what happens ---------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        if self._origin is None:
            self._origin = event.at
        line = _line(event)
        if line is None:
            return
        line["t"] = round(line["t"] - self._origin, 6)
        if event.pipeline:
            line["p"] = event.pipeline
        if self._key is not None and "by" not in line:
            line["k"] = self._key_of(event, self._key)
        waiting = self._waiting
        if len(waiting) >= self._room or self._closed or self.error is not None:
            with self._lock:
                self.dropped += 1
            return
        waiting.append(line)
        if len(waiting) == BATCH:
            self._woken.set()

    def _key_of(self, event: Event, key: Callable[..., Hashable]) -> str | None:
        """The key of the call that tells of this event, from the arguments of the frames that it is in."""
        for call, scope in enclosing(3):
            if scope.name == event.pipeline and name_of(call.fn) == getattr(event, "function", None):
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
            raise _Full("it has the bytes that it may have")
        self._file.write(data)
        self._bytes_left -= len(data)
        self.written += 1

    def _fail(self, error: Exception) -> None:
        self.error = error
        _log.warning("resilient: the trace %s ends here: %s", self.path, error)

    def close(self) -> None:
        """Listen no more, write what waits, and end the file. Raises nothing; see `error`. Twice does no harm."""
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
                self._bytes_left = BATCH  # there is always room for the end
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
    """The file is as long as it may become."""


def _line(event: Event) -> dict[str, Any] | None:
    """What the file shall say of an event, with times not yet rounded; None: nothing."""
    line: dict[str, Any]
    match event:
        case events.CallEnded():
            line = {"t": event.at - event.elapsed, "s": event.elapsed, "n": event.requests, "end": event.ending}
            error = event.error
        case events.AttemptReturned():
            line = {"t": event.at - event.elapsed, "s": event.elapsed, "try": event.attempt}
            error = None
            if event.failed:
                line["bad"] = True
        case events.AttemptFailed():
            line = {"t": event.at - event.elapsed, "s": event.elapsed, "try": event.attempt}
            error = event.error
            if not isinstance(error, Exception):
                line["cut"] = True
            elif event.verdict == "nothing":
                line["says"] = "nothing"
        case events.Retrying(shadow=True):
            return {"t": event.at, "would": "retry", "by": event.policy}
        case events.Hedging(shadow=True):
            return {"t": event.at, "would": "hedge", "by": event.policy}
        case events.CallRejected(shadow=True):
            would = "wait" if event.reason.endswith(BY_SHADOW) else "refuse"
            return {"t": event.at, "would": would, "by": event.policy}
        case _:
            return None
    line["s"] = round(line["s"], 6)
    if error is not None:
        line["e"] = type(error).__name__
    return line


# -- reading --------------------------------------------------------------------------------------------------------


class TraceError(ValueError):
    """A file that is no trace. The message is one line that says where and why."""


@dataclass(frozen=True, slots=True)
class TracedCall:
    """A call: when it began (seconds from the first one), how long it took, what it cost, how it ended (as in
    `resilient.events.CallEnded`), with which type of error, of which pipeline, for which key."""

    begin: float
    seconds: float
    requests: int
    ending: str
    error: str | None = None
    pipeline: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TracedAttempt:
    """A call of the function itself.

    `failed`: it raised, or returned what is judged a failure (then `error` is None). `cut`: it was cancelled, so its
    latency would have been longer, and nobody knows how it would have ended. `ignored`: it raised what is judged to say
    nothing about the dependency.
    """

    begin: float
    seconds: float
    number: int
    error: str | None = None
    failed: bool = False
    cut: bool = False
    pipeline: str = ""
    key: str | None = None
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class WouldHave:
    """What a policy in shadow mode would have done: "retry", "hedge", "refuse" or "wait"."""

    at: float
    what: str
    policy: str
    pipeline: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is in a file.

    Attributes:
        began: when recording began, as it says itself.
        calls, attempts, shadows: in the order of their begin.
        dropped: lines that were not written. complete: it was closed, and neither cut off nor full.
    """

    began: str
    calls: list[TracedCall] = field(default_factory=list)
    attempts: list[TracedAttempt] = field(default_factory=list)
    shadows: list[WouldHave] = field(default_factory=list)
    dropped: int = 0
    complete: bool = False

    @property
    def pipelines(self) -> list[str]:
        """The names of those whose calls are in it."""
        return sorted({call.pipeline for call in self.calls})

    def of(self, pipeline: str) -> Trace:
        """What is in it of one pipeline."""
        return Trace(
            self.began,
            [each for each in self.calls if each.pipeline == pipeline],
            [each for each in self.attempts if each.pipeline == pipeline],
            [each for each in self.shadows if each.pipeline == pipeline],
            self.dropped,
            self.complete,
        )


def read_trace(path: str | Path) -> Trace:
    """Read a trace. One that breaks off (a crash, a full disk) is read as far as it goes.

    Raises `TraceError` for what is no trace, and `OSError` for what cannot be read.
    """
    lines = _lines(Path(path))
    header = next(lines, None)
    if header is None or header.get("trace") != 1:
        raise TraceError(f'{path} is no trace: its first line must be {{"trace": 1, ...}}')
    calls, attempts, shadows, dropped, complete = [], [], [], 0, False
    number = 1
    for number, line in enumerate(lines, 2):
        try:
            if "try" in line:
                attempts.append(_attempt(line))
            elif "n" in line:
                calls.append(_call(line))
            elif "would" in line:
                what, policy = str(line["would"]), str(line["by"])
                shadows.append(WouldHave(_time(line["t"]), what, policy, _text(line, "p") or ""))
            elif "end" in line:
                dropped, complete = arguments.count("dropped", line.get("dropped", 0), least=0), line["end"] == "closed"
            else:
                raise ValueError("it is neither an attempt, nor a call, nor the end")
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise TraceError(f"{path}, line {number}: {what[:200]}") from None
    began = min([each.begin for each in calls] + [each.begin for each in attempts], default=0.0)
    return Trace(
        str(header.get("began", "")),
        sorted((replace(each, begin=each.begin - began) for each in calls), key=lambda each: each.begin),
        sorted((replace(each, begin=each.begin - began) for each in attempts), key=lambda each: each.begin),
        sorted((replace(each, at=each.at - began) for each in shadows), key=lambda each: each.at),
        dropped,
        complete,
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines as tables. A last one that is torn, or a compressed end that is missing, ends them."""
    with _opened(path, "rb") as file:
        number = 0
        while True:
            try:
                text = file.readline(LONGEST_LINE)
            except (EOFError, zlib.error):
                return
            except gzip.BadGzipFile:
                raise TraceError(f"{path} is not gzipped, though its name ends in .gz") from None
            if not text.endswith(b"\n") and len(text) < LONGEST_LINE:
                return
            number += 1
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if not isinstance(line, dict):
                raise TraceError(f"{path}, line {number}: it must be a JSON object, got {text[:60]!r}")
            yield line


def _opened(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, mode, 6)) if path.name.endswith(".gz") else path.open(mode)


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise ValueError(f"t must be a finite number of seconds, got {value!r}")
    return float(value)


def _text(line: dict[str, Any], field: str) -> str | None:
    value = line.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {value!r}")
    return value


def _call(line: dict[str, Any]) -> TracedCall:
    ending = line["end"]
    if ending not in get_args(Ending):
        raise ValueError(f"end must be one of {', '.join(get_args(Ending))}, got {ending!r}")
    begin, seconds = _time(line["t"]), arguments.seconds("s", line["s"], zero=True)
    requests = arguments.count("n", line["n"], least=0)
    return TracedCall(begin, seconds, requests, ending, _text(line, "e"), _text(line, "p") or "", _text(line, "k"))


def _attempt(line: dict[str, Any]) -> TracedAttempt:
    cut, error = bool(line.get("cut", False)), _text(line, "e")
    failed = not cut and (error is not None or bool(line.get("bad", False)))
    begin, seconds = _time(line["t"]), arguments.seconds("s", line["s"], zero=True)
    number = arguments.count("try", line["try"])
    ignored = line.get("says") == "nothing"
    key, pipeline = _text(line, "k"), _text(line, "p") or ""
    return TracedAttempt(begin, seconds, number, error, failed, cut, pipeline, key, ignored)
