"""Scenarios from files, read strictly: whatever is not understood is an error, in one line that names the key.

    title = "Brown-out"
    duration = 120                                     # seconds in which calls are made

    [clients]
    instances = 20                                     # each with policies of its own
    keys = 1                                           # "1", "2", ...: shards, tenants

    [[load]]                                           # one or several
    kind = "poisson"                                   # or "closed", "burst"
    rate = 300                                         # calls a second; or steps: [[0, 300], [60, 600]]
    priority = "normal"                                # or "critical", "sheddable"

    [service]                                          # see resilient.lab.service
    service_time = {kind = "lognormal", mean = 0.05, deviation = 0.03}
    workers = 40

    [service.link]
    latency = 0.001

    [service.admission]                                # in front of each server; or a list, outermost first
    policy = "AdaptiveLimit"
    initial = 20

    [[faults]]                                         # see resilient.faults
    kind = "slowness"
    factor = 5
    start = 30
    end = 60

    [pipelines.careful]                                # what is worth a try
    budget = {ratio = 0.1, cap = 10}                   # for whoever says `budget = true`
    policies = [                                       # outermost first
        {policy = "Retry", attempts = 3, wait = {base = 0.1, cap = 2}, budget = true},
        {policy = "CircuitBreaker", failure_rate = 0.5},
        {policy = "Hedge", delay = {quantile = 0.95, initial = 0.5}, budget = true},
        {policy = "Timeout", seconds = 1},
    ]
    admission = {policy = "Bulkhead"}                  # at the servers, while this one is tried
    deadline_header = false                            # its servers do not hear of its deadlines

    [pipelines.preset]
    preset = "standard"                                # with its arguments

    [pipelines.mine]
    import = "app.calls:users"                         # MODULE:NAME

Policies have the arguments that they have in Python; but for those that are Python objects, there is `import`.
"""

from __future__ import annotations

import inspect
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from resilient import presets
from resilient.backoff import FullJitter
from resilient.budget import Budget
from resilient.errors import PipelineWarning
from resilient.faults import faults_from
from resilient.lab import distributions
from resilient.lab.candidates import Candidate, candidate_from, imported
from resilient.lab.load import Burst, Closed, Load, Poisson
from resilient.lab.service import FAULTS, Link, Quota, ServicePlan
from resilient.lab.world import Scenario
from resilient.latency import quantile
from resilient.pipeline import Pipeline
from resilient.policies.adaptive import AdaptiveLimit
from resilient.policies.breaker import CircuitBreaker
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.fallback import Fallback
from resilient.policies.hedge import Hedge
from resilient.policies.keyed import Keyed
from resilient.policies.ratelimit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.policy import Gate, Policy

__all__ = ["GALLERY", "ScenarioError", "gallery", "read", "scenario_from"]

GALLERY = Path(__file__).with_name("gallery")

LOADS: dict[str, type[Load]] = {each.kind: each for each in (Poisson, Closed, Burst)}
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
    "shadow_to",
    "factory",
    "key",
    "max_keys",
    "accept",
    "priority",
    "limiter",
)
"""Arguments of policies that are Python objects: for those there is `import`."""
PRESETS: dict[str, Callable[..., Pipeline]] = {"standard": presets.standard, "standard_hedged": presets.standard_hedged}


class ScenarioError(ValueError):
    """A scenario cannot be read; the message is one line that names the key, and says what is allowed."""


def gallery() -> dict[str, Path]:
    """The scenarios that come with the library, by name."""
    return {file.stem: file for file in sorted(GALLERY.glob("*.toml"))}


def read(given: str) -> Scenario:
    """A scenario from the name of one in the gallery, a TOML file, or `MODULE:FUNCTION`. Raises `ScenarioError`."""
    known = gallery()
    if given in known:
        return _read_file(known[given])
    path = Path(given)
    if path.suffix != ".toml" and not path.exists() and ":" in given:
        return _called(given)
    if not path.exists():
        names = ", ".join(known)
        raise ScenarioError(f"there is no scenario {given!r}: give a file, MODULE:FUNCTION, or one of {names}")
    return _read_file(path)


def _called(given: str) -> Scenario:
    try:
        function = imported(given)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    if isinstance(function, Scenario):
        return function
    if not callable(function):
        raise ScenarioError(f"{given} must be a function that returns a Scenario, got {function!r}")
    try:
        made = function()
    except Exception as error:
        raise ScenarioError(f"{given} failed with {type(error).__name__}: {error}") from error
    if not isinstance(made, Scenario):
        raise ScenarioError(f"{given} must return a resilient.lab.world.Scenario, got {made!r}")
    return made


def _read_file(path: Path) -> Scenario:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not TOML: {error}") from None
    try:
        return scenario_from(data, name=path.stem, directory=path.parent)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


class _Table:
    """A table whose keys are taken one by one; `end` complains of those that are left."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ScenarioError(f"{where or 'a scenario'} must be a table, got {data!r}")
        self.left = dict(data)
        self.where = where
        self.known: list[str] = []

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, default: Any = MISSING) -> Any:
        self.known.append(key)
        if key in self.left:
            return self.left.pop(key)
        if default is MISSING:
            raise ScenarioError(f"{self.path(key)} is missing")
        return default

    def end(self) -> None:
        for key in self.left:
            raise ScenarioError(f"there is no {self.path(key)!r}: allowed are {', '.join(sorted(self.known))}")


def _made(where: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `make` makes; its complaints get the place in front."""
    try:
        return make(*args, **kwargs)
    except ScenarioError:
        raise
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}.{error}" if where else str(error)) from None


def scenario_from(data: object, *, name: str = "", directory: Path | None = None) -> Scenario:
    """A scenario from plain data; files that it names are looked for in `directory`. Raises `ScenarioError`."""
    directory = directory or Path.cwd()
    top = _Table(data, "")
    clients = _Table(top.take("clients", {}), "clients")
    instances, keys = clients.take("instances", 1), clients.take("keys", 1)
    clients.end()
    loads = _loads(top.take("load"), directory)
    service = _service(top.take("service"), directory)
    happens = _made("", faults_from, top.take("faults", []), "faults", FAULTS)
    pipelines = _Table(top.take("pipelines", {}), "pipelines").left
    arguments = {
        "duration": top.take("duration"),
        "drain": top.take("drain", 60.0),
        "title": _text(top.take("title", name), "title"),
        "about": _text(top.take("about", ""), "about").strip(),
    }
    top.end()
    try:
        return Scenario(
            loads=loads,
            service=service,
            clients=_whole(instances, "clients.instances"),
            keys=_whole(keys, "clients.keys"),
            faults=happens,
            name=name,
            candidates={key: _candidate(key, table) for key, table in pipelines.items()},
            **arguments,
        )
    except ScenarioError:
        raise
    except (TypeError, ValueError) as error:
        raise ScenarioError(str(error)) from None


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ScenarioError(f"{where} must be a text, got {value!r}")
    return value


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScenarioError(f"{where} must be a whole number >= 1, got {value!r}")
    return value


# -- parts of a world -------------------------------------------------------------------------------------------------


def _distribution(data: object, where: str, directory: Path) -> distributions.Distribution:
    if isinstance(data, int | float) and not isinstance(data, bool):
        return _made(where, distributions.Constant, data)  # type: ignore[no-any-return]
    if not isinstance(data, Mapping):
        raise ScenarioError(f"{where} must be a number of seconds or a table with a kind, got {data!r}")
    table = _Table(data, where)
    kind = table.take("kind", None)
    if kind not in distributions.KINDS:
        raise ScenarioError(f"{where}.kind must be one of {', '.join(sorted(distributions.KINDS))}, got {kind!r}")
    if kind == "empirical":
        return _empirical(table, directory)
    if kind == "mixture":
        parts = table.take("parts")
        table.end()
        if not isinstance(parts, list) or not parts:
            raise ScenarioError(f"{where}.parts must be a list of distributions with a weight each, got {parts!r}")
        tables = [_Table(part, f"{where}.parts[{at}]") for at, part in enumerate(parts)]
        weights = [part.take("weight") for part in tables]
        made = [_distribution(part.left, part.where, directory) for part in tables]
        return _made(where, distributions.Mixture, tuple(weights), tuple(made))  # type: ignore[no-any-return]
    cls = distributions.KINDS[kind]
    values = {field.name: table.take(field.name) for field in fields(cls)}  # type: ignore[arg-type]
    table.end()
    return _made(where, cls, **values)  # type: ignore[no-any-return]


def _empirical(table: _Table, directory: Path) -> distributions.Distribution:
    values, file = table.take("values", None), table.take("file", None)
    table.end()
    where = table.where
    if (values is None) == (file is None):
        raise ScenarioError(f"{where} must have either file or values")
    if values is not None:
        if not isinstance(values, list):
            raise ScenarioError(f"{where}.values must be a list of seconds, got {values!r}")
        return _made(where, distributions.Empirical, tuple(values))  # type: ignore[no-any-return]
    path = directory / _text(file, f"{where}.file")
    try:
        return distributions.Empirical(tuple(distributions.read_latencies(path)))
    except OSError as error:
        raise ScenarioError(f"{where}.file: {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{where}.file: {path} is not UTF-8 text") from None
    except ValueError as error:
        raise ScenarioError(f"{where}.file: {error}") from None


def _loads(data: object, directory: Path) -> tuple[Load, ...]:
    many = data if isinstance(data, list) else [data]
    if not many:
        raise ScenarioError("load must have at least one table, got none")
    return tuple(
        _load(each, f"load[{at}]" if isinstance(data, list) else "load", directory) for at, each in enumerate(many)
    )


def _load(data: object, where: str, directory: Path) -> Load:
    table = _Table(data, where)
    kind = table.take("kind", "poisson")
    if kind not in LOADS:
        raise ScenarioError(f"{where}.kind must be one of {', '.join(sorted(LOADS))}, got {kind!r}")
    cls = LOADS[kind]
    values = _fields(table, cls, {"think": _distribution}, directory)
    return _made(where, cls, **values)  # type: ignore[no-any-return]


def _fields(
    table: _Table, cls: type[Any], readers: Mapping[str, Callable[..., Any]], directory: Path
) -> dict[str, Any]:
    """The arguments of a dataclass from a table."""
    values = {}
    for field in fields(cls):
        needed = field.default is MISSING and field.default_factory is MISSING
        value = table.take(field.name) if needed else table.take(field.name, None)
        if value is not None:
            reader = readers.get(field.name)
            values[field.name] = value if reader is None else reader(value, table.path(field.name), directory)
    table.end()
    return values


def _service(data: object, directory: Path) -> ServicePlan:
    def link(value: object, where: str, directory: Path) -> Link:
        values = _fields(_Table(value, where), Link, {"latency": _distribution}, directory)
        return _made(where, Link, **values)  # type: ignore[no-any-return]

    def quota(value: object, where: str, directory: Path) -> Quota:
        return _made(where, Quota, **_fields(_Table(value, where), Quota, {}, directory))  # type: ignore[no-any-return]

    readers = {
        **{"service_time": _distribution, "error_time": _distribution, "link": link, "rate_limit": quota},
        "admission": lambda value, where, directory: _admission(value, where),
    }
    table = _Table(data, "service")
    if "service_time" not in table.left:
        raise ScenarioError("service.service_time is missing")
    return _made("service", ServicePlan, **_fields(table, ServicePlan, readers, directory))  # type: ignore[no-any-return]


def _admission(data: object, where: str) -> Policy:
    """A gate, or several, as a pipeline, outermost first."""
    if not isinstance(data, list):
        return _policy(data, where, Budget(), GATES)
    if not data:
        raise ScenarioError(f"{where} must have at least one policy, got none")
    policies = [_policy(each, f"{where}[{at}]", Budget(), GATES) for at, each in enumerate(data)]
    return _quietly(where, lambda: Pipeline(*policies))


# -- pipelines --------------------------------------------------------------------------------------------------------


def _candidate(name: str, data: object) -> Candidate:
    where = f"pipelines.{name}"
    table = _Table(data, where)
    about = _text(table.take("about", ""), f"{where}.about")
    header = table.take("deadline_header", True)
    if not isinstance(header, bool):
        raise ScenarioError(f"{table.path('deadline_header')} must be true or false, got {header!r}")
    given = table.take("admission", None)
    admission = None if given is None else _admission(given, table.path("admission"))
    ways = [way for way in ("import", "policies", "preset") if way in table.left]
    if len(ways) != 1:
        raise ScenarioError(f"{where} must have one of import, policies, preset, got {' and '.join(ways) or 'none'}")
    if ways == ["import"]:
        path = _text(table.take("import"), f"{where}.import")
        table.end()
        try:
            made = candidate_from(name, imported(path), about)
        except (TypeError, ValueError) as error:
            raise ScenarioError(f"{where}.import: {error}") from None
        return replace(made, admission=admission, deadline_header=header)
    budget = _budget(table.take("budget", None), f"{where}.budget")
    pipeline = _preset(table, budget) if ways == ["preset"] else _policies(table, budget)
    return replace(candidate_from(name, pipeline, about), admission=admission, deadline_header=header)


def _budget(data: object, where: str) -> Budget:
    if data is None:
        return Budget()
    table = _Table(data, where)
    values = {key: value for key in ("ratio", "reserve", "cap", "ttl") if (value := table.take(key, None)) is not None}
    table.end()
    return _made(where, Budget, **values)  # type: ignore[no-any-return]


def _preset(table: _Table, budget: Budget) -> Pipeline:
    name = table.take("preset")
    if name not in PRESETS:
        raise ScenarioError(f"{table.path('preset')} must be one of {', '.join(sorted(PRESETS))}, got {name!r}")
    make = PRESETS[name]
    keys = [key for key in inspect.signature(make).parameters if key not in ("name", "budget", "classify")]
    values = {key: value for key in keys if (value := table.take(key, None)) is not None}
    table.end()
    return _quietly(table.where, lambda: make(budget=budget, **values))


def _policies(table: _Table, budget: Budget) -> Pipeline:
    given = table.take("policies")
    table.end()
    where = table.path("policies")
    if not isinstance(given, list) or not given:
        raise ScenarioError(f"{where} must be a list of tables with a policy each, outermost first, got {given!r}")
    policies = [_policy(each, f"{where}[{at}]", budget) for at, each in enumerate(given)]
    return _quietly(where, lambda: Pipeline(*policies))


def _quietly(where: str, make: Callable[[], Pipeline]) -> Pipeline:
    """Orders that cannot work are what some scenarios are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineWarning)
        return _made(where, make)  # type: ignore[no-any-return]


def _policy(data: object, where: str, budget: Budget, allowed: Mapping[str, type[Policy]] = POLICIES) -> Policy:
    table = _Table(data, where)
    kind = table.take("policy", None)
    if kind not in allowed:
        raise ScenarioError(f"{where}.policy must be one of {', '.join(sorted(allowed))}, got {kind!r}")
    cls = allowed[kind]
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
            wait = _Table(value, table.path(key))
            jitter = {each: number for each in ("base", "cap") if (number := wait.take(each, None)) is not None}
            wait.end()
            value = _made(wait.where, FullJitter, **jitter)
        elif key == "delay" and cls is Hedge and isinstance(value, Mapping):
            value = _quantile(value, table.path(key))
        elif key == "wait" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ScenarioError(f"{table.path(key)} must be seconds or a table of base and cap, got {value!r}")
        values[key] = value
    table.end()
    return _made(where, cls, **values)  # type: ignore[no-any-return]


def _quantile(data: object, where: str) -> quantile:
    """A delay that is observed."""
    table = _Table(data, where)
    share = table.take("quantile")
    names = [name for name in inspect.signature(quantile).parameters if name != "share"]
    values = {name: value for name in names if (value := table.take(name, None)) is not None}
    table.end()
    return _made(where, quantile, share, **values)  # type: ignore[no-any-return]


def _keyed(table: _Table, budget: Budget) -> Policy:
    """A gate for each key of the calls."""
    gates = {name: cls for name, cls in GATES.items() if cls is not Keyed}
    each, where = table.take("each"), table.path("each")
    values = {key: value for key in ("max_keys", "idle", "name") if (value := table.take(key, None)) is not None}
    table.end()
    _policy(each, where, budget, gates)  # complains here, not in the middle of a run

    def factory() -> Gate:
        made = _policy(each, where, budget, gates)
        assert isinstance(made, Gate)
        return made

    return _made(table.where, Keyed, factory, key=lambda key: key, **values)  # type: ignore[no-any-return]
