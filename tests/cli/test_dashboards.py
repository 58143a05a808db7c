"""`resilient dashboards`: its files, its options, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.observe.dashboards import DashboardOptions, dashboard_files


def dashboards(*arguments: object) -> Result:
    """Runs the command in this process."""
    return CliRunner().invoke(app, ["dashboards", *map(str, arguments)])


def test_all_files_are_written(tmp_path: Path) -> None:
    """Into a directory that is made; their names are printed. A second run replaces them."""
    out = tmp_path / "deep" / "out"
    for _ in range(2):
        done = dashboards("--out", out)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [str(out / name) for name in dashboard_files()]
        assert {file.name: file.read_text() for file in out.iterdir()} == dashboard_files()


def test_options_reach_the_files(tmp_path: Path) -> None:
    """Each option has its effect."""
    options = (
        "--objective",
        99,
        "--objective",
        "batch=95",
        "--budget",
        0.2,
        "--by",
        "namespace",
        "--by",
        "job",
        "--time-scale",
        0.5,
    )
    done = dashboards("--out", tmp_path, *options, "--runbook-url", "https://wiki/r")
    assert done.exit_code == 0, done.output
    expected = dashboard_files(
        DashboardOptions(
            objective=99,
            objectives={"batch": 95},
            budget=0.2,
            by=("namespace", "job"),
            time_scale=0.5,
            runbook_url="https://wiki/r",
        )
    )
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == expected
    rules = expected["resilient-rules.yaml"]
    assert 'namespace_job_pipeline:resilient_calls_bad:ratio_rate1h{pipeline!="batch"} > 14.4 * 0.01 or' in rules
    assert "> 0.2\n" in rules
    assert "[150s]" in rules
    assert "for: 1m\n" in rules


def test_list_as_json(tmp_path: Path) -> None:
    """With `-`, standard output has nothing but the JSON."""
    done = dashboards("--out", tmp_path, "--json", "-")
    listed = json.loads(done.stdout)
    assert listed["files"] == list(dashboard_files())
    assert listed["dashboards"][0] == {
        "file": "resilient-overview.json",
        "uid": "resilient-overview",
        "title": "resilient: all pipelines",
    }
    alerts = {each["name"]: each for each in listed["alerts"]}
    assert set(alerts["ResilientCircuitOpen"]) == {"name", "severity", "for_seconds", "expr", "means"}
    assert alerts["ResilientCircuitOpen"]["for_seconds"] == 300
    assert len(listed["recordings"]) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "100"], "--objective must be a percentage above 0 and below 100, got 100"),
        (["--objective", "99.9%"], "--objective must be a percentage, such as 99.9 or users=99.5, got '99.9%'"),
        (["--objective", "a=0"], "--objective of 'a' must be a percentage above 0 and below 100, got 0"),
        (["--objective", "0.99"], "--objective must be a percentage of at least 1, got 0.99: a share of 0.99 is 99"),
        (["--objective", "nan"], "--objective must be a finite number >= 0, got nan"),
        (["--objective", "=99"], "--objective must be a percentage, such as 99.9 or users=99.5, got '=99'"),
        (["--budget", "0"], "--budget must be a share above 0 and at most 1, got 0"),
        (["--budget", "10"], "--budget must be from 0 to 1, got 10: 10% is 0.1"),
        (["--by", "pipeline"], "--by must be names of labels that scrapes add, such as job, got 'pipeline'"),
        (["--runbook-url", "wiki"], "--runbook-url must be the address of a page without a #, got 'wiki'"),
        (["--time-scale", "0"], "--time-scale must be a share above 0 and at most 1, got 0"),
    ],
)
def test_bad_option_is_refused_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Exit code 2, the option, its value and what would be right; nothing is written."""
    done = dashboards("--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"resilient: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """The file stays as it is."""
    (tmp_path / "out").write_text("mine")
    done = dashboards("--out", tmp_path / "out")
    assert (done.exit_code, done.stderr) == (
        2,
        f"resilient: --out must name a directory, got the file {tmp_path}/out\n",
    )
    done = dashboards("--out", tmp_path / "out" / "in")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "out").read_text() == "mine"


def test_empty_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of a shell's variable which is not set, and not the current one."""
    monkeypatch.chdir(tmp_path)
    done = dashboards("--out", "")
    assert (done.exit_code, done.stderr) == (
        2,
        "resilient: --out must name a directory, got ''; the current one is .\n",
    )
    assert list(tmp_path.iterdir()) == []
    assert dashboards("--out", ".").exit_code == 0


def test_out_is_needed() -> None:
    """There is no default: files in the wrong place are easily missed."""
    assert dashboards().exit_code == 2
