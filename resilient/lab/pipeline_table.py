"""The tables `[pipelines.NAME]` of a scenario file, and the policies in front of its servers.

Policies have the same arguments as in Python. A pipeline that needs other Python objects is named with `import`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from resilient import presets
from resilient.core.budget import Budget
from resilient.core.gate import Gate
from resilient.core.policy import Policy
from resilient.errors import PipelineWarning
from resilient.explain.object_reference import imported
from resilient.lab.candidates import Candidate, candidate_from
from resilient.lab.table import ScenarioError, Source, Table, as_text, build, key_path
from resilient.pipeline import Pipeline
from resilient.policies.adaptive import AdaptiveLimit
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.fallback import Fallback
from resilient.policies.hedge import Hedge
from resilient.policies.hedge.delay import quantile
from resilient.policies.keyed import Keyed
from resilient.policies.ratelimit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.retry.backoff import FullJitter
from resilient.policies.timeout import Timeout

__all__ = ["admission_of", "candidate_of"]

POLICIES: dict[str, type[Policy]] = {
    each.__name__: each
    for each in (AdaptiveLimit, Bulkhead, CircuitBreaker, Fallback, Hedge, Keyed, RateLimit, Retry, Timeout)
}
GATES = {name: cls for name, cls in POLICIES.items() if issubclass(cls, Gate)}
UNWRITABLE = (
    "stop",
    "on",
    "before",
    "after",
    "before_sleep",
    "listeners",
    "state_storage",
    "factory",
    "key",
    "max_keys",
    "accept",
    "priority",
    "limiter",
)
"""Arguments of policies that are Python objects and cannot be written in a file."""
PRESETS: dict[str, Callable[..., Pipeline]] = {"standard": presets.standard, "standard_hedged": presets.standard_hedged}


def candidate_of(name: str, data: object, source: Source) -> Candidate:
    """The candidate that `[pipelines.NAME]` describes. Raises `ScenarioError`."""
    where = key_path("pipelines", name)
    table = Table(data, where)
    about = as_text(table.take("about", ""), f"{where}.about")
    header = table.take("deadline_header", True)
    if not isinstance(header, bool):
        raise ScenarioError(f"{table.path('deadline_header')} must be true or false, got {header!r}")
    given = table.take("admission", None)
    admission = None if given is None else admission_of(given, table.path("admission"), source)
    ways = [way for way in ("import", "policies", "preset") if way in table.left]
    if len(ways) != 1:
        raise ScenarioError(f"{where} must have one of import, policies, preset, got {' and '.join(ways) or 'none'}")
    if ways == ["import"]:
        made = _imported(table, source, name, about)
        return replace(made, admission=made.admission if admission is None else admission, deadline_header=header)
    budget = _budget(table.take("budget", None), f"{where}.budget")
    pipeline = _preset(table, budget) if ways == ["preset"] else _policies(table, budget)
    return replace(candidate_from(name, pipeline, about), admission=admission, deadline_header=header)


def _imported(table: Table, source: Source, name: str, about: str = "") -> Candidate:
    """The candidate that the key `import` of a table names. The key must be the last one."""
    where = table.path("import")
    path = source.code(as_text(table.take("import"), where), where)
    table.end()
    try:
        return candidate_from(name, imported(path), about)
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}: {error}") from None


def _budget(data: object, where: str) -> Budget:
    if data is None:
        return Budget()
    table = Table(data, where)
    values = {key: value for key in ("ratio", "reserve", "cap", "ttl") if (value := table.take(key, None)) is not None}
    table.end()
    return build(where, Budget, **values)


def _preset(table: Table, budget: Budget) -> Pipeline:
    make = table.choose("preset", PRESETS)
    keys = [key for key in inspect.signature(make).parameters if key not in ("name", "budget", "classify")]
    values = {key: value for key in keys if (value := table.take(key, None)) is not None}
    table.end()
    return _quietly(table.where, lambda: make(budget=budget, **values))


def _policies(table: Table, budget: Budget) -> Pipeline:
    given = table.take("policies")
    table.end()
    where = table.path("policies")
    if not isinstance(given, list) or not given:
        raise ScenarioError(f"{where} must be a list of tables with a policy each, outermost first, got {given!r}")
    policies = [_policy(each, f"{where}[{at}]", budget) for at, each in enumerate(given)]
    return _quietly(where, lambda: Pipeline(*policies))


def _quietly(where: str, make: Callable[[], Pipeline]) -> Pipeline:
    """Make a pipeline without warnings: some scenarios are about an order of policies that cannot work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return build(where, make)


def _policy(data: object, where: str, budget: Budget, allowed: Mapping[str, type[Policy]] = POLICIES) -> Policy:
    table = Table(data, where)
    cls = table.choose("policy", allowed)
    if cls is Keyed:
        return _keyed(table, budget)
    values = {}
    for key, parameter in inspect.signature(cls).parameters.items():
        if key in UNWRITABLE:
            continue
        value = table.take(key) if parameter.default is parameter.empty else table.take(key, None)
        if value is None:
            continue
        if key == "budget":
            if value is not True:
                raise ScenarioError(
                    f"{table.path(key)} must be true (the pipeline's budget) or left out, got {value!r}"
                )
            value = budget
        elif key == "wait" and isinstance(value, Mapping):
            wait = Table(value, table.path(key))
            jitter = {each: number for each in ("base", "cap") if (number := wait.take(each, None)) is not None}
            wait.end()
            value = build(wait.where, FullJitter, **jitter)
        elif key == "delay" and cls is Hedge and isinstance(value, Mapping):
            value = _quantile(value, table.path(key))
        elif key == "wait" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ScenarioError(f"{table.path(key)} must be seconds or a table of base and cap, got {value!r}")
        values[key] = value
    table.end()
    return build(where, cls, **values)


def _quantile(data: object, where: str) -> quantile:
    """The delay of a Hedge from a table: an observed quantile of the latency."""
    table = Table(data, where)
    share = table.take("quantile")
    names = [name for name in inspect.signature(quantile).parameters if name != "share"]
    values = {name: value for name in names if (value := table.take(name, None)) is not None}
    table.end()
    return build(where, quantile, share, **values)


def _keyed(table: Table, budget: Budget) -> Policy:
    """A `Keyed` with a gate for each key of the calls."""
    gates = {name: cls for name, cls in GATES.items() if cls is not Keyed}
    each, where = table.take("each"), table.path("each")
    values = {key: value for key in ("max_keys", "idle", "name") if (value := table.take(key, None)) is not None}
    table.end()
    _policy(each, where, budget, gates)  # refused here, not in the middle of a run

    def factory() -> Gate:
        made = _policy(each, where, budget, gates)
        assert isinstance(made, Gate)
        return made

    return build(table.where, Keyed, factory, key=lambda key: key, **values)


def admission_of(data: object, where: str, source: Source) -> Policy | Callable[[], Any]:
    """The admission that a table describes: a gate, a pipeline of several gates (outermost first), or what `import`
    names."""
    if isinstance(data, Mapping) and "import" in data:
        made = _imported(Table(data, where), source, where)
        return made.make if made.admission is None else made.admission
    if not isinstance(data, list):
        return _policy(data, where, Budget(), GATES)
    if not data:
        raise ScenarioError(f"{where} must have at least one policy, got none")
    policies = [_policy(each, f"{where}[{at}]", Budget(), GATES) for at, each in enumerate(data)]
    return _quietly(where, lambda: Pipeline(*policies))
