"""The simulation benchmark: its report, and one result for one seed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.cost import lab
from benchmarks.harness.options import Options

SMALL = lab.Plan(calls=2_000, runs=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls: these tests check the report, not the speed."""
    monkeypatch.setattr(lab, "QUICK", SMALL)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of one run."""
    file = tmp_path_factory.mktemp("lab") / "lab.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "QUICK", SMALL)
        command.main(["lab", "--quick", "--json", str(file)])
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def test_json_keys_are_stable(found: dict[str, Any]) -> None:
    """Programs that read the figures find them under the same names."""
    assert set(found) == {"benchmark", "verdict", "conditions", "figures"}
    ours = next(figure for figure in found["figures"] if figure["name"] == "resilient")
    assert set(ours) == {
        "group",
        "name",
        "ours",
        "calls_per_s",
        "slowest_calls_per_s",
        "succeeded_percent",
        "requests_per_call_x",
        "p50_ms",
        "p99_ms",
        "bar",
        "verdict",
        "at_bar",
        "note",
    }
    assert ours["bar"] == {"calls_per_s_at_least": 15_000}


def test_two_runs_with_one_seed_agree_in_every_call(found: dict[str, Any]) -> None:
    """With and without an outage that opens the circuit."""
    figures = found["figures"]
    for key in ("differing_calls", "differing_files"):
        assert [(each[key], each["verdict"]) for each in figures if key in each] == [(0, "pass")] * 2


def test_differing_calls_are_counted_and_miss_the_bar() -> None:
    """In the second run, one call of three took another time, and the JSON differs."""
    ends = [(0.0, 0.1, "success"), (1.0, 1.2, "success"), (2.0, 2.3, "Unavailable")]
    other = [*ends[:2], (2.0, 2.4, "Unavailable")]
    calls, files = lab.same(lab.CONTENDERS[0], [lab.Try(1.0, ends, 3, "{}"), lab.Try(1.0, other, 3, "{ }")])

    assert (calls.values, calls.verdict) == ({"differing_calls": 1}, "miss")
    assert (files.values, files.verdict) == ({"differing_files": 1}, "miss")


def test_another_seed_gives_other_results(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed reaches the simulated service."""
    monkeypatch.setattr(lab, "CONTENDERS", lab.CONTENDERS[:1])
    other = lab.run(Options(quick=True, seed=found["conditions"]["seed"] + 1)).figures[0]
    first = found["figures"][0]
    assert first["name"] == other.name
    assert first["p99_ms"] != other.values["p99_ms"]


def test_policies_change_the_results(found: dict[str, Any]) -> None:
    """Retries repair failures, and an open circuit keeps requests from a service that is down."""
    figures = {figure["name"]: figure for figure in found["figures"]}
    ours, bare = figures["resilient"], figures["no policy"]
    outage = figures["resilient, outage"]

    assert ours["succeeded_percent"] > bare["succeeded_percent"]
    assert ours["requests_per_call_x"] > bare["requests_per_call_x"] == 1
    assert outage["succeeded_percent"] < ours["succeeded_percent"]


def test_contender_that_is_not_installed_is_a_row_without_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers are optional: the row says that the library is not installed."""

    def missing() -> Any:
        raise ModuleNotFoundError("no such peer")

    absent = lab.Contender("absent", missing)
    monkeypatch.setattr(lab, "CONTENDERS", (replace(lab.CONTENDERS[2]), absent))

    figure = lab.run(Options(quick=True)).figures[-1]

    assert (figure.name, figure.values, figure.note) == ("absent", {}, "not installed")
