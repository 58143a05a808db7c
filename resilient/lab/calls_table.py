"""The table `[calls]` of a scenario file, and the option `--calls`: the arguments and the answers of calls.

[calls]                                            # by functions of yours
arguments = "app.calls:arguments"                  # of the key: the arguments of a call
answer = "app.calls:answer"                        # of a status: the answer
statuses = {200 = 0.95, 404 = 0.05}                # of successful answers

[calls]                                            # or requests and responses of httpx
kind = "http"
methods = {GET = 0.9, POST = 0.1}                  # or one: "GET"
url = "https://{key}.users.example/orders"
headers = {Authorization = "Bearer {key}"}
response_headers = {Content-Type = "application/json"}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from resilient._validation import meant
from resilient.explain.object_reference import Wanted, imported
from resilient.lab.calls import Calls
from resilient.lab.http import HttpCalls
from resilient.lab.scenario import Scenario
from resilient.lab.table import ScenarioError, Source, Table, as_text, build

__all__ = ["calls_of", "with_calls"]

CALLS: Wanted = ("Calls", lambda name, value: isinstance(value, Calls))
FUNCTIONS: Wanted = ("functions", lambda name, value: inspect.isfunction(value))
KINDS: dict[str, type[Calls]] = {"functions": Calls, "http": HttpCalls}


def calls_of(data: object, source: Source) -> Calls | None:
    """The calls that a table describes; None without a table. Raises `ScenarioError`."""
    if data is None:
        return None
    table = Table(data, "calls")
    kind = table.choose("kind", KINDS, "functions")
    values = {field.name: value for field in fields(kind) if (value := table.take(field.name, None)) is not None}
    table.end()
    for name in ("arguments", "answer"):
        if name in values:
            values[name] = _function(values[name], table.path(name), source)
    if "statuses" in values:
        values["statuses"] = _by_status(values["statuses"], table.path("statuses"))
    return build("calls", kind, **values)


def with_calls(scenario: Scenario, named: str) -> Scenario:
    """The scenario with other calls, by name: "http", or a `Calls` as MODULE:NAME. Raises `ScenarioError`."""
    if ":" not in named and named != "http":
        raise ScenarioError(f"--calls must be http or MODULE:NAME, got {named!r}{meant(named, ['http'])}")
    calls = HttpCalls() if named == "http" else _named(named, "--calls", CALLS)
    if not isinstance(calls, Calls):
        raise ScenarioError(f"--calls must be http, or MODULE:NAME of a resilient.lab.calls.Calls, got {named!r}")
    try:
        return replace(scenario, calls=calls)
    except ValueError as error:
        raise ScenarioError(f"--calls: {error}") from None


def _function(given: object, where: str, source: Source) -> Callable[..., Any]:
    found = _named(source.code(as_text(given, where), where), where)
    if not callable(found):
        raise ScenarioError(f"{where} must be MODULE:FUNCTION, got {given!r}, which is {found!r}")
    return found  # type: ignore[no-any-return]


def _named(path: str, where: str, wanted: Wanted = FUNCTIONS) -> Any:
    try:
        return imported(path, wanted)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _by_status(given: object, where: str) -> object:
    """Shares by status: the keys of TOML tables are texts."""
    if not isinstance(given, Mapping):
        return given  # the constructor refuses it
    try:
        return {int(status): share for status, share in given.items()}
    except ValueError:
        raise ScenarioError(f"{where} must have statuses as keys, got {', '.join(map(repr, given))}") from None
