"""Calls and answers in scenario files and in the option `--calls`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from resilient.cli.app import app
from resilient.lab.calls import Calls
from resilient.lab.http import HttpCalls
from resilient.lab.scenario_file import ScenarioError, scenario_from

MODULE = """
from types import SimpleNamespace

from resilient import Bulkhead, CircuitBreaker, Classifier, Keyed, Pipeline, Retry
from resilient.http.httpx import AsyncClient
from resilient.lab.calls import Calls
from resilient.lab.http import HttpCalls


def arguments(key):
    return SimpleNamespace(tenant=key), "orders"


def answer(status, retry_after):
    return SimpleNamespace(status_code=status)


calls = Calls(arguments, answer)
posts = HttpCalls(methods="POST")
wrong = Calls(lambda key: key)
search = Pipeline(
    Retry(),
    Keyed(CircuitBreaker, key=lambda user, *rest: user.tenant),
    classify=Classifier(results=lambda answer: answer.status_code >= 500),
)
hosts = Pipeline(Retry(), Keyed(lambda: Bulkhead(20), key=lambda request: request.url.host))
client = AsyncClient(Pipeline(Retry(3)))


async def late(status, retry_after): ...
"""
NAME = "calls_of_a_test"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a module of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(f"{NAME}.py").write_text(MODULE)
    Path("world.toml").write_text("duration = 3\nload = {rate = 20}\nservice = {service_time = 0.05}\n")


def read(calls: Any) -> Calls | None:
    world = {"duration": 3, "load": {"rate": 20}, "service": {"service_time": 0.05}, "calls": calls}
    return scenario_from(world, imports=True).calls


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", "world.toml", *arguments])


def test_functions_are_named() -> None:
    """The table names functions of the user's modules, and statuses become numbers."""
    calls = read({"arguments": f"{NAME}:arguments", "answer": f"{NAME}:answer", "statuses": {"200": 0.9, "404": 0.1}})

    assert calls is not None
    assert calls.arguments is not None
    assert calls.arguments("7")[0].tenant == "7"
    assert calls.answered(404, None).status_code == 404
    assert calls.statuses == {200: 0.9, 404: 0.1}


def test_http_is_a_kind() -> None:
    """The kind "http" has the keys of requests and responses."""
    table = {
        "kind": "http",
        "methods": {"GET": 9, "POST": 1},
        "url": "https://{key}.users.example/orders",
        "headers": {"Authorization": "Bearer {key}"},
        "response_headers": {"Content-Type": "application/json"},
    }

    assert read(table) == HttpCalls(**{key: value for key, value in table.items() if key != "kind"})


def test_without_a_table_nothing_is_said() -> None:
    """Without a table, the argument of a call is its key."""
    assert read(None) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "calls must be a table, got []"),
        ({"kind": "grpc"}, "calls.kind must be one of functions, http, got 'grpc'"),
        ({"kind": ["http"]}, "calls.kind must be one of functions, http, got ['http']"),
        ({"url": "https://x.example"}, "there is no 'calls.url': allowed are answer, arguments, kind, statuses"),
        ({"arguments": 7}, "calls.arguments must be a text, got 7"),
        ({"arguments": "app.py"}, "calls.arguments: 'app.py' must be MODULE:NAME"),
        ({"arguments": "no_such_module_of_ours:x"}, "calls.arguments: there is no module 'no_such_module_of_ours'"),
        ({"answer": f"{NAME}:gone"}, f"calls.answer: there is no 'gone' in {NAME!r}"),
        ({"answer": f"{NAME}:search"}, "calls.answer(200, None) raised TypeError"),
        ({"answer": f"{NAME}:NAME"}, f"calls.answer: there is no 'NAME' in {NAME!r}"),
        ({"answer": f"{NAME}:late"}, "calls.answer must be a plain function or a class, got <function late"),
        ({"answer": f"{NAME}:arguments"}, "calls.answer(200, None) raised TypeError: arguments() takes 1 positional"),
        ({"arguments": f"{NAME}:answer"}, "calls.arguments('1') raised TypeError: answer() missing 1 required"),
        ({"statuses": [200]}, "calls.statuses must be a mapping of each to its share, got [200]"),
        ({"statuses": {"OK": 1}}, "calls.statuses must have statuses as keys, got 'OK'"),
        ({"statuses": {"600": 1}}, "calls.statuses must be whole numbers from 200 to 599, got 600"),
        ({"kind": "http", "methods": ["GET"]}, "calls.methods must be a mapping of each to its share, got ['GET']"),
        ({"kind": "http", "url": "{key}"}, "calls.url must begin with http:// or https:// and a host, got '{key}'"),
        ({"kind": "http", "answer": f"{NAME}:answer"}, "calls.answer(200, None) raised TypeError: answer must return"),
    ],
)
def test_mistake_is_one_line_that_names_its_key(table: Any, message: str) -> None:
    """A mistake is refused when the file is read, before the run."""
    with pytest.raises(ScenarioError, match="^" + re.escape(message)) as caught:
        read(table)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pipeline", "calls"),
    [("search", f"{NAME}:calls"), ("hosts", "http"), ("hosts", f"{NAME}:posts"), ("client", None), ("client", "http")],
)
def test_command_tries_a_pipeline_of_production(pipeline: str, calls: str | None) -> None:
    """`--calls` gives calls to a scenario without them."""
    done = simulate("--pipeline", f"{NAME}:{pipeline}", *(() if calls is None else ("--calls", calls)))

    assert done.exit_code == 0, done.stderr
    assert "100.00" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pipeline", f"{NAME}:search"), f"{NAME}:search: its classifier raised AttributeError: "),
        (("--pipeline", f"{NAME}:hosts"), f"{NAME}:hosts: its classifier, a key or a strategy raised AttributeError: "),
        (("--calls", f"{NAME}:search"), "--calls must be http, or MODULE:NAME of a resilient.lab.calls.Calls, got "),
        (("--calls", "https"), "--calls must be http or MODULE:NAME, got 'https'; did you mean http?"),
        (("--calls", f"{NAME}:gone"), "--calls: there is no 'gone' in"),
        (("--calls", f"{NAME}:wrong"), "--calls: calls.arguments('1') must return a tuple"),
        (("--pipeline", f"{NAME}:client", "--calls", f"{NAME}:calls"), f"{NAME}:client: its transport sends HTTP requ"),
    ],
)
def test_mistake_of_the_command_is_one_line_and_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    """A bad option, or a pipeline that needs other calls, is one line."""
    done = simulate(*arguments)

    assert done.exit_code == 2
    assert done.stderr.startswith(f"resilient: {message}")
    assert done.stderr.count("\n") == 1
