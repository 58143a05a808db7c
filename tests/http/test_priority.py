"""The priority header of requests."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import AdaptiveLimit, Pipeline, Retry, current_priority, priority
from resilient.errors import LimitExceeded
from tests.http.kinds import URL, Kind


def retrying() -> Pipeline:
    return Pipeline(Retry(2, wait=0))


def own(**options: Any) -> dict[str, Any]:
    """Return the extensions with the options of a request."""
    return {"resilient": options}


@pytest.mark.parametrize(("option", "name"), [(True, "X-Priority"), ("x-class", "X-Class")])
def test_priority_header_has_the_priority_of_the_call(kind: Kind, option: Any, name: str) -> None:
    """Every attempt has it; the default is "normal"."""
    script = kind.script(503, 200, 200)
    client = kind.open(retrying(), script, priority_header=option)
    kind.run(lambda: client.get(URL), lambda: priority("critical"))
    kind.send(client)
    assert script.headers(name) == ["critical", "critical", "normal"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_request_may_set_its_own_priority(kind: Kind, method: str) -> None:
    """Its option replaces the priority around it, for this request only."""
    script = kind.script()
    client = kind.open(retrying(), script, priority_header=True)
    kind.run(
        lambda: client.request(method, URL, extensions=own(priority="sheddable")),
        lambda: priority("critical"),
    )
    kind.send(client, method)
    assert script.headers("X-Priority") == ["sheddable", "normal"]
    assert current_priority() == "normal"


def test_pipeline_uses_the_priority_of_a_request(kind: Kind) -> None:
    """A limit that keeps its last places for others refuses it."""
    shares: Any = {"critical": 1, "normal": 1, "sheddable": 0.5}
    limit = AdaptiveLimit(2, shares=shares)
    client = kind.open(Pipeline(limit), kind.script())
    assert kind.send(client, extensions=own(priority="sheddable")).status_code == 200
    (keyed,) = client._transport.pipeline.policies
    (one,) = (entry.gate for entry in keyed._keys.entries())
    ticket = one.admit(None)
    with pytest.raises(LimitExceeded, match="no room for a sheddable call"):
        kind.send(client, extensions=own(priority="sheddable"))
    one.release(ticket)
    assert kind.send(client, extensions=own(priority="critical")).status_code == 200


def test_no_priority_is_sent_by_default(kind: Kind) -> None:
    """A request with a priority for its pipeline does not send it either."""
    script = kind.script()
    client = kind.open(retrying(), script)
    kind.send(client, extensions=own(priority="critical"))
    assert script.headers("X-Priority") == [None]


@pytest.mark.parametrize("value", ["urgent", "", "Critical", None, 1, ["critical"]], ids=repr)
def test_unknown_priority_is_refused_at_once(kind: Kind, value: Any) -> None:
    """A `ValueError` is raised, and nothing is sent."""
    script = kind.script()
    client = kind.open(retrying(), script, priority_header=True)
    with pytest.raises(ValueError, match="priority must be one of critical, normal, sheddable, got"):
        kind.send(client, extensions=own(priority=value))
    assert script.sent == []


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("x: y", ValueError, "priority_header must be True, False or the name of a header, got 'x: y'"),
        (0, TypeError, "priority_header must be a string, got 0"),
        (None, TypeError, "priority_header must be a string, got None"),
    ],
)
def test_invalid_header_is_refused(kind: Kind, value: Any, error: type[Exception], message: str) -> None:
    """The constructor of the transport or the client raises."""
    with pytest.raises(error, match=message):
        kind.transport_of(retrying(), priority_header=value)
    with pytest.raises(error, match=message):
        kind.guarded_client_of(retrying(), priority_header=value)
