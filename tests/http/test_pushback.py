"""The waits that a server asks for: never shorter, and none that a caller cannot use."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from resilient import Budget, CircuitBreaker, FullJitter, Hedge, Pipeline, Retry, Timeout
from tests.http.kinds import Kind, heard_by, named


def slept(seconds: float, kind: Kind) -> float:
    """Return a shorter time for plain transports, which wait in real time."""
    return seconds if kind.is_async else seconds / 1000


# -- waits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503, 500])
def test_retry_after_in_seconds_is_waited_for(kind: Kind, status: int) -> None:
    """`Retry-After` counts with every failure status."""
    asked = slept(30, kind)
    script = kind.script((status, {"Retry-After": str(asked)}))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert script.waits()[0] >= asked


def test_retry_after_as_a_date_is_waited_for(kind: Kind) -> None:
    """The wall clock counts; a date has whole seconds."""
    seconds = 30 if kind.is_async else 1.1
    script = kind.script((503, {"Retry-After": formatdate(time.time() + seconds, usegmt=True)}))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert script.waits()[0] >= seconds - 1.1
    assert script.waits()[0] > 0


def test_retry_after_ms_comes_first(kind: Kind) -> None:
    """It is the more precise one of the two (Azure, OpenAI)."""
    script = kind.script((429, {"retry-after-ms": "25.5", "Retry-After": "50"}))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert 0.0255 <= script.waits()[0] < 50


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit-Reset": "20"}, 20),
        ({"X-RateLimit-Reset": "20"}, 20),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        (
            {
                "x-ratelimit-reset-requests": "50s",
                "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-tokens": "3s",
                "x-ratelimit-remaining-tokens": "0",
            },
            3,
        ),
        ({"x-ratelimit-reset-requests": "4s", "x-ratelimit-reset-tokens": "9s"}, 9),
        ({"Retry-After": "2", "X-RateLimit-Reset": "50"}, 2),
    ],
)
def test_reset_of_a_rate_limit_is_waited_for(kind: Kind, headers: dict[str, str], seconds: float) -> None:
    """The latest reset with nothing remaining counts, unless the server sends `Retry-After`."""
    if kind.is_async:
        script = kind.script((429, headers))
        assert kind.send(kind.open(Pipeline(Retry(2, wait=0, max_retry_after=1000)), script)).status_code == 200
        assert script.waits()[0] == pytest.approx(seconds)
    pipeline = Pipeline(Retry(2, max_retry_after=0))  # returns the response without a wait
    heard = heard_by(pipeline)
    kind.send(kind.open(pipeline, kind.script((429, headers))))
    assert named(heard, "GaveUp")[0].reason == f"asked to wait {seconds:g} s, longer than 0 s"


def test_reset_in_seconds_since_1970_is_waited_for(kind: Kind) -> None:
    """GitHub sends the reset in this form."""
    seconds = 30 if kind.is_async else 0.05

    def limited(request: Any) -> Any:  # the time counts from here, however long the client took to be made
        return kind.library.Response(429, headers={"X-RateLimit-Reset": str(time.time() + seconds)})

    script = kind.script(limited)
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert seconds * 0.5 < script.waits()[0] <= seconds + 30


@pytest.mark.parametrize("status", [500, 503, 408])
def test_reset_of_a_rate_limit_does_not_count_with_another_failure(kind: Kind, status: int) -> None:
    """Servers send the reset with every response, not only with 429."""
    script = kind.script((status, {"X-RateLimit-Reset": "50"}))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert script.waits()[0] < 50


def test_pause_is_followed_by_the_usual_jitter(kind: Kind) -> None:
    """So callers with the same pause do not return at the same moment."""
    asked = slept(10, kind)
    waits = []
    for _ in range(12):
        script = kind.script((429, {"Retry-After": f"{asked:.9f}"}))
        kind.send(kind.open(Pipeline(Retry(2, wait=FullJitter(base=asked, cap=asked))), script))
        waits += script.waits()
    assert min(waits) >= asked
    assert max(waits) > asked * 1.05
    assert len(set(waits)) == 12


def test_pauses_of_one_request_are_each_its_own(kind: Kind) -> None:
    """The pause of the second response does not depend on the first."""
    first, second = slept(5, kind), slept(20, kind)
    script = kind.script((429, {"Retry-After": str(first)}), 503, (429, {"Retry-After": str(second)}))
    assert kind.send(kind.open(Pipeline(Retry(4, wait=0)), script)).status_code == 200
    assert script.waits()[0] >= first
    assert script.waits()[1] < first
    assert script.waits()[2] >= second


@pytest.mark.parametrize("reason", ["delay", "failure"])
def test_no_copy_is_sent_sooner_than_asked(kind: Kind, reason: str) -> None:
    """A Hedge does not send another copy during a pause."""
    script = kind.script((429, {"Retry-After": "30"}))
    pipeline = Pipeline(Hedge(0.2 if reason == "delay" else 100.0, thread=not kind.is_async))
    response = kind.send(kind.open(pipeline, script))
    assert (response.status_code, len(script.sent)) == (429, 1)


# -- no wait --------------------------------------------------------------------------------------------------------


def test_pause_beyond_the_cap_ends_the_attempts_at_once(kind: Kind) -> None:
    """The response is returned with its body, without a wait."""
    script = kind.script((429, {"Retry-After": "61"}))
    pipeline = Pipeline(Retry(3, wait=0))
    heard = heard_by(pipeline)
    began = kind.now()
    response = kind.send(kind.open(pipeline, script))
    assert (response.status_code, response.content, len(script.sent)) == (429, b"status 429", 1)
    assert kind.now() - began < 61
    (gave_up,) = named(heard, "GaveUp")
    assert "asked to wait 61 s, longer than 60 s" in gave_up.reason


def test_cap_can_be_chosen(kind: Kind) -> None:
    """With `Retry(max_retry_after=...)`; a pause as long as the cap is waited for."""
    cap = slept(5, kind)
    script = kind.script((429, {"Retry-After": str(cap)}), (429, {"Retry-After": str(cap * 2)}))
    assert kind.send(kind.open(Pipeline(Retry(3, wait=0, max_retry_after=cap)), script)).status_code == 429
    assert len(script.sent) == 2


def test_pause_beyond_the_deadline_ends_the_attempts_at_once(kind: Kind) -> None:
    """No wait begins that would outlive it."""
    script = kind.script((503, {"Retry-After": "20"}))
    pipeline = Pipeline(Timeout(10), Retry(3, wait=0))
    heard, began = heard_by(pipeline), kind.now()
    assert kind.send(kind.open(pipeline, script)).status_code == 503
    assert len(script.sent) == 1
    assert kind.now() - began < 10
    assert "outlive the deadline" in named(heard, "GaveUp")[0].reason


def test_pause_that_ends_the_attempts_costs_no_token(kind: Kind) -> None:
    """The budget pays only for requests that are sent."""
    budget = Budget()
    before = budget.snapshot()
    kind.send(kind.open(Pipeline(Retry(3, budget=budget)), kind.script((429, {"Retry-After": "3600"}))))
    assert budget.snapshot() == before


def test_circuit_counts_what_asks_for_a_pause(kind: Kind) -> None:
    """A response that asks for a pause is a failure like others."""
    script = kind.script((429, {"Retry-After": "3600"}))
    client = kind.open(Pipeline(CircuitBreaker(fail_max=1, failure_rate=None)), script)
    kind.send(client)
    with pytest.raises(kind.ours.CircuitOpen):
        kind.send(client)


# -- invalid pauses -------------------------------------------------------------------------------------------------

NONSENSE: list[Any] = [
    {"Retry-After": "-5"},
    {"Retry-After": "inf"},
    {"Retry-After": "nan"},
    {"Retry-After": "1e9"},
    {"Retry-After": "99999999999"},
    {"Retry-After": "soon"},
    {"Retry-After": ""},
    {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"},
    {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
    {"retry-after-ms": "-50000"},
    {"retry-after-ms": "inf"},
    {"retry-after-ms": "9" * 19},
    {"RateLimit-Reset": "-50"},
    {"X-RateLimit-Reset": "never"},
    {"X-RateLimit-Reset": "1000000001"},
    {"x-ratelimit-reset-requests": "999999h"},
    {"x-ratelimit-reset-requests": "50"[::-1] * 20},
    {"x-ratelimit-limit-requests": "50"},
]


@pytest.mark.parametrize("headers", NONSENSE, ids=str)
def test_invalid_pauses_are_ignored(kind: Kind, headers: Any) -> None:
    """The usual wait is kept: they neither lengthen it nor end the attempts."""
    script = kind.script((429, headers))
    pipeline = Pipeline(Retry(2, wait=0))
    heard = heard_by(pipeline)
    assert kind.send(kind.open(pipeline, script)).status_code == 200
    assert [event.wait for event in named(heard, "Retrying")] == [0.0]


@pytest.mark.parametrize("name", ["Retry-After", "retry-after-ms", "RateLimit-Reset"])
def test_longest_counts_of_a_field_that_was_sent_twice(kind: Kind, name: str) -> None:
    """The server and a proxy sent it, and the client's headers joined both."""
    seconds = 3.0 if name == "retry-after-ms" else 3000.0
    pipeline = Pipeline(Retry(2, max_retry_after=0))  # returns the response without a wait
    heard = heard_by(pipeline)
    kind.send(kind.open(pipeline, kind.script((429, [(name, "20"), (name, "3000")]))))
    assert named(heard, "GaveUp")[0].reason == f"asked to wait {seconds:g} s, longer than 0 s"


def test_nonsense_in_one_field_does_not_hide_the_other(kind: Kind) -> None:
    """With an invalid `retry-after-ms`, `Retry-After` still counts."""
    asked = slept(30, kind)
    script = kind.script((429, {"retry-after-ms": "-1", "Retry-After": str(asked), "X-RateLimit-Reset": "x"}))
    assert kind.send(kind.open(Pipeline(Retry(2, wait=0)), script)).status_code == 200
    assert script.waits()[0] >= asked
