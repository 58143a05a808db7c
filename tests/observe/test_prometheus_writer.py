"""The thread that writes the files: when it works, when it ends, and what waits for it."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest

from resilient.observe.prometheus import writer as module
from resilient.observe.prometheus.writer import Writer

LONG = 3600.0


class Work:
    """Counts what a writer does, and in which thread."""

    def __init__(self, interval: float) -> None:
        self.wrote = threading.Semaphore(0)
        self.closed: list[str] = []
        self.hold: threading.Event | None = None
        self.writer = Writer(self.write, lambda: self.closed.append(threading.current_thread().name), interval)

    def write(self) -> None:
        self.wrote.release()
        if self.hold is not None:
            self.hold.wait(60)


@pytest.fixture
def quick() -> Iterator[Work]:
    """A writer with a very short interval."""
    work = Work(0.001)
    yield work
    work.writer.end()


@pytest.fixture
def slow() -> Iterator[Work]:
    """A writer that would not write within the time of a test."""
    work = Work(LONG)
    yield work
    work.writer.end()


def threads() -> int:
    return sum(each.name == "resilient-prometheus" for each in threading.enumerate())


def test_it_writes_again_and_again_until_it_ends(quick: Work) -> None:
    """The end does not wait for the interval, and does the last work in the thread."""
    quick.writer.start()
    for _ in range(3):
        assert quick.wrote.acquire(timeout=60)
    quick.writer.end()
    assert quick.closed == ["resilient-prometheus"]
    assert threads() == 0


def test_end_is_made_once(slow: Work) -> None:
    """A second call has no effect, and neither has one before the start."""
    slow.writer.end()
    assert slow.closed == []
    slow.writer.start()
    slow.writer.end()
    slow.writer.end()
    assert len(slow.closed) == 1


def test_nothing_refers_to_a_writer_that_has_ended() -> None:
    """However often it was started."""
    work = Work(LONG)
    for _ in range(3):
        work.writer.start()
        work.writer.end()
    gone = weakref.ref(work.writer)
    del work
    gc.collect()
    assert gone() is None


def test_it_can_be_started_again(quick: Work) -> None:
    """As after all registrations have ended, and a new one is made."""
    quick.writer.start()
    quick.writer.end()
    quick.writer.start()
    assert threads() == 1
    while quick.wrote.acquire(blocking=False):
        pass
    assert quick.wrote.acquire(timeout=60)


def test_pauses_of_several_forks_count(slow: Work) -> None:
    """While any thread forks there is no thread; it starts after the last fork, and no second one does."""
    slow.writer.start()
    slow.writer.pause()
    slow.writer.pause()
    assert threads() == 0
    slow.writer.resume()
    assert threads() == 0
    slow.writer.resume()
    assert threads() == 1
    slow.writer.resume()
    assert threads() == 1
    assert slow.closed == []


def test_forked_child_has_a_thread_whatever_other_threads_fork(slow: Work) -> None:
    """Forks that other threads of the parent had begun are not the child's."""
    slow.writer.start()
    slow.writer.pause()
    slow.writer.pause()
    slow.writer.renew()
    assert threads() == 1
    slow.writer.pause()  # a fork of the child
    slow.writer.resume()
    assert threads() == 1


def test_fork_waits_for_a_writing_that_hangs_for_a_limited_time(quick: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writing that does not end holds up neither a fork nor the end of the process."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    quick.hold = threading.Event()
    quick.writer.start()
    assert quick.wrote.acquire(timeout=60)
    quick.writer.pause()
    quick.writer.resume()
    quick.writer.end()
    quick.hold.set()
    for thread in threading.enumerate():
        if thread.name == "resilient-prometheus":
            thread.join(60)
    assert len(quick.closed) == 1


def test_process_without_threads_writes_at_its_end(
    slow: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no thread can be started, that is logged, and the last work is done by what ends the writer."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        slow.writer.start()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    slow.writer.end()
    assert slow.closed == [threading.current_thread().name]
