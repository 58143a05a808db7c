"""The middleware benchmark, over loopback with few requests. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.cost import middleware, middleware_server
from benchmarks.harness import loopback


def run(name: str, folder: Path) -> dict[str, Any]:
    file, plot = folder / "found.json", folder / "found.png"
    status = command.main([name, "--quick", "--json", str(file), "--plot", str(plot)])
    assert plot.read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(file.read_text())
    assert status == (found["verdict"] == "miss")
    return found


def test_middleware_is_measured_under_every_server_and_judged_under_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each row stands beside Starlette alone and its CORSMiddleware, which two of the bars are ratios to."""
    monkeypatch.setattr(middleware, "QUICK", loopback.Plan(rounds=2, requests=10))
    found = run("middleware", tmp_path)

    rows = {(each["group"], each["name"]): each for each in found["figures"]}
    for protocol, loop in middleware.SERVERS:
        group = f"uvicorn, {protocol}, {loop}"
        for name in (middleware.PEER, *middleware_server.settings()):
            row = rows[group, name]
            assert "added_percent" in row or "not installed" in row["note"]
            unmeasurable = rows[group, middleware.PEER].get("added_percent", 0) <= 0  # possible with so few requests
            assert name == middleware.PEER or "cors_x" in row or unmeasurable or "not installed" in row["note"]
    judged = {each["name"]: each["bar"] for each in found["figures"] if each["bar"]}
    assert judged == {
        "nothing asked": {"added_percent_at_most": 5},
        "deadline, priority, Bulkhead": {"cors_x_at_most": 1},
        "deadline, priority, AdaptiveLimit": {"cors_x_at_most": 1.2},
    }
