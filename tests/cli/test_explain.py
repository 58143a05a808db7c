"""`resilient explain` in a terminal, and as a gate in a CI."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from resilient import Pipeline, Timeout
from resilient.cli.app import app
from resilient.explain import explain
from resilient.http.httpx import Transport

SHOP = """
import httpx
from resilient import Hedge, Pipeline, Retry, Timeout, standard
from resilient.http.httpx import AsyncTransport, Transport

users = standard("users")
endless = Pipeline(Retry(3))
front = Pipeline(Timeout(20), Retry(3), name="front")
wrong = Pipeline(Timeout(1), Timeout(2))
alone = Timeout(3)
transport = AsyncTransport(users)
plain = Transport(Pipeline(Timeout(3)))
number = 3

@users
async def get_user(): ...

@alone
def plain_get(): ...

class Clients:
    users = users
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory."""
    (tmp_path / "explained_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "explained_shop", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "explained_shop"


def run(*arguments: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(app, ["explain", *arguments])


def test_explanation_is_printed(shop: str) -> None:
    """The pipeline is in a module of the working directory."""
    result = run(f"{shop}:users")
    assert result.exit_code == 0
    assert result.stdout.startswith("users: the worst case of one call of an async def\n")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("get_user", "an async def"),
        ("plain_get", "a def"),
        ("transport", "an async def"),
        ("plain", "a def"),
        ("alone", "an async def"),
        ("Clients.users", "an async def"),
    ],
)
def test_whatever_has_a_pipeline_can_be_named(shop: str, name: str, function: str) -> None:
    """A guarded function, a transport, a single policy, an attribute; the kind of the guarded function is found."""
    result = run(f"{shop}:{name}")
    assert result.exit_code == 0
    assert f"one call of {function}\n" in result.stdout


def test_from_python_whatever_has_a_pipeline_is_explained_too() -> None:
    """`explain` takes guarded functions, alone and behind others, and calls nothing."""

    @Timeout(3)
    def get_user() -> None:
        raise AssertionError

    client = httpx.Client(transport=Transport(Pipeline(Timeout(2))))
    explanation = explain(get_user, behind=lambda: Pipeline(Timeout(9)))

    assert (explanation.function, explain(client).function) == ("def", "def")
    assert explain(get_user, is_async=True).worst.seconds.most == 3
    with pytest.raises(TypeError, match=r"^behind must be a pipeline, .* and is of type int$"):
        explain(client, behind=5)


def test_code_of_the_user_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    """A classifier may fail when it judges an error."""
    (tmp_path / "judging.py").write_text(
        "from resilient import Pipeline, Retry, Classifier\n"
        "def judge(error): return error.no_such\n"
        "users = Pipeline(Retry(), classify=Classifier(ignore=judge))\n"
    )
    result = run("judging:users")
    assert result.exit_code == 2
    assert re.fullmatch(
        r"resilient: 'judging:users' cannot be explained: AttributeError: .* \(judging.py, line 2\)\n", result.stderr
    )


def test_kind_of_function_can_be_said(shop: str) -> None:
    """Options give the kind of the function, and how long it takes."""
    result = run(f"{shop}:front", "--def", "--function-limit", "2")
    assert "one call of a def that takes 2 s at most" in result.stdout


def test_diagram_is_printed_instead(shop: str) -> None:
    """The output is the diagram only."""
    assert run(f"{shop}:users", "--mermaid").stdout.startswith("flowchart TD\n")


def test_json_is_written(shop: str, tmp_path: Path) -> None:
    """The JSON is written in addition to the text, the same every time."""
    for name in ("one.json", "two.json"):
        assert run(f"{shop}:users", "--json", name, "--behind", f"{shop}:front").exit_code == 0
    data = json.loads((tmp_path / "one.json").read_text())
    assert data["latency"]["at_most_seconds"] == 30
    assert data["behind"]["pipeline"] == "front"
    assert data["behind"]["requests"]["at_most"] == 9
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_what_is_wrong_with_the_plan_is_said_once(shop: str) -> None:
    """The explanation has the finding, and no warning repeats it."""
    result = run(f"{shop}:wrong")
    assert "Timeout(2 s) stands inside Timeout(1 s)" in result.stdout
    assert "Warning" not in result.stderr


# -- a gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("users", "--max-latency", "29.9"),
            "latency: at most 30 s, over --max-latency 29.9 s (Timeout(30 s) ends it)",
        ),
        (("users", "--max-requests", "2"), "requests: at most 3, over --max-requests 2"),
        (("endless", "--max-latency", "1000"), "latency: no limit, over --max-latency 1000 s (nothing ends"),
        (("users", "--behind", "explained_shop:front", "--max-requests", "8"), "requests: at most 9"),
    ],
)
def test_limits_that_are_exceeded_fail(shop: str, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 1, and one line for each limit."""
    name, *options = arguments
    result = run(f"{shop}:{name}", *options)
    assert result.exit_code == 1
    assert f"missed: {said}" in result.stderr


def test_limits_that_are_kept_pass(shop: str) -> None:
    """A limit that is equal to the worst case passes."""
    assert run(f"{shop}:users", "--max-latency", "30", "--max-requests", "3").exit_code == 0


# -- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("users",), "'users' must be MODULE:NAME"),
        (("no_such_shop:users",), "there is no module 'no_such_shop'"),
        (("explained_shop:nothing",), "there is no 'nothing' in 'explained_shop'; its pipelines are alone, endless"),
        (("explained_shop:number",), "must be a pipeline, a policy, a guarded function, a transport or client with"),
        (("explained_shop:Pipeline",), "and is the class Pipeline"),
        (("explained_shop:users", "--behind", "explained_shop:number"), "'explained_shop:number' must be"),
        (("broken:users",), "'broken:users' cannot be imported: ZeroDivisionError: division by zero"),
        (("leaving:users",), "'leaving:users' cannot be imported: SystemExit: bye"),
        (("explained_shop:users", "--max-latency", "nan"), "--max-latency must be from 0 to"),
        (("explained_shop:users", "--max-requests", "-1"), "--max-requests must be from 0 to"),
        (("explained_shop:users", "--function-limit", "-1"), "--function-limit must be from 0 to"),
        (("explained_shop:users", "--json", "nowhere/out.json"), "--json must be in a directory"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, and no traceback."""
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit('bye')\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_python_m_resilient_explains_too(shop: str, tmp_path: Path) -> None:
    """The command works as a process in its own directory."""
    command = [sys.executable, "-m", "resilient", "explain", f"{shop}:users", "--max-latency", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("users: ")
    assert done.stderr == "missed: latency: at most 30 s, over --max-latency 5 s (Timeout(30 s) ends it)\n"


# -- the width of a terminal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_explanation_fits_the_terminal(shop: str, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """No line is longer than the terminal, and no word is lost."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run(f"{shop}:users").stdout
    monkeypatch.setenv("COLUMNS", "200")
    wide = run(f"{shop}:users").stdout
    assert max(map(len, shown.splitlines())) <= columns < max(map(len, wide.splitlines())) <= 110
    assert sorted(shown.split()) == sorted(wide.split())


def test_text_of_an_explanation_is_the_same_in_each_terminal(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python the text is a value that does not depend on the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, str(explain(Pipeline(Timeout(2), name="users"))).splitlines())) > 70
