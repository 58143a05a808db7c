"""Multiprocess mode with real processes: what a scrape of one of them shows of all, dead ones included."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROGRAM = Path(__file__).with_name("prometheus_program.py")
LONG = 3600.0
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def once(samples: Iterable[Iterable[Any]]) -> Samples:
    """Return samples (name, labels, value) by name and labels. Each series must occur once."""
    found = [((name, tuple(sorted(labels.items()))), value) for name, labels, value in samples]
    assert len(dict(found)) == len(found)
    return dict(found)


class Process:
    """One run of the program, which has answered each command before the next one is sent."""

    def __init__(self, directory: Path, identifier: str | None = None, **options: Any) -> None:
        named = {} if identifier is None else {"IDENTIFIER": identifier}
        root = str(PROGRAM.parents[2])
        self.running = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps({"interval": LONG, **options})],
            env={**os.environ, "PYTHONPATH": root, "PROMETHEUS_MULTIPROC_DIR": str(directory), **named},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.running.pid

    def __call__(self, command: str) -> Any:
        """Send a command; the answer."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(f"{command}\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        if not line:
            assert self.running.stderr is not None
            raise AssertionError(self.running.stderr.read())
        return json.loads(line)

    def figures(self, command: str = "scrape") -> Samples:
        """What a scrape of this process shows, each series once."""
        return once(self(command))

    def ends(self, command: str) -> int:
        """Send a command that ends the process; its exit code."""
        assert self.running.stdin is not None
        self.running.stdin.write(f"{command}\n")
        self.running.stdin.close()
        return self.running.wait(30)

    def stop(self) -> None:
        """Kill the process if it runs, and close its pipes."""
        self.running.kill()
        self.running.wait()
        for pipe in (self.running.stdin, self.running.stdout, self.running.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a process, whose files are in the test's directory."""
    started: list[Process] = []

    def begin(**options: Any) -> Process:
        started.append(Process(tmp_path, **options))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


@pytest.fixture
def figures_of_all(tmp_path: Path) -> Callable[[], Samples]:
    """Return a function that reads the files as a scrape of any process does: here, in the process of the test."""

    def read() -> Samples:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(tmp_path))
        return once((each.name, each.labels, each.value) for metric in registry.collect() for each in metric.samples)

    return read


def counted(figures: Samples, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have these labels, and perhaps others."""
    return sum(value for (found, at), value in figures.items() if found == name and labels.items() <= dict(at).items())


def calls(figures: Samples, **labels: str) -> float:
    return counted(figures, "resilient_calls_total", pipeline="users", **labels)


def test_scrape_of_any_process_sums_up_all(start: Callable[..., Process]) -> None:
    """Counters and histograms of two processes are added, in both of them."""
    one, other = start(), start()
    one("ok 3")
    other("ok 4")
    other("fail 2")
    for process in (one, other):
        process("flush")
    for process in (one, other):
        figures = process.figures()
        assert calls(figures) == 9
        assert calls(figures, ending="success") == 7
        assert calls(figures, ending="failure") == 2
        assert counted(figures, "resilient_call_duration_seconds_count", pipeline="users") == 9
        assert counted(figures, "resilient_call_duration_seconds_bucket", pipeline="users", le="+Inf") == 9
        assert counted(figures, "resilient_call_duration_seconds_bucket", pipeline="users", le="64.0") == 9


def test_gauges_of_numbers_are_summed_and_others_have_a_series_for_each_process(start: Callable[..., Process]) -> None:
    """Calls in flight and open circuits add up over the processes; modes do not."""
    one, other = start(), start()
    for process in (one, other):
        process("hold")
    other("hold")
    other("open")
    for process in (one, other):
        process("flush")
    figures = one.figures()
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 3
    state = {"pipeline": "users", "policy": "circuit"}
    assert counted(figures, "resilient_circuit_state", **state, state="open") == 1
    assert counted(figures, "resilient_circuit_state", **state, state="closed") == 1
    modes = {
        (labels["pid"], labels["mode"]): value
        for (name, at), value in figures.items()
        if name == "resilient_pipeline_mode" and (labels := dict(at))["pipeline"] == "users"
    }
    assert modes[str(one.pid), "on"] == modes[str(other.pid), "on"] == 1


def test_counters_of_a_killed_process_stay_and_its_gauges_go(start: Callable[..., Process], tmp_path: Path) -> None:
    """After SIGKILL all that was written counts on; `mark_process_dead` removes what was live."""
    one, other = start(), start()
    one("ok 3")
    one("hold")
    other("ok 4")
    for process in (one, other):
        process("flush")
    one("ok 100")  # not written: lost
    assert one.ends("kill") == -signal.SIGKILL
    before = other.figures()
    assert before["resilient_calls_in_flight", (("pipeline", "users"),)] == 1
    mark_process_dead(one.pid, str(tmp_path))
    figures = other.figures()
    assert calls(figures) == 7
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 0
    assert not [at for name, at in figures if ("pid", str(one.pid)) in at and name.startswith("resilient")]


@pytest.mark.parametrize(("end", "code"), [("exit", 0), ("an unknown command", 1)])
def test_process_that_ends_loses_nothing(
    start: Callable[..., Process], figures_of_all: Callable[[], Samples], end: str, code: int
) -> None:
    """The last figures are written when the interpreter ends, and its gauges count no more."""
    one = start()
    one("hold")
    one("flush")
    one("ok 5")
    assert one.ends(end) == code
    figures = figures_of_all()
    assert calls(figures) == 5
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 0


def test_later_process_with_the_same_identifier_continues_the_counters(
    start: Callable[..., Process], figures_of_all: Callable[[], Samples]
) -> None:
    """Figures that an earlier process left in its files are the base of the new ones."""
    one = start(identifier="worker")
    one("ok 5")
    one("hold")
    assert one.ends("exit") == 0
    later = start(identifier="worker")
    later("ok 2")
    for _ in range(2):
        later("flush")
        assert calls(figures_of_all()) == 7
        assert counted(figures_of_all(), "resilient_call_duration_seconds_count", pipeline="users") == 7
    assert figures_of_all()["resilient_calls_in_flight", (("pipeline", "users"),)] == 0


def test_thread_writes_by_itself(start: Callable[..., Process], figures_of_all: Callable[[], Samples]) -> None:
    """Figures appear in the scrape of another process within the interval, without a call of `flush`."""
    one = start(interval=0.02)
    one("ok 3")
    give_up = time.monotonic() + 30
    while calls(figures_of_all()) < 3:
        assert time.monotonic() < give_up, "nothing was written"


def test_forked_child_counts_from_zero_in_files_of_its_own(
    start: Callable[..., Process], figures_of_all: Callable[[], Samples], tmp_path: Path
) -> None:
    """What the parent counted before the fork is counted once, and the child's figures are added."""
    process = start()
    process("ok 3")
    process("flush")
    child = process("fork")
    assert process("pid") == child
    process("ok 3")
    process("flush")
    figures = process.figures()
    assert calls(figures) == 6
    assert (tmp_path / f"counter_{child}.db").exists()
    process("ok 1")  # not flushed: written at the child's end
    assert process("exit") == "child ended"
    assert calls(figures_of_all()) == 7


def test_forked_child_has_a_thread_and_so_has_the_parent_again(start: Callable[..., Process]) -> None:
    """There is no thread during the fork, which might hold a lock of the client; one starts on both sides."""
    process = start()
    assert process("threads").count("resilient-prometheus") == 1
    process("fork")
    assert process("forking") == ["MainThread"]
    assert process("threads").count("resilient-prometheus") == 1
    assert process("exit") == "child ended"
    assert process("threads").count("resilient-prometheus") == 1


@pytest.mark.parametrize("command", ["work 6", "serve 6"])
def test_child_of_multiprocessing_loses_nothing(start: Callable[..., Process], command: str) -> None:
    """It ends without `atexit`, but its figures are written, whether it registers itself or was forked."""
    process = start()
    assert process(command) == 0
    assert calls(process.figures()) == 6


def test_users_own_metrics_in_the_same_files_are_whole(start: Callable[..., Process]) -> None:
    """A live gauge of the user is in the file that has ours, and both are read."""
    one, other = start(), start()
    one("hold")
    one("flush")
    other("flush")
    figures = one.figures()
    assert figures["their_gauge", ()] == 2
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 1


def test_keys_that_come_and_go_stay_within_a_limit(start: Callable[..., Process]) -> None:
    """A key cannot be taken out of a file: after ten times as many as have series at once, they count as "other"."""
    process = start(keys=2)
    process("tenants 100")
    figures = process.figures()
    keys = {dict(at)["key"] for name, at in figures if name == "resilient_circuit_state" and "key" in dict(at)}
    assert len(keys) == 2 * 10 + 1
    assert "other" in keys
    assert counted(figures, "resilient_circuit_state", pipeline="keyed") == 3
    assert counted(figures, "resilient_keys", pipeline="keyed") == 3
    assert calls(figures) == 0
    assert counted(figures, "resilient_calls_total", pipeline="keyed") == 100


def test_figures_that_cannot_be_written_are_counted_and_written_later(start: Callable[..., Process]) -> None:
    """The others are written, and no call fails."""
    process = start()
    process("ok 1")
    process("flush")
    process("ok 2")
    process("hold")
    process("broken")
    figures = process.figures()
    assert calls(figures) == 1
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 1
    process("flush")
    figures = process.figures()
    assert calls(figures) == 3
    assert counted(figures, "resilient_scrape_errors_total") == 1


def test_rate_of_nothing_is_no_number(start: Callable[..., Process], figures_of_all: Callable[[], Samples]) -> None:
    """What cannot be summed has no value once its process has ended in order."""
    one = start()
    one("ok 1")
    one("flush")
    assert one.ends("exit") == 0
    modes = [
        value
        for (name, at), value in figures_of_all().items()
        if name == "resilient_pipeline_mode" and ("pid", str(one.pid)) in at
    ]
    assert modes
    assert all(map(math.isnan, modes))


def test_registry_of_one_process_shows_its_own_figures(start: Callable[..., Process]) -> None:
    """As the client's own metrics do, without the figures of other processes, and up to date."""
    one, other = start(), start()
    other("ok 4")
    other("flush")
    one("ok 3")
    assert calls(one.figures("own")) == 3


def test_figures_that_are_registered_again_are_counted_once(start: Callable[..., Process]) -> None:
    """The end of a registration leaves the counters in the files, and a new one goes on from there."""
    process = start()
    process("hold")
    for number in (3, 6, 9):
        process("ok 3")
        process("again")
        figures = process.figures()
        assert calls(figures) == number
        assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 1


def test_series_appear_once_beside_a_collector_of_the_files(start: Callable[..., Process]) -> None:
    """A registry with a MultiProcessCollector shows the figures of the files, and each of them once."""
    one, other = start(), start()
    for process in (one, other):
        process("ok 3")
        process("flush")
    assert calls(one.figures("beside")) == 6


def test_other_options_are_refused_in_one_process(start: Callable[..., Process]) -> None:
    """A process has one set of files, which cannot have the figures in two ways."""
    message, shown = start()("other")
    assert "the same keys, durations, buckets and interval" in message
    assert shown == []


def test_files_are_written_as_long_as_any_registration_lasts(
    start: Callable[..., Process], figures_of_all: Callable[[], Samples]
) -> None:
    """Registrations in several registries share a thread; the end of the last one takes the gauges away."""
    one = start()
    one("hold")
    one("ok 1")
    one("beside")
    for number in (2, 3):
        assert one("threads").count("resilient-prometheus") == 1
        one("ok 1")
        one("flush")
        figures = figures_of_all()
        assert calls(figures) == number
        assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 1
        one("end")
    assert one("threads").count("resilient-prometheus") == 0
    figures = figures_of_all()
    assert calls(figures) == 3
    assert figures["resilient_calls_in_flight", (("pipeline", "users"),)] == 0
