"""The dashboards: valid in Grafana's model, every expression is PromQL over the table of metrics, the same bytes each
time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from resilient.observe.dashboards import DashboardOptions, dashboard_files, rule_groups
from resilient.observe.dashboards.expressions import Query
from tests.observe.promql import EXPORTED, metrics_in, queries

FILES = dashboard_files()
DASHBOARDS: dict[str, dict[str, Any]] = {
    name: json.loads(text) for name, text in FILES.items() if name.endswith(".json")
}

register_default_plugins()


def lost(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """The places where `theirs` does not have what `ours` has. It may have more: defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            each
            for key, value in ours.items()
            for each in (lost(value, theirs[key], f"{at}.{key}") if key in theirs else [f"{at}.{key}"])
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [each for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for each in lost(a, b, f"{at}[{i}]")]
    return [] if ours == theirs else [f"{at}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_goes_through_the_models_of_grafana_unchanged(name: str) -> None:
    """Grafana's models know every key, and give it back with its value."""
    read = Dashboard.from_json(json.loads(FILES[name]))
    assert lost(DASHBOARDS[name], json.loads(JSONEncoder().encode(read))) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_expression_is_promql_over_the_table(name: str) -> None:
    """Nothing is queried that is not exported. `ALERTS` is Prometheus's own; "" is the choice of a policy."""
    found = list(queries(DASHBOARDS[name]))
    assert len(found) > 10
    for place, expression in found:
        unknown = metrics_in(expression) - EXPORTED - {"ALERTS"} - ({""} if place == "policy" else set())
        assert not unknown, f"{place}: {expression}"


@pytest.mark.parametrize("options", [DashboardOptions(), DashboardOptions(by=("job", "namespace"), time_scale=0.001)])
def test_every_expression_of_the_rules_is_promql_over_the_table(options: DashboardOptions) -> None:
    """Besides metrics of the table, rules use what they record."""
    groups = rule_groups(options)
    recorded = {rule.name for group in groups for rule in group.recordings}
    for group in groups:
        for rule in (*group.recordings, *group.alerts):
            assert metrics_in(rule.expr) <= EXPORTED | recorded, rule.name


def test_the_parser_finds_the_metrics_of_nested_expressions() -> None:
    """The other tests stand on this."""
    expression = "sum by (a) (rate(b[5m]) or c) / on (a) (max_over_time(d[1h:1m]) > 0) and -histogram_quantile(0.5, e)"
    assert metrics_in(expression) == {"b", "c", "d", "e"}
    with pytest.raises(ValueError):
        metrics_in("sum by (a (b)")


def test_every_metric_of_the_table_is_on_a_dashboard() -> None:
    """What is counted is shown somewhere; of names that were dropped there is an alert instead."""
    shown = {metric for each in DASHBOARDS.values() for _, query in queries(each) for metric in metrics_in(query)}
    durations = ("_bucket", "_count", "_sum")
    missing = {name for name in EXPORTED - shown if not name.endswith(durations)}
    assert missing == {"resilient_pipelines_dropped"}
    assert {name for name in EXPORTED if name.endswith("_bucket")} <= shown


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_say_what_they_show_and_do_not_overlap(name: str) -> None:
    """Each panel has a title, a description, a unit and a place of its own in the grid of 24 columns."""
    taken: set[tuple[int, int]] = set()
    panels = DASHBOARDS[name]["panels"]
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        if panel["type"] in ("timeseries", "stat"):
            assert panel["fieldConfig"]["defaults"]["unit"] in ("reqps", "cps", "percentunit", "s", "short")


def test_dashboards_can_be_provisioned() -> None:
    """A stable uid, no id, no input to be asked for; each opens the others by their tag."""
    assert [each["uid"] for each in DASHBOARDS.values()] == [
        "resilient-overview",
        "resilient-dependency",
        "resilient-server",
    ]
    for name, each in DASHBOARDS.items():
        assert name == f"{each['uid']}.json"
        assert "id" not in each
        assert "__inputs" not in each
        assert each["links"][0]["tags"] == each["tags"] == ["resilient"]


def test_labels_of_sums_become_variables() -> None:
    """A choice for each label, limited by those before it."""
    files = dashboard_files(DashboardOptions(by=("namespace", "job")))
    variables = json.loads(files["resilient-overview.json"])["templating"]["list"]
    assert [each["name"] for each in variables] == ["datasource", "namespace", "job", "pipeline", "instance"]
    assert variables[3]["query"]["query"] == (
        'label_values(resilient_pipeline_mode{namespace=~"$namespace",job=~"$job"}, pipeline)'
    )


def test_panels_that_runbooks_name_exist() -> None:
    """Runbooks send their reader to panels by their titles."""
    titles = {panel["title"] for each in DASHBOARDS.values() for panel in each["panels"]}
    for group in rule_groups(DashboardOptions()):
        for alert in group.alerts:
            quoted = alert.look.split('"')[1::2] if "panel" in alert.look else []
            named = {each for each in quoted if each not in ("retry", "hedge")}
            assert named <= titles, alert.name


def test_same_options_give_the_same_bytes() -> None:
    """A change in version control is a change of the library or of the options."""
    assert dashboard_files(DashboardOptions()) == FILES
    assert dashboard_files(DashboardOptions(objective=99)) != FILES


def test_metric_or_label_that_the_table_lacks_is_refused() -> None:
    """A typing error cannot become a panel that is always empty."""
    query = Query("5m")
    with pytest.raises(KeyError, match=r"resilient\.cals"):
        query.rate("resilient.cals")
    with pytest.raises(ValueError, match=r"resilient\.calls has the labels .*, got 'endings=\"success\"'"):
        query.rate("resilient.calls", 'endings="success"')
    with pytest.raises(ValueError, match="histogram"):
        query.rate("resilient.call.duration")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": 100}, "objective must be a percentage above 0 and below 100, got 100"),
        ({"objective": 99.9999999999999}, "objective must be a percentage above 0 and below 100, got 99.99999"),
        ({"by": ("__name__",)}, "by must be names of labels that scrapes add, such as job, got '__name__'"),
        ({"objective": 0}, "objective must be a percentage above 0 and below 100, got 0"),
        ({"objective": 0.999}, "objective must be a percentage of at least 1, got 0.999: a share of 0.999 is 99.9"),
        ({"objective": "99"}, "objective must be a finite number >= 0, got '99': write 99, without quotes"),
        ({"objectives": {"a": 100}}, "objective of 'a' must be a percentage above 0 and below 100, got 100"),
        ({"budget": 10}, "budget must be a share above 0 and at most 1, got 10: 10% is 0.1"),
        ({"by": "job"}, r"by must be the names of labels, such as \('job',\), got 'job'"),
        ({"by": ()}, r"by must be the names of labels, such as \('job',\), got \(\)"),
        ({"by": ("pipeline",)}, "by must be names of labels that scrapes add, such as job, got 'pipeline'"),
        ({"by": ("a-b",)}, "by must be names of labels that scrapes add, such as job, got 'a-b'"),
        ({"by": ("job", "job")}, "by must name each label once, got"),
        ({"runbook_url": "wiki"}, "runbook_url must be the address of a page without a #, got 'wiki'"),
        ({"runbook_url": "https://wiki/a#b"}, "runbook_url must be the address of a page without a #"),
        ({"time_scale": 0}, "time_scale must be a share above 0 and at most 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    """The error names the option, its value, and what would be right."""
    with pytest.raises((ValueError, TypeError), match=message):
        DashboardOptions(**options)


def test_alerts_link_to_their_section_of_the_runbook() -> None:
    """The anchors are those that GitHub and most wikis make of headings."""
    files = dashboard_files(DashboardOptions(runbook_url="https://wiki.example/resilient"))
    assert 'runbook_url: "https://wiki.example/resilient#resilientcircuitopen"' in files["resilient-rules.yaml"]
    assert "\n## ResilientCircuitOpen\n" in files["resilient-runbook.md"]
    assert "runbook_url" not in FILES["resilient-rules.yaml"]
