"""docs/scenarios.md: its tables name the keys that the reader of scenario files accepts, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from resilient.lab.distributions import KINDS as DISTRIBUTIONS
from resilient.lab.pipeline_table import POLICIES, PRESETS
from resilient.lab.scenario_file import LOADS, ScenarioError, scenario_from
from resilient.lab.service import FAULTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()


def documented(place: str) -> set[str]:
    """The keys in the tables for a place, such as `[[load]] burst`, and for all places of its kind."""
    table, _, kind = place.partition(" ")
    found: set[str] = set()
    for row in re.findall(r"^\| (`.*)$", DOCUMENT, re.MULTILINE):
        of, keys, *_ = row.split(" | ")
        if of in (f"`{table}`", f"`{table}` of each kind", f"`{table}` with `{kind}`") or (
            of.startswith(f"`{table}` with") and f' = "{kind}"`' in of
        ):
            found |= set(re.findall(r"`(\w+)(?: = [^`]*)?`", re.sub(r"\(.*?\)", "", keys)))
    return found


def world(**changes: Any) -> dict[str, Any]:
    return {"duration": 60, "load": {"rate": 1}, "service": {"service_time": 1}, **changes}


def pipeline(**keys: Any) -> dict[str, Any]:
    return world(pipelines={"a": {**keys, "unknown": 1}})


NEEDED: dict[str, dict[str, Any]] = {
    "Hedge": {"delay": 1},
    "RateLimit": {"rate": 1},
    "Timeout": {"seconds": 1},
    "Keyed": {"each": {"policy": "Bulkhead"}},
}
RETRY = [{"policy": "Retry"}]
SIZES: dict[str, dict[str, Any]] = {"poisson": {"rate": 1}, "closed": {"users": 1}, "burst": {"calls": 1}}
OF_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "uniform": ("low", "high"),
    "normal": ("mean", "deviation"),
    "lognormal": ("mean", "deviation"),
    "exponential": ("mean",),
    "pareto": ("low", "shape"),
    "empirical": (),
    "mixture": ("parts",),
}

PLACES: dict[str, dict[str, Any]] = {
    "top": world(unknown=1),
    "[clients]": world(clients={"unknown": 1}),
    **{f"[[load]] {kind}": world(load={"kind": kind, **SIZES[kind], "unknown": 1}) for kind in LOADS},
    "[service]": world(service={"service_time": 1, "unknown": 1}),
    "[service.link]": world(service={"service_time": 1, "link": {"unknown": 1}}),
    "[service.rate_limit]": world(service={"service_time": 1, "rate_limit": {"rate": 1, "unknown": 1}}),
    **{f"[[faults]] {fault.kind}": world(faults=[{"kind": fault.kind, "unknown": 1}]) for fault in FAULTS},
    **{f"[calls] {kind}": world(calls={"kind": kind, "unknown": 1}) for kind in ("functions", "http")},
    "[pipelines.NAME] policies": pipeline(policies=RETRY),
    "[pipelines.NAME] import": pipeline(**{"import": "builtins:ConnectionError"}),
    **{f"[pipelines.NAME] {preset}": pipeline(preset=preset) for preset in PRESETS},
    "[pipelines.NAME.budget]": world(pipelines={"a": {"policies": RETRY, "budget": {"unknown": 1}}}),
    **{
        f"distribution {kind}": world(service={"service_time": {"kind": kind, **dict.fromkeys(keys, 1), "unknown": 1}})
        for kind in DISTRIBUTIONS
        for keys in [OF_DISTRIBUTIONS[kind]]
    },
    **{
        f"policy {name}": world(pipelines={"a": {"policies": [{"policy": name, **NEEDED.get(name, {}), "unknown": 1}]}})
        for name in POLICIES
    },
}


def accepted(data: dict[str, Any]) -> set[str]:
    """The keys that the reader lists as allowed when one is `unknown`."""
    with pytest.raises(ScenarioError) as caught:
        scenario_from(data, imports=True)
    found = re.search(r"unknown'?\"?: (?:allowed are|\w+ may have) ([\w, ]+)", str(caught.value))
    assert found, caught.value
    return set(found[1].split(", "))


@pytest.mark.parametrize("place", PLACES)
def test_keys_of_each_place_are_documented(place: str) -> None:
    """The document has exactly the keys that the reader accepts."""
    more = {"kind"} if place.startswith("[[faults]]") else set()  # its message leaves that out

    assert documented(place) == accepted(PLACES[place]) | more


@pytest.mark.parametrize("table", ["top", "[service]", "[[load]] poisson"])
def test_key_of_another_table_is_told_where_it_belongs(table: str) -> None:
    """The keys of calls are a setting of the clients."""
    data = json.loads(json.dumps(PLACES[table]).replace("unknown", "keys"))

    with pytest.raises(ScenarioError, match=r"there is no '.*keys': allowed are .*; keys belongs in \[clients\]$"):
        scenario_from(data)


@pytest.mark.parametrize("keys", [["eu", "us"], "eu"])
def test_names_of_keys_are_refused_with_what_keys_are_called(keys: object) -> None:
    """The message says that the number of keys is given, not their names."""
    with pytest.raises(ScenarioError, match=r'^clients.keys must be the number of keys \("1", "2", \.\.\.\)'):
        scenario_from(world(clients={"keys": keys}))
