"""Panels, variables and dashboards of Grafana as plain data, in its JSON model.

The model is schema version 36, that of Grafana 9.1; later versions migrate it when they load it. A dashboard has a
fixed uid and no id, so it can be imported by hand or provisioned from a file, again and again.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart. They are fixed for what
has few values (endings, states). Series that are named by users have a legend with their latest values beside the
colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "AMBER",
    "BLUE",
    "ENDINGS",
    "GREEN",
    "GREY",
    "PURPLE",
    "RED",
    "SKY",
    "Target",
    "annotation",
    "dashboard",
    "heatmap",
    "row",
    "stat",
    "state_timeline",
    "table",
    "timeseries",
    "variable",
]

SCHEMA_VERSION = 36
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

GREEN, RED, AMBER, BLUE = "#009E73", "#D55E00", "#E69F00", "#0072B2"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#999999"
ENDINGS = {"success": GREEN, "failure": RED, "timeout": AMBER, "rejected": BLUE, "cancelled": GREY}
"""The colours of endings of calls."""

Panel = dict[str, Any]


class Target(NamedTuple):
    """A query of a panel: an expression, and the template of its legend."""

    expr: str
    legend: str


def timeseries(
    title: str,
    description: str,
    *targets: Target,
    unit: str,
    stack: bool = False,
    colors: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    threshold: float | None = None,
    most: float | None = None,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Lines over time.

    Args:
        unit: of Grafana: `reqps`, `percentunit`, `s`, `short`.
        stack: one on the other, as areas.
        colors: by the names of series.
        dashed: series that are limits, drawn as dashed lines.
        threshold: a value above which something is wrong, drawn as a line.
        most: the end of the axis; default: as the values need.
    """
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 60 if stack else 5,
        "showPoints": "never",
        "spanNulls": False,
    }
    if stack:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    if threshold is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    defaults: dict[str, Any] = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "thresholds": _thresholds(threshold),
        "custom": custom,
    }
    if most is not None:
        defaults["max"] = most
    overrides = [_fixed(name, color) for name, color in (colors or {}).items()]
    for name in dashed:
        style = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}
        overrides.append({"matcher": {"id": "byRegexp", "options": f"/{name}/"}, "properties": [style]})
    return {
        **_panel("timeseries", title, description, targets, width, height),
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def stat(
    title: str,
    description: str,
    target: Target,
    *,
    unit: str,
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),),
    decimals: int | None = None,
    empty: str = "0",
    width: int = 4,
    height: int = 4,
) -> Panel:
    """The latest value as a large number.

    Args:
        steps: colours from a value on, in rising order; the first is None.
        empty: shown without a value.
    """
    defaults: dict[str, Any] = {
        "unit": unit,
        "noValue": empty,
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]},
        "color": {"mode": "thresholds"},
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    return {
        **_panel("stat", title, description, (target,), width, height),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "value",
            "justifyMode": "auto",
            "orientation": "auto",
        },
    }


def state_timeline(
    title: str,
    description: str,
    target: Target,
    states: Sequence[tuple[str, str]],
    *,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """A bar for each series: its state over time. `states`: names and colours of the values from 0."""
    mapping = {
        "type": "value",
        "options": {str(at): {"text": name, "color": color, "index": at} for at, (name, color) in enumerate(states)},
    }
    return {
        **_panel("state-timeline", title, description, (target,), width, height),
        "fieldConfig": {
            "defaults": {
                "mappings": [mapping],
                "color": {"mode": "thresholds"},
                "thresholds": _thresholds(None),
                "custom": {"lineWidth": 0, "fillOpacity": 80},
            },
            "overrides": [],
        },
        "options": {
            "mergeValues": True,
            "showValue": "auto",
            "alignValue": "left",
            "rowHeight": 0.9,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }


def heatmap(title: str, description: str, expr: str, *, width: int = 12, height: int = 8) -> Panel:
    """The buckets of a histogram of seconds over time."""
    panel = _panel("heatmap", title, description, (Target(expr, "{{le}}"),), width, height)
    panel["targets"][0]["format"] = "heatmap"
    return {
        **panel,
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {
            "calculate": False,
            "color": {
                "mode": "scheme",
                "scheme": "Viridis",
                "fill": BLUE,
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "yAxis": {"axisPlacement": "left", "unit": "s"},
            "cellGap": 1,
            "showValue": "never",
            "legend": {"show": True},
            "tooltip": {"show": True, "yHistogram": False},
            "exemplars": {"color": RED},
            "filterValues": {"le": 1e-9},
        },
    }


def table(
    title: str,
    description: str,
    columns: Mapping[str, tuple[str, str]],
    *,
    by: Sequence[str],
    links: Mapping[str, str] | None = None,
    height: int = 9,
) -> Panel:
    """The latest values, a row for each combination of the labels `by`.

    Args:
        columns: expression and unit by the title of each column.
        links: addresses by the title of a column.
    """
    targets = tuple(Target(expr, "__auto") for expr, _ in columns.values())
    panel = _panel("table", title, description, targets, COLUMNS, height)
    overrides: list[dict[str, Any]] = []
    renamed: dict[str, str] = {}
    for target, (column, (_, unit)) in zip(panel["targets"], columns.items(), strict=True):
        target.update(instant=True, range=False, format="table")
        renamed[f"Value #{target['refId']}"] = column
        overrides.append(_override(column, {"id": "unit", "value": unit}))
    for column, url in (links or {}).items():
        link = {"title": "Open the dependency", "url": url}
        overrides.append(_override(column, {"id": "links", "value": [link]}))
    order = {name: at for at, name in enumerate((*by, *renamed))}
    return {
        **panel,
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": renamed},
            },
        ],
        "fieldConfig": {"defaults": {"thresholds": _thresholds(None)}, "overrides": overrides},
        "options": {"showHeader": True, "sortBy": [{"displayName": by[-1], "desc": False}]},
    }


def row(title: str) -> Panel:
    """A heading over the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def variable(name: str, query: str, label: str, *, several: bool = True) -> dict[str, Any]:
    """A choice among the values of a label. `several`: more than one at a time, or all."""
    current = {"selected": True, "text": ["All"], "value": ["$__all"]} if several else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,  # whenever the time range changes: services come and go
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "hide": 0,
        "skipUrlSync": False,
        **({"allValue": ".*"} if several else {}),
        **({"current": current} if current else {}),
    }


def annotation(name: str, expr: str, color: str) -> dict[str, Any]:
    """Marks on all panels, where an expression has a value."""
    return {"name": name, "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": color, "expr": expr}


def dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    panels: Sequence[Panel],
) -> dict[str, Any]:
    """A dashboard; `panels` in the order of reading, each to the right of the one before while there is room."""
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["resilient"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "style": "dark",
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *variables]},
        "annotations": {"list": list(annotations)},
        "links": [
            {
                "type": "dashboards",
                "title": "resilient",
                "tags": ["resilient"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": _placed(panels),
    }


def _panel(
    kind: str, title: str, description: str, targets: Sequence[Target], width: int, height: int
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": DATASOURCE,
                "expr": target.expr,
                "legendFormat": target.legend,
                "editorMode": "code",
                "range": True,
                "instant": False,
            }
            for at, target in enumerate(targets)
        ],
    }


def _placed(panels: Sequence[Panel]) -> list[Panel]:
    """The panels with their ids and places."""
    placed: list[Panel] = []
    x = y = below = 0
    for number, panel in enumerate(panels, 1):
        size = panel.get("gridPos", {"w": COLUMNS, "h": 1})
        if x + size["w"] > COLUMNS:
            x, y = 0, below
        placed.append({**panel, "id": number, "gridPos": {"x": x, "y": y, **size}})
        x, below = x + size["w"], max(below, y + size["h"])
    return placed


def _thresholds(threshold: float | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"value": None, "color": GREEN}]
    if threshold is not None:
        steps.append({"value": threshold, "color": RED})
    return {"mode": "absolute", "steps": steps}


def _override(column: str, *properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": column}, "properties": list(properties)}


def _fixed(name: str, color: str) -> dict[str, Any]:
    return _override(name, {"id": "color", "value": {"mode": "fixed", "fixedColor": color}})
