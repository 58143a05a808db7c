"""README.md and docs/performance.md show the figures of the committed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import publish
from benchmarks.contenders.patterns import PATTERNS
from benchmarks.cost import tables
from benchmarks.cost.highlights import HIGHLIGHTS, PEERS_OF
from benchmarks.cost.overhead import MODES

FOUND = publish.results()


def row(group: str, name: str, multiple: float | None, **more: Any) -> dict[str, Any]:
    values = {} if multiple is None else {"multiple_x": multiple}
    known = {"bar": None, "at_bar": False, "verdict": None, "note": ""}
    return {"group": group, "name": name, "ours": name.startswith("resilient"), **values, **known, **more}


def run(*figures: dict[str, Any]) -> dict[str, Any]:
    return {"overhead": {"figures": list(figures)}}


@pytest.mark.parametrize("document", publish.DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_a_document_are_those_of_the_committed_run(document: Path) -> None:
    """After an edit or a new run, `python -m benchmarks.publish` makes them agree."""
    text = document.read_text(encoding="utf-8")
    assert publish.filled(text, FOUND) == text


def test_every_table_is_in_a_document() -> None:
    """And every marker in a document names a table."""
    text = "".join(document.read_text(encoding="utf-8") for document in publish.DOCUMENTS)
    assert {match["name"] for match in publish.BLOCK.finditer(text)} == set(tables.TABLES)


@pytest.mark.parametrize("name", publish.PUBLISHED)
def test_committed_run_says_when_where_and_with_what_it_was_made(name: str) -> None:
    """So figures of different runs are not compared by mistake."""
    measured = FOUND[name]["measured"]
    assert FOUND[name]["benchmark"] == name
    assert all(measured[key] for key in ("date", "processor", "cores", "system", "python", "versions"))


def test_highlights_are_groups_of_the_committed_run() -> None:
    """Each group has a row of ours."""
    ours = {each["group"] for each in FOUND["overhead"]["figures"] if each["ours"]}
    assert set(HIGHLIGHTS) <= ours
    assert set(PEERS_OF.values()) <= ours


@pytest.mark.parametrize("mode", MODES)
def test_stack_of_four_costs_a_fraction_of_the_fastest_peer(mode: str) -> None:
    """As the first lines of the README say."""
    (stack,) = (pattern for pattern in PATTERNS if pattern.key == "stack")
    rows = [each for each in FOUND["overhead"]["figures"] if each["group"] == f"{mode}: {stack.title}"]
    (ours,) = (each["multiple_x"] for each in rows if each["name"] == "resilient")
    assert ours < 0.5 * min(each["multiple_x"] for each in rows if not each["ours"])


def test_unknown_table_is_an_error_and_text_around_tables_stays() -> None:
    """A misspelt name does not silently keep old figures."""
    text = "before\n<!-- benchmarks: ahead -->\nold\n<!-- end of ahead -->\nafter\n"
    assert publish.filled(text, run(row("async: Retry", "resilient", 4.0))) == text.replace("old", "None.")
    with pytest.raises(KeyError, match="behind"):
        publish.filled(text.replace("ahead", "behind"), FOUND)


def test_run_is_written_with_its_date_and_conditions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run that misses a bar is written, too."""

    def ended(command: list[str], **options: Any) -> None:
        assert command[1:4] == ["-m", "benchmarks", "startup"]
        Path(command[command.index("--json") + 1]).write_text('{"benchmark": "startup", "verdict": "miss"}')

    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    monkeypatch.setattr(publish, "measured", lambda quick: {"date": "today", "quick": quick})
    monkeypatch.setattr(publish.subprocess, "run", ended)
    publish.measure(["startup"], quick=True)

    assert json.loads((tmp_path / "startup.json").read_text()) == {
        "benchmark": "startup",
        "measured": {"date": "today", "quick": True},
        "verdict": "miss",
    }


def test_plots_are_drawn_from_the_committed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is measured; here only some rows are drawn."""
    (tmp_path / "docs").mkdir()
    few = {"async: Retry", "def: Retry", *(each["group"] for each in FOUND["scale"]["figures"][:1])}
    found = {
        name: {**FOUND[name], "figures": [each for each in FOUND[name]["figures"] if each["group"] in few]}
        for name in ("overhead", "scale")
    }
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    publish.draw(found)

    drawn = {file.name for file in tmp_path.rglob("*.png")}
    assert drawn == {"performance.png", "async.png", "def.png", "scale.png"}
