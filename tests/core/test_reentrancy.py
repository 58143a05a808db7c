"""Signal handlers and finalizers may call any public function while any other runs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from resilient import Budget, Bulkhead, CircuitBreaker, CircuitOpen, Keyed, Pipeline, Retry, events, switch
from resilient.observe.logging import log_events
from resilient.observe.shadow import report_shadows
from resilient.observe.trace import record_trace
from resilient.registry import pipelines, snapshots
from tests.policies.breaker.test_pybreaker import Slowly

PATIENCE = 20
"""Seconds after which a thread has hung."""


Line = tuple[str, int]


class Interrupted:
    """Runs functions, and something else in the midst of them, as a signal handler does."""

    def __init__(self, handler: Callable[[], object]) -> None:
        self.handler = handler

    def everywhere(self, function: Callable[[], object]) -> Iterator[None]:
        """Run it again and again, and the handler before each line of the package that it runs, one after the other.

        Lines that not every run comes to (a weak set that tidies up) are passed over where it does not.
        """
        for line in self._lines(function):
            if line in self._run(function, line):
                yield

    def _lines(self, function: Callable[[], object]) -> list[Line]:
        return list(self._run(function, None))

    def _run(self, function: Callable[[], object], stop: Line | None) -> dict[Line, None]:
        lines: dict[Line, None] = {}

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            file = frame.f_code.co_filename
            if not ("/resilient/" in file or file.endswith("weakrefset.py")):
                return None
            if event == "line":
                line = file, frame.f_lineno
                lines[line] = None
                if line == stop:
                    sys.settrace(None)
                    self.handler()
            return trace

        sys.settrace(trace)
        try:
            function()
        finally:
            sys.settrace(None)
        return lines


def within_time(function: Callable[[], object]) -> None:
    """Run it in a thread of its own, which must not hang."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for the frame that it has interrupted"
    if errors:
        raise errors[0]


def ignore(_: object) -> None:
    pass


def listen_to_all() -> None:
    events.listen(ignore)()


def listen_to(pipeline: Pipeline) -> None:
    pipeline.listen(ignore)()


def acts(path: Path) -> Iterator[dict[str, Callable[[], object]]]:
    """What may be called, on objects that all of it shares."""
    breaker = CircuitBreaker(state_storage=Slowly())
    keyed = Keyed(lambda: Bulkhead(2, queue=1), key=lambda key: key)
    pipeline = Pipeline(Retry(2, wait=0, budget=Budget()), keyed, breaker, name="users")
    logger = logging.Logger("quiet")
    logger.addHandler(logging.NullHandler())
    log_events(pipeline, logger=logger, interval=0)

    @pipeline
    def guarded(key: str) -> None:
        raise OSError(key)

    def call() -> None:
        with pytest.raises((OSError, CircuitOpen)):
            guarded("eu")

    with report_shadows(pipeline), record_trace(path, pipeline):
        yield {
            "build": lambda: Pipeline(Retry(2), name="built"),
            "switch all": lambda: [switch("off"), switch(None)],
            "switch one": lambda: [pipeline.switch("once"), pipeline.switch(None)],
            "listen to all": listen_to_all,
            "listen to one": lambda: listen_to(pipeline),
            "look": lambda: [snapshots(), pipelines()],
            "steer": lambda: [breaker.isolate(), breaker.close()],
            "vary": lambda: pipeline.with_(Retry(3)),
            "call": call,
            "forget": lambda: keyed.forget("eu"),
        }


@pytest.fixture
def everything(tmp_path: Path) -> Iterator[dict[str, Callable[[], object]]]:
    yield from acts(tmp_path / "trace")


NAMES = [
    "build",
    "switch all",
    "switch one",
    "listen to all",
    "listen to one",
    "look",
    "steer",
    "vary",
    "call",
    "forget",
]


@pytest.mark.parametrize("name", NAMES)
def test_everything_may_be_called_in_the_midst_of_everything(
    name: str, everything: dict[str, Callable[[], object]]
) -> None:
    """No handler waits for the frame that it has interrupted, and none raises."""
    assert list(everything) == NAMES

    def all_of_it() -> None:
        for act in everything.values():
            act()

    interrupted = Interrupted(all_of_it).everywhere(everything[name])
    within_time(lambda: [None for _ in interrupted])


def test_switch_that_interrupts_a_switch_is_the_last_word() -> None:
    """The interrupting switch decides for all pipelines, also those not yet reached, and for one that is being
    built."""
    pipelines = [Pipeline(Retry(2)) for _ in range(3)]
    try:
        late = 0
        for _ in Interrupted(lambda: switch("off")).everywhere(lambda: switch("instant")):
            modes = {each.mode for each in pipelines}
            assert modes in ({"off"}, {"instant"})
            late += modes == {"instant"}
            switch(None)
        assert 0 < late < 10  # it interrupted while nothing was done yet
        for _ in Interrupted(lambda: switch("off")).everywhere(lambda: pipelines.append(Pipeline(Retry(2)))):
            assert {each.mode for each in pipelines} == {"off"}
            switch(None)
    finally:
        switch(None)


def test_listener_that_is_registered_while_another_one_is_hears_all_the_same() -> None:
    """A listener that is added while another one is added or removed gets events."""
    heard: list[str] = []
    stops: list[Callable[[], None]] = []
    pipeline = Pipeline(Retry(2, wait=0))

    def register() -> None:
        stops.append(events.listen(lambda _: heard.append("all")))
        stops.append(pipeline.listen(lambda _: heard.append("one")))

    for act in (listen_to_all, lambda: listen_to(pipeline)):
        for _ in Interrupted(register).everywhere(act):
            pipeline.call(len, "")
            assert set(heard) == {"all", "one"}
            heard.clear()
            while stops:
                stops.pop()()
