"""Metrics of policies and names that are odd: one of them must not cost the others, nor break an export."""

from __future__ import annotations

import enum
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from resilient import Bulkhead, CircuitBreaker, Keyed, Pipeline, RateLimit, Rejected, Retry, registry
from resilient.core.gate import Gate
from resilient.errors import Reason
from resilient.events import counters
from resilient.observe.metrics import Histogram, read, record_durations
from resilient.testing import run


def values(metric: str, pipeline: str, *, keys: int = 0) -> dict[tuple[str, ...], Any]:
    """The values of a metric of one pipeline, by the values of the labels after the pipeline."""
    found = registry.metrics(keys=keys).get(f"resilient.{metric}", {"series": []})
    return {
        tuple(series["labels"].values())[1:]: series["value"]
        for series in found["series"]
        if series["labels"].get("pipeline") == pipeline
    }


class Odd(Bulkhead):
    """A policy whose snapshot is anything."""

    shown: Any = {}  # noqa: RUF012
    made: ClassVar[list[Odd]] = []

    def snapshot(self) -> dict[str, Any]:
        if self.shown is LookupError:
            raise LookupError("broken")
        return self.shown  # type: ignore[no-any-return]


def odd(shown: Any) -> Odd:
    policy = Odd(1)
    policy.shown = shown
    Odd.made.append(policy)
    return policy


@pytest.fixture(autouse=True)
def nothing_odd_stays() -> Iterator[None]:
    """Other tests read the snapshots of all pipelines, and some of these may still exist then."""
    yield
    while Odd.made:
        Odd.made.pop().shown = {}


@pytest.mark.parametrize(
    ("shown", "limit"),
    [
        ({"limit": math.nan}, {}),
        ({"limit": math.inf}, {}),
        ({"limit": 10**400}, {("Odd",): 2**63 - 1}),
        ({"limit": -(10**400)}, {("Odd",): 1 - 2**63}),
        ({"limit": True}, {("Odd",): 1}),
        ({"limit": "7", "delays": "7"}, {}),
        ({"limit": 5, "observed": 3}, {}),
        ({"limit": 5, "state": "open", "calls": "7", "failures": "x"}, {}),
        ({"limit": 5, "state": [1]}, {("Odd",): 5}),
        ([1], {}),
        (None, {}),
        (LookupError, {}),
    ],
)
def test_snapshot_of_any_kind_gives_numbers_or_nothing(shown: Any, limit: dict[tuple[str, ...], Any]) -> None:
    """What is read is JSON in the strict sense, and the gauges of other policies are there."""
    pipeline = Pipeline(odd(shown), RateLimit(3), name=f"odd snapshot {shown!r:.60}")
    found = values("permits.limit", pipeline.name)
    assert found == limit
    assert [type(value) for value in found.values()] == [int] * len(limit)
    assert values("tokens", pipeline.name) == {("RateLimit",): 3}
    json.dumps(registry.metrics(), allow_nan=False)


def test_sum_of_two_gauges_is_in_range_too() -> None:
    pipeline = Pipeline(odd({"limit": 2**63 - 1}), odd({"limit": 2**63 - 1}), name="odd sum")
    assert values("permits.limit", pipeline.name) == {("Odd",): 2**63 - 1}


def test_policy_that_cannot_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A scrape every second would fill a disk."""
    pipeline = Pipeline(odd(LookupError), name="logged once")
    with caplog.at_level(logging.ERROR, "resilient"):
        for _ in range(3):
            read()
    assert [each.getMessage() for each in caplog.records] == [
        f"resilient: the gauges of a Odd of {pipeline.name} cannot be read (logged once)"
    ]


def test_policy_that_is_not_hashable_is_read() -> None:
    """A dataclass is not."""

    @dataclass
    class Mine(Gate):
        limit: int = 7

        def __post_init__(self) -> None:
            super().__init__()

        def admit(self, call: Any) -> Any:
            return self

        def snapshot(self) -> dict[str, Any]:
            return {"limit": self.limit}

    pipeline = Pipeline(Mine(), name="not hashable")
    assert pipeline.call(lambda: 7) == 7
    assert values("permits.limit", "not hashable") == {("Mine",): 7}


def test_name_that_is_no_string_any_more_is_shown_as_text() -> None:
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(bulkhead, Bulkhead(2), name="renamed")
    bulkhead.name = 7  # type: ignore[assignment]
    assert pipeline.call(lambda: 7) == 7
    assert values("permits.limit", "renamed") == {("7",): 1, ("Bulkhead",): 2}


class Names(str, enum.Enum):  # noqa: UP042  # as much code has them; `str()` of its members is another text
    """Names of pipelines, as a program may define them."""

    USERS = "users of an enum"


def test_name_from_an_enum_is_its_value() -> None:
    pipeline = Pipeline(Bulkhead(1, name=Names.USERS), name=Names.USERS)
    assert pipeline.call(lambda: 7) == 7
    assert values("permits.limit", "users of an enum") == {("users of an enum",): 1}
    assert type(pipeline.name) is str


@pytest.mark.parametrize("name", ["two\nlines", "\0", "lone \ud800", "x" * 10_000, "é", 'q"\\'])
def test_name_of_any_characters_can_be_encoded(name: str) -> None:
    """Protocols have UTF-8: a name that has no such form would break a whole export."""
    pipeline = Pipeline(Bulkhead(1, name=name), name=name)
    assert pipeline.call(lambda: 7) == 7
    labels = [label for series in read().values() for each in series for label in each.labels]
    assert all(label.encode() for label in labels if label)
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert values("permits.limit", shown) == {(shown,): 1}


def test_key_that_has_no_text_is_shown_by_its_class() -> None:
    class Tenant:
        def __repr__(self) -> str:
            raise LookupError("no text")

    pipeline = Pipeline(Keyed(CircuitBreaker, key=lambda key: key), name="no text")
    assert pipeline.call(lambda key: 7, Tenant()) == 7
    assert values("circuit.state", "no text", keys=5)["Keyed", "closed", "a Tenant"] == 1


def test_labels_of_an_example_are_text_that_can_be_encoded() -> None:
    """Whatever function has made them: another exporter may show them, too."""
    stop = record_durations(exemplar=lambda: {"id \ud800": 7, "trace": "\udcff"}, slow=0)  # type: ignore[dict-item]
    pipeline = Pipeline(Bulkhead(1), name="odd example")
    pipeline.call(lambda: None)
    stop()
    found = [
        example.labels
        for each in read().values()
        for series in each
        if isinstance(series.value, Histogram)
        for example in series.value.exemplars.values()
    ]
    assert found == [{r"id \ud800": "7", "trace": r"\udcff"}]


@pytest.mark.parametrize("grows", ["policy", "reason"])
def test_names_and_reasons_without_end_stay_within_a_limit(grows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory and in series; and nothing is lost."""
    monkeypatch.setattr(counters, "MOST_KEYS", 20)

    class Strict(Gate):
        def admit(self, call: Any) -> Any:
            raise Rejected(Reason("refused", f"code {number}" if grows == "reason" else "refused"))

    async def main() -> None:
        nonlocal number
        for number in range(100):
            name = f"tenant {number}" if grows == "policy" else "tenants"
            pipeline = Pipeline(Retry(2, wait=1, name=name, on=Rejected), Strict(name=name), name="grows")
            with pytest.raises(Rejected):
                await pipeline.call(nothing)

    async def nothing() -> None:
        pass

    number = 0
    run(main())
    found = counters.counters_of("grows")
    assert len(found._counters) < 40
    assert len(found.seconds) < 40
    assert sum(values("rejections", "grows").values()) == 200
    assert values("rejections", "grows")["other", "other"] > 100
    assert sum(values("wait.time", "grows").values()) == pytest.approx(100)
    assert sum(values("calls", "grows").values()) == 100
