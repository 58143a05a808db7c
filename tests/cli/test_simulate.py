"""`resilient simulate`: its output, its files, its exit codes, and no traceback for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from resilient.cli.app import app
from resilient.lab import comparison, estimate
from resilient.lab.scenario_file import gallery

SCENARIO = """
title = "Errors for a while"
duration = 20
[load]
rate = 50
[service]
service_time = 0.02
[[faults]]
kind = "errors"
start = 5
end = 10
[pipelines.once]
policies = [{policy = "Timeout", seconds = 1}]
[pipelines.guarded]
policies = [
    {policy = "Retry", attempts = 3, budget = true},
    {policy = "CircuitBreaker"},
    {policy = "Timeout", seconds = 1},
]
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a small scenario, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SCENARIO)
    return "small.toml"


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def written(*arguments: object) -> dict[str, Any]:
    assert simulate(*arguments, "--json", "out.json").exit_code in (0, 1)
    loaded: dict[str, Any] = json.loads(Path("out.json").read_text())
    return loaded


def test_all_pipelines_of_a_scenario_are_run_and_shown(scenario: str) -> None:
    """The table has each pipeline with its outcomes."""
    done = simulate(scenario)

    assert done.exit_code == 0
    assert "5-10 s: 100% errors" in done.stdout
    assert "once" in done.stdout
    assert "guarded" in done.stdout


def test_two_runs_of_a_seed_write_the_same_bytes(scenario: str) -> None:
    """Another seed writes other bytes."""
    files = []
    for seed in (7, 7, 8):
        simulate(scenario, "--seed", seed, "--json", "out.json")
        files.append(Path("out.json").read_bytes())

    assert files[0] == files[1] != files[2]


def test_same_bytes_in_another_process_with_other_hashes(scenario: str) -> None:
    """Nothing depends on the order of a set, or on the address of an object."""
    assert simulate(scenario, "--json", "here.json").exit_code == 0
    command = [sys.executable, "-m", "resilient", "simulate", scenario, "--json", "there.json"]
    environment = {
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run(command, env=environment, check=True, capture_output=True)

    assert Path("here.json").read_bytes() == Path("there.json").read_bytes()


def test_json_has_what_others_read(scenario: str) -> None:
    """The keys of the JSON are stable."""
    found = written(scenario, "--runs", 2, "--min-success", 0.5)
    assert found["verdict"] == "pass"

    assert set(found) == {
        *("scenario", "title", "duration_s", "clients", "faults", "seed", "runs"),
        *("pipelines", "objectives", "verdict", "notes"),
    }
    assert set(found["pipelines"]) == {"once", "guarded"}
    assert set(found["pipelines"]["once"]) >= {
        *("calls", "success", "stood_in", "requests_per_call", "recovery_s", "outcomes", "timeline"),
        *("latency_p50_s", "latency_p90_s", "latency_p99_s", "latency_max_s"),
        *("recovery_state", "recovery_unmeasurable", "faults_acted", "successes_after_duration"),
    }
    assert len(found["pipelines"]["once"]["success_of_runs"]) == 2
    assert found["objectives"][0]["objective"] == "min_success"
    assert found["faults"] == [{"kind": "errors", "start": 5.0, "end": 10.0, "description": "100% errors"}]


@pytest.mark.parametrize(
    ("option", "met", "missed"),
    [
        ("--min-success", 0.7, 0.8),
        ("--max-p99", 0.03, 0.01),
        ("--max-attempts-per-call", 1.0, 0.9),
        ("--max-recovery", 1, -1),
    ],
)
def test_missed_objective_exits_with_1_and_is_named(scenario: str, option: str, met: float, missed: float) -> None:
    """A pipeline with one attempt fails for a quarter of the time."""
    assert simulate(scenario, "--pipeline", "once", option, met).exit_code == 0
    if missed < 0:
        return  # it recovers at once
    done = simulate(scenario, "--pipeline", "once", option, missed)
    assert done.exit_code == 1
    assert f"missed: once: {option}: " in done.stdout


def test_never_recovering_misses_any_bound(scenario: str) -> None:
    """A circuit that stays open misses even a very high bound."""
    stubborn = '"CircuitBreaker", failure_rate = 0.2, break_duration = 60, max_break = 60'
    Path(scenario).write_text(Path(scenario).read_text().replace('"CircuitBreaker"', stubborn))

    done = simulate(scenario, "--pipeline", "guarded", "--max-recovery", 1000)
    assert done.exit_code == 1
    assert "missed: guarded: --max-recovery: never, to be at most 1000 s" in done.stdout


def test_objectives_of_a_comparison_are_for_the_second(scenario: str) -> None:
    """The first pipeline is only the reference."""
    assert simulate(scenario, "--compare", "guarded", "once", "--max-attempts-per-call", 1.0).exit_code == 0
    found = written(scenario, "--compare", "once", "guarded", "--min-success", 0.99)

    assert list(found["pipelines"]) == ["guarded", "once"]
    assert [each["pipeline"] for each in found["objectives"]] == ["guarded"]
    assert found["verdict"] == "miss"


def test_pipeline_of_a_module_is_tried(scenario: str) -> None:
    """MODULE:NAME may be a pipeline, or a function that makes one; `none` is no pipeline."""
    Path("pipelines_of_a_test.py").write_text(
        "from resilient import Pipeline, Retry, standard\nmine = Pipeline(Retry(2))\n"
    )
    found = written(
        scenario,
        *("--pipeline", "pipelines_of_a_test:mine", "--pipeline", "pipelines_of_a_test:standard", "--pipeline", "none"),
    )

    requests = {name: each["requests_per_call"] for name, each in found["pipelines"].items()}
    assert requests["none"] == 1
    assert requests["pipelines_of_a_test:mine"] > 1.2
    assert requests["pipelines_of_a_test:standard"] < 1.1


def test_without_objectives_there_is_no_verdict(scenario: str) -> None:
    """A report without objectives must not read as a pass."""
    assert written(scenario)["verdict"] is None


def test_plot_is_a_small_png(scenario: str) -> None:
    """The plot of several runs is a PNG of limited size."""
    assert simulate(scenario, "--runs", 2, "--plot", "out.png").exit_code == 0
    picture = Path("out.png").read_bytes()

    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000


def test_list_names_the_gallery() -> None:
    """The list has each scenario with its pipelines."""
    done = simulate("list")

    assert done.exit_code == 0
    assert all(name in done.stdout for name in gallery())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "resilient: there is no scenario 'nowhere'"),
        (
            ("small.toml", "--pipeline", "x"),
            "resilient: there is no pipeline 'x' in the scenario: it has once",
        ),
        (("small.toml", "--pipeline", "nowhere:x"), "resilient: there is no module 'nowhere'"),
        (("small.toml", "--pipeline", "once", "--pipeline", "once"), "resilient: each pipeline must be named once"),
        (("small.toml", "--compare", "once", "none", "--pipeline", "once"), "resilient: --compare names both"),
        (("small.toml", "--min-success", "1.5"), "resilient: --min-success must be from 0 to 1, got 1.5"),
        (("small.toml", "--max-p99", "nan"), "resilient: --max-p99 must be at least 0 seconds, got nan"),
        (("small.toml", "--runs", "0"), "resilient: --runs must be from 1 to 1000 runs, got 0"),
        (
            ("list", "--min-success", "0.9"),
            "resilient: `list` runs nothing, so --min-success would have no pipeline to judge",
        ),
        (
            ("small.toml", "--shadow", "--max-p99", "1", "--max-recovery", "1"),
            "resilient: --shadow lets no policy act, so --max-p99, --max-recovery would have no pipeline to judge",
        ),
        (("small.toml", "--json", "no/where.json"), "resilient: --json must be in a directory"),
        (("small.toml", "--plot", "."), "resilient: --plot must name a file"),
        (("small.toml", "--plot", "out.gif"), "resilient: --plot must end in .png, .svg or .pdf, got out.gif"),
        (("small.toml", "--plot", "out"), "resilient: --plot must end in .png, .svg or .pdf, got out"),
        (("small.toml", "--json", "a.png", "--plot", "./a.png"), "resilient: --json must be another file than --plot"),
        (
            ("small.toml", "--json", "small.toml"),
            "resilient: --json must be another file than what is read, small.toml",
        ),
        (("small.toml", "--json", "a" * 5000), "resilient: aaaa"),
    ],
)
def test_mistake_is_one_line_and_exits_with_2(scenario: str, arguments: tuple[str, ...], message: str) -> None:
    """There is no traceback."""
    done = simulate(*arguments)

    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


MINUTE = """
duration = 60
[load]
rate = {rate}
[service]
service_time = 0.1
[[faults]]
kind = "errors"
start = {start}
end = {end}
targets = {targets}
[pipelines.once]
policies = [{{policy = "Timeout", seconds = 1}}]
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "load.rate must be more than 0 at some time, got 0: no calls are made"),
        (
            {"rate": 1e-5},
            "no calls were made in 60 s: the load must have a higher rate, or the duration must be longer",
        ),
        ({"start": 600, "end": 660}, "faults[0].start must be before duration=60, got 600: no calls are made then"),
        (
            {"targets": '"srv-2"'},
            "faults[0].targets must be the only key, \"1\" (clients.keys = 1), or numbers of servers, got 'srv-2'",
        ),
        (
            {"rate": "[[0, 20], [9, 0], [51, 20]]"},
            "faults[0] (100% errors, 10-50 s) changed nothing for any request: its start, end, share or targets must "
            "be such that requests meet it",
        ),
    ],
)
@pytest.mark.parametrize("goals", [(), ("--min-success", 0.1, "--max-recovery", 50)])
def test_run_that_tests_nothing_exits_with_2(
    scenario: str, changes: dict[str, Any], message: str, goals: tuple[Any, ...]
) -> None:
    """The refusal comes before the run if possible, else after it, with or without objectives."""
    text = MINUTE.format(**{"rate": 20, "start": 10, "end": 50, "targets": "[]", **changes})
    Path(scenario).write_text(text)
    done = simulate(scenario, *goals)

    assert done.exit_code == 2
    assert done.stderr.endswith(f"{message}\n")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_recovery_without_the_time_to_see_it_is_told_everywhere(scenario: str) -> None:
    """The table, a note, the missed objectives and the JSON say that it is not measurable."""
    Path(scenario).write_text(MINUTE.format(rate=20, start=20, end=57, targets=[]))
    why = "the last fault ends at 57 s and calls are made until 60 s, which must be 62 s at least"
    done = simulate(scenario, "--max-recovery", 5)
    found = written(scenario, "--max-recovery", 5)

    assert done.exit_code == 1
    assert "│ not measurable │" in done.stdout
    assert f"note: recovery is not measurable: {why}\n" in done.stdout
    assert f"missed: once: --max-recovery: not measurable: {why}\n" in done.stdout
    assert found["notes"] == [f"recovery is not measurable: {why}"]
    assert found["objectives"][0]["not_measurable"] == found["pipelines"]["once"]["recovery_unmeasurable"] == why
    assert found["pipelines"]["once"]["recovery_state"] == "not measurable"
    assert found["pipelines"]["once"]["recovery_s"] is None


def test_objectives_without_a_pipeline_exit_with_2(scenario: str) -> None:
    """Calls without policies are judged only on request."""
    Path(scenario).write_text(Path(scenario).read_text().partition("[pipelines")[0])

    done = simulate(scenario, "--min-success", 0.5)
    assert done.exit_code == 2
    assert done.stderr == (
        "resilient: --min-success must have a pipeline to judge: "
        "give --pipeline MODULE:NAME (or none, for calls without policies)\n"
    )
    assert simulate(scenario).exit_code == 0
    assert simulate(scenario, "--min-success", 0.5, "--pipeline", "none").exit_code == 0


def test_results_are_alone_on_standard_output(scenario: str) -> None:
    """Tables, and output of the user's code, go to standard error."""
    Path("talking_in_a_test.py").write_text(
        "from resilient import Pipeline, Retry\nprint('imported')\n"
        "def make():\n    print('made')\n    return Pipeline(Retry(2))\n"
    )
    done = simulate(scenario, "--pipeline", "talking_in_a_test:make", "--json", "-")

    assert done.exit_code == 0
    assert list(json.loads(done.stdout)["pipelines"]) == ["talking_in_a_test:make"]
    assert "success %" in done.stderr
    assert not Path("-").exists()


def test_file_that_cannot_be_written_is_one_line(scenario: str) -> None:
    """The disk is full after the run."""
    if not Path("/dev/full").exists():
        return
    done = simulate(scenario, "--pipeline", "once", "--json", "/dev/full")

    assert done.exit_code == 2
    assert done.stderr == "resilient: /dev/full: No space left on device\n"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("1e9", "there is less memory here: lower that, the duration of 20 s, or --runs"),
        ("2e6", "or say --large to go on"),
    ],
)
def test_simulation_that_would_take_too_long_is_refused_at_once(
    scenario: str, monkeypatch: pytest.MonkeyPatch, rate: str, said: str
) -> None:
    """The message has the estimated cost, and how to reduce it."""
    monkeypatch.setattr(estimate, "_memory_there_is", lambda: 1e11)
    Path(scenario).write_text(SCENARIO.replace("rate = 50", f"rate = {rate}"))
    done = simulate(scenario)

    assert done.exit_code == 2
    assert done.stderr.startswith("resilient: this takes ")
    assert "GB of memory at least, most for load.rate" in done.stderr
    assert done.stderr.endswith(f"{said}\n")


def test_large_simulation_goes_on_where_it_may(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every simulation counts as large here, and `--large` lets it run."""
    monkeypatch.setattr(estimate, "LONGEST", 1e-9)
    assert simulate(scenario, "--pipeline", "once").exit_code == 2
    assert simulate(scenario, "--pipeline", "once", "--large").exit_code == 0


def test_names_and_titles_are_no_markup(scenario: str) -> None:
    """They are shown as they are written."""
    text = SCENARIO.replace("Errors for", "[bold]Errors[/nothing] for").replace("pipelines.once", 'pipelines."[/] :x:"')
    Path(scenario).write_text(text)
    done = simulate(scenario)

    assert done.exit_code == 0
    assert "[bold]Errors[/nothing] for a while" in done.stdout
    assert "[/] :x:" in done.stdout


def test_ctrl_c_exits_with_130_and_leaves_no_file(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is one line."""

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "simulate", interrupted)
    done = simulate(scenario, "--json", "out.json")

    assert done.exit_code == 130
    assert done.stderr == "resilient: stopped\n"
    assert sorted(each.name for each in Path().iterdir()) == [scenario]


def test_pipeline_that_does_not_fit_exits_with_2(scenario: str) -> None:
    """Its key function needs an attribute that the calls do not have."""
    Path("misfits_of_a_test.py").write_text(
        "from resilient import CircuitBreaker, Keyed\nmine = Keyed(CircuitBreaker, key=lambda request: request.url)\n"
    )
    done = simulate(scenario, "--pipeline", "misfits_of_a_test:mine")

    assert done.exit_code == 2
    assert done.stderr.startswith(
        "resilient: misfits_of_a_test:mine: its classifier, a key or a strategy raised AttributeError"
    )
    assert done.stderr.count("\n") == 1


def test_what_does_not_run_is_counted_in_table_and_json(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of the functions; with --run-hooks they run, and their output is not mixed with data."""
    (tmp_path / "simulated_shop.py").write_text(
        "from resilient import Fallback, Pipeline, Retry\n"
        "def ask_replica(error, key): print('asked')\n"
        "orders = Pipeline(Fallback(call=ask_replica), Retry(2))\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    options = (scenario, "--pipeline", "simulated_shop:orders")

    done = simulate(*options)
    (counted,) = written(*options)["pipelines"]["simulated_shop:orders"]["not_run"].items()
    run = simulate(*options, "--run-hooks")

    assert counted[0] == "Fallback(call=ask_replica)"
    assert f"not run in simulated_shop:orders (see --run-hooks): {counted[0]} {counted[1]} times\n" in done.stdout
    assert "asked" not in done.output
    assert run.stderr.count("asked") == counted[1] > 100
    assert "asked" not in run.stdout
    assert "not run" not in run.stdout


def test_several_runs_show_the_lowest_and_the_highest_success(scenario: str) -> None:
    """The JSON has the success of each run."""
    done = simulate(scenario, "--pipeline", "guarded", "--runs", "3", "--json", "out.json")

    shares = json.loads(Path("out.json").read_text())["pipelines"]["guarded"]["success_of_runs"]
    assert "lowest" in done.stdout
    assert f"{100 * min(shares):.2f}-{100 * max(shares):.2f}" in done.stdout


def test_calls_without_a_pipeline_are_noted(scenario: str) -> None:
    """If no pipeline is named or in the scenario; not with `--pipeline none`."""
    Path(scenario).write_text(SCENARIO.partition("[pipelines")[0])

    assert "note: calls were made without policies, because no pipeline is named" in simulate(scenario).stdout
    assert "no pipeline is named" not in simulate(scenario, "--pipeline", "none").stdout


def test_trace_that_is_given_twice_exits_with_2(scenario: str) -> None:
    """Its calls would count twice."""
    done = simulate("--trace", scenario, "--trace", f"./{scenario}")

    assert done.exit_code == 2
    assert done.stderr.startswith("resilient: --trace must name each file once, got small.toml, small.toml")
