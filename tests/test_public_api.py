"""The public names, pinned; and what `import resilient` costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest

import resilient

PUBLIC = [
    "AdaptiveLimit",
    "Budget",
    "Bulkhead",
    "BulkheadFull",
    "Chaos",
    "CircuitBreaker",
    "CircuitOpen",
    "Classifier",
    "CurrentCall",
    "Deadlock",
    "Fallback",
    "FullJitter",
    "Hedge",
    "Keyed",
    "LimitExceeded",
    "Pipeline",
    "PipelineClosed",
    "PipelineError",
    "PipelineWarning",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "ResilientError",
    "Retry",
    "TimedOut",
    "Timeout",
    "Verdict",
    "VirtualTimeError",
    "current_call",
    "current_priority",
    "deadline",
    "detached",
    "events",
    "priority",
    "quantile",
    "registry",
    "remaining",
    "standard",
    "standard_hedged",
    "switch",
    "why",
]

HTTP = [
    "AsyncChaosTransport",
    "AsyncClient",
    "AsyncTransport",
    "BulkheadFull",
    "ChaosTransport",
    "CircuitOpen",
    "Client",
    "HttpClassifier",
    "LimitExceeded",
    "PipelineClosed",
    "RateLimited",
    "Rejected",
    "TimedOut",
    "Transport",
]

MODULES = {
    "resilient.events": [
        "AbandonedEnded",
        "AnyEvent",
        "AttemptFailed",
        "AttemptReturned",
        "AttemptStarted",
        "BudgetExhausted",
        "CallEnded",
        "CallRejected",
        "CallTimedOut",
        "Channel",
        "ChaosHalted",
        "CircuitChanged",
        "Event",
        "FaultInjected",
        "FellBack",
        "GaveUp",
        "HedgeWon",
        "Hedging",
        "LimitChanged",
        "Listener",
        "Queued",
        "Retrying",
        "Waited",
        "listen",
    ],
    "resilient.faults": [
        "KINDS",
        "Crash",
        "DrippingBody",
        "Errors",
        "Fault",
        "Latency",
        "PacketLoss",
        "Partition",
        "Reset",
        "Results",
        "Slowness",
        "Stall",
        "Target",
        "TruncatedBody",
        "fault_from",
        "faults_from",
    ],
    "resilient.registry": ["metrics", "pipeline", "pipelines", "register", "snapshots"],
    "resilient.runtime.virtual": ["VirtualLoop", "VirtualRuntime", "run"],
    "resilient.http.httpx": HTTP,
    "resilient.http.httpx2": HTTP,
    "resilient.limiters": ["Limiter", "Vegas", "Window"],
    "resilient.observe.logging": ["EventLog", "KeyValueLogger", "log_events", "text_of"],
    "resilient.observe.health": ["GRACE", "Dependency", "Health", "HealthEndpoint", "health"],
    "resilient.observe.prometheus": ["ResilientCollector", "flush", "register"],
    "resilient.observe.trace": [
        "Recording",
        "Trace",
        "TraceError",
        "TracedAttempt",
        "TracedCall",
        "WouldHave",
        "read_trace",
        "record_trace",
    ],
    "resilient.testing": [
        "Dependency",
        "Hang",
        "Received",
        "Recorder",
        "Slow",
        "VirtualLoop",
        "advance",
        "now",
        "record",
        "run",
    ],
}


def test_public_names_are_these() -> None:
    """A name that comes or goes is a decision, and changes this list too."""
    assert resilient.__all__ == PUBLIC


@pytest.mark.parametrize("module", MODULES)
def test_public_names_of_a_module_are_these(module: str) -> None:
    """The same for the modules that users import from."""
    assert import_module(module).__all__ == MODULES[module]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there_and_documented(name: str) -> None:
    """Each public name exists, and has a docstring of its own."""
    documented(getattr(resilient, name), name)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in MODULES.items() for name in names])
def test_public_name_of_a_module_is_there_and_documented(module: str, name: str) -> None:
    """The same for the modules that users import from; a type alias needs none."""
    thing = getattr(import_module(module), name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        documented(thing, name)


def documented(thing: Any, name: str) -> None:
    docstring = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    assert docstring, f"{name} has no docstring of its own"
    assert not docstring.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"


@pytest.mark.parametrize("name", [name for name in PUBLIC if isinstance(getattr(resilient, name), type)])
def test_public_method_is_documented(name: str) -> None:
    """Each public method that a public class adds to those of its parents has a docstring."""
    for method, value in vars(getattr(resilient, name)).items():
        if method.startswith("_") or not (inspect.isfunction(value) or isinstance(value, property)):
            continue
        assert inspect.getdoc(getattr(getattr(resilient, name), method)), f"{name}.{method} has no docstring"


def test_every_public_name_stands_in_the_map_or_the_module_that_it_names() -> None:
    """The package's docstring is the map: each name is there, or under the three dots of the errors."""
    for name in PUBLIC:
        is_error = inspect.isclass(getattr(resilient, name)) and issubclass(getattr(resilient, name), BaseException)
        text = (resilient.errors.__doc__ if is_error else resilient.__doc__) or ""
        assert name in text, f"{name} is not on the map"


def test_version_is_that_of_the_distribution() -> None:
    """The package and the distribution have one version, set in one place."""
    assert resilient.__version__ == version("resilient-middleware")


@cache
def fresh(program: str) -> set[str]:
    """The set that a program prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(ast.literal_eval(done.stdout))


LOADED = "import sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"


def test_import_pulls_in_tenacity_and_pybreaker_and_nothing_heavier() -> None:
    """Besides the modules of these two packages, only ours and Python's are imported."""
    theirs = fresh(f"import tenacity, tenacity.asyncio, pybreaker; {LOADED}")
    ours = fresh(f"import resilient; {LOADED}")
    assert {"tenacity", "pybreaker", "resilient"} <= ours
    assert ours - theirs - sys.stdlib_module_names == {"resilient"}
    heavy = {"httpx", "starlette", "rich", "typer", "matplotlib", "trio", "uvloop", "uvicorn", "hypothesis"}
    assert not ours & heavy


def test_import_of_the_logging_listener_pulls_in_nothing_else() -> None:
    """The logging listener imports nothing beyond the standard library and the package."""
    assert fresh(f"import resilient; {LOADED}") == fresh(f"import resilient.observe.logging; {LOADED}")


def test_guarding_on_asyncio_does_not_import_trio() -> None:
    """trio's runtime is loaded only where trio is."""
    program = (
        "import asyncio, resilient\n"
        "@resilient.Pipeline(resilient.Timeout(5), resilient.Retry(attempts=2, wait=0), resilient.Bulkhead(1))\n"
        "async def fetch(): pass\n"
        "asyncio.run(fetch())\n" + LOADED
    )
    assert "trio" not in fresh(program)


def test_former_paths_of_what_has_moved_hand_on_the_same_objects() -> None:
    """The server's middleware, the lab's `explain`, `Chaos` and the parts of a trace keep their former paths."""
    for former, now in (
        ("resilient.http.asgi", "resilient.server.asgi"),
        ("resilient.lab.explain", "resilient.explain"),
        ("resilient.policies.chaos", "resilient.chaos.policy"),
        ("resilient.observe.trace_files", "resilient.observe.trace_file"),
        ("resilient.observe.traced", "resilient.observe.trace_records"),
    ):
        handed_on = import_module(former)
        for name in handed_on.__all__:
            assert getattr(handed_on, name) is getattr(import_module(now), name)
