"""Scenarios as files: everything that can be written, and every mistake as one line with its key."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from resilient import CircuitBreaker, Hedge, Keyed, Pipeline, Retry, Timeout, quantile
from resilient.faults import Errors, Stall
from resilient.lab.distributions import Constant, Empirical, Exponential, LogNormal, Mixture
from resilient.lab.load import Burst, Closed, Poisson
from resilient.lab.scenario_file import ScenarioError, gallery, read, scenario_from
from resilient.lab.service import Link, Quota
from resilient.lab.world import Scenario

WHOLE = """
title = "All there is"
about = "For a test."
duration = 30
drain = 5
[clients]
instances = 3
keys = 4
[calls]
kind = "http"
methods = {GET = 0.9, POST = 0.1}
url = "https://{key}.users.example/orders"
headers = {Authorization = "Bearer {key}"}
statuses = {200 = 0.95, 404 = 0.05}
response_headers = {Content-Type = "application/json"}
[[load]]
rate = [[0, 10], [10, 20]]
[[load]]
kind = "closed"
users = 2
think = {kind = "exponential", mean = 0.5}
[[load]]
kind = "burst"
calls = 5
at = 2
priority = "sheddable"
[service]
service_time.kind = "mixture"
service_time.parts = [
    {weight = 9, kind = "lognormal", mean = 0.1, deviation = 0.05},
    {weight = 1, kind = "constant", value = 2},
]
error_time = {kind = "empirical", file = "latencies.txt"}
servers = 2
workers = 5
balance = "key"
queue = "lifo"
queue_limit = 9
failure_rate = 0.1
abandoned = "cancelled"
drop_expired = true
admission = [{policy = "RateLimit", rate = 90}, {policy = "AdaptiveLimit", initial = 30, shares = {sheddable = 0.5}}]
rate_limit = {rate = 50, burst = 5}
[service.link]
latency = 0.001
loss = 0.01
[[faults]]
kind = "stall"
start = 5
end = 8
targets = 2
[[faults]]
kind = "errors"
share = 0.5
status = 500
[pipelines.written]
about = "by hand"
budget = {ratio = 0.2, cap = 5}
policies = [
    {policy = "Retry", attempts = 4, wait = {base = 0.2, cap = 3}, budget = true},
    {policy = "Keyed", each = {policy = "CircuitBreaker", failure_rate = 0.3}, max_keys = 9},
    {policy = "Hedge", delay = {quantile = 0.9, initial = 0.2, ceiling = 0.5}, copies = 3, cancel = "late"},
    {policy = "Timeout", seconds = 1.5, name = "each"},
]
admission = {policy = "Bulkhead", max_concurrent = 7}
deadline_header = false
[pipelines.preset]
preset = "standard"
attempts = 2
"""


def small(**changes: Any) -> dict[str, Any]:
    """A small valid scenario, with changes at dotted keys."""
    data: dict[str, Any] = {"duration": 10, "load": {"rate": 5}, "service": {"service_time": 0.1}}
    for key, value in changes.items():
        *path, last = key.split("__")
        table = data
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return data


def test_everything_that_can_be_written_is_read(tmp_path: Path) -> None:
    """Each key arrives at its place."""
    (tmp_path / "latencies.txt").write_text("0.5\n")
    scenario = scenario_from(tomllib.loads(WHOLE), name="all", directory=tmp_path)

    assert (scenario.name, scenario.title, scenario.duration, scenario.drain) == ("all", "All there is", 30, 5)
    assert (scenario.clients, scenario.keys) == (3, 4)
    assert scenario.loads == (
        Poisson(((0.0, 10.0), (10.0, 20.0))),
        Closed(users=2, think=Exponential(0.5)),
        Burst(calls=5, at=2, priority="sheddable"),
    )
    service = scenario.service
    assert service.service_time == Mixture((9, 1), (LogNormal(0.1, 0.05), Constant(2)))
    assert service.error_time == Empirical((0.5,))
    assert (service.servers, service.workers, service.balance, service.queue) == (2, 5, "key", "lifo")
    assert (service.queue_limit, service.failure_rate, service.abandoned) == (9, 0.1, "cancelled")
    assert (service.drop_expired, service.rate_limit) == (True, Quota(50, 5))
    assert service.link == Link(Constant(0.001), 0.01)
    assert scenario.faults == (Stall(start=5, end=8, targets=2), Errors(share=0.5, status=500))

    made = scenario.candidates["written"].make()
    assert isinstance(made, Pipeline)
    retry, keyed, hedge, timeout = made.policies
    assert isinstance(retry, Retry)
    assert isinstance(keyed, Keyed)
    assert isinstance(timeout, Timeout)
    assert retry.describe() == "Retry(4 attempts, full jitter 0.2 s to 3 s)"
    assert retry.budget is not None
    assert (retry.budget.ratio, retry.budget.cap) == (0.2, 5)
    assert keyed.max_keys == 9
    assert (timeout.seconds, timeout.name) == (1.5, "each")
    assert isinstance(hedge, Hedge)
    assert hedge.observes == quantile(0.9, initial=0.2, ceiling=0.5)
    assert (hedge.copies, hedge._late) == (3, True)
    assert str(scenario.candidates["written"].admission) == "Bulkhead(7)"
    assert not scenario.candidates["written"].deadline_header
    assert [type(each).__name__ for each in service.admit().policies] == ["RateLimit", "AdaptiveLimit"]
    assert service.admit().policies[1].shares == {"critical": 1.0, "normal": 0.9, "sheddable": 0.5}
    standard = scenario.candidates["preset"].make()
    assert isinstance(standard, Pipeline)
    assert standard.policies[1].facts.runs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dration": 5}, "there is no 'dration': allowed are about, calls, clients, drain, duration, faults, load"),
        ({"duration": 0}, "duration must be a finite number of seconds > 0, got 0"),
        ({"title": 3}, "title must be a text, got 3"),
        ({"load": []}, "load must have at least one table, got none"),
        ({"load": 7}, "load must be a table, got 7"),
        ({"load__kind": "open"}, "load.kind must be one of burst, closed, poisson, got 'open'"),
        ({"load__kind": ["poisson"]}, "load.kind must be one of burst, closed, poisson, got ['poisson']"),
        ({"load__rat": 5}, "there is no 'load.rat': allowed are kind, priority, rate"),
        ({"load": {}}, "load.rate is missing"),
        ({"load": [{"rate": 1}, {"rate": -1}]}, "load[1].rate must be a finite number >= 0, got -1"),
        ({"load__rate": [[0, 5], [0, 6]]}, "load.rate[1][0] must be later than 0, got 0"),
        ({"load__rate": [5]}, "load.rate[0] must be [seconds, calls a second], got 5"),
        ({"clients__instances": 0}, "clients.instances must be a whole number >= 1, got 0"),
        ({"service": {}}, "service.service_time is missing"),
        ({"service__worker": 3}, "there is no 'service.worker': allowed are abandoned, admission, balance,"),
        ({"service__workers": 1.5}, "service.workers must be a whole number >= 1, got 1.5"),
        ({"service__queue": "sifo"}, "service.queue must be one of fifo, lifo, got 'sifo'"),
        ({"service__failure_rate": 1.5}, "service.failure_rate must be a share from 0 to 1, got 1.5"),
        ({"service__link": {"loss": 2}}, "service.link.loss must be a share from 0 to 1, got 2"),
        ({"service__rate_limit": {"rate": 0}}, "service.rate_limit.rate must be a finite number > 0, got 0"),
        ({"service__service_time": "fast"}, "service.service_time must be a number of seconds or a table with a kind"),
        ({"service__service_time": {"kind": "gamma"}}, "service.service_time.kind must be one of constant, empirical"),
        ({"service__service_time": {"kind": {}}}, "service.service_time.kind must be one of constant, empirical"),
        ({"service__service_time": {"kind": "pareto", "low": 1}}, "service.service_time.shape is missing"),
        ({"service__service_time": {"kind": "exponential", "mean": -1}}, "service.service_time.mean must be a finite"),
        ({"service__service_time": {"kind": "constant", "value": 1, "x": 1}}, "there is no 'service.service_time.x'"),
        (
            {"service__service_time": {"kind": "empirical", "file": "none.txt"}},
            "service.service_time.file: none.txt cannot be read: No such file",
        ),
        ({"service__service_time": {"kind": "empirical"}}, "service.service_time must have either file or values"),
        (
            {"service__service_time": {"kind": "mixture", "parts": [{"weight": 1, "kind": "uniform", "low": 1}]}},
            "service.service_time.parts[0].high is missing",
        ),
        ({"faults": [{"kind": "stal"}]}, "faults[0].kind must be one of crash, errors, latency, packet_loss"),
        ({"faults": [{"kind": "dripping_body"}]}, "faults[0].kind must be one of crash, errors"),
        ({"faults": [{"kind": "stall", "start": 5, "end": 2}]}, "faults[0].end must be after start=5"),
        ({"faults": [{"kind": "stall", "targets": 4}]}, "faults[0].targets must be servers from 1 to 1, got 4"),
        ({"faults": [{"kind": "stall", "targets": "1"}]}, "faults[0].targets must be numbers of servers, got '1'"),
        ({"pipelines__a": {}}, "pipelines.a must have one of import, policies, preset, got none"),
        ({"pipelines__a": {"preset": "strong"}}, "pipelines.a.preset must be one of standard, standard_hedged"),
        (
            {"pipelines__a": {"preset": ["standard"]}},
            "pipelines.a.preset must be one of standard, standard_hedged, got [",
        ),
        ({"pipelines__a": {"preset": "standard", "totl": 1}}, "there is no 'pipelines.a.totl': allowed are"),
        ({"pipelines__a": {"import": "nowhere:x"}}, "pipelines.a.import: there is no module 'nowhere'"),
        ({"pipelines__a": {"import": "resilient:Nothing"}}, "pipelines.a.import: there is no 'Nothing'"),
        (
            {"pipelines__a": {"import": "resilient:Retry"}},
            "pipelines.a.import: a must be a pipeline, a policy, a",
        ),
        ({"pipelines__a": {"policies": []}}, "pipelines.a.policies must be a list of tables with a policy each"),
        (
            {"pipelines__a": {"policies": [{"policy": "Retri"}]}},
            "pipelines.a.policies[0].policy must be one of AdaptiveLimit, Bulk",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": ["Retry"]}]}},
            "pipelines.a.policies[0].policy must be one of Adapt",
        ),
        ({"pipelines__a": {"policies": [{"policy": "Timeout"}]}}, "pipelines.a.policies[0].seconds is missing"),
        (
            {"pipelines__a": {"policies": [{"policy": "Retry", "attempts": 0}]}},
            "pipelines.a.policies[0].attempts must be a whole number >= 1, got 0",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": "Retry", "budget": 5}]}},
            "pipelines.a.policies[0].budget must be true (the pipeline's budget) or left out, got 5",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": "Retry", "wait": {"bse": 1}}]}},
            "there is no 'pipelines.a.policies[0].wait.bse': allowed are base, cap",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": "Keyed", "each": {"policy": "Retry"}}]}},
            "pipelines.a.policies[0].each.policy must be one of AdaptiveLimit, Bulkhead, CircuitBreaker, RateLimit, ",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": "Hedge", "delay": {"quantil": 0.9}}]}},
            "pipelines.a.policies[0].delay.quantile is missing",
        ),
        (
            {"pipelines__a": {"policies": [{"policy": "Hedge", "delay": {"quantile": 2}}]}},
            "pipelines.a.policies[0].delay.share must be",
        ),
        ({"pipelines__a": {"preset": "standard", "deadline_header": 1}}, "pipelines.a.deadline_header must be true or"),
        (
            {"service__admission": {"policy": "Retry"}},
            "service.admission.policy must be one of AdaptiveLimit, Bulkhead",
        ),
        ({"service__admission": {"policy": "AdaptiveLimit", "initial": 0}}, "service.admission.initial must be"),
        ({"service__admission": []}, "service.admission must have at least one policy, got none"),
        ({"load__priority": "high"}, "load.priority must be one of critical, normal, sheddable, got 'high'"),
        ({"pipelines__a": {"preset": "standard", "budget": {"cap": 0}}}, "pipelines.a.budget.cap=0 must be at least"),
    ],
)
def test_mistake_is_one_line_that_names_its_key(changes: dict[str, Any], message: str) -> None:
    """The line has the allowed values."""
    with pytest.raises(ScenarioError, match="^" + re.escape(message)) as raised:
        scenario_from(small(**changes), directory=Path(), imports=True)

    assert "\n" not in str(raised.value)


def test_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    """The message has the path, and the line."""
    with pytest.raises(
        ScenarioError, match=r"there is no scenario '.*gone.toml': give a file, MODULE:FUNCTION, or one"
    ):
        read(str(tmp_path / "gone.toml"))
    file = tmp_path / "bad.toml"
    file.write_text("duration = \n")
    with pytest.raises(ScenarioError, match=r"bad.toml is not TOML: .*line 1"):
        read(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match=r"bad.toml is not UTF-8 text"):
        read(str(file))
    with pytest.raises(ScenarioError, match="cannot be read"):
        read(str(tmp_path))


def test_function_of_a_module_gives_a_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODULE:FUNCTION is found in the working directory, and must return a Scenario."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lab_worlds_of_a_test.py").write_text(
        "from resilient.lab.load import Poisson\nfrom resilient.lab.world import Scenario\n"
        "def made(): return Scenario(duration=3, loads=(Poisson(1),))\n"
        "def other(): return 5\ndef broken(): raise KeyError('x')\n"
    )

    assert read("lab_worlds_of_a_test:made") == Scenario(duration=3, loads=(Poisson(1),))
    for name, message in (("other", "must return a resilient.lab.world.Scenario, got 5"), ("broken", "KeyError: 'x'")):
        with pytest.raises(ScenarioError, match=message):
            read(f"lab_worlds_of_a_test:{name}")


@pytest.mark.parametrize("name", gallery())
def test_gallery_can_be_read_and_offers_something_to_compare(name: str) -> None:
    """Each scenario has a title, a story, faults or a changing load, and at least two pipelines."""
    scenario = read(name)

    assert scenario.title.partition(":")[0].lower().replace(" ", "-") == name
    assert len(scenario.about) > 100
    assert len(scenario.candidates) >= 2
    assert all(candidate.about for candidate in scenario.candidates.values())


def test_circuit_of_a_file_is_made_anew_for_each_key() -> None:
    """`Keyed` in a file makes a new gate for each key."""
    policies = [{"policy": "Keyed", "each": {"policy": "CircuitBreaker", "fail_max": 7}}]
    made = scenario_from(small(pipelines__a={"policies": policies})).candidates["a"].make()

    assert isinstance(made, Pipeline)
    keyed = made.policies[0]
    assert isinstance(keyed, Keyed)
    gate, other = keyed.gate_for("a"), keyed.gate_for("b")
    assert isinstance(gate, CircuitBreaker)
    assert gate.fail_max == 7
    assert other is not gate


def test_exceptions_that_faults_name_are_found_as_pipelines_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules in the working directory are found; an exception that cannot be found or made is refused before the
    run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    (tmp_path / "lab_errors_of_a_test.py").write_text(
        "class Busy(Exception): ...\n"
        "class Twice(Exception):\n    def __init__(self, one, two): ...\n"
        "def aws(message):\n    return OSError(message)\n"
    )

    def errors(name: str) -> Any:
        faults = [{"kind": "errors", "error": f"lab_errors_of_a_test:{name}", "retry_after": 5}]
        return scenario_from(small(faults=faults), imports=True).faults[0]

    assert [type(errors(name).failure()).__name__ for name in ("Busy", "aws")] == ["Busy", "OSError"]
    for name, message in (
        ("Gone", "faults[0].error: there is no 'Gone' in 'lab_errors_of_a_test'"),
        ("Twice", "faults[0].error must be an exception that is made of a message"),
    ):
        with pytest.raises(ScenarioError, match=re.escape(message)):
            errors(name)
