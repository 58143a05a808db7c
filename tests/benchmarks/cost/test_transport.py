"""The transport benchmark: every row answers, and the report is complete. No times are judged."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.contenders import clients
from benchmarks.contenders.clients import CONTENDERS, Contender
from benchmarks.contenders.targets import Stage
from benchmarks.cost import transport
from benchmarks.harness import loopback, measure
from benchmarks.harness.measure import Subject
from benchmarks.harness.options import Options
from benchmarks.harness.report import Bar, Report

SMALL = measure.Plan(rounds=2, batch=1e-5)


SMALL_LOOPBACK = loopback.Plan(rounds=2, requests=1, judged_blocks=2)


MODULES: dict[clients.Library, Any] = {"httpx": httpx, "httpx2": httpx2}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few requests: these tests check the report, not the speed."""
    monkeypatch.setattr(transport, "QUICK", SMALL)
    monkeypatch.setattr(transport, "QUICK_LOOPBACK", SMALL_LOOPBACK)


@pytest.fixture(scope="module")
def report() -> Report:
    """One run of all groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "QUICK", SMALL)
        patch.setattr(transport, "QUICK_LOOPBACK", SMALL_LOOPBACK)
        return transport.run(Options(quick=True))


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("library", clients.LIBRARIES)
def test_every_transport_answers_a_request(library: clients.Library, is_async: bool) -> None:
    """Ours and the peers', for both clients, async or not."""
    with Stage(is_async) as stage:
        problems = []
        for contender in transport.contenders(library, is_async):
            inner = transport.instant(MODULES[library], is_async)
            built = transport._built(contender, library, is_async, inner)
            if built == "not installed":
                continue
            subject = transport._subject(contender, built, MODULES[library], stage)
            if not isinstance(subject, Subject):
                problems.append((contender.name, subject))
            transport._close(built, stage)
    assert problems == []


def test_request_is_one_that_the_client_built() -> None:
    """It has the client's headers, and its timeouts, which a transport compares with its deadline."""
    built = transport.request(httpx, is_async=True)

    assert built.extensions["timeout"] == {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}
    assert "user-agent" in built.headers


async def test_unread_body_is_read_to_its_end() -> None:
    """So work that waits for the end of a body counts. The other kind of response has been read from the start."""
    request = transport.request(httpx, is_async=True)
    handle = transport.instant(httpx, True, "body").handle_async_request

    assert not (await handle(request)).is_closed
    response = await transport._read(handle)(request)
    assert (response.content, response.is_closed) == (b"ok", True)
    assert (await transport.instant(httpx, True).handle_async_request(request)).is_closed


def test_bars_of_our_rows_are_ratios_to_their_rivals(report: Report) -> None:
    """For httpx and async: ratios of the cost, and over loopback of the added processor time."""
    bars = {(figure.group, figure.name): figure.bar for figure in report.figures if figure.bar}
    assert bars == {
        ("instant: async, httpx", "retry only"): Bar("ratio_x", 1.0, against="httpx-retries"),
        ("instant: async, httpx", "standard()"): Bar("ratio_x", 0.7, against="httpx-retries + interlock-cb"),
        ("loopback: httpx", "standard()"): Bar("ratio_x", 1.15, against="httpx-retries + interlock-cb"),
    }


def test_json_keys_are_stable_and_a_plot_is_drawn(report: Report, tmp_path: Path) -> None:
    """Programs that read the figures find them under the same names."""
    file, plot = tmp_path / "transport.json", tmp_path / "transport.png"
    command.conclude(report, Console(file=io.StringIO()), file, plot)
    found = json.loads(file.read_text())

    rows = {(figure["group"], figure["name"]): figure for figure in found["figures"]}
    always = {"group", "name", "ours", "bar", "verdict", "at_bar", "note"}
    times = {"multiple_x", "multiple_low_x", "multiple_high_x", "lower_quartile_x", "upper_quartile_x", "call_ns"}
    held = {"against", "ratio_x", "ratio_low_x", "ratio_high_x"}
    costs = {"request_cpu_ns", "requests_per_s"}
    added = {"added_percent", "added_low_percent", "added_high_percent", "pairs"}
    for library in clients.LIBRARIES:
        for mode in ("async", "sync"):
            for name in ("a bare await", "the instant transport", "client.get, no guard", "retry only", "standard()"):
                judged = (mode, library) == ("async", "httpx") and name in ("retry only", "standard()")
                assert set(rows[f"instant: {mode}, {library}", name]) == always | times | (held if judged else set())
        with_body = f"with a body: async, {library}"
        assert set(rows[with_body, "the instant transport"]) == always | times
        assert set(rows[with_body, "standard()"]) == always | times | {"added_x", "added_low_x", "added_high_x"}
        assert set(rows[f"loopback: {library}", "the plain client"]) == always | costs
        more = held if library == "httpx" else set()
        assert set(rows[f"loopback: {library}", "standard()"]) == always | added | costs | more
    assert ("instant: async, httpx", "standard_hedged, inline") in rows
    assert ("instant: sync, httpx", "standard_hedged, inline") not in rows
    assert rows["loopback: httpx", "standard()"]["pairs"] == 4
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_peer_that_is_not_installed_or_breaks_is_a_row_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer has a row with the reason in each of its groups."""

    def missing(*given: Any) -> Any:
        raise ModuleNotFoundError("no such peer")

    def broken(*given: Any) -> Any:
        raise TypeError("another signature")

    monkeypatch.setattr(
        transport,
        "CONTENDERS",
        (Contender("absent", missing, ("absent",)), Contender("broken", broken, ("httpx",), note="hedges only")),
    )
    figures = transport.run(Options(quick=True)).figures

    rows = [(figure.name, figure.note) for figure in figures if figure.name == "absent" or "broken" in figure.name]
    assert set(rows) == {
        ("absent", "not installed"),
        (f"broken {httpx.__version__}", "not measured: TypeError: another signature"),
    }
    assert len(rows) == 16
    assert not any(figure.values for figure in figures if (figure.name, figure.note) in rows)


def test_transport_of_ours_that_breaks_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own is never reported as a missing row."""

    def broken(*given: Any) -> Any:
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(transport, "CONTENDERS", (replace(CONTENDERS[0], build=broken),))

    with pytest.raises(TypeError, match="a mistake of ours"):
        transport.run(Options(quick=True))


def test_rows_are_sorted_ours_first_then_the_cheapest_peer(report: Report) -> None:
    """The rows without a policy come before both."""
    group = [figure for figure in report.figures if figure.group == "instant: async, httpx"]
    assert [figure.name for figure in group[:6]] == [
        "a bare await",
        "the instant transport",
        "client.get, no guard",
        "retry only",
        "standard()",
        "standard_hedged, inline",
    ]
    multiples = [figure.values["multiple_x"] for figure in group[6:] if figure.values]
    assert multiples == sorted(multiples)
