"""Every Python block of the README and the docs runs as it is printed; some documents have tests elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from resilient.testing import Dependency

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = {
    "docs/chaos.md": "tests/chaos/test_documentation.py",
    "docs/explain.md": "tests/explain/test_documentation.py",
    "docs/limits.md": "tests/limiters/test_documentation.py",
    "docs/server.md": "tests/server/test_documentation.py",
    "docs/simulate.md": "tests/cli/test_simulate_documentation.py",
    "docs/testing.md": "tests/testing/test_documentation.py",
}
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
BLOCKS = [
    (name, at)
    for name in sorted(DOCUMENTS)
    if name not in ELSEWHERE
    for at in range(len(BLOCK.findall(DOCUMENTS[name])))
]


def run(name: str, at: int) -> dict[str, Any]:
    """Run the block number `at` of a document; the names that it defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(BLOCK.findall(DOCUMENTS[name])[at], f"{name}, block {at + 1}", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize(("name", "at"), BLOCKS)
def test_block_runs_as_it_is_printed(name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block runs by itself: it imports and defines all that it names."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    run(name, at)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_blocks_of_the_other_documents_are_run_by_their_own_tests(name: str) -> None:
    """Documents that are not run here have tests of their own, which exist and name the document."""
    assert Path(name).name in (ROOT / ELSEWHERE[name]).read_text()


@pytest.mark.virtual_time
@pytest.mark.parametrize(("script", "calls"), [((200, 200), 2), ((503, 200, 500, 200), 4)])
async def test_function_and_block_of_the_readme_repeat_what_failed(script: tuple[int, ...], calls: int) -> None:
    """The README's snippet on ways to call repeats a failed function and a failed block."""
    names = next(names for name, at in BLOCKS if name == "README.md" and "find" in (names := run(name, at)))
    fetch = Dependency(*map(httpx.Response, script))
    await names["find"](fetch, "q")
    assert len(fetch.calls) == calls


LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", [*DOCUMENTS, "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    """Each relative link names a file of the repository."""
    page = ROOT / name
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_map_of_the_pages_leads_to_every_page() -> None:
    """docs/README.md links to each page beside it."""
    links = LINK.findall(DOCUMENTS["docs/README.md"])
    assert {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"} <= set(links)


def test_page_about_the_architecture_names_files_that_exist() -> None:
    """A path in backticks is a file of the package, of the tests, or of the repository's root."""
    named = re.findall(r"`([a-z_0-9/]+(?:\.py|\.toml|/))`", DOCUMENTS["docs/architecture.md"])
    places = (ROOT, ROOT / "resilient")
    planned = {"replicas/"}
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert len(named) > 40
    assert missing == planned
