"""The results of a run, as a table for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resilient.demo.experiment import Experiment
from resilient.demo.extras import Extras
from resilient.demo.gates import LATE_SECONDS, Gate
from resilient.demo.load import Load
from resilient.demo.tally import Tally, tally

__all__ = ["as_json", "milliseconds", "percent", "ratio", "verdict"]

CIRCUIT_LINES = 30  # lines of circuit changes; the JSON has all of a long run

_GATE_TITLES = {
    "resilient_success_rate": "resilient success",
    "plain_success_rate": "plain success",
    "resilient_requests_per_call": "resilient requests per call",
    "plain_late_share": f"plain calls later than {1000 * LATE_SECONDS:g} ms",
}


def percent(share: float | None) -> str:
    """A share as a percentage, for tables; "-" without a value."""
    return "-" if share is None else f"{100 * share:.2f} %"


def milliseconds(seconds: float | None) -> str:
    """A latency in milliseconds, for tables; "-" without a value."""
    return "-" if seconds is None else f"{1000 * seconds:,.0f} ms"


def ratio(value: float | None) -> str:
    """A number of requests per call, for tables; "-" without a value."""
    return "-" if value is None else f"{value:.3f}"


def _errors(figures: Tally) -> str:
    return ", ".join(f"{name} {count}" for name, count in figures.errors.items()) or "none"


def verdict(experiment: Experiment) -> RenderableType:
    """The figures of both sides, the faults, the changes of circuits, and the gates."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    loads = (experiment.plain, experiment.resilient)
    figures = [tally(load.records) for load in loads]
    for load in loads:
        table.add_column(load.name, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("calls", [f"{each.calls:,}" for each in figures]),
        ("success", [percent(each.success_rate) for each in figures]),
        ("latency p50", [milliseconds(each.p50) for each in figures]),
        ("latency p99", [milliseconds(each.p99) for each in figures]),
        ("latency p99.9", [milliseconds(each.p999) for each in figures]),
        ("requests per call", [ratio(load.requests_per_call) for load in loads]),
        *((title, ["-", f"{count:,}"]) for title, count in _extras(experiment.extras)),
    ]
    for title, cells in rows:
        table.add_row(title, *cells)
    lines = [Text(f"{load.name} errors: {_errors(each)}") for load, each in zip(loads, figures, strict=True)]
    return Group(
        table,
        Text("Latency is that of successful calls, from the moment each was due.", style="dim"),
        Text("Each hedge and each retry costs the budget one token.", style="dim"),
        *lines,
        Text(),
        Text("Faults", style="bold"),
        *(Text(f"  {line}") for line in _faults(experiment)),
        Text(),
        Text("Circuits", style="bold"),
        *(Text(f"  {line}") for line in _circuits(experiment)),
        Text(),
        *_verdict(experiment),
    )


def _extras(extras: Extras) -> list[tuple[str, int]]:
    return [
        ("hedges started", len(extras.hedges)),
        ("hedges won", len(extras.won)),
        ("retries", len(extras.retries)),
        ("budget spent", extras.spent),
        ("budget refused", len(extras.refused)),
    ]


def _faults(experiment: Experiment) -> list[str]:
    plan = experiment.plan
    timed = [(burst.start, burst.until, burst.describe()) for burst in plan.bursts]
    start, end = _away(experiment)
    timed.append((start, end, plan.crash.describe() + ", until its replacement answered"))
    return [
        f"throughout      {plan.latency.describe()}",
        *(f"{start:5.1f} - {end:4.1f} s  {what}" for start, end, what in sorted(timed)),
    ]


def _away(experiment: Experiment) -> tuple[float, float]:
    """The time in which the killed process was down: as seen on the resilient side, else as planned."""
    crash = experiment.plan.crash
    start, end = experiment.down.get("resilient", (crash.start, None))
    return start, crash.until if end is None else end


def _circuits(experiment: Experiment) -> list[str]:
    lines = [f"{news.at:6.2f} s  {news.circuit}: {news.old} -> {news.new} ({news.reason})" for news in experiment.news]
    if len(lines) > CIRCUIT_LINES:
        lines[CIRCUIT_LINES:] = [f"... and {len(lines) - CIRCUIT_LINES} more changes"]
    return lines or ["closed all the time"]


def _verdict(experiment: Experiment) -> list[Text]:
    """The gates, one on each line; if the machine is too slow for the load, only that."""
    *policies, machine = experiment.gates
    if machine.passed or machine.value is None:
        return [_gate(gate) for gate in (*policies, machine)]
    slow = (
        f"This machine cannot keep up with {experiment.settings.rate:g} calls/s on each side: of the plain client's "
        f"calls, which no policy touches, {percent(machine.value)} took more than {1000 * LATE_SECONDS:g} ms, and the "
        f"faults make {percent(experiment.plan.latency.share)} so late. The figures say nothing about the policies: "
        "end other programs, or lower --rate."
    )
    return [_gate(machine), Text(slow)]


def _gate(gate: Gate) -> Text:
    requests = gate.name.endswith("per_call")
    value = ratio(gate.value) if requests else percent(gate.value)
    limit = f"{gate.limit:g}" if requests else f"{100 * gate.limit:g} %"
    word, style = ("pass", "bold green") if gate.passed else ("FAIL", "bold red")
    text = Text(word, style=style)
    text.append(f"  {_GATE_TITLES[gate.name]} {value} {gate.comparison} {limit}", style="not bold default")
    return text


def as_json(experiment: Experiment) -> dict[str, Any]:
    """The whole run as plain data, with stable keys that name their units."""
    settings = experiment.settings
    gates, extras = experiment.gates, experiment.extras
    return {
        "seed": settings.seed,
        "duration_seconds": settings.duration,
        "rate_per_second": settings.rate,
        "faults": experiment.plan.as_json(),
        "downtime": {
            side: {
                "start_seconds": round(start, 3),
                "end_seconds": None if end is None else round(end, 3),
            }
            for side, (start, end) in sorted(experiment.down.items())
        },
        "plain": _side(experiment.plain),
        "resilient": {
            **_side(experiment.resilient),
            "hedges_started": len(extras.hedges),
            "hedges_won": len(extras.won),
            "retries": len(extras.retries),
            "budget_spent_requests": extras.spent,
            "budget_refused_requests": len(extras.refused),
            "circuit_changes": [
                {
                    "at_seconds": round(news.at, 3),
                    "circuit": news.circuit,
                    "old": news.old,
                    "new": news.new,
                    "reason": news.reason,
                }
                for news in experiment.news
            ],
        },
        "gates": [
            {
                "name": gate.name,
                "value": gate.value,
                "comparison": gate.comparison,
                "limit": gate.limit,
                "passed": gate.passed,
            }
            for gate in gates
        ],
        "passed": all(gate.passed for gate in gates),
    }


def _side(load: Load) -> dict[str, Any]:
    figures = tally(load.records)
    return {
        "calls": figures.calls,
        "succeeded": figures.succeeded,
        "success_rate": figures.success_rate,
        "errors": figures.errors,
        "p50_ms": _ms(figures.p50),
        "p99_ms": _ms(figures.p99),
        "p99_9_ms": _ms(figures.p999),
        "requests": load.requests,
        "requests_per_call": load.requests_per_call,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
