"""Reads the files that `resilient.observe.trace` writes.

A file may come from anywhere: it is read, or refused with a `TraceError`, one line that names the file, the line and
the value. Nothing in it is imported or run. The memory that it takes is bounded by `max_bytes` of its text: a call or
an attempt takes about 200 bytes, so the shortest lines take eight times their text.

Files (or parts of one file, each with a header) are put together by the time at which their recordings began; a
difference between the clocks of two machines stays. Files of version 1 have names of errors without their modules
("ConnectError"), no evidence, and a begin in whole seconds.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast, get_args

from resilient import _validation
from resilient.events.records import CallEnding
from resilient.observe.evidence import LONGEST_LINEAGE, evidence_from
from resilient.observe.trace_records import Trace, TracedAttempt, TracedCall, TracedKind, TraceError, WouldHave

__all__ = ["MAX_BYTES", "VERSION", "opened", "read_trace"]

V = TypeVar("V")

VERSION = 2
"""The version of the format that is written."""

LONGEST_LINE = 65_536
"""The most bytes of a line that is read. Written lines are far shorter, but a file may come from anywhere."""

LONGEST_TIME = 1e9
"""The greatest time in seconds: no recording lasts thirty years."""

MOST = 10**9
"""The greatest whole number in a line."""

MAX_BYTES = 128 * 2**20
"""The most bytes of text that are read by default: more than a recording writes by default."""

WOULD = ("retry", "hedge", "refuse", "wait")
"""The actions that a policy in shadow mode would have taken, as they stand in a line."""


def read_trace(path: str | Path, *more: str | Path, max_bytes: int = MAX_BYTES) -> Trace:
    """Read a trace. A file that breaks off (a crash, a full disk) is read as far as it goes.

    Args:
        path, more: files; several are put together, as those of several workers.
        max_bytes: the most bytes of uncompressed text in all of them. Default 128 MiB; it may take eight times as much
            memory.

    Raises `TraceError` for a file that is no trace, and `OSError` for one that cannot be read.
    """
    reader = _Reader(_validation.count("max_bytes", max_bytes))
    for each in (path, *more):
        reader.read(Path(each))
    return reader.trace()


class _Reader:
    """Collects the lines of several files into one trace."""

    def __init__(self, max_bytes: int) -> None:
        self.left = self.max_bytes = max_bytes
        self.calls: list[TracedCall] = []
        self.attempts: list[TracedAttempt] = []
        self.shadows: list[WouldHave] = []
        self.kinds: dict[str, TracedKind] = {}
        self.recordings: list[_Recording] = []
        self.same: dict[Any, Any] = {}

    def read(self, path: Path) -> None:
        """Read the lines of a file. Raises `TraceError`."""
        lines = self._lines(path)
        number, line = 1, next(lines, None)
        if line is None or "trace" not in line:
            raise TraceError(f'{path} is no trace: its first line must be {{"trace": {VERSION}, ...}}')
        while line is not None:
            try:
                self._take(line)
            except (KeyError, TypeError, ValueError) as error:
                what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
                raise TraceError(f"{path}, line {number}: {what[:200]}") from None
            number, line = number + 1, next(lines, None)

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the lines of a file as tables. An incomplete last line, or a compressed file without its end, ends
        them."""
        with opened(path, "rb") as file:
            number = 0
            while True:
                try:
                    text = file.readline(LONGEST_LINE)
                except EOFError:
                    return
                except (gzip.BadGzipFile, zlib.error) as error:
                    if not number:
                        raise TraceError(f"{path} is not gzipped, though its name ends in .gz") from None
                    raise TraceError(f"{path}, line {number + 1}: the compressed data is damaged: {error}") from None
                if not text.endswith(b"\n") and len(text) < LONGEST_LINE:
                    return
                number += 1
                self.left -= len(text)
                if self.left < 0:
                    most = f"{self.max_bytes:,} bytes of uncompressed text"
                    raise TraceError(
                        f"{path}, line {number}: more than {most}: --max-trace-bytes (max_bytes=) raises the limit"
                    )
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    line = None
                if not isinstance(line, dict):
                    raise TraceError(f"{path}, line {number}: it must be a JSON object, got {text[:60]!r}")
                yield line

    def _take(self, line: dict[str, Any]) -> None:
        if "trace" in line:
            self._begin(line)
        elif "try" in line:
            self.attempts.append(self._attempt(line))
        elif "n" in line:
            self.calls.append(self._call(line))
        elif "would" in line:
            self.shadows.append(self._shadow(line))
        elif "kind" in line:
            self.kinds.setdefault(_text("kind", line["kind"]), _kind(line))
        elif "end" in line:
            self.recordings[-1].dropped = _count("dropped", line.get("dropped", 0))
            self.recordings[-1].closed = line["end"] == "closed"
        else:
            raise ValueError("it is neither an attempt, nor a call, nor the end")
        if "zero" in line:
            self.recordings[-1].zero = _seconds("zero", line["zero"])

    def _begin(self, line: dict[str, Any]) -> None:
        version, began = line["trace"], line.get("began", "")
        if isinstance(version, int) and version > VERSION:
            raise ValueError(f"it is of version {version}, newer than what this resilient reads (1 to {VERSION})")
        if version not in range(1, VERSION + 1) or isinstance(version, bool | float):
            raise ValueError(f"trace must be its version (1 to {VERSION}), got {version!r}")
        if not isinstance(began, str):
            raise ValueError(f"began must be a text, got {began!r}")
        new = _Recording(began, (len(self.calls), len(self.attempts), len(self.shadows)))
        self.recordings.append(new)
        if len(self.recordings) > 1 and None in (new.at, self.recordings[0].at):
            wrong = began if new.at is None else self.recordings[0].began
            raise ValueError(f"began must be a date and time to put recordings together by, got {wrong!r}")
        if abs(self._late(new)) > LONGEST_TIME:
            raise ValueError(f"began must be within thirty years of {self.recordings[0].began}, got {began}")

    def _late(self, recording: _Recording) -> float:
        """Return the seconds by which times of a recording are shifted, so that they count from the begin of the first
        recording."""
        first = self.recordings[0]
        if recording is first or recording.at is None or first.at is None:
            return 0.0
        return (recording.at - first.at).total_seconds() + recording.zero - first.zero

    def trace(self) -> Trace:
        """Return the whole trace, in order. Times count from the first call or attempt."""
        lists: tuple[list[Any], ...] = (self.calls, self.attempts, self.shadows)
        ends = [*(each.first for each in self.recordings[1:]), tuple(map(len, lists))]
        spans = [(each, list(map(range, each.first, end))) for each, end in zip(self.recordings, ends, strict=True)]
        begins = (
            _moment(lists[place][at]) + self._late(recording)
            for recording, ranges in spans
            for place in (0, 1)
            for at in ranges[place]
        )
        began = min(begins, default=0.0)
        for recording, ranges in spans:
            by = self._late(recording) - began
            for items, where in zip(lists, ranges, strict=True) if by else ():
                _shift(items, where, by)
        for items in lists:
            items.sort(key=_moment)
        return Trace(
            min(self.recordings, key=self._late).began,
            self.calls,
            self.attempts,
            self.shadows,
            sum(each.dropped for each in self.recordings),
            all(each.closed for each in self.recordings),
            self.kinds,
        )

    def _one(self, value: V) -> V:
        """Return the first value that is equal: names, keys and evidence are repeated in many lines."""
        return self.same.setdefault(value, value)  # type: ignore[no-any-return]

    def _field(self, line: dict[str, Any], field: str) -> str | None:
        value = line.get(field)
        return None if value is None else self._one(_text(field, value))

    def _call(self, line: dict[str, Any]) -> TracedCall:
        ending = line["end"]
        if ending not in get_args(CallEnding):
            raise ValueError(f"end must be one of {', '.join(get_args(CallEnding))}, got {ending!r}")
        return TracedCall(
            _time(line["t"]),
            _seconds("s", line["s"]),
            _count("n", line["n"]),
            self._one(ending),
            self._field(line, "e"),
            self._field(line, "p") or "",
            self._field(line, "k"),
        )

    def _attempt(self, line: dict[str, Any]) -> TracedAttempt:
        cut, error = _flag(line, "cut"), self._field(line, "e")
        found = evidence_from(line)
        return TracedAttempt(
            _time(line["t"]),
            _seconds("s", line["s"]),
            _count("try", line["try"], least=1),
            error,
            not cut and (error is not None or _flag(line, "bad")),
            cut,
            self._field(line, "p") or "",
            self._field(line, "k"),
            line.get("says") == "nothing",
            None if found is None else self._one(found),
        )

    def _shadow(self, line: dict[str, Any]) -> WouldHave:
        if line["would"] not in WOULD:
            raise ValueError(f"would must be one of {', '.join(WOULD)}, got {line['would']!r}")
        policy = self._one(_text("by", line["by"]))
        return WouldHave(_time(line["t"]), self._one(line["would"]), policy, self._field(line, "p") or "")


@dataclass(slots=True)
class _Recording:
    """One recording of those that are read: its header, and where its lines begin in the lists of calls, attempts and
    shadows."""

    began: str
    first: tuple[int, ...]
    zero: float = 0.0
    dropped: int = 0
    closed: bool = False
    at: datetime | None = None

    def __post_init__(self) -> None:
        try:
            at = datetime.fromisoformat(self.began)
        except ValueError:
            return
        self.at = at if at.tzinfo else at.replace(tzinfo=UTC)


def _moment(each: Any) -> float:
    moment: float = each.at if isinstance(each, WouldHave) else each.begin
    return moment


def _shift(items: list[Any], where: range, by: float) -> None:
    """Add `by` seconds to the times of the items at these places, one by one, so that memory never holds all of them
    twice."""
    for at in where:
        name = "at" if isinstance(items[at], WouldHave) else "begin"
        items[at] = replace(items[at], **{name: round(_moment(items[at]) + by, 6)})


def opened(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    """Open the file of a trace: compressed if its name ends in ".gz"."""
    return cast("IO[bytes]", gzip.open(path, mode, 6)) if path.name.endswith(".gz") else path.open(mode)


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LONGEST_TIME:
        raise ValueError(f"t must be a number of seconds up to {LONGEST_TIME:g}, got {value!r}")
    return float(value)


def _seconds(field: str, value: Any) -> float:
    seconds = _validation.seconds(field, value, zero=True)
    if seconds > LONGEST_TIME:
        raise ValueError(f"{field} must be a number of seconds up to {LONGEST_TIME:g}, got {value!r}")
    return seconds


def _count(field: str, value: Any, *, least: int = 0) -> int:
    number = _validation.count(field, value, least=least)
    if number > MOST:
        raise ValueError(f"{field} must be at most {MOST:,}, got {value!r}")
    return number


def _flag(line: dict[str, Any], field: str) -> bool:
    return _validation.flag(field, line.get(field, False))


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a text, got {value!r}")
    return value


def _kind(line: dict[str, Any]) -> TracedKind:
    above = line.get("is", [])
    if not isinstance(above, list) or len(above) > LONGEST_LINEAGE:
        raise ValueError(f"is must be a list of up to {LONGEST_LINEAGE} names, got {above!r}")
    return TracedKind(tuple(_text("is", each) for each in above), _flag(line, "local"))
