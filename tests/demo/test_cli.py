"""The demo command as a process: real runs, bad arguments, Ctrl-C, and no process left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resilient.cli.app import app

COMMAND = [sys.executable, "-m", "resilient"]
ROOT = Path(__file__).parents[2]
FINISHED = f"finished {os.getpid()}"  # another Python may run the same tests beside

SIDE_KEYS = {
    "calls",
    "succeeded",
    "success_rate",
    "errors",
    "p50_ms",
    "p99_ms",
    "p99_9_ms",
    "requests",
    "requests_per_call",
}


def environment(mark: str) -> dict[str, str]:
    """The environment of this process, with this checkout first, and a mark that identifies the processes of one
    test."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "RESILIENT_DEMO_TEST": mark, "COLUMNS": "100"}


def servers(mark: str) -> list[int]:
    """The server processes that carry `mark`, whatever their parent is by now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and f"RESILIENT_DEMO_TEST={mark}\0" in (entry / "environ").read_text() + "\0"
                and "resilient.demo.server" in (entry / "cmdline").read_text()
            ):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile, or is not ours
    return found


def gone(mark: str) -> bool:
    """Whether no server process is left; the kernel gets a moment to end one."""
    give_up = time.monotonic() + 5
    while servers(mark) and time.monotonic() < give_up:
        time.sleep(0.05)
    return not servers(mark)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def refused(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment("refused") | variables,
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A complete short run, and the directory with its files.

    A healthy answer takes 17 ms. If the plain client's median shows that this machine is too busy for that, the run is
    repeated.
    """
    directory = tmp_path_factory.mktemp("demo")
    arguments = ["--duration", "6", "--rate", "100", "--seed", "1"]
    files = ["--plot", str(directory / "plot.png"), "--json", str(directory / "results.json")]
    for _ in range(4):
        process = subprocess.run(
            [*COMMAND, "demo", *arguments, *files],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            env=environment(FINISHED),
        )
        median = json.loads((directory / "results.json").read_text())["plain"]["p50_ms"]
        if median < 25:
            break
    return process, directory


@pytest.fixture
def results(finished: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    """The JSON file of the short run."""
    parsed: dict[str, Any] = json.loads((finished[1] / "results.json").read_text())
    return parsed


def test_demo_passes_its_gates(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """A short run shows what the policies are worth and ends with 0, unless it says that the machine is too slow."""
    process, _ = finished
    assert process.stderr == ""
    if "This machine cannot keep up" in process.stdout:
        assert process.returncode == 1
    else:
        assert process.returncode == 0, process.stdout
        assert process.stdout.count("pass  ") == 4


def test_demo_writes_its_plot(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """The plot is a PNG, and its path is printed."""
    process, directory = finished
    assert (directory / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert f"plot: {directory / 'plot.png'}" in process.stdout


def test_demo_json_has_its_stable_keys(results: dict[str, Any]) -> None:
    """Programs rely on these names."""
    assert set(results) == {
        "seed",
        "duration_seconds",
        "rate_per_second",
        "faults",
        "downtime",
        "plain",
        "resilient",
        "gates",
        "passed",
    }
    assert set(results["plain"]) == SIDE_KEYS
    assert set(results["resilient"]) == SIDE_KEYS | {
        "hedges_started",
        "hedges_won",
        "retries",
        "budget_spent_requests",
        "budget_refused_requests",
        "circuit_changes",
    }
    assert [set(gate) for gate in results["gates"]] == [{"name", "value", "comparison", "limit", "passed"}] * 4
    assert (results["seed"], results["duration_seconds"]) == (1, 6.0)
    assert results["passed"] is all(gate["passed"] for gate in results["gates"])


def test_demo_gives_both_sides_the_same_calls(results: dict[str, Any]) -> None:
    """Every request is counted: one per call for the plain client, some more for the guarded one."""
    plain, resilient = results["plain"], results["resilient"]
    assert plain["calls"] == resilient["calls"] == plain["requests"] > 450
    assert resilient["requests"] > resilient["calls"]


def test_demo_accounts_for_the_requests_it_adds(results: dict[str, Any]) -> None:
    """The budget paid for every additional request, and some of these won."""
    resilient = results["resilient"]
    assert resilient["budget_spent_requests"] == resilient["hedges_started"] + resilient["retries"]
    assert 0 < resilient["hedges_won"] <= resilient["hedges_started"]
    # A copy may be called off before it is sent, so a little more may be paid for.
    extra = resilient["requests"] - resilient["calls"]
    assert 0 < extra <= resilient["budget_spent_requests"]


def test_demo_shows_what_the_hedges_and_the_budget_did(
    finished: tuple[subprocess.CompletedProcess[str], Path], results: dict[str, Any]
) -> None:
    """The lines during the run and the table at the end show it."""
    output, resilient = finished[0].stdout, results["resilient"]
    assert re.search(r"hedges won \d+ of \d+, budget spent \d+", output)
    for title, key in (("hedges won", "hedges_won"), ("budget spent", "budget_spent_requests")):
        assert re.search(rf"{title} +- +{resilient[key]} *\n", output)


def test_demo_kills_and_restarts_a_process_on_both_sides(results: dict[str, Any]) -> None:
    """The kill is at the same moment on both sides, and both processes restart."""
    plain, resilient = results["downtime"]["plain"], results["downtime"]["resilient"]
    assert plain["start_seconds"] == pytest.approx(resilient["start_seconds"], abs=0.2)
    assert plain["end_seconds"] > plain["start_seconds"]
    assert resilient["end_seconds"] > resilient["start_seconds"]
    assert "ConnectError" in results["plain"]["errors"]


@needs_proc
def test_demo_leaves_no_process(finished: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    """Every server ended with the run."""
    assert gone(FINISHED)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in progress with all its servers started."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--duration", "60", "--plot", str(tmp_path / "plot.png")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(str(tmp_path)),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs us may ignore it  # noqa: PLW1509
    )
    try:
        give_up = time.monotonic() + 30
        while len(servers(str(tmp_path))) < 6 and time.monotonic() < give_up:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


@needs_proc
def test_ctrl_c_ends_the_demo_cleanly(running: subprocess.Popen[str], tmp_path: Path) -> None:
    """Exit code 130, one line, no traceback and no process, at any moment."""
    assert len(servers(str(tmp_path))) == 6
    time.sleep(1.0)  # into the load; no event tells
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=15)
    assert running.returncode == 130
    assert errors == "resilient: stopped\n"
    assert gone(str(tmp_path))


@needs_proc
def test_ctrl_c_while_the_servers_start_ends_the_demo_cleanly(running: subprocess.Popen[str], tmp_path: Path) -> None:
    """The processes exist and have not answered yet."""
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=15)
    assert (running.returncode, errors) == (130, "resilient: stopped\n")
    assert gone(str(tmp_path))


@needs_proc
def test_killed_demo_leaves_no_process(running: subprocess.Popen[str], tmp_path: Path) -> None:
    """SIGKILL cannot be handled, but the servers notice that their parent is gone."""
    assert len(servers(str(tmp_path))) == 6
    running.kill()
    running.wait(timeout=5)
    assert gone(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "-3"], "--duration must be from 5 to 3600 seconds, got -3"),
        (["--duration", "nan"], "--duration must be from 5 to 3600 seconds, got nan"),
        (["--rate", "inf"], "--rate must be from 1 to 1000 calls per second, got inf"),
        (["--rate", "0"], "--rate must be from 1 to 1000 calls per second, got 0"),
        (["--plot", "/nowhere/plot.png"], "--plot must be in a directory that can be written to"),
        (["--json", "/"], "--json must name a file, got the directory /"),
    ],
)
def test_bad_argument_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    """Exit code 2, with the option and its value, before anything starts."""
    done = CliRunner().invoke(app, ["demo", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"resilient: {message}")
    assert done.stderr.count("\n") == 1


def test_refusal_of_the_process_is_that_of_the_command() -> None:
    """Exit code 2, one line, and nothing on standard output."""
    process = refused("demo", "--duration", "0")
    message = "resilient: --duration must be from 5 to 3600 seconds, got 0\n"
    assert (process.returncode, process.stdout, process.stderr) == (2, "", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("demo --rate fast", "--rate must be from 1 to 1000 calls per second, got 'fast'"),
        ("demo --seed one", "--seed must be a whole number, got 'one'"),
        ("demo --duration 1min", "--duration must be from 5 to 3600 seconds, got '1min': write 60"),
        ("explain app:users --max-latency 2s", "--max-latency must be from 0 to 1e+09 seconds, got '2s': write 2"),
        (
            "explain app:users --max-requests 2.5",
            "--max-requests must be a whole number, from 0 to 1e+09 requests, got '2.5'",
        ),
        ("simulate list --max-p99 500ms", "--max-p99 must be at least 0 seconds, got '500ms': write 0.5"),
        ("simulate list --min-success 99%", "--min-success must be from 0 to 1, got '99%': write 0.99"),
        ("simulate list --min-success 99", "--min-success must be from 0 to 1, got 99: 99% is 0.99"),
        ("simulate list --max-recovery inf", "--max-recovery must be at least 0 seconds, got inf"),
        ("simulate list --runs " + "9" * 400, "--runs must be from 1 to 1000 runs, got " + "9" * 400),
    ],
)
def test_value_that_is_no_number_is_refused_in_one_line(arguments: str, message: str) -> None:
    """The line has the option, its unit, the typed value, and the number to write for a value with a unit."""
    done = CliRunner().invoke(app, arguments.split())
    assert (done.exit_code, done.stderr) == (2, f"resilient: {message}\n")


def test_help_names_the_demo() -> None:
    """The command says what it can do."""
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "demo" in done.stdout


def test_version_is_printed() -> None:
    """One line, with the name of the distribution."""
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("resilient-middleware ")


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("typer", "demo", "demo"),
        ("uvicorn", "demo", "demo"),
        ("typer", "explain app:users", "cli"),
        ("typer", "simulate list", "cli"),
        ("rich", "simulate list", "cli"),
        ("matplotlib", "simulate black-out --plot black-out.png", "lab"),
    ],
)
def test_missing_extra_is_said_in_one_line(module: str, arguments: str, extra: str, tmp_path: Path) -> None:
    """Exit code 2, and the extra that the command needs."""
    # The module seems not installed: no finder finds it.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name != {module!r}:\n"
        "            return self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = map(Without, sys.meta_path)\n"
    )
    path = os.pathsep.join((str(tmp_path), environment("")["PYTHONPATH"]))
    process = refused(*arguments.split(), PYTHONPATH=path)
    assert process.returncode == 2
    assert process.stderr == (
        f'resilient: this command needs more packages: pip install "resilient-middleware[{extra}]"\n'
    )
