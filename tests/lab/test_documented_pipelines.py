"""Every pipeline in the README and the docs can be explained and simulated unchanged."""

from __future__ import annotations

import contextlib
import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient import Pipeline
from resilient.chaos.experiment import VARIABLE
from resilient.explain import explain
from resilient.explain.subject import subject_of
from resilient.faults import Errors, Slowness
from resilient.http.transport import HttpTransport
from resilient.lab.calls import Calls
from resilient.lab.candidates import candidate_from
from resilient.lab.distributions import Exponential
from resilient.lab.http import HttpCalls
from resilient.lab.load import Poisson
from resilient.lab.measures import Measures
from resilient.lab.service import ServicePlan
from resilient.lab.world import Scenario, simulate
from resilient.runtime import virtual
from resilient.server.admission import UntilAnswered
from resilient.server.asgi import ServerMiddleware

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
BLOCKS = [(name, at) for name in sorted(DOCUMENTS) for at in range(len(BLOCK.findall(DOCUMENTS[name])))]

CALLS: dict[tuple[str, str], Calls] = {
    ("README.md", "search"): Calls(answer=lambda status, retry_after: SimpleNamespace(status_code=status)),
    ("docs/classify.md", "shop"): Calls(answer=lambda status, retry_after: {"code": status}),
    ("docs/http.md", "users"): HttpCalls(url="https://{key}.example/"),
}
"""Calls and answers for pipelines that look at them, if the block does not define any; all others are tried without."""


OUTAGE = Scenario(
    duration=8,
    loads=(Poisson(15),),
    clients=2,
    keys=2,
    service=ServicePlan(service_time=Exponential(0.05), workers=20),
    faults=(Slowness(start=2, end=4, factor=5), Errors(start=4, end=5)),
)

ENDS = {
    *("success", "stood in", "ServiceError", "status 503", "ConnectionError"),
    *("TimedOut", "CircuitOpen", "BulkheadFull", "RateLimited", "LimitExceeded"),
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All pipelines, transports and middlewares that a block makes, with or without a name."""
    found: list[Any] = []
    for kind in (Pipeline, HttpTransport, ServerMiddleware):

        def noted(self: Any, *args: Any, _init: Any = kind.__init__, **kwargs: Any) -> None:
            _init(self, *args, **kwargs)
            found.append(self)

        monkeypatch.setattr(kind, "__init__", noted)
    return found


def run(name: str, at: int, tmp_path: Path) -> dict[str, Any]:
    """Run a block, and its tests that need only a directory; returns the names that it defines."""
    names: dict[str, Any] = {"__name__": __name__}
    source = BLOCK.findall(DOCUMENTS[name])[at]
    exec(compile(source, f"{name}, block {at + 1}", "exec", dont_inherit=True), names)
    for test in [each for key, each in names.items() if key.startswith("test_")]:
        given = {"tmp_path": tmp_path}
        if set(inspect.signature(test).parameters) <= given.keys() and not hasattr(test, "_respx"):
            ended = test(**{key: given[key] for key in inspect.signature(test).parameters})
            if inspect.iscoroutine(ended):
                virtual.run(ended)
    return names


def subjects(names: dict[str, Any], made: list[Any]) -> dict[str, Any]:
    """The objects with pipelines, by their names in the block; an object without a name (inside a client, or local to a
    test) by its text. A pipeline under a transport is part of the transport."""
    found = {}
    for key, value in names.items():
        if not inspect.isroutine(value) or hasattr(value, "__pipeline__"):
            with contextlib.suppress(TypeError):
                subject_of(key, value)
                found[key] = value
    inside = [*found.values(), *(each.given for each in made if isinstance(each, HttpTransport))]
    for each in made:
        is_server = isinstance(each, Pipeline) and isinstance(each.policies[0], UntilAnswered)
        if not is_server and not any(each is value for value in inside):
            found[repr(getattr(each, "pipeline", each))] = each
    return found


@pytest.mark.parametrize(("name", "at"), BLOCKS)
def test_pipelines_of_a_block_can_be_explained_and_simulated(
    name: str, at: int, made: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pipeline runs through an outage, and no call ends with an error of the lab."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.delenv(VARIABLE, raising=False)
    names = run(name, at, tmp_path)
    monkeypatch.undo()
    for key, thing in subjects(names, made).items():
        subject = subject_of(key, thing)
        assert subject.policy is not None
        assert str(explain(subject.policy, is_async=subject.guards != "def"))

        world = replace(OUTAGE, calls=CALLS.get((name, key), names.get("calls")))
        measures = Measures([simulate(world, candidate_from(key, thing))])
        assert measures.outcomes["success"] > 50
        assert measures.outcomes.keys() <= ENDS


def test_pipelines_are_found_by_all_that_has_one(made: list[Any], tmp_path: Path) -> None:
    """The README has a pipeline, a guarded function, clients, a pipeline without a name in a transport, and an
    application."""
    found = [set(subjects(run("README.md", at, tmp_path), made)) for at in range(4)]

    assert found[0] == {"users", "get_user"}
    assert "search" in found[1]
    assert "client" in found[2]
    assert any(each.endswith("name='users')") for each in found[2])
    assert "app" in found[3]
