"""The trace: what it contains and what it does not, that no call waits for it, and that it can be read."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resilient import Bulkhead, CircuitBreaker, Classifier, Hedge, Pipeline, RateLimit, Retry, Timeout
from resilient.observe import trace
from resilient.observe.trace import (
    Recording,
    TracedAttempt,
    TracedCall,
    WouldHave,
    read_trace,
    record_trace,
)
from resilient.testing import Dependency, Hang, Slow, run
from tests.worlds import World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.trace"


def calls_of(pipeline: Pipeline, *steps: Any, calls: int = 1, arguments: tuple[Any, ...] = ()) -> None:
    """Make some calls in virtual time, one after the other."""
    guarded = pipeline(Dependency(*steps))

    async def main() -> None:
        for _ in range(calls):
            try:
                await guarded(*arguments)
            except Exception:
                pass

    run(main())


# -- what is in it --------------------------------------------------------------------------------------------------


def test_trace_has_calls_and_attempts_with_their_times(path: Path) -> None:
    """To the microsecond, in virtual time exactly."""
    pipeline = Pipeline(Retry(attempts=3, wait=1), Timeout(2))
    with record_trace(path, pipeline) as recording:
        calls_of(pipeline, Slow(0.25, OSError()), Hang(), Slow(0.5), KeyError(), TypeError(), calls=2)
    found = read_trace(path)
    assert found.attempts == [
        TracedAttempt(0, 0.25, 1, "OSError", failed=True),
        TracedAttempt(1.25, 2, 2, "asyncio.exceptions:CancelledError", cut=True),
        TracedAttempt(4.25, 0.5, 3),
        TracedAttempt(4.75, 0, 1, "KeyError", failed=True),
        TracedAttempt(5.75, 0, 2, "TypeError", failed=True, ignored=True),
    ]
    assert found.calls == [
        TracedCall(0, 4.75, 3, "success"),
        TracedCall(4.75, 1, 2, "failure", "TypeError"),
    ]
    assert (found.complete, found.dropped, recording.error) == (True, 0, None)
    assert recording.written == 9  # the header and the end too


def test_trace_has_the_calls_of_every_runtime(world: World, path: Path) -> None:
    """One line for each attempt and each call."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), name="users")
    with record_trace(path, pipeline):
        world.outcome(pipeline(world.dependency(OSError(), 7).fn))
    found = read_trace(path)
    assert [(each.number, each.error) for each in found.attempts] == [(1, "OSError"), (2, None)]
    (call,) = found.calls
    assert (call.requests, call.ending, call.pipeline) == (2, "success", "users")
    assert call.begin <= found.attempts[0].begin <= found.attempts[1].begin <= call.begin + call.seconds + 2e-6


def test_trace_has_refused_calls_and_bad_results(path: Path) -> None:
    """A refused call had no request; a result may be a failure."""
    breaker = CircuitBreaker(fail_max=1, failure_rate=None)
    pipeline = Pipeline(breaker, classify=Classifier(results=lambda result: result == "bad"))
    with record_trace(path, pipeline):
        calls_of(pipeline, "bad", calls=2)
    found = read_trace(path)
    assert found.attempts == [TracedAttempt(0, 0, 1, None, failed=True)]
    assert found.calls == [
        TracedCall(0, 0, 1, "failure"),
        TracedCall(0, 0, 0, "rejected", "resilient.errors:CircuitOpen"),
    ]


def test_trace_has_what_shadows_would_have_done(path: Path) -> None:
    """Each of the four things, and by which policy."""
    pipeline = Pipeline(
        Retry(attempts=2, wait=1, shadow=True, name="patience"),
        Hedge(0.5, shadow=True),
        RateLimit(1, per=1000, burst=1, shadow=True),
        Bulkhead(1, queue=5, shadow=True),
        name="users",
    )
    guarded = pipeline(Dependency(OSError(), Slow(1), Slow(1)))

    async def main() -> None:
        await asyncio.gather(*(guarded() for _ in range(3)), return_exceptions=True)

    with record_trace(path, pipeline):
        run(main())
    assert sorted({(each.what, each.policy) for each in read_trace(path).shadows}) == [
        ("hedge", "Hedge"),
        ("refuse", "RateLimit"),
        ("retry", "patience"),
        ("wait", "Bulkhead"),
    ]
    assert WouldHave(1, "hedge", "Hedge", "users") in read_trace(path).shadows


def test_trace_of_all_pipelines_is_read_by_pipeline(path: Path) -> None:
    """A trace of two pipelines has no calls of the third, and can be read by pipeline."""
    one, two, other = (Pipeline(Retry(), name=name) for name in ("one", "two", "other"))
    for pipelines, names in (((), ["one", "other", "two"]), ((one, two, one), ["one", "two"])):
        with record_trace(path, *pipelines):
            for pipeline in (one, two, other):
                calls_of(pipeline, 7)
        assert read_trace(path).pipelines == names
        assert len(read_trace(path).of("two").calls) == len(read_trace(path).of("two").attempts) == 1


# -- what is not ----------------------------------------------------------------------------------------------------


def test_no_argument_result_or_message_is_in_the_file(path: Path) -> None:
    """A trace has no argument, no result and no message, not even of an error."""
    pipeline = Pipeline(Retry(attempts=2, wait=0), CircuitBreaker(shadow=True, fail_max=1))
    with record_trace(path, pipeline):
        calls_of(pipeline, OSError("hunter2"), "hunter2", calls=2, arguments=("hunter2",))
    assert "hunter2" not in path.read_text()


def test_key_is_there_if_somebody_makes_one(world: World, path: Path) -> None:
    """Of attempts and of calls, by the arguments; also of the copies of hedges."""
    pipeline = Pipeline(Hedge(5, thread=True), name="users")
    with record_trace(path, pipeline, key=lambda host, *, shard: f"{host}/{shard}"):
        world.call(pipeline(world.dependency(OSError(), 7).fn), "eu", shard=1)
    found = read_trace(path)
    assert [each.key for each in found.calls] == ["eu/1"]
    assert [each.key for each in found.attempts] == ["eu/1", "eu/1"]


def test_key_of_a_call_within_a_call_is_its_own(path: Path) -> None:
    """A nested call has a key of its own, not that of the outer call."""
    outer, inner = Pipeline(Retry(), name="outer"), Pipeline(Retry(), name="inner")

    @inner
    def fetch(key: str) -> None: ...

    @outer
    def page(key: str) -> None:
        fetch(f"{key} inside")

    with record_trace(path, key=lambda key: key):
        page("page")
    keys = {(each.pipeline, each.key) for each in read_trace(path).calls}
    assert keys == {("outer", "page"), ("inner", "page inside")}


def test_key_of_a_block_is_none(path: Path) -> None:
    """A guarded block has no key: the arguments of the function around it are not its own."""
    pipeline = Pipeline(Retry(), name="users")

    @pipeline
    def page(key: str) -> None:
        for attempt in pipeline.attempts():
            with attempt:
                pass

    with record_trace(path, pipeline, key=lambda key: key):
        page("page")
    assert [each.key for each in sorted(read_trace(path).calls, key=lambda each: str(each.key))] == [None, "page"]


def test_key_that_raises_harms_no_call(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key function that raises is not called again; that is logged once, and calls succeed."""
    pipeline = Pipeline(Retry())

    def broken(*args: Any) -> str:
        raise ValueError("no key")

    with record_trace(path, pipeline, key=broken):
        calls_of(pipeline, 1, 2, 3, calls=3)
    assert [each.key for each in read_trace(path).calls] == [None] * 3
    assert len(caplog.records) == 1
    assert "key of the trace" in caplog.text


def test_long_key_is_cut(path: Path) -> None:
    """A key is a name, not a document."""
    pipeline = Pipeline(Retry())
    with record_trace(path, pipeline, key=lambda: "x" * 10_000):
        calls_of(pipeline, 1)
    assert read_trace(path).calls[0].key == "x" * trace.LONGEST_KEY


# -- calls never wait -------------------------------------------------------------------------------------------------


class Disk:
    """A file that can be slow or full."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.go = threading.Event()
        self.go.set()
        self.full = False

    def write(self, data: bytes) -> int:
        assert self.go.wait(10)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)  # type: ignore[no-any-return]

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


@pytest.fixture
def recorded(path: Path) -> Callable[..., tuple[Pipeline, Recording, Disk]]:
    """A pipeline whose trace goes to a disk that the test has in its hands."""

    def make(**options: Any) -> tuple[Pipeline, Recording, Disk]:
        pipeline = Pipeline(Retry(attempts=1))
        recording = record_trace(path, pipeline, interval=0.001, **options)
        disk = recording._file = Disk(recording._file)  # type: ignore[assignment]
        return pipeline, recording, disk

    return make


def test_slow_disk_holds_no_call_up(recorded: Any, path: Path) -> None:
    """The buffer takes what comes; what does not fit is dropped, counted, and said at the end."""
    pipeline, recording, disk = recorded(buffer=10)
    disk.go.clear()
    calls_of(pipeline, *range(50), calls=50)  # 100 lines, and no end of it if one waited for the disk
    disk.go.set()
    recording.close()
    found = read_trace(path)
    assert recording.dropped == found.dropped > 0
    assert len(found.calls) + len(found.attempts) + found.dropped == 100
    assert len(found.calls) + len(found.attempts) >= 10
    assert found.complete


def test_full_disk_ends_the_trace_and_no_call(recorded: Any, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was written can be read; it is logged once; the error and the count are there."""
    pipeline, recording, disk = recorded()
    calls_of(pipeline, 1)
    while recording.written < 3:
        pass
    disk.full = True
    for _ in range(3):
        calls_of(pipeline, OSError(), 2, calls=2)
    recording.close()
    assert isinstance(recording.error, OSError)
    assert recording.dropped == 12
    found = read_trace(path)
    assert (len(found.calls), len(found.attempts), found.complete) == (1, 1, False)
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


def test_trace_that_is_long_enough_ends(path: Path) -> None:
    """A full file is a valid trace, which says that it is not complete."""
    pipeline = Pipeline(Retry())
    with record_trace(path, pipeline, max_bytes=2_000) as recording:
        calls_of(pipeline, *range(100), calls=100)
    assert path.stat().st_size < 2_100
    found = read_trace(path)
    assert not found.complete
    assert recording.dropped == found.dropped == 200 - len(found.calls) - len(found.attempts)
    assert len(found.calls) > 10


def test_lines_of_many_threads_are_whole(path: Path) -> None:
    """Lines of calls in many threads are whole, one after the other."""
    pipeline = Pipeline(Retry())
    guarded = pipeline(lambda: 7)
    with record_trace(path, pipeline, interval=0.001):
        threads = [threading.Thread(target=lambda: [guarded() for _ in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = read_trace(path)
    assert (len(found.calls), len(found.attempts), found.dropped) == (1600, 1600, 0)


def test_closed_recording_hears_no_more(path: Path) -> None:
    """Closing twice does no harm, and its thread is gone."""
    pipeline = Pipeline(Retry())
    recording = record_trace(path, pipeline)
    calls_of(pipeline, 1)
    recording.close()
    recording.close()
    calls_of(pipeline, 2)
    assert len(read_trace(path).calls) == 1
    assert "resilient trace" not in {thread.name for thread in threading.enumerate()}


def test_program_that_ends_without_closing_loses_nothing(path: Path) -> None:
    """The end of the interpreter closes it."""
    code = f"""
from resilient import Pipeline, Retry
from resilient.observe.trace import record_trace
pipeline = Pipeline(Retry())
record_trace({str(path)!r}, pipeline, interval=60)
pipeline.call(lambda: 7)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = read_trace(path)
    assert (len(found.calls), found.complete) == (1, True)


# -- bad arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"key": 1}, TypeError, "key must be callable, got 1"),
        ({"buffer": 0}, ValueError, "buffer must be a whole number >= 1, got 0"),
        ({"max_bytes": -1}, ValueError, "max_bytes must be a whole number >= 1, got -1"),
        ({"interval": 0}, ValueError, "interval must be a finite number of seconds > 0, got 0"),
    ],
)
def test_bad_option_is_refused(path: Path, options: Any, error: type[Exception], words: str) -> None:
    """Naming the argument and the value; and no file is made."""
    with pytest.raises(error, match=words):
        record_trace(path, **options)
    assert not path.exists()


def test_what_is_no_pipeline_is_refused(path: Path) -> None:
    """An object that is no pipeline is refused with a message that names it."""
    with pytest.raises(TypeError, match="pipelines must be Pipelines, got 'users'"):
        record_trace(path, "users")  # type: ignore[arg-type]


def test_file_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    """A file that cannot be made raises an error at once, not in an outage."""
    with pytest.raises(OSError, match="nowhere"):
        record_trace(tmp_path / "nowhere" / "calls.trace")
