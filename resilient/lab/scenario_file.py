"""Scenarios from files, read strictly: anything unknown is an error, in one line with the key.

    title = "Brown-out"
    duration = 120                                     # seconds in which calls are made

    [clients]
    instances = 20                                     # each with its own policies
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

    [service.admission]                                # in front of each server; or a list, outermost first; or import
    policy = "AdaptiveLimit"
    initial = 20

    [[faults]]                                         # see resilient.faults
    kind = "slowness"
    factor = 5
    start = 30
    end = 60

    [calls]                                            # what calls and answers look like: see resilient.lab.calls_table
    kind = "http"
    methods = {GET = 0.9, POST = 0.1}

    [pipelines.careful]                                # the pipelines to try
    budget = {ratio = 0.1, cap = 10}                   # for policies with `budget = true`
    policies = [                                       # outermost first
        {policy = "Retry", attempts = 3, wait = {base = 0.1, cap = 2}, budget = true},
        {policy = "CircuitBreaker", failure_rate = 0.5},
        {policy = "Hedge", delay = {quantile = 0.95, initial = 0.5}, budget = true},
        {policy = "Timeout", seconds = 1},
    ]
    admission = {policy = "Bulkhead"}                  # of the servers, while this pipeline is tried
    deadline_header = false                            # its requests carry no deadlines to servers

    [pipelines.preset]
    preset = "standard"                                # with its arguments

    [pipelines.mine]
    import = "app.calls:users"                         # MODULE:NAME

Policies have the same arguments as in Python, except those that are Python objects: for these there is `import`. It
names code, as `error` of a fault may. Code is imported only if the reader of the file allows it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from resilient._validation import meant
from resilient.explain.error_location import located
from resilient.explain.object_reference import imported
from resilient.faults import Fault, faults_from
from resilient.lab import distributions
from resilient.lab.calls_table import calls_of
from resilient.lab.files import read_text
from resilient.lab.load import Burst, Closed, Load, Poisson
from resilient.lab.pipeline_table import admission_of, candidate_of
from resilient.lab.scenario import Scenario
from resilient.lab.service_plan import FAULTS, Link, Quota, ServicePlan
from resilient.lab.table import ScenarioError, Source, Table, as_text, as_whole, build, check_values
from resilient.observe.evidence import class_named

__all__ = ["GALLERY", "ScenarioError", "gallery", "read", "scenario_from"]

GALLERY = Path(__file__).with_name("gallery")

LARGEST = 1_000_000
"""The most bytes of a scenario file."""
EXCEPTIONS = ("builtins", "httpx")
"""Modules whose exceptions any scenario may name: importing them runs no untrusted code."""
LOADS: dict[str, type[Load]] = {each.kind: each for each in (Poisson, Closed, Burst)}


def gallery() -> dict[str, Path]:
    """The scenarios that come with the library, by name."""
    return {file.stem: file for file in sorted(GALLERY.glob("*.toml"))}


def read(given: str, *, imports: bool = False) -> Scenario:
    """A scenario, by the name of one in the gallery, a TOML file, or `MODULE:FUNCTION`, which is imported and called.

    Args:
        imports: whether a file may name code of any module (see `scenario_from`).

    Raises `ScenarioError`.
    """
    known = gallery()
    if given in known:
        return _read_file(known[given], imports)
    path = Path(given)
    try:
        is_there = path.exists()
    except (OSError, ValueError) as error:  # not a possible name of a file
        raise ScenarioError(f"{given!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if is_there:
        return _read_file(path, imports)
    if path.suffix != ".toml" and ":" in given:
        return _called(given)
    files = [str(each) for each in path.parent.glob("*.toml")]
    raise ScenarioError(
        f"there is no scenario {given!r}: give a file, MODULE:FUNCTION, or one of {', '.join(known)}"
        f"{meant(given, [*known, *files])}"
    )


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
        raise ScenarioError(f"{given} failed with {located(error)}") from error
    if not isinstance(made, Scenario):
        raise ScenarioError(f"{given} must return a resilient.lab.world.Scenario, got {made!r}")
    return made


def _read_file(path: Path, imports: bool) -> Scenario:
    try:
        text = read_text(path, LARGEST)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # also of a number with thousands of digits
        raise ScenarioError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ScenarioError(f"{path} is nested too deeply") from None
    try:
        return scenario_from(data, name=path.stem, directory=path.parent, imports=imports)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def scenario_from(data: object, *, name: str = "", directory: Path | None = None, imports: bool = False) -> Scenario:
    """A scenario from plain data. Raises `ScenarioError`.

    Args:
        name: of the scenario, if it has no title.
        directory: in which files of the scenario are looked up. Default: the working directory.
        imports: it may name code (`MODULE:NAME`) of any module, which is imported and so run. Default: it may name only
            exceptions of Python and httpx, so a scenario of a stranger is plain data.
    """
    check_values(data)
    source = Source(directory or Path.cwd(), imports)
    top = Table(data, "")
    clients = Table(top.take("clients", {}), "clients")
    instances, keys = clients.take("instances", 1), clients.take("keys", 1)
    clients.end()
    loads = _loads(top.take("load"), source)
    service = _service(top.take("service"), source)
    happens = _faults(top.take("faults", []), source)
    pipelines = Table(top.take("pipelines", {}), "pipelines").left
    arguments = {
        "duration": top.take("duration"),
        "drain": top.take("drain", 60.0),
        "title": " ".join(as_text(top.take("title", name), "title").split()),
        "about": as_text(top.take("about", ""), "about").strip(),
        "calls": calls_of(top.take("calls", None), source),
    }
    top.end()
    return build(
        "",
        Scenario,
        loads=loads,
        service=service,
        clients=as_whole(instances, "clients.instances"),
        keys=_keys(keys),
        faults=happens,
        name=name,
        candidates={key: candidate_of(key, table, source) for key, table in pipelines.items()},
        **arguments,
    )


def _keys(given: object) -> int:
    if isinstance(given, list | str):
        raise ScenarioError(f'clients.keys must be the number of keys ("1", "2", ...), a whole number, got {given!r}')
    return as_whole(given, "clients.keys")


# -- parts of a world -------------------------------------------------------------------------------------------------


def _distribution(data: object, where: str, source: Source) -> distributions.Distribution:
    if isinstance(data, int | float) and not isinstance(data, bool):
        return build(where, distributions.Constant, data)
    if not isinstance(data, Mapping):
        raise ScenarioError(f"{where} must be a number of seconds or a table with a kind, got {data!r}")
    table = Table(data, where)
    cls = table.choose("kind", distributions.KINDS)
    if cls is distributions.Empirical:
        return _empirical(table, source)
    if cls is distributions.Mixture:
        parts = table.take("parts")
        table.end()
        if not isinstance(parts, list) or not parts:
            raise ScenarioError(f"{where}.parts must be a list of distributions with a weight each, got {parts!r}")
        tables = [Table(part, f"{where}.parts[{at}]") for at, part in enumerate(parts)]
        weights = [part.take("weight") for part in tables]
        made = [_distribution(part.left, part.where, source) for part in tables]
        return build(where, distributions.Mixture, weights=tuple(weights), parts=tuple(made))
    values = {field.name: table.take(field.name) for field in fields(cls)}  # type: ignore[arg-type]
    table.end()
    return build(where, cls, **values)


def _empirical(table: Table, source: Source) -> distributions.Distribution:
    values, file = table.take("values", None), table.take("file", None)
    table.end()
    where = table.where
    if (values is None) == (file is None):
        raise ScenarioError(f"{where} must have either file or values")
    if values is not None:
        if not isinstance(values, list):
            raise ScenarioError(f"{where}.values must be a list of seconds, got {values!r}")
        return build(where, distributions.Empirical, tuple(values))
    path = source.directory / as_text(file, f"{where}.file")
    try:
        return distributions.Empirical(tuple(distributions.read_latencies(path)))
    except ValueError as error:
        raise ScenarioError(f"{where}.file: {error}") from None


def _loads(data: object, source: Source) -> tuple[Load, ...]:
    many = data if isinstance(data, list) else [data]
    if not many:
        raise ScenarioError("load must have at least one table, got none")
    return tuple(
        _load(each, f"load[{at}]" if isinstance(data, list) else "load", source) for at, each in enumerate(many)
    )


def _faults(data: object, source: Source) -> tuple[Fault, ...]:
    if isinstance(data, list | tuple):
        data = [_with_code(table, f"faults[{at}]", source) for at, table in enumerate(data)]
    return build("", faults_from, data, "faults", FAULTS)


def _with_code(table: object, where: str, source: Source) -> object:
    """The table of a fault with the exception that it names, found under the same rules as all code that a scenario
    names."""
    name, path = table.get("error") if isinstance(table, Mapping) else None, f"{where}.error"
    if not isinstance(table, Mapping) or not isinstance(name, str):
        return table  # the constructor refuses it
    source.code(name, path, EXCEPTIONS)
    if source.imports:
        return {**table, "error": build(path, imported, name)} if ":" in name else table
    if class_named(name) is None:  # not a function of these modules, which would be code
        raise ScenarioError(
            f'{path} must be the name of an exception ("ConnectionError", "httpx:ConnectError"), got {name!r}'
        )
    return table


def _load(data: object, where: str, source: Source) -> Load:
    table = Table(data, where)
    cls = table.choose("kind", LOADS, "poisson")
    values = _fields(table, cls, {"think": _distribution}, source)
    return build(where, cls, **values)


def _fields(table: Table, cls: type[Any], readers: Mapping[str, Callable[..., Any]], source: Source) -> dict[str, Any]:
    """The arguments of a dataclass from a table."""
    values = {}
    for field in fields(cls):
        needed = field.default is MISSING and field.default_factory is MISSING
        value = table.take(field.name) if needed else table.take(field.name, None)
        if value is not None:
            reader = readers.get(field.name)
            values[field.name] = value if reader is None else reader(value, table.path(field.name), source)
    table.end()
    return values


def _service(data: object, source: Source) -> ServicePlan:
    def link(value: object, where: str, source: Source) -> Link:
        values = _fields(Table(value, where), Link, {"latency": _distribution}, source)
        return build(where, Link, **values)

    def quota(value: object, where: str, source: Source) -> Quota:
        return build(where, Quota, **_fields(Table(value, where), Quota, {}, source))

    readers = {
        **{"service_time": _distribution, "error_time": _distribution, "link": link, "rate_limit": quota},
        "admission": admission_of,
    }
    table = Table(data, "service")
    if "service_time" not in table.left:
        raise ScenarioError("service.service_time is missing")
    return build("service", ServicePlan, **_fields(table, ServicePlan, readers, source))
