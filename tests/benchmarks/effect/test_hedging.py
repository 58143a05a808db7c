"""The hedging benchmark, over loopback with few requests. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks.effect import hedging


def run(name: str, folder: Path) -> dict[str, Any]:
    file, plot = folder / "found.json", folder / "found.png"
    status = command.main([name, "--quick", "--json", str(file), "--plot", str(plot)])
    assert plot.read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads(file.read_text())
    assert status == (found["verdict"] == "miss")
    return found


def test_hedges_are_compared_with_every_peer_over_a_real_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each peer has bars on the tail, the extra requests and the failures, and every contender has its requests
    answered."""
    monkeypatch.setattr(hedging, "QUICK", hedging.Plan(rounds=2, requests=5, warm=1, calls=60))
    monkeypatch.setattr(hedging, "SAMPLES", 20)
    figures = run("hedging", tmp_path)["figures"]

    measured = [each for each in figures if "success_percent" in each]
    assert len(measured) == len(hedging.CONTENDERS)
    assert all(each["p999_ms"] > 4 and each["success_percent"] > 50 for each in measured)
    lost = [each["lost"] for each in figures if "lost" in each]
    assert lost == [0, 0]
    bars = [next(iter(each["bar"])) for each in figures if each["bar"] and "lost" not in each]
    rivals = sum(bool(each.rival) for each in hedging.CONTENDERS)
    assert rivals >= 2
    assert len(bars) == 3 * rivals
