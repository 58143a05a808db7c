"""Reading a trace: written records are read back, several recordings are joined, a bad file is an error of one line."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from resilient import Pipeline, Retry
from resilient.events import AttemptStarted, CallEnded
from resilient.observe.trace import TraceError, read_trace, record_trace
from resilient.observe.trace_file import LONGEST_LINE
from resilient.testing import Dependency, run
from tests.observe.mutations import mutated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.trace"


def calls_of(pipeline: Pipeline, *steps: Any) -> None:
    """Make a call for each step, in virtual time, one after the other."""
    guarded = pipeline(Dependency(*steps))

    async def main() -> None:
        for _ in steps:
            try:
                await guarded()
            except Exception:
                pass

    run(main())


def recording(*lines: dict[str, Any], began: str = "2026-11-30T12:00:00+00:00", **header: Any) -> str:
    """Return the text of a recording with these lines."""
    whole = [{"trace": 2, "began": began, **header}, *lines, {"end": "closed", "dropped": 1}]
    return "".join(json.dumps(line) + "\n" for line in whole)


def call(at: float, **more: Any) -> dict[str, Any]:
    """Return a line of a call."""
    return {"t": at, "s": 0.5, "n": 1, "end": "success", **more}


def test_gzipped_trace_is_read_alike(tmp_path: Path) -> None:
    """A name that ends in .gz is what tells the two apart."""
    pipeline = Pipeline(Retry(attempts=2, wait=1))
    plain, zipped = tmp_path / "a.trace", tmp_path / "a.trace.gz"
    for file in (plain, zipped):
        with record_trace(file, pipeline):
            calls_of(pipeline, 6, 7)
    assert read_trace(plain).calls == read_trace(zipped).calls
    assert gzip.decompress(zipped.read_bytes()).decode().splitlines()[2:] == plain.read_text().splitlines()[2:]


@pytest.mark.parametrize("name", ["torn.trace", "torn.trace.gz"])
def test_torn_trace_is_read_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    """A crash in mid-line, or in mid-block."""
    path = tmp_path / name
    pipeline = Pipeline(Retry())
    with record_trace(path, pipeline):
        calls_of(pipeline, *range(500))
    path.write_bytes(path.read_bytes()[:-60])
    found = read_trace(path)
    assert 1 < len(found.calls) <= 500
    assert not found.complete


HEADER = '{"trace": 1}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no trace: its first line must be"),
        ("hello\n", "line 1: it must be a JSON object, got b'hello"),
        ('{"trace": 3}\n', r"line 1: it is of version 3, newer than what this resilient reads \(1 to 2\)$"),
        ('{"trace": true}\n', r"line 1: trace must be its version \(1 to 2\), got True$"),
        ('{"trace": 0}\n', r"line 1: trace must be its version \(1 to 2\), got 0$"),
        ('{"trace": [2]}\n', r"line 1: trace must be its version \(1 to 2\), got \[2\]$"),
        ('{"trace": 2, "began": 1}\n', "line 1: began must be a text, got 1$"),
        ('{"t": 1, "s": 1, "try": 1}\n', "is no trace: its first line must be"),
        (HEADER + "[1]\n", "line 2: it must be a JSON object"),
        (HEADER + '{"x": 1}\n', "line 2: it is neither an attempt, nor a call, nor the end"),
        (HEADER + '{"t": 1, "s": 1, "n": 1}\n', "line 2: 'end' is missing"),
        (HEADER + '{"t": 1, "s": 1, "n": 1, "end": "well"}\n', "line 2: end must be one of success, .* got 'well'"),
        (HEADER + '{"t": "1", "s": 1, "try": 1}\n', "line 2: t must be a number of seconds up to 1e.09, got '1'"),
        (HEADER + '{"t": NaN, "s": 1, "try": 1}\n', "line 2: t must be a number of seconds up to 1e.09, got nan"),
        (HEADER + '{"t": 1, "s": -1, "try": 1}\n', "line 2: s must be a finite number of seconds >= 0, got -1"),
        (HEADER + '{"t": 1, "s": 1, "try": 0}\n', "line 2: try must be a whole number >= 1, got 0"),
        (HEADER + '{"t": 1, "s": 1e300, "try": 1}\n', "line 2: s must be a number of seconds up to 1e.09, got 1e.300"),
        (
            HEADER + f'{{"t": 1, "s": 1, "n": 1{"0" * 400}, "end": "success"}}\n',
            "line 2: n must be at most 1,000,000,000",
        ),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "cut": 1}\n', "line 2: cut must be True or False, got 1"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "zero": -1}\n', "line 2: zero must be a finite number of seconds >= 0"),
        (HEADER + '{"t": 1, "would": "retry"}\n', "line 2: 'by' is missing"),
        (
            HEADER + '{"t": 1, "would": ["retry"], "by": "a"}\n',
            r"line 2: would must be one of retry, .* got \['retry'\]",
        ),
        (HEADER + '{"kind": 1}\n', "line 2: kind must be a text, got 1"),
        (HEADER + '{"kind": "a", "is": "b"}\n', "line 2: is must be a list of up to 12 names, got 'b'"),
        (HEADER + '{"kind": "a", "is": [1]}\n', "line 2: is must be a text, got 1"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "has": [1]}\n', r"line 2: has must be an object, got \[1\]"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "has": {"url": "x"}}\n', "line 2: has may not have 'url': 'x'"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "has": {"status": 7}}\n', "line 2: has may not have 'status': 7"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "of": {}}\n', "line 2: of must be a list of up to 10 errors, got {}"),
        (
            HEADER + '{"t": 1, "s": 1, "try": 1, "of": [{"e": 1}]}\n',
            "line 2: of must be a list of errors, each with its e",
        ),
        (
            HEADER + '{"trace": 1, "began": "never"}\n',
            "line 2: began must be a date and time to put recordings .* got 'never'",
        ),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "p": [1]}\n', r"line 2: p must be a text, got \[1\]$"),
        (HEADER + '{"t": 1, "s": 1, "try": 1, "e": {}}\n', "line 2: e must be a text, got {}$"),
        (
            HEADER + f'{{"t": 1{"0" * 400}, "s": 1, "try": 1}}\n',
            "line 2: t must be a number of seconds up to 1e.09, got 10+$",
        ),
        (HEADER + '{"end": "closed", "dropped": 1e400}\n', "line 2: dropped must be a whole number >= 0, got inf"),
        pytest.param(HEADER + "[" * 60_000 + "\n", "line 2: it must be a JSON object", id="deep"),
        pytest.param(HEADER + "x" * 1_000_000, "line 2: it must be a JSON object", id="long"),
    ],
)
def test_file_that_is_no_trace_is_refused(path: Path, text: str, words: str) -> None:
    """In one line that says where and why."""
    path.write_text(text)
    with pytest.raises(TraceError, match=words) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_file_that_is_not_gzipped_is_refused(tmp_path: Path) -> None:
    """A file that is not compressed, though its name says so, is refused."""
    path = tmp_path / "calls.trace.gz"
    path.write_text(HEADER)
    with pytest.raises(TraceError, match=r"is not gzipped, though its name ends in \.gz"):
        read_trace(path)


def test_times_begin_with_the_first_call(path: Path) -> None:
    """Times count from the first call, and lines are in the order of their begin."""
    with record_trace(path) as recording:
        recording(AttemptStarted("", 100.5, 1, "fetch"))
        for at, elapsed in ((103.5, 3), (102.5, 1)):
            recording(CallEnded("", at, "fetch", 1, elapsed, "success", None))
    assert [(each.begin, each.seconds) for each in read_trace(path).calls] == [(0, 3), (1, 1)]
    assert json.loads(path.read_text().splitlines()[1])["t"] == 0


# -- several recordings ---------------------------------------------------------------------------------------------


ONE = recording(call(0, zero=2.0), call(1.5), began="2026-11-30T12:00:00.500+00:00")
OTHER = recording(call(0, zero=0.25, p="other"), call(3), began="2026-11-30T13:00:01+01:00")
"""The first call of this one comes 1.25 s before that of the other."""


def test_files_of_several_workers_are_put_together_by_time(tmp_path: Path) -> None:
    """Files are put together by their begin and their wait for the first event, in whatever order they are given."""
    one, other = tmp_path / "1.trace", tmp_path / "2.trace"
    one.write_text(ONE)
    other.write_text(OTHER)
    for files in ((one, other), (other, one)):
        found = read_trace(*files)
        assert [each.begin for each in found.calls] == [0, 1.25, 2.75, 3]
        assert [each.pipeline for each in found.calls] == ["other", "", "", ""]
        assert (found.dropped, found.complete) == (2, True)


@pytest.mark.parametrize("name", ["all.trace", "all.trace.gz"])
def test_recordings_in_one_file_are_put_together(tmp_path: Path, name: str) -> None:
    """Recordings in one file, as `cat` makes it, are put together, gzipped ones too."""
    path = tmp_path / name
    parts = [each.encode() for each in (ONE, OTHER)]
    path.write_bytes(b"".join(map(gzip.compress, parts) if name.endswith(".gz") else parts))
    assert [each.begin for each in read_trace(path).calls] == [0, 1.25, 2.75, 3]


def test_recordings_of_two_processes_are_put_together(tmp_path: Path) -> None:
    """Recordings of two processes are put in order, whatever their clocks count from."""
    pipeline = Pipeline(Retry())
    for name, clock in (("1.trace", 1e6), ("2.trace", 5.0)):
        with record_trace(tmp_path / name, pipeline) as trace:
            trace(CallEnded("", clock, "fetch", 1, 0, "success", None))
    found = read_trace(tmp_path / "1.trace", tmp_path / "2.trace")
    assert len(found.calls) == 2
    assert 0 <= found.calls[1].begin < 60  # seconds between the two, on the wall


def test_recording_without_a_date_cannot_be_put_beside_another(tmp_path: Path) -> None:
    """A recording without a date can be read alone, but not with another one."""
    one, other = tmp_path / "1.trace", tmp_path / "2.trace"
    one.write_text(recording(call(0), began="yesterday"))
    other.write_text(OTHER)
    assert len(read_trace(one).calls) == 1
    with pytest.raises(TraceError, match=r"2.trace, line 1: began must be a date and time .* got 'yesterday'$"):
        read_trace(one, other)
    other.write_text(recording(call(0), began="1926-11-30"))
    one.write_text(ONE)
    with pytest.raises(TraceError, match=r"line 1: began must be within thirty years of 2026"):
        read_trace(one, other)


def test_versions_are_read_together(tmp_path: Path) -> None:
    """Old ones have bare names of errors."""
    one, other = tmp_path / "1.trace", tmp_path / "2.trace"
    one.write_text(recording({"t": 0, "s": 1, "try": 1, "e": "httpx:ConnectError", "has": {"errno": 111}}))
    other.write_text(recording({"t": 1, "s": 1, "try": 1, "e": "ConnectError"}, trace=1))
    assert [each.error for each in read_trace(one, other).attempts] == ["httpx:ConnectError", "ConnectError"]


def test_lines_in_any_order_are_read_alike(path: Path) -> None:
    """But for the header; and a line twice is two calls."""
    lines = [call(at) for at in (3, 1, 2, 2)]
    path.write_text(recording(*lines))
    assert [each.begin for each in read_trace(path).calls] == [0, 1, 1, 2]


# -- files of strangers -----------------------------------------------------------------------------------------------


def test_trace_of_too_many_bytes_is_refused(path: Path) -> None:
    """A trace that is too long, all files together, is refused in one line, which says how to raise the limit."""
    path.write_text(ONE)
    size = path.stat().st_size
    words = rf"line 3: more than {size - 60} bytes of uncompressed text: --max-trace-bytes"
    with pytest.raises(TraceError, match=words):
        read_trace(path, max_bytes=size - 60)
    assert len(read_trace(path, max_bytes=size).calls) == 2
    with pytest.raises(TraceError, match="--max-trace-bytes"):
        read_trace(path, path, max_bytes=size)


def test_gzip_bomb_takes_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    """A line is not longer than it may be, and what is read of all lines is bounded: here a thousandth of it."""
    path = tmp_path / "bomb.trace.gz"
    line = b'{"t":0,"s":0,"try":1}\n'
    for text in (b" " * 50_000_000, line * 500_000):
        with gzip.open(path, "wb", 1) as file:
            file.write(b'{"trace": 2}\n' + text)
        tracemalloc.start()
        with pytest.raises(TraceError, match=r"bomb\.trace\.gz, line "):
            read_trace(path, max_bytes=100_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 20 * LONGEST_LINE


def test_memory_of_a_trace_is_in_proportion_to_its_text(path: Path) -> None:
    """An attempt takes 200 bytes, whatever its line is like."""
    path.write_text('{"trace": 2}\n' + '{"t":0.5,"s":1.5,"try":1}\n' * 5_000)
    tracemalloc.start()
    found = read_trace(path)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.attempts) == 5_000
    assert kept <= most < 5_000 * 220


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is no trace: its first line must be"),
        (gzip.compress(b""), "is no trace: its first line must be"),
        (gzip.compress(ONE.encode()) + b"rest", "line 5: the compressed data is damaged: Not a gzipped file"),
        (gzip.compress(ONE.encode())[:-6] + b"\0" * 6, "line 5: the compressed data is damaged: CRC check failed"),
    ],
)
def test_compressed_data_that_is_damaged_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """Saying up to which line it was whole; an end that is missing is none of these."""
    path = tmp_path / "calls.trace.gz"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=words):
        read_trace(path)


def test_mutated_traces_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """Wrong types, odd numbers, lines that are torn, missing, swapped or there twice, bytes that are others: a sample.
    `python -m tests.observe.mutations 2000` has the command simulate more."""
    draw = random.Random(1)
    for number in range(300):
        path = mutated(draw, tmp_path, number)
        said = path.name
        try:
            read_trace(path)
        except TraceError as error:
            said = str(error)
        assert path.name in said
        assert said.isprintable()
        assert len(said) < 500
